"""The log of an honest run is sound whatever was cut off it; each thing that none would write is found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from consensus import types as t
from consensus.committee import Committee
from p2pfl import codec
from p2pfl.durable import Journal
from p2pfl.store.wal_check import Checked, check
from p2pfl.store.wal_file import ENTRY, Entry, identity, mark, read
from p2pfl.store.wal_story import Story
from tests.consensus.lab import DOMAIN, IDS, certificate, committee_of, sign, signed

from .durable_lab import STORIES, DurableLab, locked_and_moved_on, proposed_and_locked_another

pytestmark = pytest.mark.usefixtures("quick_disk")
COMMITTEE = committee_of(4)
OTHER = t.Digest(b"o" * 32)


def looked_at(path: Path, me: int = 3) -> Checked:
    committees = {0: COMMITTEE}.get
    return check([read(path)], me=IDS[me], domain=DOMAIN, committees=committees)


def rewritten(path: Path, entries: list[t.Event], *, height: int = 0, epoch: int = 0) -> Path:
    """A log of these entries, framed as it should be."""
    records = [mark(height, epoch), *(ENTRY + codec.encode(event, t.Event) for event in entries)]
    made = path.with_name("made.wal")
    Journal.create(made, identity(DOMAIN.group_id), records).close()
    return made


@pytest.mark.parametrize("story", STORIES)
def test_an_honest_log_is_sound_however_short(tmp_path: Path, story: Callable[[Path], DurableLab]) -> None:
    lab = story(tmp_path / "node")
    path = lab.folder / "g0.wal"
    found = looked_at(path, lab.me)
    assert (found.faults, found.notes) == ((), ())
    assert found.heights == 1
    # The last one came back, and nothing waited for it to be written down.
    assert found.own_votes == len({left.vote for left in lab.left}) - 1
    events = [entry.event for entry in read(path).entries]
    for length in range(len(events)):
        assert looked_at(rewritten(path, events[:length]), lab.me).faults == ()


@pytest.mark.parametrize("kind", [t.Proposal, t.Validated, t.PrepareMessage, t.Elapsed])
def test_a_vote_that_stands_before_what_it_needs_is_found(tmp_path: Path, kind: type) -> None:
    path = locked_and_moved_on(tmp_path / "node").folder / "g0.wal"
    events = [entry.event for entry in read(path).entries]
    lacking = [
        event
        for event in events
        if not isinstance(event, kind)
        and not (isinstance(event, t.Received) and isinstance(event.message, kind))
    ]
    faults = looked_at(rewritten(path, lacking)).faults
    told = {
        t.Proposal: "a PREPARE before its proposal",
        t.Validated: "a PREPARE before its proposal and the word that it is valid",
        t.PrepareMessage: "a COMMIT before the 3 PREPAREs",
        t.Elapsed: "a ROUND-CHANGE before its round was begun",
    }[kind]
    assert faults
    assert all(told in fault.because for fault in faults)


def own(vote: t.Vote) -> t.Received:
    wrap = {
        t.Prepare: t.PrepareMessage,
        t.Commit: t.CommitMessage,
        t.RoundChange: t.RoundChangeMessage,
    }[type(vote)]
    return t.Received(IDS[3], wrap(signed(3, vote)))


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (own(t.Prepare(0, 0, 0, OTHER)), "TWO_PREPARE"),
        (own(t.Commit(0, 0, 2, OTHER)), "TWO_COMMIT"),
        (own(t.RoundChange(0, 0, 3, 0, t.ZERO_DIGEST, OTHER)), "DENIED_COMMIT"),
        (own(t.RoundChange(0, 0, 1, 2, OTHER, OTHER)), "TWO_ROUND_CHANGE"),
        (own(t.Prepare(0, 1, 0, OTHER)), "it speaks of epoch 0, height 1"),
        (own(t.Prepare(1, 0, 0, OTHER)), "it speaks of epoch 1, height 0"),
        (t.Elapsed(4, 0), "it speaks of height 4"),
        (t.Started(None, OTHER, OTHER), "a Started is never written"),
        (t.Received(IDS[1], t.FetchBlock(0, 0, OTHER)), "a FetchBlock is never written"),
        (
            t.Received(IDS[1], t.PrepareMessage(signed(0, t.Prepare(0, 0, 0, OTHER)))),
            "not signed by its sender",
        ),
    ],
)
def test_what_no_honest_node_writes_is_found_with_its_offset(
    tmp_path: Path, more: t.Event, told: str
) -> None:
    path = locked_and_moved_on(tmp_path / "node").folder / "g0.wal"
    events = [entry.event for entry in read(path).entries]
    made = rewritten(path, [*events, more])
    faults = looked_at(made).faults
    assert told in faults[0].because
    assert faults[0].offset == read(made).entries[-1].offset
    assert len(faults) == 1


def test_what_others_did_wrong_is_a_note_and_no_fault(tmp_path: Path) -> None:
    path = locked_and_moved_on(tmp_path / "node").folder / "g0.wal"
    events = [entry.event for entry in read(path).entries]
    twice = t.Received(IDS[1], t.PrepareMessage(signed(1, t.Prepare(0, 0, 0, OTHER))))
    found = looked_at(rewritten(path, [*events, twice]))
    assert found.faults == ()
    assert found.notes == (f"0x{IDS[1].hex()} contradicts itself at height 0: TWO_PREPARE",)


def test_frames_are_looked_at(tmp_path: Path) -> None:
    path = locked_and_moved_on(tmp_path / "node").folder / "g0.wal"
    whole, entries = path.read_bytes(), read(path).entries
    third = entries[2].offset
    path.write_bytes(whole[: third + 40] + b"?" + whole[third + 41 :])
    (fault,) = looked_at(path).faults
    assert fault.offset == third
    path.write_bytes(whole[: third + 40])
    found = looked_at(path)
    assert found.faults == ()
    assert f"interrupted write at byte {third}" in found.notes[0]
    Journal.create(path, b"wal" + OTHER).close()
    assert "not the log of this chain" in looked_at(path).faults[0].because


def test_a_committee_that_nobody_here_knows_is_told(tmp_path: Path) -> None:
    path = locked_and_moved_on(tmp_path / "node").folder / "g0.wal"
    vote = t.Commit(7, 0, 0, OTHER)
    event = t.Received(IDS[3], t.CommitMessage(t.SignedCommit(vote, sign(3, vote))))
    found = looked_at(rewritten(path, [event], epoch=7))
    assert (found.faults, found.notes) == ((), ("the committee of epoch 7 is not known here",))


# -- the story -------------------------------------------------------------------


def told(entries: tuple[Entry, ...], me: int) -> str:
    story = Story(
        [],
        me=IDS[me],
        domain=DOMAIN,
        committees={0: COMMITTEE}.get,
        named=lambda member: f"m{IDS.index(member)}",
    )
    return "\n".join(story.tell(entries))


def test_the_story_says_what_was_signed_locked_and_where_it_stands(tmp_path: Path) -> None:
    lab = locked_and_moved_on(tmp_path / "node")
    text = told(read(lab.folder / "g0.wal").entries, 3)
    block = "0x" + lab.left[0].vote.block_id[:6].hex()  # type: ignore[union-attr]
    why = "justified by 3 ROUND-CHANGEs and 3 PREPAREs"
    lines = iter(text.splitlines())
    for expected in (
        "height 0, epoch 0: 20 entries",
        "round 0 begins, m0 leads",
        f"m0: PROPOSE of round 0 for {block} of m0, 4 bytes",
        f"asks for the signature of PREPARE of round 0 for {block}",
        f"m3: PREPARE of round 0 for {block}",
        f"locked on {block} in round 0",
        f"asks for the signature of COMMIT of round 0 for {block}",
        "round 0 is left",
        "round 1 begins, m1 leads",
        f"m3: ROUND-CHANGE of round 1, prepared {block} in round 0",
        f"m2: PROPOSE of round 2 for {block} of m0, 4 bytes, {why}",
        f"locked on {block} in round 2",
        "round 3 begins, m3 leads",
        f"m3: PROPOSE of round 3 for {block} of m0, 4 bytes, {why}, to be signed",
        f"it stands at height 0, round 3, locked on {block} of round 2",
        f"a start would sign PROPOSE of round 3 for {block}",
    ):
        assert any(line.strip() == expected for line in lines), f"{expected!r} is not next in:\n{text}"


def test_the_story_tells_why_it_cannot_be_told(tmp_path: Path) -> None:
    lab = proposed_and_locked_another(tmp_path / "node")
    path = lab.folder / "g0.wal"
    events = [entry.event for entry in read(path).entries]
    assert "block 4 is not in the chain's file" in told(read(rewritten(path, events, height=5)).entries, 0)
    assert "committee of that epoch is not known here" in told(
        read(rewritten(path, events, epoch=3)).entries, 0
    )
    assert told((), 0) == "the log holds no entry: the next start begins a height afresh"


def test_a_height_of_a_later_epoch_is_told_with_its_own_committee(tmp_path: Path) -> None:
    """The same members, another order of turns; what a void block left behind is told as such."""
    lab = locked_and_moved_on(tmp_path / "node")
    turned = Committee(1, (*IDS[1:4], IDS[0]))
    first = lab.block(next_committee_root=turned.root())
    blocks = [t.DecidedBlock(first, certificate((0, 1, 2), first.header))]
    change = t.RoundChange(1, 1, 1, 0, t.ZERO_DIGEST, t.ZERO_DIGEST)
    asked = t.Received(IDS[3], t.RoundChangeMessage(signed(3, change)))
    path = rewritten(lab.folder / "g0.wal", [t.Elapsed(1, 0), asked], height=1, epoch=1)
    committees = {0: COMMITTEE, 1: turned}.get
    assert check([read(path)], me=IDS[3], domain=DOMAIN, committees=committees).faults == ()

    def story(blocks: list[t.DecidedBlock]) -> list[str]:
        named = {member: f"m{place}" for place, member in enumerate(IDS)}.__getitem__
        teller = Story(blocks, me=IDS[3], domain=DOMAIN, committees=committees, named=named)
        return [line.strip() for line in teller.tell(read(path).entries)]

    assert story(blocks) == [
        "height 1, epoch 1: 2 entries",
        "round 0 begins, m2 leads",
        "round 0 is left",
        "round 1 begins, m3 leads",
        "asks for the signature of ROUND-CHANGE of round 1, nothing prepared",
        "m3: ROUND-CHANGE of round 1, nothing prepared",
        "it stands at height 1, round 1, locked on nothing",
        "a start would send again ROUND-CHANGE of round 1, nothing prepared",
    ]
    other = replace(first, header=replace(first.header, height=1, epoch=2))
    void = t.DecidedBlock(other, certificate((0, 1, 2), other.header))
    assert story([*blocks, void])[-1] == "nothing came of it: the chain has a block of another epoch here"
