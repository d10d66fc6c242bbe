"""What hundreds of networks in one process need not do again for each of them: parse a message, check a blob.

For `memory` only. What is remembered is a pure function of bytes, so nobody can be told another thing than
it would have found itself.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import trio

from consensus.types import Digest, MemberId
from p2pfl.errors import PeerFault
from p2pfl.net import wire
from p2pfl.net.interface import BytesBlob, Fetched, Handlers, PartSource, Unreachable
from p2pfl.params import BLOB_BYTES_MAX
from p2pfl.runs import root_of

# Messages on their way that are kept parsed: a vote of each of a thousand members.
PARSED_MAX = 4096
# Blobs that were verified for all: the updates of three hundred members, and their bases.
VERIFIED_MAX = 1024
# How often a blob is looked for that nobody shows yet.
AGAIN_S = 0.05


class End(Protocol):
    """What of a network is needed here."""

    me: MemberId
    handlers: Handlers | None
    sent_bytes: dict[str, int]
    received_bytes: dict[str, int]

    async def travel(self, to: MemberId) -> Any: ...
    def fault(self, peer: MemberId, fault: PeerFault) -> None: ...


class OnceForAll:
    """The messages and blobs of one hub, by their bytes."""

    def __init__(self) -> None:
        self._parsed: OrderedDict[bytes, Any] = OrderedDict()
        self._verified: OrderedDict[Digest, BytesBlob] = OrderedDict()

    def parse(self, packed: bytes) -> Any:
        """The message in these bytes. Raises PeerFault."""
        found = self._parsed.get(packed)
        if found is None:
            found = self._parsed[packed] = wire.unpack(packed)
            if len(self._parsed) > PARSED_MAX:
                self._parsed.popitem(last=False)
        return found

    def verify(self, blob_id: Digest, data: bytes) -> Fetched | None:
        """These bytes, if they are that blob's."""
        known = self._verified.get(blob_id)
        if known is None or known.read_now(0, known.length) != data:
            known = BytesBlob(data)
            if root_of(known.run_hashes()) != blob_id:
                return None
            self._verified[blob_id] = known
            if len(self._verified) > VERIFIED_MAX:
                self._verified.popitem(last=False)
        return Fetched(data, known.run_hashes())

    async def fetch(
        self,
        end: End,
        blob_id: Digest,
        length: int,
        holders: Callable[[], Sequence[MemberId]],
        timeout_s: float,
    ) -> Fetched:
        """A small blob, whole, from whoever shows it first. Raises PeerFault as `fetch_blob` does."""
        if not 1 <= length <= BLOB_BYTES_MAX:
            raise PeerFault("bad_length", f"a blob of {length} bytes")
        with trio.move_on_after(timeout_s):
            while True:
                for holder in holders():
                    data = await self._ask(end, holder, blob_id)
                    fetched = self.verify(blob_id, data) if data is not None and len(data) == length else None
                    if fetched is not None:
                        end.received_bytes["blobs"] += length
                        return fetched
                    if data is not None:
                        end.fault(holder, PeerFault("wrong_piece", f"not the bytes of {blob_id.hex()}"))
                await trio.sleep(AGAIN_S)
        raise PeerFault("blob_missing", f"nobody served {blob_id.hex()} within {timeout_s:g} s")

    async def _ask(self, end: End, holder: MemberId, blob_id: Digest) -> bytes | None:
        try:
            target = await end.travel(holder)
            source = target.handlers.blob(end.me, blob_id)
            if source is None or isinstance(source, PartSource):
                return None
            data: bytes = source.read_now(0, source.length) or source.read(0, source.length)
            await end.travel(holder)
        except (Unreachable, OSError):
            return None
        target.sent_bytes["blobs"] += len(data)
        return data
