"""What runs in a forked process: one member or seat, with its log in its own folder.

Its events go to the launcher as lines of JSON. The node never waits for the launcher: what does not fit
into the socket waits in a small buffer, what does not fit there is dropped and counted. An attack of the
scenario is put on here, between the node's assembly and its run.
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import trio

from p2pfl import node, telemetry
from p2pfl.errors import EXIT_OK, EXIT_USER, UserError
from testnet import attacks

# Some thousands of events: the launcher sleeps longer than that only when it is stopped by hand.
BUFFER_BYTES_MAX = 1 << 20
# How long the last events may take to leave when the process ends.
LAST_WORDS_S = 1.0


class EventPipe:
    """Events to the launcher. `observe` may be called from any thread and never blocks."""

    def __init__(self, end: socket.socket, clock: Callable[[], float] = time.monotonic) -> None:
        self.dropped = 0
        self._end = end
        self._end.setblocking(False)
        self._clock = clock
        self._lock = threading.Lock()
        self._waiting = bytearray()

    def observe(self, kind: str, fields: dict[str, Any]) -> None:
        """Send one event, or keep it for the next call, or drop it."""
        line = json.dumps({"kind": kind, "fields": fields, "at": self._clock()}).encode() + b"\n"
        with self._lock:
            if len(self._waiting) + len(line) > BUFFER_BYTES_MAX:
                self.dropped += 1
            else:
                if self.dropped:
                    lost = {"kind": "dropped", "fields": {"count": self.dropped}, "at": self._clock()}
                    self._waiting += json.dumps(lost).encode() + b"\n"
                    self.dropped = 0
                self._waiting += line
            self._send()

    def close(self) -> None:
        """The last words, if the launcher still listens."""
        self._end.settimeout(LAST_WORDS_S)
        with self._lock:
            self._send()
        self._end.close()

    def _send(self) -> None:
        try:
            while self._waiting:
                sent = self._end.send(self._waiting)
                del self._waiting[:sent]
        except (BlockingIOError, TimeoutError):
            pass
        except OSError:
            self._waiting.clear()  # The launcher is gone; so will this process be.

    async def until_launcher_ends(self) -> None:
        """Wait until the launcher's end is closed: it never sends anything."""
        await trio.lowlevel.wait_readable(self._end.fileno())


def main(spec: dict[str, Any], events: socket.socket) -> int:
    """Run one node. spec: see `spec_of` in `launch`. Returns the exit status."""
    return live(spec, events, lambda parts: attacks.put_on(parts, spec["attacks"]))


def live(spec: dict[str, Any], events: socket.socket, put_on: Callable[[node.Parts], None]) -> int:
    """The same with whatever `put_on` does to the parts before they run.

    spec["log"]: where the log goes; by default into the node's own folder.
    """
    _to_log(Path(spec.get("log") or Path(spec["dir"]) / "log.txt"), spec["log_level"])
    pipe = EventPipe(events)
    try:
        settings = node.NodeSettings(
            dir=Path(spec["dir"]),
            genesis=Path(spec["dir"]) / "genesis.json",
            name=spec["name"],
            listen=spec.get("listen"),
            explorer=tuple(spec["explorer"]) if spec["explorer"] else None,
            rpc=spec["rpc"],
            account_key=bytes.fromhex(spec["account_key"]) if spec["account_key"] else None,
            data_dir=Path(spec["data_dir"]) if spec.get("data_dir") else None,
            new_keys=spec["new_keys"],
            guard_lost=spec.get("guard_lost", False),
        )
        parts = node.assemble(settings, pipe.observe)
        # Now, while there is one thread: a fork of this process has torch already, a new process has not.
        parts.trainer.worker.start()
        put_on(parts)
        trio.run(_until_told, parts, pipe)
    except UserError as error:
        print(error.render(), file=sys.stderr)
        pipe.observe("said", {"line": f"{spec['name']}: {error}"})
        return EXIT_USER
    finally:
        pipe.close()
    return EXIT_OK


async def _until_told(parts: node.Parts, pipe: EventPipe) -> None:
    """Run the node until SIGTERM, or until there is no launcher any more."""
    with trio.open_signal_receiver(signal.SIGTERM) as terms:
        async with trio.open_nursery() as nursery:

            async def on_term() -> None:
                async for _ in terms:
                    nursery.cancel_scope.cancel()

            async def on_launcher_end() -> None:
                await pipe.until_launcher_ends()
                nursery.cancel_scope.cancel()

            nursery.start_soon(on_term)
            nursery.start_soon(on_launcher_end)
            await node.run(parts)


def _to_log(path: Path, level: str) -> None:
    """From now on everything that this process prints goes to the node's own log."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.close(handle)
    sys.stdout = sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    faulthandler.enable(file=sys.stderr)
    telemetry.configure(level=level)
