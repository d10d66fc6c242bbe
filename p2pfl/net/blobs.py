r"""Blobs travel in pieces: aligned runs of leaves, each proved under the blob's id when it arrives.

A run of 2^k leaves is one node of the RFC 9162 tree, k levels above the leaves; its proof is that node's
audit path in the tree of such runs. Knows no socket: a holder is something that answers GetPiece.

    blob id            o                 runs of 4 leaves of a blob of 11:   0..3   4..7   8..10
                    /     \              proof of the second run:            [first run, third run]
                  o         o
                /   \        |
              0..3  4..7   8..10
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from io import BytesIO
from typing import Protocol, cast

import trio

from consensus import merkle
from consensus.types import Digest, MemberId
from p2pfl import params
from p2pfl.errors import PeerFault
from p2pfl.net import ask, wire
from p2pfl.net.interface import BlobSource, Fetched, Unreachable
from p2pfl.net.stream import StreamBroken, one_error
from p2pfl.params import LEAF_BYTES

# Trees that are kept for serving: a round of 16 members and the council's, twice. One is 1 byte a leaf.
TREES_MAX = 64
# Holders that one fetch asks at the same time; more do not help against the slowest link, which is our own.
HOLDERS_AT_ONCE = 4
# Requests on their way to one holder: one is read while the next is asked for.
PIECES_AHEAD = 2
# A piece that another holder has not brought for this long is asked for twice, once nothing else is left.
TWICE_AFTER_S = 0.5
# How long a fetch waits before it looks again whether somebody holds the blob; a Have ends the wait.
LOOK_AGAIN_S = 0.05
# A holder that refused or was away is asked again so soon, then less often: it may reveal any moment.
REFUSED_AGAIN_S, REFUSED_AGAIN_MAX_S = 0.1, 1.0
# One that lied or was too slow, only when it has had time to recover; others come first.
FAILED_AGAIN_S = 5.0
# A holder that says nothing for this long is left for another.
SILENCE_S = 2.0


def run_leaves(length: int) -> int:
    """How many leaves a piece of a blob of this length has: about sixteen pieces, within the limits."""
    leaves = max(1, -(-length // LEAF_BYTES))
    return min(wire.PIECE_LEAVES_MAX, max(wire.PIECE_LEAVES_MIN, 1 << (leaves // 16).bit_length()))


# ---------------------------------------------------------------------------
# Serving.


class RunTree:
    """The upper levels of a blob's tree: what proofs of runs are made of."""

    def __init__(self, hashes: Sequence[bytes]) -> None:
        # _levels[k] has the nodes that cover 2^k leaves each; the lowest are forgotten, no run is so short.
        level = [bytes(one) for one in hashes]
        self._lowest = wire.PIECE_LEAVES_MIN.bit_length() - 1
        self._levels: list[list[bytes]] = []
        height = 0
        while True:
            if height >= self._lowest:
                self._levels.append(level)
            if len(level) <= 1 and self._levels:
                break
            level = _parents(level) if len(level) > 1 else level
            height += 1

    def proof(self, first_leaf: int, leaf_count: int) -> tuple[Digest, ...]:
        """The audit path of this run."""
        start = min(leaf_count.bit_length() - 1 - self._lowest, len(self._levels) - 1)
        index = first_leaf // leaf_count
        path: list[Digest] = []
        for level in self._levels[start:]:
            if index ^ 1 < len(level):
                path.append(Digest(level[index ^ 1]))
            index //= 2
        return tuple(path)


def _parents(level: list[bytes]) -> list[bytes]:
    paired = [bytes(merkle.node_hash(level[i], level[i + 1])) for i in range(0, len(level) - 1, 2)]
    return paired + level[-1:] if len(level) % 2 else paired


async def _in_thread(work: Callable[[], RunTree]) -> RunTree:
    return await trio.to_thread.run_sync(work)


