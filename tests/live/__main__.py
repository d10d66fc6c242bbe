"""`python -m tests.live faults --members N --json`, and `python -m tests.live list`."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import trio

from tests.live import faults as _faults  # noqa: F401 (these fill the table)
from tests.live import faults_around as _around  # noqa: F401
from tests.live import faults_memory as _memory  # noqa: F401
from tests.live.run import run
from tests.live.switch import Switch
from tests.live.table import LONG, SHORT, TABLE


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0: everything held; 1: there are findings."""
    parser = argparse.ArgumentParser(prog="python -m tests.live", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("list", help="the faults, and what must hold after each")
    faults = verbs.add_parser("faults", help="do them to a network of real processes")
    faults.add_argument("--members", type=int, default=4, metavar="N", help="4 to 16 (4)")
    faults.add_argument("--only", action="append", choices=sorted(TABLE), help="this fault; may be repeated")
    faults.add_argument("--seed", type=int, default=1, metavar="N", help="who, and when (1)")
    faults.add_argument("--short", action="store_true", help="fewer kills, 5 s instead of 30")
    faults.add_argument("--relays", action="store_true", help="no namespaces, though one could have them")
    faults.add_argument("--dir", type=Path, metavar="DIR", help="where the run lies (a new temporary folder)")
    faults.add_argument("--json", action="store_true", help="the result as one JSON object, the last line")
    options = parser.parse_args(arguments)
    if options.verb == "list":
        for each in TABLE.values():
            print(f"{each.name}: {each.does}\n    afterwards: {each.holds}")
        return 0
    chosen = [each for name, each in TABLE.items() if name in (options.only or TABLE)]
    directory = (options.dir or Path(tempfile.mkdtemp(prefix="p2pfl-live-"))).resolve()
    directory.mkdir(parents=True, exist_ok=True)
    form = SHORT if options.short else LONG
    namespaces = not options.relays and Switch.why_not() is None
    result = trio.run(
        lambda: run(
            chosen,
            members=options.members,
            seed=options.seed,
            form=form,
            directory=directory,
            namespaces=namespaces,
        )
    )
    told = result.as_json()
    print(json.dumps(told) if options.json else "\n".join(f"{key}: {value}" for key, value in told.items()))
    return 0 if result.held else 1


if __name__ == "__main__":
    sys.exit(main())
