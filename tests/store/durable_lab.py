"""The replica on the bench (tests.consensus.lab) with a real log and a real guard under it, and its crashes.

What is durable when is as weak as the core allows: entries reach the disk when a signature or a message waits
for them, and no sooner. Everybody else is forged and as hostile as can be.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from consensus import types as t
from consensus.evidence import contradiction
from consensus.votes import recoverer, signed_vote, with_signature
from p2pfl.keys import Guard, Refused, SigningKey
from p2pfl.store.wal import Wal
from tests.consensus.lab import DOMAIN, KEYS, Lab

RECOVER = recoverer(DOMAIN)  # One memory for all: a lab costs a millisecond, a recovery a tenth of that.


@dataclass(frozen=True)
class Left:
    """A vote that left, and how long the files were then."""

    vote: t.Vote
    wal_bytes: int
    guard_bytes: int


class DurableLab(Lab):
    """A member with a folder. `left`: what it signed and sent in this life."""

    def __init__(self, folder: Path, me: int, *, start: bool = True) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.log_file = Wal(folder / "g0.wal", DOMAIN.group_id)
        self.guard = Guard(folder / "guard", SigningKey(KEYS[me]), new_key=True)
        self.waiting: list[t.Event] = []
        self.left: list[Left] = []
        self.sizes = [self.size()]
        restored = self.log_file.replay(0)
        super().__init__(me=me, start=False, recover=RECOVER)
        if restored:
            self.nonce = 1000  # Whatever is proposed from now on is another block than before.
            self.carry_out(self.replica.restore(self.started(), restored))
        elif start:
            self.step(self.started())

    def size(self) -> tuple[int, int]:
        """Of the log and of the guard, in bytes."""
        return (self.folder / "g0.wal").stat().st_size, (self.folder / "guard").stat().st_size

    def carry_out(self, effects: list[t.Effect]) -> list[t.Effect]:
        """Persist before what depends on it."""
        done = list(effects)
        for effect in effects:
            match effect:
                case t.Persist(event=event):
                    self.waiting.append(event)
                case t.Sign(message=message):
                    self._flush()
                    unsigned = signed_vote(message)
                    assert unsigned is not None
                    try:
                        signature = self.guard.sign(DOMAIN, unsigned.vote)
                    except Refused:
                        continue
                    self.sizes.append(self.size())
                    self.left.append(Left(unsigned.vote, *self.size()))
                    done += self.receive(self.me, with_signature(message, signature, b"mine"))
                case _:
                    if isinstance(effect, t.Send):
                        self._flush()
                    done += super().carry_out([effect])[1:]
        return done

    def _flush(self) -> None:
        if self.waiting:
            self.log_file.append_many(self.waiting)
            self.waiting = []
            self.sizes.append(self.size())

    def close(self) -> None:
        """The process ends."""
        self.log_file.close()
        self.guard.close()


def locked_and_moved_on(folder: Path) -> DurableLab:
    """Member 3: round 0 is prepared, round 1 passes, round 2 commits the block, round 3 proposes it again."""
    lab = DurableLab(folder, me=3)
    block = lab.block()
    lab.propose(block)
    lab.prepare(0, block)
    lab.prepare(1, block)
    lab.elapse()
    lab.round_change(0, 2, block)
    lab.round_change(1, 2, block)
    changes = tuple(lab.change(by, 2, block) for by in (0, 1, 2))
    lab.propose(block, 2, justification=changes, prepared=lab.prepares((0, 1, 2), block))
    lab.prepare(0, block, 2)
    lab.prepare(1, block, 2)
    lab.elapse()
    lab.round_change(0, 3, block, 2)
    lab.round_change(1, 3, block, 2)
    lab.prepare(0, block, 3)
    lab.close()
    return lab


def proposed_and_locked_another(folder: Path) -> DurableLab:
    """Member 0: nobody else prepares its own proposal; then another's block is locked and left again."""
    lab = DurableLab(folder, me=0)
    lab.elapse()
    changes = tuple(lab.change(by, 1) for by in (1, 2, 3))
    other = lab.block(by=1)
    lab.propose(other, 1, justification=changes)
    lab.prepare(1, other, 1)
    lab.prepare(2, other, 1)
    lab.elapse()
    lab.elapse()
    lab.close()
    return lab


STORIES = (locked_and_moved_on, proposed_and_locked_another)


def go_on(lab: DurableLab) -> None:
    """Life goes on as badly as it can: other blocks are proposed and prepared, the timer runs out, twice."""
    for _ in range(2):
        round_ = lab.replica.round
        others = [member for member in range(4) if member != lab.me]
        changes = tuple(lab.change(by, round_) for by in others) if round_ else ()
        if lab.proposer(round_) != lab.me:
            block = lab.block()
            lab.propose(block, round_, justification=changes)
        else:
            for by in others:
                lab.round_change(by, round_)
            accepted = lab.replica.accepted
            block = accepted.block if accepted else lab.block()
        for by in others:
            lab.prepare(by, block, round_)
        lab.elapse()


def contradictions(before: list[t.Vote], after: list[t.Vote]) -> list[tuple[t.Vote, t.Vote]]:
    """Pairs that are an offence, one of them signed after the crash."""
    return [(a, b) for b in after for a in (*before, *after) if contradiction(a, b) is not None]


def crashes(lab: DurableLab) -> Iterator[tuple[int, int]]:
    """How long log and guard may be when the process dies: every byte of every write, in their order."""
    for (log, guard), (log_after, guard_after) in zip(lab.sizes, lab.sizes[1:], strict=False):
        yield from ((bytes_, guard) for bytes_ in range(log, log_after))
        yield from ((log_after, bytes_) for bytes_ in range(guard, guard_after))
    yield lab.sizes[-1]
