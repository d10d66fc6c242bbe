"""From the words of the command line to a door, and from what happened there to an exit code."""

from __future__ import annotations

import argparse
import difflib
import importlib
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

import p2pfl
from p2pfl.cli import failures
from p2pfl.errors import EXIT_OK, EXIT_USAGE, UserError


@dataclass(frozen=True, slots=True)
class Door:
    """One command. module: has `add_parser(commands)`, whose parser sets `run`, called with the arguments."""

    name: str
    module: str
    help: str


DOORS = (
    Door("testnet", "testnet.cli", "run a whole network on this machine and see whether its claim holds"),
    Door("experiment", "testnet.experiments.cli", "run grids of attacks on networks in memory"),
    Door("node", "p2pfl.cli.node", "prepare and run one peer of a network"),
    Door("model", "p2pfl.cli.model", "bring models out of a network and into one, and try them on data"),
    Door("audit", "p2pfl.cli.audit", "question and verify a history: offline, trusting nobody"),
    Door("explorer", "p2pfl.cli.explorer", "look at a history in a browser"),
    Door("keys", "p2pfl.cli.keys", "make keys, and move their guard"),
    Door("wal", "p2pfl.cli.wal", "read what a stopped node wrote down before it signed"),
    Door("version", "p2pfl.cli.version", "what is installed here"),
)


class Parser(argparse.ArgumentParser):
    """argparse whose complaints have the form of all others: what, because, fix."""

    def error(self, message: str) -> NoReturn:
        """Print the complaint and leave with EXIT_USAGE."""
        fix = f"see `{self.prog} --help`"
        found = re.search(r"invalid choice: '([^']*)' \(choose from (.*)\)", message)
        if found is not None:
            choices = [choice.strip(" '") for choice in found[2].split(",")]
            near = difflib.get_close_matches(found[1], choices, n=1)
            fix = f"did you mean {near[0]}? {fix}" if near else fix
        told = UserError("the command line does not parse", because=message, fix=fix)
        print(told.render(), file=sys.stderr)
        self.exit(EXIT_USAGE)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code; see docs/operators.md for the table."""
    words = list(sys.argv[1:] if argv is None else argv)
    failures.warn_of_the_other_p2pfl()
    return failures.watch(lambda: _run(words), json_wanted="--json" in words)


def parser_for(words: Sequence[str]) -> Parser:
    """The parser that understands these words: with the chosen door open, the others as names in a list."""
    chosen = next((word for word in words if not word.startswith("-")), None)
    parser = Parser(
        prog="p2pfl",
        description=p2pfl.__doc__,
        epilog="Exit codes: 0 done, 1 a claim does not hold or an audit found something, 2 usage, "
        "3 something you can mend, 70 a bug of ours, 130 interrupted.",
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for door in DOORS:
        if door.name == chosen:
            importlib.import_module(door.module).add_parser(commands)
        else:
            commands.add_parser(door.name, help=door.help)
    return parser


def _run(words: list[str]) -> int:
    parser = parser_for(words)
    arguments = parser.parse_args(words)
    run = getattr(arguments, "run", None)
    if run is None:
        parser.print_help()
        return EXIT_USAGE
    code = run(arguments)
    sys.stdout.flush()  # A reader that has gone shows here and not in the interpreter's last breath.
    return EXIT_OK if code is None else int(code)
