"""The faults found in published contracts of this kind, each shown to be absent here.

Read in the contracts that came with two earlier systems (they are byte-identical): a deposit of exactly the
stake amount reverted and one of nothing succeeded; a staker withdrew another's money; after the time lock
honest stake was locked for ever; one account slashed anybody without evidence; overpayment was stuck; one
payee that refused ether blocked every payment.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from consensus.signing import address, sign, signing_digest
from consensus.types import Digest, MemberId
from contracts import load
from p2pfl.evm import Possession, State, verdict_key
from p2pfl.evm.client import checksum
from tests.contracts.test_equivocation import GUILTY, evidence
from tests.contracts.world import (
    OWNER,
    STAKE_WEI,
    STRANGER,
    TERMS,
    TREASURY,
    VETO,
    World,
    a_verdict,
    id_of,
    verdict_words,
)

HOSTILE = load((Path(__file__).parent / "artifacts" / "Hostile.json").read_text(encoding="utf-8"))


def a_hostile_account(world: World, ether: int = 0) -> Any:
    factory = world.client.web3.eth.contract(abi=HOSTILE.abi, bytecode=HOSTILE.bytecode)
    made = world.client.transact(factory.constructor(), "make a hostile account", value_wei=ether)
    assert made.contract is not None
    return world.client.web3.eth.contract(address=checksum(made.contract), abi=HOSTILE.abi)


def pass_on(account: Any, call: Any) -> Any:
    """The hostile account makes this call."""
    return account.functions["pass"](call.address, encoded(call))


def encoded(call: Any) -> bytes:
    return bytes.fromhex(call._encode_transaction_data()[2:])


def stake_for(world: World, account: Any, key: Any) -> None:
    """Register a member whose staker is a contract."""
    staker = MemberId(bytes.fromhex(account.address[2:]))
    proof = sign(key, signing_digest(world.domain(Digest(bytes(32))), Possession(staker, 0)))
    call = world.registry.functions.deposit(id_of(key), proof)
    world.send(pass_on(account, call), value=STAKE_WEI)


def test_exactly_the_stake_amount_is_enough_and_nothing_is_not(world: World) -> None:
    key = world.spare[0]
    world.deposit(key, STRANGER, STAKE_WEI)
    assert world.stake(key) == STAKE_WEI
    with world.refused("StakeTooSmall", sent=0):
        world.deposit(world.spare[1], STRANGER, 0)


def test_nobody_withdraws_anothers_stake_before_or_after_the_lock(world: World) -> None:
    victim, thief = world.members[:2]
    functions = world.registry.functions
    for key in (victim, thief):
        world.send(functions.requestUnbonding(id_of(key)), by=world.staker(key))
    call = functions.withdraw(id_of(victim), world.accounts[world.staker(thief)].address)
    world.refuses(call, "NotTheStaker", by=world.staker(thief))
    world.pass_time(TERMS.unbonding_s + 1)
    world.refuses(call, "NotTheStaker", by=world.staker(thief))
    own = functions.withdraw(id_of(thief), world.accounts[world.staker(thief)].address)
    world.send(own, by=world.staker(thief))
    world.refuses(own, "NotRegistered", by=world.staker(thief))
    assert world.stake(victim) == STAKE_WEI


def test_honest_stake_is_free_after_the_lock_however_late(world: World) -> None:
    key = world.members[0]
    world.send(world.registry.functions.requestUnbonding(id_of(key)), by=world.staker(key))
    world.pass_time(10 * 365 * 86_400)
    world.send(world.registry.functions.withdraw(id_of(key), id_of(key)), by=world.staker(key))
    assert world.stake(key) == 0


def test_no_single_account_slashes_whatever_its_role(world: World) -> None:
    victim = world.members[1]
    verdict = a_verdict(victim)
    manager, registry = world.manager.functions, world.registry.functions
    seat = world.staker(world.seats[0])
    for by in (OWNER, TREASURY, VETO, STRANGER, seat):
        world.refuses(registry.slash(id_of(victim), 10_000, bytes(32)), "NotTheSlasher", by=by)
        world.refuses(registry.tombstone(id_of(victim), bytes(32), 0, id_of(victim)), "NotTheSlasher", by=by)
        world.refuses(manager.executeVerdict(verdict_key(verdict)), "NotPending", by=by)
        alone = world.certify(verdict, world.seats[:1])
        world.refuses(manager.submitVerdict(verdict_words(verdict), 0, alone), "NoQuorum", by=by)
    assert world.stake(victim) == STAKE_WEI


def test_overpayment_comes_back(world: World) -> None:
    key = world.spare[0]
    world.deposit(key, STRANGER, STAKE_WEI + 12_345)
    functions = world.registry.functions
    world.send(functions.requestUnbonding(id_of(key)), by=STRANGER)
    world.pass_time(TERMS.unbonding_s + 1)
    receiver = world.account(41)
    before = world.client.balance_wei(receiver)
    world.send(functions.withdraw(id_of(key), checksum(receiver)), by=STRANGER)
    assert world.client.balance_wei(receiver) == before + STAKE_WEI + 12_345


def test_one_payee_that_refuses_ether_blocks_nobody(world: World) -> None:
    bad = a_hostile_account(world)
    world.send(bad.functions.setRefuses(True))
    culprit, other = world.members[:2]
    call = evidence(world, *GUILTY["E3"][:2], culprit)
    world.send(pass_on(bad, call))  # It reports, so it is owed a reward.
    assert world.stake(culprit) == 0
    claim = world.registry.functions.claim(bad.address)
    world.refuses(claim, "TransferFailed", to=bad.address.lower(), amount=STAKE_WEI // 10)
    # Others are slashed, paid and leave as before.
    world.send(evidence(world, *GUILTY["E3"][:2], other), by=STRANGER)
    before = world.client.balance_wei(world.account(TREASURY))
    world.send(world.registry.functions.claim(world.accounts[TREASURY].address), by=STRANGER)
    assert world.client.balance_wei(world.account(TREASURY)) == before + 2 * STAKE_WEI * 9 // 10
    # What it is owed waits until it takes it.
    world.send(bad.functions.setRefuses(False))
    mined = world.send(claim, by=OWNER)
    assert world.events(mined, world.registry.events.Claimed) == [
        {"account": bad.address, "amount": STAKE_WEI // 10}
    ]
    assert world.client.balance_wei(MemberId(bytes.fromhex(bad.address[2:]))) == STAKE_WEI // 10


def test_a_staker_that_refuses_ether_can_name_another_receiver(world: World) -> None:
    bad, key = a_hostile_account(world), world.spare[0]
    world.send(bad.functions.setRefuses(True))
    stake_for(world, bad, key)
    functions = world.registry.functions
    world.send(pass_on(bad, functions.requestUnbonding(id_of(key))))
    world.pass_time(TERMS.unbonding_s + 1)
    with world.refused("TransferFailed"):
        world.send(pass_on(bad, functions.withdraw(id_of(key), bad.address)))
    assert world.stake(key) == STAKE_WEI
    world.send(pass_on(bad, functions.withdraw(id_of(key), world.accounts[42].address)))
    assert world.stake(key) == 0


def test_calling_back_while_being_paid_gets_nothing_twice(world: World) -> None:
    bad, key = a_hostile_account(world), world.spare[0]
    stake_for(world, bad, key)
    functions = world.registry.functions
    withdraw = functions.withdraw(id_of(key), bad.address)
    registry = checksum(world.staking.addresses.registry)
    world.send(bad.functions.setCallback(registry, encoded(withdraw)))
    world.send(pass_on(bad, functions.requestUnbonding(id_of(key))))
    world.pass_time(TERMS.unbonding_s + 1)
    balance = MemberId(bytes.fromhex(bad.address[2:]))
    world.send(pass_on(bad, withdraw))
    assert world.client.balance_wei(balance) == STAKE_WEI
    assert world.staking._read(bad.functions.callbacks()) == 1
    assert world.staking._read(bad.functions.succeeded()) == 0
    world.send(pass_on(bad, evidence(world, *GUILTY["E3"][:2], world.members[1])))
    claim = functions.claim(bad.address)
    world.send(bad.functions.setCallback(registry, encoded(claim)))
    world.send(claim)
    assert world.client.balance_wei(balance) == STAKE_WEI + STAKE_WEI // 10
    assert world.staking._read(bad.functions.callbacks()) == 2
    assert world.staking._read(bad.functions.succeeded()) == 0


def test_ether_that_was_forced_in_goes_to_the_treasury(world: World) -> None:
    bad = a_hostile_account(world, ether=777)
    registry = checksum(world.staking.addresses.registry)
    world.refuses(world.registry.functions.skim(), "ZeroValue", what="excess")
    before = world.client.balance_wei(world.staking.addresses.registry)
    world.send(bad.functions.explode(registry))
    assert world.client.balance_wei(world.staking.addresses.registry) == before + 777
    world.send(world.registry.functions.skim(), by=STRANGER)
    assert world.staking.credit_of(world.account(TREASURY)) == 777
    world.refuses(world.registry.functions.skim(), "ZeroValue", what="excess")


def test_a_veto_body_alone_changes_no_stake(world: World) -> None:
    verdict = a_verdict(world.members[1])
    world.staking.submit_verdict(verdict, world.certify(verdict, world.seats[:3]))
    stakes = [world.stake(key) for key in world.members]
    world.staking_of(VETO).cancel_verdict(verdict_key(verdict))
    assert [world.stake(key) for key in world.members] == stakes
    assert world.staking.judgement(verdict_key(verdict)).state is State.CANCELLED
    assert world.staking.member(address(world.members[1].public_key)).stake_wei == STAKE_WEI
