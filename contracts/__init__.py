"""The contracts of the stake, compiled.

`build/*.json` is checked in, so that nobody needs a Solidity compiler to use them. `build.py` makes those
files and compares them. What the contracts do is in docs/contracts.md; who calls them is `p2pfl.evm`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

__all__ = ["Artifact", "artifact", "load"]


@dataclass(frozen=True)
class Artifact:
    """One compiled contract.

    abi: as solc writes it. bytecode: creation code. runtime: the code that lies at its address afterwards,
    zeros where immutables go; immutables: (start, length) of those places in `runtime`.
    """

    name: str
    abi: list[dict[str, Any]]
    bytecode: bytes
    runtime: bytes
    immutables: tuple[tuple[int, int], ...]

    def matches(self, code: bytes) -> bool:
        """Whether this code, found on a chain, is this contract, whatever its immutables are."""
        found = bytearray(code)
        if len(found) != len(self.runtime):
            return False
        for start, length in self.immutables:
            found[start : start + length] = bytes(length)
        return bytes(found) == self.runtime


def load(text: str) -> Artifact:
    """An artifact from the text of its JSON file."""
    raw = json.loads(text)
    return Artifact(
        name=raw["contract"],
        abi=raw["abi"],
        bytecode=bytes.fromhex(raw["bytecode"]),
        runtime=bytes.fromhex(raw["runtime"]),
        immutables=tuple((start, length) for start, length in raw["immutables"]),
    )


@cache
def artifact(name: str) -> Artifact:
    """A compiled contract by its name, such as "StakingRegistry". Raises FileNotFoundError."""
    return load(resources.files(__name__).joinpath("build", f"{name}.json").read_text(encoding="utf-8"))
