"""From a struct to its digest and a signature of it; ids of headers, roots of committees and logs."""

from __future__ import annotations

import dataclasses
from typing import Any

from consensus import types as t
from consensus.chain import Log
from consensus.committee import Committee
from consensus.signing import Domain, block_id, keccak256, signing_digest, struct_hash, words
from p2pfl.evm.records import Possession
from p2pfl.signed import Ballot, Close, Measurement, ParamTx, ShareRequest, Verdict
from tests.consensus.lab import IDS
from tests.vectors.network import (
    CHAIN_ID,
    DEPLOYER,
    GROUP,
    MANAGER,
    NETWORK,
    digest_of,
    domain,
    domain_of,
    fields_of,
    hexed,
    kind_of,
    layout,
    members,
    signed,
)

# Every struct that somebody signs.
STRUCTS: dict[str, Any] = {
    kind.__name__: kind
    for kind in (
        t.Propose,
        t.Prepare,
        t.Commit,
        t.RoundChange,
        ShareRequest,
        ParamTx,
        Close,
        Ballot,
        Measurement,
        Verdict,
        Possession,
    )
}


def filled(kind: Any, how: str) -> Any:
    """A struct with all fields at their least, their most, or something between."""
    values: list[Any] = []
    for place, (abi, name) in enumerate(layout(kind.TYPE)):
        size = {"bytes32": 32, "address": 20}.get(abi)
        if size is not None:
            between = keccak256(f"{kind.__name__}.{name}".encode())[:size]
            values.append({"least": bytes(size), "most": b"\xff" * size, "between": between}[how])
            continue
        signed_, bits = not abi.startswith("u"), int(abi.lstrip("uint"))
        low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed_ else (0, (1 << bits) - 1)
        values.append({"least": low, "most": high, "between": -1000 - place if signed_ else 10 + place}[how])
    return kind(*values)


def digests() -> list[dict[str, Any]]:
    """digests.json."""
    rows = [
        row(
            f"{name}, {how}",
            f"Every field at its {how}." if how != "between" else "Common values.",
            filled(kind, how),
            place % 16,
        )
        for place, (name, kind) in enumerate(STRUCTS.items())
        for how in ("between", "least", "most")
    ]
    vote = t.Commit(3, 4, 1, digest_of("block"))
    elsewhere = {
        "another chain": Domain(1, MANAGER, GROUP),
        "a large chain id": Domain((1 << 53) - 1, MANAGER, GROUP),
        "another contract": Domain(CHAIN_ID, IDS[5], GROUP),
        "another group": Domain(CHAIN_ID, MANAGER, digest_of("another group")),
        "group id zero": Domain(CHAIN_ID, MANAGER, t.ZERO_DIGEST),
    }
    rows.append(row("Commit, at home", "To compare the next ones with.", vote, 2))
    for name, where in elsewhere.items():
        rows.append(row(f"Commit, {name}", "Same fields, other domain: other digest.", vote, 2, where))
    for nonce in (0, 3):
        possession = Possession(t.MemberId(DEPLOYER), nonce)
        shows = "As the registry asks for it: in the domain of group id zero."
        rows.append(row(f"Possession, nonce {nonce}", shows, possession, 4, domain(t.ZERO_DIGEST)))
    return rows


def row(name: str, shows: str, struct: Any, by: int, where: Domain | None = None) -> dict[str, Any]:
    """One struct with every step on the way to its signature."""
    where = where or domain()
    return {
        "name": name,
        "shows": shows,
        "kind": kind_of(struct),
        "domain": domain_of(where),
        "type": struct.TYPE,
        "typeHash": hexed(keccak256(struct.TYPE.encode())),
        "fields": fields_of(struct),
        "words": hexed(words(struct)),
        "structHash": hexed(struct_hash(struct)),
        "digest": hexed(signing_digest(where, struct)),
        "signer": hexed(IDS[by]),
        "signature": hexed(signed(by, struct, where)),
    }


def a_header(**changes: Any) -> t.Header:
    """A header of epoch 4 of `group`."""
    header = t.Header(
        version=1,
        network_id=NETWORK,
        group_id=GROUP,
        epoch=4,
        height=9,
        parent_id=digest_of("parent"),
        proposer=IDS[1],
        time_ms=1_700_000_000_000,
        app_root=digest_of("body"),
        log_root=digest_of("log"),
        next_committee_root=Committee(4, members(0, 1, 2, 3)).root(),
    )
    return dataclasses.replace(header, **changes)


def headers() -> list[dict[str, Any]]:
    """headers.json."""
    cases = {
        "a block within an epoch": ("Common values.", a_header()),
        "a first block": (
            "Height 0, no parent: zeros.",
            a_header(height=0, parent_id=t.ZERO_DIGEST, log_root=Log().root()),
        ),
        "the last block of an epoch": (
            "It names the root of epoch 5.",
            a_header(next_committee_root=Committee(5, members(*range(5))).root()),
        ),
        "least": ("Every field zero, the version too.", filled(t.Header, "least")),
        "most": ("Every field at its most.", filled(t.Header, "most")),
        "one bit": ("The height differs from the first one's in one bit.", a_header(height=8)),
    }
    return [
        {
            "name": name,
            "shows": shows,
            "type": header.TYPE,
            "fields": fields_of(header),
            "words": hexed(words(header)),
            "blockId": hexed(block_id(header)),
        }
        for name, (shows, header) in cases.items()
    ]


def committees() -> list[dict[str, Any]]:
    """committees.json."""
    sizes = [Committee(0, members(*range(n))) for n in range(1, 17)]
    others = [
        Committee(1, members(0, 1, 2, 3)),
        Committee((1 << 64) - 1, members(0, 1, 2, 3)),
        Committee(0, members(3, 2, 1, 0)),
        Committee(0, (t.ZERO_MEMBER, t.MemberId(b"\xff" * 20))),
    ]
    names = [f"{one.size} members" for one in sizes]
    names += ["another epoch", "the last epoch of all", "the order of turns", "extreme ids"]
    shows = ["Size, quorum and f."] * 16
    shows += [
        "The epoch is in the root.",
        "64 bits of it.",
        "The order is in the root; from epoch 1 on it ascends.",
        "Ids are right-aligned in their words.",
    ]
    return [
        {
            "name": name,
            "shows": why,
            "epoch": one.epoch,
            "members": [hexed(each) for each in one.members],
            "quorum": one.quorum,
            "faultyMax": one.faulty_max,
            "root": hexed(one.root()),
        }
        for name, why, one in zip(names, shows, [*sizes, *others], strict=True)
    ]


def logs() -> list[dict[str, Any]]:
    """logs.json."""
    ids = [digest_of(f"block {place}") for place in range(17)]
    return [
        {
            "name": f"{size} blocks",
            "shows": "The RFC 9162 root over the ids of all earlier blocks.",
            "ids": [hexed(one) for one in ids[:size]],
            "root": hexed(Log(ids[:size]).root()),
        }
        for size in (*range(10), 16, 17)
    ]
