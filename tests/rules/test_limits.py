"""A network whose numbers do not fit is refused at start, with the operator's words."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from p2pfl.errors import UserError
from p2pfl.params import MODEL_BYTES_MAX, Layout, TensorSpec, Update
from p2pfl.rules.aggregate import aggregate, combine
from p2pfl.rules.defaults import DEFAULT_RULES
from p2pfl.rules.gram import view_of
from p2pfl.rules.limits import EXPONENT_LAG_MAX, check_genesis
from p2pfl.rules.pool import ROW_BYTES

from .world import world

SMALL = Layout((TensorSpec("x", (8,)),))
# The largest cap for groups of four: 4 * cap * 2^20 * 2^15 must stay below 2^62.
CAP_MAX = ((1 << 62) - 1 >> 35) // 4


def test_the_defaults_fit() -> None:
    check_genesis(world().genesis)
    check_genesis(world(groups=16, members=16, layout=SMALL).genesis)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("aggregator", "no such rule"),
        ("weight_cap", 0),
        ("weight_cap", CAP_MAX + 1),
        ("group_cos_min_micro", 1_000_001),
        ("duplicate_max_micro", -1),
        ("norm_ratio_max_micro", 999_999),
        ("replay_max_ppm", 0),
        ("case_blocks", 0),
        ("row_root", 2),
        ("filter_rate_ppb", 0),
        ("filter_rate_ppb", 10**9),
    ],
)
def test_a_rule_that_means_nothing_is_refused(name: str, value: object) -> None:
    rules = dataclasses.replace(DEFAULT_RULES, **{name: value})  # type: ignore[arg-type]
    with pytest.raises(UserError) as refused:
        check_genesis(world(rules=rules).genesis)
    assert name.split("_", maxsplit=1)[0] in str(refused.value) and refused.value.fix


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("local_epochs", 0),
        ("batch_size", 0),
        ("root_size", 0),
        ("root_size", -1),
        ("trace_every", 0),
        ("momentum_micro", 1_000_000),
        ("second_moment_micro", -1),
        ("epsilon_nano", 0),
        ("proximal_micro", -1),
        ("held_out_percent", 51),
        ("class_names", ("cat", "dog")),
        ("class_names", ("cat",) * 10),
    ],
)
def test_a_task_with_which_nothing_can_be_learnt_is_refused(name: str, value: object) -> None:
    genesis = world().genesis
    task = dataclasses.replace(genesis.task, **{name: value})  # type: ignore[arg-type]
    with pytest.raises(UserError, match=name.replace("_names", "es")) as refused:
        check_genesis(dataclasses.replace(genesis, task=task))
    assert refused.value.fix


def test_steps_take_the_place_of_epochs() -> None:
    task = dataclasses.replace(world().genesis.task, local_epochs=0, local_steps=5)
    check_genesis(dataclasses.replace(world().genesis, task=task))
    assert task.steps(1_000) == 5
    assert dataclasses.replace(task, local_epochs=2, local_steps=0, batch_size=16).steps(17) == 4


def test_a_model_larger_than_a_blob_is_refused() -> None:
    there = world(layout=SMALL)
    task = dataclasses.replace(there.genesis.task, tensors=(TensorSpec("x", (MODEL_BYTES_MAX // 4 + 1,)),))
    genesis = dataclasses.replace(there.genesis, task=task)
    with pytest.raises(UserError, match="too large"):
        check_genesis(genesis)


def test_at_the_largest_cap_the_extremes_still_add_up() -> None:
    """Four members of a group, then twelve groups' worth of weight at the two ends of the scales."""
    check_genesis(world(rules=dataclasses.replace(DEFAULT_RULES, weight_cap=CAP_MAX)).genesis)
    lowest = np.full(8, -32768, dtype=np.int16)
    updates = [Update(SMALL, (-10,), lowest)] * 4
    found = aggregate("clipped_mean", [lowest] * 4, [CAP_MAX] * 4, view_of(updates), 1)
    assert (found == -32767).all()
    low = Update(SMALL, (-10 - EXPONENT_LAG_MAX,), lowest)
    high = Update(SMALL, (-10 + EXPONENT_LAG_MAX,), lowest)
    total = combine([low, high, high], [4 * CAP_MAX] * 3, 12 * CAP_MAX)
    assert total.exponents == (-10 + EXPONENT_LAG_MAX,) and (total.values == -21_846).all()


def test_a_pool_that_is_no_rows_is_refused() -> None:
    with pytest.raises(UserError, match="pool"):
        check_genesis(world(pool=b"123").genesis)
    check_genesis(world(pool=bytes(ROW_BYTES)).genesis)
