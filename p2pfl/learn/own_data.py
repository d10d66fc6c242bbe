"""A member's own samples: in its own folder, where nobody else looks.

    DIR/data.npz, data.csv or data.parquet                what it trains on; a setting may name another file
    DIR/held_out.npz, held_out.csv or held_out.parquet    what it judges by, instead of a part of those

Checks that they are of the task that the network learns. Knows nothing of training and rounds.
"""

from __future__ import annotations

import math
from pathlib import Path

from p2pfl.errors import UserError
from p2pfl.genesis import Task
from p2pfl.learn.datasets import Float32, Int64
from p2pfl.learn.held_out import Samples
from p2pfl.learn.sample_tables import LABEL, SUFFIXES, read_samples

DATA, HELD_OUT = "data", "held_out"


def read_own_data(
    folder: Path, task: Task, *, path: Path | None = None, label: str = LABEL
) -> tuple[Float32, Int64, Samples | None]:
    """(x, y, what is held out) of the member whose folder this is; None: it brings nothing of its own.

    path: another file than the one in the folder. label: the column of the labels in a table. x: float32,
    shape (samples, *task.input_shape); y: int64 in [0, task.classes). Raises UserError.
    """
    found = path or _in_folder(folder, DATA)
    if found is None:
        names = ", ".join(DATA + suffix for suffix in SUFFIXES)
        raise UserError(
            f"there is no training data in {folder}",
            because=f"none of {names} is a file there, and data.path names no other",
            fix="put the member's samples there (docs/operators.md), or --set data.path=FILE",
        )
    held = _in_folder(folder, HELD_OUT)
    x, y = read_for_task(found, task, label)
    return x, y, None if held is None else read_for_task(held, task, label)


def _in_folder(folder: Path, stem: str) -> Path | None:
    found = [path for path in (folder / (stem + suffix) for suffix in SUFFIXES) if path.is_file()]
    if len(found) > 1:
        raise UserError(
            f"{folder} holds {' and '.join(path.name for path in found)}",
            because="one of them only is read, and which is not for a node to guess",
            fix="move the others away, or name one: --set data.path=FILE",
        )
    return found[0] if found else None


def read_for_task(path: Path, task: Task, label: str) -> Samples:
    """The samples (x, y) of one file, checked against the task. Raises UserError."""
    found = read_samples(path, label=label, class_names=task.class_names)
    if found.class_names and not task.class_names:
        raise _misfit(
            path, task, f"its labels are words ({', '.join(found.class_names[:3])}), the task's numbers"
        )
    x, y = found.x, found.y
    # A table has one dimension only: its columns are the values of a sample in the order of the task's shape.
    if x.ndim == 2 and x.shape[1] == math.prod(task.input_shape):
        x = x.reshape(len(x), *task.input_shape)
    if x.shape[1:] != task.input_shape:
        raise _misfit(path, task, f"a sample has shape {x.shape[1:]}")
    if y.min() < 0 or y.max() >= task.classes:
        raise _misfit(path, task, f"its labels go from {y.min()} to {y.max()}")
    return x, y


def _misfit(path: Path, task: Task, because: str) -> UserError:
    return UserError(
        f"the data {path} does not fit the task",
        because=because,
        fix=f"the genesis wants samples of shape {task.input_shape} and labels from 0 to {task.classes - 1}"
        + (f", called {', '.join(task.class_names)}" if task.class_names else ""),
    )
