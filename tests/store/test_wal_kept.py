"""Decided heights stay in files beside the log until their epoch ends, or until they take too much room."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from consensus.types import Elapsed
from p2pfl.errors import UserError
from p2pfl.store import wal as wal_room
from p2pfl.store.wal import Wal
from p2pfl.store.wal_file import segments

from .builds import GROUP, prepare, proposal


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, quick_disk: None) -> None:
    """Files of a few heights, three of them at most."""
    monkeypatch.setattr(wal_room, "SEGMENT_BYTES", 4_000)
    monkeypatch.setattr(wal_room, "KEPT_BYTES_MAX", 15_000)


def written(path: Path, heights: range, *, late: tuple[int, ...] = (), epoch: int = 0) -> None:
    """About 1,100 bytes a height; `late` ones saw a second round."""
    wal = Wal(path, GROUP)
    for height in heights:
        wal.reset(height, epoch)
        wal.append(proposal(height, os.urandom(600)))
        wal.append(Elapsed(height, 0) if height in late else prepare(height))
    wal.close()


def kept(path: Path) -> list[int]:
    wal = Wal(path, GROUP)
    found = [height for _, height, _ in wal.kept()]
    wal.close()
    return found


def test_decided_heights_can_be_read_again_with_all_their_inputs(tmp_path: Path) -> None:
    path = tmp_path / "g0.wal"
    written(path, range(12))
    assert len(segments(path)) >= 2
    wal = Wal(path, GROUP)
    found = list(wal.kept())
    assert [height for _, height, _ in found] == list(range(12))
    assert all(epoch == 0 and events[1] == prepare(height) for epoch, height, events in found)
    assert wal.replay(11) == found[-1][2]
    wal.close()


def test_a_restart_reads_one_file_however_many_heights_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "g0.wal"
    written(path, range(12))
    opened: list[str] = []
    whole = Path.open

    def open_(self: Path, mode: str = "r") -> object:
        opened.append(self.name)
        return whole(self, mode)

    monkeypatch.setattr(Path, "open", open_)
    Wal(path, GROUP).close()
    assert opened == ["g0.wal"]
    assert path.stat().st_size < 4_000 + 1_500


def test_with_too_many_the_oldest_that_were_decided_in_round_0_lose_their_proposals(tmp_path: Path) -> None:
    path = tmp_path / "g0.wal"
    written(path, range(40), late=(1, 2, 17))
    wal = Wal(path, GROUP)
    found = {height: len(events) for _, height, events in wal.kept()}
    wal.close()
    assert list(found) == list(range(40))
    assert [found[height] for height in (1, 2, 17)] == [2, 2, 2], "they have a justification"
    thin = [height for height in found if found[height] == 1]
    assert {0, 3, 4, 5, 16} <= set(thin)
    assert set(thin) | {1, 2, 17} == set(range(max(thin) + 1)), "the newest are whole"
    assert sum(segment.path.stat().st_size for segment in segments(path)) <= 15_000


def test_what_stays_of_a_height_of_round_0_are_its_votes(tmp_path: Path) -> None:
    path = tmp_path / "g0.wal"
    written(path, range(40))
    wal = Wal(path, GROUP)
    assert next(iter(wal.kept())) == (0, 0, [prepare(0)])
    wal.close()
    # When that is too much as well, the oldest go.
    written(path, range(40, 200))
    found = kept(path)
    assert found == list(range(found[0], 200))
    assert found[0] > 40


def test_where_all_changed_rounds_the_oldest_go(tmp_path: Path) -> None:
    path = tmp_path / "g0.wal"
    written(path, range(40), late=tuple(range(40)))
    found = kept(path)
    assert found == list(range(found[0], 40))
    assert 8 < len(found) < 25


def test_the_end_of_an_epoch_frees_what_it_held(tmp_path: Path) -> None:
    path = tmp_path / "g0.wal"
    written(path, range(8))
    written(path, range(8, 13), epoch=1)
    wal = Wal(path, GROUP)
    wal.forget_before(1)
    found = [(epoch, height) for epoch, height, _ in wal.kept()]
    assert found[-5:] == [(1, height) for height in range(8, 13)]
    assert (0, 0) not in found
    wal.forget_before(2)
    assert segments(path) == []
    assert wal.replay(12, 1), "the open file stays"
    wal.close()


def test_the_epoch_before_is_kept_through_the_next_one_and_then_deleted(tmp_path: Path) -> None:
    path = tmp_path / "g0.wal"
    written(path, range(4))
    for epoch, heights, still in (
        (1, range(4, 8), {0, 1}),
        (2, range(8, 12), {1, 2}),
        (3, range(12, 16), {2, 3}),
    ):
        written(path, heights, epoch=epoch)
        assert {segment.epoch for segment in segments(path)} | {epoch} == still


def test_the_same_height_of_another_epoch_begins_anew(tmp_path: Path) -> None:
    wal = Wal(tmp_path / "g0.wal", GROUP)
    wal.reset(5, 0)
    wal.append(prepare(5))
    assert wal.replay(5, 1) == []
    wal.close()
    wal = Wal(tmp_path / "g0.wal", GROUP)
    assert (wal.height, wal.epoch) == (5, 1)
    wal.close()


def test_another_groups_files_are_left_alone(tmp_path: Path) -> None:
    written(tmp_path / "g0.wal", range(8))
    written(tmp_path / "g00.wal", range(8))
    wal = Wal(tmp_path / "g0.wal", GROUP)
    wal.forget_before(9)
    wal.close()
    assert segments(tmp_path / "g0.wal") == []
    assert segments(tmp_path / "g00.wal")


@pytest.mark.parametrize("fails", ["rename", "fsync"])
def test_a_log_that_cannot_be_divided_grows_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    path = tmp_path / "g0.wal"

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    wal = Wal(path, GROUP)
    for height in range(9):
        with monkeypatch.context() as broken:
            if height <= 6:
                broken.setattr(os, fails, full)
            wal.reset(height)
        assert bool(segments(path)) == (height > 6)
        wal.append(proposal(height, os.urandom(900)))
    assert [height for _, height, _ in wal.kept()] == list(range(9))
    wal.close()
    assert kept(path) == list(range(9))


def test_a_crash_between_the_two_names_loses_no_decided_height(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "g0.wal"
    written(path, range(3))
    wal = Wal(path, GROUP)
    monkeypatch.setattr(wal_room, "SEGMENT_BYTES", 1_000)

    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as dying:
        dying.setattr(wal_room.Journal, "create", dies)
        with pytest.raises(KeyboardInterrupt):
            wal.reset(3)
    wal.close()
    assert not path.exists()
    wal = Wal(path, GROUP)
    assert wal.replay(3) == []
    assert [height for _, height, _ in wal.kept()] == [0, 1, 2]
    wal.close()


def test_a_damaged_file_of_decided_heights_does_not_stop_the_node(tmp_path: Path) -> None:
    path = tmp_path / "g0.wal"
    written(path, range(12))
    first = segments(path)[0].path
    data = bytearray(first.read_bytes())
    data[len(data) // 2] ^= 1
    first.write_bytes(data)
    assert set(kept(path)) < set(range(12))
    assert kept(path)[-1] == 11
    written(path, range(12, 200))
    assert not first.exists()


def test_dividing_needs_two_syncs_and_the_names_are_durable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file, its new name and the old one's: file, rename, folder."""
    told: list[str] = []
    rename = os.rename

    def fsync(handle: int) -> None:
        told.append("folder" if Path(f"/proc/self/fd/{handle}").resolve().is_dir() else "file")

    path = tmp_path / "g0.wal"
    written(path, range(4))
    wal = Wal(path, GROUP)
    monkeypatch.setattr(wal_room, "SEGMENT_BYTES", 1_000)
    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "rename", lambda old, new: (told.append("rename"), rename(old, new))[1])
    wal.reset(4)
    assert told == ["rename", "file", "rename", "folder"]
    with pytest.raises(UserError, match="in use"):
        Wal(path, GROUP)
    wal.close()
