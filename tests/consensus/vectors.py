"""Golden vectors: fixed inputs, and the bytes that this and every later version makes of them.

    python -m tests.consensus.vectors             compare tests/vectors/*.json with what is made now
    python -m tests.consensus.vectors --record    write them anew

A change of a line in them is a change of the protocol. Contracts and other implementations read the same
files; docs/vectors.md says how. The cases are made in tests/vectors/*.py.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from consensus import types as t
from p2pfl import codec
from tests.consensus.lab import Lab, certificate, signed
from tests.vectors import certificates, chains, digests, evidence, network, rows, signatures

FOLDER = Path(network.__file__).parent
A, B = t.Digest(b"\xaa" * 32), t.Digest(b"\xbb" * 32)


def messages(lab: Lab) -> dict[str, t.Message]:
    """One of each kind."""
    block = lab.block(by=1)
    changes = tuple(lab.change(by, 1, block if by == 0 else None) for by in (0, 1, 2))
    decided = t.DecidedBlock(block, certificate((0, 1, 2), block.header, 1))
    return {
        "Proposal": lab.proposal(block, 1, justification=changes, prepared=lab.prepares((0, 1, 2), block)),
        "PrepareMessage": t.PrepareMessage(lab.prepares([1], block)[0]),
        "CommitMessage": t.CommitMessage(signed(1, t.Commit(0, 0, 1, A)), b"ballot"),
        "RoundChangeMessage": t.RoundChangeMessage(changes[0], lab.prepares((0, 1, 2), block)),
        "DecidedMessage": t.DecidedMessage(decided),
        "FetchBlock": t.FetchBlock(0, 1, A),
        "BlockMessage": t.BlockMessage(block),
    }


def encoded() -> list[dict[str, Any]]:
    """messages.json."""
    return [
        {
            "name": name,
            "shows": "The canonical CBOR of one message between members.",
            "fields": plain(message),
            "cbor": network.hexed(codec.encode(message, t.Message)),
        }
        for name, message in messages(Lab()).items()
    ]


def plain(value: Any) -> Any:
    """JSON of dataclasses and bytes: objects with the fields' names, and hex."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, bytes):
        return network.hexed(value)
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    return value


# File: (what it shows, who makes its vectors).
FILES: dict[str, tuple[str, Callable[[], Sequence[dict[str, Any]]]]] = {
    "network": ("Keys, domains and committees of all other files.", network.vectors),
    "digests": ("From a struct's fields to its digest and a signature.", digests.digests),
    "headers": ("From a header's fields to its block id.", digests.headers),
    "committees": ("Quorum, f and root of committees.", digests.committees),
    "logs": ("The log root over earlier block ids.", digests.logs),
    "messages": ("Messages between members, as bytes.", encoded),
    "signatures": ("Who signed a struct in group's domain, if anybody.", signatures.vectors),
    "certificates": ("Which signatures decide a block of group.", certificates.certificates),
    "verdicts": ("Which signatures certify a verdict of the council.", certificates.verdicts),
    "anchors": ("Which blocks end an epoch, and with which successors.", certificates.anchors),
    "evidence": ("Which pairs of signed structs prove an offence.", evidence.vectors),
    "chains": ("Which histories hold.", chains.vectors),
    "rows": ("Which coordinates of an aggregate a leaf of its row tree shows to be wrong.", rows.vectors),
}


def path_of(name: str) -> Path:
    """Where a file lies."""
    return FOLDER / f"{name}.json"


def text_of(name: str) -> str:
    """A file as it is made now: one vector a line."""
    about, make = FILES[name]
    lines = ",\n".join(json.dumps(vector) for vector in make())
    return f'{{"about": {json.dumps(about)}, "vectors": [\n{lines}\n]}}\n'


def read(name: str) -> list[dict[str, Any]]:
    """The vectors of a file, as they were recorded."""
    return json.loads(path_of(name).read_text(encoding="utf-8"))["vectors"]


def main() -> None:
    """Record, or say what differs."""
    parser = argparse.ArgumentParser(prog="python -m tests.consensus.vectors", description=__doc__)
    parser.add_argument("--record", action="store_true", help="write the files anew")
    record = parser.parse_args().record
    differ = 0
    for name in FILES:
        text, path = text_of(name), path_of(name)
        if record:
            path.write_text(text, encoding="utf-8")
        same = path.is_file() and path.read_text(encoding="utf-8") == text
        differ += not same
        count = text.count("\n") - 2
        print(f"{path.name}: {count} vectors, {'as recorded' if same else 'differ from what is made now'}")
    raise SystemExit(differ > 0)


if __name__ == "__main__":
    main()
