"""Where a network's founding pool comes from: rounds of honest members, trained offline, and their features.

Training, aggregation and triage are those of the node; groups and council are simulated without messages. A
network that is its own best example can bring the rows of a run instead: `rows_of_chain`.

    python -m testnet.honest_rounds make FILE          the pool that the testnet's genesis holds
    python -m testnet.honest_rounds check              false alarms and who is found, on other seeds
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from consensus.types import MemberId
from p2pfl.learn.datasets import Dataset, load_dataset, root_set
from p2pfl.learn.models import initial_parameters, layout
from p2pfl.learn.partitions import partition
from p2pfl.learn.train import TrainJob, train
from p2pfl.params import Base, Int64, Update, apply_update, delta_of, fitting_exponents, quantize
from p2pfl.records import CouncilBody, TriageRow
from p2pfl.rules.aggregate import aggregate, combine, zero_update
from p2pfl.rules.defaults import DEFAULT_RULES
from p2pfl.rules.gram import view_of
from p2pfl.rules.pool import EMPTY, FEATURES, FOUNDING_MAX, Pool, pack
from p2pfl.rules.triage import features, is_left_out, triage

SHIPPED = "honest.pool"
ROOT_SAMPLES = 100
ROUNDS = 12
FIRST_EXPONENT = -14
# How different members' data are (Dirichlet), and the share of the pool's rows that is drawn from each: the
# more they differ, the odder are honest rounds, and it is those that must not be suspected.
ALPHAS = {0.1: 0.5, 0.5: 0.25, 100.0: 0.25}
WORKERS = 8
# (groups, members of each): a cosine to three others is noisier than one to fifteen.
SHAPES = ((5, 4), (4, 5), (2, 8))
Delta = NDArray[np.float64]
# What one member sends instead: (its own honest delta, all honest deltas of its group, chance) -> delta.
Lie = Callable[[Delta, Delta, np.random.Generator], Delta]


@dataclass(frozen=True)
class Setting:
    """One run. lie: of the first member of each group (a name in LIES), or of none."""

    model: str
    alpha: float
    seed: int
    groups: int
    members: int
    lie: str | None = None
    flips_labels: bool = False


@dataclass(frozen=True)
class Judged:
    """One group's round: its rows, whether each member lied, and their features."""

    rows: tuple[TriageRow, ...]
    lied: tuple[bool, ...]
    features: Int64


