"""The log of the core's inputs: a restart sees every entry of the open height, in order, and no other."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from consensus.types import ZERO_DIGEST, Digest, Elapsed, Started, Validated
from p2pfl.errors import UserError
from p2pfl.store.wal import Wal

from .builds import GROUP, prepare, proposal


def opened(path: Path) -> Wal:
    return Wal(path, GROUP)


EVENTS = [
    Started(None, ZERO_DIGEST, ZERO_DIGEST),
    prepare(0),
    proposal(0, b"\xb5MPS" * 50),
    Elapsed(0, 0),
    Validated(0, 1, ZERO_DIGEST, True),
]


def test_a_restart_replays_the_open_height(tmp_path: Path) -> None:
    path = tmp_path / "wal"
    wal = opened(path)
    assert wal.replay(0) == []
    for event in EVENTS:
        wal.append(event)
    assert wal.replay(0) == EVENTS
    wal.close()
    wal = opened(path)
    assert wal.replay(0) == EVENTS
    wal.append(prepare(0, 1))
    assert wal.replay(0) == [*EVENTS, prepare(0, 1)]
    wal.close()


def test_a_restart_replays_nothing_of_a_decided_height(tmp_path: Path) -> None:
    path = tmp_path / "wal"
    wal = opened(path)
    wal.reset(0)
    wal.append_many(EVENTS)
    wal.reset(1)
    wal.append(prepare(1))
    wal.close()
    wal = opened(path)
    assert wal.height == 1
    assert wal.replay(1) == [prepare(1)]
    wal.close()


def test_a_crash_between_the_block_and_the_reset_drops_the_old_height(tmp_path: Path) -> None:
    path = tmp_path / "wal"
    wal = opened(path)
    wal.reset(0)
    wal.append_many(EVENTS)
    wal.close()  # The block of height 0 is stored, the log was not reset.
    wal = opened(path)
    assert wal.replay(1) == []
    wal.append(prepare(1))
    wal.close()
    wal = opened(path)
    assert wal.replay(1) == [prepare(1)]
    wal.close()


@pytest.mark.usefixtures("quick_disk")
def test_every_truncation_of_the_last_entry_leaves_the_others(tmp_path: Path) -> None:
    path = tmp_path / "wal"
    wal = opened(path)
    wal.reset(4)
    wal.append_many(EVENTS)
    kept = path.stat().st_size
    wal.append(proposal(4, os.urandom(300)))
    wal.close()
    whole = path.read_bytes()
    for end in range(kept, len(whole)):
        path.write_bytes(whole[:end])
        wal = opened(path)
        assert wal.replay(4) == EVENTS
        wal.close()


@pytest.mark.usefixtures("quick_disk")
def test_damage_stops_with_the_offset_and_the_way_out(tmp_path: Path) -> None:
    path = tmp_path / "wal"
    wal = opened(path)
    wal.reset(4)
    wal.append_many(EVENTS)
    wal.close()
    whole = path.read_bytes()
    for place in range(0, len(whole), 11):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x40]) + whole[place + 1 :])
        with pytest.raises(UserError, match=r"damaged at byte \d+") as caught:
            opened(path)
        assert "move the file away" in caught.value.fix


def test_an_entry_is_on_disk_before_append_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    fsync = os.fsync
    wal = opened(tmp_path / "wal")
    wal.reset(0)
    monkeypatch.setattr(
        os, "fsync", lambda handle: (synced.append(os.fstat(handle).st_size), fsync(handle))[1]
    )
    wal.append(EVENTS[0])
    assert synced == [(tmp_path / "wal").stat().st_size]
    wal.append_many(EVENTS)
    assert len(synced) == 2
    wal.close()


def test_an_entry_before_any_height_is_a_bug(tmp_path: Path) -> None:
    wal = opened(tmp_path / "wal")
    with pytest.raises(ValueError, match="no height"):
        wal.append(prepare(0))
    wal.close()


def test_the_log_of_another_chain_is_refused(tmp_path: Path) -> None:
    opened(tmp_path / "wal").close()
    with pytest.raises(UserError, match="belongs to something else"):
        Wal(tmp_path / "wal", Digest(b"x" * 32))
