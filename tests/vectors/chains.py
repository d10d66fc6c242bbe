"""Whole histories from their genesis committee: some that hold, and some that break at one height."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from consensus import types as t
from consensus.chain import Log
from consensus.committee import Committee
from consensus.signing import block_id, words
from tests.consensus.lab import IDS
from tests.vectors.network import (
    COMMITTEES,
    GROUPS,
    NETWORK,
    STRANGER,
    commits,
    committee_of,
    digest_of,
    fields_of,
    hexed,
    members,
)

BLOCK, CERTIFICATE = "block", "certificate"  # What is at fault.


class Writer:
    """Writes a chain, block by block; whoever breaks a rule says how."""

    def __init__(self, group: str = "moving") -> None:
        self.group = group
        self.committees = COMMITTEES[group]
        self.epoch = 0
        self.blocks: list[tuple[t.Header, t.Certificate]] = []
        self.log = Log()

    @property
    def committee(self) -> Committee:
        return self.committees[self.epoch]

    def header(self, *, last: bool = False, **changes: Any) -> t.Header:
        """The next header; with `last` it names the next epoch's committee."""
        tip = self.blocks[-1][0] if self.blocks else None
        height = len(self.blocks)
        header = t.Header(
            version=1,
            network_id=NETWORK,
            group_id=GROUPS[self.group],
            epoch=self.epoch,
            height=height,
            parent_id=block_id(tip) if tip else t.ZERO_DIGEST,
            proposer=self.committee.proposer(height, 0),
            time_ms=1_700_000_000_000 + 10_000 * height,
            app_root=digest_of(f"body {height}"),
            log_root=self.log.root(),
            next_committee_root=self.committees[self.epoch + last].root(),
        )
        return dataclasses.replace(header, **changes)

    def add(
        self,
        by: Iterable[int] | None = None,
        *,
        last: bool = False,
        round_: int = 0,
        certificate: Callable[[t.Header], Sequence[bytes]] | None = None,
        **changes: Any,
    ) -> Writer:
        """Add a block. by: places of the signers (default: the first quorum of the epoch)."""
        header = self.header(last=last, **changes)
        seats = sorted(IDS.index(one) for one in self.committee.members)
        signers = seats[: self.committee.quorum] if by is None else by
        made = certificate(header) if certificate else commits(signers, header, round_)
        self.blocks.append((header, t.Certificate(round_, tuple(made))))
        self.log.append(block_id(header))
        self.epoch += last
        return self

    def many(self, count: int) -> Writer:
        """Add ordinary blocks."""
        for _ in range(count):
            self.add()
        return self


def row(
    name: str,
    shows: str,
    chain: Writer,
    *,
    at: int | None = None,
    fault: str = "",
    because: str = "",
    committees: Sequence[Committee] | None = None,
) -> dict[str, Any]:
    """at: the place of the first block that does not hold; committees: those that the reader is told of."""
    group, told = GROUPS[chain.group], committees or chain.committees
    return {
        "name": name,
        "shows": shows,
        "groupId": hexed(group),
        "networkId": hexed(NETWORK),
        "committees": [committee_of(group, one) for one in told],
        "blocks": [
            {
                "fields": fields_of(header),
                "words": hexed(words(header)),
                "blockId": hexed(block_id(header)),
                "round": certificate.round,
                "signatures": [hexed(one) for one in certificate.signatures],
            }
            for header, certificate in chain.blocks
        ],
        "valid": at is None,
        "brokenAt": at,
        "fault": fault,
        "because": because,
        "tip": None if at is not None else hexed(block_id(chain.blocks[-1][0])),
        "logRoot": None if at is not None else hexed(chain.log.root()),
        "epoch": None if at is not None else chain.blocks[-1][0].epoch,
    }


def vectors() -> list[dict[str, Any]]:
    """chains.json."""
    return [*sound(), *broken_certificates(), *broken_epochs(), *broken_headers()]