class Rounds:
    """A network that learns, round by round; who is left out by a hard rule does not count."""

    def __init__(self, setting: Setting, pool: Pool) -> None:
        self._is, self._pool = setting, pool
        self._root_x, self._root_y, self._data = root_set(_digits(), ROOT_SAMPLES, setting.seed)
        count = setting.groups * setting.members
        labels = self._data.train_y
        self._parts = partition(labels, "Dirichlet", count, alpha=setting.alpha, seed=setting.seed)
        shape, classes = self._data.input_shape, self._data.classes
        self._layout = layout(setting.model, shape, classes)
        self._base = Base(self._layout, initial_parameters(setting.model, shape, classes, setting.seed))
        self._exponents = (FIRST_EXPONENT,) * len(self._layout.tensors)
        self._root = zero_update(self._layout, self._exponents)
        self._previous = [self._root] * setting.groups
        self._chance = np.random.default_rng([setting.seed, 1])

    def round(self, height: int) -> list[Judged]:
        """One height of all groups."""
        found = [self._group(group, height) for group in range(self._is.groups)]
        weights = [weight for _, _, weight in found]
        self._previous = [aggregated for _, aggregated, _ in found]
        if sum(weights):
            mean = combine(self._previous, weights, sum(weights))
            self._base = apply_update(self._base, mean)
            fitting = zip(self._exponents, fitting_exponents(mean), strict=True)
            self._exponents = tuple(min(now + 1, max(now - 1, fit)) for now, fit in fitting)
        self._root = self._quantized(self._trained(self._root_x, self._root_y, -1, height))
        return [judged for judged, _, _ in found]

    def _group(self, group: int, height: int) -> tuple[Judged, Update, int]:
        members = range(group * self._is.members, (group + 1) * self._is.members)
        deltas = np.array([self._learnt(member, height) for member in members])
        if self._is.lie is not None:
            deltas[0] = LIES[self._is.lie](deltas[0], deltas, self._chance)
        updates = [self._quantized(delta) for delta in deltas]
        gram = view_of([*updates, self._previous[group], self._root])
        ids = [MemberId((member + 1).to_bytes(20, "big")) for member in members]
        f = (len(updates) - 1) // 3
        rows = triage(ids, gram, f, DEFAULT_RULES, self._pool)
        weights = [
            0 if is_left_out(row) else len(self._parts[m]) for row, m in zip(rows, members, strict=True)
        ]
        total = zero_update(self._layout, self._exponents)
        if any(weights):
            values = aggregate(DEFAULT_RULES.aggregator, [u.values for u in updates], weights, gram, f)
            total = Update(self._layout, self._exponents, values)
        lies = self._is.lie is not None or self._is.flips_labels
        lied = tuple(lies and not place for place in range(len(rows)))
        return Judged(rows, lied, features(rows)), total, sum(weights)

    def _learnt(self, member: int, height: int) -> Delta:
        picked = self._parts[member]
        x, y = self._data.train_x[picked], self._data.train_y[picked]
        if self._is.flips_labels and member % self._is.members == 0:
            y = self._data.classes - 1 - y
        return self._trained(x, y, member, height)

    def _trained(self, x: NDArray[np.float32], y: Int64, member: int, height: int) -> Delta:
        job = TrainJob(
            self._is.model, self._data.input_shape, self._data.classes, self._base.values, x, y,
            seed=height.to_bytes(32, "big"), member=(member + 1).to_bytes(20, "big"),
        )  # fmt: skip
        return delta_of(self._base, train(job).parameters)

    def _quantized(self, delta: Delta) -> Update:
        return quantize(delta.astype(np.float32), self._layout, self._exponents)[0]


@cache
def _digits() -> Dataset:
    return load_dataset("digits")


def run(setting: Setting, rounds: int, pool: Pool = EMPTY) -> list[list[Judged]]:
    """Every round, and in it every group."""
    network = Rounds(setting, pool)
    return [network.round(height) for height in range(rounds)]


def broken(row: TriageRow) -> bool:
    """Whether a hard rule leaves it out: such rows come into no pool."""
    return bool(row.out_of_bounds or row.duplicate or row.repeated)


def rows_of(judged: Iterable[Judged]) -> Int64:
    """Of honest rounds, the features that come into a pool: int64, shape (rows, FEATURES)."""
    kept = [
        own
        for each in judged
        for row, own in zip(each.rows, each.features.tolist(), strict=True)
        if not broken(row)
    ]
    return np.array(kept, dtype=np.int64).reshape(len(kept), FEATURES)


def rows_of_chain(bodies: Iterable[CouncilBody]) -> Int64:
    """The same from the council's blocks of a run that went well: what they added to its pool."""
    kept = [row.features for body in bodies for row in body.scores if not row.alarm]
    return np.array(kept, dtype=np.int64).reshape(len(kept), FEATURES)


def drawn(rows: Int64, count: int, seed: int) -> Int64:
    """At most so many of them, by chance, in their order."""
    order = np.random.default_rng(seed).permutation(len(rows))[:count]
    return rows[np.sort(order)]


def shipped() -> bytes:
    """The packed pool that this package brings, measured on digits."""
    return files("testnet").joinpath(SHIPPED).read_bytes()


# ---------------------------------------------------------------------------
# By hand.


def founding(simple: int, deep: int, *, rounds: int = ROUNDS, seed: int = 1) -> Int64:
    """Rows of honest networks of every shape and alpha: so many seeds of `logistic`, and of the `cnn`."""
    seeds = {"logistic": range(1, simple + 1), "cnn": range(1, deep + 1)}
    kept: list[Int64] = []
    with ProcessPoolExecutor(WORKERS) as workers:
        for alpha, share in ALPHAS.items():
            settings = [
                Setting(model, alpha, each, *shape)
                for model, numbers in seeds.items()
                for each in numbers
                for shape in SHAPES
            ]
            found = [*workers.map(_honest_rows, settings, [rounds] * len(settings))]
            rows = np.concatenate(found)
            kept.append(drawn(rows, round(share * FOUNDING_MAX), seed))
            print(f"alpha {alpha}: {len(rows)} honest rounds, {len(kept[-1])} of them kept", flush=True)
    return np.concatenate(kept)