class PieceServer:
    """Makes pieces of blobs that may be shown; keeps the trees of the last few.

    aside: runs the hashing of a whole blob (100 MB: 0.1 s) off the event loop.
    """

    def __init__(self, aside: Callable[[Callable[[], RunTree]], Awaitable[RunTree]] = _in_thread) -> None:
        self._aside = aside
        self._trees: OrderedDict[Digest, RunTree] = OrderedDict()
        self._turn = trio.Lock()

    async def piece(self, source: BlobSource, request: wire.GetPiece) -> tuple[wire.PieceHead, bytes]:
        """The head and the bytes of a piece. Raises PeerFault for a run beyond the blob's end."""
        offset = request.first_leaf * LEAF_BYTES
        if offset >= source.length:
            raise PeerFault("bad_request", f"leaf {request.first_leaf} of {source.length} bytes")
        tree = self._trees.get(request.blob_id)
        if tree is None:
            async with self._turn:  # Whoever asks for the same blob meanwhile waits for the same tree.
                if request.blob_id not in self._trees:
                    self._trees[request.blob_id] = await self._aside(lambda: RunTree(source.leaf_hashes()))
                tree = self._trees[request.blob_id]
                while len(self._trees) > TREES_MAX:
                    self._trees.popitem(last=False)
        self._trees.move_to_end(request.blob_id)
        data = source.read(offset, min(request.leaf_count * LEAF_BYTES, source.length - offset))
        proof = tree.proof(request.first_leaf, request.leaf_count)
        return wire.PieceHead(source.length, proof, len(data)), data


# ---------------------------------------------------------------------------
# Checking.


