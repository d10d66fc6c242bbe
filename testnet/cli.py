"""`p2pfl testnet up SCENARIO` and `p2pfl testnet scenarios`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from p2pfl.errors import EXIT_CLAIM_FAILED, EXIT_OK


def add_parser(commands: Any) -> None:
    """Add the command and its verbs. What they do is imported when they are called."""
    parser = commands.add_parser(
        "testnet",
        help="run a whole network on this machine and see whether its claim holds",
        description="A whole network on this machine: every member and council seat its own process.",
    )
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    up = verbs.add_parser(
        "up",
        help="start a network, run a scenario, and judge its claim",
        description="Run a scenario on a new network. Exit code 0: its claim holds; 1: it does not.",
    )
    up.add_argument("scenario", help="a name of `p2pfl testnet scenarios`, or a .toml file of your own")
    up.add_argument("--groups", type=int, metavar="N", help="groups of members (default: the scenario's, 3)")
    up.add_argument("--members", type=int, metavar="N", help="members a group, 4 to 16 (4)")
    up.add_argument("--seats", type=int, metavar="N", help="seats of the council, 1 or 4 to 16 (4)")
    up.add_argument("--rounds", type=int, metavar="N", help="rounds of learning (10)")
    up.add_argument("--seed", type=int, metavar="N", help="chance of the data's split and of learning (1)")
    up.add_argument("--model", metavar="NAME", help="what is learnt: cnn, mlp, logistic, resnet (cnn)")
    up.add_argument(
        "--dataset", metavar="NAME", help="what is learnt from: digits, mnist, cifar10, flowers.csv (digits)"
    )
    up.add_argument("--data-dir", metavar="DIR", help="where it lies, unless it comes with the package")
    up.add_argument("--partition", metavar="NAME", help="how it is shared out: Iid, Shard (Dirichlet)")
    up.add_argument("--initial-model", metavar="FILE", help="safetensors file to start from")
    up.add_argument("--dir", type=Path, metavar="DIR", help="the run's folder (./runs/<scenario>-<time>)")
    up.add_argument("--no-chain", action="store_true", help="no EVM chain: nobody can be slashed")
    up.add_argument("--stay", action="store_true", help="keep the network and its explorer up until Ctrl-C")
    up.add_argument("--plain", action="store_true", help="no table: the story as plain lines")
    up.add_argument("--log-level", default="info", metavar="LEVEL", help="of the nodes' own logs (info)")
    up.add_argument(
        "--json", action="store_true", help="the result as one JSON object, the last line of stdout"
    )
    up.set_defaults(run=_up)
    listing = verbs.add_parser("scenarios", help="what can be run, and what each claims")
    listing.add_argument("--json", action="store_true", help="the same as JSON")
    listing.set_defaults(run=_scenarios)


def _up(arguments: argparse.Namespace) -> int:
    from testnet.scenarios import load

    scenario = load(
        arguments.scenario,
        groups=arguments.groups,
        members=arguments.members,
        seats=arguments.seats,
        rounds=arguments.rounds,
        seed=arguments.seed,
        model=arguments.model,
        dataset=arguments.dataset,
        data_dir=None if arguments.data_dir is None else str(Path(arguments.data_dir).resolve()),
        partition=arguments.partition,
        initial_model=arguments.initial_model,
        chain=False if arguments.no_chain else None,
    )
    from testnet.up import Options, up  # Only for a scenario that can be run: it brings half of the node.

    # With --json, stdout belongs to the result alone; the story goes to stderr.
    out = sys.stderr if arguments.json else sys.stdout
    live = False if arguments.plain or arguments.json else None
    options = Options(log_level=arguments.log_level, stay=arguments.stay)
    result = up(scenario, arguments.dir, options=options, out=out, live=live)
    if arguments.json:
        print(json.dumps(result.as_json()))
    return EXIT_OK if result.held else EXIT_CLAIM_FAILED


def _scenarios(arguments: argparse.Namespace) -> int:
    from testnet.scenarios import known, load

    found = [load(name) for name in known()]
    if arguments.json:
        print(json.dumps([{"name": each.name, "title": each.title, "claim": each.claim} for each in found]))
        return EXIT_OK
    for each in found:
        print(f"{each.name}: {each.title}\n    {each.claim}\n")
    print("p2pfl testnet up NAME")
    return EXIT_OK
