"""A network that really learns, on paper: training, bodies, council, cases, verdicts. No socket, no clock.

Training by `p2pfl.learn`, everything else by `p2pfl.rules`: for tests that ask who is named and who is not.
`python -m tests.rules.training SEEDS` prints the table of docs/detection.md.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from consensus.types import MemberId
from p2pfl.genesis import COUNCIL, Rules
from p2pfl.learn.datasets import Dataset, load_dataset, root_set
from p2pfl.learn.models import initial_parameters, layout
from p2pfl.learn.partitions import partition
from p2pfl.learn.train import TrainJob, evaluate, train
from p2pfl.params import Base, Update, blob_id, delta_of, quantize
from p2pfl.records import BaseRef, Case
from p2pfl.rules.audits import cases_without_updates
from p2pfl.rules.cases import derive_case
from p2pfl.rules.council import Comparison, CouncilInputs, CouncilState, compare, derive_council, suspicions
from p2pfl.rules.defaults import DEFAULT_RULES
from p2pfl.rules.validate import Derived, derive_group_body

from .world import World, world

GROUPS, MEMBERS = 3, 4
ROOT_SAMPLES = 100
HONEST_PPM, FAKED_PPM = 0, 900_000
# Whom chance draws says nothing about whom the rules suspect.
SUSPICIONS_ONLY = replace(DEFAULT_RULES, audit_share_ppm=0)


@dataclass
class Run:
    """What happened. named: round, cause and accused of each case with an accused."""

    flippers: tuple[MemberId, ...]
    accuracy: list[float] = field(default_factory=list)
    named: list[tuple[int, str, MemberId]] = field(default_factory=list)
    outcomes: list[str] = field(default_factory=list)
    fetched: int = 0
    apart: int = 0

    @property
    def first(self) -> int | None:
        """The first round in which a flipper was named."""
        return min((r for r, _, member in self.named if member in self.flippers), default=None)

    @property
    def wrong(self) -> list[tuple[int, str, MemberId]]:
        """Cases against honest members."""
        return [entry for entry in self.named if entry[2] not in self.flippers]


class Learning:
    """One run, round by round."""

    def __init__(
        self, seed: int, flips: Mapping[int, float], *, rules: Rules, alpha: float, epochs: int, model: str
    ) -> None:
        whole = load_dataset("digits")
        self._root_x, self._root_y, self._data = root_set(whole, ROOT_SAMPLES, seed)
        self._parts = partition(self._data.train_y, "Dirichlet", GROUPS * MEMBERS, alpha=alpha, seed=seed)
        tensors = layout(model, self._data.input_shape, self._data.classes)
        values = initial_parameters(model, self._data.input_shape, self._data.classes, seed)
        self._base = Base(tensors, values)
        there = world(groups=GROUPS, members=MEMBERS, rules=rules, layout=tensors)
        initial = replace(there.genesis, initial_base_id=blob_id(self._base.to_bytes()))
        self.there = World(initial, there.secrets, self._base)
        self._state = CouncilState.genesis(initial)
        self._root: Update | None = None
        self._previous: dict[str, Update] = {}
        self._model, self._epochs = model, epochs
        self._all = [member for g in initial.groups for member in self.there.members(g.name)]
        self._scale = {self._all[index]: scale for index, scale in flips.items()}
        self.run = Run(tuple(self._scale))

    def round(self, height: int) -> None:
        """One height of every group and of the council."""
        there, state = self.there, self._state
        updates = {g.name: self._updates(g.name, height) for g in there.genesis.groups}
        rounds = [(name, self._body(name, height, of_group)) for name, of_group in updates.items()]
        inputs = there.council_inputs(state, rounds, base_values=self._base, root_update=self._root)
        comparison = compare(inputs)
        self.run.apart += sum(row.flagged for row in comparison.rows)
        root = self._update(
            comparison.base, self._root_x, self._root_y, height, bytes(20), comparison.exponents
        )
        derived = derive_council(
            inputs,
            comparison,
            root_update_id=blob_id(root.to_bytes()),
            cases=self._cases(inputs, comparison, updates),
            measurements=self._measurements(),
            certificates=[there.certified(verdict) for verdict in state.due_verdicts()],
        )
        header, _ = there.decide(COUNCIL, derived.body)
        self._state, self._base, self._root = state.apply(header, derived.body), derived.base, root
        zero = MemberId(bytes(20))
        self.run.named += [(height, c.cause, c.accused) for c in derived.body.cases if c.accused != zero]
        self.run.outcomes += [each.outcome for each in derived.body.outcomes]
        data = self._data
        _, accuracy = evaluate(
            self._model, data.input_shape, data.classes, self._base.values, data.test_x, data.test_y
        )
        self.run.accuracy.append(accuracy)

    def _updates(self, name: str, height: int) -> dict[MemberId, Update]:
        found: dict[MemberId, Update] = {}
        for member in self.there.members(name):
            picked = self._parts[self._all.index(member)]
            x, y = self._data.train_x[picked], self._data.train_y[picked]
            found[member] = self._update(self._base, x, y, height, member, self._state.exponents)
        return found

    def _update(
        self, base: Base, x: np.ndarray, y: np.ndarray, height: int, member: bytes, exponents: Sequence[int]
    ) -> Update:
        data: Dataset = self._data
        job = TrainJob(
            self._model, data.input_shape, data.classes, base.values, x, y,
            seed=self.there.genesis.round_seed(self.there.genesis.group_id(COUNCIL), 0, height),
            member=member, epochs=self._epochs, keep_states=False,
        )  # fmt: skip
        delta = delta_of(base, train(job).parameters)
        scale = self._scale.get(MemberId(member), None)
        return quantize(delta if scale is None else -scale * delta, base.layout, exponents)[0]

    def _body(self, name: str, height: int, updates: Mapping[MemberId, Update]) -> Derived:
        base_id = blob_id(self._base.to_bytes())
        derived = derive_group_body(
            self.there.inputs(
                name,
                updates,
                height=height,
                samples={member: len(self._parts[self._all.index(member)]) for member in updates},
                base_values=self._base,
                base=BaseRef(base_id, self._state.height, self._state.block_id, ()),
                previous_aggregate=self._previous.get(name),
                root_update=self._root,
                standings=self._state.standings(self.there.genesis.group_id(name), 0),
                pool=self._state.pool,
            )
        )
        self._previous[name] = derived.aggregate
        return derived

    def _cases(
        self,
        inputs: CouncilInputs,
        comparison: Comparison,
        updates: Mapping[str, Mapping[MemberId, Update]],
    ) -> list[Case]:
        found: list[Case] = []
        for suspicion in suspicions(inputs, comparison):
            name = self.there.genesis.group_names[suspicion.block.header.group_id]
            wanted = suspicion.wanted()
            self.run.fetched += len(wanted)
            case = derive_case(suspicion, {member: updates[name][member] for member, _ in wanted})
            found += [case] if case is not None else []
        deadline_height = inputs.height + self.there.genesis.rules.case_blocks
        return [*found, *cases_without_updates(inputs.state, inputs.counted, inputs.bodies, deadline_height)]

    def _measurements(self):
        """Every seat replays at once: who flipped cannot show a training that leads to its update."""
        return [
            self.there.measurement(
                seat,
                entry.case.case_id,
                entry.case.accused,
                FAKED_PPM if entry.case.accused in self._scale else HONEST_PPM,
            )
            for entry in self._state.open_cases()
            for seat in self.there.members(COUNCIL)
        ]


def learn(
    seed: int,
    flips: Mapping[int, float],
    *,
    rounds: int = 10,
    rules: Rules = SUSPICIONS_ONLY,
    alpha: float = 0.5,
    epochs: int = 2,
    model: str = "cnn",
) -> Run:
    """Run it. flips: index among all members (in the order of the groups) to the factor of its flip."""
    learning = Learning(seed, flips, rules=rules, alpha=alpha, epochs=epochs, model=model)
    for height in range(rounds):
        learning.round(height)
    return learning.run


def main(seeds: int) -> None:
    """One row a factor: how soon the flipper is named, who else is, what is fetched, how well it learns."""
    print("| flip | round named: how often | wrong cases | updates fetched | groups apart | accuracy |")
    print("|---|---|---|---|---|---|")
    for scale in (0, 1, 2, 3):
        runs = [learn(s, {s * 7 % 12: float(scale)} if scale else {}) for s in range(1, seeds + 1)]
        firsts = [run.first for run in runs if run.first is not None]
        named = ", ".join(f"{r}: {firsts.count(r)}" for r in sorted(set(firsts))) or "-"
        wrong, apart = sum(len(run.wrong) for run in runs), sum(run.apart for run in runs)
        blocks = GROUPS * sum(len(run.accuracy) for run in runs)
        fetched = sum(run.fetched for run in runs)
        last = [run.accuracy[-1] for run in runs]
        cells = (
            f"x -{scale}" if scale else "none",
            named,
            str(wrong),
            f"{fetched} for {blocks} blocks",
            f"{apart} of {blocks}",
            f"{sum(last) / len(last):.3f}, least {min(last):.3f}",
        )
        print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 12)
