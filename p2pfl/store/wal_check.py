"""Is a log what an honest node writes? Frames, places, signatures, order, and no word against itself.

The order is that of docs/consensus.md, Durability: what must be durable before a vote is signed has to stand
before that vote. Reads what `wal_file` reads; runs no core (that is `wal_story`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from consensus import types as t
from consensus.committee import Committee
from consensus.evidence import contradiction, culprits
from consensus.signing import Domain
from consensus.types import Digest, MemberId
from consensus.votes import Recover, recoverer, signed_vote, subject
from p2pfl.codec import DecodeError
from p2pfl.store.wal_file import Entry, Reading, belongs_to

# The committee of an epoch; None where nobody here knows it.
Committees = Callable[[int], Committee | None]


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that an honest node's log does not hold."""

    path: Path
    offset: int
    because: str


@dataclass(frozen=True, slots=True)
class Checked:
    """What was looked at. notes: worth knowing, and no fault of this node."""

    entries: int
    heights: int
    own_votes: int
    faults: tuple[Fault, ...]
    notes: tuple[str, ...]


def check(readings: Iterable[Reading], *, me: MemberId, domain: Domain, committees: Committees) -> Checked:
    """Look at the files of one log, the oldest first."""
    judge = _Judge(me, recoverer(domain), committees)
    for reading in readings:
        judge.read(reading, domain.group_id)
    return Checked(judge.entries, len(judge.votes), judge.own, tuple(judge.faults), tuple(judge.told()))


class _Height:
    """What stood in the log so far, of one height."""

    def __init__(self) -> None:
        self.proposed: set[tuple[int, Digest]] = set()
        self.valid: set[Digest] = set()
        self.prepared: dict[tuple[int, Digest], set[MemberId]] = {}
        self.left: set[int] = set()  # Rounds whose timer ran out, or that were jumped over.


class _Judge:
    def __init__(self, me: MemberId, recover: Recover, committees: Committees) -> None:
        self.me, self._recover, self._committees = me, recover, committees
        self.entries = self.own = 0
        self.faults: list[Fault] = []
        self.votes: dict[tuple[int, int], list[t.Vote]] = {}  # The own ones, by (epoch, height).
        self._notes: list[str] = []
        self._messages: list[t.Message] = []
        self._at: dict[tuple[int, int], _Height] = {}
        self._thin = False  # The proposals of round 0 were taken out of this file.

    def read(self, reading: Reading, group_id: Digest) -> None:
        """One file."""
        if reading.damage is not None:
            self.faults.append(Fault(reading.path, reading.damage.offset, reading.damage.because))
        elif not belongs_to(reading.identity, group_id):
            self.faults.append(Fault(reading.path, 0, "it is not the log of this chain"))
            return
        if reading.cut is not None:
            self._notes.append(
                f"{reading.path.name} ends with {reading.cut.length} bytes of an interrupted write at byte "
                f"{reading.cut.offset}; a start cuts them off"
            )
        self._thin = reading.thin
        for entry in reading.entries:
            because = self._objection(entry)
            if because is not None:
                self.faults.append(Fault(entry.path, entry.offset, because))

    def told(self) -> Iterator[str]:
        """The notes, and who contradicts himself in what was kept."""
        yield from self._notes
        for offence in culprits(self._recover, self._messages):
            if offence.signer != self.me:
                place = f"height {offence.first.vote.height}"
                yield f"0x{offence.signer.hex()} contradicts itself at {place}: {offence.kind.name}"

    def _objection(self, entry: Entry) -> str | None:
        self.entries += 1
        try:
            event = entry.event
        except DecodeError as error:
            return f"no event of this release: {error}"
        if entry.height < 0:
            return "an entry before any height was begun"
        place = entry.epoch, entry.height
        self.votes.setdefault(place, [])
        at = self._at.setdefault(place, _Height())
        match event:
            case t.Received(sender, message):
                self._messages.append(message)
                return self._received(place, at, sender, message)
            case t.Elapsed(height, round_):
                at.left.add(round_)
            case t.Validated(height, _, block, valid):
                if valid:
                    at.valid.add(block)
            case _:
                return f"a {type(event).__name__} is never written"
        return None if height == entry.height else f"it speaks of height {height}, its mark of {entry.height}"

    def _received(
        self, place: tuple[int, int], at: _Height, sender: MemberId, message: t.Message
    ) -> str | None:
        about, signed = subject(message), signed_vote(message)
        if (about.epoch, about.height) != place:
            return f"it speaks of epoch {about.epoch}, height {about.height}, its mark of {place}"
        if signed is None:
            return f"a {type(message).__name__} is never written"
        vote = signed.vote
        intent = sender == self.me and isinstance(vote, t.Propose) and not signed.signature
        if not intent and self._recover(vote, signed.signature) != sender:
            return f"a {type(vote).__name__} that is not signed by its sender"
        because = self._own(place, at, vote) if sender == self.me else None
        if isinstance(vote, t.Propose):
            at.proposed.add((vote.round, vote.block_id))
        elif isinstance(vote, t.Prepare):
            at.prepared.setdefault((vote.round, vote.block_id), set()).add(sender)
        return because

    def _own(self, place: tuple[int, int], at: _Height, vote: t.Vote) -> str | None:
        """An own vote: what it needed, and what was said before."""
        votes = self.votes[place]
        for earlier in votes:
            kind = contradiction(earlier, vote)
            if kind is not None:
                return f"this node contradicts itself: {kind.name}, with {earlier}"
        if vote not in votes:
            votes.append(vote)
            self.own += 1
        match vote:
            case t.Prepare(_, _, round_, block):
                thin = self._thin and round_ == 0
                if not thin and ((round_, block) not in at.proposed or block not in at.valid):
                    return "a PREPARE before its proposal and the word that it is valid"
            case t.Commit(epoch, _, round_, block):
                committee = self._committees(epoch)
                if committee is None:
                    self._notes.append(f"the committee of epoch {epoch} is not known here")
                elif len(at.prepared.get((round_, block), ())) < committee.quorum:
                    return f"a COMMIT before the {committee.quorum} PREPAREs of its round"
            case t.RoundChange(_, _, round_):
                if round_ - 1 not in at.left:
                    return "a ROUND-CHANGE before its round was begun"
            case _:
                pass
        return None
