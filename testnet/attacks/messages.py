"""Between a node and the others: what it says, hears and serves, each to be changed by an attack.

Everything else stays the honest node's. Knows no attack.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeAlias

from consensus.types import Digest, MemberId

# What is sent instead of a message; None: nothing.
Change: TypeAlias = Callable[[Any], Any]


class Speech:
    """A network that sends what `change` makes of a message. Everything else is the honest network's."""

    def __init__(self, honest: Any, change: Change) -> None:
        self._honest = honest
        self._change = change

    def __getattr__(self, name: str) -> Any:
        return getattr(self._honest, name)

    def broadcast(self, to: Iterable[MemberId], message: Any) -> None:
        """To each of them."""
        changed = self._change(message)
        if changed is not None:
            self._honest.broadcast(to, changed)

    def send(self, to: MemberId, message: Any) -> None:
        """To one."""
        changed = self._change(message)
        if changed is not None:
            self._honest.send(to, changed)


def hear(parts: Any, hears: Callable[[MemberId, Any], bool]) -> None:
    """From now on the node never gets the messages for which `hears(sender, message)` is false."""
    received: Callable[[MemberId, Any], Awaitable[None]] = parts.desk.received

    async def selective(sender: MemberId, message: Any) -> None:
        if hears(sender, message):
            await received(sender, message)

    parts.desk.received = selective


def serve(parts: Any, serves: Callable[[Digest], bool]) -> None:
    """From now on nobody gets the blobs for which `serves(id)` is false."""
    blob: Callable[[MemberId | None, Digest], Any] = parts.desk.blob

    def selective(sender: MemberId | None, blob_id: Digest) -> Any:
        return blob(sender, blob_id) if serves(blob_id) else None

    parts.desk.blob = selective
