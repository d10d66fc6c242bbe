"""`python -m tests.live faults | hostile | netem | churn | soak | list`; `... VERB --help` says more."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import trio

from tests.live import faults as _dying  # noqa: F401 (these fill the table)
from tests.live import faults_around as _around  # noqa: F401
from tests.live import faults_memory as _memory  # noqa: F401
from tests.live.churn import Soak, churn
from tests.live.hostile import TABLE as ATTACKS
from tests.live.hostile import Hostile, hostile
from tests.live.line import Line
from tests.live.lines import Lines
from tests.live.netem import SLEEP_S, Conditions, netem
from tests.live.run import run
from tests.live.switch import Switch
from tests.live.table import LONG, SHORT, TABLE


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0: everything held; 1: there are findings."""
    parser = argparse.ArgumentParser(prog="python -m tests.live", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("list", help="the faults, and what must hold after each").set_defaults(does=_list)
    faults = verbs.add_parser("faults", help="do them to a network of real processes")
    faults.add_argument("--only", action="append", choices=sorted(TABLE), help="this fault; may be repeated")
    faults.add_argument("--short", action="store_true", help="fewer kills, 5 s instead of 30")
    faults.add_argument("--relays", action="store_true", help="no namespaces, though one could have them")
    faults.set_defaults(does=_faults)
    conditions = verbs.add_parser("netem", help="long, lossy, slow lines; one moves, one sleeps")
    conditions.add_argument("--minutes", type=float, default=3.0, metavar="M", help="steady rounds (3)")
    conditions.add_argument("--sleep", type=float, default=SLEEP_S, metavar="S", help="the laptop's (60)")
    conditions.add_argument("--round-trip-ms", type=float, default=100.0, metavar="MS", help="(100)")
    conditions.add_argument("--loss-percent", type=float, default=1.0, metavar="P", help="each way (1)")
    conditions.add_argument("--mbit", type=float, default=20.0, metavar="R", help="each node, each way (20)")
    conditions.set_defaults(does=_netem)
    for name, minutes, members in (("churn", 3.0, 4), ("soak", 60.0, 12)):
        coming = verbs.add_parser(name, help=f"members come and go for {minutes:g} minutes")
        coming.add_argument("--minutes", type=float, default=minutes, metavar="M", help=f"({minutes:g})")
        coming.add_argument("--every", type=float, default=20.0, metavar="S", help="a turn of the churn (20)")
        coming.add_argument("--relays", action="store_true", help="no namespaces, though one could have them")
        coming.set_defaults(does=_churn, members=members)
    attacked = verbs.add_parser("hostile", help="a peer with a member's key breaks every rule it can")
    attacked.add_argument("--minutes", type=float, default=4.0, metavar="M", help="of attacks (4)")
    attacked.add_argument(
        "--only", action="append", choices=sorted(ATTACKS), help="this one; may be repeated"
    )
    attacked.add_argument("--seed", type=int, default=1, metavar="N", help="what is random (1)")
    attacked.add_argument(
        "--dir", type=Path, metavar="DIR", help="where the run lies (a new temporary folder)"
    )
    attacked.add_argument("--json", action="store_true", help="the result as one JSON object, the last line")
    attacked.set_defaults(does=_hostile)
    for name in ("faults", "netem", "churn", "soak"):
        _common(verbs.choices[name])
    options = parser.parse_args(arguments)
    return options.does(options)


def _common(parser: argparse.ArgumentParser) -> None:
    members = parser.get_default("members") or 4
    parser.add_argument("--members", type=int, default=members, metavar="N", help=f"4 to 16 ({members})")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="who, and when (1)")
    parser.add_argument("--dir", type=Path, metavar="DIR", help="where the run lies (a new temporary folder)")
    parser.add_argument("--json", action="store_true", help="the result as one JSON object, the last line")
    if parser.prog.rpartition(" ")[2] != "faults":
        parser.add_argument("--model", choices=("logistic", "cnn", "mlp"), default="logistic")


def _list(_: argparse.Namespace) -> int:
    for each in TABLE.values():
        print(f"{each.name}: {each.does}\n    afterwards: {each.holds}")
    return 0


def _faults(options: argparse.Namespace) -> int:
    chosen = [each for name, each in TABLE.items() if name in (options.only or TABLE)]
    result = trio.run(
        lambda: run(
            chosen,
            members=options.members,
            seed=options.seed,
            form=SHORT if options.short else LONG,
            directory=_directory(options),
            namespaces=_namespaces(options),
        )
    )
    return _told(options, result.as_json())


def _netem(options: argparse.Namespace) -> int:
    because = Lines.why_not()
    if because is not None:
        print(f"long lines cannot be had here: {because}", file=sys.stderr)
        return 1
    line = Line(options.round_trip_ms / 1000, options.loss_percent / 100, int(options.mbit * 1e6))
    conditions = Conditions(
        options.members, options.seed, options.model, line, _directory(options), options.minutes
    )
    return _told(options, trio.run(lambda: netem(conditions, sleep_s=options.sleep)))


def _hostile(options: argparse.Namespace) -> int:
    chosen = tuple(name for name in ATTACKS if name in (options.only or ATTACKS))
    run = Hostile(options.seed, _directory(options), options.minutes, chosen)
    return _told(options, trio.run(lambda: hostile(run)))


def _churn(options: argparse.Namespace) -> int:
    soak = Soak(
        options.members,
        options.seed,
        options.model,
        _directory(options),
        options.minutes,
        options.every,
        _namespaces(options),
    )
    return _told(options, trio.run(lambda: churn(soak)))


def _directory(options: argparse.Namespace) -> Path:
    directory = (options.dir or Path(tempfile.mkdtemp(prefix="p2pfl-live-"))).resolve()
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def _namespaces(options: argparse.Namespace) -> bool:
    return not options.relays and Switch.why_not() is None


def _told(options: argparse.Namespace, result: dict[str, Any]) -> int:
    print(
        json.dumps(result) if options.json else "\n".join(f"{key}: {value}" for key, value in result.items())
    )
    return 0 if result["held"] else 1


if __name__ == "__main__":
    sys.exit(main())
