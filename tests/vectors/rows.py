"""Vectors of the row tree: one leaf of it shows whether a coordinate of an aggregate is right."""

from __future__ import annotations

from typing import Any

import numpy as np

from p2pfl.params import Int16, Layout, TensorSpec, Update
from p2pfl.rules.aggregate import aggregate, recorded_factors
from p2pfl.rules.gram import view_of
from p2pfl.rules.rows import prove_row, row_root, wrong_coordinates

from .network import hexed

# Not a multiple of 32: the last leaf ends in zeros. Eleven leaves: paths of different lengths.
SIZE = 330
LAYOUT = Layout((TensorSpec("w", (SIZE,)),))


def formula(member: int, largest: int) -> Int16:
    """int16 by formula, so that nobody's generator is needed: shape (330,)."""
    index = np.arange(SIZE, dtype=np.int64)
    return ((index * 7919 + member * 104_729) % (2 * largest + 1) - largest).astype(np.int16)


def vectors() -> list[dict[str, Any]]:
    """rows.json."""
    loud = np.where(np.arange(SIZE) % 3 == 0, -32_767, 32_767).astype(np.int16)
    few = [formula(member, 400) for member in range(4)]
    many = [formula(member, 9000) for member in range(15)]
    return [
        _vector("a mean", "mean", few, [100, 101, 102, 103], 0),
        _vector("a clipped mean", "clipped_mean", [*few[:3], loud], [100, 101, 102, 103], 70),
        _vector("the last leaf", "clipped_mean", [*many, loud], list(range(1, 17)), SIZE - 1),
        _vector("ties go to the even", "mean", [formula(0, 9), formula(1, 9)], [1, 1], 40),
        _vector("one unit too much", "clipped_mean", [*few[:3], loud], [100, 101, 102, 103], 70, wrong=1),
        _vector("one unit too little", "mean", many, [1] * 15, 200, wrong=-1),
        _vector("nobody accepted", "mean", [], [], 64, wrong=5),
    ]


def _vector(
    name: str, rule: str, rows: list[Int16], weights: list[int], coordinate: int, wrong: int = 0
) -> dict[str, Any]:
    gram = view_of([Update(LAYOUT, (-9,), row) for row in rows])
    found = aggregate(rule, rows, weights, gram, 1) if rows else np.zeros(SIZE, dtype=np.int16)
    *factors, divisor = recorded_factors(rule, weights, gram, 1)
    found[coordinate] += wrong
    proof = prove_row(rows, found, coordinate)
    return {
        "name": name,
        "shows": f"One leaf of the row tree of {len(rows)} updates under {rule}.",
        "factors": factors,
        "divisor": divisor,
        "rowRoot": hexed(row_root(rows, found)),
        "leaf": hexed(proof.leaf),
        "index": proof.index,
        "leaves": proof.size,
        "path": [hexed(each) for each in proof.path],
        "coordinate": coordinate % 32,
        "wrong": wrong_coordinates(proof.leaf, factors, divisor),
    }
