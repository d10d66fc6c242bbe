"""Nothing that the zygote starts outlives it, and it does not outlive the launcher."""

from __future__ import annotations

import json
import os
import select
import signal
from pathlib import Path

import pytest
import trio

from p2pfl.errors import UserError
from testnet.zygote import Zygote, open_zygote
from tests.testnet import children

HERE = "tests.testnet.children"


def handles(pids: list[int]) -> list[int]:
    """A pidfd each: readable when the process has ended, whoever reaps it."""
    return [os.pidfd_open(pid) for pid in pids]


def all_ended(pidfds: list[int], within_s: float = 10.0) -> bool:
    """Whether all these processes end in time."""
    ended = [select.select([fd], [], [], within_s)[0] != [] for fd in pidfds]
    for fd in pidfds:
        os.close(fd)
    return all(ended)


async def read_line(zygote: Zygote, name: str, target: str, spec: dict[str, object]) -> str:
    child = await zygote.fork(name, f"{HERE}:{target}", spec)
    data = b""
    with trio.fail_after(10):
        while not data.endswith(b"\n"):
            data += await child.events.receive_some(4096)
    return data.decode()


async def test_children_say_who_they_are_and_how_they_end(tmp_path: Path) -> None:
    async with open_zygote(("json",), tmp_path / "log") as zygote:
        for status in (0, 3):
            said = json.loads(await read_line(zygote, f"child{status}", "echo", {"status": status}))
            child = zygote.children[said["pid"]]
            assert said["parent"] == zygote.pid
            with trio.fail_after(10):
                await child.ended.wait()
            assert (child.status, child.alive) == (status, False)


async def test_a_child_has_no_files_of_the_zygote(tmp_path: Path) -> None:
    async with open_zygote((), tmp_path / "log") as zygote:
        await read_line(zygote, "first", "sleeper", {})
        said = json.loads(await read_line(zygote, "second", "descriptors", {}))
    assert said["open"] == [0, 1, 2, said["mine"]]


async def test_a_killed_child_is_reported(tmp_path: Path) -> None:
    async with open_zygote((), tmp_path / "log") as zygote:
        pid = int(await read_line(zygote, "x", "sleeper", {}))
        zygote.kill(zygote.children[pid], signal.SIGKILL)
        with trio.fail_after(10):
            await zygote.children[pid].ended.wait()
        assert zygote.children[pid].status == -signal.SIGKILL


async def test_leaving_ends_everybody(tmp_path: Path) -> None:
    async with open_zygote((), tmp_path / "log") as zygote:
        pids = [zygote.pid] + [int(await read_line(zygote, f"x{i}", "sleeper", {})) for i in range(3)]
        watched = handles(pids)
    assert all_ended(watched)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
async def test_no_orphan_when_the_launcher_ends(tmp_path: Path, number: signal.Signals) -> None:
    """Its children ignore SIGTERM, so that a grace has to pass where there is one."""
    with children.start_launcher(str(tmp_path / "log")) as launcher:
        assert launcher.stdout is not None
        watched = handles([int(pid) for pid in launcher.stdout.readline().split()])
        assert len(watched) == 3
        launcher.send_signal(number)
        assert await trio.to_thread.run_sync(all_ended, watched)


async def test_a_module_that_is_missing_is_said(tmp_path: Path) -> None:
    with pytest.RaisesGroup(pytest.RaisesExc(UserError, match="no_such_module_here")):
        async with open_zygote(("no_such_module_here",), tmp_path / "log") as zygote:
            await zygote.ready()


async def test_when_the_zygote_is_killed_its_children_end_and_orders_are_refused(tmp_path: Path) -> None:
    with pytest.RaisesGroup(pytest.RaisesExc(UserError, match="cannot be started")):
        async with open_zygote((), tmp_path / "log") as zygote:
            pids = [int(await read_line(zygote, f"x{i}", "stubborn", {})) for i in range(2)]
            watched = handles(pids)
            os.kill(zygote.pid, signal.SIGKILL)
            assert await trio.to_thread.run_sync(all_ended, watched)
            with trio.fail_after(10):
                for pid in pids:
                    await zygote.children[pid].ended.wait()
            await zygote.fork("late", f"{HERE}:sleeper", {})
