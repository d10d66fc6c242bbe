"""Where the stakes of the guilty go, and who may spend what the network has earned."""

from __future__ import annotations

from typing import Any

import pytest

from consensus.types import MemberId
from p2pfl.evm.client import checksum
from p2pfl.evm.staking import contract_at, make_contract
from tests.contracts.test_faults_of_others import a_hostile_account
from tests.contracts.world import OWNER, STRANGER, World

DELAY_S, BURN_BPS = 600, 2_500
NOWHERE = MemberId(bytes(18) + b"\xde\xad")


def made(world: World, name: str, *arguments: Any) -> Any:
    mined = make_contract(world.client, name, *arguments)
    assert mined.contract is not None
    return contract_at(world.client, name, mined.contract)


def give(world: World, to: Any, wei: int) -> None:
    account = a_hostile_account(world, ether=wei)
    world.send(account.functions.explode(to.address))


def wei_of(world: World, address: str) -> int:
    return world.client.balance_wei(MemberId(bytes.fromhex(address[2:])))


@pytest.fixture
def chest(world: World) -> Any:
    return made(world, "RewardTreasury", world.accounts[OWNER].address, DELAY_S)


def test_a_fixed_part_is_burnt_and_the_rest_goes_to_the_one_beneficiary(world: World, chest: Any) -> None:
    treasury = made(world, "SlashTreasury", chest.address, BURN_BPS)
    world.refuses(treasury.functions.forward(), "NothingToForward")
    give(world, treasury, 1_001)
    before = world.client.balance_wei(NOWHERE)
    mined = world.send(treasury.functions.forward(), by=STRANGER)
    (told,) = world.events(mined, treasury.events.Forwarded)
    assert told == {"amount": 751, "burnt": 250}
    assert world.client.balance_wei(NOWHERE) == before + 250
    assert wei_of(world, chest.address) == 751
    assert wei_of(world, treasury.address) == 0


def test_all_or_nothing_may_be_burnt_but_not_more(world: World, chest: Any) -> None:
    for bps in (0, 10_000):
        treasury = made(world, "SlashTreasury", chest.address, bps)
        give(world, treasury, 100)
        world.send(treasury.functions.forward())
    assert wei_of(world, chest.address) == 100
    with world.refused("FractionTooLarge", bps=10_001):
        make_contract(world.client, "SlashTreasury", chest.address, 10_001)
    with world.refused("ZeroAddress"):
        make_contract(world.client, "SlashTreasury", checksum(MemberId(bytes(20))), 0)


def test_what_a_registry_owes_it_is_fetched_by_anybody(world: World, chest: Any) -> None:
    treasury = made(world, "SlashTreasury", chest.address, BURN_BPS)
    with world.refused("NothingToClaim"):
        world.send(treasury.functions.collect(world.registry.address), by=STRANGER)


def test_a_beneficiary_that_refuses_loses_nothing(world: World) -> None:
    hostile = a_hostile_account(world)
    treasury = made(world, "SlashTreasury", hostile.address, BURN_BPS)
    give(world, treasury, 1_000)
    world.send(hostile.functions.setRefuses(True))
    world.refuses(treasury.functions.forward(), "TransferFailed", amount=750)
    assert wei_of(world, treasury.address) == 1_000
    world.send(hostile.functions.setRefuses(False))
    world.send(treasury.functions.forward())
    assert wei_of(world, hostile.address) == 750


def test_a_payment_is_announced_and_waits(world: World, chest: Any) -> None:
    to = world.accounts[50].address
    give(world, chest, 1_000)
    world.send(chest.functions.announce(to, 600))
    world.refuses(chest.functions.release(1), "TooEarly", by=STRANGER)
    world.pass_time(DELAY_S + 1)
    before = wei_of(world, to)
    world.send(chest.functions.release(1), by=STRANGER)
    assert wei_of(world, to) == before + 600
    world.refuses(chest.functions.release(1), "NoSuchPayment", payment=1)
    world.send(chest.functions.announce(to, 600))
    world.pass_time(DELAY_S + 1)
    world.refuses(chest.functions.release(2), "NotEnough", balance=400, amount=600)


def test_only_the_owner_announces_and_calls_back(world: World, chest: Any) -> None:
    to = world.accounts[50].address
    world.refuses(chest.functions.announce(to, 1), "OwnableUnauthorizedAccount", by=STRANGER)
    world.refuses(chest.functions.announce(to, 0), "ZeroValue")
    world.refuses(chest.functions.announce(checksum(MemberId(bytes(20))), 1), "ZeroAddress")
    world.send(chest.functions.announce(to, 1))
    world.refuses(chest.functions.callBack(1), "OwnableUnauthorizedAccount", by=STRANGER)
    world.send(chest.functions.callBack(1))
    world.refuses(chest.functions.callBack(1), "NoSuchPayment")
    world.pass_time(DELAY_S + 1)
    world.refuses(chest.functions.release(1), "NoSuchPayment")


def test_a_delay_of_nothing_or_of_years_is_refused(world: World) -> None:
    owner = world.accounts[OWNER].address
    with world.refused("ZeroValue", what="delaySeconds"):
        make_contract(world.client, "RewardTreasury", owner, 0)
    with world.refused("DelayTooLong"):
        make_contract(world.client, "RewardTreasury", owner, 90 * 86_400 + 1)
    make_contract(world.client, "RewardTreasury", owner, 90 * 86_400)


def test_a_receiver_that_refuses_keeps_its_payment_announced(world: World, chest: Any) -> None:
    hostile = a_hostile_account(world)
    give(world, chest, 10)
    world.send(chest.functions.announce(hostile.address, 10))
    world.pass_time(DELAY_S + 1)
    world.send(hostile.functions.setRefuses(True))
    world.refuses(chest.functions.release(1), "TransferFailed")
    world.send(hostile.functions.setRefuses(False))
    world.send(chest.functions.release(1))
    assert wei_of(world, hostile.address) == 10
