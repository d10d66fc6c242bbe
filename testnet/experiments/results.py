"""From rows to numbers: one summary over all cells and one for each attack, share, alpha and rule.

The names in the JSON object are an interface (docs/results.md). Slashed means: by a verdict that the
council's quorum certified, or by a proved contradiction; there is no EVM chain in an experiment.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any

from p2pfl.durable import disk_error
from p2pfl.errors import UserError
from testnet.experiments.facts import Row

AXES = ("attack", "share", "alpha", "rule")
# Ours, whatever aggregator the group uses, and the flat rules for comparison.
COLUMNS = (
    ("honest_client_rounds", "honest rounds"), ("honest_slashed", "honest slashed"),
    ("false_alarm_rate", "false alarms"), ("honest_left_out_rate", "honest left out"),
    ("attackers", "attackers"), ("attackers_slashed", "slashed"),
    ("median_rounds_to_exclude", "rounds to exclude"), ("median_rounds_to_slash", "rounds to slash"),
    ("blobs_per_culprit", "blobs a case"), ("accuracy", "accuracy"), ("accuracy_clean", "clean"),
)  # fmt: skip


def rule_of(row: Row) -> str:
    """What judged and aggregated: "ours", "ours/<aggregator>", or "flat/<aggregator>"."""
    rule = row.cell["rule"]
    if row.cell["mode"] == "flat":
        return f"flat/{rule}"
    return f"ours/{rule}" if rule else "ours"


def axis_of(row: Row, axis: str) -> str:
    """The row's place on one axis, as JSON names it."""
    if axis == "rule":
        return rule_of(row)
    if axis == "attack":
        options = row.cell["options"]
        told = ",".join(f"{name}={value}" for name, value in sorted(options.items()))
        return (row.cell["attack"] or "none") + (f"({told})" if told else "")
    return f"{row.cell[axis]:g}"


def summary(rows: Sequence[Row]) -> dict[str, Any]:
    """The numbers over these rows. Accuracies: of attacked cells, and of those without attackers.

    honest_* and attackers* count cells with groups only: a flat rule judges nobody. Medians count an attacker
    that never was as later than all others; None when that is the median.
    """
    judged = [row for row in rows if row.cell["mode"] == "groups"]
    clean = [row for row in judged if not row.attackers]
    attacked = [row for row in rows if row.attackers]
    rounds = sum(row.honest_client_rounds for row in judged)
    return {
        "cells": len(rows),
        "honest_client_rounds": rounds,
        "honest_slashed": sum(row.honest_slashed for row in judged),
        "false_alarms": sum(row.honest_alarms for row in judged),
        "false_alarm_rate": _share(sum(row.honest_alarms for row in judged), rounds),
        "false_alarm_rate_clean": _share(
            sum(row.honest_alarms for row in clean), sum(row.honest_client_rounds for row in clean)
        ),
        "honest_left_out_rate": _share(sum(row.honest_left_out for row in judged), rounds),
        "cases_against_honest": sum(row.cases_against_honest for row in judged),
        "attackers": sum(row.attackers for row in judged),
        "attackers_slashed": sum(row.attackers_slashed for row in judged),
        "median_rounds_to_slash": _median_round(judged, lambda row: row.slashed_rounds),
        "median_rounds_to_exclude": _median_round(judged, lambda row: row.excluded),
        "median_rounds_to_name": _median_round(judged, lambda row: row.named),
        "blobs_per_culprit": _mean([blobs for row in judged for blobs in row.blobs]),
        "round_changes": sum(row.round_changes for row in judged),
        "unfinished": sum(not row.ended for row in judged),
        "accuracy": _mean([row.accuracy for row in attacked]),
        "accuracy_clean": _mean([row.accuracy for row in rows if not row.attackers]),
        "attack_success": _mean([row.attack_success for row in attacked if row.attack_success is not None]),
        "cpu_s": round(sum(row.cpu_s for row in rows), 1),
    }


def as_json(rows: Sequence[Row]) -> dict[str, Any]:
    """The object of `--json`: the summary of everything that has groups, and one for each value of each axis.

    accuracy and accuracy_clean at the top are those of ours; the flat rules' are under "rule".
    """
    ours = [row for row in rows if row.cell["mode"] == "groups"]
    found = summary(ours or rows)
    found["by"] = {axis: by(rows if axis == "rule" else ours or rows, axis) for axis in AXES}
    return found


