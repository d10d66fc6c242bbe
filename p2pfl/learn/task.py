"""What runs in the training process: its loop, the table of tasks, and the frames that go in and out.

The other end is `worker`, in the node. Knows nothing of trio. **The channel is trusted**: it is a socket
pair between a process and its own child, and it carries pickles. Nothing that a peer sent is ever
unpickled here or there: it arrives as arrays and bytes inside a job that the node made.

    frame = number of parts (uint32) | length of each (uint64) | the parts
    part 0 is the pickle, the others are the arrays it refers to, so that no array is copied on the way
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import pickle
import select
import signal
import socket
import struct
import sys
import threading
import traceback
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

from p2pfl.errors import PeerFault, UserError
from p2pfl.learn.tables import Table

# A job with MNIST, 60,000 x 784 floats, is 190 MB. A frame that claims more than this is our own bug.
FRAME_BYTES_MAX = 4 << 30
PARTS_MAX = 1 << 16
_COUNT = struct.Struct("<I")

task: Table[Callable[..., Any]] = Table("task")


class TaskFailed(Exception):
    """A task raised something that is neither a peer's nor the operator's fault; holds its traceback."""


def pack(content: object) -> list[memoryview]:
    """The frame of a picklable object, as buffers to be sent one after the other."""
    buffers: list[pickle.PickleBuffer] = []
    body = pickle.dumps(content, protocol=5, buffer_callback=buffers.append)
    parts = [memoryview(body), *(buffer.raw() for buffer in buffers)]
    head = _COUNT.pack(len(parts)) + struct.pack(f"<{len(parts)}Q", *(part.nbytes for part in parts))
    return [memoryview(head), *(part for part in parts if part.nbytes)]


def unpack(parts: list[bytearray]) -> Any:
    """The object of a frame's parts. Its arrays lie in those parts, writable."""
    return pickle.loads(parts[0], buffers=parts[1:])  # noqa: S301 (our own child or parent wrote it)


def read_frame() -> Generator[memoryview, int, list[bytearray]]:
    """Yields a buffer to be filled, is sent how many bytes were put there, and returns the parts in the end.

    Knows no socket, so that both ends use it, and the one that may be cancelled goes on where it was.
    Raises ValueError when the frame is beyond all reason.
    """
    (count,) = _COUNT.unpack((yield from _fill(_COUNT.size)))
    if not 1 <= count <= PARTS_MAX:
        raise ValueError(f"a frame of {count} parts")
    sizes = struct.unpack(f"<{count}Q", (yield from _fill(8 * count)))
    if sum(sizes) > FRAME_BYTES_MAX:
        raise ValueError(f"a frame of {sum(sizes)} bytes")
    parts: list[bytearray] = []
    for size in sizes:
        parts.append((yield from _fill(size)))
    return parts


def _fill(size: int) -> Generator[memoryview, int, bytearray]:
    data = bytearray(size)
    left = memoryview(data)
    while left:
        left = left[(yield left) :]
    return data


# ---------------------------------------------------------------------------
# The loop.


def serve(connection: socket.socket) -> None:
    """Do one job after the other until the other end is closed."""
    with contextlib.suppress(ConnectionError):
        while (parts := _receive(connection)) is not None:
            for part in _do(parts):
                connection.sendall(part)


def settle(connection: socket.socket, *, nice: int) -> None:
    """Make this process a good child: less urgent than the votes, quiet, and never alive alone."""
    os.nice(nice)
    signal.set_wakeup_fd(-1)
    # A Ctrl-C goes to the whole foreground: the node decides when its child ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # The last line of a command's standard output belongs to its result.
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    threading.Thread(target=_end_with_parent, args=(connection.fileno(),), daemon=True).start()


def run_forked(connection: socket.socket, *, nice: int) -> None:
    """The life of a child made by fork; never returns.

    The parent's files are closed, but the objects that own them still exist here. They are frozen, so
    that no collection ends them and closes a number that by then belongs to somebody else.
    """
    status = 1
    try:
        gc.freeze()
        for number in [int(path.name) for path in Path("/dev/fd").iterdir()]:
            if number > 2 and number != connection.fileno():
                with contextlib.suppress(OSError):  # The listing's own number is among them.
                    os.close(number)
        settle(connection, nice=nice)
        serve(connection)
        status = 0
    except BaseException:  # noqa: BLE001 (nothing may return into the parent's stack)
        traceback.print_exc()
    finally:
        os._exit(status)


def _do(parts: list[bytearray]) -> list[memoryview]:
    """Run one job. The reply's frame says what came of it; an exception travels as plain values."""
    try:
        where, args = unpack(parts)
        module, _, _ = where.partition(":")
        importlib.import_module(module)
        return pack(("done", task.find(where)(*args)))
    except UserError as error:
        return pack(("user", error.what, error.because, error.fix))
    except PeerFault as error:
        return pack(("peer", error.reason, error.detail))
    except Exception as error:  # noqa: BLE001 (it goes to whoever asked)
        return pack(("failed", f"{type(error).__qualname__}: {error}", traceback.format_exc()))


def _receive(connection: socket.socket) -> list[bytearray] | None:
    """The parts of the next frame, or None when the other end was closed."""
    reader = read_frame()
    wanted = next(reader)
    while got := connection.recv_into(wanted):
        try:
            wanted = reader.send(got)
        except StopIteration as finished:
            return finished.value
    return None


def _end_with_parent(descriptor: int) -> None:
    """End this process, in the middle of a job if need be, when the parent is gone."""
    poll = select.poll()
    poll.register(descriptor, 0)  # POLLHUP and POLLERR are always reported.
    poll.poll()
    os._exit(1)


def main() -> None:
    """`python -m p2pfl.learn.task DESCRIPTOR NICE`: the child that `worker` starts when it cannot fork."""
    descriptor, nice = int(sys.argv[1]), int(sys.argv[2])
    with socket.socket(fileno=descriptor) as connection:
        settle(connection, nice=nice)
        serve(connection)


if __name__ == "__main__":
    # Not this file's own `main`: tasks register themselves in the table of the imported module.
    from p2pfl.learn.task import main as imported_main

    imported_main()
