"""The chain from trio: nothing waits for it, and a chain that is away is waited for."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import trio

from consensus.signing import address
from p2pfl.evm import ChainUnreachable, Client, Reverted, Staking, StakingWorker, State, verdict_key
from tests.contracts.test_equivocation import GUILTY
from tests.contracts.world import GROUP, STAKE_WEI, STRANGER, TERMS, VETO, WINDOW_S, World, a_verdict
from tests.evm.flaky import Flaky


class Hurry:
    """A sleep that takes no time here and passes on the chain instead."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.slept: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.slept.append(seconds)
        await trio.to_thread.run_sync(self.world.pass_time, max(1, int(seconds)))


def worker_over(
    url: str, world: World, index: int = STRANGER, hurry: Hurry | None = None
) -> tuple[Client, StakingWorker]:
    client = Client.open(url, key=bytes(world.accounts[index].key), sleep=lambda _: None)
    staking = Staking(client, world.staking.addresses)
    return client, StakingWorker(staking, sleep=hurry or trio.sleep)


def submitted(world: World) -> Any:
    verdict = a_verdict(world.members[1])
    world.staking.submit_verdict(verdict, world.certify(verdict, world.seats[:3]))
    return verdict_key(verdict)


async def test_calls_run_in_threads_of_their_own(world: World) -> None:
    client, worker = worker_over(world.url, world)
    with client:
        names = [await worker.run(lambda: threading.current_thread().name) for _ in range(2)]
        assert threading.current_thread().name not in names
        assert await worker.stake_of(address(world.members[0].public_key)) == STAKE_WEI


async def test_evidence_and_verdicts_can_be_brought_from_trio(world: World) -> None:
    client, worker = worker_over(world.url, world)
    with client:
        first, second, _ = GUILTY["E3"]
        culprit = world.members[0]
        done = await worker.submit_equivocation(
            GROUP, first, world.sign(culprit, GROUP, first), second, world.sign(culprit, GROUP, second)
        )
        verdict = a_verdict(world.members[1])
        await worker.submit_verdict(verdict, world.certify(verdict, world.seats[:3]))
        assert (await worker.judgement(verdict_key(verdict))).state is State.PENDING
        (slashed,) = await worker.slashed()
        assert slashed.transaction == done.transaction


async def test_a_verdict_is_carried_out_when_its_window_is_over(world: World) -> None:
    key, hurry = submitted(world), Hurry(world)
    client, worker = worker_over(world.url, world, hurry=hurry)
    with client:
        judgement = await worker.carry_out(key)
    assert judgement.state is State.EXECUTED
    assert sum(hurry.slept) >= WINDOW_S - 5
    assert world.stake(world.members[1]) == STAKE_WEI * 7 // 10


async def test_all_seats_carry_it_out_together(world: World) -> None:
    key, hurry = submitted(world), Hurry(world)
    pairs = [worker_over(world.url, world, world.staker(seat), hurry) for seat in world.seats]
    states: list[State] = []

    async def one(worker: StakingWorker) -> None:
        states.append((await worker.carry_out(key)).state)

    async with trio.open_nursery() as nursery:
        for _, worker in pairs:
            nursery.start_soon(one, worker)
    for client, _ in pairs:
        client.close()
    assert states == [State.EXECUTED] * 4
    assert len(world.staking.slashed()) == 1
    assert hurry.slept


async def test_a_cancelled_verdict_is_left_alone(world: World) -> None:
    key = submitted(world)
    world.staking_of(VETO).cancel_verdict(key)
    client, worker = worker_over(world.url, world)
    with client:
        assert (await worker.carry_out(key)).state is State.CANCELLED


async def test_a_verdict_found_too_late_is_ended(world: World) -> None:
    key = submitted(world)
    world.pass_time(WINDOW_S + TERMS.verdict_life_s + 1)
    client, worker = worker_over(world.url, world)
    with client:
        assert (await worker.carry_out(key)).state is State.EXPIRED
    assert world.staking.member(address(world.members[1].public_key)).freezes == 0


async def test_a_verdict_that_was_never_submitted_is_told(world: World) -> None:
    client, worker = worker_over(world.url, world)
    with client:
        assert (await worker.carry_out(verdict_key(a_verdict(world.members[3])))).state is State.NONE


async def test_a_chain_that_is_away_is_waited_for(flaky: Flaky, world: World) -> None:
    key, hurry = submitted(world), Hurry(world)
    client, worker = worker_over(flaky.url, world, hurry=hurry)
    with client:
        flaky.faults = ["drop"] * 12
        with pytest.raises(ChainUnreachable):
            await worker.judgement(key)
        judgement = await worker.carry_out(key)
    assert judgement.state is State.EXECUTED
    assert hurry.slept[0] == 1.0


async def test_a_refusal_is_not_waited_for(world: World) -> None:
    client, worker = worker_over(world.url, world)
    with client, pytest.raises(Reverted, match="NothingToClaim"):
        await worker.persist(worker.staking.claim)


async def test_a_cancelled_call_does_not_hold_up_the_end(world: World) -> None:
    client, worker = worker_over(world.url, world)
    gate = threading.Event()
    with trio.move_on_after(0.05) as scope:
        await worker.run(gate.wait)
    assert scope.cancelled_caught
    gate.set()
    client.close()
