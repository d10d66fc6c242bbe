"""Drivers with a bug each: what a node may do wrong around a core that is right."""

from __future__ import annotations

from dataclasses import replace

from consensus.committee import Committee
from consensus.signing import block_id
from consensus.types import DecidedBlock, Validate, Validated
from tests.sim.member import Member


class Forgetful(Member):
    """Restarts from nothing."""

    def start(self) -> None:
        self.wal = []
        super().start()


class Hasty(Member):
    """Signs and sends first, writes to the disk when there is nothing else to do."""

    def sync(self) -> None:
        """Later."""


class Deserter(Member):
    """Leaves with its epoch and answers nobody any more."""

    def decide(self, decided: DecidedBlock) -> None:
        super().decide(decided)
        if not self.votes:
            self.replica = None


class Stale(Member):
    """Goes on with the committee of the epoch before."""

    @property
    def committee(self) -> Committee:
        return self.world.epochs.committees[0]


class Obliging(Member):
    """Agrees to any next committee."""

    def judge(self, ask: Validate) -> Validated:
        header = replace(ask.block.header, next_committee_root=self.world.epochs.next_root(ask.height))
        valid = super().judge(replace(ask, block=replace(ask.block, header=header))).valid
        return Validated(ask.height, ask.round, block_id(ask.block.header), valid)


class Timeless(Member):
    """Looks at no clock."""

    def judge(self, ask: Validate) -> Validated:
        return super().judge(replace(ask, fresh=False))


class Hurried(Member):
    """Goes from round to round, whoever follows."""

    def may_start(self) -> bool:
        return True


class Impatient(Member):
    """Counts a round's time from its own coming, not from when a quorum has come."""

    def patience_ms(self, round_: int, entered_ms: int) -> int:
        return max(0, entered_ms + self.timer_ms(round_) - self.world.now_ms)