def _honest_rows(setting: Setting, rounds: int) -> Int64:
    return rows_of(judged for groups in run(setting, rounds) for judged in groups)


def _noise(own: Delta, chance: np.random.Generator) -> Delta:
    drawn = chance.standard_normal(own.shape)
    return drawn * float(np.linalg.norm(own) / np.linalg.norm(drawn))


LIES: dict[str, Lie] = {
    "sign flip x1": lambda own, group, chance: -own,
    "sign flip x3": lambda own, group, chance: -3 * own,
    "scaling x10": lambda own, group, chance: 10 * own,
    "Gaussian x1": lambda own, group, chance: _noise(own, chance),
    "Gaussian x3": lambda own, group, chance: 3 * _noise(own, chance),
    "IPM 0.5": lambda own, group, chance: -group.mean(axis=0) / 2,
    "ALIE 1.5": lambda own, group, chance: group.mean(axis=0) - 1.5 * group.std(axis=0),
}


def check(seeds: Sequence[int]) -> None:
    """Print the table of docs/detection.md: alarms and left-out rounds with the shipped pool."""
    print("| who | member rounds | hard rule | alarm | left out | named within 10 rounds |")
    print("|---|---|---|---|---|---|")
    cases: dict[str, list[Setting]] = {}
    for model, shapes in (("logistic", SHAPES), ("cnn", SHAPES[1:2])):
        for alpha in ALPHAS:
            name = f"honest, {model}, alpha {alpha}"
            cases[name] = [Setting(model, alpha, seed, *shape) for seed in seeds for shape in shapes]
    for name in LIES:
        cases[name] = [Setting("logistic", 0.5, seed, *SHAPES[1], name) for seed in seeds]
    cases["label flip"] = [Setting("logistic", 0.5, seed, *SHAPES[1], None, True) for seed in seeds]
    with ProcessPoolExecutor(WORKERS) as workers:
        for name, settings in cases.items():
            _print(name, [*workers.map(_judged, settings)], not name.startswith("honest"))


def _judged(setting: Setting) -> list[list[Judged]]:
    return run(setting, ROUNDS, Pool.founded(shipped()))


def _print(name: str, runs: Sequence[Sequence[Sequence[Judged]]], lied: bool) -> None:
    picked = [
        (row, (number, row.member), height)
        for number, network in enumerate(runs)
        for height, groups in enumerate(network)
        for each in groups
        for row, does in zip(each.rows, each.lied, strict=True)
        if does == lied
    ]
    count = len(picked)
    members = {who for _, who, _ in picked}
    # A case is opened by an alarm or a hard rule; who is merely too short is left out and asked nothing.
    named = {
        who
        for row, who, height in picked
        if height < 10 and (row.alarm or row.duplicate or row.repeated or _is_long(row))
    }
    shares = [
        sum(broken(row) for row, _, _ in picked) / count,
        sum(row.alarm and not broken(row) for row, _, _ in picked) / count,
        sum(row.unusual and not broken(row) for row, _, _ in picked) / count,
    ]
    cells = [f"{share:.5f}" if not lied else f"{share:.2f}" for share in shares]
    print(f"| {name} | {count} | {' | '.join(cells)} | {len(named)} of {len(members)} |", flush=True)


def _is_long(row: TriageRow) -> bool:
    return bool(row.out_of_bounds) and row.norm_ratio_micro > 1_000_000


def main(arguments: Sequence[str]) -> None:
    """make FILE [seeds of logistic] [of the cnn], or check [first seed] [seeds]."""
    if arguments[0] == "make":
        simple, deep = (int(each) for each in (*arguments[2:], "5", "1")[:2])
        Path(arguments[1]).write_bytes(pack(founding(simple, deep)))
    else:
        first, seeds = (int(each) for each in (*arguments[1:], "1001", "3")[:2])
        check(range(first, first + seeds))


if __name__ == "__main__":
    main(sys.argv[1:])
