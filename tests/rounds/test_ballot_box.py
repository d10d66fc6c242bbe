"""A member's ballot is on the disk before it is sent, and others' are heard whenever they come."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from consensus.signing import block_id, sign, signing_digest
from p2pfl.errors import PeerFault
from p2pfl.net import wire
from p2pfl.rounds.ballots import EARLY_MAX, Ballots
from p2pfl.rounds.home import Home
from p2pfl.rounds.own import OwnRounds
from p2pfl.rules import ballots as rules
from p2pfl.rules.validate import Derived, derive_group_body
from p2pfl.signed import SignedBallot
from tests.rules.world import World, honest_updates, world

GROUP = "g0"


class Member:
    """The first member of the group, with a folder of its own. `sent`: its ballots."""

    def __init__(self, there: World, folder: Path, losses: tuple[float, float] | None) -> None:
        self.there, self.own = there, OwnRounds(folder)
        self.me, *self.others = there.members(GROUP)
        self.sent: list[SignedBallot] = []
        self._losses = list(losses) if losses else []

    def ballots(self, nursery: trio.Nursery) -> Ballots:
        there = self.there
        context: Any = SimpleNamespace(
            genesis=there.genesis,
            committee=there.genesis.committee(GROUP),
            domain=there.genesis.domain(GROUP),
            group_id=there.genesis.group_id(GROUP),
            me=self.me,
            others=self.others,
            chain=SimpleNamespace(height=-1, get=lambda height: None),
            guard=SimpleNamespace(sign_plain=lambda domain, ballot: self.sign(self.me, ballot)),
            trainer=SimpleNamespace(evaluate_held_out=self._evaluate),
            network=SimpleNamespace(broadcast=self._broadcast),
            aside=self._aside,
            heavy=trio.CapacityLimiter(1),
        )
        return Ballots(context, self.own, Home(nursery))

    def sign(self, member: Any, ballot: Any) -> bytes:
        return sign(self.there.secrets[member], signing_digest(self.there.genesis.domain(GROUP), ballot))

    async def _aside(self, work: Callable[..., Any], *args: Any) -> Any:
        return work(*args)

    async def _evaluate(self, values: Any) -> tuple[float, float] | None:
        return (self._losses.pop(0), 0.0) if self._losses else None

    def _broadcast(self, to: Any, message: wire.BallotMessage) -> None:
        assert list(to) == self.others
        assert self.own.ballot(message.ballot.ballot.height) == message.ballot  # Durable before it is sent.
        self.sent.append(message.ballot)

    def of(self, member: Any, header: Any, losses: tuple[float, float] | None) -> SignedBallot:
        ballot = rules.make(0, header.height, block_id(header), losses)
        return SignedBallot(ballot, self.sign(member, ballot))


def decided(there: World) -> tuple[Any, Derived]:
    derived = derive_group_body(there.inputs(GROUP, honest_updates(there, GROUP, 3)))
    return there.decide(GROUP, derived.body)[0], derived


async def test_the_same_bytes_are_sent_after_a_restart_whatever_is_measured_then(tmp_path: Path) -> None:
    there = world()
    header, derived = decided(there)
    for losses in ((2.0, 1.0), (1.0, math.nan)):
        member = Member(there, tmp_path, losses)
        async with trio.open_nursery() as nursery:
            ballots = member.ballots(nursery)
            ballots.begin(header, derived.body, derived)
        ballots.say_again()
        assert [each.ballot.approve for each in member.sent] == [1, 1]
        assert member.sent[0].ballot.loss_old_micro == 2_000_000


async def test_who_cannot_measure_abstains(tmp_path: Path) -> None:
    there = world()
    header, derived = decided(there)
    for folder, known, losses in (("a", derived, None), ("b", None, (1.0, 9.0))):
        member = Member(there, tmp_path / folder, losses)
        async with trio.open_nursery() as nursery:
            member.ballots(nursery).begin(header, derived.body, known)
        assert [rules.is_abstention(each.ballot) for each in member.sent] == [True]


async def test_ballots_count_once_and_before_their_block_is_decided_here_too(tmp_path: Path) -> None:
    there = world()
    header, derived = decided(there)
    member = Member(there, tmp_path, (2.0, 1.0))
    first, second, third = member.others
    async with trio.open_nursery() as nursery:
        ballots = member.ballots(nursery)
        for _ in range(EARLY_MAX + 2):
            ballots.received(first, member.of(first, header, (1.0, 9.0)))
        ballots.begin(header, derived.body, derived)
    assert await ballots.gather(trio.current_time(), needed=True) is None
    assert await ballots.gather(trio.current_time(), needed=False) == ()
    ballots.received(first, member.of(first, header, (2.0, 1.0)))  # Its first one was another, and counts.
    assert await ballots.gather(trio.current_time(), needed=True) is None
    ballots.received(third, member.of(third, header, None))
    found = await ballots.gather(trio.current_time(), needed=True)
    assert found is not None and [each.ballot.approve for each in found] == [1, 0, 1]
    with pytest.raises(PeerFault, match="bad_ballot"):
        ballots.received(second, SignedBallot(found[0].ballot, bytes(65)))
