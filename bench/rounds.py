"""A round of a real network against the same job as a plain loop; and how late the event loops run meanwhile.

Eight members in two groups of four and a council of one seat, no chain: digits, shared out evenly, one local
epoch, ten rounds. The network is `testnet`'s, with real processes on real sockets; the floor is `floor`, on
the very samples that the members had, right after the network has ended. Knows no room of the node.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from p2pfl.learn.datasets import load_dataset
from testnet.launch import EVENTS_FILE, Options
from testnet.result import Result
from testnet.scenarios import Scenario, Shape
from testnet.up import up

FLOOR_S_MAX = 300
# Steps of a round, in their order, as nodes tell them.
STEPS = ("wait", "train", "reveal", "propose", "prepare", "commit")
MB = 1_000_000

# The job of every system that was measured on it: SGD with momentum, one local epoch.
TASK = {"local_epochs": 1, "batch_size": 32, "learning_rate_micro": 100_000, "momentum_micro": 900_000}

Event = dict[str, Any]


def add_parsers(commands: Any) -> None:
    """Add `round` and `lag`."""
    for name, measure, help_ in (
        ("round", round_, "seconds, bytes and memory of a round, beside a plain loop"),
        ("lag", lag, "how late event loops wake while members train and blocks are checked"),
    ):
        parser = commands.add_parser(name, help=help_, description=__doc__)
        parser.add_argument("--model", choices=("cnn", "mlp"), default="cnn" if name == "round" else "mlp")
        parser.add_argument("--rounds", type=int, default=10, metavar="N")
        parser.add_argument("--seed", type=int, default=1, metavar="N")
        parser.add_argument("--dir", type=Path, metavar="DIR", help="keep the run there")
        parser.set_defaults(measure=measure)


def round_(arguments: argparse.Namespace) -> dict[str, Any]:
    """The figures of `bench round`."""
    with tempfile.TemporaryDirectory() as folder:
        result = _run(arguments, Path(folder))
        members = sorted((result.directory / "nodes").glob("g*/data.npz"))
        floor = _floor(arguments, Path(folder), members)
        events = _events(result)
        told = result.as_json()
        return {
            "model": arguments.model,
            "parameters": floor["parameters"],
            "held": result.held,
            "broken": result.broken,
            "round_seconds": _figure(_round_seconds(events)),
            "train_seconds": _figure(_train_seconds(events)),
            "commit_seconds": _figure(_commit_seconds(events)),
            "steps_seconds": _steps_seconds(events),
            "floor_round_seconds": _figure(floor["round_seconds"]),
            "times_the_floor": round(median(_round_seconds(events)) / median(floor["round_seconds"]), 1),
            "accuracy": told["accuracy"],
            "floor_accuracy": floor["accuracy"],
            "wire_bytes_a_round": {
                protocol: sent // arguments.rounds for protocol, sent in told["wire_bytes"].items()
            },
            "start_seconds": told["start_seconds"],
            "peak_rss_mb": told["peak_rss_mb"],
            "peak_pss_mb": told["peak_pss_mb"],
            "floor_peak_rss_mb": floor["peak_rss_mb"],
            "processes": result.memory.processes,
        }


def lag(arguments: argparse.Namespace) -> dict[str, Any]:
    """The figures of `bench lag`: each node tells a p99 every two seconds; the middle and the worst."""
    with tempfile.TemporaryDirectory() as folder:
        result = _run(arguments, Path(folder))
        told = [event["fields"] for event in _events(result) if event["kind"] == "lag"]
        p99s = sorted(fields["p99_ms"] for fields in told)
        return {
            "model": arguments.model,
            "held": result.held,
            "periods": len(p99s),
            "lag_p99_ms": {"median": median(p99s), "p95": p99s[int(len(p99s) * 0.95)], "worst": p99s[-1]},
            "lag_max_ms": max(fields["max_ms"] for fields in told),
        }


def _run(arguments: argparse.Namespace, folder: Path) -> Result:
    """Run the network; its story goes to stderr."""
    shape = Shape(
        groups=2, groups_min=2, members=4, seats=1, rounds=arguments.rounds, model=arguments.model,
        dataset="digits", partition="Iid", seed=arguments.seed, chain=False,
    )  # fmt: skip
    scenario = Scenario(
        name=f"bench-{arguments.model}",
        title="Eight honest members",
        claim="Every round is decided.",
        culprits=(),
        holds={"all_rounds": True},
        network=shape,
        task=TASK,
    )
    return up(
        scenario,
        arguments.dir or folder / "run",
        options=Options(explorer=False),
        out=sys.stderr,
        live=False,
    )


def _floor(arguments: argparse.Namespace, folder: Path, members: Iterable[Path]) -> dict[str, Any]:
    """The plain loop on the same samples, in a process of its own, after the network has ended."""
    whole = load_dataset("digits")
    test = folder / "test.npz"
    np.savez(test, x=whole.test_x, y=whole.test_y)
    command = [
        sys.executable,
        "-m",
        "bench.floor",
        "--model",
        arguments.model,
        "--rounds",
        str(arguments.rounds),
    ]
    done = subprocess.run(
        [*command, "--seed", str(arguments.seed), "--test", str(test), *map(str, members)],
        stdout=subprocess.PIPE,
        text=True,
        timeout=FLOOR_S_MAX,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def _events(result: Result) -> list[Event]:
    lines = (result.directory / EVENTS_FILE).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def _figure(seconds: list[float]) -> dict[str, float]:
    ascending = sorted(seconds)
    return {
        "median": round(median(ascending), 4),
        "p95": round(ascending[min(len(ascending) - 1, int(0.95 * len(ascending)))], 4),
        "max": round(ascending[-1], 4),
    }


def _first(events: list[Event], kind: str, **wanted: str) -> dict[tuple[str, int], float]:
    """When a group's member was the first to tell this of a height, by (group, height)."""
    found: dict[tuple[str, int], float] = {}
    for event in events:
        fields = event["fields"]
        if event["kind"] == kind and fields["group"] != "council":
            if all(fields.get(name) == value for name, value in wanted.items()):
                key = (fields["group"], fields["height"])
                found[key] = min(found.get(key, event["at_s"]), event["at_s"])
    return found


