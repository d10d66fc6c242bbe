"""Whose money it is, and when it can leave."""

from __future__ import annotations

from dataclasses import astuple, replace
from typing import Any

import pytest

from consensus.signing import address, sign, signing_digest
from consensus.types import Digest, MemberId
from contracts import artifact
from p2pfl.evm import Possession, Terms
from p2pfl.evm.client import checksum
from tests.contracts.world import (
    COUNCIL,
    GROUP,
    OWNER,
    STAKE_WEI,
    STRANGER,
    TERMS,
    TREASURY,
    VETO,
    World,
    a_verdict,
    high_s,
    id_of,
    verdict_words,
)

ZERO = "0x" + "00" * 20


def constructor(world: World, terms: Terms, treasury: str | None = None) -> Any:
    compiled = artifact("StakingRegistry")
    factory = world.client.web3.eth.contract(abi=compiled.abi, bytecode=compiled.bytecode)
    return factory.constructor(
        astuple(terms), treasury or world.accounts[TREASURY].address, world.accounts[OWNER].address
    )


def estimate(world: World, call: Any) -> int:
    return world.client.ask(lambda: call.estimate_gas({"from": world.accounts[OWNER].address}))


# ---------------------------------------------------------------------------
# Terms.


def test_unbonding_must_outlast_evidence_window_and_margin(world: World) -> None:
    least = TERMS.evidence_age_s + TERMS.challenge_window_s + TERMS.margin_s
    assert estimate(world, constructor(world, replace(TERMS, unbonding_s=least))) > 0
    with world.refused("UnbondingTooShort", unbondingSeconds=least - 1, requiredSeconds=least):
        estimate(world, constructor(world, replace(TERMS, unbonding_s=least - 1)))


@pytest.mark.parametrize(
    ("field", "name"),
    [
        ("stake_amount_wei", "stakeAmount"),
        ("evidence_age_s", "evidenceAgeSeconds"),
        ("challenge_window_s", "challengeWindowSeconds"),
        ("margin_s", "marginSeconds"),
        ("verdict_life_s", "verdictLifeSeconds"),
    ],
)
def test_no_term_may_be_zero(world: World, field: str, name: str) -> None:
    with world.refused("ZeroValue", what=name):
        estimate(world, constructor(world, replace(TERMS, **{field: 0})))


@pytest.mark.parametrize("field", ["unbonding_s", "verdict_life_s"])
def test_nothing_is_locked_for_more_than_a_year(world: World, field: str) -> None:
    year = 365 * 86_400
    assert estimate(world, constructor(world, replace(TERMS, **{field: year}))) > 0
    with world.refused("PeriodTooLong", seconds_=year + 1, most=year):
        estimate(world, constructor(world, replace(TERMS, **{field: year + 1})))


def test_a_treasury_must_be_named(world: World) -> None:
    with world.refused("ZeroAddress", what="treasury"):
        estimate(world, constructor(world, TERMS, treasury=ZERO))


def test_a_stake_fits_its_storage(world: World) -> None:
    with world.refused("SafeCastOverflowedUintDowncast", bits=96, value=1 << 96):
        estimate(world, constructor(world, replace(TERMS, stake_amount_wei=1 << 96)))


def test_the_terms_can_be_read(world: World) -> None:
    assert world.staking.terms() == TERMS


# ---------------------------------------------------------------------------
# What the owner sets, once.


def test_slasher_and_council_are_set_once_and_by_the_owner(world: World) -> None:
    functions = world.registry.functions
    manager = checksum(world.staking.addresses.slashing)
    world.refuses(functions.setSlasher(manager), "AlreadySet", what="slasher")
    world.refuses(functions.setCouncil(GROUP), "AlreadySet", what="council")
    world.refuses(functions.setSlasher(manager), "OwnableUnauthorizedAccount", by=STRANGER)
    world.refuses(functions.setCouncil(GROUP), "OwnableUnauthorizedAccount", by=STRANGER)


def test_what_was_set_can_be_found_in_the_events(world: World) -> None:
    events, since = world.registry.events, world.staking.addresses.block
    (joined,) = world.client.logs(events.SlasherSet, {}, since)
    (named,) = world.client.logs(events.CouncilSet, {}, since)
    assert joined["args"]["slasher"] == checksum(world.staking.addresses.slashing)
    assert named["args"]["group"] == COUNCIL


