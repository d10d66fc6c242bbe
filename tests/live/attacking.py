"""What hostile attacks share: whom they attack and as whom, how they get in, and how they are listed.

Knows the wire by `tests.net.raw` and one golden message of each kind; the attacks are in `attacks`.
"""

from __future__ import annotations

import json
import os
import struct
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import trio

from tests.net import raw
from tests.net.raw import DATA, Raw, frame

VECTORS = Path(__file__).parent.parent / "vectors" / "wire.json"
MESSAGES, REQUESTS, BLOBS = "/mps/messages/1", "/mps/requests/1", "/mps/blobs/1"
PING, IDENTIFY, PUSH, GOSSIP = "/ipfs/ping/1.0.0", "/ipfs/id/1.0.0", "/ipfs/id/push/1.0.0", "/meshsub/1.1.0"
# Strangers and the member come from different addresses: where a member was, nobody is barred.
STRANGER_AT, MEMBER_AT = "127.0.0.66", "127.0.0.67"
HALF_OPEN = 1000
# Bytes written at once; with yamux's head still within its first window, four times.
CHUNK = 60_000


@dataclass
class Target:
    """Whom, and as whom. key: the member's; None: a stranger's of its own each time."""

    port: int
    peer_id: str
    topic: str
    key: bytes
    chance: Random
    told: Counter[str] = field(default_factory=Counter)

    @asynccontextmanager
    async def as_member(self) -> AsyncIterator[Raw | None]:
        """A connection with the member's key; None when one is not let in."""
        try:
            peer = await raw.shaken(self.port, self.peer_id, self.key, MEMBER_AT)
        except (*raw.GONE, trio.TooSlowError):
            self.told["refused"] += 1
            await trio.sleep(0.25)
            yield None
            return
        self.told["let_in"] += 1
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.read_on)
            try:
                yield peer
            except EOFError:
                self.told["sent_away"] += 1
            finally:
                nursery.cancel_scope.cancel()
                await peer.close()
        await trio.sleep(0.05)

    async def pieces(self, peer: Raw, stream: int, data: bytes) -> None:
        """On a stream, no faster than its first window is filled: then a new connection is due."""
        for place in range(0, len(data), CHUNK):
            await peer.send(frame(DATA, 0, stream, data[place : place + CHUNK]))
            self.told["bytes"] += CHUNK
            await trio.sleep(0.02)


Attack = Callable[[Target], Awaitable[None]]
TABLE: dict[str, tuple[Attack, tuple[str, ...]]] = {}


def attack(*reasons: str) -> Callable[[Attack], Attack]:
    """A decorator: this is done again and again, and the node counts at least one of `reasons`, if any."""

    def add(function: Attack) -> Attack:
        TABLE[function.__name__] = (function, reasons)
        return function

    return add


def golden() -> dict[str, bytes]:
    """One packed message of each kind."""
    return {name: bytes.fromhex(text) for name, text in json.loads(VECTORS.read_text()).items()}


def hello() -> bytes:
    return struct.pack(">I4s16sQ16sQ", 52, b"MPS1", os.urandom(16), 1, bytes(16), 1)


def numbered(number: int, packed: bytes, ack: int = 1) -> bytes:
    return struct.pack(">IQQQ", 24 + len(packed), number, 1, ack) + packed


def framed(packed: bytes) -> bytes:
    return len(packed).to_bytes(4, "big") + packed
