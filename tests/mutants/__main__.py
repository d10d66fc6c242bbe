"""Hunt every mutant: with the stories, the sentences of tests/consensus, twins, and seeds."""

from __future__ import annotations

import argparse
import inspect
import itertools
import json
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from consensus.replica import Replica
from tests.consensus import (
    lab,
    test_rules,
    test_rules_bounds,
    test_rules_evidence,
    test_rules_predicates,
    test_rules_proposer,
    test_votes,
)
from tests.consensus.lab import Lab
from tests.mutants.patch import load, using
from tests.mutants.table import MUTANTS, Mutant, parts_of
from tests.sim.__main__ import world_of
from tests.stories.transcripts import differs, stories
from tests.twins.schedules import exhaust, sample

SEEDS = 1000
TWINS = 300
SENTENCES: tuple[ModuleType, ...] = (
    test_rules,
    test_rules_proposer,
    test_rules_bounds,
    test_rules_evidence,
    test_rules_predicates,
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
    for count, seed in enumerate((*mutant.seeds, *range(limit)), start=1):
        world = world_of(seed, mutant.members, count=mutant.liars, **parts)
        try:
            world.run()
        except Exception as error:  # noqa: BLE001 - a mutant may also simply fall over
            return repr(error)[:80], count
        if world.oracles.found:
            return min(world.oracles.found), count
    return None


def story_against(mutant: Mutant) -> str | None:
    """The first story that comes out otherwise."""
    parts = parts_of(mutant)
    core = {"replica": parts["replica"], "audit": parts["audit"]}
    return next((path.stem for path in stories() if differs(path, **core)), None)


def twins_against(mutant: Mutant) -> tuple[str, int] | None:
    """The oracle that breaks in a schedule of one round, or in a sample; and after how many schedules."""
    replica: type[Replica] = parts_of(mutant)["replica"]
    try:
        found = exhaust(rounds=1, replica=replica)
        tried = found.schedules
        if found.broken is None:
            found = sample(4, 1, range(TWINS), replica=replica)
            tried += found.schedules
    except Exception as error:  # noqa: BLE001 - a mutant may also simply fall over
        return repr(error)[:80], 1
    return (found.oracle, tried) if found.oracle else None


def row(mutant: Mutant, limit: int, *, all_ways: bool = True) -> dict[str, Any]:
    """How a mutant died; without `all_ways` the first way is enough."""
    ways: dict[str, Callable[[], Any]] = {
        "story": lambda: story_against(mutant) if mutant.changes else None,
        "sentence": lambda: sentence_against(mutant),
        "twins": lambda: twins_against(mutant) if mutant.changes else None,
        "seeds": lambda: seeds_against(mutant, limit),
    }
    died: dict[str, Any] = dict.fromkeys(ways)
    for way, hunt in ways.items():
        if all_ways or not any(died.values()):
            died[way] = hunt()
    by = [way for way, found in died.items() if found]
    return {"mutant": mutant.name, "killed": bool(by), "by": by, **died}


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
            print(f"{fate:7} {each['mutant']}")
            for way in each["by"]:
                found = each[way]
                how = found if isinstance(found, str) else f"{found[0]} after {found[1]}"
                print(f"        {way:9} {how}")
    return 0 if all(each["killed"] for each in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