def _round_seconds(events: list[Event]) -> list[float]:
    """From one decision of a group to its next: everything that a round needs is in it."""
    decided = _first(events, "decided")
    return [
        at - decided[group, height - 1]
        for (group, height), at in decided.items()
        if (group, height - 1) in decided
    ]


def _train_seconds(events: list[Event]) -> list[float]:
    """The slowest member's training, by group and height."""
    group_of = {event["name"]: event["fields"]["group"] for event in events if event["kind"] == "started"}
    slowest: dict[tuple[str, int], float] = defaultdict(float)
    for event in events:
        if event["kind"] == "trained":
            key = (group_of[event["name"]], event["fields"]["height"])
            slowest[key] = max(slowest[key], event["fields"]["seconds"])
    return list(slowest.values())


def _commit_seconds(events: list[Event]) -> list[float]:
    """From the first member that held every blob to the first decision: compute, check, three steps."""
    proposed, decided = _first(events, "step", step="propose"), _first(events, "decided")
    return [at - proposed[key] for key, at in decided.items() if key in proposed]


def _steps_seconds(events: list[Event]) -> dict[str, float]:
    """How long a group is in each step, median: from its first member there to the first in the next."""
    found: dict[str, list[float]] = defaultdict(list)
    begun = [(step, _first(events, "step", step=step)) for step in STEPS] + [
        ("decided", _first(events, "decided"))
    ]
    for (step, here), (_, there) in pairwise(begun):
        found[step] += [there[key] - at for key, at in here.items() if key in there]
    return {step: round(median(seconds), 4) for step, seconds in found.items()}
