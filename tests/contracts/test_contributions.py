"""The tree of contributions is the same in Python as in Solidity, and only who earned something is in it."""

from __future__ import annotations

import pytest

from consensus.signing import keccak256
from consensus.types import MemberId
from p2pfl.evm.client import checksum
from p2pfl.evm.rewards import (
    contribution_digest,
    contribution_leaf,
    contribution_proof,
    contribution_root,
    contribution_words,
)
from tests.contracts.office import Office
from tests.contracts.world import COUNCIL, ids


@pytest.mark.parametrize("size", range(1, 17))
def test_every_earner_has_a_proof_and_nobody_else(size: int) -> None:
    weights = {MemberId(bytes([n]) * 20): n for n in range(1, size + 1)}
    root = contribution_root(3, 5, weights)
    for member, weight in weights.items():
        node = contribution_leaf(3, 5, member, weight)
        for other in contribution_proof(3, 5, weights, member):
            node = _parent(node, other)
        assert node == root
    idle = MemberId(bytes(20))
    assert contribution_root(3, 5, {**weights, idle: 0}) == root
    with pytest.raises(KeyError):
        contribution_proof(3, 5, {**weights, idle: 0}, idle)


def _parent(one: bytes, other: bytes) -> bytes:
    return keccak256(min(one, other) + max(one, other))


def test_the_contract_hashes_the_same_leaf_and_digest(office: Office) -> None:
    member = ids(office.world.members)[0]
    assert bytes(office.rewards._read("leafOf", 2, 3, checksum(member), 4)) == contribution_leaf(
        2, 3, member, 4
    )
    told, at = office.told(1), office.world.staking.addresses
    digest = contribution_digest(at.chain_id, at.slashing, COUNCIL, told)
    assert bytes(office.rewards._read("contributionDigest", contribution_words(told))) == digest