def sound() -> list[dict[str, Any]]:
    """Histories that hold."""
    turns = Writer()
    for round_, by in enumerate(((0, 1, 2), (0, 1, 3), (0, 2, 3), (1, 2, 3), (0, 1, 2, 3))):
        turns.add(by, round_=round_)
    late = Writer().add(time_ms=0).add(time_ms=1).add(time_ms=(1 << 64) - 1)
    two = Writer().add().add(last=True).many(2).add(last=True).many(2)
    shows = "Four members, then seven, then four others; quorums of 3, 5 and 3."
    return [
        row("one block", "The first block and nothing else.", Writer().add()),
        row("three blocks", "One epoch.", Writer().many(3)),
        row("ten blocks", "One epoch; the log grows by every block.", Writer().many(10)),
        row("rounds and quorums", "Any round, any quorum, or all.", turns),
        row("clocks", "Times have only to ascend.", late),
        row(
            "any proposer",
            "Whose turn it was is not judged from a history.",
            Writer().add().add(proposer=IDS[3]).add(proposer=IDS[3]),
        ),
        row(
            "one end of an epoch",
            "The last block of epoch 0 names the root of epoch 1.",
            Writer().add().add(last=True).many(2),
        ),
        row("two ends of epochs", shows, two),
        row(
            "an epoch of one block",
            "Its first block is its last.",
            Writer().add(last=True).add(last=True).add(),
        ),
        row(
            "an end and nothing after it",
            "The next committee has decided nothing yet.",
            Writer().add().add(last=True),
        ),
        row(
            "the same members again",
            "Epochs of the same members differ in their roots.",
            Writer("settled").add().add(last=True).add().add(last=True).add(),
        ),
        row(
            "members in the order of turns",
            "A genesis may list them in any order; signers ascend all the same.",
            Writer("settled").many(3),
        ),
    ]


def broken_certificates() -> list[dict[str, Any]]:
    """A certificate that is none."""

    def repeated(header: t.Header) -> Sequence[bytes]:
        one, two = commits((0, 1), header)
        return (one, two, two)

    def at_two(**how: Any) -> Writer:
        return Writer().many(2).add(**how).add()

    altered = Writer().many(3)
    header, certificate = altered.blocks[2]
    altered.blocks[2] = (dataclasses.replace(header, app_root=digest_of("another body")), certificate)
    few, stranger = "2 signatures, 3 are needed", "a signature is not a member's"
    order = "the signers are not distinct and in ascending order"
    prepared: dict[str, tuple[str, Writer, str]] = {
        "a quorum but one": ("Two of four.", at_two(by=(0, 1)), few),
        "one signer twice": ("Two people, three signatures.", at_two(certificate=repeated), order),
        "signers descend": ("One form only.", at_two(by=(2, 1, 0)), order),
        "a stranger signed": ("Key 16.", at_two(by=(0, 1, STRANGER)), stranger),
        "the body was changed": ("Same signatures, another app root.", altered, stranger),
        "signed for another round": (
            "They said round 1, it says 0.",
            at_two(certificate=lambda h: commits((0, 1, 2), h, 1)),
            stranger,
        ),
    }
    rows = [
        row(name, shows, chain, at=2, fault=CERTIFICATE, because=because)
        for name, (shows, chain, because) in prepared.items()
    ]
    old = Writer().add().add(last=True).add(by=(0, 1, 2, 3, 4))
    rows.append(
        row(
            "the old members sign on",
            "Key 0 has left with epoch 0.",
            old,
            at=2,
            fault=CERTIFICATE,
            because=stranger,
        )
    )
    few7 = Writer().add().add(last=True).add(by=(1, 2, 3))
    return [
        *rows,
        row(
            "the old quorum",
            "3 of seven, all of them old members.",
            few7,
            at=2,
            fault=CERTIFICATE,
            because="3 signatures, 5 are needed",
        ),
    ]


