"""Which signatures decide a block, certify a verdict, or end an epoch, and which do not."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from consensus import types as t
from consensus.committee import Committee
from consensus.signing import Domain, block_id, signing_digest, words
from p2pfl.signed import Verdict
from tests.consensus.lab import IDS
from tests.vectors.digests import a_header
from tests.vectors.network import (
    CHAIN_ID,
    COMMITTEES,
    COUNCIL,
    GROUP,
    MANAGER,
    STRANGER,
    commits,
    committee_of,
    digest_of,
    domain,
    fields_of,
    hexed,
    high_s,
    low_v,
    members,
    signed,
)

# Why, and with which of its errors a contract may say so. A signature of something else is found to be
# nobody's seat, or out of order, whichever is seen first.
FEW, MANY, NOBODY, ORDER, EPOCH = (
    "too few signatures",
    "too many signatures",
    "not a member's",
    "not distinct and ascending",
    "another epoch",
)
STRANGE = ["NotASeat(bytes32,uint64,address)", "NotAscending(address,address)"]
BAD = ["BadSignature(uint256,uint256)"]
ERRORS: dict[str, list[str]] = {
    "": [],
    FEW: ["NoQuorum(uint256,uint256)"],
    MANY: STRANGE,
    NOBODY: STRANGE,
    ORDER: ["NotAscending(address,address)"],
    EPOCH: ["NoCommittee(bytes32,uint64)", *STRANGE],
}


def committee(epoch: int) -> Committee:
    """That of `group`: n members in epoch n."""
    return COMMITTEES["group"][epoch - 1]


def header_of(epoch: int, **changes: Any) -> t.Header:
    """A block within an epoch of `group`."""
    return a_header(**{"epoch": epoch, "next_committee_root": committee(epoch).root(), **changes})


def row(
    name: str,
    shows: str,
    header: t.Header,
    signatures: Sequence[bytes],
    signers: Sequence[int] = (),
    *,
    round_: int = 0,
    reason: str = "",
    errors: list[str] | None = None,
    by: Committee | None = None,
) -> dict[str, Any]:
    """One certificate. signers: places of the keys, if it is one."""
    return {
        "name": name,
        "shows": shows,
        "committee": committee_of(GROUP, by or committee(header.epoch)),
        "header": fields_of(header),
        "words": hexed(words(header)),
        "blockId": hexed(block_id(header)),
        "round": round_,
        "signatures": [hexed(one) for one in signatures],
        "valid": not reason,
        "signers": [hexed(IDS[place]) for place in signers],
        "reason": reason,
        "errors": ERRORS[reason] if errors is None else errors,
    }


def certificates() -> list[dict[str, Any]]:
    """certificates.json."""
    rows: list[dict[str, Any]] = []
    for n in range(1, 17):
        header, q = header_of(n), committee(n).quorum
        rows.append(row(f"{q} of {n}", "Exactly a quorum.", header, commits(range(q), header), range(q)))
        few = commits(range(q - 1), header)
        rows.append(row(f"{q - 1} of {n}", "A quorum but one.", header, few, reason=FEW))
    header = header_of(4)
    for by in ((0, 1, 3), (0, 2, 3), (1, 2, 3), (0, 1, 2, 3)):
        rows.append(row(f"keys {by}", "Whichever quorum.", header, commits(by, header), by))
    most = (1 << 32) - 1
    last = commits((0, 1, 2), header, most)
    rows.append(row("the last round of all", "Round 2^32 - 1.", header, last, (0, 1, 2), round_=most))
    all_ = tuple(range(16))
    header16 = header_of(16)
    rows.append(row("16 of 16", "Everybody.", header16, commits(all_, header16), all_))
    return [*rows, *wrong_signers(), *wrong_signatures(), *wrong_votes()]


def wrong_signers() -> list[dict[str, Any]]:
    """Canonical signatures over the right vote, by the wrong keys or in the wrong order."""
    header, header7 = header_of(4), header_of(7)
    good, good7 = commits((0, 1, 2), header), commits(range(5), header7)
    twice7 = (*good7[:4], good7[3])
    cases: dict[str, tuple[str, t.Header, Sequence[bytes], str]] = {
        "2f + 1 of 6": ("f is 1: 3 are not enough, 4 are.", h := header_of(6), commits(range(3), h), FEW),
        "none": ("No signatures.", header, (), FEW),
        "the first signer twice": ("Two people, three signatures.", header, (good[0], *good[:2]), ORDER),
        "the last signer twice": ("Two people, three signatures.", header, (*good[:2], good[1]), ORDER),
        "one signer thrice": ("One person.", header, (good[0],) * 3, ORDER),
        "a quorum and one twice": ("The fourth is the third.", header, (*good, good[2]), ORDER),
        "five signatures, four people": ("n is 7, q is 5.", header7, twice7, ORDER),
        "descending": ("Signers ascend.", header, good[::-1], ORDER),
        "the last two swapped": ("Signers ascend.", header, (good[0], good[2], good[1]), ORDER),
        "the first at the end": ("Signers ascend.", header, (*good[1:], good[0]), ORDER),
        "a stranger for a member": (
            "Key 16 sits nowhere.",
            header,
            commits((0, 1, STRANGER), header),
            NOBODY,
        ),
        "a stranger besides a quorum": (
            "Nothing is skipped.",
            header,
            commits((0, 1, 2, STRANGER), header),
            NOBODY,
        ),
        "a member of another epoch": (
            "Key 5 sits from epoch 6 on.",
            header,
            commits((0, 1, 5), header),
            NOBODY,
        ),
        "strangers only": ("Keys 4, 5 and 6.", header, commits((4, 5, 6), header), NOBODY),
        "more signatures than members": (
            "Five of four.",
            header,
            commits((0, 1, 2, 3, STRANGER), header),
            MANY,
        ),
    }
    return [
        row(name, shows, of, signatures, reason=reason)
        for name, (shows, of, signatures, reason) in cases.items()
    ]


def wrong_signatures() -> list[dict[str, Any]]:
    """The right keys, one signature not in its one canonical form."""
    header = header_of(4)
    good = commits((0, 1, 2), header)
    spoilt = {
        "a high s": high_s,
        "v of 0 or 1": low_v,
        "64 bytes": lambda s: s[:64],
        "66 bytes": lambda s: s + b"\0",
        "zeros": lambda _: bytes(65),
        "empty": lambda _: b"",
        "v of 29": lambda s: s[:64] + b"\x1d",
    }
    rows: list[dict[str, Any]] = []
    for place in range(3):
        for name, spoil in list(spoilt.items())[: None if place == 1 else 2]:
            mixed = tuple(spoil(one) if at == place else one for at, one in enumerate(good))
            told = f"{name}, signature {place}"
            rows.append(
                row(told, "Each is canonical or all are void.", header, mixed, reason=NOBODY, errors=BAD)
            )
    flipped = good[1][:64] + bytes([55 - good[1][64]])
    shows = "27 for 28: another key, which sits nowhere."
    return [
        *rows,
        row(
            "v of the other key",
            shows,
            header,
            (good[0], flipped, good[2]),
            reason=NOBODY,
            errors=[*STRANGE, *BAD],
        ),
    ]


def wrong_votes() -> list[dict[str, Any]]:
    """The right keys, over another vote or in another domain."""
    header = header_of(4)
    other = dataclasses.replace(header, height=10)
    keys = (0, 1, 2)
    prepare = t.Prepare(4, 9, 0, block_id(header))
    wrong_epoch = t.Commit(5, 9, 0, block_id(header))
    cases: dict[str, tuple[str, Sequence[bytes]]] = {
        "another round": ("All said round 1.", commits(keys, header, 1)),
        "two rounds": (
            "Two said round 0, one round 1: of one round, all.",
            (*commits((0, 1), header), *commits((2,), header, 1)),
        ),
        "another block": ("All committed to another one.", commits(keys, other)),
        "two blocks": ("One committed to another one.", (*commits((0, 1), header), *commits((2,), other))),
        "Prepares": ("Another type.", [signed(by, prepare) for by in keys]),
        "one Prepare": ("Another type.", (*commits((0, 1), header), signed(2, prepare))),
        "another epoch": ("All said epoch 5.", [signed(by, wrong_epoch) for by in keys]),
        "another chain": ("Chain id 1.", commits(keys, header, 0, Domain(1, MANAGER, GROUP))),
        "another contract": ("Another address.", commits(keys, header, 0, Domain(CHAIN_ID, IDS[0], GROUP))),
        "another group": ("The council's domain.", commits(keys, header, 0, domain(COUNCIL))),
    }
    rows = [
        row(name, shows, header, signatures, reason=NOBODY) for name, (shows, signatures) in cases.items()
    ]
    late = dataclasses.replace(header, epoch=17)
    shows = "A block of epoch 17 under the committee of epoch 4."
    rows.append(
        row("an epoch without committee", shows, late, commits(keys, late), reason=EPOCH, by=committee(4))
    )
    early = header_of(5)
    shows = "A block of epoch 5 by a quorum of epoch 4, under the committee of epoch 4."
    return [
        *rows,
        row(
            "the committee before",
            shows,
            early,
            commits(keys, early),
            reason=EPOCH,
            by=committee(4),
            errors=ERRORS[FEW],
        ),
    ]


# ---------------------------------------------------------------------------
# Verdicts: the council's quorum over a Verdict.


def verdicts() -> list[dict[str, Any]]:
    """verdicts.json."""
    verdict = Verdict(GROUP, 6, 9, IDS[5], 16, digest_of("case"))
    own = dataclasses.replace(verdict, group=COUNCIL, epoch=0, accused=IDS[2])
    unseated = dataclasses.replace(verdict, accused=IDS[8])
    no_such = dataclasses.replace(verdict, offence=3)

    def by(keys: Sequence[int], what: Verdict = verdict, where: Domain | None = None) -> list[bytes]:
        return [signed(key, what, where or domain(COUNCIL)) for key in keys]

    good = by((0, 1, 2))
    cases: dict[str, tuple[str, Verdict, list[bytes], str]] = {
        "3 of 4": ("A quorum of the council.", verdict, good, ""),
        "4 of 4": ("All seats.", verdict, by((0, 1, 2, 3)), ""),
        "no opening": ("Code 32.", w := dataclasses.replace(verdict, offence=32), by((1, 2, 3), w), ""),
        "2 of 4": ("A quorum but one.", verdict, good[:2], "NoQuorum(uint256,uint256)"),
        "one seat twice": ("Two people.", verdict, [*good[:2], good[1]], "NotAscending(address,address)"),
        "not in order": ("Seats ascend.", verdict, good[::-1], "NotAscending(address,address)"),
        "a stranger": ("Key 16.", verdict, by((0, 1, STRANGER)), "NotASeat(bytes32,uint64,address)"),
        "a high s": ("Not canonical.", verdict, [*good[:2], high_s(good[2])], BAD[0]),
        "v of 0 or 1": ("Not canonical.", verdict, [low_v(good[0]), *good[1:]], BAD[0]),
        "64 bytes": ("Not canonical.", verdict, [good[0][:64], *good[1:]], BAD[0]),
        "the accused signed": ("Key 2 judges itself.", own, by((0, 1, 2), own), "AccusedSigned(address)"),
        "without the accused": ("The three others judge key 2.", own, by((0, 1, 3), own), ""),
        "the accused had no seat": (
            "Key 8 sits from epoch 9 on.",
            unseated,
            by((0, 1, 2), unseated),
            STRANGE[0],
        ),
        "an offence that nobody judges": (
            "Code 3 is proven by two signatures.",
            no_such,
            by((0, 1, 2), no_such),
            "UnknownOffence(uint256)",
        ),
        "in the group's domain": (
            "Seats sign in the council's domain.",
            verdict,
            by((0, 1, 2), verdict, domain(GROUP)),
            "NotAscending(address,address) NotASeat(bytes32,uint64,address)",
        ),
    }
    return [
        {
            "name": name,
            "shows": shows,
            "fields": fields_of(what),
            "words": hexed(words(what)),
            "digest": hexed(signing_digest(domain(COUNCIL), what)),
            "councilEpoch": 0,
            "signatures": [hexed(one) for one in signatures],
            "valid": not errors,
            "errors": errors.split(),
        }
        for name, (shows, what, signatures, errors) in cases.items()
    ]


# ---------------------------------------------------------------------------
# Anchors: the last block of an epoch, and who follows.


def anchors() -> list[dict[str, Any]]:
    """anchors.json: an epoch's end as `EpochAnchors.anchor` takes it."""
    five, keys = members(*range(5)), (0, 1, 2)
    follows = Committee(5, five)
    end = header_of(4, next_committee_root=follows.root())
    good = commits(keys, end)
    not_last = ["NotTheLastBlock(bytes32,bytes32)"]

    def named(root_of: Committee) -> tuple[t.Header, tuple[bytes, ...]]:
        header = header_of(4, next_committee_root=root_of.root())
        return header, commits(keys, header)

    within, skipped = named(committee(4)), named(Committee(6, five))
    descending, sixteen = (
        named(Committee(5, five[::-1])),
        header_of(15, next_committee_root=committee(16).root()),
    )
    version_2 = header_of(4, version=2, next_committee_root=follows.root())
    cases: dict[str, tuple[str, t.Header, Sequence[bytes], Sequence[bytes], list[str]]] = {
        "the end of epoch 4": ("Five members follow four.", end, good, five, []),
        "the end of epoch 15": (
            "Sixteen follow fifteen.",
            sixteen,
            commits(range(10), sixteen),
            members(*range(16)),
            [],
        ),
        "all four signed": ("More than a quorum.", end, commits((0, 1, 2, 3), end), five, []),
        "a block within the epoch": ("It names its own committee.", *within, members(0, 1, 2, 3), not_last),
        "an epoch skipped": ("It names the root of epoch 6.", *skipped, five, not_last),
        "other members": ("Not those that the block names.", end, good, members(*range(1, 6)), not_last),
        "a member left out": ("Not all that the block names.", end, good, five[:4], not_last),
        "a member more": ("More than the block names.", end, good, members(*range(6)), not_last),
        "nobody": ("No members.", end, good, (), not_last),
        "named in descending order": (
            "From epoch 1 on members ascend.",
            *descending,
            five[::-1],
            ["NotAscending(address,address)", "CommitteeExists(bytes32,uint64)"],
        ),
        "that root, ascending": ("Another order, another root.", *descending, five, not_last),
        "a quorum but one": ("As for any block.", end, good[:2], five, ERRORS[FEW]),
        "a stranger signed": ("As for any block.", end, commits((0, 1, STRANGER), end), five, STRANGE[:1]),
        "a high s": ("As for any block.", end, (high_s(good[0]), *good[1:]), five, BAD),
        "header version 2": (
            "Version 1 is known.",
            version_2,
            commits(keys, version_2),
            five,
            ["UnknownVersion(uint256,uint256)"],
        ),
    }
    return [
        {
            **row(name, shows, header, signatures, errors=errors),
            "nextMembers": [hexed(one) for one in following],
            "valid": not errors,
            "signers": [],
            "reason": "",
        }
        for name, (shows, header, signatures, following, errors) in cases.items()
    ]
