"""Pairs of signed structs: contradictions that no honest member signs, and pairs that prove nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from consensus import types as t
from consensus.signing import Domain, signing_digest, struct_hash, words
from p2pfl.signed import Close, ParamTx, ShareRequest
from tests.consensus.lab import IDS
from tests.vectors.network import (
    COUNCIL,
    GROUP,
    MANAGER,
    STRANGER,
    digest_of,
    domain,
    fields_of,
    hexed,
    high_s,
    low_v,
    signed,
)

X, Y, Z = digest_of("block x"), digest_of("block y"), t.ZERO_DIGEST
BY = 1  # Whose the votes are unless told otherwise: a seat of epoch 4.
# What the contract answers to pairs that prove nothing.
NO_CONFLICT, OTHER_SLOT = "NoConflict(uint256)", "OtherSlot(uint256,uint256,uint256)"
DIFFER, BAD, NO_SEAT = (
    "SignersDiffer(address,address)",
    "BadSignature(uint256,uint256)",
    "NotASeat(bytes32,uint64,address)",
)
TOP64, TOP32 = (1 << 64) - 1, (1 << 32) - 1
PARAM = ParamTx(4, 7, IDS[BY], X, Y, 1024, 60, 0, digest_of("data"), 60, digest_of("trace"), 9_000, -5_000)


def vote(kind: Any, block: t.Digest = X, *, epoch: int = 4, height: int = 7, round_: int = 1) -> Any:
    """A Propose, Prepare or Commit."""
    return kind(epoch, height, round_, block)


def change(
    round_: int, prepared: int | None, block: t.Digest = X, context: t.Digest = Z, **at: int
) -> t.RoundChange:
    """A RoundChange that claims `block` prepared in round `prepared`, or nothing (None)."""
    claim = (0, Z) if prepared is None else (prepared + 1, block)
    return t.RoundChange(at.get("epoch", 4), at.get("height", 7), round_, *claim, context)


def pair(
    name: str,
    shows: str,
    kind: int,
    first: Any,
    second: Any,
    *,
    offence: int | None = None,
    error: str = "",
    by: Sequence[int] = (BY, BY),
    signatures: Sequence[bytes] | None = None,
) -> dict[str, Any]:
    """kind: under which the contract is asked, 1 to 8. offence: 1 to 6; none if there is an error."""
    proven = 0 if error else min(kind, 6)
    proven = proven if offence is None else offence
    raw = signatures or [signed(key, one) for key, one in zip(by, (first, second), strict=True)]
    return {
        "name": name,
        "shows": shows,
        "kind": kind,
        "groupId": hexed(GROUP),
        **{
            which: {
                "type": one.TYPE,
                "fields": fields_of(one),
                "words": hexed(words(one)),
                "structHash": hexed(struct_hash(one)),
                "digest": hexed(signing_digest(domain(), one)),
                "signature": hexed(signature),
            }
            for which, one, signature in zip(("first", "second"), (first, second), raw, strict=True)
        },
        "offence": proven,
        "signer": hexed(IDS[by[0]]) if proven else None,
        "errors": [error] if error else [],
    }


def vectors() -> list[dict[str, Any]]:
    """evidence.json."""
    rows = [*guilty_votes(), *guilty_changes(), *guilty_denials(), *guilty_slots()]
    return [*rows, *innocent(), *innocent_changes(), *innocent_denials(), *spoilt()]


def guilty_votes() -> list[dict[str, Any]]:
    """E1 to E3."""
    rows: list[dict[str, Any]] = []
    for kind, struct in ((1, t.Propose), (2, t.Prepare), (3, t.Commit)):
        name = struct.__name__
        rows += [
            pair(f"E{kind}", f"Two {name} of one round.", kind, vote(struct), vote(struct, Y)),
            pair(
                f"E{kind}, the other way", "The order does not matter.", kind, vote(struct, Y), vote(struct)
            ),
            pair(
                f"E{kind}, height and round 0",
                "At the chain's first block.",
                kind,
                vote(struct, height=0, round_=0),
                vote(struct, Y, height=0, round_=0),
            ),
            pair(
                f"E{kind}, last height and round",
                "All bits of both.",
                kind,
                vote(struct, height=TOP64, round_=TOP32),
                vote(struct, Z, height=TOP64, round_=TOP32),
            ),
        ]
    return rows


def guilty_changes() -> list[dict[str, Any]]:
    """E4."""
    cases = {
        "E4, another block": (change(3, 1), change(3, 1, Y)),
        "E4, another prepared round": (change(3, 1), change(3, 2)),
        "E4, something and nothing": (change(3, 1), change(3, None)),
        "E4, both differ": (change(3, 1), change(3, 0, Y)),
        "E4, contexts differ too": (change(3, 1, X, X), change(3, None, Z, Y)),
        "E4, the last round": (change(TOP32, TOP32 - 1), change(TOP32, TOP32 - 2)),
    }
    return [pair(name, "Two RoundChange of one round.", 4, *two) for name, two in cases.items()]


def guilty_denials() -> list[dict[str, Any]]:
    """E5: the Commit is first."""
    commit = vote(t.Commit)
    cases = {
        "E5, claims nothing": (
            "A Commit of round 1 says: q Prepares of round 1 seen.",
            commit,
            change(2, None),
        ),
        "E5, claims less": ("Prepared in round 0, it says.", commit, change(2, 0)),
        "E5, another block of that round": ("Round 1, but another block.", commit, change(2, 1, Y)),
        "E5, many rounds later": ("At once or later.", commit, change(9, None)),
        "E5, less and another block": ("Round 0.", commit, change(9, 0, Y)),
        "E5, of round 0": (
            "Nothing is below round 0 but nothing.",
            vote(t.Commit, round_=0),
            change(1, None),
        ),
        "E5, of round 0, another block": ("Round 0.", vote(t.Commit, round_=0), change(1, 0, Y)),
        "E5, last height and round": (
            "All bits of both.",
            vote(t.Commit, height=TOP64, round_=TOP32 - 1),
            change(TOP32, TOP32 - 2, height=TOP64),
        ),
    }
    return [pair(name, shows, 5, *two) for name, (shows, *two) in cases.items()]


def guilty_slots() -> list[dict[str, Any]]:
    """E6: the application's structs; kinds 6, 7 and 8 of the contract."""
    later = dataclasses.replace
    request, close = ShareRequest(4, 7, 1, X, Y), Close(4, 7, 1, X)
    return [
        pair("E6, two updates", "One update a height.", 6, PARAM, later(PARAM, blob_id=Z)),
        pair("E6, only the loss", "Any difference.", 6, PARAM, later(PARAM, loss_after_micro=-5_001)),
        pair("E6, only the sample count", "Any difference.", 6, PARAM, later(PARAM, samples=61)),
        pair("E6, two requests", "Another base.", 7, request, later(request, base_id=Z)),
        pair(
            "E6, two council blocks", "Another council block.", 7, request, later(request, council_block_id=X)
        ),
        pair("E6, two closes", "Another list.", 8, close, later(close, list_root=Y)),
    ]


