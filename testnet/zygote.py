"""One warmed process that forks the others: twenty nodes start in the time that one takes to import torch.

`main` runs in that process: single-threaded, it imports everything once and then forks a child for every
order that comes over its socket. `Zygote` is the launcher's end. Nothing of it may outlive the launcher:
the kernel kills the zygote with the launcher and the children with the zygote (PR_SET_PDEATHSIG), and each
child also ends when its end of a socket is closed, for systems without that call. Knows nothing of nodes.

    launcher --orders (JSON lines, one descriptor each)--> zygote --fork--> children
             <--reports (JSON lines): ready, forked, died--
             <--events (JSON lines)----------------------------------------
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import gc
import importlib
import json
import os
import random
import select
import selectors
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from p2pfl.errors import UserError

# Importing torch and libp2p on a slow disk takes a while; for ever it takes when something is broken.
READY_S = 120.0
# How long children may take to end on SIGTERM before they are killed.
GRACE_S = 5.0
# No order or report is longer: names, paths and numbers.
LINE_BYTES_MAX = 1 << 20
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
# One thread a library: a process with a second thread cannot be forked safely.
_ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


# ---------------------------------------------------------------------------
# The launcher's end.


@dataclass
class Child:
    """A process that the zygote forked. events: our end of its socket, lines of JSON until it is gone."""

    name: str
    pid: int
    events: trio.SocketStream = field(init=False)
    ended: trio.Event = field(default_factory=trio.Event)
    status: int | None = None  # As of os.waitstatus_to_exitcode: below zero is minus the signal.

    @property
    def alive(self) -> bool:
        """Whether it still runs, as far as the zygote has said."""
        return self.status is None


class Zygote:
    """Orders to the zygote and what it reports. Made by `open_zygote`."""

    def __init__(self, process: subprocess.Popen[bytes], control: trio.SocketStream, log: Path) -> None:
        self.pid = process.pid
        self.children: dict[int, Child] = {}
        self._process = process
        self._control = control
        self._log = log
        self._turn = trio.Lock()
        self._ready = trio.Event()
        self._gone = False
        self._answer = trio.Event()
        self._answered: int | None = None

    async def ready(self) -> None:
        """Wait until everything is imported. Raises UserError with its last words when it cannot."""
        with trio.move_on_after(READY_S):
            await self._ready.wait()
        if self._gone or not self._ready.is_set():
            raise self._broken("it ended, or did not become ready")

    async def fork(self, name: str, target: str, spec: dict[str, Any]) -> Child:
        """A new process that calls `target` ("module:function") with (spec, its end of the event socket)."""
        await self.ready()
        ours, theirs = socket.socketpair()
        events = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
        async with self._turn:
            self._answer, self._answered = trio.Event(), None
            with theirs:
                await self._order({"do": "fork", "name": name, "target": target, "spec": spec}, theirs)
            await self._answer.wait()
            pid = self._answered
        if pid is None:
            await events.aclose()
            raise self._broken(f"it ended when {name} was to be started")
        child = self.children[pid]
        child.events = events
        return child

    def kill(self, child: Child, number: signal.Signals) -> None:
        """Send a signal to a child that has not ended: its parent has not reaped it, so the id is its own."""
        if child.alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child.pid, number)

    async def run(self) -> None:
        """Read the reports until the zygote is gone."""
        buffer = bytearray()
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while data := await self._control.receive_some():
                buffer += data
                *lines, buffer = buffer.split(b"\n")
                for line in lines:
                    self._take(json.loads(line))
        self._gone = True
        self._ready.set()
        self._answer.set()
        for child in self.children.values():
            if child.alive:
                child.status = -signal.SIGKILL
                child.ended.set()

    def _take(self, report: dict[str, Any]) -> None:
        match report["did"]:
            case "ready":
                self._ready.set()
            case "forked":
                self._answered = report["pid"]
                self.children[report["pid"]] = Child(report["name"], report["pid"])
                self._answer.set()
            case "died":
                child = self.children[report["pid"]]
                child.status = report["status"]
                child.ended.set()
            case other:
                raise ValueError(f"the zygote reports {other!r}")

    async def _order(self, order: dict[str, Any], descriptor: socket.socket) -> None:
        data = json.dumps(order).encode() + b"\n"
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor.fileno()]))
        sent: int = await self._control.socket.sendmsg([data], [rights])  # type: ignore[attr-defined]
        with contextlib.suppress(trio.BrokenResourceError):  # `run` notices, and says so to the caller.
            await self._control.send_all(data[sent:])

    def _broken(self, what: str) -> UserError:
        words = ""
        with contextlib.suppress(OSError):
            words = " / ".join(self._log.read_text(errors="replace").strip().splitlines()[-3:])
        return UserError(
            "the processes of the network cannot be started",
            because=f"the process they are forked from is broken: {what}. {words}".strip(),
            fix=f"see {self._log}; if a package is missing: pip install -c constraints.txt -e '.[testnet]'",
        )


@asynccontextmanager
async def open_zygote(imports: tuple[str, ...], log: Path) -> AsyncIterator[Zygote]:
    """The zygote while it is needed; in the end every child is gone, and it too.

    imports: modules to import before the first fork; "module:function" is also called.
    """
    process, ours = _start(imports, log)
    zygote = Zygote(process, trio.SocketStream(trio.socket.from_stdlib_socket(ours)), log)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(zygote.run)
            yield zygote
            nursery.cancel_scope.cancel()
    finally:
        with trio.move_on_after(READY_S, shield=True):
            await _end(process, zygote)


def _start(imports: tuple[str, ...], log: Path) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """The process, and our end of its socket. From the main thread only: it dies with its parent thread."""
    ours, theirs = socket.socketpair()
    modules = os.pathsep.join(path for path in sys.path if path)
    with theirs, log.open("ab") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "testnet.zygote", str(theirs.fileno()), str(os.getpid()), *imports],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=errors,
            stderr=errors,
            start_new_session=True,  # A Ctrl-C in the terminal is for the launcher, which ends the rest.
            env={**os.environ, **_ONE_THREAD, "PYTHONPATH": modules},
        )
    return process, ours


async def _end(process: subprocess.Popen[bytes], zygote: Zygote) -> None:
    """Close the socket, on which the zygote ends its children and itself; kill it if it does not."""
    await zygote._control.aclose()
    for child in zygote.children.values():
        await child.events.aclose()
    ended = await trio.to_thread.run_sync(_wait, process, 2 * GRACE_S)
    if not ended:
        process.kill()
        await trio.to_thread.run_sync(_wait, process, None)


def _wait(process: subprocess.Popen[bytes], timeout_s: float | None) -> bool:
    try:
        process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        return False
    return True


# ---------------------------------------------------------------------------
# The zygote itself.


def die_with_parent(parent: int) -> None:
    """Ask the kernel to kill this process when its parent ends (Linux); end now if it has ended already."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


