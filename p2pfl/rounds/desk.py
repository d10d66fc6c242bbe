"""Where the network's messages reach the rooms: who may say what, by the group they sit in."""

from __future__ import annotations

from typing import Any

import trio

from consensus.types import Digest, MemberId
from p2pfl.errors import PeerFault
from p2pfl.genesis import COUNCIL
from p2pfl.net import wire
from p2pfl.rounds.context import Context
from p2pfl.rounds.court import Court
from p2pfl.rounds.defence import Defence
from p2pfl.rounds.driver import Driver
from p2pfl.rounds.follow import Chain, Follower
from p2pfl.rounds.group import GroupApp


class Desk:
    """The handlers of one node (`net.interface.Handlers`): made before the network, opened with the node."""

    context: Context

    def __init__(self) -> None:
        self.driver: Driver | None = None
        self.group: GroupApp | None = None
        self.court: Court | None = None
        self.defence: Defence | None = None
        self.chains: dict[Digest, Chain] = {}
        self.followers: dict[Digest, Follower] = {}

    async def received(self, sender: MemberId, message: wire.Message) -> None:
        """A message of an authenticated peer. Raises PeerFault for what this peer may not say here."""
        context = self.context
        match message:
            case wire.ConsensusMessage(group_id, inner):
                self._own_group(sender, group_id)
                if self.driver is not None:
                    self.driver.deliver(sender, inner)
            case (
                wire.ShareRequestMessage(group_id)
                | wire.ParamTxMessage(group_id)
                | wire.CloseMessage(group_id)
            ):
                self._own_group(sender, group_id)
                if self.group is not None:
                    self.group.received(sender, message)
            case wire.Tip(group_id, height, _):
                if (follower := self.followers.get(group_id)) is not None:
                    follower.tip_seen(sender, height)
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

    async def answer(self, sender: MemberId, request: wire.Request) -> wire.Response | wire.Refused:
        """GetStatus and GetBlocks of any chain that lies here: chains are public to every peer."""
        del sender
        chain = self.chains.get(request.group_id)
        if chain is None:
            return wire.Refused("not_held")
        if isinstance(request, wire.GetStatus):
            return wire.Status(chain.group_id, chain.height, chain.tip_id)
        return await trio.to_thread.run_sync(lambda: wire.fitting(chain.slice(request.start, request.count)))

    def blob(self, sender: MemberId, blob_id: Digest) -> Any | None:
        """The blob, if this peer may have it."""
        return self.context.shelf.source(sender, blob_id)

    def announced(self, sender: MemberId, tip: wire.Tip) -> None:
        """Gossip said that a chain has grown."""
        if (follower := self.followers.get(tip.group_id)) is not None:
            follower.tip_seen(sender, tip.height)

    def _own_group(self, sender: MemberId, group_id: Digest) -> None:
        if group_id != self.context.group_id or sender not in self.context.committee:
            raise PeerFault("not_a_member", "a message for a group in which you or I do not sit")


def holders_of(context: Context, name: str) -> tuple[MemberId, ...]:
    """Who keeps a chain: its own members first, then (for a group's) the council's seats."""
    members = context.genesis.committee(name).members
    rest = () if name == COUNCIL else context.seats
    return tuple(member for member in (*members, *rest) if member != context.me)