def innocent() -> list[dict[str, Any]]:
    """Votes that an honest member may sign both."""
    rows: list[dict[str, Any]] = []
    request, close = ShareRequest(4, 7, 1, X, Y), Close(4, 7, 1, X)
    for kind, one, two in (
        (1, vote(t.Propose), vote(t.Propose, Y)),
        (2, vote(t.Prepare), vote(t.Prepare, Y)),
        (3, vote(t.Commit), vote(t.Commit, Y)),
        (6, PARAM, dataclasses.replace(PARAM, blob_id=Z)),
        (7, request, dataclasses.replace(request, base_id=Z)),
        (8, close, dataclasses.replace(close, list_root=Y)),
    ):
        name = type(one).__name__
        rows.append(
            pair(f"one {name}, twice", "Said again is not said otherwise.", kind, one, one, error=NO_CONFLICT)
        )
        for field, value in (("epoch", 5), ("height", 8), ("round", 2)):
            if hasattr(two, field):
                other = dataclasses.replace(two, **{field: value})
                shows = f"Another {field}, another decision."
                rows.append(pair(f"{name} of two {field}s", shows, kind, one, other, error=OTHER_SLOT))
    for kind, one, two in (
        (1, vote(t.Propose), vote(t.Prepare, Y)),
        (2, vote(t.Prepare), vote(t.Commit, Y)),
        (3, vote(t.Commit), vote(t.Propose, Y)),
    ):
        name = f"a {type(one).__name__} and a {type(two).__name__}"
        shows = "Of two types, brought as if of one: then somebody else signed the second."
        rows.append(pair(name, shows, kind, one, two, error=DIFFER))
    return rows