def test_before_it_is_joined_to_a_slasher_a_registry_takes_no_money(world: World) -> None:
    made = world.client.transact(constructor(world, TERMS), "make a registry")
    assert made.contract is not None
    registry = world.client.web3.eth.contract(
        address=checksum(made.contract), abi=artifact("StakingRegistry").abi
    )
    spare = world.spare[0]
    signature = sign(spare, signing_digest(world.domain(Digest(bytes(32))), Possession(world.account(3), 0)))
    world.refuses(
        registry.functions.deposit(id_of(spare), signature), "NotSet", by=3, value=STAKE_WEI, what="slasher"
    )
    world.refuses(registry.functions.setSlasher(world.accounts[3].address), "NotAContract")
    world.refuses(registry.functions.setCouncil(bytes(32)), "ZeroValue", what="council")


def test_a_committee_is_registered_once_by_the_owner_and_ascending(world: World) -> None:
    register = world.registry.functions.registerCommittee
    members = [id_of(key) for key in world.members]
    world.refuses(register(GROUP, 0, members), "CommitteeExists", group=GROUP, epoch=0)
    world.refuses(register(GROUP, 1, members), "OwnableUnauthorizedAccount", by=STRANGER)
    world.refuses(register(GROUP, 1, []), "CommitteeSize", size=0)
    world.refuses(register(GROUP, 1, members * 5), "CommitteeSize", size=20, most=16)
    world.refuses(register(GROUP, 1, members[::-1]), "NotAscending")
    world.refuses(register(GROUP, 1, [members[0], members[0]]), "NotAscending", previous=members[0].lower())
    world.refuses(register(GROUP, 1, [ZERO]), "NotAscending")
    mined = world.send(register(GROUP, 1, members))
    assert world.events(mined, world.registry.events.CommitteeRegistered) == [
        {"group": GROUP, "epoch": 1, "members": members}
    ]
    assert world.staking.committee(GROUP, 1) == world.staking.committee(GROUP, 0)
    assert world.staking.committee(GROUP, 2) == ()


