"""A member among three liars whose power is cut in the middle of writes, again and again, by chance."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from consensus import types as t
from p2pfl import telemetry
from p2pfl.store.wal import Wal
from p2pfl.store.wal_check import Checked, check
from p2pfl.store.wal_file import read
from tests.consensus.lab import DOMAIN, IDS, committee_of

from .durable_lab import DurableLab, contradictions

pytestmark = pytest.mark.usefixtures("quick_disk")
LIVES = 6
ROUNDS = 40  # Beyond it nothing more happens: a life of so many rounds is long enough.


class PowerCut(BaseException):
    """The machine is off."""


class Liars:
    """Everybody else: they say whatever they like, with proofs where a proof is needed."""

    def __init__(self, chance: Random, me: int) -> None:
        self.chance, self.me = chance, me
        self.others = [member for member in range(4) if member != me]
        self.blocks: list[t.Block] = []

    def act(self, lab: DurableLab) -> None:
        """One thing that may come from outside."""
        round_ = lab.replica.round + self.chance.choice((0, 0, 0, 0, 1, 2))
        block = self._block(lab)
        chosen: Callable[[], object] = self.chance.choice(
            (
                lambda: self._propose(lab, block, round_),
                lambda: [lab.prepare(by, block, round_) for by in self.others],
                lambda: lab.prepare(self.chance.choice(self.others), block, round_),
                lambda: self._round_change(lab, block, round_),
                lab.elapse,
            )
        )
        if round_ < ROUNDS:
            chosen()

    def _block(self, lab: DurableLab) -> t.Block:
        accepted = lab.replica.accepted
        if accepted is not None and self.chance.random() < 0.6:
            return accepted.block
        if not self.blocks or (self.chance.random() < 0.3 and len(self.blocks) < 4):
            lab.nonce = 100 + len(self.blocks)  # Not one that the member builds itself.
            self.blocks.append(lab.block(by=self.chance.choice(self.others)))
        return self.chance.choice(self.blocks)

    def _propose(self, lab: DurableLab, block: t.Block, round_: int) -> None:
        if lab.proposer(round_) == self.me:
            return
        prepared = self.chance.randrange(-1, round_) if round_ else -1
        claim = block if prepared >= 0 else None
        changes = tuple(lab.change(by, round_, claim, max(prepared, 0)) for by in self.others)
        why = {"justification": changes} if round_ else {}
        if claim is not None:
            why["prepared"] = lab.prepares(self.others, block, prepared)
        lab.propose(block, round_, **why)

    def _round_change(self, lab: DurableLab, block: t.Block, round_: int) -> None:
        prepared = self.chance.randrange(-1, round_) if round_ else -1
        for by in self.others:
            if prepared < 0:
                lab.round_change(by, max(round_, 1))
            else:
                proof = lab.prepares(self.others, block, prepared)
                lab.round_change(by, round_, block, prepared, proof=proof)


class Power:
    """os.write until it is cut: then a part of what was to be written is there, or nothing."""

    def __init__(self, chance: Random, monkeypatch: pytest.MonkeyPatch) -> None:
        self.chance, self.left = chance, -1
        self._write = os.write
        monkeypatch.setattr(os, "write", self.write)

    def write(self, handle: int, data: bytes) -> int:
        self.left -= 1
        if self.left == 0:
            self._write(handle, data[: self.chance.randrange(len(data))])
            raise PowerCut
        return self._write(handle, data)


def live(
    folder: Path, seed: int, monkeypatch: pytest.MonkeyPatch, *, guarded: bool
) -> tuple[list[t.Vote], int]:
    """Some lives of one member: what it signed in all of them, and how often the power was cut."""
    chance = Random(seed)
    me = seed % 4
    liars, cuts = Liars(chance, me), 0
    said: list[t.Vote] = []
    with monkeypatch.context() as machine:
        power = Power(chance, machine)
        for life in range(LIVES):
            if not guarded:
                (folder / "guard").unlink(missing_ok=True)
            lab = DurableLab(folder, me)
            lab.nonce = 1000 * (life + 1)  # What it builds itself is another block in each life.
            power.left = chance.randrange(1, 12)
            try:
                for _ in range(25):
                    liars.act(lab)
            except PowerCut:
                cuts += 1
            power.left = -1
            said += [each.vote for each in lab.left]
            lab.close()
    return said, cuts


@pytest.fixture(autouse=True)
def quiet() -> object:
    telemetry.configure(level="error")
    yield
    telemetry.configure()


def swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seeds: range, *, guarded: bool) -> None:
    votes = cuts = commits = 0
    for seed in seeds:
        said, cut = live(tmp_path / str(seed), seed, monkeypatch, guarded=guarded)
        assert contradictions([], said) == [], f"seed {seed}"
        assert sound(tmp_path / str(seed), seed % 4).faults == (), f"seed {seed}"
        votes, cuts = votes + len(said), cuts + cut
        commits += sum(isinstance(vote, t.Commit) for vote in said)
    assert cuts > len(seeds)
    assert votes > 5 * len(seeds)
    assert commits > len(seeds) // 2


def sound(folder: Path, me: int) -> Checked:
    """What `p2pfl wal verify` says of the log that all these lives have left."""
    Wal(folder / "g0.wal", DOMAIN.group_id).close()  # The last cut is mended by a start.
    committees = {0: committee_of(4)}.get
    return check([read(folder / "g0.wal")], me=IDS[me], domain=DOMAIN, committees=committees)


def test_no_vote_contradicts_another_however_often_the_power_is_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    swept(tmp_path, monkeypatch, range(25), guarded=True)


def test_the_log_alone_is_enough_for_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the guard, which is deleted at each start: the core and its log keep their word."""
    swept(tmp_path, monkeypatch, range(100, 125), guarded=False)


@pytest.mark.soak
@pytest.mark.parametrize("guarded", [True, False])
def test_many_power_cuts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, guarded: bool) -> None:
    swept(tmp_path, monkeypatch, range(1000, 3000), guarded=guarded)
