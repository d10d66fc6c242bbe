"""What a user brings along: a model, a data set and tasks, found by `module:function`."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from p2pfl.errors import PeerFault, UserError
from p2pfl.learn.datasets import Dataset, dataset
from p2pfl.learn.models import Architecture, Shape, logistic, model
from p2pfl.learn.optimizers import Optimizer, Rates, optimizer
from p2pfl.learn.task import task


@model("tests_own")
def own_model(input_shape: Shape, classes: int) -> Architecture:
    """Logistic regression under another name."""
    return logistic(input_shape, classes)


@dataset("tests_own")
def own_dataset(directory: Path | None) -> Dataset:
    """Four samples of two classes."""
    x = np.arange(8, dtype=np.float32).reshape(4, 2) / np.float32(8)
    y = np.array([0, 0, 1, 1], dtype=np.int64)
    return Dataset(x, y, x, y, classes=2)


@dataset("tests_larger")
def own_larger(directory: Path | None) -> Dataset:
    """Two hundred points of two classes, right and left."""
    x = np.random.RandomState(0).uniform(-1, 1, (200, 2)).astype(np.float32)
    y = (x[:, 0] > 0).astype(np.int64)
    return Dataset(x[40:], y[40:], x[:40], y[:40], classes=2)


@dataset("tests_broken")
def own_broken(directory: Path | None) -> Dataset:
    """Labels that are more than there are classes."""
    x, y = np.zeros((2, 2), dtype=np.float32), np.array([0, 5], dtype=np.int64)
    return Dataset(x, y, x, y, classes=2)


@optimizer("tests_own")
def own_optimizer(rates: Rates) -> Optimizer:
    """One step in the direction of the last gradient's signs, after steps that only count."""

    def step(parameters: Any, gradient: Any, moments: Sequence[Any], number: int) -> None:
        moments[0].add_(1)
        if int(moments[0][0]) == 3:
            parameters.add_(gradient.sign(), alpha=-rates.learning_rate)

    return Optimizer(("counted",), step)


def undecorated(input_shape: Shape, classes: int) -> Architecture:
    """A function that no table knows."""
    return logistic(input_shape, classes)


@task("tests_doubled")
def doubled(values: np.ndarray) -> np.ndarray:
    """Twice the values."""
    return 2 * values


@task("tests_pid")
def pid() -> int:
    """The process in which tasks run."""
    return os.getpid()


@task("tests_priority")
def priority() -> int:
    """How nice that process is."""
    return os.nice(0)


@task("tests_prints")
def prints() -> None:
    """Write where only a command's result belongs."""
    print("chatter", flush=True)
    os.write(1, b"more chatter")


@task("tests_killed")
def killed() -> None:
    """What the kernel does to a process when memory runs out."""
    os.kill(os.getpid(), signal.SIGKILL)


@task("tests_fails")
def fails(whose: str) -> None:
    """Raise a fault of this kind."""
    if whose == "peer":
        raise PeerFault("bad_state", "too short")
    if whose == "user":
        raise UserError("it is wrong", because="of that", fix="mend it")
    raise RuntimeError("a bug of ours")


@task("tests_unspeakable")
def unspeakable() -> object:
    """A result that no pickle can carry."""
    return lambda: None


@task("tests_waits")
def waits(fifo: str) -> str:
    """Block until somebody has opened the other end of this named pipe, written, and closed it."""
    return Path(fifo).read_text(encoding="ascii")
