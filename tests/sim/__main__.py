"""The simulator's command line."""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections import defaultdict

from consensus.replica import Replica
from tests.sim.liars import LIARS
from tests.sim.member import Member
from tests.sim.world import World

KINDS = ("none", "twins", *sorted(LIARS))


def world_of(
    seed: int,
    members: int,
    *,
    byzantine: str = "any",
    count: int | None = None,
    replica: type[Replica] = Replica,
    member: type[Member] = Member,
    story: list[str] | None = None,
) -> World:
    """The world of one seed. byzantine: a kind, or "any": drawn from the seed. count: how many (f)."""
    rng = random.Random(f"{seed} {members} liars")
    kind = rng.choice(KINDS) if byzantine == "any" else byzantine
    most = (members - 1) // 3 if count is None else count
    chosen = tuple(rng.sample(range(members), most)) if kind != "none" else ()
    twins = chosen if kind == "twins" else ()
    liars = {} if kind in ("none", "twins") else dict.fromkeys(chosen, LIARS[kind])
    return World(
        members=members, seed=seed, liars=liars, twins=twins, replica=replica, member=member, story=story
    )


def violations(
    seeds: range,
    members: int,
    *,
    byzantine: str = "any",
    count: int | None = None,
    replica: type[Replica] = Replica,
) -> dict[str, list[int]]:
    """The seeds that break an oracle, by oracle."""
    found: dict[str, list[int]] = defaultdict(list)
    for seed in seeds:
        world = world_of(seed, members, byzantine=byzantine, count=count, replica=replica)
        world.run()
        for oracle in world.oracles.found:
            found[oracle].append(seed)
    return dict(found)


def main(arguments: list[str] | None = None) -> int:
    """Run the seeds, print what was found; exit 1 if anything was."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--members", type=int, default=4, metavar="N")
    parser.add_argument("--seeds", default="0:200", metavar="A:B")
    parser.add_argument("--byzantine", choices=("any", *KINDS), default="any")
    parser.add_argument("--byzantine-count", type=int, default=None, metavar="K", help="default: f")
    parser.add_argument("--story", action="store_true", help="print the story of every seed")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    first, last = (int(part) for part in options.seeds.split(":"))
    started = time.process_time()
    found = violations(
        range(first, last), options.members, byzantine=options.byzantine, count=options.byzantine_count
    )
    rate = (last - first) / (time.process_time() - started)
    told = range(first, last) if options.story else [seeds[0] for seeds in found.values()][:1]
    for seed in told:
        story: list[str] = []
        world = world_of(
            seed, options.members, byzantine=options.byzantine, count=options.byzantine_count, story=story
        )
        world.run()
        print(f"seed {seed}: {world.oracles.found}", *story, sep="\n", file=sys.stderr)
    result = {"seeds": last - first, "violations": found, "seeds_per_second": round(rate, 1)}
    print(
        json.dumps(result) if options.json else "\n".join(f"{key}: {value}" for key, value in result.items())
    )
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
