"""Where training runs: a process of its own, less urgent than the node, so that no vote waits for it.

The node asks with `await worker.run("train", job)`; the event loop never waits for anything but bytes.
What happens in the process is in `task`. Knows nothing of what the tasks compute. The channel carries
pickles between a process and its own child only (see `task`).
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import trio

from p2pfl.errors import PeerFault, UserError
from p2pfl.learn import task, train
from p2pfl.learn.tables import address
from p2pfl.learn.task import TaskFailed

# Ten steps below normal: about a tenth of the processor where the node wants it, all of it where not.
NICE = 10
# A job whose asker has gone away is left to finish, since a new process costs seconds. Not for ever.
ABANDONED_S = 20.0
# A process that dies in so many jobs one after the other will die in the next one too.
DEATHS_MAX = 3


class WorkerDied(Exception):
    """The training process ended in the middle of a job; the next job starts another one."""


class Worker:
    """One training process and the queue before it: one job at a time, first come, first served.

    Use it from one trio run, close it at the end (it is a context manager). A caller that is cancelled
    leaves at once; its job is finished and forgotten before the next one begins.
    """

    def __init__(self, *, nice: int = NICE) -> None:
        self._nice = nice
        self._turn = trio.Lock()
        self._child: _Child | None = None
        self._deaths = 0

    @property
    def pid(self) -> int | None:
        """The process' id while there is one."""
        return self._child.pid if self._child else None

    @property
    def forked(self) -> bool:
        """Whether the process is a fork of this one, and so shares its memory."""
        return self._child is not None and self._child.process is None

    def start(self) -> None:
        """Start the process if there is none. Before `trio.run`, and before any thread, it is a fork."""
        if self._child is None:
            self._child = _fork(self._nice) if _alone() else _spawn(self._nice)

    async def warm(self, device: str = "cpu") -> None:
        """Start the process and have it import torch. Raises UserError when there is no such device."""
        await self.run(address(train.warm), device)

    async def run(self, name: str, *args: Any) -> Any:
        """The result of the task `name` (a name of `task.task`, or `module:function`) with these arguments.

        Raises what the task raised when that is a PeerFault or a UserError, TaskFailed with its traceback
        for anything else, WorkerDied when the process ended, UserError when it keeps doing so.
        """
        function = task.task.find(name)
        frame = task.pack((address(function), args))
        async with self._turn:
            await self._forget_abandoned()
            if self._deaths >= DEATHS_MAX:
                raise UserError(
                    "the training process keeps dying",
                    because=f"it ended in each of its last {self._deaths} jobs",
                    fix="see the log for its last words; most often the machine is out of memory",
                )
            self.start()
            assert self._child is not None
            try:
                self._child.ask(frame)
                reply = await self._child.answer()
            except (OSError, EOFError, ValueError) as error:
                self._deaths += 1
                raise WorkerDied(f"the training process ended during {name!r}: {self._end()}") from error
            self._deaths = 0
        return _result(reply, name)

    def close(self) -> None:
        """End the process, whatever it does."""
        self._end()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    async def _forget_abandoned(self) -> None:
        """Read the answer nobody waits for any more; end the process if it does not come."""
        if self._child is None or not self._child.owes:
            return
        with trio.move_on_after(ABANDONED_S) as patience:
            try:
                await self._child.answer()
            except (OSError, EOFError, ValueError):
                self._deaths += 1
                self._end()
        if patience.cancelled_caught:
            self._end()

    def _end(self) -> str:
        """Kill the process and say how it ended."""
        child, self._child = self._child, None
        return child.end() if child else "it had ended"


class _Child:
    """One process and its socket. An `answer` that is cancelled is taken up again where it was."""

    def __init__(self, ours: socket.socket, pid: int, process: subprocess.Popen[bytes] | None = None) -> None:
        self.pid = pid
        self.process = process  # None: a fork.
        self.owes = False
        self._ours = ours
        self._stream: trio.socket.SocketType | None = None
        self._outgoing: list[memoryview] = []
        self._reader = task.read_frame()
        self._wanted = next(self._reader)

    def ask(self, frame: list[memoryview]) -> None:
        """Put a job on its way; `answer` sends it."""
        self._outgoing, self.owes = frame, True

    async def answer(self) -> tuple[Any, ...]:
        """Send what is left of the job, receive what is left of its answer. Raises OSError, EOFError."""
        if self._stream is None:
            self._stream = trio.socket.from_stdlib_socket(self._ours)
        while self._outgoing:
            sent = await self._stream.send(self._outgoing[0])
            self._outgoing[0] = self._outgoing[0][sent:]
            if not self._outgoing[0]:
                del self._outgoing[0]
        while True:
            got = await self._stream.recv_into(self._wanted)
            if not got:
                raise EOFError("the other end was closed")
            try:
                self._wanted = self._reader.send(got)
            except StopIteration as finished:
                self._reader = task.read_frame()
                self._wanted = next(self._reader)
                self.owes = False
                return task.unpack(finished.value)

    def end(self) -> str:
        """Kill the process, wait for it, and say how it ended."""
        if self._stream is not None:
            with contextlib.suppress(RuntimeError):  # After the trio run: then nobody waits at the socket.
                self._stream.close()
        self._ours.close()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        code = self.process.wait() if self.process else os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"


def _result(reply: tuple[Any, ...], name: str) -> Any:
    """The result in a reply, or the exception that it stands for."""
    match reply:
        case ("done", result):
            return result
        case ("user", what, because, fix):
            raise UserError(what, because=because, fix=fix)
        case ("peer", reason, detail):
            raise PeerFault(reason, detail)
        case _:
            raise TaskFailed(f"{name!r} failed in the training process with {reply[1]}\n{reply[2]}")


def _alone() -> bool:
    """Whether this process has one thread: a fork would lose the others, and keep the locks they hold."""
    threads = Path("/proc/self/task")
    return threads.is_dir() and len(list(threads.iterdir())) == 1


def _fork(nice: int) -> _Child:
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        task.run_forked(theirs, nice=nice)
    theirs.close()
    return _Child(ours, pid)


def _spawn(nice: int) -> _Child:
    """A fresh interpreter that finds the same modules as this one."""
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", "p2pfl.learn.task", str(theirs.fileno()), str(nice)],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=2,
            process_group=0,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )
    return _Child(ours, process.pid, process)
