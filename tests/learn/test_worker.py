"""The training process: what comes back from it, and what happens when it dies or nobody waits."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import trio
import trio.testing

from p2pfl.errors import PeerFault, UserError
from p2pfl.learn import task
from p2pfl.learn import worker as room
from p2pfl.learn.train import replay_segment, train
from p2pfl.learn.worker import DEATHS_MAX, TaskFailed, Worker, WorkerDied
from tests.learn import own
from tests.learn.test_train import job

TIME_LIMIT_S = 60


@pytest.fixture(scope="module")
def spawned() -> Iterator[Worker]:
    """A fresh interpreter as the training process, with torch; it serves all tests that leave it alive."""
    with pytest.MonkeyPatch.context() as patch, Worker() as worker:
        patch.setattr(room, "_alone", lambda: False)
        worker.start()
        assert not worker.forked
        yield worker


@pytest.fixture
def short_lived() -> Iterator[Worker]:
    """One that a test may kill. Its tasks need no torch, so that it starts quickly."""
    with Worker() as worker:
        yield worker


async def open_other_end(fifo: Path) -> int:
    """Wait until a task has opened this pipe to read."""
    return await trio.to_thread.run_sync(os.open, fifo, os.O_WRONLY, abandon_on_cancel=True)


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    path = tmp_path / "gate"
    os.mkfifo(path)
    return path


# ---------------------------------------------------------------------------
# Work.


async def test_the_process_gives_the_same_bytes_as_this_one(spawned: Worker) -> None:
    await spawned.warm()
    asked = job("cnn", steps=20)
    here, there = train(asked), await spawned.run("train", asked)
    assert there.states == here.states
    assert there.parameters.tobytes() == here.parameters.tobytes()
    assert there.trace_root == here.trace_root
    assert await spawned.run("replay_segment", asked, here.states[1], 1) == replay_segment(
        asked, here.states[1], 1
    )
    loss, accuracy = await spawned.run("evaluate", "cnn", (1, 8, 8), 10, here.parameters, asked.x, asked.y)
    assert round(loss * 1e6) == here.loss_after_micro
    assert 0 <= accuracy <= 1


async def test_arrays_of_many_megabytes_come_back_writable(spawned: Worker) -> None:
    values = np.arange(2_000_000, dtype=np.float64)
    result = await spawned.run("tests_doubled", values)
    assert np.array_equal(result, 2 * values)
    result += 1
    assert (await spawned.run("tests_doubled", np.zeros(0))).shape == (0,)
    assert (await spawned.run("tests.learn.own:doubled", values[::3])).shape == values[::3].shape


async def test_jobs_are_done_one_by_one_in_the_order_in_which_they_were_asked_for(spawned: Worker) -> None:
    done: list[int] = []

    async def ask(number: int) -> None:
        assert (await spawned.run("tests_doubled", np.array([number])))[0] == 2 * number
        done.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(5):
            nursery.start_soon(ask, number)
            await trio.testing.wait_all_tasks_blocked()
    assert done == [0, 1, 2, 3, 4]


async def test_the_event_loop_turns_while_the_process_computes(spawned: Worker) -> None:
    turns = 0

    async def turn() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(turn)
        await spawned.run("train", job("mlp", steps=10))
        nursery.cancel_scope.cancel()
    assert turns > 100


async def test_the_process_is_another_and_less_urgent(spawned: Worker) -> None:
    assert await spawned.run("tests_pid") == spawned.pid != os.getpid()
    assert await spawned.run("tests_priority") >= min(19, os.nice(0) + room.NICE)


async def test_nothing_it_prints_reaches_standard_output(
    spawned: Worker, capfd: pytest.CaptureFixture[str]
) -> None:
    await spawned.run("tests_prints")
    assert capfd.readouterr().out == ""


async def test_each_fault_comes_back_as_what_it_is(spawned: Worker) -> None:
    with pytest.raises(PeerFault) as peer:
        await spawned.run("tests_fails", "peer")
    assert (peer.value.reason, peer.value.detail) == ("bad_state", "too short")
    with pytest.raises(UserError) as user:
        await spawned.run("tests_fails", "user")
    assert (user.value.what, user.value.because, user.value.fix) == ("it is wrong", "of that", "mend it")
    with pytest.raises(TaskFailed, match=r"RuntimeError: a bug of ours(.|\n)*in fails"):
        await spawned.run("tests_fails", "ours")
    with pytest.raises(TaskFailed, match="pickle"):
        await spawned.run("tests_unspeakable")
    with pytest.raises(UserError, match="there is no task 'tests_nothing'"):
        await spawned.run("tests_nothing")
    assert await spawned.run("tests_pid") == spawned.pid


# ---------------------------------------------------------------------------
# Death.


async def test_a_process_that_dies_ends_its_job_and_the_next_job_starts_another(short_lived: Worker) -> None:
    first = await short_lived.run("tests_pid")
    with pytest.raises(WorkerDied, match="'tests_killed': killed by SIGKILL"):
        await short_lived.run("tests_killed")
    assert await short_lived.run("tests_pid") != first
    with pytest.raises(ProcessLookupError):
        os.kill(first, 0)


async def test_a_process_that_dies_between_two_jobs_costs_one_job(short_lived: Worker) -> None:
    os.kill(await short_lived.run("tests_pid"), 9)
    with pytest.raises(WorkerDied):
        await short_lived.run("tests_pid")
    await short_lived.run("tests_pid")


async def test_restarts_are_bounded_but_a_success_forgives(short_lived: Worker) -> None:
    for _ in range(DEATHS_MAX - 1):
        with pytest.raises(WorkerDied):
            await short_lived.run("tests_killed")
    await short_lived.run("tests_pid")
    for _ in range(DEATHS_MAX):
        with pytest.raises(WorkerDied):
            await short_lived.run("tests_killed")
    with pytest.raises(UserError, match="keeps dying"):
        await short_lived.run("tests_pid")


def test_close_kills_a_process_and_may_be_called_twice() -> None:
    worker = Worker()
    worker.start()
    pid = worker.pid
    assert pid is not None
    worker.close()
    worker.close()
    assert worker.pid is None
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_the_process_does_not_outlive_its_parent(fifo: Path) -> None:
    script = (
        "import os, sys, trio; from p2pfl.learn.worker import Worker; from tests.learn import own\n"
        "async def main():\n"
        "    worker = Worker(); worker.start(); print(worker.pid, flush=True)\n"
        "    async with trio.open_nursery() as nursery:\n"
        "        nursery.start_soon(worker.run, 'tests_waits', sys.argv[1])\n"
        "        nursery.start_soon(trio.to_thread.run_sync, open, sys.argv[1], 'w')\n"
        "        await trio.to_thread.run_sync(sys.stdin.readline)\n"
        "        os._exit(0)\n"
        "trio.run(main)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(fifo)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        child = os.pidfd_open(int(parent.stdout.readline()))
        try:
            parent.stdin.write("go\n")
            parent.stdin.flush()
            assert select.select([child], [], [], TIME_LIMIT_S)[0], "the child lives on"
        finally:
            os.close(child)


# ---------------------------------------------------------------------------
# Nobody waits.


async def test_a_cancelled_caller_leaves_at_once_and_its_answer_is_not_the_next_ones(
    short_lived: Worker, fifo: Path
) -> None:
    pid = await short_lived.run("tests_pid")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(short_lived.run, "tests_waits", str(fifo))
        gate = await open_other_end(fifo)
        nursery.cancel_scope.cancel()
    os.write(gate, b"late")
    os.close(gate)
    with trio.fail_after(TIME_LIMIT_S):
        assert (await short_lived.run("tests_doubled", np.array([4])))[0] == 8
    assert short_lived.pid == pid


async def test_a_caller_who_is_cancelled_in_the_queue_costs_nothing(short_lived: Worker, fifo: Path) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(short_lived.run, "tests_waits", str(fifo))
        gate = await open_other_end(fifo)
        with trio.move_on_after(0) as queued:
            await short_lived.run("tests_pid")
        assert queued.cancelled_caught
        os.close(gate)
    assert await short_lived.run("tests_pid") == short_lived.pid


async def test_cancelling_in_the_middle_of_a_large_frame_spoils_nothing(short_lived: Worker) -> None:
    values = np.arange(1_000_000, dtype=np.float64)
    await short_lived.run("tests_pid")
    for checkpoints in range(0, 60, 3):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(short_lived.run, "tests_doubled", values)
            for _ in range(checkpoints):
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        with trio.fail_after(TIME_LIMIT_S):
            assert (await short_lived.run("tests_doubled", np.array([checkpoints])))[0] == 2 * checkpoints
    assert np.array_equal(await short_lived.run("tests_doubled", values), 2 * values)


async def test_an_abandoned_job_that_does_not_end_is_ended(
    short_lived: Worker, fifo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "ABANDONED_S", 0.01)
    first = await short_lived.run("tests_pid")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(short_lived.run, "tests_waits", str(fifo))
        gate = await open_other_end(fifo)
        nursery.cancel_scope.cancel()
    assert await short_lived.run("tests_pid") != first
    os.close(gate)


# ---------------------------------------------------------------------------
# Fork.


def test_a_process_with_one_thread_forks_its_child_and_shares_torch_with_it() -> None:
    script = (
        "import sys, trio; from p2pfl.learn.numerics import pinned_torch; pinned_torch()\n"
        "from p2pfl.learn.worker import Worker; from tests.learn.test_train import job\n"
        "async def main():\n"
        "    with Worker() as worker:\n"
        "        print('lost'); worker.start()\n"
        "        result = await worker.run('train', job('cnn', steps=20))\n"
        "        await worker.run('tests.learn.own:prints')\n"
        "        print(worker.forked, result.trace_root.hex())\n"
        "trio.run(main)\n"
    )
    alone = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        capture_output=True, text=True, check=True, env={**os.environ, **alone},
    )  # fmt: skip
    assert done.stdout.split() == ["lost", "True", train(job("cnn", steps=20)).trace_root.hex()]
    assert done.stderr == "chatter\nmore chatter"


def test_a_process_with_a_second_thread_does_not_fork() -> None:
    script = (
        "import threading; from p2pfl.learn.worker import Worker\n"
        "gate = threading.Event(); other = threading.Thread(target=gate.wait); other.start()\n"
        "with Worker() as worker:\n"
        "    worker.start(); print(worker.forked)\n"
        "gate.set(); other.join()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


# ---------------------------------------------------------------------------
# Frames.


@pytest.mark.parametrize(
    "head",
    [
        bytes(4),
        (task.PARTS_MAX + 1).to_bytes(4, "little"),
        (1).to_bytes(4, "little") + (task.FRAME_BYTES_MAX + 1).to_bytes(8, "little"),
    ],
    ids=["no parts", "too many parts", "too long"],
)
def test_a_frame_beyond_all_reason_is_refused_before_it_takes_memory(head: bytes) -> None:
    def feed() -> None:
        reader = task.read_frame()
        wanted = next(reader)
        for byte in head:
            wanted[:1] = bytes((byte,))
            wanted = reader.send(1)

    with pytest.raises(ValueError, match="a frame of"):
        feed()


def test_a_frame_is_read_in_any_pieces() -> None:
    content = ("done", [np.arange(10), np.zeros((0, 3)), b"bytes"])
    stream = b"".join(task.pack(content))
    for size in (1, 3, 7, len(stream)):
        reader = task.read_frame()
        wanted, at, found = next(reader), 0, None
        while found is None:
            piece = stream[at : at + min(size, len(wanted))]
            wanted[: len(piece)] = piece
            at += len(piece)
            try:
                wanted = reader.send(len(piece))
            except StopIteration as finished:
                found = task.unpack(finished.value)
        assert at == len(stream)
        assert np.array_equal(found[1][0], np.arange(10))
        assert found[1][1].shape == (0, 3)
        assert found[1][2] == b"bytes"


def test_the_tasks_of_other_rooms_are_named_in_the_table() -> None:
    assert {"train", "replay_segment", "evaluate", "warm", "tests_pid"} <= set(task.task.names())
    assert task.task.find("tests_pid") is own.pid