def innocent_changes() -> list[dict[str, Any]]:
    """RoundChanges that an honest member may sign both."""
    cases = {
        "one RoundChange, twice": ("Said again.", change(3, 1), change(3, 1), NO_CONFLICT),
        "only the context": (
            "What the application carries may grow.",
            change(3, 1, X, X),
            change(3, 1, X, Y),
            NO_CONFLICT,
        ),
        "nothing claimed, only the context": (
            "The same.",
            change(3, None, Z, X),
            change(3, None, Z, Y),
            NO_CONFLICT,
        ),
        "RoundChanges of two rounds": (
            "It had prepared meanwhile.",
            change(3, 1),
            change(4, 3, Y),
            OTHER_SLOT,
        ),
        "RoundChanges of two heights": (
            "Another decision.",
            change(3, 1),
            change(3, 1, Y, height=8),
            OTHER_SLOT,
        ),
        "RoundChanges of two epochs": (
            "Another decision.",
            change(3, 1),
            change(3, 1, Y, epoch=5),
            OTHER_SLOT,
        ),
    }
    return [pair(name, shows, 4, a, b, error=error) for name, (shows, a, b, error) in cases.items()]


def innocent_denials() -> list[dict[str, Any]]:
    """A Commit, and RoundChanges that go together with it."""
    commit = vote(t.Commit)
    cases = {
        "claims what it committed to": ("As it has to.", change(2, 1), NO_CONFLICT),
        "claims it, later": ("As it has to.", change(7, 1), NO_CONFLICT),
        "claims a higher round": ("It prepared again, the same block.", change(7, 4), NO_CONFLICT),
        "claims a higher round's other block": (
            "A quorum's Prepares of a higher round outweigh.",
            change(7, 4, Y),
            NO_CONFLICT,
        ),
        "asked for that very round before": (
            "Round 1, claiming nothing: before the Commit.",
            change(1, None),
            NO_CONFLICT,
        ),
        "asked for an earlier round": ("Round 0.", change(0, None), NO_CONFLICT),
        "at another height": ("Another decision.", change(2, None, height=8), OTHER_SLOT),
        "in another epoch": ("Another decision.", change(2, None, epoch=5), OTHER_SLOT),
    }
    rows = [
        pair(f"a Commit; {name}", shows, 5, commit, two, error=error)
        for name, (shows, two, error) in cases.items()
    ]
    shows = "A Prepare binds nobody to say so later; brought as a Commit, somebody else signed it."
    rows.append(pair("a Prepare and its denial", shows, 5, vote(t.Prepare), change(2, None), error=DIFFER))
    return rows


def spoilt() -> list[dict[str, Any]]:
    """Contradictions whose signatures do not show one member's hand."""
    one, two = vote(t.Commit), vote(t.Commit, Y)
    good = [signed(BY, each) for each in (one, two)]
    elsewhere = {
        "the other group": domain(COUNCIL),
        "another chain": Domain(1, MANAGER, GROUP),
        "another contract": Domain(31337, IDS[0], GROUP),
    }
    rows = [
        pair("two members", "Each said one thing.", 3, one, two, by=(0, 1), error=DIFFER),
        pair("a member and a stranger", "Each said one thing.", 3, one, two, by=(0, STRANGER), error=DIFFER),
        pair(
            "a stranger",
            "Proven, but it has no seat to lose.",
            3,
            one,
            two,
            by=(STRANGER, STRANGER),
            offence=3,
            error=NO_SEAT,
        ),
        pair(
            "a member of other epochs",
            "Key 5 sits from epoch 6 on.",
            3,
            one,
            two,
            by=(5, 5),
            offence=3,
            error=NO_SEAT,
        ),
        pair(
            "the first with high s",
            "Not canonical.",
            3,
            one,
            two,
            signatures=[high_s(good[0]), good[1]],
            error=BAD,
        ),
        pair(
            "the second with high s",
            "Not canonical.",
            3,
            one,
            two,
            signatures=[good[0], high_s(good[1])],
            error=BAD,
        ),
        pair(
            "the first with v of 0 or 1",
            "Not canonical.",
            3,
            one,
            two,
            signatures=[low_v(good[0]), good[1]],
            error=BAD,
        ),
        pair(
            "the second with v of 0 or 1",
            "Not canonical.",
            3,
            one,
            two,
            signatures=[good[0], low_v(good[1])],
            error=BAD,
        ),
        pair(
            "the second without v",
            "Not canonical.",
            3,
            one,
            two,
            signatures=[good[0], good[1][:64]],
            error=BAD,
        ),
        pair("unsigned", "Nobody's.", 3, one, two, signatures=[b"", b""], error=BAD),
        pair(
            "signatures swapped",
            "Each belongs to the other.",
            3,
            one,
            two,
            signatures=good[::-1],
            error=DIFFER,
        ),
    ]
    for name, where in elsewhere.items():
        raw = [good[0], signed(BY, two, where)]
        rows.append(
            pair(
                f"the second for {name}",
                "One word in each domain.",
                3,
                one,
                two,
                signatures=raw,
                error=DIFFER,
            )
        )
    return rows
