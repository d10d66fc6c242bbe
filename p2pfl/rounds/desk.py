"""Where the network's messages reach the rooms: who may say what, by the group they sit in."""

from __future__ import annotations

from collections import deque
from typing import Any, TypeAlias

import trio

from consensus import types as ct
from consensus.types import Digest, MemberId
from consensus.votes import subject
from p2pfl.errors import PeerFault
from p2pfl.genesis import COUNCIL
from p2pfl.net import wire
from p2pfl.roster import Roster
from p2pfl.rounds.context import Context
from p2pfl.rounds.court import Court
from p2pfl.rounds.defence import Defence
from p2pfl.rounds.driver import Driver
from p2pfl.rounds.follow import Chain, Follower
from p2pfl.rounds.group import GroupApp
from p2pfl.rounds.turnover import Comings
from p2pfl.telemetry import logger

log = logger("rounds.desk")

# Members that are so many epochs apart have nothing to say to each other.
EPOCHS_APART_MAX = 3
# Requests, commitments, closes and ballots of an epoch that has not begun here yet, of each member: a round
# has four.
EARLY_MAX = 16

Early: TypeAlias = wire.ShareRequestMessage | wire.ParamTxMessage | wire.CloseMessage | wire.BallotMessage


class Desk:
    """The handlers of one node (`net.interface.Handlers`): made before the network, opened with the node.

    context: of the epoch in which the node works now, or did last.
    """

    context: Context

    def __init__(self) -> None:
        self.comings: Comings | None = None
        self._early: dict[MemberId, deque[Early]] = {}
        self.driver: Driver | None = None
        self.group: GroupApp | None = None
        self.court: Court | None = None
        self.defence: Defence | None = None
        self.chains: dict[Digest, Chain] = {}
        self.followers: dict[Digest, Follower] = {}

    def open_rooms(self) -> None:
        """An epoch begins here: what those who began it before us said of it is heard now."""
        early, self._early = self._early, {}
        for sender, messages in early.items():
            for message in messages:
                epoch = _epoch_of(message)
                if epoch > self.context.committee.epoch:
                    self._early.setdefault(sender, deque(maxlen=EARLY_MAX)).append(message)
                if self.group is None or not self._is_of_now(sender, message.group_id, epoch):
                    continue
                try:
                    self.group.received(sender, message)
                except PeerFault as fault:
                    log.debug("an early message was of no use", peer=sender.hex(), why=str(fault))

    def leave_rooms(self) -> None:
        """An epoch is over: nobody works here until the next one begins, but who is accused answers."""
        self.driver = self.group = self.court = self.comings = None

    async def received(self, sender: MemberId, message: wire.Message) -> None:
        """A message of an authenticated peer. Raises PeerFault for what this peer may not say here."""
        context = self.context
        match message:
            case wire.ConsensusMessage(group_id, inner):
                if self._is_of_now(sender, group_id, subject(inner).epoch):
                    if self.driver is not None:
                        self.driver.deliver(sender, inner)
                elif self.comings is not None and isinstance(inner, ct.RoundChangeMessage):
                    self._alive(sender, group_id, inner)
                else:
                    self._other_epoch(sender, group_id)  # Votes are repeated (R8).
            case (
                wire.ShareRequestMessage(group_id)
                | wire.ParamTxMessage(group_id)
                | wire.CloseMessage(group_id)
                | wire.BallotMessage(group_id)
            ):
                if self.group is not None and self._is_of_now(sender, group_id, _epoch_of(message)):
                    self.group.received(sender, message)
                else:
                    self._other_epoch(sender, group_id)
                    kept = self._early.setdefault(sender, deque(maxlen=EARLY_MAX))
                    kept.append(message)  # Who began an epoch before us says it once.
            case wire.NoticeMessage(notice):
                if self.comings is not None:
                    self.comings.noticed(notice)
            case wire.Tip(group_id, height, _):
                if (follower := self.followers.get(group_id)) is not None:
                    follower.tip_seen(sender, height)
            case wire.BaseDelta():
                if sender in context.seats:  # Others are no seats yet, or no more: nothing hangs on it.
                    context.council.told_delta(sender, message)
            case wire.OpenRequest():
                if self.defence is not None:
                    await self.defence.asked(sender, message)
            case wire.OpeningOffer() | wire.MeasurementMessage() | wire.VerdictShare():
                if self.court is None:
                    raise PeerFault("unexpected", f"{type(message).__name__} to a member")
                if not isinstance(message, wire.OpeningOffer) and sender not in context.seats:
                    raise PeerFault("not_a_seat", type(message).__name__)
                self.court.received(sender, message)
            case _:
                raise PeerFault("unexpected", type(message).__name__)

    async def answer(self, sender: MemberId | None, request: wire.Request) -> wire.Response | wire.Refused:
        """GetStatus and GetBlocks of any chain that lies here: chains are public, to observers too."""
        del sender
        chain = self.chains.get(request.group_id)
        if chain is None:
            return wire.Refused("not_held")
        if isinstance(request, wire.GetStatus):
            return wire.Status(chain.group_id, chain.height, chain.tip_id)
        return await trio.to_thread.run_sync(lambda: wire.fitting(chain.slice(request.start, request.count)))

    def blob(self, sender: MemberId | None, blob_id: Digest) -> Any | None:
        """The blob, if this peer may have it. sender None: an observer, who may have what is public."""
        return self.context.shelf.source(sender, blob_id)

    def announced(self, sender: MemberId, tip: wire.Tip) -> None:
        """Gossip said that a chain has grown."""
        if (follower := self.followers.get(tip.group_id)) is not None:
            follower.tip_seen(sender, tip.height)

    def _is_of_now(self, sender: MemberId, group_id: Digest, epoch: int) -> bool:
        """Whether this is of the epoch in which this node works, or asks for help with an older one (R7)."""
        context = self.context
        here = group_id == context.group_id and sender in context.committee
        return here and epoch <= context.committee.epoch

    def _other_epoch(self, sender: MemberId, group_id: Digest) -> None:
        """Raises PeerFault unless both sat there once, or will: they are ahead of us, or behind."""
        context = self.context
        name = context.genesis.group_names.get(group_id)
        both = {sender, context.me}
        for seating in context.roster.seatings[-EPOCHS_APART_MAX:]:
            if (
                name is not None
                and name in seating.committees
                and both <= set(seating.committees[name].members)
            ):
                return
        raise PeerFault("not_a_member", "a message for a group in which you or I do not sit")

    def _alive(self, sender: MemberId, group_id: Digest, message: ct.RoundChangeMessage) -> None:
        """A member of a group that hangs tells the council that it lives."""
        context, epoch = self.context, message.round_change.vote.epoch
        name = context.genesis.group_names.get(group_id)
        if name is None or context.roster.group_of(sender, epoch) != name:
            raise PeerFault("not_a_member", "a message for a group in which you do not sit")
        assert self.comings is not None
        self.comings.round_change(sender, group_id, message.round_change)


def _epoch_of(message: Early) -> int:
    match message:
        case wire.ShareRequestMessage(_, request):
            return request.request.epoch
        case wire.ParamTxMessage(_, signed):
            return signed.tx.epoch
        case wire.CloseMessage(_, close, _):
            return close.close.epoch
        case wire.BallotMessage(_, signed):
            return signed.ballot.epoch


def holders_of(roster: Roster, name: str, me: MemberId) -> tuple[MemberId, ...]:
    """Who keeps a chain: its last members first, then (for a group's) the council's seats."""
    members = roster.newest(name).members
    if name != COUNCIL:
        earlier = roster.seatings[-2:-1]
        members += tuple(
            m for each in earlier if name in each.committees for m in each.committees[name].members
        )
        members += roster.newest(COUNCIL).members
    return tuple(dict.fromkeys(member for member in members if member != me))