def check_piece(piece: wire.Piece, request: wire.GetPiece, length: int) -> list[bytes]:
    """The hashes of its leaves. Raises PeerFault when the piece is not that run of the blob.

    1 MiB takes about a millisecond.

    A thread would not help: hashing a leaf holds the interpreter's lock, and to win it back costs the event
    loop five milliseconds.
    """
    if piece.total_length != length:
        raise PeerFault("wrong_piece", f"a blob of {piece.total_length} bytes, not {length}")
    offset = request.first_leaf * LEAF_BYTES
    if len(piece.data) != min(request.leaf_count * LEAF_BYTES, length - offset):
        raise PeerFault("wrong_piece", f"{len(piece.data)} bytes at {offset}")
    leaves = params.leaf_hashes(cast(bytes, piece.data))
    node = merkle.root_of_hashes(leaves)
    runs = -(-length // (request.leaf_count * LEAF_BYTES))
    index = request.first_leaf // request.leaf_count
    if not merkle.verify_inclusion(node, index, runs, piece.proof, request.blob_id):
        raise PeerFault("wrong_piece", f"leaf {request.first_leaf} and on of {request.blob_id.hex()}")
    return leaves


# ---------------------------------------------------------------------------
# Fetching.


class Holder(Protocol):
    """An open way to ask one peer for pieces; answers come in the order of the requests."""

    async def send(self, request: object) -> None: ...

    async def receive(self, *, silence_s: float) -> object:
        """The next answer. Raises ask.Stalled when nothing comes for so long, or too little."""
        ...


Open = Callable[[MemberId], AbstractAsyncContextManager[Holder]]


@dataclass
class _Wanted:
    """A piece that is not here yet. asked: who was asked last and when."""

    request: wire.GetPiece
    asked_by: set[MemberId] = field(default_factory=set)
    asked_s: float = 0.0


class Fetch:
    """One blob on its way here."""

    def __init__(
        self,
        blob_id: Digest,
        length: int,
        holders: Callable[[], Sequence[MemberId]],
        open_holder: Open,
        on_fault: Callable[[MemberId, PeerFault], None],
    ) -> None:
        if not 1 <= length <= params.BLOB_BYTES_MAX:
            raise PeerFault("bad_length", f"a blob of {length} bytes")
        self._length = length
        self._holders = holders
        self._open = open_holder
        self._on_fault = on_fault
        self._data = BytesIO()
        self._leaves: dict[int, list[bytes]] = {}
        leaves = run_leaves(length)
        pieces = range(-(-length // (leaves * LEAF_BYTES)))
        self._missing = {n: _Wanted(wire.GetPiece(blob_id, n * leaves, leaves)) for n in pieces}
        self._unasked = deque(self._missing)
        self._busy: set[MemberId] = set()
        self._not_before_s: dict[MemberId, float] = {}
        self._refusals: dict[MemberId, int] = {}
        self._changed = trio.Event()

    def nudge(self) -> None:
        """Something changed: somebody holds the blob now, or a piece came or went."""
        self._changed.set()
        self._changed = trio.Event()

    def announced_by(self, member: MemberId) -> None:
        """A Have for this blob came: whoever refused before may be asked again."""
        self._not_before_s.pop(member, None)
        self._refusals.pop(member, None)
        self.nudge()

    async def run(self) -> Fetched:
        """The whole blob, every piece of it verified. Runs until it is complete or cancelled."""
        with one_error():
            async with trio.open_nursery() as nursery:
                while self._missing:
                    changed = self._changed
                    self._start_holders(nursery)
                    with trio.move_on_after(LOOK_AGAIN_S):
                        await changed.wait()
                nursery.cancel_scope.cancel()  # Who is still asked for a piece that another one brought.
        leaves = tuple(leaf for number in sorted(self._leaves) for leaf in self._leaves[number])
        return Fetched(self._data.getvalue(), leaves)  # No copy: BytesIO gives its own bytes away.

    def _start_holders(self, nursery: trio.Nursery) -> None:
        now = trio.current_time()
        for holder in self._holders():
            if len(self._busy) >= HOLDERS_AT_ONCE:
                return
            ready = holder not in self._busy and self._not_before_s.get(holder, 0.0) <= now
            if ready and self._worth_asking_one_more(holder):
                self._busy.add(holder)
                nursery.start_soon(self._ask, holder)

    def _worth_asking_one_more(self, holder: MemberId) -> bool:
        """Whether those who are asked leave something to do: a small blob comes from one holder."""
        return len(self._unasked) > PIECES_AHEAD * len(self._busy) or self._late(holder) is not None

    def _late(self, holder: MemberId) -> int | None:
        """A piece that others have owed for too long."""
        before_s = trio.current_time() - TWICE_AFTER_S
        return next(
            (
                number
                for number, wanted in self._missing.items()
                if wanted.asked_by and holder not in wanted.asked_by and wanted.asked_s < before_s
            ),
            None,
        )

    async def _ask(self, holder: MemberId) -> None:
        """Ask one holder for pieces until there is nothing left to ask it for."""
        owed: deque[int] = deque()
        try:
            async with self._open(holder) as asker:
                while await self._exchange(holder, asker, owed):
                    self._refusals.pop(holder, None)
        except PeerFault as fault:
            self._postpone(holder, fault)
        except ask.Stalled as error:
            self._postpone(holder, PeerFault("slow", str(error)))
        except StreamBroken as error:
            self._postpone(holder, Unreachable(str(error)))
        finally:
            for number in owed:
                self._give_back(holder, number)
            self._busy.discard(holder)
            self.nudge()

    def _postpone(self, holder: MemberId, fault: PeerFault) -> None:
        if isinstance(fault, Unreachable) or fault.reason == "refused":
            count = self._refusals[holder] = self._refusals.get(holder, 0) + 1
            wait_s = min(REFUSED_AGAIN_MAX_S, REFUSED_AGAIN_S * 2 ** (count - 1))
        else:
            self._on_fault(holder, fault)
            wait_s = FAILED_AGAIN_S
        self._not_before_s[holder] = trio.current_time() + wait_s

    async def _exchange(self, holder: MemberId, asker: Holder, owed: deque[int]) -> bool:
        """Ask for what may be asked, take one answer. False when there is nothing more to do."""
        while len(owed) < PIECES_AHEAD:
            number = self._unasked.popleft() if self._unasked else self._late(holder)
            if number is None:
                break
            owed.append(number)
            wanted = self._missing[number]
            wanted.asked_by.add(holder)
            wanted.asked_s = trio.current_time()
            await asker.send(wanted.request)
        if not owed:
            return False
        answer = await asker.receive(silence_s=SILENCE_S)
        if isinstance(answer, wire.Refused):
            raise PeerFault("refused", answer.reason)
        if not isinstance(answer, wire.Piece):
            raise PeerFault("bad_answer", f"{type(answer).__name__} to GetPiece")
        self._take(owed[0], answer)
        owed.popleft()
        return bool(self._missing)

    def _take(self, number: int, piece: wire.Piece) -> None:
        wanted = self._missing.get(number)
        if wanted is None:
            return  # Another holder brought it first.
        self._leaves[number] = check_piece(piece, wanted.request, self._length)
        self._data.seek(wanted.request.first_leaf * LEAF_BYTES)
        self._data.write(piece.data)
        del self._missing[number]
        if not self._missing:
            self.nudge()

    def _give_back(self, holder: MemberId, number: int) -> None:
        wanted = self._missing.get(number)
        if wanted is None:
            return
        wanted.asked_by.discard(holder)
        if not wanted.asked_by:
            self._unasked.appendleft(number)
