"""Aggregators in exact integers beside byzfl's in float32: processor seconds of one thread, in one process.

Ours get int16 rows, byzfl the same rows as one float32 tensor. Where our rule needs inner products (all but
the sorted ones) its time includes the Gram matrix, and its floor is that of `gram`: the bare product of the
rows with themselves in float64 BLAS; the floor of a sorted rule is one pass over the rows that adds them up.
What is timed alternates, and the median counts. byzfl is no dependency (`pip install byzfl==0.0.11`): without
it its columns are null.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from statistics import median
from types import ModuleType
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from p2pfl.errors import UserError
from p2pfl.params import Int16, Layout, TensorSpec
from p2pfl.rules.aggregate import aggregate
from p2pfl.rules.gram import gram, view

EXPONENT = -12
# Names in byzfl, and whether it is told how many liars there are. It has no bucketing or Bulyan by that name.
PEERS = {
    "krum": ("Krum", True),
    "multi_krum": ("MultiKrum", True),
    "geometric_median": ("GeometricMedian", False),
    "centred_clipping": ("CenteredClipping", False),
    "median": ("Median", False),
    "trimmed_mean": ("TrMean", True),
}
SORTED = ("median", "trimmed_mean")
# One row of the float64 copy of the floor is 88 MB at 11M coordinates.
COORDINATES_MAX = 20_000_000

Work = Callable[[], object]


def add_parser(commands: Any) -> None:
    """Add `aggregators`."""
    parser = commands.add_parser("aggregators", help="our aggregators beside byzfl's", description=__doc__)
    parser.add_argument("--members", type=int, nargs="+", default=[10, 32], metavar="N", help="rows (10 32)")
    parser.add_argument(
        "--coordinates", type=int, nargs="+", default=[1_204_170], metavar="D", help="of a row (1204170)"
    )
    parser.add_argument("--times", type=int, default=3, metavar="N", help="each is timed so often (3)")
    parser.set_defaults(measure=measure)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """rows: for each rule and size `rule, n, d, ours_s, byzfl_s, speedup, floor_s`."""
    if max(arguments.coordinates) > COORDINATES_MAX or min(arguments.coordinates) < 1000:
        raise UserError(
            "so many coordinates cannot be measured",
            because=f"it is made for 1,000 to {COORDINATES_MAX:,}",
            fix="name others with --coordinates",
        )
    peers = _byzfl()
    rows: list[dict[str, Any]] = []
    with threadpool_limits(1):
        for d in arguments.coordinates:
            for n in arguments.members:
                rows += _of_size(n, d, arguments.times, peers)
    return {"byzfl": None if peers is None else "0.0.11", "threads": 1, "rows": rows}


def _of_size(n: int, d: int, times: int, peers: ModuleType | None) -> list[dict[str, Any]]:
    rng, f = np.random.default_rng(n), max(1, n // 5)
    rows = [
        np.clip(
            rng.normal(
                0,
                3000,
                d,
            ),
            -32767,
            32767,
        ).astype(np.int16)
        for _ in range(n)
    ]
    layout = Layout((TensorSpec("w", (d,)),))
    wide = np.array(rows, dtype=np.float64)
    floats = None if peers is None else _tensor(rows)
    found: list[dict[str, Any]] = []
    works: dict[str, tuple[Work, Work | None, Work]] = {
        "gram": (lambda: gram(rows, layout), None, lambda: wide @ wide.T)
    }
    for rule in PEERS:
        theirs = None if peers is None else _theirs(peers, rule, f, floats)
        floor: Work = (lambda: wide.sum(axis=0)) if rule in SORTED else (lambda: wide @ wide.T)
        works[rule] = (lambda rule=rule: _ours(rule, rows, layout, f), theirs, floor)
    for rule, (ours, theirs, floor) in works.items():
        taken: list[list[float]] = [[], [], []]
        for _ in range(times):
            for place, work in enumerate((ours, theirs, floor)):
                if work is not None:
                    taken[place].append(_seconds(work))
        own, peer, least = (median(each) if each else None for each in taken)
        assert own is not None
        found.append(
            {
                "rule": rule,
                "n": n,
                "d": d,
                "ours_s": round(own, 4),
                "byzfl_s": None if peer is None else round(peer, 4),
                "speedup": None if peer is None else round(peer / own, 2),
                "floor_s": None if least is None else round(least, 4),
            }
        )
    return found


def _seconds(work: Work) -> float:
    began_s = time.process_time()
    work()
    return time.process_time() - began_s


def _ours(rule: str, rows: Sequence[Int16], layout: Layout, f: int) -> Int16:
    n = len(rows)
    if rule in SORTED:  # Its inner products are in the block anyway; the rule itself looks at none.
        nothing = view([(0,) * (n * (n + 1) // 2)], [(EXPONENT,)] * n)
        return aggregate(rule, rows, [1] * n, nothing, f)
    return aggregate(rule, rows, [1] * n, view(gram(rows, layout), [(EXPONENT,)] * n), f)


def _tensor(rows: Sequence[Int16]) -> Any:
    import torch

    torch.set_num_threads(1)
    return torch.from_numpy(np.array(rows, dtype=np.float32))


def _theirs(peers: ModuleType, rule: str, f: int, floats: Any) -> Work:
    name, told = PEERS[rule]

    def work() -> object:
        # Centred clipping keeps its last result as a state: a new one each time.
        return (getattr(peers, name)(f) if told else getattr(peers, name)())(floats)

    return work


class _Unused(ModuleType):
    """Stands for torchvision, which byzfl imports for its data sets and never calls in an aggregator."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Unused(name)

    def __call__(self, *_: Any, **__: Any) -> _Unused:
        return self


def _byzfl() -> ModuleType | None:
    """byzfl, if it is installed."""
    for name in ("", ".datasets", ".transforms", ".models"):
        sys.modules.setdefault("torchvision" + name, _Unused("torchvision" + name))
    try:
        import byzfl  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        print(f"byzfl is not here ({error}): pip install byzfl==0.0.11", file=sys.stderr)
        return None
    return byzfl
