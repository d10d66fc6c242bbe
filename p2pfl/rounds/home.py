"""Where the tasks of one epoch live. What comes in after its end is begun no more, and breaks nothing.

Messages and blocks may be under way to the rooms of an epoch while it ends, and when the node ends.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import trio

from p2pfl.telemetry import logger

log = logger("rounds.home")


class Home:
    """A nursery that may have closed."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery

    def start_soon(self, work: Callable[..., Awaitable[Any]], *args: Any) -> None:
        """Begin a task, unless the epoch is over."""
        try:
            self._nursery.start_soon(work, *args)
        except RuntimeError as closed:  # What trio says of a nursery without tasks, and of nothing else.
            log.debug("an epoch is over: a task was not begun", task=work.__name__, why=str(closed))
