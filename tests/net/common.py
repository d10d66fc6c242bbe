"""Members, handlers that remember, and blobs for the tests of this room."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256

import numpy as np
import trio

from consensus.types import Digest, MemberId
from p2pfl.net import wire
from p2pfl.net.interface import BlobSource, BytesBlob


def member(number: int) -> MemberId:
    return MemberId(sha256(f"member {number}".encode()).digest()[:20])


def digest(text: str) -> Digest:
    return Digest(sha256(text.encode()).digest())


def noise(length: int, seed: int = 0) -> bytes:
    return np.random.default_rng(seed).bytes(length)


GROUP = digest("group")


def tip(height: int) -> wire.Tip:
    return wire.Tip(GROUP, height, digest(f"block {height}"))


class Memo:
    """Handlers that keep what came, and answer from what they were given."""

    def __init__(self) -> None:
        self.inbox: list[tuple[MemberId, wire.Message]] = []
        self.blobs: dict[Digest, BlobSource] = {}
        self.asked_blobs: list[tuple[MemberId, Digest]] = []
        self.on_message: Callable[[MemberId, wire.Message], None] | None = None
        self.gate: trio.Event | None = None
        self._came = trio.Event()

    async def received(self, sender: MemberId, message: wire.Message) -> None:
        if self.gate is not None:
            await self.gate.wait()
        self.inbox.append((sender, message))
        self._came.set()
        self._came = trio.Event()
        if self.on_message is not None:
            self.on_message(sender, message)

    async def answer(self, sender: MemberId, request: wire.Request) -> wire.Response | wire.Refused:
        if isinstance(request, wire.GetStatus):
            return wire.Status(request.group_id, 7, digest("block 7"))
        return wire.Refused("no_such_chain")

    def blob(self, sender: MemberId, blob_id: Digest) -> BlobSource | None:
        self.asked_blobs.append((sender, blob_id))
        return self.blobs.get(blob_id)

    def hold(self, data: bytes, blob_id: Digest) -> None:
        self.blobs[blob_id] = BytesBlob(data)

    def heights(self) -> list[int]:
        return [message.height for _, message in self.inbox if isinstance(message, wire.Tip)]

    async def until(self, condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
        with trio.fail_after(timeout_s):
            while not condition():
                await self._came.wait()
