"""A driver of a committee of one on a real disk: what is durable before what, and what a full disk does."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import io
import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from consensus import types as ct
from consensus.evidence import contradiction
from p2pfl import telemetry
from p2pfl.contradiction import Contradiction
from p2pfl.errors import UserError
from p2pfl.guard_file import struct_of
from p2pfl.rounds import patience
from p2pfl.rounds.collect import DoubleSigned
from p2pfl.rounds.prosecutor import Prosecutor
from p2pfl.store import Notes
from testnet import plan
from tests.rounds.alone import Alone, network_of_one

FILES = 3  # Log, chain and guard are made with one write each, before anything else.
VOTES = {"Propose": ct.Propose, "Prepare": ct.Prepare, "Commit": ct.Commit, "RoundChange": ct.RoundChange}


@pytest.fixture(scope="module")
def seat(tmp_path_factory: pytest.TempPathFactory) -> plan.Plan:
    return network_of_one(tmp_path_factory.mktemp("network") / "run")


async def lived(seat: plan.Plan, folder: Path, heights: int) -> Alone:
    """Run until so many heights are decided, then close."""
    alone = Alone(seat, folder, heights)
    try:
        with trio.fail_after(30):
            await alone.run()
    finally:
        alone.close()
    return alone


def judge(seat: plan.Plan, folder: Path, lives: list[Alone], heights: int) -> None:
    """The chain is whole and goes on; no two votes that ever left, or that the guard kept, contradict."""
    again = Alone(seat, folder, heights)
    assert again.chain.height == heights - 1
    votes = {
        next(value.vote for value in vars_of(message) if hasattr(value, "vote"))
        for life in lives
        for message in life.said
    }
    votes |= {struct_of(record.words, VOTES[record.kind]) for record in again.guard.content()[1]}
    again.close()
    assert len(votes) >= 3 * (heights - 1)
    assert [pair for pair in combinations(votes, 2) if contradiction(*pair) is not None] == []


def vars_of(message: ct.Message) -> list[Any]:
    return [getattr(message, field.name) for field in dataclasses.fields(message)]


class Disk:
    """os.write and os.fsync as they are, but for what `refuse(path, call)` says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, refuse: Callable[[str, int], bool]) -> None:
        self.calls: list[str] = []
        self.writes = 0
        self._write, self._fsync, self._refuse = os.write, os.fsync, refuse
        monkeypatch.setattr(os, "write", self.write)
        monkeypatch.setattr(os, "fsync", self.fsync)

    def write(self, handle: int, data: bytes) -> int:
        name = Path(f"/proc/self/fd/{handle}").resolve().name
        self.writes += 1
        if self._refuse(name, self.writes):
            if len(data) > 1:
                self._write(handle, data[: len(data) // 2])  # As much as there was room for.
            raise OSError(errno.ENOSPC, "No space left on device")
        self.calls.append(f"write {name}")
        return self._write(handle, data)

    def fsync(self, handle: int) -> None:
        self.calls.append(f"fsync {Path(f'/proc/self/fd/{handle}').resolve().name}")
        self._fsync(handle)


class Told(io.StringIO):
    """What the log says. full: it has said that the disk is; room: that there is some again."""

    def __init__(self) -> None:
        super().__init__()
        self.full, self.room = trio.Event(), trio.Event()

    def write(self, text: str) -> int:
        if "the disk is full" in text:
            self.full.set()
        if "there is room on the disk again" in text:
            self.room.set()
        return super().write(text)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[Told]:
    """What the log says; and a short wait for room."""
    monkeypatch.setattr(patience, "RETRY_S", 0.005)
    text = Told()
    telemetry.configure(stream=text)
    yield text
    telemetry.configure()


async def test_a_vote_leaves_after_the_log_and_the_guard_are_on_the_disk(
    seat: plan.Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the calls of the system: this fails when an fsync is taken out, or a signature leaves too soon."""
    disk = Disk(monkeypatch, lambda name, call: False)
    alone = Alone(seat, tmp_path / "node", 2)
    alone.broadcast = lambda to, message: disk.calls.append("left")  # type: ignore[method-assign]
    disk.calls.clear()
    await alone.run()
    alone.close()
    assert disk.calls.count("left") == 6
    durably = ["write council.wal", "fsync council.wal", "write guard", "fsync guard", "left"]
    mark = ["write council.wal"]  # Of a height: it goes to the disk with what follows.
    block = ["write council.mps", "fsync council.mps"]
    assert disk.calls == [*mark, *durably * 3, *block, *mark, *durably * 3, *block]


async def test_a_disk_that_is_full_for_a_while_costs_time_and_nothing_else(
    seat: plan.Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: Told
) -> None:
    """Full at each write in turn, whatever is written, for three tries; half of each write is torn off."""
    disk = Disk(monkeypatch, lambda name, call: False)
    await lived(seat, tmp_path / "whole", 3)
    assert "disk is full" not in told.getvalue()
    for place in range(FILES + 1, disk.writes + 1):
        told.truncate(0)
        with monkeypatch.context() as full:
            Disk(full, lambda name, call, place=place: place <= call < place + 3)
            folder = tmp_path / str(place)
            alone = await lived(seat, folder, 3)
        judge(seat, folder, [alone], 3)
        assert "the disk is full: this node waits and signs nothing" in told.getvalue(), place
        assert "make room on the disk of" in told.getvalue()
        assert "there is room on the disk again" in told.getvalue()


async def test_a_folder_that_cannot_be_made_for_want_of_room_is_told_and_can_be_made_later(
    seat: plan.Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in range(1, FILES + 1):
        folder = tmp_path / str(place)
        with monkeypatch.context() as full:
            Disk(full, lambda name, call, place=place: call >= place)
            with pytest.raises(UserError, match="the disk is full"):
                Alone(seat, folder, 2).close()
        alone = await lived(seat, folder, 2)
        judge(seat, folder, [alone], 2)


async def test_a_node_that_is_stopped_while_the_disk_is_full_takes_up_where_it_was(
    seat: plan.Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: Told
) -> None:
    disk = Disk(monkeypatch, lambda name, call: False)
    await lived(seat, tmp_path / "whole", 3)
    for place in range(FILES + 1, disk.writes + 1):
        folder = tmp_path / str(place)
        with monkeypatch.context() as full:
            Disk(full, lambda name, call, place=place: call >= place)
            stopped = Alone(seat, folder, 3)
            with trio.move_on_after(0.05):
                await stopped.run()
            stopped.close()
        alone = await lived(seat, folder, 3)
        judge(seat, folder, [stopped, alone], 3)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 512 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=512k", "none", str(place)]
    if os.geteuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode != 0:
        pytest.skip("mounting a file system needs root")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)  # A test that failed holds it open.


async def test_a_proof_that_finds_no_room_is_kept_when_there_is_some(tmp_path: Path, told: Told) -> None:
    """Beside it stands a note for pages, which is left out."""
    a, b = (ct.Prepare(0, 3, 0, ct.Digest(bytes([each]) * 32)) for each in (1, 2))
    double = DoubleSigned(ct.MemberId(b"x" * 20), "ParamTx", a, b"1" * 65, b, b"2" * 65)
    nothing = SimpleNamespace(chain=SimpleNamespace(blocks=[]))
    context = SimpleNamespace(
        group_id=bytes(32), name_of=lambda member: "x", observe=lambda kind, fields: None, council=nothing
    )
    notes = Notes(tmp_path)
    prosecutor = Prosecutor(context, notes, None, lambda _: None, lambda _: None)  # type: ignore[arg-type]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(prosecutor.run)
        resource.setrlimit(resource.RLIMIT_FSIZE, (50, hard))
        try:
            prosecutor.double_signed(double)
            notes.add("faults", {"reason": "x" * 100})
            await trio.sleep(0.05)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert notes.read("evidence") == []
        with trio.fail_after(5):
            await told.room.wait()
        nursery.cancel_scope.cancel()
    assert [note["culprit"] for note in notes.read("evidence")] == ["0x" + (b"x" * 20).hex()]
    assert notes.read("faults") == []
    assert "a proof waits for room on the disk" in told.getvalue()
    assert "a note was not kept" in told.getvalue()
    # After a restart the council hears of it: it may not have come so far before.
    again: list[Contradiction] = []
    restarted = Prosecutor(context, notes, None, lambda _: None, again.append)  # type: ignore[arg-type]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(restarted.run)
        await trio.sleep(0.05)
        nursery.cancel_scope.cancel()
    assert [(each.first, each.second) for each in again] == [(a, b)]


def fill(path: Path) -> None:
    """Take all the room that there is."""
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    assert shutil.disk_usage(path.parent).free == 0


async def test_a_real_file_system_that_runs_full(seat: plan.Plan, small_disk: Path, told: Told) -> None:
    heights = 120
    alone = Alone(seat, small_disk / "node", heights)
    filler = small_disk / "filler"
    fill(filler)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(alone.run)
        with trio.fail_after(30):
            await told.full.wait()
            await trio.sleep(0.1)
            said, height = len(alone.said), alone.chain.height
            await trio.sleep(0.1)  # Twenty tries.
            assert (len(alone.said), alone.chain.height) == (said, height), "it signs nothing meanwhile"
            assert height < heights - 1
            filler.unlink()
            await alone.done.wait()
    alone.close()
    judge(seat, small_disk / "node", [alone], heights)
