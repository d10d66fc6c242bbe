"""The golden vector of a group's body. `python -m tests.rules.vectors` writes it anew."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from consensus.types import Digest
from p2pfl import codec
from p2pfl.genesis import Rules
from p2pfl.jsonform import to_json
from p2pfl.params import Layout, TensorSpec, Update
from p2pfl.records import Standing, body_root
from p2pfl.rules.validate import GroupInputs, derive_group_body

from .world import World, world

RULES = Rules("clipped_mean", 10_000, 0, 100_000, 4_000_000, 100_000, 3, 100_000, 1)
LAYOUT = Layout((TensorSpec("w", (6, 200)), TensorSpec("b", (10,))))


def there() -> World:
    """One group of four and a council."""
    return world(groups=1, rules=RULES, layout=LAYOUT)


def formula(member: int, shift: int = 0) -> np.ndarray:
    """int16 by formula, so that nobody's generator is needed: shape (1210,)."""
    index = np.arange(LAYOUT.size, dtype=np.int64)
    common = (index * 7919) % 801 - 400
    own = (index * 104_729 + member * 1_299_709) % 401 - 200
    return (common + own + shift).astype(np.int16)


def inputs() -> GroupInputs:
    """Three members that agree, one of them under an open case, and one that opposes them."""
    network = there()
    exponents = network.genesis.initial_exponents
    vectors = [formula(0), formula(1), -formula(2), formula(3)]
    updates = {
        member: Update(LAYOUT, exponents, vector)
        for member, vector in zip(network.members("g0"), vectors, strict=True)
    }
    standing = Standing(network.members("g0")[3], Digest(b"\x0c" * 32), "open")
    previous = Update(LAYOUT, tuple(e + 1 for e in exponents), formula(9) // 2)
    return network.inputs(
        "g0",
        updates,
        standings=(standing,),
        previous_aggregate=previous,
        root_update=Update(LAYOUT, exponents, formula(8)),
    )


def group_body() -> dict[str, Any]:
    """What the file holds."""
    derived = derive_group_body(inputs())
    return {
        "comment": "the body that follows from updates by formula (tests/rules/vectors.py) in this network",
        "genesis": to_json(there().genesis),
        "updates": ["0x" + each.to_bytes().hex() for each in inputs().updates.values()],
        "aggregate": "0x" + derived.aggregate.to_bytes().hex(),
        "app_root": "0x" + body_root(derived.body).hex(),
        "json": to_json(derived.body),
        "body": "0x" + codec.encode(derived.body).hex(),
    }


if __name__ == "__main__":
    target = Path(__file__).parent.parent / "vectors" / "rules_group_body.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(group_body(), indent=1) + "\n", encoding="utf-8")
