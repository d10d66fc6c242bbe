"""What a certified verdict does: once, after its window, under a veto, and how much it takes."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256
from typing import Any

import pytest
from coincurve import PrivateKey

from consensus.signing import address
from consensus.types import Digest
from p2pfl.evm import State, verdict_key
from p2pfl.evm.client import checksum
from p2pfl.evm.reverts import decode_revert
from tests.contracts.test_verdict import execute, submission, submit
from tests.contracts.world import (
    COUNCIL,
    GROUP,
    LIFE_S,
    OWNER,
    STAKE_WEI,
    STRANGER,
    TERMS,
    TREASURY,
    VETO,
    WINDOW_S,
    World,
    a_verdict,
    id_of,
    ids,
)

# ---------------------------------------------------------------------------
# Once.


def test_an_offence_counts_once_however_it_is_signed(world: World) -> None:
    verdict = a_verdict(world.members[1])
    key = submit(world, verdict)
    other_case = replace(verdict, case_id=Digest(sha256(b"another case").digest()))
    for again, seats in (
        (verdict, world.seats[:3]),
        (verdict, world.seats[1:]),
        (other_case, world.seats[:3]),
    ):
        call = submission(world, again, world.certify(again, seats))
        world.refuses(call, "AlreadyJudged", key=key, state=State.PENDING)
    world.pass_time(WINDOW_S + 1)
    execute(world, key)
    world.refuses(world.manager.functions.executeVerdict(key), "NotPending", state=State.EXECUTED)
    call = submission(world, verdict, world.certify(verdict, world.seats[:3]))
    world.refuses(call, "AlreadyJudged", state=State.EXECUTED)
    assert world.stake(world.members[1]) == STAKE_WEI * 7 // 10


def test_another_round_or_offence_is_another_verdict(world: World) -> None:
    keys = {
        submit(world, a_verdict(world.members[1], **changes))
        for changes in ({}, {"height": 8}, {"offence": 18}, {"offence": 32})
    }
    keys.add(submit(world, a_verdict(world.members[2])))
    assert len(keys) == 5


# ---------------------------------------------------------------------------
# The window, the veto, the end.


def test_a_pending_verdict_freezes_the_withdrawal_of_the_accused_only(world: World) -> None:
    accused, other = world.members[:2]
    for key in (accused, other):
        world.send(world.registry.functions.requestUnbonding(id_of(key)), by=world.staker(key))
    world.pass_time(TERMS.unbonding_s + 1)
    first, second = submit(world, a_verdict(accused)), submit(world, a_verdict(accused, height=8))
    withdrawals = [world.registry.functions.withdraw(id_of(key), id_of(key)) for key in (accused, other)]
    world.refuses(withdrawals[0], "IsFrozen", by=world.staker(accused), freezes=2)
    world.client.ask(lambda: withdrawals[1].call({"from": world.accounts[world.staker(other)].address}))
    world.send(world.manager.functions.cancelVerdict(first), by=VETO)
    world.refuses(withdrawals[0], "IsFrozen", by=world.staker(accused), freezes=1)
    world.pass_time(WINDOW_S + 1)
    assert execute(world, second) == STAKE_WEI * 3 // 10
    before = world.client.balance_wei(address(accused.public_key))
    world.send(withdrawals[0], by=world.staker(accused))
    assert world.client.balance_wei(address(accused.public_key)) == before + STAKE_WEI * 7 // 10


def test_a_verdict_waits_for_its_window_and_then_anybody_executes_it(world: World) -> None:
    key = submit(world, a_verdict(world.members[1]))
    due = world.staking.judgement(key).executable_at_s
    for by in (OWNER, VETO, STRANGER):
        world.refuses(
            world.manager.functions.executeVerdict(key), "TooEarly", by=by, key=key, **{"from": due}
        )
    world.pass_time(WINDOW_S + 1)
    assert execute(world, key) == STAKE_WEI * 3 // 10
    assert world.staking.judgement(key).state is State.EXECUTED
    assert world.staking.credit_of(world.account(TREASURY)) == STAKE_WEI * 3 // 10
    assert world.staking.member(address(world.members[1].public_key)).freezes == 0
    assert not world.staking.tombstoned(address(world.members[1].public_key))


def test_many_are_executed_at_once_and_a_bad_one_holds_up_nobody(world: World) -> None:
    keys = [submit(world, a_verdict(key)) for key in world.members[:3]]
    world.send(world.manager.functions.cancelVerdict(keys[1]), by=VETO)
    unknown = Digest(bytes(32))
    world.pass_time(WINDOW_S + 1)
    mined = world.send(world.manager.functions.executeVerdicts([unknown, *keys, keys[0]]), by=STRANGER)
    events = world.manager.events
    assert [each["key"] for each in world.events(mined, events.VerdictExecuted)] == [keys[0], keys[2]]
    skipped = world.events(mined, events.ExecutionSkipped)
    assert [each["key"] for each in skipped] == [unknown, keys[1], keys[0]]
    assert {decode_revert(each["reason"], "execute").name for each in skipped} == {"NotPending"}
    assert world.stake(world.members[1]) == STAKE_WEI
    # Two stand accused of rounds of this epoch: each loses twice the part.
    assert [world.stake(world.members[i]) for i in (0, 2)] == [STAKE_WEI * 4 // 10] * 2


def test_the_veto_body_cancels_in_the_window_and_can_do_nothing_else(world: World) -> None:
    functions = world.manager.functions
    key = submit(world, a_verdict(world.members[1]))
    for by in (OWNER, TREASURY, STRANGER, world.staker(world.members[1])):
        world.refuses(functions.cancelVerdict(key), "NotTheVeto", by=by)
    mined = world.send(functions.cancelVerdict(key), by=VETO)
    told = {"key": key, "accused": id_of(world.members[1])}
    assert world.events(mined, world.manager.events.VerdictCancelled) == [told]
    assert world.staking.judgement(key).state is State.CANCELLED
    assert world.staking.member(address(world.members[1].public_key)).freezes == 0
    world.pass_time(WINDOW_S + 1)
    world.refuses(functions.executeVerdict(key), "NotPending", state=State.CANCELLED)
    world.refuses(functions.expireVerdict(key), "NotPending", state=State.CANCELLED)
    verdict = a_verdict(world.members[1])
    again = submission(world, verdict, world.certify(verdict, world.seats[:3]))
    world.refuses(again, "AlreadyJudged", state=State.CANCELLED)
    late = submit(world, a_verdict(world.members[2]))
    due = world.staking.judgement(late).executable_at_s
    world.pass_time(WINDOW_S + 1)
    world.refuses(functions.cancelVerdict(late), "TooLate", by=VETO, key=late, until=due)
    world.refuses(functions.cancelVerdict(bytes(32)), "NotPending", by=VETO, state=State.NONE)


def test_a_verdict_that_nobody_executes_is_void_and_frees_the_accused(world: World) -> None:
    functions = world.manager.functions
    accused = world.members[1]
    key = submit(world, a_verdict(accused))
    ends = world.staking.judgement(key).expires_at_s
    world.pass_time(WINDOW_S + 1)
    world.refuses(functions.expireVerdict(key), "TooEarly", key=key, **{"from": ends})
    world.pass_time(LIFE_S + 1)
    world.refuses(functions.executeVerdict(key), "TooLate", key=key, until=ends)
    mined = world.send(functions.expireVerdict(key), by=STRANGER)
    told = {"key": key, "accused": id_of(accused)}
    assert world.events(mined, world.manager.events.VerdictExpired) == [told]
    assert world.staking.judgement(key).state is State.EXPIRED
    assert world.staking.member(address(accused.public_key)).freezes == 0
    assert world.stake(accused) == STAKE_WEI
    world.refuses(functions.executeVerdict(key), "NotPending", state=State.EXPIRED)
    world.refuses(functions.expireVerdict(key), "NotPending", state=State.EXPIRED)


def test_what_was_never_submitted_is_not_pending(world: World) -> None:
    world.refuses(world.manager.functions.executeVerdict(bytes(32)), "NotPending", state=State.NONE)
    assert world.staking.judgement(Digest(bytes(32))).executable_at_s == 0


def test_the_veto_body_is_somebody_else(world: World) -> None:
    from contracts import artifact

    compiled = artifact("SlashingManager")
    factory = world.client.web3.eth.contract(abi=compiled.abi, bytecode=compiled.bytecode)
    registry = checksum(world.staking.addresses.registry)
    zero = "0x" + "00" * 20
    caller: Any = {"from": world.accounts[OWNER].address}
    for arguments, name in (
        ((registry, world.accounts[OWNER].address), "VetoNotSeparate"),
        ((registry, world.accounts[TREASURY].address), "VetoNotSeparate"),
        ((registry, zero), "ZeroAddress"),
        ((zero, world.accounts[VETO].address), "ZeroAddress"),
    ):
        with world.refused(name):
            world.client.ask(lambda given=arguments: factory.constructor(*given).estimate_gas(caller))


# ---------------------------------------------------------------------------
# How much.


@pytest.mark.parametrize(
    ("offence", "bps"), [(16, 3_000), (17, 2_000), (18, 2_000), (19, 2_000), (20, 2_000), (32, 200)]
)
def test_a_verdict_takes_its_part_of_the_stake(world: World, offence: int, bps: int) -> None:
    accused = world.members[1]
    world.send(world.registry.functions.topUp(id_of(accused)), by=world.staker(accused), value=STAKE_WEI)
    key = submit(world, a_verdict(accused, offence=offence))
    world.pass_time(WINDOW_S + 1)
    assert execute(world, key) == 2 * STAKE_WEI * bps // 10_000
    assert world.stake(accused) == 2 * STAKE_WEI * (10_000 - bps) // 10_000


def test_many_at_once_lose_more(world: World) -> None:
    keys = [submit(world, a_verdict(member)) for member in world.members]
    world.pass_time(WINDOW_S + 1)
    taken = [execute(world, key) for key in keys]
    assert taken == [STAKE_WEI] * 4  # Four times three tenths, and never more than all.
    assert world.staking.credit_of(world.account(TREASURY)) == 4 * STAKE_WEI


def test_two_at_once_lose_twice_the_part(world: World) -> None:
    keys = [submit(world, a_verdict(member)) for member in world.members[:2]]
    world.pass_time(WINDOW_S + 1)
    assert [execute(world, key) for key in keys] == [STAKE_WEI * 6 // 10] * 2


def test_one_culprit_twice_is_no_crowd(world: World) -> None:
    first, second = (submit(world, a_verdict(world.members[1], height=height)) for height in (7, 8))
    world.pass_time(WINDOW_S + 1)
    assert execute(world, first) == STAKE_WEI * 3 // 10
    assert execute(world, second) == STAKE_WEI * 7 // 10 * 3 // 10


def test_silence_neither_grows_nor_counts_against_others(world: World) -> None:
    silent = [submit(world, a_verdict(member, offence=32)) for member in world.members[:3]]
    guilty = submit(world, a_verdict(world.members[3]))
    world.pass_time(WINDOW_S + 1)
    assert [execute(world, key) for key in silent] == [STAKE_WEI // 50] * 3
    assert execute(world, guilty) == STAKE_WEI * 3 // 10


def test_a_cancelled_or_expired_verdict_does_not_count_against_others(world: World) -> None:
    expired = submit(world, a_verdict(world.members[0]))
    silent = submit(world, a_verdict(world.members[0], offence=32))
    world.pass_time(WINDOW_S + LIFE_S + 1)
    for key in (expired, silent):
        world.send(world.manager.functions.expireVerdict(key))
    cancelled = submit(world, a_verdict(world.members[1]))
    world.send(world.manager.functions.cancelVerdict(cancelled), by=VETO)
    assert world.staking._read(world.manager.functions.accusedInEpoch(0)) == 0
    alone = submit(world, a_verdict(world.members[2]))
    world.pass_time(WINDOW_S + 1)
    assert execute(world, alone) == STAKE_WEI * 3 // 10


def test_epochs_are_no_crowd(world: World) -> None:
    world.staking.register_committee(GROUP, 1, ids(world.members))
    keys = [submit(world, a_verdict(member, epoch=epoch)) for epoch, member in enumerate(world.members[:2])]
    world.pass_time(WINDOW_S + 1)
    assert [execute(world, key) for key in keys] == [STAKE_WEI * 3 // 10] * 2


@pytest.mark.parametrize("culprits", [0, 1, 2, 3, 4, 100])
def test_the_multiplier_is_the_number_of_culprits(world: World, culprits: int) -> None:
    read, functions = world.staking._read, world.manager.functions
    assert read(functions.penaltyOf(16, culprits)) == min(10_000, 3_000 * culprits)
    assert read(functions.penaltyOf(20, culprits)) == min(10_000, 2_000 * culprits)
    assert read(functions.penaltyOf(32, culprits)) == 200


def test_eleven_of_sixteen_certify_and_ten_do_not(world: World) -> None:
    keys = sorted(
        (PrivateKey(sha256(b"large council %d" % index).digest()) for index in range(16)),
        key=lambda key: address(key.public_key),
    )
    for index, key in enumerate(keys):
        world.deposit(key, 30 + index)
    world.staking.register_committee(COUNCIL, 1, ids(keys))
    verdict = a_verdict(world.members[1])
    world.refuses(
        submission(world, verdict, world.certify(verdict, keys[:10]), epoch=1), "NoQuorum", signatures=10,
        required=11,
    )  # fmt: skip
    world.send(submission(world, verdict, world.certify(verdict, keys[5:]), epoch=1))
    assert world.staking.judgement(verdict_key(verdict)).state is State.PENDING
