"""Carries out what the consensus core decides: durable first, then signed, then sent.

One task feeds the core with events one at a time, so that the order of its effects is kept. Knows the
core, the WAL, the guarded signer and the network; what a block means is the application's.
"""

from __future__ import annotations

import traceback
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import trio

from consensus import types as ct
from consensus.chain import FIRST_HEIGHT
from consensus.replica import Replica
from consensus.signing import Domain, block_id
from consensus.votes import signed_vote, with_signature
from p2pfl.keys import Guard, Refused
from p2pfl.net import wire
from p2pfl.rounds.chain import Checked
from p2pfl.rounds.patience import when_there_is_room
from p2pfl.store.wal import Wal
from p2pfl.telemetry import logger

log = logger("rounds.driver")

# What content of a liar may raise where nobody foresaw it. One member's rubbish must not stop all the others:
# the round fails, loudly; a bug of ours elsewhere still stops the node.
UNFORESEEN = (ValueError, LookupError, ArithmeticError, AssertionError, TypeError, RuntimeError)

# Messages of others that may wait for the core. R8 brings back what was dropped.
INBOX_MAX = 1024
# R8: how often the own current messages are sent again while a height is open.
RESEND_S = 2.0
# After a refused proposal the round ends so soon; twice as late each round, so that members that refuse each
# other's proposals for a reason that lasts (a clock) do not fill the network with round changes.
REFUSED_S, REFUSED_DOUBLINGS_MAX = 0.02, 8


class Application(Protocol):
    """What consensus asks of the group's or the council's application."""

    def entered(self, effect: ct.EnteredRound) -> None:
        """A round began."""
        ...

    async def build(self, effect: ct.Build) -> ct.Block | None:
        """A fresh block; cancelled when the round ends."""
        ...

    async def validate(self, effect: ct.Validate) -> bool:
        """Is this block valid? May fetch what it needs; cancelled when the round ends."""
        ...

    async def decided(self, decided: ct.DecidedBlock) -> bool:
        """Keep the block; True when another height follows."""
        ...

    async def caught_up(self, checked: Checked) -> bool | None:
        """Keep blocks that others decided; True when another height follows, None when nothing was kept."""
        ...

    def started(self) -> ct.Started:
        """Where the next height begins: after the tip of the chain as it is kept."""
        ...


class Peers(Protocol):
    """The part of the network that the driver uses."""

    def send(self, to: ct.MemberId, message: Any) -> None: ...
    def broadcast(self, to: Any, message: Any) -> None: ...


@dataclass(frozen=True)
class _Decided:
    """Blocks that others decided. done: they were kept, or are of no use."""

    checked: Checked
    done: trio.Event = field(default_factory=trio.Event)


