"""What Python signs is what the contracts check."""

from __future__ import annotations

from dataclasses import fields
from hashlib import sha256
from random import Random
from typing import Any

import pytest

from consensus.signing import separator, signing_digest, words
from consensus.types import Commit, Prepare, Propose, RoundChange
from p2pfl.evm import offence_key, pair_kind, verdict_key
from p2pfl.evm.client import checksum
from p2pfl.evm.records import Possession
from p2pfl.signed import Close, ParamTx, ShareRequest, Verdict
from tests.contracts.world import COUNCIL, GROUP, World, verdict_words

STRUCTS = [Propose, Prepare, Commit, RoundChange, ParamTx, ShareRequest, Close]


def draw(kind: Any, chance: Random, **fixed: Any) -> Any:
    """A struct with the extreme and random values that its types allow."""
    types = [part.split(" ")[0] for part in kind.TYPE.split("(")[1].rstrip(")").split(",")]
    values: dict[str, Any] = {}
    for field, name in zip(fields(kind), types, strict=True):
        if name == "bytes32":
            values[field.name] = chance.randbytes(32)
        elif name == "address":
            values[field.name] = chance.randbytes(20)
        else:
            bits = int(name.lstrip("uint"))
            low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if name[0] == "i" else (0, (1 << bits) - 1)
            values[field.name] = chance.choice([low, high, chance.randint(low, high)])
    return kind(**{**values, **fixed})


def test_the_domain_separator_is_the_same(world: World) -> None:
    for group in (GROUP, COUNCIL, bytes(32)):
        assert world.staking._read(world.manager.functions.domainSeparator(group)) == separator(
            world.domain(group)  # type: ignore[arg-type]
        )


@pytest.mark.parametrize("kind", STRUCTS)
def test_every_struct_has_the_same_digest(world: World, kind: Any) -> None:
    chance = Random(kind.__name__)
    for _ in range(4):
        slot = {"epoch": chance.getrandbits(64), "height": chance.getrandbits(64)}
        if kind is not ParamTx:
            slot["round"] = chance.getrandbits(32)
        first, second = draw(kind, chance, **slot), draw(kind, chance, **slot)
        found = world.staking._read(
            world.manager.functions.equivocationDigests(
                GROUP, pair_kind(first, second), words(first), words(second)
            )
        )
        domain = world.domain(GROUP)
        assert [bytes(one) for one in found] == [
            signing_digest(domain, first),
            signing_digest(domain, second),
        ]


def test_a_commit_and_its_denial_have_the_same_digests(world: World) -> None:
    commit = Commit(3, 4, 5, sha256(b"block").digest())  # type: ignore[arg-type]
    change = RoundChange(3, 4, 6, 0, bytes(32), sha256(b"context").digest())  # type: ignore[arg-type]
    found = world.staking._read(
        world.manager.functions.equivocationDigests(GROUP, 5, words(commit), words(change))
    )
    domain = world.domain(GROUP)
    assert [bytes(one) for one in found] == [signing_digest(domain, commit), signing_digest(domain, change)]


def test_a_verdict_has_the_same_digest_and_key(world: World) -> None:
    chance = Random(1)
    for _ in range(4):
        verdict = draw(Verdict, chance)
        call = world.manager.functions.verdictDigest(COUNCIL, verdict_words(verdict))
        assert world.staking._read(call) == signing_digest(world.domain(COUNCIL), verdict)
        numbers = (verdict.group, verdict.epoch, verdict.height, checksum(verdict.accused), verdict.offence)
        assert world.staking._read(world.manager.functions.keyOf(*numbers)) == verdict_key(verdict)
        assert verdict_key(verdict) == offence_key(
            verdict.group, verdict.epoch, verdict.height, verdict.accused, verdict.offence
        )


def test_a_proof_of_possession_has_the_same_digest(world: World) -> None:
    for nonce in (0, 1, 2**64 - 1):
        struct = Possession(world.account(5), nonce)
        call = world.registry.functions.possessionDigest(world.accounts[5].address, nonce)
        assert world.staking._read(call) == signing_digest(world.domain(bytes(32)), struct)  # type: ignore[arg-type]
