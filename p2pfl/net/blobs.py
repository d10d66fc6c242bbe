"""Blobs come in pieces, from whoever has them: each is proved under the blob's id before it is believed.

A fetch asks several holders at once, leaves who is silent, slow or lies for another, and asks those who are
fetching the same blob too, the rarest pieces first. Knows no socket: a holder is something that answers
GetPiece and GetHeld; and no file: pieces go into a sink.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from io import BytesIO
from random import Random
from typing import Protocol

import trio

from consensus.types import Digest, MemberId
from p2pfl import params
from p2pfl.errors import PeerFault
from p2pfl.net import ask, wire
from p2pfl.net.interface import Fetched, Sink, Unreachable
from p2pfl.net.piece_server import mask_of
from p2pfl.net.stream import StreamBroken, one_error
from p2pfl.params import LEAF_BYTES
from p2pfl.runs import piece_leaves, proved, run_hashes

# Holders that one fetch asks at the same time; more do not help against the slowest link, which is our own.
HOLDERS_AT_ONCE = 4
# Requests on their way to one holder: one is read while the next is asked for.
PIECES_AHEAD = 2
# Checked pieces of one blob that wait in memory for the disk.
LANDING_MAX = 4
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
# Who fetches the blob too and has nothing that is missing here is asked again so soon for what it has by
# then; meanwhile somebody else may be asked. And so old may be what is known of a holder that has some.
NEWS_S, NEWS_AGE_S = 0.1, 0.5


def check_piece(piece: wire.Piece, request: wire.GetPiece, length: int) -> bytes:
    """The nodes above its runs of 64 leaves. Raises PeerFault when the piece is not that run of the blob.

    1 MiB takes 1.5 milliseconds. A thread would not help: hashing a leaf holds the interpreter's lock, and to
    win it back costs the event loop five.
    """
    if piece.total_length != length:
        raise PeerFault("wrong_piece", f"a blob of {piece.total_length} bytes, not {length}")
    offset = request.first_leaf * LEAF_BYTES
    if len(piece.data) != min(request.leaf_count * LEAF_BYTES, length - offset):
        raise PeerFault("wrong_piece", f"{len(piece.data)} bytes at {offset}")
    found = run_hashes(piece.data)
    if not proved(found, request.first_leaf, request.leaf_count, length, piece.proof, request.blob_id):
        raise PeerFault("wrong_piece", f"leaf {request.first_leaf} and on of {request.blob_id.hex()}")
    return found


class InMemory:
    """A sink for a blob that is small, or that somebody wants at once."""

    def __init__(self, length: int) -> None:
        self._piece_bytes = piece_leaves(length) * LEAF_BYTES
        self._runs: dict[int, bytes] = {}
        self._data = BytesIO()
        self._count = -(-length // self._piece_bytes)

    def missing(self) -> list[int]:
        """See `interface.Sink`."""
        return [number for number in range(self._count) if number not in self._runs]

    async def keep(self, number: int, piece: wire.Piece, runs: bytes) -> None:
        """See `interface.Sink`."""
        self._runs[number] = runs
        self._data.seek(number * self._piece_bytes)
        self._data.write(piece.data)

    def fetched(self) -> Fetched:
        """All of it."""
        runs = b"".join(self._runs[number] for number in range(self._count))
        return Fetched(self._data.getvalue(), runs)  # No copy: BytesIO gives its own bytes away.


class Holder(Protocol):
    """An open way to ask one peer for pieces; answers come in the order of the requests."""

    async def send(self, request: object) -> None: ...

    async def receive(self, *, silence_s: float) -> object:
        """The next answer. Raises ask.Stalled when nothing comes for so long, or too little."""
        ...


Open = Callable[[MemberId], AbstractAsyncContextManager[Holder]]


@dataclass
class _Wanted:
    """A piece that is not here yet. asked_by, asked_s: by whom it is owed, and since when the last one.

    landing: its bytes are here and checked, and are being kept.
    """

    request: wire.GetPiece
    asked_by: set[MemberId] = field(default_factory=set)
    asked_s: float = 0.0
    landing: bool = False


@dataclass
class _Known:
    """What a holder has: bit n of the mask is piece n, None while nobody knows. told_s: when it said so."""

    mask: int | None = None
    told_s: float = 0.0


class Fetch:
    """One blob on its way here.

    sink: where it goes; None for memory. Those who fetch it too are asked what they have only when it goes
    somewhere else: a small blob is here before they could answer. chance: which of equally rare pieces.
    """

    def __init__(
        self,
        blob_id: Digest,
        length: int,
        holders: Callable[[], Sequence[MemberId]],
        open_holder: Open,
        on_fault: Callable[[MemberId, PeerFault], None],
        sink: Sink | None = None,
        chance: Random | None = None,
    ) -> None:
        if not 1 <= length <= params.BLOB_BYTES_MAX:
            raise PeerFault("bad_length", f"a blob of {length} bytes")
        self._length = length
        self._holders = holders
        self._open = open_holder
        self._on_fault = on_fault
        self._shared = sink is not None
        self._memory = InMemory(length)
        self._sink: Sink = sink or self._memory
        self._chance = chance or Random()
        self._blob_id, self._piece_leaves = blob_id, piece_leaves(length)
        self._all = (1 << -(-length // (self._piece_leaves * LEAF_BYTES))) - 1
        requests = (
            (n, wire.GetPiece(blob_id, n * self._piece_leaves, self._piece_leaves))
            for n in self._sink.missing()
        )
        self._missing = {n: _Wanted(request) for n, request in requests}
        self._unasked = dict.fromkeys(self._missing)  # In their order.
        self._known: dict[MemberId, _Known] = {}
        self._busy: set[MemberId] = set()
        self._not_before_s: dict[MemberId, float] = {}
        self._refusals: dict[MemberId, int] = {}
        self._changed = trio.Event()
        self._landing = trio.Semaphore(LANDING_MAX)
        self._nursery: trio.Nursery | None = None

    def nudge(self) -> None:
        """Something changed: somebody holds the blob now, or a piece came or went."""
        self._changed.set()
        self._changed = trio.Event()

    def announced_by(self, member: MemberId) -> None:
        """A Have for this blob came: whoever refused before may be asked again."""
        self._not_before_s.pop(member, None)
        self._refusals.pop(member, None)
        self._known.pop(member, None)
        self.nudge()

    async def run(self) -> Fetched:
        """The whole blob, every piece of it verified. Runs until it is complete or cancelled."""
        with one_error():
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                while self._missing:
                    changed = self._changed
                    self._start_holders(nursery)
                    with trio.move_on_after(LOOK_AGAIN_S):
                        await changed.wait()
                nursery.cancel_scope.cancel()  # Who is still asked for a piece that another one brought.
        return Fetched(b"", b"") if self._shared else self._memory.fetched()

    # -- whom to ask, and for what -----------------------------------------

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
        ahead = 0 if self._shared else PIECES_AHEAD * len(self._busy)
        return len(self._unasked) > ahead or self._late(holder) is not None

    def _late(self, holder: MemberId) -> int | None:
        """A piece that others have owed for too long."""
        before_s, mask = trio.current_time() - TWICE_AFTER_S, self._mask(holder)
        return next(
            (
                number
                for number, wanted in self._missing.items()
                if wanted.asked_by
                and holder not in wanted.asked_by
                and not wanted.landing
                and wanted.asked_s < before_s
                and mask >> number & 1
            ),
            None,
        )

    def _mask(self, holder: MemberId) -> int:
        known = self._known.get(holder)
        return self._all if known is None or known.mask is None else known.mask

    def _rarest(self, holder: MemberId) -> int | None:
        """Of the pieces that nobody was asked for and this one has, one that the fewest others have."""
        if not self._shared:
            return next(iter(self._unasked), None)
        mask = self._mask(holder)
        here = [number for number in self._unasked if mask >> number & 1]
        if not here:
            return None
        masks = [known.mask for known in self._known.values() if known.mask not in (None, self._all)]
        have = {number: sum(each >> number & 1 for each in masks if each is not None) for number in here}
        fewest = min(have.values())
        return self._chance.choice([number for number in here if have[number] == fewest])

    # -- one holder --------------------------------------------------------

    async def _ask(self, holder: MemberId) -> None:
        """Ask one holder for pieces until there is nothing left to ask it for."""
        owed: deque[int | None] = deque()  # Numbers of pieces, and None for what it has.
        try:
            async with self._open(holder) as asker:
                while await self._exchange(holder, asker, owed):
                    self._refusals.pop(holder, None)
            if self._shared:
                self._not_before_s[holder] = trio.current_time() + NEWS_S
                self._known.setdefault(holder, _Known()).told_s = -math.inf
        except PeerFault as fault:
            self._postpone(holder, fault)
        except ask.Stalled as error:
            self._postpone(holder, PeerFault("slow", str(error)))
        except StreamBroken as error:
            self._postpone(holder, Unreachable(str(error)))
        finally:
            for number in owed:
                if number is not None:
                    self._give_back(holder, number)
            self._busy.discard(holder)
            self.nudge()

    def _postpone(self, holder: MemberId, fault: PeerFault) -> None:
        self._known.pop(holder, None)
        if isinstance(fault, Unreachable) or fault.reason == "refused":
            count = self._refusals[holder] = self._refusals.get(holder, 0) + 1
            wait_s = min(REFUSED_AGAIN_MAX_S, REFUSED_AGAIN_S * 2 ** (count - 1))
        else:
            self._on_fault(holder, fault)
            wait_s = FAILED_AGAIN_S
        self._not_before_s[holder] = trio.current_time() + wait_s

    async def _exchange(self, holder: MemberId, asker: Holder, owed: deque[int | None]) -> bool:
        """Ask for what may be asked, take one answer. False when there is nothing more to do."""
        if self._shared and None not in owed and self._is_old(holder):
            owed.append(None)
            await asker.send(wire.GetHeld(self._blob_id, self._piece_leaves))
        while len(owed) < PIECES_AHEAD and (number := self._next(holder)) is not None:
            self._unasked.pop(number, None)
            owed.append(number)
            wanted = self._missing[number]
            wanted.asked_by.add(holder)
            wanted.asked_s = trio.current_time()
            await asker.send(wanted.request)
        if not owed:
            return False
        answer = await asker.receive(silence_s=SILENCE_S)
        if isinstance(answer, wire.Refused):
            self._refused(holder, owed[0], answer)
        elif owed[0] is None and isinstance(answer, wire.Held):
            self._known[holder] = _Known(mask_of(answer, self._length), trio.current_time())
        elif owed[0] is not None and isinstance(answer, wire.Piece):
            await self._take(owed[0], answer)
        else:
            raise PeerFault("bad_answer", f"{type(answer).__name__} to something else")
        owed.popleft()
        return bool(self._missing)

    def _refused(self, holder: MemberId, number: int | None, answer: wire.Refused) -> None:
        """It does not have what it did not say it had: no offence. Otherwise it is left for a while."""
        guessed = number is not None and not self._mask(holder) >> number & 1
        if not (self._shared and guessed and number is not None):
            raise PeerFault("refused", answer.reason)
        self._give_back(holder, number)

    def _is_old(self, holder: MemberId) -> bool:
        """Whether to ask a holder what it has: at first, and now and then while that is not everything."""
        known = self._known.setdefault(holder, _Known())
        if known.mask is None:
            return True
        return known.mask != self._all and known.told_s < trio.current_time() - NEWS_AGE_S

    def _next(self, holder: MemberId) -> int | None:
        known = self._known.get(holder)
        if self._shared and known is not None and known.mask is None and holder not in self._holders()[:1]:
            return None  # Most others have little or nothing yet; the first one has it all, or nobody.
        number = self._rarest(holder)
        return self._late(holder) if number is None else number

    async def _take(self, number: int, piece: wire.Piece) -> None:
        wanted = self._missing.get(number)
        if wanted is None or wanted.landing:
            return  # Another holder brought it first.
        runs = check_piece(piece, wanted.request, self._length)
        wanted.landing = True
        await self._landing.acquire()
        if self._shared and self._nursery is not None:
            # The next piece is read while this one is written, as long as the disk keeps up.
            self._nursery.start_soon(self._keep, number, piece, runs)
        else:
            await self._keep(number, piece, runs)

    async def _keep(self, number: int, piece: wire.Piece, runs: bytes) -> None:
        try:
            await self._sink.keep(number, piece, runs)
        finally:
            self._landing.release()
        del self._missing[number]
        if not self._missing:
            self.nudge()

    def _give_back(self, holder: MemberId, number: int) -> None:
        wanted = self._missing.get(number)
        if wanted is None or wanted.landing:
            return
        wanted.asked_by.discard(holder)
        if not wanted.asked_by:
            self._unasked = {number: None, **self._unasked}
