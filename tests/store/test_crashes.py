"""A crash at any byte of any write, a restart in bad company: nothing contradicts what had left before."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from consensus.types import Commit, Prepare, Propose, RoundChange
from p2pfl import telemetry
from p2pfl.errors import UserError
from p2pfl.keys import Guard, SigningKey
from p2pfl.store.wal import Wal
from tests.consensus.lab import DOMAIN, KEYS

from .durable_lab import STORIES, DurableLab, contradictions, crashes, go_on

Story = Callable[[Path], DurableLab]
HEAD_BYTES = 24  # The magic and the salt of a journal.
pytestmark = pytest.mark.usefixtures("quick_disk")


class Wreck:
    """What a run left, to be cut and taken up again. Each state of the files is lived through once."""

    def __init__(self, lab: DurableLab, folder: Path) -> None:
        self.lab = lab
        self.log, self.guard = (lab.folder / "g0.wal").read_bytes(), (lab.folder / "guard").read_bytes()
        self.folder = folder
        self.folder.mkdir()
        self.lives = 0
        self._seen: set[tuple[int, int, int]] = set()

    def cut_log(self, bytes_: int) -> int:
        """Cut and open it; how long it is then: a whole number of entries, and all that were whole."""
        path = self.folder / "g0.wal"
        path.write_bytes(self.log[:bytes_])
        Wal(path, DOMAIN.group_id).close()
        return self._whole(path, self.log, bytes_)

    def cut_guard(self, bytes_: int) -> int:
        """The same."""
        path = self.folder / "guard"
        path.write_bytes(self.guard[:bytes_])
        Guard(path, SigningKey(KEYS[self.lab.me])).close()
        return self._whole(path, self.guard, bytes_)

    def _whole(self, path: Path, before: bytes, cut: int) -> int:
        after = path.read_bytes()
        assert after == before[: len(after)]
        assert len(after) == max(end for end in ends(before) if end <= cut)
        return len(after)

    def live_on(self, left: int, *, moment: str) -> bool:
        """Start again and go on; the first `left` votes had left before. Whether it signed anything."""
        log, guard = self.folder / "g0.wal", self.folder / "guard"
        state = (log.stat().st_size, guard.stat().st_size if guard.exists() else 0, left)
        if state in self._seen:
            return True
        self._seen.add(state)
        self.lives += 1
        lab = DurableLab(self.folder, self.lab.me)
        go_on(lab)
        lab.close()
        before = [each.vote for each in self.lab.left[:left]]
        assert contradictions(before, [each.vote for each in lab.left]) == [], moment
        return bool(lab.left)

    def every_entry(self) -> Iterator[int]:
        """Cut the log behind each record; its length then."""
        for end in ends(self.log)[1:]:  # The first record is written before the file has its name.
            self.cut_log(end)
            yield end


@cache
def ends(journal: bytes) -> list[int]:
    """Where the records of a journal's bytes end."""
    found, offset = [], HEAD_BYTES
    while offset < len(journal):
        offset += 32 + int.from_bytes(journal[offset + 4 : offset + 8], "big")
        found.append(offset)
    return found


@pytest.fixture(params=STORIES, ids=[story.__name__ for story in STORIES])
def wreck(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Wreck]:
    telemetry.configure(level="error")  # Thousands of cuts, each with its warning.
    yield Wreck(request.param(tmp_path / "lived"), tmp_path / "again")
    telemetry.configure()


def test_the_stories_lock_and_change_rounds(tmp_path: Path) -> None:
    kinds = [[type(left.vote) for left in story(tmp_path / story.__name__).left] for story in STORIES]
    assert kinds == [
        [Prepare, Commit, RoundChange, RoundChange, Prepare, Commit, RoundChange, Propose, Prepare],
        [Propose, Prepare, RoundChange, Prepare, Commit, RoundChange, RoundChange],
    ]


def test_a_crash_at_every_byte_of_every_write_contradicts_nothing_that_had_left(wreck: Wreck) -> None:
    """Log and guard as they are at that moment: a signature had left when both its writes were whole."""
    offsets, guard_now = 0, -1
    for log_bytes, guard_bytes in crashes(wreck.lab):
        wreck.cut_log(log_bytes)
        if guard_bytes != guard_now:
            wreck.cut_guard(guard_bytes)
            guard_now = guard_bytes
        left = sum(each.wal_bytes <= log_bytes and each.guard_bytes <= guard_bytes for each in wreck.lab.left)
        lives = wreck.lives
        assert wreck.live_on(left, moment=f"log at {log_bytes}, guard at {guard_bytes}"), (
            "it takes part again"
        )
        guard_now = guard_now if lives == wreck.lives else -1  # That life has written to it.
        offsets += 1
    assert offsets > 3_000
    assert wreck.lives > 15


def test_a_log_cut_anywhere_under_a_whole_guard_contradicts_nothing_at_all(wreck: Wreck) -> None:
    """The log came from a backup, or the disk lied: the guard alone forbids every contradiction."""
    for end in wreck.every_entry():
        wreck.cut_guard(len(wreck.guard))
        wreck.live_on(len(wreck.lab.left), moment=f"log at {end}")
    assert wreck.lives > 8


def test_a_log_cut_anywhere_without_any_guard_contradicts_nothing_that_had_left(wreck: Wreck) -> None:
    """The core alone keeps its word, whatever prefix it is given."""
    for end in wreck.every_entry():
        (wreck.folder / "guard").unlink(missing_ok=True)
        wreck.live_on(sum(each.wal_bytes <= end for each in wreck.lab.left), moment=f"log at {end}")
    assert wreck.lives > 8


def test_this_bench_finds_the_contradictions_of_a_member_without_its_order(wreck: Wreck) -> None:
    """A log that lags behind the signatures, and no guard: the tests above can fail."""
    found = 0
    for end in wreck.every_entry():
        (wreck.folder / "guard").unlink(missing_ok=True)
        try:
            wreck.live_on(len(wreck.lab.left), moment=f"log at {end}")
        except AssertionError:
            found += 1
    assert found > 2


@pytest.mark.parametrize("name", ["g0.wal", "guard"])
def test_a_damaged_middle_stops_with_the_offset_and_the_way_out(wreck: Wreck, name: str) -> None:
    """One flipped bit at every third byte of a real run's files, any bit of it."""
    whole = wreck.log if name == "g0.wal" else wreck.guard
    path = wreck.folder / name
    for place in range(0, len(whole), 3):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
        with pytest.raises(UserError, match=r"damaged at byte \d+") as caught:
            opened(path, wreck.lab.me)
        told = caught.value.what.rpartition(" ")[2]
        assert int(told) <= max(place, HEAD_BYTES), "the record begins before its damaged byte"
        assert ("--guard-lost" if name == "guard" else "move the file away") in caught.value.fix


def opened(path: Path, me: int) -> None:
    if path.name == "guard":
        Guard(path, SigningKey(KEYS[me])).close()
    else:
        Wal(path, DOMAIN.group_id).close()
