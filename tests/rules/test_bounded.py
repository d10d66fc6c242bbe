"""However long a group says that its way was, it moves the base no farther than a few medians."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from consensus.types import Digest
from p2pfl.params import Update
from p2pfl.records import MICRO
from p2pfl.rules.compare import bounded, compare_groups
from p2pfl.rules.defaults import DEFAULT_RULES
from p2pfl.rules.gram import view_of

from .world import EXPONENTS, LAYOUT

IDS = [Digest(bytes([n]) * 32) for n in range(4)]


def deltas_of(seed: int, count: int = 3) -> list[Update]:
    rng = np.random.default_rng(seed)
    towards = rng.normal(0, 300, LAYOUT.size)
    drawn = [towards + rng.normal(0, 200, LAYOUT.size) for _ in range(count)]
    return [Update(LAYOUT, EXPONENTS, np.round(each).astype(np.int16)) for each in drawn]


def louder(update: Update, steps: int) -> Update:
    return Update(LAYOUT, tuple(e + steps for e in update.exponents), update.values)


def heard(
    deltas: list[Update],
    root: Update | None = None,
    weights: list[int] | None = None,
    blocks: list[int] | None = None,
) -> list[Update]:
    ids, ones = IDS[: len(deltas)], [1] * len(deltas)
    triangles, rows = compare_groups(ids, deltas, weights or ones, root, DEFAULT_RULES)
    return bounded(deltas, triangles, rows, blocks or ones, root, DEFAULT_RULES.norm_ratio_max_micro)


def length(update: Update) -> float:
    return float(view_of([update]).norms_sq[0]) ** 0.5 * 2.0 ** min(update.exponents)


def test_what_is_about_as_long_as_the_others_keeps_every_bit() -> None:
    deltas = deltas_of(1)
    deltas[1] = louder(deltas[1], 1)
    assert heard(deltas) == deltas


@pytest.mark.parametrize("steps", [3, 6, 8])
def test_a_group_whose_exponents_lie_is_shortened(steps: int) -> None:
    deltas = deltas_of(2)
    median = sorted(length(each) for each in deltas)[1]
    found = heard([*deltas[:2], louder(deltas[2], steps)])
    assert found[:2] == deltas[:2]
    assert length(found[2]) == pytest.approx(4 * median, rel=0.2)
    assert length(louder(deltas[2], steps)) > 1.5 * length(found[2])


def test_a_lone_group_is_measured_by_the_root_update() -> None:
    one, root = deltas_of(3, 2)
    found = heard([louder(one, 8)], root)
    assert length(found[0]) == pytest.approx(16 * length(root), rel=0.05)
    assert heard([louder(one, 3)], root) == [louder(one, 3)]
    assert heard([louder(one, 8)]) == [louder(one, 8)]  # The first block has no root update.


def test_who_is_left_out_or_has_no_weight_is_no_measure() -> None:
    deltas = deltas_of(4)
    faint = [louder(deltas[0], -9), louder(deltas[1], -9)]
    assert heard([*faint, deltas[2]], weights=[0, 0, 1])[2] == deltas[2]
    assert heard(deltas, weights=[0, 0, 0]) == deltas
    assert bounded([], (), (), (), None, MICRO) == []
    still = Update(LAYOUT, EXPONENTS, deltas[0].values * 0)
    assert heard([still, still, deltas[2]]) == [still, still, deltas[2]]


def test_who_catches_up_with_many_blocks_has_gone_as_far_as_so_many() -> None:
    deltas = deltas_of(5)
    long = [deltas[0], deltas[1], louder(deltas[2], 3)]
    assert heard(long, blocks=[1, 1, 8]) == long
    assert heard([deltas[0], louder(deltas[2], 3)], deltas[1], blocks=[1, 8])[1] == louder(deltas[2], 3)
    assert length(heard(long)[2]) < 0.6 * length(long[2])


def test_the_ratio_is_the_rules() -> None:
    assert dataclasses.asdict(DEFAULT_RULES)["norm_ratio_max_micro"] == 4 * MICRO
