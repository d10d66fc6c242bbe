"""A process: the driver around one Replica, with a disk that can lose its unsynced tail.

Does what a real driver has to do: effects in their order, fsync before what depends on it, own votes fed
back, blocks stored before the next step. Knows nothing of the rules.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from consensus import chain
from consensus.committee import Committee
from consensus.replica import Replica
from consensus.signing import Domain, block_id
from consensus.types import (
    Behind,
    Block,
    Build,
    Built,
    Decide,
    DecidedBlock,
    DecidedMessage,
    Digest,
    Effect,
    Elapsed,
    EnteredRound,
    Event,
    Fault,
    Header,
    MemberId,
    Message,
    Persist,
    Received,
    Resend,
    Send,
    Sign,
    Started,
    Validate,
    Validated,
)
from consensus.votes import BadCertificate, check_certificate, signed_vote, with_signature

if TYPE_CHECKING:
    from tests.sim.world import World

NETWORK = Digest(b"N" * 32)
DOMAIN = Domain(31337, MemberId(bytes(20)), Digest(b"G" * 32))
APP_ROOT = Digest(b"A" * 32)
BAD_BODY = b"bad"
DOUBLINGS_MAX = 4
# A fresh block displeases whose clock is further from it: longer than any delay and the skew when healed,
# shorter than two rounds; and blocks from the future beyond that skew.
FRESH_MS = 100
AHEAD_MS = 50

# Where a crash is waited for; others come after a number of steps.
TRAPS = ("before-Persist", "before-Sign", "before-Decide", "amid-a-send", "block-stored")

# How a liar says what an honest member would have said: (to whom, what) for each message.
Liar = Callable[["Member", Message], list[tuple[MemberId | None, Message]]]


class Crash(Exception):
    """The process ends here, between two effects or in the middle of one."""


class Member:
    """Its disk: `wal`, `tail` (appended, not synced), `store`; and `mute_until`, which its guard knows."""

    def __init__(self, world: World, member: MemberId, *, liar: Liar | None, name: int) -> None:
        self.world, self.id, self.liar, self.name = world, member, liar, name
        self.alive = False
        self.life = 0
        self.fuse: int | None = None
        self.trap: str | None = None
        self.wal: list[Event] = []
        self.tail: list[Event] = []
        self.store: list[DecidedBlock] = []
        self.kept: list[Message] = []  # What the WAL held of decided heights of the epoch: for auditors.
        self.skew_ms = 0
        self.log = chain.Log()
        self.nonce = 0
        self.wipe = False  # The next crash takes the WAL, but not the guard.
        self.mute_until = 0
        self._progress: tuple[int, int] = (0, 0)
        self._inbox: list[Event] = []
        self._timer: Elapsed | None = None  # Of the own round, as long as it has not started.
        self._entered_ms = 0
        self.replica: Replica | None = None  # None: it has never voted. Who left keeps the last, to answer.

    # Life and death.

    def start(self) -> None:
        """A fresh process takes up the disk."""
        if self.alive:
            return
        self.alive, self.life = True, self.life + 1
        self.fuse = self.trap = self._timer = None
        self._inbox = []
        self.tell("starts", wal=len(self.wal))
        if self.votes:
            replica = self._take_seat(self.committee)
            if len(self.store) != self.world.last:
                self._guarded(lambda: self.perform(replica.restore(self._started(), self.wal)))
        elif self.id in self.world.epochs.committees[0]:
            # It left: to members that are late it still speaks of its last height.
            last = self.world.epochs.last_heights[0]
            replica = self._take_seat(self.world.epochs.committees[0])
            replica.step(self._started(last))
            replica.step(Received(self.id, DecidedMessage(self.store[last])))

    @property
    def committee(self) -> Committee:
        """Who decides the height that is open here."""
        return self.world.epochs.at(len(self.store))

    @property
    def votes(self) -> bool:
        """Whether it is a member at the height that is open here."""
        return self.id in self.committee

    def _take_seat(self, committee: Committee) -> Replica:
        """A replica for an epoch in which this member votes."""
        self.replica = self.world.replica(
            committee,
            self.id,
            DOMAIN,
            decided_at=lambda height: self.store[height] if 0 <= height < len(self.store) else None,
            recover=self.world.notary.recover,
        )
        return self.replica

    def crash_soon(self, actions: int, where: str | None) -> None:
        """Die after so many more effects have been carried out, or when next at this point."""
        if self.alive and not self.world.healed:
            self.fuse, self.trap = (actions, None) if where is None else (None, where)

    def _die(self, where: str) -> None:
        rng = self.world.rng
        # What was appended but not synced may or may not have reached the disk, in order.
        survives = rng.randrange(len(self.tail) + 1)
        self.tell(
            "crashes", where=where, entries=len(self.wal), unsynced=len(self.tail), of_them_kept=survives
        )
        self.wal += self.tail[:survives]
        self.tail, self.alive, self.fuse, self.trap = [], False, None, None
        if self.wipe:
            self.wal, self.wipe = [], False
            # A member without its WAL signs nothing until the height that its guard names is decided.
            self.mute_until = len(self.store) + 1
            self.tell("loses its WAL")
        self.world.at(rng.randrange(1, 800), self.start)

    def _guarded(self, work: Callable[[], None] | None = None) -> None:
        """Do this, then what is in the inbox, unless it dies of it."""
        try:
            if work is not None:
                work()
            while self._inbox:
                event = self._inbox.pop(0)
                if self.replica is not None:
                    self.perform(self.replica.step(event))
            if self._timer is not None:
                self._start_timer()
        except Crash as crash:
            self._die(str(crash))

    def _burn(self, where: str) -> None:
        if self.fuse is not None:
            self.fuse -= 1
        if where == self.trap or (self.fuse is not None and self.fuse < 0):
            raise Crash(where)

    # Events.

    def step(self, event: Event, life: int = 0) -> None:
        """Give the core one event of this life (0: of any)."""
        if self.alive and life in (0, self.life):
            self._inbox.append(event)
            self._guarded()

    def deliver(self, sender: MemberId, message: Message) -> None:
        """A message arrives."""
        if self.alive:
            if self.world.story is not None:
                self.tell("receives", sender=self.world.ids.index(sender), message=brief(message))
            self.step(Received(sender, message))

    def tick(self) -> None:
        """R8: speak again when nothing has moved since the last tick; about twice a round."""
        round_ = self.replica.round if self.replica else 0
        self.world.at(self.world.weather.base_ms * 2 ** max(0, min(round_, DOUBLINGS_MAX) - 1), self.tick)
        if self.alive:
            now = (len(self.store), round_)
            if now == self._progress:
                self.step(Resend())
                if not (self.votes and self.world.epochs.stays(self.id)):
                    # The core of a new committee answers its members only. Observers ask for blocks.
                    self.catch_up(self.world.rng.choice(self.committee.members), self.life)
            self._progress = now

    def perform(self, effects: list[Effect]) -> None:
        """Carry the effects out in their order. What is signed must have been synced before."""
        for effect in effects:
            if self.fuse is not None or self.trap is not None:
                self._burn(f"before-{type(effect).__name__}")
            match effect:
                case Persist(event=event):
                    self.tail.append(event)
                case Send(to=to, message=message):
                    self.sync()
                    self.say(to, message)
                case Sign(message=message):
                    self.sync()
                    self.sign(message)
                case EnteredRound(height=height, round=round_):
                    self.tell("enters round", height=height, round=round_)
                    self._timer, self._entered_ms = Elapsed(height, round_), self.world.now_ms
                case Build():
                    self.later(Built(effect.height, effect.round, self.build(effect)))
                case Validate():
                    self.later(self.judge(effect))
                case Decide(decided=decided):
                    self.decide(decided)
                case Behind(peer=peer):
                    self.world.at(20, self.catch_up, peer, self.life)
                case Fault():
                    self.tell("blames", peer=self.world.ids.index(effect.peer), reason=effect.reason)
                    self.world.oracles.blamed(effect)

    def timer_ms(self, round_: int) -> int:
        """How long a round may take."""
        return self.world.weather.base_ms * 2 ** min(round_, DOUBLINGS_MAX)

    def _start_timer(self) -> None:
        """R4: a round's timer starts when a quorum has come to it: nothing could be decided before."""
        timer = self._timer
        if timer is not None and self.may_start():
            self._timer = None
            self.world.at(self.patience_ms(timer.round, self._entered_ms), self.step, timer, self.life)

    def may_start(self) -> bool:
        """Whether a quorum has come to the own round."""
        return self.replica is None or self.replica.followed

    def patience_ms(self, round_: int, entered_ms: int) -> int:
        """How long a round may take from now on. entered_ms: when this member came to it."""
        del entered_ms
        return self.timer_ms(round_)

    def later(self, event: Event) -> None:
        """The application answers after a moment."""
        self.world.at(self.world.rng.randrange(1, 15), self.step, event, self.life)

    # Effects.

    def sync(self) -> None:
        """fsync."""
        if self.tail:
            self.wal += self.tail
            self.tail = []

    def sign(self, message: Message) -> None:
        """Sign, tell everybody, feed back."""
        signed = signed_vote(message)
        assert signed is not None
        if signed.vote.height < self.mute_until:
            return
        signature = self.world.notary.sign(self.id, signed.vote)
        self.world.oracles.signed(self.id, signed.vote, signature)
        filled = with_signature(message, signature, b"ballot")
        self._inbox.append(Received(self.id, filled))
        self.say(None, filled)

    def say(self, to: MemberId | None, message: Message) -> None:
        """Send as an honest member does, or as the liar inside wants it."""
        for to_, message_ in [(to, message)] if self.liar is None else self.liar(self, message):
            for peer in self.committee.members if to_ is None else (to_,):
                if peer != self.id:
                    self._burn("amid-a-send")
                    self.world.send(self, peer, message_)

    def build(self, ask: Build, body: bytes = b"") -> Block:
        """A fresh block, different each time."""
        self.nonce += 1
        before_ms = -1 if ask.parent is None else ask.parent.time_ms
        header = Header(
            version=chain.HEADER_VERSION,
            network_id=NETWORK,
            group_id=DOMAIN.group_id,
            epoch=self.committee.epoch,
            height=ask.height,
            parent_id=ask.parent_id,
            proposer=self.id,
            time_ms=max(before_ms + 1, self.clock_ms()),
            app_root=Digest(bytes([self.name, self.nonce % 256]) + APP_ROOT[2:]),
            log_root=ask.log_root,
            next_committee_root=self.world.epochs.next_root(ask.height),
        )
        return Block(header, body or b"good")

    def clock_ms(self) -> int:
        """What its clock says."""
        return max(0, self.world.now_ms + self.skew_ms)

    def judge(self, ask: Validate) -> Validated:
        """Bodies are good or bad for everybody; a fresh block may also displease one clock, or me alone."""
        header = ask.block.header
        valid = ask.block.body != BAD_BODY
        valid = valid and header.next_committee_root == self.world.epochs.next_root(ask.height)
        if ask.fresh:
            age_ms = self.clock_ms() - header.time_ms
            stubborn = not self.world.healed and self.world.rng.random() < self.world.weather.stubborn
            valid = valid and not stubborn and -AHEAD_MS <= age_ms <= FRESH_MS
        return Validated(ask.height, ask.round, block_id(ask.block.header), valid)

    def decide(self, decided: DecidedBlock) -> None:
        """Store the block; put the WAL of its height away; begin the next height, perhaps of a new epoch."""
        self.tell("decides", height=len(self.store), round=decided.certificate.round)
        self.sync()
        self.world.oracles.decided(self.id, len(self.store), decided, self._started())
        before = self.committee
        self.store.append(decided)
        self.log.append(block_id(decided.block.header))
        self._burn("block-stored")  # A crash here leaves the WAL of an older height.
        self.kept += (event.message for event in self.wal if isinstance(event, Received))
        self.wal = []
        if self.committee != before:
            self.tell("begins an epoch", epoch=self.committee.epoch, votes=self.votes)
            if self.votes:
                self._take_seat(self.committee)
        if self.votes and len(self.store) != self.world.last:
            self._inbox.append(self._started())

    def _started(self, height: int | None = None) -> Started:
        """The height after the tip, or an earlier one."""
        log = self.log
        if height is not None:
            log = chain.Log(block_id(each.block.header) for each in self.store[:height])
        if log.size == 0:
            return Started(None, chain.FIRST_PARENT_ID, log.root())
        tip = self.store[log.size - 1].block.header
        return Started(tip, block_id(tip), log.root())

    def catch_up(self, peer: MemberId, life: int) -> None:
        """Fetch some blocks of a peer that is ahead."""
        home = self.world.home_of(peer, self)
        theirs = [] if home is None else home.store
        for height in range(len(self.store), min(len(self.store) + 4, len(theirs))):
            decided = theirs[height]
            if len(self.store) < height:
                return  # A fork: what follows there does not follow here.
            if self.votes:
                self.step(Received(peer, DecidedMessage(decided)), life)
            elif self.alive and self._follows(decided):
                self._guarded(lambda block=decided: self.decide(block))

    def _follows(self, decided: DecidedBlock) -> bool:
        """An observer checks a block without a replica."""
        header, tip = decided.block.header, self._started()
        reason = chain.objection(
            header,
            parent=tip.parent,
            parent_id=tip.parent_id,
            log_root=tip.log_root,
            committee=self.committee,
            group_id=DOMAIN.group_id,
        )
        try:
            check_certificate(self.world.notary.recover, self.committee, header, decided.certificate)
        except BadCertificate:
            return False
        return reason is None

    def records(self) -> list[Message]:
        """What an auditor gets from it: what its disk holds of all heights."""
        open_ = (event.message for event in self.wal if isinstance(event, Received))
        return [*self.kept, *open_, *map(DecidedMessage, self.store)]

    def tell(self, what: str, **fields: Any) -> None:
        """One line of the story."""
        if self.world.story is not None:
            self.world.tell(f"member {self.name} {what}", **fields)


def brief(message: Message) -> str:
    """A message in a few words."""
    signed = signed_vote(message)
    if signed is None:
        return type(message).__name__
    vote = signed.vote
    what = getattr(vote, "block_id", getattr(vote, "prepared_block_id", b""))
    return f"{type(vote).__name__}(h{vote.height} r{vote.round} {what[:3].hex()})"
