"""A trained model tells right labels from wrong ones, through the training process as well."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from p2pfl.learn.datasets import Dataset, load_dataset, root_set
from p2pfl.learn.labels import NOTHING_SAID, LabelsJudged, judge_labels
from p2pfl.learn.models import initial_parameters
from p2pfl.learn.tables import address
from p2pfl.learn.train import TrainJob, train
from p2pfl.learn.worker import Worker
from p2pfl.rounds.trainer import PUBLIC_MAX, Trainer, judged_on
from p2pfl.rules.defaults import DEFAULT_RULES
from tests.rules.labels import backdoored, flipped, relabelled
from tests.rules.world import world

SHAPE, CLASSES = (1, 8, 8), 10
ERROR_MAX_PPM = DEFAULT_RULES.harmful_error_max_ppm


@pytest.fixture(scope="module")
def place() -> tuple:  # type: ignore[type-arg]
    """A model of the digits, samples that it has not seen, and a public set of a hundred."""
    root_x, root_y, data = root_set(load_dataset("digits"), 100, 1)
    start = initial_parameters("mlp", SHAPE, CLASSES, 1)
    job = TrainJob(
        "mlp", SHAPE, CLASSES, start, data.train_x, data.train_y,
        seed=bytes(32), member=bytes(20), steps=120, keep_states=False,
    )  # fmt: skip
    return train(job).parameters, (data.test_x, data.test_y), (root_x, root_y)


def judged(place: tuple, x: np.ndarray, y: np.ndarray) -> LabelsJudged:  # type: ignore[type-arg]
    parameters, _, public = place
    return judge_labels("mlp", SHAPE, CLASSES, parameters, (x, y), public, ERROR_MAX_PPM)


def test_right_labels_disagree_no_more_than_expected(place: tuple) -> None:  # type: ignore[type-arg]
    found = judged(place, *place[1])
    assert found.expected_ppm < 150_000
    assert abs(found.disagree_ppm - found.expected_ppm) < 100_000


def test_flipped_labels_and_a_trigger_disagree_far_more(place: tuple) -> None:  # type: ignore[type-arg]
    x, y = place[1]
    assert judged(place, *flipped(x, y)).disagree_ppm > 800_000
    assert judged(place, *backdoored(x, y)).disagree_ppm > 300_000


def test_one_class_alone_is_judged_by_that_class(place: tuple) -> None:  # type: ignore[type-arg]
    x, y = place[1]
    eight = y == 8
    # Twice: there are too few of one class to be judged once.
    found = judged(place, np.repeat(x[eight], 2, axis=0), np.repeat(y[eight], 2))
    assert found != NOTHING_SAID
    root_wrong = judged(place, *place[2])
    assert found.disagree_ppm < 400_000
    assert root_wrong.disagree_ppm == root_wrong.expected_ppm


async def test_the_training_process_gives_the_same_answer(place: tuple) -> None:  # type: ignore[type-arg]
    parameters, own, public = place
    with Worker() as worker:
        arguments = ("mlp", SHAPE, CLASSES, parameters, own, public, ERROR_MAX_PPM)
        found = await worker.run(address(judge_labels), *arguments)
    assert found == judged(place, *own)


async def test_no_choice_of_labels_takes_a_good_reference_model_its_say() -> None:
    genesis = world().genesis
    with Worker() as worker:
        seat = Trainer(genesis, None, None, worker=worker)
        x, y = seat.public()[2].test_x, seat.public()[2].test_y
        found = [await seat.judge_labels(*relabelled(label)(x, y)) for label in range(CLASSES)]
        rules = dataclasses.replace(DEFAULT_RULES, harmful_error_max_ppm=10_000)
        worse = Trainer(dataclasses.replace(genesis, rules=rules), None, None, worker=worker)
        assert await worse.judge_labels(*relabelled(0)(x, y)) == NOTHING_SAID
    # It is poor at one class at least: whoever calls everything that is judged all the same.
    assert max(each.expected_ppm for each in found) > ERROR_MAX_PPM
    assert min(each.disagree_ppm - each.expected_ppm for each in found) > DEFAULT_RULES.harmful_max_ppm


def test_a_public_set_in_the_order_of_its_labels_is_judged_on_in_every_class() -> None:
    y = np.repeat(np.arange(CLASSES), PUBLIC_MAX // 2)
    x = y.astype(np.float32)[:, None]
    picked_x, picked_y = judged_on(Dataset(x[:0], y[:0], x, y, CLASSES))
    assert np.bincount(picked_y).tolist() == [PUBLIC_MAX // CLASSES] * CLASSES
    np.testing.assert_array_equal(picked_x[:, 0], picked_y)
    few = judged_on(Dataset(x[:0], y[:0], x[:7], y[:7], CLASSES))
    assert len(few[0]) == len(few[1]) == 7
