"""`p2pfl experiment`: run a grid, look at what came of it."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from p2pfl.errors import EXIT_OK, UserError

# Something in the grid failed; everything else was run.
EXIT_FAILED = 1


def add_parser(commands: Any) -> None:
    """The command and its verbs."""
    parser = commands.add_parser(
        "experiment",
        help="run grids of attacks on networks in memory, and see who was slashed",
        description="The code of a node's group and council, over a network in memory and a virtual clock.",
    )
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    run = verbs.add_parser(
        "run",
        help="run a grid, or go on with one that was interrupted",
        description="Exit code 0: every cell was run; 1: some failed, and are tried again next time.",
    )
    run.add_argument("grid", type=Path, help="a .toml file, as those in bench/grids")
    run.add_argument("--dir", type=Path, metavar="DIR", help="the results' folder (./results/<grid>)")
    run.add_argument("--jobs", type=int, metavar="N", help="cells at a time (one a processor)")
    run.add_argument("--engine", choices=("local", "ray"), default="local", help="where cells run (local)")
    run.add_argument("--data-dir", type=Path, metavar="DIR", help="where the data set's files lie")
    run.add_argument("--format", choices=("csv", "parquet"), default="csv", help="of rows.* (csv)")
    run.add_argument("--plain", action="store_true", help="no progress bar: a line a cell")
    run.add_argument("--json", action="store_true", help="the summary as one JSON object on stdout")
    run.set_defaults(run=_run)
    for name, text in (
        ("show", "print the tables of results again"),
        ("report", "write report.html again: accuracy, p-values, ROC, who was named when"),
    ):
        verb = verbs.add_parser(name, help=text)
        verb.add_argument("results", type=Path, help="the folder of a run")
        verb.add_argument("--json", action="store_true", help="the summary as one JSON object on stdout")
        verb.set_defaults(run=_show if name == "show" else _report)


def _run(arguments: argparse.Namespace) -> int:
    from testnet.experiments import conduct
    from testnet.experiments.grid import load

    grid = load(arguments.grid)
    jobs = arguments.jobs or os.cpu_count() or 1
    if jobs < 1:
        raise UserError("no cell can run", because=f"--jobs is {jobs}", fix="give 1 or more")
    options = conduct.Options(
        jobs=jobs,
        engine=arguments.engine,
        data_dir=arguments.data_dir,
        parquet=arguments.format == "parquet",
        live=sys.stderr.isatty() and not arguments.plain,
    )
    journal = conduct.run(grid, arguments.dir or Path("results") / grid.name, options)
    _tell(journal, json_wanted=arguments.json)
    return EXIT_FAILED if journal.failed else EXIT_OK


def _show(arguments: argparse.Namespace) -> int:
    from testnet.experiments import journal

    _tell(journal.read(arguments.results), json_wanted=arguments.json)
    return EXIT_OK


def _report(arguments: argparse.Namespace) -> int:
    from testnet.experiments import journal, report

    path = report.write(journal.read(arguments.results))
    print(json.dumps({"report": str(path)}) if arguments.json else path)
    return EXIT_OK


def _tell(journal: Any, *, json_wanted: bool) -> None:
    from testnet.experiments import results

    rows = list(journal.rows.values())
    if not rows:
        raise UserError(
            f"{journal.directory} has no result yet",
            because="no cell has ended"
            + (f"; the first failed: {_first(journal)}" if journal.failed else ""),
            fix="run the grid again, and see what it prints",
        )
    if json_wanted:
        print(json.dumps({**results.as_json(rows), "failed": len(journal.failed)}))
        return
    print(f"{journal.title}\n\n{results.table(rows)}")
    for key, why in journal.failed.items():
        print(f"\ncell {key} failed: {why}")


def _first(journal: Any) -> str:
    return next(iter(journal.failed.values()))
