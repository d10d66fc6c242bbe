"""What is said of an epoch before it begins here is heard when it begins; nothing else is kept."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from consensus.types import Digest, MemberId
from p2pfl.errors import PeerFault
from p2pfl.net import wire
from p2pfl.rounds.desk import EARLY_MAX, Desk
from p2pfl.rules.state import CouncilState
from p2pfl.signed import ShareRequest, SignedShareRequest
from tests.rules.test_epochs import EPOCHS, RULES, after
from tests.rules.world import World, world

ZERO = Digest(bytes(32))


def seated(there: World, state: CouncilState, me: MemberId, name: str, epoch: int) -> Any:
    """As much of a context as the desk looks at."""
    return SimpleNamespace(
        genesis=there.genesis,
        roster=state.roster,
        me=me,
        group_id=there.genesis.group_id(name),
        committee=state.roster.committee(name, epoch),
    )


def request(there: World, name: str, epoch: int, height: int = 5) -> wire.ShareRequestMessage:
    asked = ShareRequest(epoch, height, 0, ZERO, ZERO)
    return wire.ShareRequestMessage(there.genesis.group_id(name), SignedShareRequest(asked, bytes(65)))


class Heard:
    """A group that writes down what reaches it."""

    def __init__(self) -> None:
        self.messages: list[tuple[MemberId, Any]] = []

    def received(self, sender: MemberId, message: Any) -> None:
        self.messages.append((sender, message))


def begin(desk: Desk, context: Any) -> Heard:
    desk.context, group = context, Heard()
    desk.group = cast(Any, group)
    desk.open_rooms()
    return group


@pytest.fixture
def there() -> World:
    return world(epochs=EPOCHS, rules=RULES)


async def test_a_request_of_the_next_epoch_is_heard_when_it_begins_also_in_the_same_group(
    there: World,
) -> None:
    state, desk = after(there, 3), Desk()
    me = next(each for each in state.roster.committee("g0", 1).members)
    old = state.roster.group_of(me, 0)
    assert old is not None
    other = next(each for each in state.roster.committee("g0", 1).members if each != me)
    first = begin(desk, seated(there, state, me, old, 0))
    await desk.received(other, request(there, "g0", 1))
    assert first.messages == []
    desk.leave_rooms()
    await desk.received(other, request(there, "g0", 1, height=6))  # Between two epochs: nobody is in.
    second = begin(desk, seated(there, state, me, "g0", 1))
    assert [(by, m.request.request.height) for by, m in second.messages] == [(other, 5), (other, 6)]
    await desk.received(other, request(there, "g0", 1, height=7))
    assert len(second.messages) == 3


async def test_one_member_cannot_push_out_what_the_others_said(there: World) -> None:
    state, desk = after(there, 3), Desk()
    me, liar, other = state.roster.committee("g0", 1).members[:3]
    old = state.roster.group_of(me, 0)
    assert old is not None
    begin(desk, seated(there, state, me, old, 0))
    await desk.received(other, request(there, "g0", 1))
    for height in range(10 * EARLY_MAX):
        await desk.received(liar, request(there, "g0", 1, height=height))
    heard = begin(desk, seated(there, state, me, "g0", 1))
    assert sum(by == liar for by, _ in heard.messages) == EARLY_MAX
    assert sum(by == other for by, _ in heard.messages) == 1


async def test_strangers_to_the_group_are_refused(there: World) -> None:
    state, desk = after(there, 3), Desk()
    me = there.members("g0")[0]
    begin(desk, seated(there, state, me, "g0", 0))
    name = next(n for n in ("g1", "g2") if me not in state.roster.committee(n, 1))
    stranger = next(each for each in there.members(name) if each in state.roster.committee(name, 1))
    with pytest.raises(PeerFault, match="not_a_member"):
        await desk.received(stranger, request(there, name, 1))
