"""Which schedules there are: all of them up to symmetry, or some of them by seed."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass

from consensus.replica import Replica
from tests.twins.stage import Act, Broken, Stage

ROUNDS = 3


@dataclass
class Found:
    """What a search came to. schedules: rounds that were played; states: that differ, after the last."""

    schedules: int = 0
    states: int = 0
    broken: str | None = None
    oracle: str | None = None
    schedule: tuple[Act, ...] = ()


def partitions(size: int) -> Iterator[tuple[int, ...]]:
    """All ways to cut so many processes into sides: restricted growth strings."""
    for sides in itertools.product(range(size), repeat=size):
        if all(side <= max(sides[:i], default=-1) + 1 for i, side in enumerate(sides)):
            yield sides


def play(n: int, twins: tuple[int, ...], acts: tuple[Act, ...], replica: type[Replica]) -> Stage:
    """A stage after these rounds. Raises Broken."""
    stage = Stage(n, twins, (act.leader for act in acts), replica)
    for round_, act in enumerate(acts):
        stage.act(round_, act)
    return stage


def renamings(n: int, twin: int) -> list[tuple[int, ...]]:
    """Processes that may change names: the honest among themselves, the twins with each other."""
    honest = [member for member in range(n) if member != twin]
    found: list[tuple[int, ...]] = []
    for order in itertools.permutations(honest):
        names = dict(zip(honest, order, strict=True))
        for pair in ((twin, n), (n, twin)):
            found.append(tuple((names | {twin: pair[0], n: pair[1]})[place] for place in range(n + 1)))
    return found


def exhaust(
    n: int = 4,
    rounds: int = ROUNDS,
    *,
    replica: type[Replica] = Replica,
    part: tuple[int, int] = (0, 1),
    most: int = 1 << 60,
) -> Found:
    """Every schedule of one pair of twins, up to symmetry; two that leave the same state go on as one.

    part: (i, k) plays the i-th of k parts of the last round. most: stop after so many schedules.
    """
    same, found = renamings(n, n - 1), Found()
    level: list[tuple[Act, ...]] = [()]
    try:
        for round_ in range(rounds):
            if round_ == rounds - 1:
                level = level[part[0] :: part[1]]
            deeper: dict[str, tuple[Act, ...]] = {}
            raw: set[str] = set()
            for before in level:
                start = play(n, (n - 1,), before, replica)
                still = [names for names in same if start.print(names) == start.print(same[0])]
                for acts, stage in _one_more(n, before, still, replica, found):
                    if found.schedules > most:
                        return found
                    plain = repr(stage.print(same[0]))
                    if plain in raw:
                        continue
                    raw.add(plain)
                    state = min(repr(stage.print(names)) for names in same)
                    if deeper.setdefault(state, acts) == acts:
                        stage.heal(round_ + 1)
            level = list(deeper.values())
            found.states = len(level)
    except Broken as broken:
        found.broken, found.oracle = str(broken), broken.oracle
    return found


def _one_more(
    n: int,
    before: tuple[Act, ...],
    still: list[tuple[int, ...]],
    replica: type[Replica],
    found: Found,
) -> Iterator[tuple[tuple[Act, ...], Stage]]:
    """One more round, each that differs: nobody gets a COMMIT; if there was one, all get it, or one process.

    still: the renamings that leave the state before as it is, so that one of their rounds speaks for all.
    """
    everybody = frozenset(range(n + 1))
    for leader, sides in itertools.product(range(n), partitions(n + 1)):
        if any(_renamed(leader, sides, names) < (leader, sides) for names in still):
            continue
        choices = [frozenset[int]()]
        while choices:
            acts = found.schedule = (*before, Act(leader, sides, choices.pop(0)))
            found.schedules += 1
            stage = play(n, (n - 1,), acts, replica)
            yield acts, stage
            if stage.committed and not acts[-1].commits:
                choices = [everybody, *(frozenset({place}) for place in everybody)]


def _renamed(leader: int, sides: tuple[int, ...], names: tuple[int, ...]) -> tuple[int, tuple[int, ...]]:
    """The same round after its processes changed names; sides are numbered by their first process."""
    turned = [0] * len(sides)
    for place, side in enumerate(sides):
        turned[names[place]] = side
    order = {side: i for i, side in enumerate(dict.fromkeys(turned))}
    # Both twins are the one member n-1.
    return min(names[leader], len(sides) - 2), tuple(order[side] for side in turned)


def sample(
    n: int, pairs: int, seeds: range, *, rounds: int = ROUNDS + 1, replica: type[Replica] = Replica
) -> Found:
    """One schedule a seed: any partition into at most three sides, any leader, COMMITs to anybody."""
    found = Found()
    for seed in seeds:
        rng = random.Random(f"{n} {pairs} {seed} twins")
        twins = tuple(rng.sample(range(n), pairs))
        size = n + pairs
        acts: list[Act] = []
        for _ in range(rounds):
            sides = tuple(rng.randrange(rng.choice((1, 2, 2, 3))) for _ in range(size))
            commits = rng.choice((range(size), (), rng.sample(range(size), 1), rng.sample(range(size), 2)))
            acts.append(Act(rng.randrange(n), sides, frozenset(commits)))
        found.schedules, found.schedule = found.schedules + 1, tuple(acts)
        try:
            play(n, twins, tuple(acts), replica).heal(rounds)
        except Broken as broken:
            found.broken, found.oracle = f"seed {seed}: {broken}", broken.oracle
            return found
    return found
