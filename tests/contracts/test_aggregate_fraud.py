"""A proposer that signs a wrong aggregate loses its stake by one leaf of the row tree; nobody else does."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from coincurve import PrivateKey

from consensus import merkle
from consensus.signing import block_id
from consensus.types import Header, Prepare, Propose
from p2pfl import codec
from p2pfl.evm import State, offence_key
from p2pfl.evm.fraud import AggregateFraud, prove_fraud, submit_fraud
from p2pfl.offences import AGGREGATE_FRAUD
from p2pfl.params import Int16, Layout, TensorSpec
from p2pfl.records import CouncilBody, GroupBody, body_root, field_leaves
from p2pfl.rules.defaults import DEFAULT_RULES
from p2pfl.rules.rows import RowProof, row_root
from p2pfl.rules.validate import derive_group_body
from tests.consensus import vectors
from tests.contracts.test_anchors import last_block
from tests.contracts.world import GROUP, STAKE_WEI, STRANGER, TREASURY, World, id_of, ids
from tests.rules import world as paper

WRONG_AT = 70  # In the third leaf.


@dataclass
class Block:
    """A real body, whose aggregate may be off by some units in one coordinate."""

    body: GroupBody
    updates: list[Int16]
    aggregate: Int16

    def header(self, world: World, proposer: PrivateKey, **changes: Any) -> Header:
        told = {"app_root": body_root(self.body), "proposer": ids([proposer])[0], **changes}
        return last_block(world, world.members, **told)

    def signed(self, world: World, proposer: PrivateKey, vote: type = Propose) -> AggregateFraud | None:
        header = self.header(world, proposer)
        signature = world.sign(proposer, GROUP, vote(0, header.height, 2, block_id(header)))
        return prove_fraud(header, 2, signature, self.body, self.updates, self.aggregate)


def block(off: int = 1, *, members: int = 4, size: int | None = None, at: int = WRONG_AT) -> Block:
    rules = replace(DEFAULT_RULES, row_root=1)
    layout = paper.LAYOUT if size is None else Layout((TensorSpec("w", (size,)),))
    there = paper.world(groups=1, members=members, rules=rules, layout=layout)
    updates = paper.honest_updates(there, "g0", seed=1)
    body = derive_group_body(there.inputs("g0", updates))
    rows = [updates[tx.tx.member].values for tx, w in zip(body.body.txs, body.body.weights, strict=True) if w]
    told = body.aggregate.values.copy()
    told[at] += off
    return Block(replace(body.body, row_root=row_root(rows, told)), rows, told)


def submission(world: World, fraud: AggregateFraud) -> Any:
    return world.manager.functions.submitAggregateFraud(*fraud.arguments())


def test_whoever_proposed_a_wrong_aggregate_loses_its_stake_for_ever(world: World) -> None:
    accused = world.members[1]
    fraud = block().signed(world, accused)
    assert fraud is not None
    done = submit_fraud(world.staking_of(STRANGER), fraud)
    assert done.new
    key = offence_key(GROUP, 0, fraud.header.height, ids([accused])[0], AGGREGATE_FRAUD)
    assert world.staking.judgement(key).state is State.EXECUTED
    assert world.stake(accused) == 0
    assert world.staking.tombstoned(ids([accused])[0])
    assert world.staking.credit_of(world.account(STRANGER)) == STAKE_WEI // 10
    assert world.staking.credit_of(world.account(TREASURY)) == STAKE_WEI * 9 // 10
    # Once, whoever brings it.
    assert not submit_fraud(world.staking, fraud).new
    world.refuses(submission(world, fraud), "AlreadyJudged", state=State.EXECUTED)


@pytest.mark.parametrize("off", [-1, 300])
def test_any_difference_in_either_direction_counts(world: World, off: int) -> None:
    fraud = block(off).signed(world, world.members[2])
    assert fraud is not None
    world.send(submission(world, fraud), by=STRANGER)
    assert world.stake(world.members[2]) == 0


def test_a_right_aggregate_is_no_offence(world: World) -> None:
    assert block(0).signed(world, world.members[1]) is None
    fraud = block().signed(world, world.members[1])
    assert fraud is not None
    for coordinate in set(range(32)) - {WRONG_AT % 32}:
        if coordinate % 11 == 0:
            other = replace(fraud, coordinate=coordinate)
            world.refuses(submission(world, other), "AggregateIsRight")
    world.refuses(submission(world, replace(fraud, coordinate=32)), "WrongLength", length=32, expected=32)


def test_the_last_coordinate_and_sixteen_members_can_be_proved(world: World) -> None:
    size = 1000
    fraud = block(members=16, size=size, at=size - 1).signed(world, world.members[1])
    assert fraud is not None
    assert len(fraud.row.leaf) == 17 * 64
    world.send(submission(world, fraud), by=STRANGER)
    assert world.stake(world.members[1]) == 0


def test_only_the_proposers_own_proposal_counts(world: World) -> None:
    accused, other = world.members[1], world.members[2]
    fraud = block().signed(world, accused)
    assert fraud is not None
    header = fraud.header
    by_other = world.sign(other, GROUP, Propose(0, header.height, 2, block_id(header)))
    told = {"signer": id_of(other).lower(), "proposer": id_of(accused).lower()}
    world.refuses(submission(world, replace(fraud, signature=by_other)), "NotTheProposer", **told)
    voted = block().signed(world, accused, vote=Prepare)
    assert voted is not None
    for bad in (voted, replace(fraud, round=3), replace(fraud, header=replace(header, time_ms=1))):
        world.refuses(submission(world, bad), "NotTheProposer")
    unknown = replace(fraud, header=replace(header, version=2))
    world.refuses(submission(world, unknown), "UnknownVersion", version=2, known=1)


def test_a_proposer_without_a_seat_is_nobody_here(world: World) -> None:
    fraud = block().signed(world, world.spare[0])
    assert fraud is not None
    world.refuses(submission(world, fraud), "NotASeat")


def test_every_part_must_lie_under_the_block(world: World) -> None:
    fraud = block().signed(world, world.members[1])
    assert fraud is not None
    row, zero = fraud.row, bytes(32)
    longer = codec.encode((*block().body.factors, 1), tuple[int, ...])
    for bad, what in (
        (replace(fraud, factors=longer), "factors"),
        (replace(fraud, factors_path=fraud.factors_path[:-1]), "factors"),
        (replace(fraud, factors_path=(*fraud.factors_path, zero)), "factors"),
        (replace(fraud, row_root=zero), "rowRoot"),
        (replace(fraud, row_root_path=fraud.row_root_path[::-1]), "rowRoot"),
        (replace(fraud, row=replace(row, leaf=row.leaf[:-1] + b"\x01")), "leaf"),
        (replace(fraud, row=replace(row, index=row.index + 1)), "leaf"),
        (replace(fraud, row=replace(row, index=row.size)), "leaf"),
        (replace(fraud, row=replace(row, size=row.size * 2)), "leaf"),
        (replace(fraud, row=replace(row, path=row.path[:-1])), "leaf"),
        (replace(fraud, row=replace(row, path=(*row.path, zero))), "leaf"),
    ):
        world.refuses(submission(world, bad), "WrongPath", what=what)
    # Another field of 32 bytes cannot pass for the row root, nor one that was never hashed with a place.
    leaves = field_leaves(block().body)
    hashes = [merkle.leaf_hash(leaf) for leaf in leaves]
    for index, leaf in enumerate(leaves):
        if len(leaf) == 34 and leaf[2:] != fraud.row_root:
            path = merkle.inclusion_proof(hashes, index)
            other = replace(fraud, row_root=leaf[2:], row_root_path=path)
            world.refuses(submission(world, other), "WrongPath", what="rowRoot")


def forged(told: dict[str, bytes], leaf: bytes, world: World, accused: PrivateKey) -> AggregateFraud:
    """A block whose body is not even one: whatever a liar may hash under its app root."""
    names = [field.name for field in fields(GroupBody)]
    leaves = [told.get(name, b"\x00") for name in names]
    root = merkle.root([leaf])
    leaves[names.index("row_root")] = b"\x58\x20" + root
    hashes = [merkle.leaf_hash(each) for each in leaves]
    header = last_block(world, world.members, app_root=merkle.root(leaves), proposer=ids([accused])[0])
    signature = world.sign(accused, GROUP, Propose(0, header.height, 0, block_id(header)))
    paths = [merkle.inclusion_proof(hashes, names.index(name)) for name in ("factors", "row_root")]

    return AggregateFraud(
        header, 0, signature, told["factors"], paths[0], root, paths[1], RowProof(leaf, 0, 1, ()), 0
    )


def test_factors_that_are_none_prove_nothing(world: World) -> None:
    accused, leaf = world.members[1], bytes(128)
    for factors, error in (
        (b"", "WrongLength"),
        (b"\x80", "NotCbor"),  # An empty array: the rule is no weighted sum.
        (b"\x92" + bytes([1] * 18), "NotCbor"),  # Seventeen updates.
        (b"\x58\x20", "NotCbor"),
        (b"\x82\x01\x20", "NotCbor"),  # A negative number.
        (b"\x82\x01\x00", "NotCbor"),  # Divided by nothing.
        (b"\x82\x01\x01\x01", "WrongLength"),
        (b"\x83\x01\x01\x01", "WrongLength"),  # Two updates, a leaf of one.
    ):
        world.refuses(submission(world, forged({"factors": factors}, leaf, world, accused)), error)
    good = forged({"factors": b"\x82\x01\x01"}, leaf, world, accused)
    world.refuses(submission(world, good), "AggregateIsRight", value=0)


def test_the_arithmetic_is_that_of_the_golden_vectors(world: World) -> None:
    """Each wrong coordinate of each vector is proved, each right one refused, ties and bounds among them."""
    accused = world.members[1]
    for vector in vectors.read("rows"):
        told = codec.encode((*vector["factors"], vector["divisor"]), tuple[int, ...])
        leaf = bytes.fromhex(vector["leaf"][2:])
        fraud = forged({"factors": told}, leaf, world, accused)
        for coordinate in {*vector["wrong"], vector["coordinate"], 0, 31}:
            call = submission(world, replace(fraud, coordinate=coordinate))
            if coordinate in vector["wrong"]:
                world.client.ask(lambda call=call: call.call({"from": world.accounts[STRANGER].address}))
            else:
                world.refuses(call, "AggregateIsRight")


@pytest.mark.parametrize("seed", range(4))
def test_sums_round_as_in_python(world: World, seed: int) -> None:
    rng = np.random.default_rng(seed)
    factors, divisor = [int(x) for x in rng.integers(0, 9, 3)], int(rng.integers(1, 9))
    values = rng.integers(-40, 40, (3, 32)).astype(np.int64)
    total = np.array(factors) @ values
    due = np.array([round(Fraction(int(t), divisor)) for t in total])
    rows = [*values, due]
    leaf = b"".join(row.astype("<i2").tobytes() for row in rows)
    told = codec.encode((*factors, divisor), tuple[int, ...])
    fraud = forged({"factors": told}, leaf, world, world.members[1])
    for coordinate in range(0, 32, 3):
        world.refuses(submission(world, replace(fraud, coordinate=coordinate)), "AggregateIsRight")


def test_the_places_of_the_fields_are_those_of_the_records() -> None:
    names = [field.name for field in fields(GroupBody)]
    assert (names.index("factors"), names.index("row_root"), len(names)) == (6, 9, 19)
    # A council's body has another number of fields, so nothing in it passes for a group's.
    assert len(fields(CouncilBody)) != len(names)
    text = (vectors.FOLDER.parents[1] / "contracts" / "RowProof.sol").read_text(encoding="utf-8")
    for told in ("FIELDS = 19", "FACTORS = 6", "ROW_ROOT = 9"):
        assert f"constant {told};" in text
