"""The other end of `observers`: a stranger's way to look. Asks nodes for blocks and public blobs.

Whom it asks it knows by multiaddr and peer id; whether blocks are true is judged by who asked for them
(`p2pfl.audit.fetch`), whether pieces are is judged here. Is no member, has no key that lasts, signs nothing.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import trio

from consensus.types import DecidedBlock, Digest
from p2pfl.errors import PeerFault
from p2pfl.net import ask, wire
from p2pfl.net.blobs import check_piece
from p2pfl.net.exchange import BLOBS, REQUESTS
from p2pfl.net.gossip import Gossip
from p2pfl.net.interface import Unreachable
from p2pfl.net.options import NetOptions, named
from p2pfl.net.sockets import Sockets
from p2pfl.net.stream import StreamBroken, one_error
from p2pfl.params import LEAF_BYTES
from p2pfl.runs import piece_leaves

__all__ = ["NOWHERE", "Watched", "one_error", "watching"]

# libp2p wants an address to listen at; nobody has to reach us, and from elsewhere nobody can.
NOWHERE = "/ip4/127.0.0.1/tcp/0"
# A node answers observers when it has bytes to spare: the largest answer takes 16 s at 256 KiB a second.
ANSWER_S = 45.0
# A node that is asked too often says so; then it is left alone for a moment, and in the end for good.
BUSY_S, BUSY_TRIES = 1.0, 30


class Watched:
    """One node that is looked at. name: as the operator wrote it."""

    def __init__(self, name: str, sockets: Sockets) -> None:
        """Raises UserError unless the name is a multiaddr of a TCP port with a peer id."""
        self.name = name
        where = named(name, "--from")
        self._address, self._peer_id = where.address, where.peer_id
        self._sockets = sockets
        self._askers: dict[str, ask.Asker] = {}
        self._turn = trio.Lock()

    async def status(self, group_id: Digest) -> tuple[int, Digest]:
        """Height and id of the tip of a chain, -1 for an empty one. Raises PeerFault."""
        answer = await self._asked(REQUESTS, wire.GetStatus(group_id))
        if not isinstance(answer, wire.Status) or answer.group_id != group_id:
            raise PeerFault("bad_answer", f"{type(answer).__name__} to GetStatus")
        return answer.height, answer.block_id

    async def blocks(self, group_id: Digest, start: int, count: int) -> Sequence[DecidedBlock]:
        """Blocks from `start` on, as many as it likes to send at once. Raises PeerFault."""
        answer = await self._asked(REQUESTS, wire.GetBlocks(group_id, start, count))
        if not isinstance(answer, wire.Blocks) or len(answer.blocks) > count:
            raise PeerFault("bad_answer", f"{type(answer).__name__} to GetBlocks")
        return answer.blocks

    async def blob(self, blob_id: Digest, length: int) -> bytes:
        """A blob, every piece verified. Raises PeerFault: "refused", or what is wrong with a piece."""
        leaves = piece_leaves(length)
        found = bytearray()
        while len(found) < length:
            request = wire.GetPiece(blob_id, len(found) // LEAF_BYTES, leaves)
            answer = await self._asked(BLOBS, request)
            if not isinstance(answer, wire.Piece):
                raise PeerFault("bad_answer", f"{type(answer).__name__} to GetPiece")
            check_piece(answer, request, length)
            found += answer.data
        return bytes(found)

    async def _asked(self, protocol: str, request: object) -> object:
        async with self._turn:
            for _ in range(BUSY_TRIES):
                answer = await self._answer(protocol, request)
                if not isinstance(answer, wire.Refused):
                    return answer
                if answer.reason != "busy":
                    raise PeerFault("refused", answer.reason)
                await trio.sleep(BUSY_S)
        raise PeerFault("refused", "busy")

    async def _answer(self, protocol: str, request: object) -> object:
        kept = protocol in self._askers
        try:
            return await self._ask(protocol, request)
        except StreamBroken as error:
            if not kept or isinstance(error, ask.Stalled):
                raise Unreachable(str(error)) from error
        try:
            return await self._ask(protocol, request)  # The stream had been given up since the last question.
        except StreamBroken as error:
            raise Unreachable(str(error)) from error

    async def _ask(self, protocol: str, request: object) -> object:
        if not self._sockets.is_connected(self._peer_id):
            self._askers.clear()
            await self._sockets.connect(self._peer_id, self._address)
        asker = self._askers.pop(protocol, None)
        if asker is None:
            asker = ask.Asker(await self._sockets.open(self._peer_id, protocol))
        try:
            await asker.send(request)
            answer = await asker.receive(silence_s=ANSWER_S)
        except BaseException:
            await asker.stream.reset()
            raise
        self._askers[protocol] = asker
        return answer

    def leave(self) -> None:
        """Ask it nothing any more."""
        self._sockets.drop(self._peer_id)


@asynccontextmanager
async def watching(
    names: Sequence[str],
    *,
    network_id: Digest,
    options: NetOptions,
    on_tip: Callable[[], None] | None = None,
) -> AsyncIterator[list[Watched]]:
    """These nodes, to be asked. on_tip: called when somebody announces a new height. Raises UserError."""
    bugs: list[Exception] = []
    sockets = Sockets(
        peer_key=os.urandom(32),
        listen=NOWHERE,
        admits=lambda _: True,
        on_change=lambda _peer_id, _up: None,
        on_refused=lambda _: None,
        on_bug=bugs.append,
        options=options,
    )
    watched = [Watched(name, sockets) for name in names]
    if on_tip is not None:
        topic = f"/mps/{network_id.hex()[:16]}/tips"
        sockets.service(Gossip(topic, lambda _author, _said: on_tip(), lambda _: True).run)
    async with sockets.running():
        yield watched
    if bugs:
        raise bugs[0]