class _Forker:
    """The loop: orders in, reports out, children reaped."""

    def __init__(self, control: socket.socket) -> None:
        self.control = control
        self.children: dict[int, str] = {}
        self._buffer = bytearray()
        self._descriptors: list[int] = []
        # A child's end is a byte on this pair, so that one `select` waits for everything.
        self._woken, self._waker = socket.socketpair()
        for end in (self._woken, self._waker):
            end.setblocking(False)
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def serve(self) -> None:
        """Until the launcher closes its end."""
        with selectors.DefaultSelector() as selector:
            selector.register(self.control, selectors.EVENT_READ)
            selector.register(self._woken, selectors.EVENT_READ)
            while True:
                ready = {key.fileobj for key, _ in selector.select()}
                if self._woken in ready:
                    self._reap()
                if self.control in ready and not self._receive():
                    return

    def _receive(self) -> bool:
        try:
            data, descriptors, _, _ = socket.recv_fds(self.control, 65536, 16)
        except ConnectionError:
            return False
        self._descriptors += descriptors
        self._buffer += data
        if not data or len(self._buffer) > LINE_BYTES_MAX:
            return False
        *lines, self._buffer = self._buffer.split(b"\n")
        for line in lines:
            self._fork(json.loads(line))
        return True

    def _fork(self, order: dict[str, Any]) -> None:
        descriptor = self._descriptors.pop(0)
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            _become(order, descriptor, parent)
        os.close(descriptor)
        self.children[pid] = order["name"]
        self._report({"did": "forked", "name": order["name"], "pid": pid})

    def _reap(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._woken.recv(4096)
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            name = self.children.pop(pid, None)  # None: a grandchild whose parent was killed.
            if name is not None:
                code = os.waitstatus_to_exitcode(status)
                self._report({"did": "died", "name": name, "pid": pid, "status": code})

    def _report(self, report: dict[str, Any]) -> None:
        with contextlib.suppress(ConnectionError):  # The loop sees the end of the launcher too.
            self.control.sendall(json.dumps(report).encode() + b"\n")

    def end_all(self) -> None:
        """SIGTERM, a grace, SIGKILL; grandchildren end with their parents' sockets."""
        for number, grace_s in ((signal.SIGTERM, GRACE_S), (signal.SIGKILL, READY_S)):
            deadline = time.monotonic() + grace_s
            for pid in self.children:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            self._reap()
            while self.children and (left_s := deadline - time.monotonic()) > 0:
                select.select([self._woken], [], [], left_s)
                self._reap()


def _become(order: dict[str, Any], descriptor: int, parent: int) -> None:
    """The life of a child: only its own socket stays open; never returns."""
    status = 70
    try:
        die_with_parent(parent)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        # Objects of the zygote own these files. They are frozen: no collection ends and closes them later.
        gc.freeze()
        for name in os.listdir("/dev/fd"):  # noqa: PTH208 (numbers, not paths)
            if int(name) > 2 and int(name) != descriptor:
                with contextlib.suppress(OSError):  # The listing's own number is among them.
                    os.close(int(name))
        random.seed()
        status = _find(order["target"])(order["spec"], socket.socket(fileno=descriptor)) or 0
    except BaseException:  # noqa: BLE001 (the last frame of this process)
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _find(where: str) -> Callable[..., Any]:
    module, _, name = where.partition(":")
    return getattr(importlib.import_module(module), name)


def main() -> None:
    """`python -m testnet.zygote DESCRIPTOR PARENT IMPORT...`."""
    control = socket.socket(fileno=int(sys.argv[1]))
    die_with_parent(int(sys.argv[2]))
    if sys.platform == "linux":
        # Grandchildren whose parent was killed come to us, and are reaped.
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for where in sys.argv[3:]:
        if ":" in where:
            _find(where)()
        else:
            importlib.import_module(where)
    gc.collect()
    gc.freeze()  # The collector would write into every page that the children share.
    forker = _Forker(control)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        control.sendall(b'{"did": "ready"}\n')
        forker.serve()
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        forker.end_all()


if __name__ == "__main__":
    main()
