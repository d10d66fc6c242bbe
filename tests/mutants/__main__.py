"""Hunt every mutant: first with the sentences of tests/consensus, then with seeds."""

from __future__ import annotations

import argparse
import inspect
import itertools
import json
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from tests.consensus import (
    lab,
    test_rules,
    test_rules_bounds,
    test_rules_evidence,
    test_rules_proposer,
    test_votes,
)
from tests.consensus.lab import Lab
from tests.mutants.patch import load, using
from tests.mutants.table import MUTANTS, Mutant, parts_of
from tests.sim.__main__ import world_of

SEEDS = 1000
SENTENCES: tuple[ModuleType, ...] = (
    test_rules,
    test_rules_proposer,
    test_rules_bounds,
    test_rules_evidence,
    test_votes,
)


def calls(test: Callable[..., None]) -> Iterator[dict[str, Any]]:
    """The arguments of each call that pytest would make of a test with `lab` and parametrize."""
    choices: list[list[dict[str, Any]]] = [[{}]]
    for mark in getattr(test, "pytestmark", []):
        names, values = mark.args
        names = names.split(",") if isinstance(names, str) else names
        rows = [row if len(names) > 1 else (row,) for row in values]
        choices.append([dict(zip(names, row, strict=True)) for row in rows])
    for chosen in itertools.product(*choices):
        arguments = {name: value for each in chosen for name, value in each.items()}
        if "lab" in inspect.signature(test).parameters:
            arguments["lab"] = Lab()
        yield arguments


def sentence_against(mutant: Mutant) -> str | None:
    """The first sentence that does not hold for this mutant."""
    if not mutant.changes:
        return None
    with using(load(mutant.changes), lab, *SENTENCES):
        for module in SENTENCES:
            for name, test in list(vars(module).items()):
                if not name.startswith("test_"):
                    continue
                try:
                    for arguments in calls(test):
                        test(**arguments)
                except (Exception, pytest_failure()):  # noqa: BLE001 - whatever it is, the sentence fails
                    return name
    return None


def pytest_failure() -> type[BaseException]:
    """What `pytest.raises` throws when nothing was raised: no Exception, so that nobody swallows it."""
    from _pytest.outcomes import Failed

    return Failed


def seeds_against(mutant: Mutant, limit: int) -> tuple[str, int] | None:
    """The first oracle that a seed breaks, and after how many seeds."""
    parts = parts_of(mutant)
    for seed in range(limit):
        world = world_of(seed, mutant.members, count=mutant.liars, **parts)
        try:
            world.run()
        except Exception as error:  # noqa: BLE001 - a mutant may also simply fall over
            return repr(error)[:80], seed + 1
        if world.oracles.found:
            return min(world.oracles.found), seed + 1
    return None


def row(mutant: Mutant, limit: int, *, all_ways: bool = True) -> dict[str, Any]:
    """How a mutant died; without `all_ways` the first way is enough."""
    sentence = sentence_against(mutant)
    seeds = seeds_against(mutant, limit) if all_ways or sentence is None else None
    return {
        "mutant": mutant.name,
        "killed": sentence is not None or seeds is not None,
        "sentence": sentence,
        "oracle": seeds and seeds[0],
        "seeds": seeds and seeds[1],
    }


def main(arguments: list[str] | None = None) -> int:
    """Print a row for each; exit 1 if one lives."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("--seeds", type=int, default=SEEDS, metavar="N", help="at most so many for each")
    parser.add_argument("--only", metavar="TEXT", default="", help="mutants with this in their name")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    rows = [row(mutant, options.seeds) for mutant in MUTANTS if options.only in mutant.name]
    for each in rows:
        if options.json:
            print(json.dumps(each))
        else:
            fate = "killed" if each["killed"] else "ALIVE"
            by = f"{each['oracle']} after {each['seeds']} seeds" if each["oracle"] else "no seed"
            print(f"{fate:7} {each['mutant']:50} {by:30} {each['sentence'] or ''}")
    return 0 if all(each["killed"] for each in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
