"""While the disk is full, wait: what cannot be kept is not signed, and what was decided is not forgotten.

Knows no file: whoever writes says by DiskFull that nothing was changed and the same may be tried again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import trio

from p2pfl.durable import DiskFull
from p2pfl.telemetry import logger

T = TypeVar("T")

log = logger("rounds.patience")

# Room is made by a person or by a log that is rotated: sooner is not worth a wake-up.
RETRY_S = 2.0


async def when_there_is_room(work: Callable[[], T], *, limiter: trio.CapacityLimiter | None = None) -> T:
    """Do this in a thread; while the disk is full, say so once and try again.

    Cancelled only while it waits for room, before anything was changed: a try that has begun is not, though
    the epoch may end meanwhile.
    """
    waiting = False
    while True:
        try:
            done = await _whole(work, limiter)
        except DiskFull as full:
            if not waiting:
                log.error(
                    "the disk is full: this node waits and signs nothing until there is room",
                    what=full.what,
                    because=full.because,
                    fix=full.fix,
                )
            waiting = True
            await trio.sleep(RETRY_S)
        else:
            if waiting:
                log.info("there is room on the disk again")
            return done


async def _whole(work: Callable[[], T], limiter: trio.CapacityLimiter | None) -> T:
    done: list[T] = []
    with trio.CancelScope() as scope:
        scope.shield = True
        done.append(await trio.to_thread.run_sync(work, limiter=limiter))
    return done[0]