class Driver:
    """One group's consensus on one node."""

    def __init__(
        self,
        *,
        replica: Replica,
        app: Application,
        domain: Domain,
        wal: Wal,
        guard: Guard,
        network: Peers,
        me: ct.MemberId,
        members: tuple[ct.MemberId, ...],
        on_fault: Callable[[ct.Fault], None],
        on_behind: Callable[[ct.MemberId, int], None],
        on_vote: Callable[[str], None],
        listeners: Callable[[], Sequence[ct.MemberId]] = tuple,
    ) -> None:
        """listeners: who hears of ROUND-CHANGEs besides the members, to know that they live."""
        self.replica = replica
        self.app = app
        self.domain = domain
        self.wal = wal
        self.guard = guard
        self.network = network
        self.me = me
        self.others = tuple(member for member in members if member != me)
        self.on_fault = on_fault
        self.on_behind = on_behind
        self.on_vote = on_vote
        self.listeners = listeners
        self.ended = trio.Event()  # No height follows, and what belongs to the last one is done.
        self.height, self.round = 0, 0
        self.active, self.dropped = False, 0
        self._unwritten: list[ct.Event] = []  # Entries of this height that nothing has waited for yet.
        self._own: deque[ct.Event] = deque()
        self._inbox: deque[ct.Event | _Decided] = deque()
        self._handed: _Decided | None = None
        self._wake = trio.Event()
        self._muted_height = FIRST_HEIGHT - 1
        self._deadline = float("inf")
        self._deadline_moved = trio.Event()
        self._part_s, self._followed = 0.0, True
        self._round_work: set[trio.CancelScope] = set()
        self._nursery: trio.Nursery | None = None
        self._disk = trio.CapacityLimiter(1)

    # -- from outside -----------------------------------------------------

    def deliver(self, sender: ct.MemberId, message: ct.Message) -> None:
        """A decoded message of an authenticated peer; dropped when too many wait (R8 repeats it)."""
        if len(self._inbox) >= INBOX_MAX:
            self.dropped += 1
            return
        self._inbox.append(ct.Received(sender, message))
        self._wake.set()

    def resend_to(self, peer: ct.MemberId) -> None:
        """After a reconnect (R8); once, however often it comes and goes while the core waits for the disk."""
        if (event := ct.Resend(peer)) not in self._inbox:
            self._inbox.append(event)
            self._wake.set()

    def catch_up(self, checked: Checked) -> trio.Event:
        """Go on after these blocks, which were looked at, if no others wait. The event: none wait now."""
        if self._handed is None or self._handed.done.is_set():
            self._handed = _Decided(checked)
            self._inbox.append(self._handed)
            self._wake.set()
        return self._handed.done

    def set_deadline(self, at: float) -> None:
        """The round ends at this trio time unless it is decided or moved before.

        Not before a quorum has come to it: from then on it has its whole time (R4).
        """
        self._deadline, self._part_s = at, at - trio.current_time()
        self._deadline_moved.set()

    async def run(self, started: ct.Started, *, resume: bool) -> None:
        """Run until cancelled, from the height after `started.parent`."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._timer)
            nursery.start_soon(self._resend)
            await self._start(started, resume=resume)
            while True:
                event = await self._next()
                if isinstance(event, _Decided):
                    await self._catch_up(event)
                    continue
                await self._carry_out(self.replica.step(event))
                self._look_for_followers()

    # -- inside -----------------------------------------------------------

    async def _next(self) -> ct.Event | _Decided:
        while True:
            if self._own:
                return self._own.popleft()
            if self._inbox:
                return self._inbox.popleft()
            self._wake = trio.Event()
            await self._wake.wait()

    def _feed(self, event: ct.Event) -> None:
        self._own.append(event)
        self._wake.set()

    async def _start(self, started: ct.Started, *, resume: bool) -> None:
        self.height = FIRST_HEIGHT if started.parent is None else started.parent.height + 1
        self.round = 0
        self.active = True
        restored = await self._in_thread(self.wal.replay, self.height, self._epoch) if resume else []
        if resume and not restored:
            self._mute()
        if restored:
            log.info("height taken up from the log", height=self.height, entries=len(restored))
            effects = self.replica.restore(started, restored)  # R9
        else:
            effects = self.replica.step(started)
        await self._carry_out(effects)

    def _mute(self) -> None:
        """Votes were signed of which the log knows nothing: sign none until the guard's height is decided."""
        newest = self.guard.newest(self.domain)
        if newest is None or newest[1] < self.height or newest[0] < self.replica.committee.epoch:
            return  # Votes of an earlier epoch contradict none of this one.
        if newest[1] > self.height or self.guard.has_voted(self.domain, *newest):
            self._muted_height = newest[1]
            log.warning("the log of the open height is lost: no votes until it ends", height=newest[1])

    async def _carry_out(self, effects: list[ct.Effect]) -> None:
        """In their order. Entries wait for the next signature or message and share one fsync with it, or for
        the block that makes them needless.
        """
        for effect in effects:
            match effect:
                case ct.Persist(event):
                    self._unwritten.append(event)
                case ct.Sign(message):
                    await self._sign(message)
                case ct.Send(to, message):
                    if self._unwritten:
                        await self._in_thread(self._write)
                    self._send(to, message)
                case _:
                    await self._perform(effect)

    def _write(self) -> None:
        """Make what was to be persisted durable. Called in the thread of what waits for it."""
        if self._unwritten:
            self.wal.reset(self.height, self._epoch)  # The mark of a new height goes before its first entry.
            self.wal.append_many(self._unwritten)
            self._unwritten = []

    async def _perform(self, effect: ct.Effect) -> None:
        match effect:
            case ct.EnteredRound():
                self._enter(effect)
            case ct.Build():
                self._spawn(self._build, effect)
            case ct.Validate():
                self._spawn(self._validate, effect)
            case ct.Decide(decided):
                await self._decide(decided)
            case ct.Behind(peer, height):
                self.on_behind(peer, height)
            case ct.Fault():
                self.on_fault(effect)
            case ct.Persist() | ct.Sign() | ct.Send():
                raise AssertionError("carried out before")

    async def _sign(self, message: Any) -> None:
        """Make the entries durable, then sign (the guard makes that durable), then send."""
        unsigned = signed_vote(message)
        assert unsigned is not None
        vote = unsigned.vote

        def durably() -> bytes:
            self._write()
            if self.height <= self._muted_height:
                place = (vote.epoch, vote.height, vote.round)
                raise Refused("the log of this height is lost", type(vote).__name__, *place)
            return self.guard.sign(self.domain, vote)

        try:
            signature = await self._in_thread(durably)
        except Refused as refused:
            log.warning("the guard refused a signature", why=str(refused))
            return
        signed = with_signature(message, signature)
        self._send(None, signed)
        self._feed(ct.Received(self.me, signed))
        self.on_vote(type(vote).__name__)

    def _send(self, to: ct.MemberId | None, message: ct.Message) -> None:
        packed = wire.ConsensusMessage(self.domain.group_id, message)
        if to is None:
            self.network.broadcast(self.others, packed)
            if isinstance(message, ct.RoundChangeMessage):
                alive = ct.RoundChangeMessage(message.round_change)
                self.network.broadcast(self.listeners(), wire.ConsensusMessage(self.domain.group_id, alive))
        elif to != self.me:
            self.network.send(to, packed)

    def _enter(self, effect: ct.EnteredRound) -> None:
        self._cancel_round_work()
        self.round = effect.round
        self._followed = self.replica.followed
        self.set_deadline(float("inf"))
        self.app.entered(effect)

    def _cancel_round_work(self) -> None:
        for scope in self._round_work:
            scope.cancel()

    def _spawn(self, work: Callable[[Any], Awaitable[None]], effect: Any) -> None:
        assert self._nursery is not None
        self._nursery.start_soon(self._bounded, work, effect)

    async def _bounded(self, work: Callable[[Any], Awaitable[None]], effect: Any) -> None:
        with trio.CancelScope() as scope:
            self._round_work.add(scope)
            try:
                await work(effect)
            finally:
                self._round_work.discard(scope)

    async def _build(self, effect: ct.Build) -> None:
        try:
            block = await self.app.build(effect)
        except UNFORESEEN:
            told = traceback.format_exc()[-2000:]
            log.error("a bug: what others sent makes building fail", height=effect.height, error=told)
            block = None
        if block is not None:
            self._feed(ct.Built(effect.height, effect.round, block))

    async def _validate(self, effect: ct.Validate) -> None:
        try:
            valid = await self.app.validate(effect)
        except UNFORESEEN:
            told = traceback.format_exc()[-2000:]
            log.error("a bug: a proposal makes checking fail; refused", height=effect.height, error=told)
            valid = False
        self._feed(ct.Validated(effect.height, effect.round, block_id(effect.block.header), valid))
        if not valid:
            # Nobody will vote for it: there is little to wait for in this round.
            await trio.sleep(REFUSED_S * 2 ** min(effect.round, REFUSED_DOUBLINGS_MAX))
            self._feed(ct.Elapsed(effect.height, effect.round))

    async def _decide(self, decided: ct.DecidedBlock) -> None:
        self._leave_height()
        await self._go_on(await self.app.decided(decided))

    def _leave_height(self) -> None:
        self._cancel_round_work()
        self.set_deadline(float("inf"))
        self.active = False

    async def _catch_up(self, event: _Decided) -> None:
        """The open height and those after it were decided by others: the core begins after them at once."""
        first, goes_on = event.checked.blocks[0], None
        if self.active and first.block.header.height == self.height:  # Else it was decided here meanwhile.
            goes_on = await self.app.caught_up(event.checked)
        if goes_on is not None:
            self._leave_height()
            # What was heard of the open height may contradict its certificate.
            for effect in self.replica.step(ct.Received(self.me, ct.DecidedMessage(first))):
                if isinstance(effect, ct.Fault):
                    self.on_fault(effect)
            await self._go_on(goes_on)
        event.done.set()

    async def _go_on(self, goes_on: bool) -> None:
        self._unwritten = []  # The block is durable: nobody needs to know how it came about.
        if goes_on:
            await self._start(self.app.started(), resume=False)
        else:
            self.ended.set()

    def _look_for_followers(self) -> None:
        """A quorum has come to the round just now: its part has its whole time from here on (R4)."""
        if not self._followed and self.replica.followed:
            self._followed = True
            self.set_deadline(trio.current_time() + self._part_s)

    async def _timer(self) -> None:
        while True:
            self._deadline_moved = trio.Event()
            with trio.move_on_at(self._deadline):
                await self._deadline_moved.wait()
                continue
            self._deadline = float("inf")
            if self.active and self._followed:
                self._feed(ct.Elapsed(self.height, self.round))

    async def _resend(self) -> None:
        """R8 while a height is open; else the core may answer those who are behind once more (R7)."""
        while True:
            await trio.sleep(RESEND_S)
            if ct.Resend() not in self._own:  # The core may be waiting for the disk.
                self._feed(ct.Resend())

    @property
    def _epoch(self) -> int:
        return self.replica.committee.epoch

    async def _in_thread(self, work: Callable[..., Any], *args: Any) -> Any:
        """On the disk. While it is full the core waits here: nothing is signed, nothing is lost."""
        return await when_there_is_room(partial(work, *args), limiter=self._disk)
