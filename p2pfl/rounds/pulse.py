"""Waiting until something holds, woken when something changed. No thread may touch it."""

from __future__ import annotations

from collections.abc import Callable

import trio


class Pulse:
    """A condition without a lock: `beat()` when state changed, `until(predicate)` to wait for it."""

    def __init__(self) -> None:
        self._event = trio.Event()

    def beat(self) -> None:
        """Wake everybody who waits, to look again."""
        self._event.set()
        self._event = trio.Event()

    async def until(self, predicate: Callable[[], bool], *, timeout_s: float = float("inf")) -> bool:
        """Wait until the predicate holds; False when the time ran out first."""
        with trio.move_on_after(timeout_s):
            while not predicate():
                await self._event.wait()
            return True
        return predicate()

    async def sleep_or_beat(self, seconds: float) -> None:
        """Until the next beat, or so long."""
        with trio.move_on_after(seconds):
            await self._event.wait()