def broken_epochs() -> list[dict[str, Any]]:
    """Committees that nobody was told of."""
    unnamed = Writer().many(2)
    unnamed.epoch = 1
    unnamed.add()
    overstayed = Writer().add().add(last=True)
    overstayed.epoch = 0
    overstayed.add()
    skipped = Writer().add().add(last=True)
    skipped.epoch = 2
    skipped.add()
    back = Writer().add().add(last=True).add()
    back.epoch = 0
    back.add()
    first, second, third = COMMITTEES["moving"]
    others = Committee(1, members(*range(4, 11)))
    swapped = Writer().add().add(last=True).many(1)
    other_epoch, another = "epoch 1, the committee is of 0", "the parent names another committee"
    return [
        row(
            "new members whom no block named",
            "Epoch 1 begins, but the parent names epoch 0's own root.",
            unnamed,
            at=2,
            fault=BLOCK,
            because=other_epoch,
        ),
        row(
            "an epoch goes on after its end",
            "The parent was the last block of epoch 0.",
            overstayed,
            at=2,
            fault=BLOCK,
            because=another,
        ),
        row(
            "an epoch is skipped",
            "From 0 to 2.",
            skipped,
            at=2,
            fault=BLOCK,
            because="epoch 2, the committee is of 0",
        ),
        row(
            "an epoch comes back",
            "From 1 to 0.",
            back,
            at=3,
            fault=BLOCK,
            because="epoch 0, the committee is of 1",
        ),
        row(
            "the reader knows other members",
            "Their root is not the one that was named.",
            swapped,
            at=2,
            fault=BLOCK,
            because=other_epoch,
            committees=[first, others, third],
        ),
        row(
            "the same members, in another order",
            "From epoch 1 on there is one order: another has another root.",
            swapped,
            at=2,
            fault=BLOCK,
            because=other_epoch,
            committees=[first, Committee(1, second.members[::-1]), third],
        ),
    ]


def broken_headers() -> list[dict[str, Any]]:
    """Headers that do not follow their parent."""

    def at_two(**changes: Any) -> Writer:
        return Writer().many(2).add(**changes).add()

    cases: dict[str, tuple[str, Writer, str]] = {
        "another parent": ("The id of no block.", at_two(parent_id=digest_of("elsewhere")), "another parent"),
        "the grandparent": (
            "A block on height 0.",
            at_two(parent_id=block_id(Writer().add().blocks[0][0])),
            "another parent",
        ),
        "a height is skipped": ("3 after 1.", at_two(height=3), "height 3 does not come next"),
        "a height comes twice": ("1 after 1.", at_two(height=1), "height 1 does not come next"),
        "another log": (
            "The root of other blocks.",
            at_two(log_root=digest_of("log")),
            "another log of earlier blocks",
        ),
        "a clock that stands": (
            "As late as its parent.",
            at_two(time_ms=1_700_000_010_000),
            "not later than its parent",
        ),
        "a clock that goes back": (
            "Earlier than its parent.",
            at_two(time_ms=5),
            "not later than its parent",
        ),
        "a proposer who is no member": ("Key 9.", at_two(proposer=IDS[9]), "the proposer is no member"),
        "another group": (
            "The council's block, signed by the right keys.",
            at_two(group_id=GROUPS["council"]),
            "a block of another group",
        ),
        "another network": (
            "Another genesis.",
            at_two(network_id=digest_of("another network")),
            "a block of another network",
        ),
        "header version 2": ("Version 1 is known.", at_two(version=2), "header version 2"),
    }
    rows = [
        row(name, shows, chain, at=2, fault=BLOCK, because=because)
        for name, (shows, chain, because) in cases.items()
    ]
    abroad, there = Writer(), digest_of("another network")
    for _ in range(3):
        abroad.add(network_id=there)
    shows = "Sound in itself, but of another genesis than the reader's."
    rows.append(
        row(
            "another network from the start",
            shows,
            abroad,
            at=0,
            fault=BLOCK,
            because="a block of another network",
        )
    )
    headless = Writer().many(3)
    del headless.blocks[0]
    rows.append(
        row(
            "the first block is missing",
            "A history begins at height 0.",
            headless,
            at=0,
            fault=BLOCK,
            because="height 1 does not come next",
        )
    )
    gap = Writer().many(4)
    del gap.blocks[2]
    return [
        *rows,
        row(
            "a block is missing", "3 after 1.", gap, at=2, fault=BLOCK, because="height 3 does not come next"
        ),
    ]
