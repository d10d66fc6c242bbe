"""`python -m bench WHAT`: one measurement (`--help` lists them), as words or as one JSON object."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from bench import (
    aggregators,
    blobs,
    check,
    connect,
    consensus,
    idle,
    messages,
    replay,
    rounds,
    sync,
    verify,
    wire,
)
from p2pfl.cli import failures


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    commands = parser.add_subparsers(title="measurements", metavar="WHAT", required=True)
    for add in (
        rounds.add_parsers,
        consensus.add_parser,
        verify.add_parser,
        blobs.add_parser,
        sync.add_parser,
        wire.add_parser,
        idle.add_parser,
        connect.add_parser,
        messages.add_parser,
        aggregators.add_parser,
        check.add_parser,
        replay.add_parser,
    ):
        add(commands)
    for each in commands.choices.values():
        each.add_argument("--json", action="store_true", help="one JSON object, the last line of stdout")
    arguments = parser.parse_args()
    return failures.watch(lambda: _measure(arguments), json_wanted=arguments.json)


def _measure(arguments: argparse.Namespace) -> int:
    figures: dict[str, Any] = arguments.measure(arguments)
    if arguments.json:
        print(json.dumps(figures))
    else:
        for name, value in figures.items():
            print(f"{name:<22} {value if not isinstance(value, dict) else json.dumps(value)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
