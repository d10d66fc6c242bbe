"""The end of an epoch from Python: brought once by whoever is first, and never two."""

from __future__ import annotations

from dataclasses import astuple, replace
from typing import Any

import pytest
import trio

from consensus.signing import block_id
from consensus.types import Certificate, MemberId
from contracts import artifact
from p2pfl.errors import UserError
from p2pfl.evm import Addresses, Anchor, Done, Reverted, Staking, StakingWorker
from p2pfl.evm.client import checksum
from tests.contracts.test_anchors import commits, last_block
from tests.contracts.world import GROUP, STRANGER, TERMS, TREASURY, VETO, World, ids
from tests.evm.test_staking import at_once, status


def test_the_end_of_an_epoch_is_brought_once(world: World) -> None:
    header = last_block(world, world.seats)
    first = Certificate(1, tuple(commits(world, header, world.members[:3], 1)))
    other = Certificate(0, tuple(commits(world, header, world.members[1:])))
    staking = world.staking_of(STRANGER)
    assert staking.anchor_of(GROUP, 0) is None
    done = staking.anchor(header, first, ids(world.seats)[::-1])
    assert done.new
    mined: Any = world.client.web3.eth.get_block(done.block)
    assert staking.anchor_of(GROUP, 0) == Anchor(block_id(header), 9, mined["timestamp"])
    assert staking.committee(GROUP, 1) == tuple(ids(world.seats))
    # The same block with another certificate, by another account.
    again = world.staking.anchor(header, other, ids(world.seats))
    assert (again.new, again.transaction, again.block) == (False, done.transaction, done.block)
    assert status(world, again) == 1


def test_a_second_end_of_an_epoch_is_told_loudly(world: World) -> None:
    header = last_block(world, world.seats)
    world.staking.anchor(
        header, Certificate(0, tuple(commits(world, header, world.members))), ids(world.seats)
    )
    other = replace(header, height=10)
    certificate = Certificate(0, tuple(commits(world, other, world.members)))
    with pytest.raises(Reverted) as caught:
        world.staking.anchor(other, certificate, ids(world.seats))
    assert caught.value.name == "AlreadyAnchored"
    assert caught.value.arguments["blockId"] == block_id(header)
    assert "keep both certificates" in caught.value.fix


def test_what_is_no_end_of_an_epoch_is_refused_with_the_reason(world: World) -> None:
    header = last_block(world, world.seats)
    certificate = Certificate(0, tuple(commits(world, header, world.members[:2])))
    with pytest.raises(Reverted, match="NoQuorum") as caught:
        world.staking.anchor(header, certificate, ids(world.seats))
    assert caught.value.arguments == {"signatures": 2, "required": 3}
    with pytest.raises(Reverted, match="NotTheLastBlock"):
        world.staking.anchor(header, certificate, ids(world.members))
    assert world.staking.anchor_of(GROUP, 0) is None


def test_all_members_bring_it_at_once(world: World) -> None:
    header = last_block(world, world.seats)
    certificate = Certificate(0, tuple(commits(world, header, world.members[:3])))
    bringers = [world.staking_of(index) for index in (STRANGER, 20, 21, 22)]
    works = [lambda one=one: one.anchor(header, certificate, ids(world.seats)) for one in bringers]
    done = at_once(works)
    assert all(isinstance(one, Done) for one in done), done
    assert sum(one.new for one in done) == 1
    assert len({one.transaction for one in done}) == 1


def test_the_worker_brings_it_too(world: World) -> None:
    header = last_block(world, world.seats)
    certificate = Certificate(0, tuple(commits(world, header, world.members[:3])))
    worker = StakingWorker(world.staking)

    async def bring() -> tuple[Done, Anchor | None]:
        done = await worker.anchor(header, certificate, ids(world.seats))
        return done, await worker.anchor_of(GROUP, 0)

    done, found = trio.run(bring)
    assert done.new
    assert found is not None and found.block_id == block_id(header)


def test_a_registrar_that_is_none_of_ours_is_found_at_the_start(world: World) -> None:
    """A registry whose owner named another contract, and one whose registrar serves another registry."""
    for stranger in (world.manager.address, world.anchors.address):
        addresses = half_deployed(world, stranger)
        with pytest.raises(UserError, match=r"EpochAnchors is not at|do not belong together"):
            Staking(world.client, addresses)


def half_deployed(world: World, registrar: str) -> Addresses:
    """A registry and a manager, joined, whose registrar is another contract than it should be."""
    treasury, veto = (checksum(world.account(index)) for index in (TREASURY, VETO))
    owner = checksum(world.client.address)
    registry = make(world, "StakingRegistry", astuple(TERMS), treasury, owner)
    slashing = make(world, "SlashingManager", checksum(registry), veto)
    contract = world.client.web3.eth.contract(address=checksum(registry), abi=artifact("StakingRegistry").abi)
    world.send(contract.functions.setSlasher(checksum(slashing)))
    world.send(contract.functions.setRegistrar(registrar))
    return Addresses(world.client.chain_id, registry, slashing)


def make(world: World, name: str, *arguments: Any) -> MemberId:
    compiled = artifact(name)
    factory = world.client.web3.eth.contract(abi=compiled.abi, bytecode=compiled.bytecode)
    made = world.client.transact(factory.constructor(*arguments), f"make {name}").contract
    assert made is not None
    return made
