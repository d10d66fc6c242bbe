"""What `bench round` makes of the events of a run, and that the floor learns the same job."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench import rounds
from p2pfl.learn import models
from p2pfl.learn.datasets import load_dataset
from p2pfl.learn.partitions import partition

ROOT = Path(__file__).parents[2]


def event(at_s: float, name: str, kind: str, **fields: Any) -> dict[str, Any]:
    return {"at_s": at_s, "name": name, "kind": kind, "fields": fields, "life": 0}


def story() -> list[dict[str, Any]]:
    """Two heights of a group of two, and a council that must not be mixed in."""
    told = [event(0.0, name, "started", group="g0") for name in ("g0m0", "g0m1")]
    for height, begun in ((0, 1.0), (1, 3.0)):
        for late, name in enumerate(("g0m0", "g0m1")):
            told.append(event(begun + 0.5, name, "trained", height=height, seconds=0.2 + late / 10))
            for index, step in enumerate(rounds.STEPS):
                at_s = begun + index / 10 + late
                told.append(event(at_s, name, "step", group="g0", height=height, step=step))
            told.append(event(begun + 1.0 + late, name, "decided", group="g0", height=height))
        told.append(event(begun + 0.1, "seat0", "decided", group="council", height=height))
    return told


def test_a_round_is_from_the_first_word_of_a_decision_to_the_next() -> None:
    assert rounds._round_seconds(story()) == [pytest.approx(2.0)]


def test_training_is_that_of_the_slowest_member() -> None:
    assert rounds._train_seconds(story()) == [pytest.approx(0.3)] * 2


def test_committing_is_from_the_first_that_holds_every_blob_to_the_decision() -> None:
    assert rounds._commit_seconds(story()) == [pytest.approx(0.7)] * 2


def test_steps_add_up_to_the_way_from_the_beginning_to_the_decision() -> None:
    steps = rounds._steps_seconds(story())
    assert list(steps) == list(rounds.STEPS)
    assert sum(steps.values()) == pytest.approx(1.0, abs=1e-3)


def test_a_figure_has_its_middle_and_its_worst() -> None:
    assert rounds._figure([3.0, 1.0, 2.0]) == {"median": 2.0, "p95": 3.0, "max": 3.0}


@pytest.mark.slow
@pytest.mark.parametrize("model", ["cnn", "mlp"])
def test_the_floor_learns_the_same_job_with_a_model_of_the_same_size(model: str, tmp_path: Path) -> None:
    whole = load_dataset("digits")
    shares = partition(whole.train_y, "Iid", 8, seed=1)
    files = [tmp_path / f"{index}.npz" for index in range(8)]
    for file, share in zip(files, shares, strict=True):
        np.savez(file, x=whole.train_x[share], y=whole.train_y[share])
    np.savez(tmp_path / "test.npz", x=whole.test_x, y=whole.test_y)
    command = [sys.executable, "-m", "bench.floor", "--model", model, "--rounds", "3"]
    done = subprocess.run(
        [*command, "--test", str(tmp_path / "test.npz"), *map(str, files)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        timeout=120,
        check=True,
    )
    told = json.loads(done.stdout)
    assert told["parameters"] == models.layout(model, whole.input_shape, whole.classes).size
    assert len(told["round_seconds"]) == len(told["accuracy"]) == 3
    assert told["accuracy"][-1] > told["accuracy"][0] > 0.1
