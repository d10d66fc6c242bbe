"""The twins' command line: all schedules of four members, or a sample of more members by seed."""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict
from typing import Any

from tests.sim.__main__ import bug
from tests.twins.schedules import ROUNDS, exhaust, sample


def main(arguments: list[str] | None = None) -> int:
    """Search, print what was found; exit 1 if anything was."""
    parser = argparse.ArgumentParser(prog="python -m tests.twins", description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS, metavar="R")
    parser.add_argument("--part", default="0/1", metavar="I/K", help="the I-th of K parts of the last round")
    parser.add_argument(
        "--members", type=int, default=4, metavar="N", help="above 4: sampled, f pairs of twins"
    )
    parser.add_argument("--seeds", default=None, metavar="A:B", help="sampled: one schedule a seed")
    parser.add_argument("--mutant", default=None, metavar="NAME", help="a bug of tests.mutants, by its name")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    parts = bug(options.mutant)
    core = {"replica": parts["replica"]} if parts else {}
    began_s = time.process_time()
    if options.seeds is None and options.members == 4:
        i, k = (int(number) for number in options.part.split("/"))
        found = exhaust(4, options.rounds, part=(i, k), **core)
    else:
        first, last = (int(number) for number in (options.seeds or "0:1000").split(":"))
        pairs = (options.members - 1) // 3
        found = sample(options.members, pairs, range(first, last), rounds=options.rounds + 1, **core)
    result: dict[str, Any] = asdict(found)
    result["schedule"] = [str(act) for act in found.schedule] if found.broken else []
    result["cpu_s"] = round(time.process_time() - began_s, 1)
    print(
        json.dumps(result) if options.json else "\n".join(f"{key}: {value}" for key, value in result.items())
    )
    return 1 if found.broken else 0


if __name__ == "__main__":
    sys.exit(main())
