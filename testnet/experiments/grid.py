"""A grid on paper: one TOML file, many cells.

    title = "what is asked"
    [network]   what all cells share: data set, model, groups, members, rounds, partition
    [task], [times], [rules], [epochs]   as in a scenario
    [[sweep]]   lists of seeds, alphas, attacks, shares, placements, aggregators: every combination is a cell

A cell without attackers is one cell, whichever attack it was combined with.
"""

from __future__ import annotations

import dataclasses
import itertools
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from p2pfl.errors import UserError
from p2pfl.genesis import Epochs, Rules, Times
from p2pfl.rules.table import AGGREGATORS
from testnet import attacks
from testnet.experiments.cells import Cell
from testnet.scenarios import MEMBERS_MAX, MEMBERS_MIN, TRAINING

MODES = ("groups", "flat")
# More than a machine does in a week: somebody wrote one list too many.
CELLS_MAX = 20_000
NETWORK = {
    "dataset", "samples", "test_samples", "model", "groups", "members", "seats", "rounds", "partition",
    "classes_each", "shards_each",
}  # fmt: skip
LISTS = {
    "seeds": "seed", "alphas": "alpha", "attacks": "attack", "shares": "share", "placements": "placement",
    "aggregators": "rule",
}  # fmt: skip
OVERRIDES = ("task", "times", "rules", "epochs")
# Of which kind the values of [network] are.
KINDS = {each.name: each.type for each in dataclasses.fields(Cell)}


@dataclass(frozen=True)
class Grid:
    """A title and the cells, in the order in which they are run."""

    name: str
    title: str
    cells: tuple[Cell, ...]

    @property
    def digest(self) -> str:
        """Changes when the set of cells does."""
        return sha256("".join(sorted(cell.key for cell in self.cells)).encode()).hexdigest()[:16]

    @property
    def client_rounds(self) -> int:
        """How much work it is."""
        return sum(cell.client_rounds for cell in self.cells)


def load(path: Path) -> Grid:
    """Read and check a grid. Raises UserError that says what is wrong with it."""
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
        grid = Grid(path.stem, str(raw.get("title", path.stem)), tuple(_cells(raw)))
    except OSError as error:
        raise _wrong(path, str(error)) from error
    except (ValueError, TypeError, KeyError) as error:
        raise _wrong(path, str(error)) from error
    if not 0 < len(grid.cells) <= CELLS_MAX:
        raise _wrong(path, f"it has {len(grid.cells)} cells; 1 to {CELLS_MAX} can be run")
    for cell in grid.cells:
        _check(cell, path)
    return grid


def _wrong(path: Path, because: str) -> UserError:
    return UserError(
        f"the grid {path} cannot be run", because=because, fix="compare it with bench/grids/quick.toml"
    )


def _cells(raw: Mapping[str, Any]) -> Iterator[Cell]:
    _known(raw, {"title", "network", "sweep", *OVERRIDES}, "the file")
    common = _common(raw, {})
    seen: set[str] = set()
    for sweep in raw.get("sweep", [{}]):
        for cell in _sweep(sweep, _common(sweep, common)):
            if cell.key not in seen:
                seen.add(cell.key)
                yield cell


def _common(raw: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """The fixed values: those of [network], and the overrides, each over what was there before."""
    found = dict(before)
    network = raw.get("network", {})
    _known(network, NETWORK, "[network]")
    for name, value in network.items():
        if type(value).__name__ != KINDS[name]:
            raise ValueError(f"{name} must be of type {KINDS[name]}, not {type(value).__name__}")
    found |= network
    for name in OVERRIDES:
        found[name] = {**found.get(name, {}), **raw.get(name, {})}
    return found


def _sweep(sweep: Mapping[str, Any], common: Mapping[str, Any]) -> Iterator[Cell]:
    _known(sweep, {"mode", "network", *LISTS, *OVERRIDES}, "[[sweep]]")
    mode = sweep.get("mode", "groups")
    if mode not in MODES:
        raise ValueError(f"mode {mode!r} is neither of {', '.join(MODES)}")
    lists = {name: _list(sweep, name) for name in LISTS}
    for values in itertools.product(*lists.values()):
        chosen = dict(zip(LISTS.values(), values, strict=True))
        attack = chosen.pop("attack")
        options = dict(attack) if isinstance(attack, dict) else {"name": attack}
        name = str(options.pop("name", ""))
        if not name or not chosen["share"]:
            name, options = "", {}
            chosen |= {"share": 0.0, "placement": "spread"}
        floats = {"alpha": float(chosen.pop("alpha")), "share": float(chosen.pop("share"))}
        yield Cell(mode=mode, attack=name, options=options, **chosen, **floats, **common)


def _list(sweep: Mapping[str, Any], name: str) -> list[Any]:
    """The values of one axis. `seeds = 5` stands for 1 to 5, "untargeted" for the field's nine."""
    default: dict[str, Any] = {
        "seeds": [1], "alphas": [0.5], "attacks": [""], "shares": [0.0], "placements": ["spread"],
        "aggregators": [""],
    }  # fmt: skip
    found = sweep.get(name, default[name])
    if name == "seeds" and type(found) is int:
        found = list(range(1, found + 1))
    if not isinstance(found, list) or not found:
        raise ValueError(f"{name} must be a list that is not empty")
    if name != "attacks":
        return found
    return [each for one in found for each in (attacks.UNTARGETED if one == "untargeted" else (one,))]


def _known(raw: Any, names: set[str], where: str) -> None:
    if not isinstance(raw, dict):
        raise TypeError(f"{where} must be a table")
    unknown = sorted(set(raw) - names)
    if unknown:
        raise ValueError(f"{where} has no {', '.join(unknown)}; known there: {', '.join(sorted(names))}")


def _check(cell: Cell, path: Path) -> None:
    """Raise UserError for a cell that cannot be run."""
    faults = [
        (cell.mode == "flat" and cell.rule not in AGGREGATORS, f"flat needs one of {', '.join(AGGREGATORS)}"),
        (bool(cell.rule) and cell.rule not in AGGREGATORS, f"there is no aggregator {cell.rule!r}"),
        (not MEMBERS_MIN <= cell.members <= MEMBERS_MAX, "a group has 4 to 16 members"),
        # Without an EVM chain the council's certificate is the verdict, and fewer than 4 certify none.
        (cell.mode == "groups" and not 4 <= cell.seats <= MEMBERS_MAX, "a council has 4 to 16 seats"),
        (min(cell.rounds, cell.groups) < 1, "there must be a round and a group"),
    ]  # fmt: skip
    tables = {
        "task": set(TRAINING),
        "times": _fields(Times),
        "rules": _fields(Rules),
        "epochs": _fields(Epochs),
    }
    for name, known in tables.items():
        wrong = sorted(set(getattr(cell, name)) - known)
        faults.append((bool(wrong), f"[{name}] has no {', '.join(wrong)}; known: {', '.join(sorted(known))}"))
    for because in (text for wrong, text in faults if wrong):
        raise _wrong(path, because)
    cell.cast()  # Its own complaints: unknown attack, option, placement.


def _fields(kind: type[Any]) -> set[str]:
    return {each.name for each in dataclasses.fields(kind)}
