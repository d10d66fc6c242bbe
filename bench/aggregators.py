"""Aggregators in exact integers beside byzfl's in float32: processor seconds of one thread, in one process.

Ours get int16 rows, byzfl the same rows as one float32 tensor. Where our rule needs inner products (all but
the sorted ones) its time includes the Gram matrix, and its floor is that of `gram`: the bare product of the
rows with themselves in float64 BLAS; the floor of a sorted rule is one pass over the rows that adds them up.
What is timed alternates, and the median counts. Centred clipping makes as many steps on both sides from zero,
byzfl's with the updates' median length as its bound; byzfl's geometric median makes three steps, ours more.
byzfl is no dependency (`pip install byzfl==0.0.11`): without it its columns are null.
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
from p2pfl.rules.weighted import CLIPPING_STEPS

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
# Thirty-two rows are 1.3 GB in int16 and 2.6 GB in float32, and byzfl sorts a copy with its indices.
COORDINATES_MAX = 20_000_000
# The float64 rows of the floor are made for so many coordinates at a time, unclocked: 268 MB of thirty-two.
FLOOR_COORDINATES = 1 << 20

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
    rows = [np.clip(rng.normal(0, 3000, d), -32767, 32767).astype(np.int16) for _ in range(n)]
    layout = Layout((TensorSpec("w", (d,)),))
    floats = None if peers is None else _tensor(rows)
    works: dict[str, tuple[Work, Work | None]] = {"gram": (lambda: gram(rows, layout), None)}
    for rule in PEERS:
        theirs = None if peers is None else _theirs(peers, rule, f, floats)
        works[rule] = (lambda rule=rule: _ours(rule, rows, layout, f), theirs)
    found: list[dict[str, Any]] = []
    for rule, (ours, theirs) in works.items():
        taken: list[list[float]] = [[], [], []]
        for _ in range(times):
            taken[0].append(_seconds(ours))
            if theirs is not None:
                taken[1].append(_seconds(theirs))
            taken[2].append(_floor_s(rows, sums=rule in SORTED))
        own, peer, least = (median(each) if each else None for each in taken)
        assert own is not None and least is not None
        found.append(
            {
                "rule": rule,
                "n": n,
                "d": d,
                "ours_s": round(own, 4),
                "byzfl_s": None if peer is None else round(peer, 4),
                "speedup": None if peer is None else round(peer / own, 2),
                "floor_s": round(least, 4),
            }
        )
    return found


def _floor_s(rows: Sequence[Int16], *, sums: bool) -> float:
    """Processor seconds of the rows' product with themselves, or of adding them up, in float64."""
    taken_s, d = 0.0, len(rows[0])
    wide = np.empty((len(rows), min(d, FLOOR_COORDINATES)), dtype=np.float64)
    for start in range(0, d, FLOOR_COORDINATES):
        part = wide[:, : min(FLOOR_COORDINATES, d - start)]
        for index, row in enumerate(rows):
            part[index] = row[start : start + part.shape[1]]
        taken_s += _seconds(
            (lambda part=part: part.sum(axis=0)) if sums else (lambda part=part: part @ part.T)
        )
    return taken_s


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
    given: dict[str, Any] = {"f": f} if told else {}
    if rule == "centred_clipping":
        given = {"L": CLIPPING_STEPS, "tau": float(floats.norm(dim=1).median())}

    def work() -> object:
        # Centred clipping keeps its last result as a state: a new one each time.
        return getattr(peers, name)(**given)(floats)

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
