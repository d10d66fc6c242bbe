"""What the other rooms may rely on: the network's shape, with sockets (`host`) or without (`memory`).

Knows members by their ids. Imports no libp2p, so that whoever writes against it stays light.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import trio

from consensus.types import Digest, MemberId
from p2pfl import runs
from p2pfl.errors import PeerFault
from p2pfl.net import wire


class Unreachable(PeerFault):
    """No connection to the peer, or no answer in time. Nobody's evidence; ask somebody else or later."""

    def __init__(self, detail: str = "") -> None:
        super().__init__("unreachable", detail)


@dataclass(frozen=True, slots=True)
class PeerAddress:
    """Where a member listens. peer_id: libp2p peer id (base58). address: multiaddr without /p2p."""

    peer_id: str
    address: str


@runtime_checkable
class BlobSource(Protocol):
    """A blob that may be served whole: bytes in memory or a file."""

    @property
    def length(self) -> int:
        """How many bytes it has."""
        ...

    def run_hashes(self) -> bytes:
        """The nodes above its runs of 64 leaves (`p2pfl.runs`). Called in a thread, once while it is served.

        Raises OSError when the blob is not here any more, or is not what it was.
        """
        ...

    def read_now(self, offset: int, size: int) -> bytes | None:
        """Exactly these bytes, at most PIECE_BYTES_MAX; None if that would mean to wait for a disk.

        Raises OSError as `run_hashes` does.
        """
        ...

    def read(self, offset: int, size: int) -> bytes:
        """The same, however long it takes. Called in a thread."""
        ...


@runtime_checkable
class PartSource(Protocol):
    """A blob on its way here: its verified pieces may be served, each with the proof that came with it."""

    @property
    def length(self) -> int:
        """How many bytes the blob will have."""
        ...

    @property
    def piece_leaves(self) -> int:
        """How many leaves its pieces have; no others can be proved."""
        ...

    def held(self) -> bytes:
        """A bit for each piece, the first one the highest of its byte: whether it is here."""
        ...

    def piece(self, number: int) -> tuple[tuple[Digest, ...], bytes] | None:
        """A piece's proof and bytes; None if it is not here. Called in a thread."""
        ...


class Sink(Protocol):
    """Where the pieces of a blob go as they come. What lies there already is not fetched again."""

    def missing(self) -> list[int]:
        """The numbers of the pieces that are wanted, in units of `runs.piece_leaves(length)`."""
        ...

    async def keep(self, number: int, piece: wire.Piece, runs: bytes) -> None:
        """Keep a piece that was checked; returns when its memory may be used for the next one."""
        ...


class BytesBlob:
    """A blob in memory."""

    def __init__(self, data: bytes, hashes: bytes | None = None) -> None:
        self._data = memoryview(data)
        self._hashes = hashes

    @property
    def length(self) -> int:
        """How many bytes it has."""
        return len(self._data)

    def run_hashes(self) -> bytes:
        """The nodes above its runs of 64 leaves."""
        if self._hashes is None:
            self._hashes = runs.runs_of(self.read_now, len(self._data))
        return self._hashes

    def read_now(self, offset: int, size: int) -> bytes:
        """Exactly these bytes."""
        return bytes(self._data[offset : offset + size])

    read = read_now


@dataclass(frozen=True, slots=True)
class Fetched:
    """A blob that was brought, every piece of it verified. runs: the nodes above its runs of 64 leaves.

    data: its bytes; empty when they went somewhere else (a `Sink` was given).
    """

    data: bytes
    runs: bytes


class Handlers(Protocol):
    """What the node does with what comes in. A PeerFault raised here is counted against the sender."""

    async def received(self, sender: MemberId, message: wire.Message) -> None:
        """A message; the messages of one sender come one at a time and in their order."""
        ...

    async def answer(self, sender: MemberId | None, request: wire.Request) -> wire.Response | wire.Refused:
        """The answer to GetStatus or GetBlocks. sender None: an observer."""
        ...

    def blob(self, sender: MemberId | None, blob_id: Digest) -> BlobSource | PartSource | None:
        """The blob, or what of it is here, if this peer may have it now; None otherwise, here or not."""
        ...


class NetworkLike(Protocol):
    """What `host.Network` and `memory.MemoryNetwork` have in common. `handlers` is set before `run`."""

    me: MemberId
    handlers: Handlers | None
    connected: set[MemberId]
    on_connect: list[Callable[[MemberId], None]]  # Called when a member becomes reachable (again).
    on_announce: list[Callable[[MemberId, wire.Tip], None]]  # Called for each gossiped announcement.
    faults: dict[tuple[MemberId, str], int]  # How often which member broke which rule.

    @property
    def sent_bytes(self) -> dict[str, int]:
        """By name: messages, requests, blobs, gossip, other."""
        ...

    @property
    def received_bytes(self) -> dict[str, int]:
        """By the same names."""
        ...

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Until cancelled; started once it listens."""
        ...

    def meet(self, peers: Mapping[MemberId, PeerAddress]) -> None:
        """These may speak from now on."""
        ...

    def part(self, members: Iterable[MemberId]) -> None:
        """These may speak no more."""
        ...

    def stay_near(self, members: Iterable[MemberId]) -> None:
        """Stay connected to these from now on."""
        ...

    def send(self, to: MemberId, message: wire.Message) -> None:
        """In order, acknowledged, sent again after a reconnect; never blocks."""
        ...

    def broadcast(self, to: Iterable[MemberId], message: wire.Message) -> None:
        """The same to each of them but me."""
        ...

    async def request(self, to: MemberId, request: wire.Request, *, timeout_s: float) -> wire.Response:
        """Raises Unreachable, or PeerFault("refused", reason)."""
        ...

    async def fetch_blob(
        self,
        blob_id: Digest,
        length: int,
        holders: Callable[[], Sequence[MemberId]],
        *,
        timeout_s: float,
        into: Sink | None = None,
    ) -> Fetched:
        """Verified bytes, in memory or `into` something. Raises PeerFault("blob_missing") when nobody gave
        them in time; what is kept `into` something stays there.
        """
        ...

    def announce(self, message: wire.Tip) -> None:
        """By gossip; may be lost."""
        ...

    async def wait_connected(self, members: Iterable[MemberId], timeout_s: float) -> None:
        """Raises Unreachable that names one who is missing."""
        ...
