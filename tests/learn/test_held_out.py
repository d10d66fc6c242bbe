"""What a member keeps out of its training."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfl.errors import UserError
from p2pfl.learn.datasets import data_root, load_dataset
from p2pfl.learn.held_out import HELD_OUT_MIN, SAMPLES_MIN, held_out_places, hold_out
from p2pfl.rounds.trainer import Trainer
from tests.rules.world import world

DIGITS = load_dataset("digits")


@given(count=st.integers(0, 3000), percent=st.integers(0, 50))
def test_kept_out_and_trained_on_are_all_samples_once(count: int, percent: int) -> None:
    x, y = np.arange(count, dtype=np.float32)[:, None], np.arange(count, dtype=np.int64)
    (train_x, train_y), held = hold_out(x, y, percent)
    kept = np.array([], dtype=np.int64) if held is None else held[1]
    assert sorted([*train_y.tolist(), *kept.tolist()]) == y.tolist()
    assert np.array_equal(train_x[:, 0], train_y.astype(np.float32))
    if count < SAMPLES_MIN or percent == 0:
        assert held is None
    else:
        assert len(kept) == max(HELD_OUT_MIN, count * percent // 100)
        assert kept.tolist() == held_out_places(count, percent).tolist()


def test_a_table_sorted_by_label_keeps_some_of_each_class_out() -> None:
    y = np.repeat(np.arange(10), 20)
    _, held = hold_out(np.zeros((200, 1), dtype=np.float32), y, 10)
    assert held is not None
    assert np.bincount(held[1], minlength=10).tolist() == [2] * 10


@pytest.mark.parametrize("percent", [-1, 51])
def test_more_than_half_is_never_kept_out(percent: int) -> None:
    with pytest.raises(ValueError, match="cannot be kept out"):
        held_out_places(100, percent)


async def test_a_trainer_trains_on_the_rest_and_commits_to_it_only() -> None:
    genesis = world().genesis
    x, y = DIGITS.train_x[:100], DIGITS.train_y[:100]
    whole = Trainer(genesis, x, y)
    assert (len(whole.y), len(whole.held_out[1])) == (90, 10)
    assert (whole.data_root, whole.data_leaves) == data_root(whole.x, whole.y)
    own = Trainer(genesis, x, y, held_out=(DIGITS.test_x[:5], DIGITS.test_y[:5]))
    assert (len(own.y), len(own.held_out[1])) == (100, 5)
    none = dataclasses.replace(genesis, task=dataclasses.replace(genesis.task, held_out_percent=0))
    assert Trainer(none, x, y).held_out is None
    seat = Trainer(genesis, None, None)
    assert seat.held_out is None
    assert await seat.evaluate_held_out(np.zeros(1, dtype=np.float32)) is None


async def test_a_seat_says_at_its_start_that_the_public_set_is_not_there(tmp_path: Path) -> None:
    genesis = world().genesis
    task = dataclasses.replace(genesis.task, dataset="mnist", input_shape=(1, 28, 28))
    seat = Trainer(dataclasses.replace(genesis, task=task), None, None, data_dir=tmp_path)
    with pytest.raises(UserError, match="there is no train-images-idx3-ubyte"):
        await seat.warm()
    assert seat.worker.pid is None
