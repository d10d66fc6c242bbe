"""A RewardManager beside the contracts of the world, and a council that certifies what was earned."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Any

import pytest
from coincurve import PrivateKey

from consensus.signing import address, sign
from consensus.types import Digest, MemberId
from p2pfl.evm.client import checksum
from p2pfl.evm.rewards import (
    Rewards,
    contribution_digest,
    contribution_proof,
    contribution_root,
    contribution_words,
    deploy_rewards,
)
from p2pfl.signed import Contribution
from tests.contracts.world import COUNCIL, LIFE_S, TREASURY, WINDOW_S, World, ids

FEE_WEI, PRICE_WEI, EPOCHS, TARGET_MICRO = 10**15, 10**17, 3, 950_000
SETTLE_S, CLAIM_S = 1_000, WINDOW_S + LIFE_S + 50
TASK = Digest(sha256(b"network").digest())
CLIENT = 4


class Office:
    """A RewardManager, and who certifies what."""

    def __init__(self, world: World) -> None:
        self.world = world
        at = world.staking.addresses
        self.address = deploy_rewards(
            world.client, registry=at.registry, slashing=at.slashing, treasury=world.account(TREASURY),
            base_fee_wei=FEE_WEI, settle_s=SETTLE_S, claim_s=CLAIM_S,
        )  # fmt: skip
        self.rewards = Rewards(world.client_of(CLIENT), self.address)
        self.functions: Any = self.rewards._manager.functions
        self.weights = {member: 100 * (place + 1) for place, member in enumerate(ids(world.members))}

    def open(self, epochs: int = EPOCHS) -> int:
        job, _ = self.rewards.open_job(
            TASK, price_per_epoch_wei=PRICE_WEI, epochs=epochs, target_micro=TARGET_MICRO, first_epoch=0
        )
        return job

    def told(self, job: int, epoch: int = 0, **changes: Any) -> Contribution:
        root = contribution_root(job, epoch, self.weights)
        values = {
            "manager": self.address, "job": job, "epoch": epoch, "root": root,
            "total_weight": sum(self.weights.values()),
            "accuracy_micro": 900_000,
        }  # fmt: skip
        return Contribution(**{**values, **changes})

    def certify(
        self, told: Contribution, seats: Sequence[PrivateKey], council: Digest = COUNCIL
    ) -> list[bytes]:
        at = self.world.staking.addresses
        digest = contribution_digest(at.chain_id, at.slashing, council, told)
        return [sign(key, digest) for key in seats]

    def settle(self, job: int, epoch: int = 0, **changes: Any) -> None:
        told = self.told(job, epoch, **changes)
        self.rewards.settle(told, self.certify(told, self.world.seats[:3]))

    def settling(self, told: Contribution, signatures: list[bytes]) -> Any:
        return self.functions.settle(contribution_words(told), signatures)

    def claiming(self, job: int, key: PrivateKey, weights: Mapping[MemberId, int] | None = None) -> Any:
        weights = self.weights if weights is None else weights
        member = address(key.public_key)
        proof = contribution_proof(job, 0, weights, member)
        return self.functions.claim(job, 0, checksum(member), weights[member], proof)

    def share(self, key: PrivateKey) -> int:
        return PRICE_WEI * self.weights[address(key.public_key)] // sum(self.weights.values())

    def staker_of(self, key: PrivateKey) -> MemberId:
        return self.world.account(self.world.staker(key))

    def balance_is_kept(self) -> None:
        read = self.rewards._read
        owed = read("totalEscrow") + read("totalOpen") + read("totalCredit")
        assert self.world.client.balance_wei(self.address) == owed


@pytest.fixture
def office(world: World) -> Iterator[Office]:
    made = Office(world)
    yield made
    made.balance_is_kept()
