"""Golden vectors: fixed inputs, and the bytes that this and every later version makes of them.

`python -m tests.consensus.vectors --record` writes tests/vectors/consensus.json anew. A change of a line in
it is a change of the protocol. Contracts and other implementations read the same file.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

from consensus import codec, signing
from consensus import types as t
from consensus.chain import Log
from consensus.committee import Committee
from consensus.evidence import contradiction
from consensus.votes import BadCertificate, verify_certificate
from tests.consensus import test_votes
from tests.consensus.lab import DOMAIN, IDS, KEYS, Lab, certificate, committee_of, sign, signed

PATH = Path(__file__).parent.parent / "vectors" / "consensus.json"
A, B = t.Digest(b"\xaa" * 32), t.Digest(b"\xbb" * 32)


def plain(value: Any) -> Any:
    """JSON of dataclasses and bytes: objects with the fields' names, and hex."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, bytes):
        return "0x" + value.hex()
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    return value


def vote(by: int, struct: Any) -> dict[str, Any]:
    """One signed struct with every step on the way to its signature."""
    return {
        "type": struct.TYPE,
        "fields": plain(struct),
        "struct_hash": plain(signing.struct_hash(struct)),
        "digest": plain(signing.signing_digest(DOMAIN, struct)),
        "signer": plain(IDS[by]),
        "signature": plain(sign(by, struct)),
    }


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


def certificates(header: t.Header) -> list[dict[str, Any]]:
    """A good one of each shape, and one of each way to be bad."""
    good = certificate((0, 1, 2), header)
    cases = {
        "a quorum": good,
        "everybody": certificate((0, 1, 2, 3), header, 7),
        **{name: spoil(header, good) for name, spoil in test_votes.CERTIFICATES.items()},
    }
    rows: list[dict[str, Any]] = []
    for name, case in cases.items():
        try:
            verify_certificate(DOMAIN, committee_of(4), header, case)
            valid = True
        except BadCertificate:
            valid = False
        rows.append({"name": name, "certificate": plain(case), "valid": valid})
    return rows


def evidence() -> list[dict[str, Any]]:
    """Pairs of votes of one signer: `offence` is 1 to 5, or 0 for none."""
    pairs = [(a, b) for _, a, b in test_votes.OFFENCES] + test_votes.HARMLESS
    return [
        {"offence": int(contradiction(a, b) or 0), "first": vote(1, a), "second": vote(1, b)}
        for a, b in pairs
    ]


def vectors() -> dict[str, Any]:
    """All of them."""
    lab = Lab(start=False)
    lab.step(lab.started())
    header = dataclasses.replace(lab.block(by=1).header, height=3, epoch=2, time_ms=1_700_000_000_000)
    structs = [
        t.Propose(2, 3, 1, A),
        t.Prepare(2, 3, 1, A),
        t.Commit(2, 3, 1, A),
        t.RoundChange(2, 3, 1, 0, t.ZERO_DIGEST, B),
        t.RoundChange(2, 3, (1 << 32) - 1, 1, A, t.ZERO_DIGEST),
        t.Commit((1 << 64) - 1, (1 << 64) - 1, (1 << 32) - 1, B),
    ]
    committees = [committee_of(n) for n in range(1, 17)] + [Committee(9, IDS[:4][::-1])]
    ids = [t.Digest(bytes([i]) * 32) for i in range(9)]
    first = lab.block(by=0).header
    return {
        "domain": {**plain(DOMAIN), "separator": plain(signing.separator(DOMAIN))},
        "keys": [{"secret": plain(key.secret), "member": plain(IDS[i])} for i, key in enumerate(KEYS)],
        "votes": [vote(by % 4, struct) for by, struct in enumerate(structs)],
        "headers": [
            {
                "header": plain(each),
                "abi": plain(signing.words(each)),
                "block_id": plain(signing.block_id(each)),
            }
            for each in (header, first)
        ],
        "committees": [
            {
                "epoch": each.epoch,
                "members": plain(each.members),
                "quorum": each.quorum,
                "faulty_max": each.faulty_max,
                "root": plain(each.root()),
            }
            for each in committees
        ],
        "messages": {
            name: plain(codec.encode(message, t.Message)) for name, message in messages(Lab()).items()
        },
        "certificates": {
            "members": plain(committee_of(4).members),
            "block_id": plain(signing.block_id(first)),
            "header": plain(first),
            "cases": certificates(first),
        },
        "evidence": evidence(),
        "log_roots": [plain(Log(ids[:size]).root()) for size in range(len(ids) + 1)],
    }


def main() -> None:
    """Record, or say what differs."""
    parser = argparse.ArgumentParser(prog="python -m tests.consensus.vectors", description=__doc__)
    parser.add_argument("--record", action="store_true", help="write the file anew")
    if parser.parse_args().record:
        PATH.write_text(json.dumps(vectors(), indent=1) + "\n", encoding="utf-8")
    same = json.loads(PATH.read_text(encoding="utf-8")) == vectors()
    print(f"{PATH.name}: {'as recorded' if same else 'differs from what is made now'}")
    raise SystemExit(not same)


if __name__ == "__main__":
    main()
