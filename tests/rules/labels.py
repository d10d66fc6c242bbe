"""How far labels disagree with a model of the public root set: honest members, label flippers, backdoors.

`python -m tests.rules.labels SEEDS` prints the table of docs/detection.md. No round is played: the reference
model learns from the root set alone, so what it says of somebody's labels is the same in every round.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np

from p2pfl.learn.datasets import load_dataset, root_set
from p2pfl.learn.labels import NOTHING_SAID, called, judged
from p2pfl.learn.models import initial_parameters
from p2pfl.learn.partitions import partition
from p2pfl.learn.train import TrainJob, train
from p2pfl.rounds.trainer import REFERENCE_STEPS
from p2pfl.rules.defaults import DEFAULT_RULES
from testnet.attacks.data import stamped

MEMBERS, ROOT_SAMPLES = 12, 100
Poison = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


def honest(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """As they are."""
    return x, y


def flipped(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All labels: c becomes 9 - c."""
    return x, 9 - y


def half_flipped(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Half of the labels."""
    other = y.copy()
    other[::2] = 9 - other[::2]
    return x, other


def backdoored(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Half of the samples of other classes carry a trigger and the label 0."""
    picked = np.flatnonzero(y != 0)[::2]
    marked, other = x.copy(), y.copy()
    marked[picked], other[picked] = stamped(x[picked]), 0
    return marked, other


def relabelled(label: int) -> Poison:
    """All samples get this label: the one on which the public, reproducible model errs most escaped once."""
    return lambda x, y: (x, np.full_like(y, label))


POISONS: dict[str, Poison] = {
    "none": honest,
    "label flip, all": flipped,
    "label flip, half": half_flipped,
    "backdoor, half": backdoored,
}
WORST = "all one label"


def excesses(seed: int, alpha: float) -> dict[str, list[tuple[float, bool]]]:
    """Of each member with each poison: by how much more than expected labels disagree; if it is judged."""
    root_x, root_y, data = root_set(load_dataset("digits"), ROOT_SAMPLES, seed)
    place = ("cnn", data.input_shape, data.classes)
    job = TrainJob(
        *place, initial_parameters(*place, seed), root_x, root_y,
        seed=bytes(32), member=bytes(20), steps=REFERENCE_STEPS, keep_states=False,
    )  # fmt: skip
    model = train(job).parameters
    errors = called(*place, model, data.test_x) != data.test_y
    worst = max(range(data.classes), key=lambda label: float(errors[data.test_y == label].mean()))
    poisons = {**POISONS, WORST: relabelled(worst)}
    found: dict[str, list[tuple[float, bool]]] = {name: [] for name in poisons}
    for picked in partition(data.train_y, "Dirichlet", MEMBERS, alpha=alpha, seed=seed):
        for name, poison in poisons.items():
            x, y = poison(data.train_x[picked], data.train_y[picked])
            wrong, most = called(*place, model, x) != y, DEFAULT_RULES.harmful_error_max_ppm
            labels = judged(wrong, y, errors, data.test_y, data.classes, most)
            excess = (labels.disagree_ppm - labels.expected_ppm) / 1e6
            found[name].append((excess, labels != NOTHING_SAID))
    return found


def main(seeds: int) -> None:
    """One row an alpha and a poison: how much more labels disagree than is expected, and who is found."""
    print("| alpha | poison | members judged | least | median | most | harmful |")
    print("|---|---|---|---|---|---|---|")
    for alpha in (0.1, 0.5, 100.0):
        runs = [excesses(seed, alpha) for seed in range(1, seeds + 1)]
        for name in (*POISONS, WORST):
            told = [each for run in runs for each in run[name]]
            judgeable = sorted(excess for excess, fit in told if fit)
            over = sum(excess > DEFAULT_RULES.harmful_max_ppm / 1e6 for excess in judgeable)
            cells = (
                f"{alpha:g}",
                name,
                f"{len(judgeable)} of {len(told)}",
                f"{judgeable[0]:.2f}",
                f"{judgeable[len(judgeable) // 2]:.2f}",
                f"{judgeable[-1]:.2f}",
                f"{over} of {len(told)}",
            )
            print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 12)
