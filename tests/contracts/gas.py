"""What each door of the contracts costs, measured on a chain.

    python -m tests.contracts.gas [--backend pyevm|anvil]     prints the table of docs/contracts.md

Gas as the receipts tell it, with the 21,000 of every transaction and its calldata. Members, reporters and
verdicts are new each time; the treasury has credit already, as it has after the first slashing.
"""

from __future__ import annotations

import argparse
from dataclasses import astuple, replace
from hashlib import sha256
from typing import Any

from coincurve import PrivateKey

from consensus.committee import Committee
from consensus.signing import address, block_id
from consensus.types import Propose
from contracts import artifact
from p2pfl.evm import verdict_key
from p2pfl.evm.client import checksum
from testnet import devchain
from tests.contracts.office import FEE_WEI, PRICE_WEI, TARGET_MICRO, TASK, Office
from tests.contracts.test_aggregate_fraud import block, submission
from tests.contracts.test_anchors import anchor, commits, last_block
from tests.contracts.test_equivocation import GUILTY, evidence
from tests.contracts.test_registry import possession
from tests.contracts.world import (
    COUNCIL,
    GROUP,
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
    verdict_words,
)

FRAUD_COORDINATES = 1_204_170  # The mlp.


class Meter:
    """Gas by what was done, in the order of the doing."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.gas: dict[str, int] = {}

    def note(self, name: str, call: Any, *, by: int = STRANGER, value: int = 0) -> None:
        self.gas[name] = self.world.send(call, by=by, value=value).gas_used


def measure(world: World) -> dict[str, int]:
    """Gas by what was done. The world must be at its beginning."""
    meter = Meter(world)
    deployments(meter)
    large = stakes(meter)
    anchors(meter, large)
    rewards(meter)
    evidences(meter)
    frauds(meter, large[1])
    verdicts(meter, large)
    leaving(meter)
    return meter.gas


def deployments(meter: Meter) -> None:
    """The three contracts."""
    owner, treasury, veto = (meter.world.accounts[index].address for index in (OWNER, TREASURY, VETO))
    registry = checksum(meter.world.staking.addresses.registry)
    for name, arguments in (
        ("StakingRegistry", (astuple(TERMS), treasury, owner)),
        ("SlashingManager", (registry, veto)),
        ("EpochAnchors", (registry,)),
    ):
        compiled = artifact(name)
        factory = meter.world.client.web3.eth.contract(abi=compiled.abi, bytecode=compiled.bytecode)
        meter.note(f"deploy {name}", factory.constructor(*arguments), by=OWNER)


def stakes(meter: Meter) -> list[PrivateKey]:
    """Deposits and committees; returns the seats of a council of 16 in its epoch 1."""
    world, functions = meter.world, meter.world.registry.functions
    key = world.spare[0]
    meter.note("deposit", functions.deposit(id_of(key), possession(world, key, STRANGER)), value=STAKE_WEI)
    meter.note("topUp", functions.topUp(id_of(key)), value=1)
    keys = [PrivateKey(sha256(b"large council %d" % index).digest()) for index in range(16)]
    keys.sort(key=lambda one: address(one.public_key))
    for index, one in enumerate(keys):
        world.deposit(one, 30 + index)
    for group, members in ((GROUP, world.members), (COUNCIL, keys)):
        call = functions.registerCommittee(group, 1, [checksum(one) for one in ids(members)])
        meter.note(f"registerCommittee, {len(members)} members", call, by=OWNER)
    return keys


def anchors(meter: Meter, large: list[PrivateKey]) -> None:
    """The end of an epoch whose committee follows itself: a group of 4, a council of 16."""
    world = meter.world
    for group, epoch, keys in ((GROUP, 1, world.members), (COUNCIL, 1, large)):
        header = last_block(world, keys, group_id=group, epoch=epoch)
        quorum = Committee(epoch, tuple(ids(keys))).quorum
        call = anchor(world, header, commits(world, header, keys[:quorum]), keys)
        meter.note(f"anchor, {quorum} of {len(keys)}, {len(keys)} next", call)


def evidences(meter: Meter) -> None:
    """Equivocation, by a new reporter each time."""
    world = meter.world
    world.send(evidence(world, *GUILTY["E1"][:2], world.members[3]))  # The treasury's first credit.
    for index, (name, label) in enumerate(
        (("E3", "two Commit"), ("E5: claims nothing", "a denied Commit"), ("E6: two updates", "two ParamTx"))
    ):
        call = evidence(world, *GUILTY[name][:2], world.members[index])
        meter.note(f"submitEquivocation, {label}", call, by=55 + index)


def frauds(meter: Meter, accused: PrivateKey) -> None:
    """One wrong number of an aggregate of sixteen members and 1.2 million coordinates."""
    world = meter.world
    fraud = block(members=16, size=FRAUD_COORDINATES, at=FRAUD_COORDINATES - 1).signed(world, accused)
    assert fraud is not None
    header = replace(fraud.header, group_id=COUNCIL, epoch=1)  # Where the accused has a seat.
    signature = world.sign(accused, COUNCIL, Propose(1, header.height, 2, block_id(header)))
    call = submission(world, replace(fraud, header=header, signature=signature))
    meter.note("submitAggregateFraud, 16 of 1.2M", call, by=60)


def verdicts(meter: Meter, large: list[PrivateKey]) -> None:
    """Certificates of a council of 4 and of 16, and the three ways a verdict ends."""
    world, functions = meter.world, meter.world.manager.functions
    accused = world.seats[3]
    small, many, vetoed, late = (a_verdict(accused, group=COUNCIL, height=height) for height in range(4))
    seats = world.seats[:3]
    other = a_verdict(large[0], group=COUNCIL, epoch=1)
    meter.note(
        "submitVerdict, 3 of 4", functions.submitVerdict(verdict_words(small), 0, world.certify(small, seats))
    )
    meter.note(
        "submitVerdict, 11 of 16",
        functions.submitVerdict(verdict_words(other), 1, world.certify(other, large[5:])),
    )
    for verdict in (many, vetoed):
        world.staking.submit_verdict(verdict, world.certify(verdict, seats))
    meter.note("cancelVerdict", functions.cancelVerdict(verdict_key(vetoed)), by=VETO)
    world.pass_time(WINDOW_S + 1)
    meter.note("executeVerdict", functions.executeVerdict(verdict_key(small)))
    world.staking.submit_verdict(late, world.certify(late, seats))
    world.pass_time(WINDOW_S + TERMS.verdict_life_s + 1)
    meter.note("expireVerdict", functions.expireVerdict(verdict_key(late)))


def leaving(meter: Meter) -> None:
    """The way out."""
    world, functions = meter.world, meter.world.registry.functions
    member = id_of(world.spare[0])
    meter.note("requestUnbonding", functions.requestUnbonding(member))
    world.pass_time(TERMS.unbonding_s + 1)
    meter.note("withdraw", functions.withdraw(member, world.accounts[STRANGER].address))
    meter.note("claim", functions.claim(world.accounts[TREASURY].address))


def rewards(meter: Meter) -> None:
    """A job from its opening to its last wei."""
    world = meter.world
    office = Office(world)
    told = office.open(epochs=1)
    meter.note(
        "openJob", office.functions.openJob(TASK, PRICE_WEI, 1, TARGET_MICRO, 0), value=FEE_WEI + PRICE_WEI
    )
    contribution = office.told(told)
    meter.note("settle, 3 of 4", office.settling(contribution, office.certify(contribution, world.seats[:3])))
    meter.note("claim a share", office.claiming(told, world.members[0]))
    staker = checksum(office.staker_of(world.members[0]))
    meter.note("collect", office.functions.collect(staker))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", default="pyevm", choices=("pyevm", "anvil"))
    with devchain.start(backend=parser.parse_args().backend) as chain:
        world = World(chain.url)
        for name, gas in measure(world).items():
            print(f"| {name} | {gas:,} |")
        world.close()


if __name__ == "__main__":
    main()
