"""The simulator's command line."""

from __future__ import annotations

import argparse
import gc
import json
import random
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from tests.sim.liars import LIARS
from tests.sim.world import World

WORLDS_A_COLLECTION = 50
# One part of a long sweep: small enough that progress is seen.
SEEDS_A_PART = 500
KINDS = ("none", "twins", "colluders", *sorted(LIARS))
# Drawn above f: mostly those who really break agreement.
KINDS_ABOVE = ("colluders",) * 6 + ("twins", "parrot", "leader", "forgetful", "usurper", "mutator")


def world_of(
    seed: int,
    members: int,
    *,
    byzantine: str = "any",
    count: int | None = None,
    **parts: Any,
) -> World:
    """The world of one seed. byzantine: a kind, or "any": drawn from the seed. count: how many (f).

    parts: what is put in the place of the core's and the simulator's own (as `World`).
    """
    rng = random.Random(f"{seed} {members} liars")
    most = (members - 1) // 3
    count = most if count is None else count
    kinds = KINDS_ABOVE if count > most else tuple(kind for kind in KINDS if kind != "colluders")
    kind = rng.choice(kinds) if byzantine == "any" else byzantine
    chosen = tuple(rng.sample(range(members), count)) if kind != "none" else ()
    twins = chosen if kind in ("twins", "colluders") else ()
    liars = {} if twins or not chosen else dict.fromkeys(chosen, LIARS[kind])
    return World(
        members=members,
        seed=seed,
        liars=liars,
        twins=twins,
        sides=kind == "colluders",
        **parts,
    )


@dataclass
class Findings:
    """violations: the seeds that break an oracle, by oracle. broken: above f, where agreement broke."""

    violations: dict[str, list[int]] = field(default_factory=dict)
    broken: int = 0
    offences: Counter[str] = field(default_factory=Counter)
    cpu_s: float = 0.0

    def __iadd__(self, other: Findings) -> Findings:
        for oracle, seeds in other.violations.items():
            self.violations.setdefault(oracle, []).extend(seeds)
        self.broken += other.broken
        self.offences += other.offences
        self.cpu_s += other.cpu_s
        return self


def explore(seeds: range, members: int, **how: Any) -> Findings:
    """Run the worlds of these seeds (`how`: as `world_of`)."""
    findings, began_s = Findings(), time.process_time()
    gc.disable()  # A world is one heap of cycles: collected as a whole, between worlds.
    gc.freeze()  # What was there before is no world.
    try:
        for seed in seeds:
            world = world_of(seed, members, **how)
            world.run()
            oracles = world.oracles
            world.dissolve()
            for oracle in oracles.found:
                findings.violations.setdefault(oracle, []).append(seed)
            findings.broken += bool(oracles.broken)
            for kinds in oracles.broken.values():
                findings.offences += kinds
            if seed % WORLDS_A_COLLECTION == 0:
                gc.collect()
    finally:
        gc.enable()
        gc.unfreeze()
    findings.cpu_s = time.process_time() - began_s
    return findings


def sweep(seeds: range, members: int, how: dict[str, Any], *, jobs: int, mutant: str | None) -> Findings:
    """The same in parts, by several processes; each part that is done is told on stderr."""
    parts = [seeds[i : i + SEEDS_A_PART] for i in range(0, len(seeds), SEEDS_A_PART)]
    findings = Findings()
    with ProcessPoolExecutor(max_workers=jobs) as pool:
        for part, found in zip(
            parts, pool.map(_part, [(p, members, how, mutant) for p in parts]), strict=True
        ):
            findings += found
            print(f"seeds up to {part.stop}: {found.violations or 'nothing'}", file=sys.stderr)
    return findings


def _part(work: tuple[range, int, dict[str, Any], str | None]) -> Findings:
    seeds, members, how, mutant = work
    return explore(seeds, members, **how, **bug(mutant))


def bug(name: str | None) -> dict[str, Any]:
    """What a planted bug puts in the place of the core's, by the name of its mutant."""
    if name is None:
        return {}
    from tests.mutants.table import MUTANTS, parts_of  # They use the simulator.

    mutant = next((each for each in MUTANTS if each.name == name), None)
    if mutant is None:
        raise SystemExit(f"no mutant has the name {name!r}; one of: {', '.join(m.name for m in MUTANTS)}")
    return parts_of(mutant)


def tell(seed: int, members: int, **how: Any) -> tuple[dict[str, str], str]:
    """What one seed breaks, and its story."""
    told: list[str] = []
    world = world_of(seed, members, story=told, **how)
    world.run()
    return world.oracles.found, "\n".join(told)


def main(arguments: list[str] | None = None) -> int:
    """Run the seeds, print what was found; exit 1 if anything was."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--members", type=int, default=4, metavar="N")
    parser.add_argument("--seeds", default="0:200", metavar="A:B")
    parser.add_argument("--byzantine", choices=("any", *KINDS), default="any")
    parser.add_argument(
        "--byzantine-count", type=int, default=None, metavar="K", help="default: f; above f: who is named?"
    )
    parser.add_argument("--mutant", default=None, metavar="NAME", help="a bug of tests.mutants, by its name")
    parser.add_argument("--jobs", type=int, default=1, metavar="J", help="so many processes")
    parser.add_argument("--story", action="store_true", help="print the story of every seed")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    first, last = (int(part) for part in options.seeds.split(":"))
    how = {"byzantine": options.byzantine, "count": options.byzantine_count}
    if options.jobs > 1:
        found = sweep(range(first, last), options.members, how, jobs=options.jobs, mutant=options.mutant)
    else:
        found = explore(range(first, last), options.members, **how, **bug(options.mutant))
    told = range(first, last) if options.story else [seeds[0] for seeds in found.violations.values()][:1]
    for seed in told:
        oracles, story = tell(seed, options.members, **how, **bug(options.mutant))
        print(f"seed {seed}: {oracles}", story, sep="\n", file=sys.stderr)
    result: dict[str, Any] = {
        "seeds": last - first,
        "violations": found.violations,
        "seeds_per_second": round((last - first) / found.cpu_s, 1),
    }
    if found.broken:
        result |= {"broken": found.broken, "offences": dict(found.offences)}
    print(
        json.dumps(result) if options.json else "\n".join(f"{key}: {value}" for key, value in result.items())
    )
    return 1 if found.violations else 0


if __name__ == "__main__":
    sys.exit(main())
