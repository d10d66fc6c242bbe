"""Answers who asks for pieces of blobs that may be shown, whole ones and such as are still on their way.

Keeps the upper levels of the last few blobs' trees, no blob. Knows no socket; to whom what may be shown is
decided before.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import trio

from consensus.types import Digest
from p2pfl.errors import PeerFault
from p2pfl.net import wire
from p2pfl.net.interface import BlobSource, PartSource
from p2pfl.params import LEAF_BYTES
from p2pfl.runs import RunTree, piece_leaves

# Trees that are kept for serving: a round of 16 members and the council's, twice. One is 1/1000 of its blob.
TREES_MAX = 64

Source = BlobSource | PartSource
Aside = Callable[[Callable[[], Any]], Awaitable[Any]]
OnHash = Callable[[int], None]

NOT_HELD, NOT_YET = wire.Refused("not_held"), wire.Refused("not_yet")


async def _in_thread(work: Callable[[], Any]) -> Any:
    return await trio.to_thread.run_sync(work)


def for_nothing(_bytes: int) -> None:
    """Members pay nothing for the hashing of what they ask for."""


class PieceServer:
    """Makes pieces and their proofs.

    aside: runs the hashing of a whole blob (100 MB: 0.2 s) and reading from a disk off the event loop.
    """

    def __init__(self, aside: Aside = _in_thread) -> None:
        self._aside = aside
        self._trees: OrderedDict[Digest, RunTree] = OrderedDict()
        self._turn = trio.Lock()

    async def answer(
        self, source: Source, request: wire.GetPiece | wire.GetHeld, on_hash: OnHash = for_nothing
    ) -> tuple[wire.PieceHead | wire.Held | wire.Refused, bytes]:
        """What is answered, and the bytes that follow it. Raises PeerFault for a run beyond the end.

        on_hash: told how many bytes are hashed for it, if any are.
        """
        if isinstance(request, wire.GetHeld):
            return self._held(source, request), b""
        offset = request.first_leaf * LEAF_BYTES
        if offset >= source.length:
            raise PeerFault("bad_request", f"leaf {request.first_leaf} of {source.length} bytes")
        try:
            found = await (
                self._part(source, request)
                if isinstance(source, PartSource)
                else self._piece(source, request, offset, on_hash)
            )
        except OSError:
            # Its file was lost or has changed since it was checked: it is not here any more.
            self._trees.pop(request.blob_id, None)
            return NOT_HELD, b""
        if found is None:
            return NOT_YET, b""
        proof, data = found
        return wire.PieceHead(source.length, proof, len(data)), data

    def _held(self, source: Source, request: wire.GetHeld) -> wire.Held | wire.Refused:
        if isinstance(source, PartSource):
            same = request.leaf_count == source.piece_leaves
            return wire.Held(source.length, source.held()) if same else NOT_YET
        count = max(1, -(-source.length // (request.leaf_count * LEAF_BYTES)))
        return wire.Held(source.length, bits_of((1 << count) - 1, count))

    async def _part(
        self, source: PartSource, request: wire.GetPiece
    ) -> tuple[tuple[Digest, ...], bytes] | None:
        if request.leaf_count != source.piece_leaves:
            return None
        return await self._aside(partial(source.piece, request.first_leaf // request.leaf_count))

    async def _piece(
        self, source: BlobSource, request: wire.GetPiece, offset: int, on_hash: OnHash
    ) -> tuple[tuple[Digest, ...], bytes]:
        if request.blob_id not in self._trees:
            async with self._turn:  # Whoever asks for the same blob meanwhile waits for the same tree.
                if request.blob_id not in self._trees:
                    on_hash(source.length)
                    self._trees[request.blob_id] = await self._aside(lambda: RunTree(source.run_hashes()))
                while len(self._trees) > TREES_MAX:
                    self._trees.popitem(last=False)
        size = min(request.leaf_count * LEAF_BYTES, source.length - offset)
        data = source.read_now(offset, size)
        if data is None:
            data = await self._aside(partial(source.read, offset, size))
        tree = self._trees.get(request.blob_id)
        if tree is None:
            raise FileNotFoundError("its tree was forgotten meanwhile")
        self._trees.move_to_end(request.blob_id)
        return tree.proof(request.first_leaf, request.leaf_count), data


def bits_of(mask: int, count: int) -> bytes:
    """A bit for each of `count` pieces, the first the highest of its byte. mask: bit n is piece n."""
    return int(f"{mask:0{count}b}"[::-1].ljust(-(-count // 8) * 8, "0"), 2).to_bytes(-(-count // 8), "big")


def mask_of(held: wire.Held, length: int) -> int:
    """The pieces that a peer says it has: bit n is piece n. Raises PeerFault when that cannot be."""
    count = -(-length // (piece_leaves(length) * LEAF_BYTES))
    if held.total_length != length or len(held.bits) != -(-count // 8):
        raise PeerFault(
            "bad_answer", f"{len(held.bits)} bytes of bits for a blob of {held.total_length} bytes"
        )
    mask = int(f"{int.from_bytes(held.bits, 'big'):0{8 * len(held.bits)}b}"[::-1], 2)
    if mask >> count:
        raise PeerFault("bad_answer", "pieces beyond the blob's end")
    return mask