def test_only_members_with_a_full_stake_who_stay_get_a_seat(world: World) -> None:
    register = world.registry.functions.registerCommittee
    stranger = sorted([*(id_of(key) for key in world.members), id_of(world.spare[0])], key=str.lower)
    world.refuses(register(GROUP, 1, stranger), "NotActive", member=id_of(world.spare[0]).lower(), stake=0)
    key = world.members[1]
    verdict = a_verdict(key)
    world.staking.submit_verdict(verdict, world.certify(verdict, world.seats[:3]))
    world.pass_time(TERMS.challenge_window_s + 1)
    world.send(world.manager.functions.executeVerdict(world.manager.functions.keyOf(
        *verdict_words(verdict)[:5]).call()))  # fmt: skip
    world.refuses(
        register(GROUP, 1, [id_of(key)]), "NotActive", stake=STAKE_WEI * 7 // 10, required=STAKE_WEI
    )
    world.send(world.registry.functions.topUp(id_of(key)), by=world.staker(key), value=STAKE_WEI * 3 // 10)
    world.send(register(GROUP, 1, [id_of(key)]))
    world.send(world.registry.functions.requestUnbonding(id_of(key)), by=world.staker(key))
    world.refuses(register(GROUP, 2, [id_of(key)]), "IsLeaving", member=id_of(key).lower())


# ---------------------------------------------------------------------------
# Deposits.


def possession(world: World, key: Any, staker: int, nonce: int = 0) -> bytes:
    domain = world.domain(Digest(bytes(32)))
    return sign(key, signing_digest(domain, Possession(world.account(staker), nonce)))


def test_a_deposit_is_at_least_the_stake_amount_and_all_of_it_counts(world: World) -> None:
    key = world.spare[0]
    call = world.registry.functions.deposit(id_of(key), possession(world, key, STRANGER))
    for value in (0, STAKE_WEI - 1):
        world.refuses(call, "StakeTooSmall", by=STRANGER, value=value, sent=value, required=STAKE_WEI)
    mined = world.send(call, by=STRANGER, value=STAKE_WEI + 5)
    assert world.stake(key) == STAKE_WEI + 5
    assert world.events(mined, world.registry.events.Deposited) == [
        {
            "member": id_of(key),
            "staker": world.accounts[STRANGER].address,
            "amount": STAKE_WEI + 5,
            "stake": STAKE_WEI + 5,
        }
    ]


def test_nobody_registers_a_key_that_it_does_not_hold(world: World) -> None:
    mine, other = world.spare[:2]
    deposit = world.registry.functions.deposit
    forged = possession(world, mine, STRANGER)
    world.refuses(deposit(id_of(other), forged), "WrongPossession", by=STRANGER, value=STAKE_WEI,
                  member=id_of(other).lower(), signer=id_of(mine).lower())  # fmt: skip
    # Copied from the mempool by somebody else: the proof names who may use it.
    world.refuses(deposit(id_of(mine), forged), "WrongPossession", by=4, value=STAKE_WEI)
    world.refuses(
        deposit(id_of(mine), possession(world, mine, STRANGER, nonce=1)), "WrongPossession", by=STRANGER,
        value=STAKE_WEI,
    )  # fmt: skip


@pytest.mark.parametrize(("damage", "reason"), [
    (lambda signature: signature[:64], 2), (high_s, 3), (lambda s: s[:64] + bytes([s[64] - 27]), 1),
    (lambda s: bytes(32) + s[32:], 1),
])  # fmt: skip
def test_only_the_canonical_signature_proves_possession(world: World, damage: Any, reason: int) -> None:
    key = world.spare[0]
    call = world.registry.functions.deposit(id_of(key), damage(possession(world, key, STRANGER)))
    world.refuses(call, "BadSignature", by=STRANGER, value=STAKE_WEI, index=0, reason=reason)


def test_a_member_is_registered_once(world: World) -> None:
    key = world.members[0]
    call = world.registry.functions.deposit(id_of(key), possession(world, key, STRANGER, nonce=1))
    world.refuses(call, "AlreadyRegistered", by=STRANGER, value=STAKE_WEI, member=id_of(key).lower())


def test_only_the_staker_adds_to_a_stake(world: World) -> None:
    key = world.members[0]
    top_up = world.registry.functions.topUp
    world.refuses(top_up(id_of(key)), "NotTheStaker", by=STRANGER, value=1)
    world.refuses(top_up(id_of(world.spare[0])), "NotRegistered", by=STRANGER, value=1)
    world.refuses(top_up(id_of(key)), "ZeroValue", by=world.staker(key), what="value")
    world.send(top_up(id_of(key)), by=world.staker(key), value=7)
    assert world.stake(key) == STAKE_WEI + 7


def test_ether_without_a_purpose_is_refused(world: World) -> None:
    registry = checksum(world.staking.addresses.registry)
    for target in (registry, checksum(world.staking.addresses.slashing)):
        with world.refused(""):
            transfer: Any = {"from": world.accounts[STRANGER].address, "to": target, "value": 1}
            world.client.ask(lambda transfer=transfer: world.client.web3.eth.call(transfer))


# ---------------------------------------------------------------------------
# Leaving.


def test_a_stake_leaves_after_the_unbonding_period_and_only_to_its_staker(world: World) -> None:
    key = world.members[0]
    staker = world.staker(key)
    functions = world.registry.functions
    to = world.accounts[40].address
    world.refuses(functions.withdraw(id_of(key), to), "NotLeaving", by=staker)
    world.refuses(functions.requestUnbonding(id_of(key)), "NotTheStaker", by=STRANGER)
    mined = world.send(functions.requestUnbonding(id_of(key)), by=staker)
    leaves_at = world.staking.member(address(key.public_key)).leaves_at_s
    assert world.events(mined, world.registry.events.UnbondingRequested)[0]["leavesAt"] == leaves_at
    block: Any = world.client.web3.eth.get_block(mined.block)
    assert leaves_at == block["timestamp"] + TERMS.unbonding_s
    world.refuses(functions.requestUnbonding(id_of(key)), "IsLeaving", by=staker, leavesAt=leaves_at)
    world.refuses(functions.topUp(id_of(key)), "IsLeaving", by=staker, value=1)
    world.pass_time(TERMS.unbonding_s - 30)
    world.refuses(functions.withdraw(id_of(key), to), "TooEarly", by=staker, **{"from": leaves_at})
    world.pass_time(31)
    world.refuses(functions.withdraw(id_of(key), to), "NotTheStaker", by=STRANGER)
    world.refuses(functions.withdraw(id_of(key), to), "NotTheStaker", by=OWNER)
    world.refuses(functions.withdraw(id_of(key), ZERO), "ZeroAddress", by=staker, what="to")
    before = world.client.balance_wei(world.account(40))
    mined = world.send(functions.withdraw(id_of(key), to), by=staker)
    assert world.client.balance_wei(world.account(40)) == before + STAKE_WEI
    assert world.events(mined, world.registry.events.Withdrawn)[0]["amount"] == STAKE_WEI
    assert world.stake(key) == 0
    world.refuses(functions.withdraw(id_of(key), to), "NotRegistered", by=staker)


def test_after_leaving_a_key_can_return_but_not_with_its_old_proof(world: World) -> None:
    key = world.members[0]
    staker = world.staker(key)
    functions = world.registry.functions
    world.send(functions.requestUnbonding(id_of(key)), by=staker)
    world.pass_time(TERMS.unbonding_s + 1)
    world.send(functions.withdraw(id_of(key), world.accounts[staker].address), by=staker)
    old, new = (possession(world, key, staker, nonce=nonce) for nonce in (0, 1))
    world.refuses(functions.deposit(id_of(key), old), "WrongPossession", by=staker, value=STAKE_WEI)
    world.send(functions.deposit(id_of(key), new), by=staker, value=STAKE_WEI)
    assert world.stake(key) == STAKE_WEI
    # It stays until it asks again.
    world.refuses(functions.withdraw(id_of(key), ZERO[:-1] + "1"), "NotLeaving", by=staker)


# ---------------------------------------------------------------------------
# The slasher's doors, and credits.


@pytest.mark.parametrize("by", [OWNER, TREASURY, VETO, STRANGER])
def test_only_the_slasher_freezes_or_takes(world: World, by: int) -> None:
    member, key = id_of(world.members[0]), bytes(32)
    functions = world.registry.functions
    for call in (
        functions.freeze(member),
        functions.unfreeze(member),
        functions.slash(member, 1, key),
        functions.tombstone(member, key, 0, member),
    ):
        world.refuses(call, "NotTheSlasher", by=by, caller=world.accounts[by].address.lower())


def test_nobody_takes_more_than_all(world: World) -> None:
    manager = checksum(world.staking.addresses.slashing)
    member, key = id_of(world.members[0]), bytes(32)
    functions = world.registry.functions
    world.refuses(functions.slash(member, 10_001, key), "FractionTooLarge", by=manager, bps=10_001)
    world.refuses(
        functions.tombstone(member, key, 10_001, member), "FractionTooLarge", by=manager, bps=10_001
    )


def test_an_account_without_credit_gets_nothing(world: World) -> None:
    world.refuses(world.registry.functions.claim(world.accounts[STRANGER].address), "NothingToClaim")


def test_requiring_seats_names_who_is_none(world: World) -> None:
    functions = world.registry.functions
    seats = [id_of(key) for key in world.seats]
    assert world.staking._read(functions.requireBondedSeats(COUNCIL, 0, seats[:2])) == 4
    world.refuses(functions.requireBondedSeats(COUNCIL, 0, [*seats, seats[3]]), "NotAscending")
    world.refuses(functions.requireBondedSeats(COUNCIL, 0, seats[::-1]), "NotAscending")
    world.refuses(functions.requireBondedSeats(COUNCIL, 9, seats), "NoCommittee", epoch=9)
    for key in (*world.members, *world.spare):
        world.refuses(functions.requireBondedSeats(COUNCIL, 0, [id_of(key)]), "NotASeat",
                      account=id_of(key).lower())  # fmt: skip
        world.refuses(functions.requireSeat(COUNCIL, 0, id_of(key)), "NotASeat")
    for seat in seats:
        world.client.ask(functions.requireSeat(COUNCIL, 0, seat).call)
    world.refuses(functions.requireSeat(COUNCIL, 9, seats[0]), "NoCommittee")


def test_a_member_id_is_the_address_of_its_key(world: World) -> None:
    assert world.staking.committee(GROUP, 0) == tuple(
        MemberId(address(key.public_key)) for key in world.members
    )
