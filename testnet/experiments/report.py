"""The results as one page: tables, accuracy, p-values, ROC, who was named when. Opens without a network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from statistics import fmean
from typing import Any

from p2pfl.durable import disk_error
from testnet.experiments import charts, results
from testnet.experiments.facts import BINS_A_DECADE, Row
from testnet.experiments.journal import Journal

NAME = "report.html"
# What happened in more cells than these nobody reads to the end.
STORIES_MAX = 40
STYLE = """body{font:15px/1.45 system-ui,sans-serif;max-width:1150px;margin:2em auto;padding:0 1em;color:#222}
table{border-collapse:collapse;font-size:13px;margin:1em 0}td,th{border:1px solid #ddd;padding:2px 7px;
text-align:right}td:first-child,th:first-child{text-align:left}svg text{font:12px system-ui,sans-serif}
.charts{display:flex;flex-wrap:wrap;gap:1em}figure{margin:0}figcaption{font-weight:600}
details{margin:.3em 0}pre{font-size:12px;overflow:auto}"""


def write(journal: Journal) -> Path:
    """Write it beside the journal; returns where. Raises UserError when the disk does not play along."""
    path = journal.directory / NAME
    try:
        path.write_text(page(journal), encoding="utf-8")
    except OSError as error:
        raise disk_error(path, error) from error
    return path


def page(journal: Journal) -> str:
    """The whole page."""
    rows = list(journal.rows.values())
    cpu_s = sum(row.cpu_s for row in rows)
    failed = "".join(f"<li>{escape(key)}: {escape(why)}</li>" for key, why in journal.failed.items())
    parts = [
        f"<h1>{escape(journal.title)}</h1>",
        f"<p>{len(rows)} cells of the grid {escape(journal.grid)}, {cpu_s:,.0f} s of CPU.</p>",
        f"<p>Failed:</p><ul>{failed}</ul>" if failed else "",
        _tables(results.table(rows)) if rows else "<p>no results yet</p>",
        "<h2>Accuracy</h2>", _charts(_accuracy(rows)),
        "<h2>P-values and detection</h2>", _charts(_detection(rows)),
        "<h2>Who was named when</h2>", _charts(_when(rows)), _stories(rows),
    ]  # fmt: skip
    head = f'<meta charset="utf-8"><title>{escape(journal.title)}</title><style>{STYLE}</style>'
    return f"<!doctype html><html lang=en><head>{head}</head><body>{''.join(parts)}</body></html>\n"


def _tables(text: str) -> str:
    """Markdown tables as HTML's."""
    found: list[str] = []
    for block in text.split("\n\n"):
        lines = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in block.splitlines()]
        head = "".join(f"<th>{escape(cell)}</th>" for cell in lines[0])
        body = "".join(
            f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in line)}</tr>" for line in lines[2:]
        )
        found.append(f"<table><tr>{head}</tr>{body}</table>")
    return "".join(found)


def _charts(drawn: Iterable[tuple[str, str]]) -> str:
    shown = (f"<figure><figcaption>{escape(title)}</figcaption>{svg}</figure>" for title, svg in drawn)
    return f'<div class="charts">{"".join(shown)}</div>'


def _accuracy(rows: Sequence[Row]) -> Iterable[tuple[str, str]]:
    for share, of_share in _split(rows, lambda row: results.axis_of(row, "share")).items():
        table = results.accuracy_table(of_share)
        by_attack: dict[str, dict[str, float]] = {}
        for rule, found in table.items():
            for (attack, _), accuracy in found.items():
                by_attack.setdefault(attack, {})[rule] = accuracy
        title = "without attackers" if share == "0" else f"{float(share):.0%} attackers"
        yield f"At the end, {title}", charts.bars(by_attack, y="accuracy")
        curves = {rule: _mean_curve(part) for rule, part in _split(of_share, results.rule_of).items()}
        yield f"By round, {title}", charts.lines(curves, x="round", y="accuracy", y_range=(0, 1))


def _detection(rows: Sequence[Row]) -> Iterable[tuple[str, str]]:
    judged = [row for row in rows if sum(row.p_honest)]
    attacked = _split([row for row in judged if row.attackers], lambda row: results.axis_of(row, "attack"))
    shares = {"honest": _cumulated(judged, "p_honest")}
    shares |= {attack: _cumulated(part, "p_attackers") for attack, part in attacked.items()}
    title = "Share of client-rounds with a p-value at most this (uniform: the diagonal of honest ones)"
    yield title, charts.lines(shares, x="p-value", y="share", x_log=True, x_range=(1e-6, 1), y_range=(0, 1))
    roc: dict[str, charts.Points] = {}
    for attack, part in attacked.items():
        false, true = _cumulated(part, "p_honest"), _cumulated(part, "p_attackers")
        roc[attack] = [(max(1e-6, a), b) for (_, a), (_, b) in zip(false, true, strict=True)]
    yield (
        "ROC a client-round, honest members of the same cells",
        charts.lines(
            roc, x="false alarms", y="attackers seen", x_log=True, x_range=(1e-5, 1), y_range=(0, 1)
        ),
    )


def _when(rows: Sequence[Row]) -> Iterable[tuple[str, str]]:
    attacked = [row for row in rows if row.attackers and row.cell["mode"] == "groups"]
    last = max((row.rounds_done for row in attacked), default=1)
    for title, of in (
        ("First left out of an aggregate", lambda row: row.excluded),
        ("First accused", lambda row: row.named),
        ("Slashed", lambda row: row.slashed_rounds),
    ):
        drawn: dict[str, charts.Points] = {}
        for attack, part in _split(attacked, lambda row: results.axis_of(row, "attack")).items():
            rounds = [each for row in part for each in of(row)]
            drawn[attack] = [
                (at, sum(0 <= each <= at for each in rounds) / len(rounds)) for at in range(last + 1)
            ]
        yield title, charts.lines(drawn, x="round", y="share of attackers", y_range=(0, 1))


def _stories(rows: Sequence[Row]) -> str:
    told = [row for row in rows if row.story][:STORIES_MAX]
    heads = (f"<summary>{escape(_title(row))}</summary>{_story(row)}" for row in told)
    return "".join(f"<details>{head}</details>" for head in heads)


def _title(row: Row) -> str:
    axes = (f"{axis} {results.axis_of(row, axis)}" for axis in results.AXES)
    return f"{', '.join(axes)}, seed {row.cell['seed']}: {row.attackers_slashed} of {row.attackers} slashed"


def _story(row: Row) -> str:
    lines = (f"{height:>4}  {kind:<8} {member:<8} {word}" for height, kind, member, word in row.story)
    return f"<pre>{escape(chr(10).join(lines))}</pre>"


def _split(rows: Iterable[Row], key: Callable[[Row], str]) -> Mapping[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(key(row), []).append(row)
    return found


def _mean_curve(rows: Sequence[Row]) -> charts.Points:
    longest = max(len(row.curve) for row in rows)
    return [(at + 1, fmean([row.curve[at] for row in rows if len(row.curve) > at])) for at in range(longest)]


def _cumulated(rows: Sequence[Row], name: str) -> charts.Points:
    """(p-value, share of the client-rounds with one at most as large)."""
    counts: list[Any] = [sum(column) for column in zip(*(getattr(row, name) for row in rows), strict=True)]
    total, so_far = sum(counts) or 1, 0
    points: list[tuple[float, float]] = []
    for at, count in enumerate(counts):
        so_far += count
        points.append((10 ** (at / BINS_A_DECADE) / 1e6, so_far / total))
    return points