def by(rows: Iterable[Row], axis: str) -> dict[str, dict[str, Any]]:
    """A summary for each value of an axis, in the order in which they first come."""
    parts: dict[str, list[Row]] = {}
    for row in rows:
        parts.setdefault(axis_of(row, axis), []).append(row)
    return {name: summary(part) for name, part in parts.items()}


def accuracy_table(rows: Sequence[Row]) -> dict[str, dict[tuple[str, str], float]]:
    """Mean accuracy by rule, then by (attack, share)."""
    cells: dict[str, dict[tuple[str, str], list[float]]] = {}
    for row in rows:
        place = axis_of(row, "attack"), axis_of(row, "share")
        cells.setdefault(rule_of(row), {}).setdefault(place, []).append(row.accuracy)
    return {rule: {at: fmean(each) for at, each in found.items()} for rule, found in cells.items()}


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None


def _median_round(rows: Sequence[Row], of: Callable[[Row], Sequence[int]]) -> float | None:
    rounds = [math.inf if each < 0 else each for row in rows for each in of(row)]
    found = median(rounds) if rounds else math.inf
    return None if math.isinf(found) else found


# ---------------------------------------------------------------------------
# For people, and for other programs.


def table(rows: Sequence[Row]) -> str:
    """A Markdown table for each axis that has more than one value, and accuracies beside flat rules."""
    parts = [_table({"all": as_json(rows)}, "")]
    for axis in AXES:
        found = as_json(rows)["by"][axis]
        if len(found) > 1:
            parts.append(_table(found, axis))
    rules = accuracy_table(rows)
    if len(rules) > 1:
        parts.append(_accuracies(rules))
    return "\n\n".join(parts)


def _table(found: dict[str, dict[str, Any]], axis: str) -> str:
    head = [axis, *(title for _, title in COLUMNS)]
    lines = [[name, *(shown(each[column]) for column, _ in COLUMNS)] for name, each in found.items()]
    return markdown([head, *lines])


def _accuracies(rules: dict[str, dict[tuple[str, str], float]]) -> str:
    places = list(dict.fromkeys(at for found in rules.values() for at in found))
    head = ["accuracy", *(f"{attack} {share}" if share != "0" else "clean" for attack, share in places)]
    lines = [[rule, *(shown(found.get(at)) for at in places)] for rule, found in rules.items()]
    shares = sorted({share for _, share in places if share != "0"}, key=float)
    head += [f"mean {share}" for share in shares]
    for line, found in zip(lines, rules.values(), strict=True):
        line += [shown(_mean([v for (_, s), v in found.items() if s == share])) for share in shares]
    return markdown([head, *lines])


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """A table, the first line its head, columns padded so that it reads well as it is."""
    widths = [max(len(line[at]) for line in lines) for at in range(len(lines[0]))]
    padded = [[text.ljust(width) for text, width in zip(line, widths, strict=True)] for line in lines]
    rule = ["-" * width for width in widths]
    return "\n".join(f"| {' | '.join(line)} |" for line in (padded[0], rule, *padded[1:]))


def shown(value: Any) -> str:
    """A number for a table."""
    if value is None:
        return "-"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.1e}" if 0 < value < 0.001 else f"{value:.3f}"


def write_csv(rows: Sequence[Row], path: Path) -> None:
    """One line a cell; lists and tables as JSON."""
    flat = [_flat(row) for row in rows]
    try:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(flat[0]))
            writer.writeheader()
            writer.writerows(flat)
    except OSError as error:
        raise disk_error(path, error) from error


def write_parquet(rows: Sequence[Row], path: Path) -> None:
    """The same columns, typed. Raises UserError without pyarrow."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise UserError(
            "Parquet files cannot be written",
            because="pyarrow is not installed",
            fix="pip install 'p2pfl-mps[parquet]', or --format csv",
        ) from error
    try:
        pq.write_table(pa.Table.from_pylist([_flat(row) for row in rows]), path)
    except OSError as error:
        raise disk_error(path, error) from error


def _flat(row: Row) -> dict[str, Any]:
    values = dataclasses.asdict(row)
    cell = values.pop("cell")
    merged = {**{f"cell_{name}": value for name, value in cell.items()}, "rule": rule_of(row), **values}
    return {
        name: json.dumps(value) if isinstance(value, (list, dict, tuple)) else value
        for name, value in merged.items()
    }
