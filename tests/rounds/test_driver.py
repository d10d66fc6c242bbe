"""The driver's clock: when a round's time begins, and how soon a refused proposal ends it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import trio
from trio.testing import MockClock

from consensus import types as ct
from consensus.signing import Domain
from p2pfl.rounds.driver import REFUSED_DOUBLINGS_MAX, REFUSED_S, Driver

ZERO = ct.Digest(bytes(32))


class Refusing:
    """An application to which no block is good."""

    async def validate(self, effect: ct.Validate) -> bool:
        return False


def driver_of(replica: Any, app: Any) -> tuple[Driver, list[ct.Event]]:
    """A driver without disk or network, and what it feeds to its core."""
    me = ct.MemberId(b"m" * 20)
    driver = Driver(
        replica=cast(Any, replica),
        app=cast(Any, app),
        domain=Domain(0, ct.ZERO_MEMBER, ZERO),
        wal=cast(Any, None),
        guard=cast(Any, None),
        network=cast(Any, None),
        me=me,
        members=(me,),
        on_fault=lambda fault: None,
        on_behind=lambda peer, height: None,
        on_vote=lambda kind: None,
    )
    fed: list[ct.Event] = []
    driver._feed = fed.append  # type: ignore[method-assign]
    return driver, fed


async def test_a_round_has_its_whole_time_from_the_moment_a_quorum_has_come(
    autojump_clock: MockClock,
) -> None:
    """R4; also when the quorum comes just before the time would have run out, or long after."""

    class Silent:
        def entered(self, effect: ct.EnteredRound) -> None:
            driver.set_deadline(trio.current_time() + 5)

    for comes_after_s in (4.9, 60.0):
        replica = SimpleNamespace(followed=False)
        driver, fed = driver_of(replica, Silent())
        driver.active = True
        async with trio.open_nursery() as nursery:
            nursery.start_soon(driver._timer)
            driver._enter(ct.EnteredRound(0, 3, driver.me))
            await trio.sleep(comes_after_s)
            driver._look_for_followers()
            assert fed == []
            replica.followed = True
            driver._look_for_followers()
            await trio.sleep(4.9)
            driver._look_for_followers()
            assert fed == []
            await trio.sleep(0.2)
            assert fed == [ct.Elapsed(0, 3)]
            nursery.cancel_scope.cancel()


async def test_a_round_whose_proposal_is_refused_ends_soon_and_later_each_time(
    autojump_clock: MockClock,
) -> None:
    driver, fed = driver_of(SimpleNamespace(), Refusing())
    header = ct.Header(1, ZERO, ZERO, 0, 0, ZERO, driver.me, 1, ZERO, ZERO, ZERO)
    for round_, pause_s in ((0, REFUSED_S), (1, 2 * REFUSED_S), (50, REFUSED_S * 2**REFUSED_DOUBLINGS_MAX)):
        began = trio.current_time()
        await driver._validate(ct.Validate(0, round_, ct.Block(header, b""), True))
        assert abs(trio.current_time() - began - pause_s) < 1e-6
        answer, end = fed[-2:]
        assert isinstance(answer, ct.Validated)
        assert not answer.valid
        assert end == ct.Elapsed(0, round_)


async def test_blocks_of_others_wait_once_however_often_they_are_handed_over() -> None:
    """The core waits for a disk that is full, and whoever follows the chain looks at them again."""
    here = trio.Event()

    class Waits:
        async def caught_up(self, checked: Any) -> bool | None:
            handed.append(checked)
            await here.wait()
            return None

    handed = list[Any]()
    driver, _ = driver_of(SimpleNamespace(committee=SimpleNamespace(epoch=0)), Waits())
    header = SimpleNamespace(height=0)
    first: Any = SimpleNamespace(blocks=[SimpleNamespace(block=SimpleNamespace(header=header))])
    driver.active = True
    done = driver.catch_up(first)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(driver._catch_up, cast(Any, driver._inbox[0]))
        assert {driver.catch_up(cast(Any, SimpleNamespace())) for _ in range(100)} == {done}
        assert len(driver._inbox) == 1
        here.set()
        await done.wait()
    assert handed == [first]
    assert driver.catch_up(first) is not done  # There is room for the next.
    assert len(driver._inbox) == 2


async def test_who_comes_again_and_again_while_the_core_waits_is_answered_once() -> None:
    """While the disk is full the core takes nothing, and a peer may reconnect as often as it likes."""
    driver, _ = driver_of(SimpleNamespace(), Refusing())
    one, other = ct.MemberId(b"a" * 20), ct.MemberId(b"b" * 20)
    for _ in range(100):
        driver.resend_to(one)
        driver.resend_to(other)
    assert list(driver._inbox) == [ct.Resend(one), ct.Resend(other)]
    assert [await driver._next(), await driver._next()] == [ct.Resend(one), ct.Resend(other)]
    driver.resend_to(one)
    assert list(driver._inbox) == [ct.Resend(one)]
