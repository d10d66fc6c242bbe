"""One cell of a grid: a network, what it learns, who attacks it and by which rules it judges; and its cast.

A cell is plain values, so that it can be written down, sent to another process and found again.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from p2pfl.errors import UserError
from p2pfl.learn.datasets import Dataset, load_dataset, root_set
from p2pfl.learn.partitions import partition
from testnet import attacks
from testnet.plan import ROOT_SIZE
from testnet.scenarios import Scenario, Shape

# Nobody learns from fewer samples if it can be helped; very skewed draws leave some with fewer.
SAMPLES_MIN = (10, 5, 2, 1)


@dataclass(frozen=True)
class Cell:
    """Everything that a run depends on, but for the folder in which its data set lies.

    mode: "groups" (the node's own code) or "flat" (one server and the rule of that name over everybody).
    samples: of the training set, 0 for all; test_samples likewise. honest: the name that tables give to a
    cell without attackers. attack "" or share 0: there are none.
    """

    mode: str = "groups"
    dataset: str = "digits"
    samples: int = 0
    test_samples: int = 0
    model: str = "logistic"
    groups: int = 6
    members: int = 4
    seats: int = 4
    rounds: int = 10
    partition: str = "Dirichlet"
    classes_each: int = 2
    shards_each: int = 2
    alpha: float = 0.5
    seed: int = 1
    attack: str = ""
    options: dict[str, Any] = field(default_factory=dict)
    share: float = 0.0
    placement: str = "spread"
    rule: str = ""
    task: dict[str, Any] = field(default_factory=dict)
    times: dict[str, int] = field(default_factory=dict)
    rules: dict[str, Any] = field(default_factory=dict)
    epochs: dict[str, int] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Names the cell in a journal: the same values, the same key."""
        text = json.dumps(dataclasses.asdict(self), sort_keys=True)
        return sha256(text.encode()).hexdigest()[:16]

    @property
    def attacked(self) -> bool:
        """Whether there is anybody bad."""
        return bool(self.attack) and self.share > 0

    @property
    def client_rounds(self) -> int:
        """How much work it is."""
        return self.groups * self.members * self.rounds

    def scenario(self) -> Scenario:
        """The same as `testnet.plan` takes it."""
        rules = {**self.rules, **({"aggregator": self.rule} if self.rule and self.mode == "groups" else {})}
        shape = Shape(
            groups=self.groups, members=self.members, seats=self.seats, rounds=self.rounds, model=self.model,
            dataset=self.dataset, partition=self.partition, alpha=self.alpha, seed=self.seed, chain=False,
        )  # fmt: skip
        return Scenario(
            name=f"cell {self.key}", title="", claim="", culprits=(), holds={}, network=shape,
            task=dict(self.task), times=dict(self.times), rules=rules, epochs=dict(self.epochs),
        )  # fmt: skip

    def names(self) -> dict[str, list[str]]:
        """The members of each group."""
        return {f"g{g}": [f"g{g}m{m}" for m in range(self.members)] for g in range(self.groups)}

    def cast(self) -> dict[str, list[dict[str, Any]]]:
        """The attacks of each attacker. Raises UserError."""
        if not self.attacked:
            return {}
        return attacks.cast(
            self.attack, self.names(), self.share, self.placement, seed=self.seed, options=self.options
        )


@dataclass(frozen=True, eq=False)
class Material:
    """A cell's data. shares: indices of each member's samples in `data.train_x`, in the names' order."""

    whole: Dataset
    root_x: Any
    root_y: Any
    data: Dataset
    shares: list[Any]


def material(cell: Cell, data_dir: Path | None) -> Material:
    """Read and share out. Raises UserError."""
    whole = shortened(load_dataset(cell.dataset, data_dir), cell.samples, cell.test_samples)
    root_size = min(ROOT_SIZE, len(whole.train_y) // 10)  # As `testnet.plan` does.
    root_x, root_y, rest = root_set(whole, root_size, cell.seed)
    return Material(whole, root_x, root_y, rest, _shares(cell, rest))


def _shares(cell: Cell, data: Dataset) -> list[Any]:
    for least in SAMPLES_MIN:
        try:
            return partition(
                data.train_y, cell.partition, cell.groups * cell.members, seed=cell.seed, alpha=cell.alpha,
                classes_each=cell.classes_each, shards_each=cell.shards_each, min_samples=least,
            )  # fmt: skip
        except UserError:
            if least == SAMPLES_MIN[-1]:
                raise
    raise AssertionError("there is a last one")


def shortened(whole: Dataset, samples: int, test_samples: int) -> Dataset:
    """The first so many of each half (0: all): the data sets come in random order."""
    return dataclasses.replace(
        whole,
        train_x=whole.train_x[: samples or None],
        train_y=whole.train_y[: samples or None],
        test_x=whole.test_x[: test_samples or None],
        test_y=whole.test_y[: test_samples or None],
    )
