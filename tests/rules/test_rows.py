"""The row tree shows one wrong number of an aggregate, and nobody can show a right one to be wrong."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus import merkle
from consensus.types import ZERO_DIGEST, Digest
from p2pfl.errors import PeerFault, UserError
from p2pfl.params import Int16
from p2pfl.rules import rows
from p2pfl.rules.aggregate import aggregate, recorded_factors
from p2pfl.rules.defaults import DEFAULT_RULES
from p2pfl.rules.limits import check_genesis
from p2pfl.rules.rows import ROW_COORDINATES, RowProof, prove_row, row_root, wrong_coordinates
from p2pfl.rules.table import AGGREGATORS
from p2pfl.rules.validate import check_group_body, derive_group_body

from .test_aggregators import gram_of
from .world import honest_updates, world

VECTORS = Path(__file__).parent.parent / "vectors" / "rows.json"
ON = dataclasses.replace(DEFAULT_RULES, row_root=1)
SUMS = sorted(name for name, rule in AGGREGATORS.items() if rule.factors is not None)


def drawn(members: int, size: int, seed: int = 1) -> list[Int16]:
    rng = np.random.default_rng(seed)
    return [rng.integers(-32767, 32768, size).astype(np.int16) for _ in range(members)]


@pytest.mark.parametrize("size", [1, 31, 32, 33, 640, 1000])
def test_each_leaf_is_what_the_protocol_says_and_can_be_proved(size: int) -> None:
    *updates, whole = drawn(4, size)
    leaves: list[bytes] = []
    for start in range(0, size, 32):
        parts = [row[start : start + 32].tobytes() for row in (*updates, whole)]
        leaves.append(b"".join(part + bytes(64 - len(part)) for part in parts))
    root = row_root(updates, whole)
    assert root == merkle.root(leaves)
    for coordinate in range(0, size, 17):
        proof = prove_row(updates, whole, coordinate)
        assert (proof.leaf, proof.index, proof.size) == (
            leaves[coordinate // 32],
            coordinate // 32,
            len(leaves),
        )
        assert proof.holds(root)
        changed = proof.leaf[:-1] + bytes([proof.leaf[-1] ^ 1])
        assert not dataclasses.replace(proof, leaf=changed).holds(root)
        assert not dataclasses.replace(proof, index=proof.index + 1).holds(root)
    with pytest.raises(IndexError):
        prove_row(updates, whole, 32 * len(leaves))


def test_what_is_laid_side_by_side_at_a_time_does_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    *updates, whole = drawn(3, 1000)
    before = row_root(updates, whole)
    monkeypatch.setattr(rows, "_LEAVES_AT_ONCE", 3)
    assert row_root(updates, whole) == before


@pytest.mark.parametrize("rule", SUMS)
@given(seed=st.integers(0, 2**32 - 1), members=st.integers(1, 7), place=st.integers(0, 99))
def test_a_right_aggregate_is_never_shown_to_be_wrong_and_a_wrong_one_always(
    rule: str, seed: int, members: int, place: int
) -> None:
    *updates, before, root = drawn(members + 2, 100, seed)
    weights = np.random.default_rng(seed).integers(0, 400, members).tolist()
    gram = gram_of(updates, before, root)
    found = aggregate(rule, updates, weights, gram, 1)
    *factors, divisor = recorded_factors(rule, weights, gram, 1)
    accepted = [row for row, weight in zip(updates, weights, strict=True) if weight]
    for start in range(0, 100, ROW_COORDINATES):
        assert not wrong_coordinates(prove_row(accepted, found, start).leaf, factors, divisor)
    found[place] += 1 if found[place] < 0 else -1
    leaf = prove_row(accepted, found, place).leaf
    assert wrong_coordinates(leaf, factors, divisor) == [place % ROW_COORDINATES]


def test_a_leaf_of_other_members_and_rows_of_other_lengths_are_refused() -> None:
    *updates, whole = drawn(3, 64)
    with pytest.raises(ValueError, match="bytes"):
        wrong_coordinates(prove_row(updates, whole, 0).leaf, [1, 1, 1], 3)
    with pytest.raises(ValueError, match="one length"):
        row_root([updates[0][:-1]], whole)


def test_the_genesis_decides_whether_a_body_has_one() -> None:
    there, without = world(rules=ON), world()
    off = without.inputs("g0", honest_updates(without, "g0", 1))
    assert derive_group_body(off).body.row_root == ZERO_DIGEST
    inputs = there.inputs("g0", honest_updates(there, "g0", 1))
    derived = derive_group_body(inputs)
    vectors = [update.values for update in inputs.updates.values()]
    assert derived.body.row_root == row_root(vectors, derived.aggregate.values)
    wrong = dataclasses.replace(derived.body, row_root=Digest(b"x" * 32))
    with pytest.raises(PeerFault, match="wrong_row_root"):
        check_group_body(wrong, inputs)


def test_who_is_left_out_is_not_in_the_tree() -> None:
    there = world(rules=ON)
    updates = honest_updates(there, "g0", 1)
    members = there.members("g0")
    updates[members[2]] = there.update(np.clip(updates[members[2]].values.astype(int) * 20, -32767, 32767))
    derived = derive_group_body(there.inputs("g0", updates))
    assert derived.body.weights[2] == 0
    assert len(derived.body.factors) == 4  # Of three, and the divisor.
    kept = [updates[member].values for index, member in enumerate(members) if index != 2]
    assert derived.body.row_root == row_root(kept, derived.aggregate.values)


def test_a_rule_without_factors_has_no_row_tree() -> None:
    genesis = world(rules=dataclasses.replace(ON, aggregator="median")).genesis
    with pytest.raises(UserError, match="row_root"):
        check_genesis(genesis)
    check_genesis(world(rules=ON).genesis)


def vector_cases() -> list[Any]:
    found = json.loads(VECTORS.read_text(encoding="utf-8"))["vectors"]
    return [pytest.param(each, id=each["name"]) for each in found]


@pytest.mark.parametrize("vector", vector_cases())
def test_the_vectors_say_which_coordinates_are_wrong(vector: dict[str, Any]) -> None:
    """By the letter of docs/vectors.md, without numpy: as a contract would."""

    def raw(text: str) -> bytes:
        return bytes.fromhex(text[2:])

    leaf, factors = raw(vector["leaf"]), vector["factors"]
    path = tuple(Digest(raw(each)) for each in vector["path"])
    proof = RowProof(leaf, vector["index"], vector["leaves"], path)
    assert proof.holds(Digest(raw(vector["rowRoot"])))

    def number(row: int, coordinate: int) -> int:
        place = 64 * row + 2 * coordinate
        return int.from_bytes(leaf[place : place + 2], "little", signed=True)

    wrong: list[int] = []
    for coordinate in range(32):
        total = sum(factor * number(row, coordinate) for row, factor in enumerate(factors))
        quotient, rest = divmod(total, vector["divisor"])
        quotient += 2 * rest > vector["divisor"] or (2 * rest == vector["divisor"] and quotient % 2 == 1)
        if max(-32767, min(32767, quotient)) != number(len(factors), coordinate):
            wrong.append(coordinate)
    assert wrong == vector["wrong"]
