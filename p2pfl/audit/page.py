"""What a page is made of, and how it becomes HTML: one template, everything escaped, no script.

A page is data first; its JSON is that data, its HTML shows the same in sections. Knows nothing of chains.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import quote

import jinja2

TEMPLATES = Path(__file__).parent / "templates"
# Lines of a chart are told apart by their dashes as well as by their colour: see style.css.
CHART_LINES_MAX = 6
CHART_WIDTH, CHART_HEIGHT = 720, 180
_MARGIN = 6


@dataclass(frozen=True, slots=True)
class Cell:
    """What stands in a table. href: a page of ours. title: the whole of what is shown shortened."""

    text: str
    href: str | None = None
    title: str | None = None
    number: bool = False
    mark: str = ""  # "good", "bad" or "": beside the words, never instead of them.


CellLike: TypeAlias = Cell | str | int | float | None


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under columns. caption: what they are, for everybody."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """Names and values."""

    caption: str
    rows: Sequence[tuple[str, Cell]]


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a chart: its name and its points in the chart's own coordinates."""

    name: str
    points: str


@dataclass(frozen=True, slots=True)
class Chart:
    """Lines over heights, drawn on the server. The same numbers stand in a table beside it."""

    caption: str
    lines: Sequence[Line]
    low: str
    high: str
    first: str
    last: str


@dataclass(frozen=True, slots=True)
class Form:
    """A question with its fields: (name, help, value)."""

    action: str
    fields: Sequence[tuple[str, str, str]]


Section: TypeAlias = Table | Facts | Chart | Form


@dataclass(slots=True)
class Page:
    """A page. data: what its JSON is. lead: one sentence under the title."""

    title: str
    lead: str
    data: Any
    sections: list[Section] = field(default_factory=list[Section])
    status: int = 200
    refresh_s: int = 0


def cell(value: CellLike) -> Cell:
    """A plain value as a cell."""
    if isinstance(value, Cell):
        return value
    if value is None:
        return Cell("")
    if isinstance(value, bool):
        return Cell("yes" if value else "no")
    if isinstance(value, float):
        return Cell(f"{value:.4g}", number=True)
    if isinstance(value, int):
        return Cell(str(value), number=True)
    return Cell(value)


def short(hex_id: str, href: str | None = None) -> Cell:
    """An id by its first digits; the whole is its title."""
    return Cell(hex_id[:14] + "…" if len(hex_id) > 18 else hex_id, href, hex_id)


def path(*parts: str | int) -> str:
    """The path of one of our pages, whatever the parts contain."""
    return "/" + "/".join(quote(str(part), safe="") for part in parts)


def table(caption: str, columns: Sequence[str], rows: Sequence[Sequence[CellLike]], note: str = "") -> Table:
    """A table of plain values and cells."""
    return Table(caption, columns, [[cell(value) for value in row] for row in rows], note)


def facts(caption: str, rows: Mapping[str, CellLike]) -> Facts:
    """Names and values; those that are None are left out."""
    return Facts(caption, [(name, cell(value)) for name, value in rows.items() if value is not None])


def chart(caption: str, series: Mapping[str, Sequence[tuple[int, float]]]) -> Chart | None:
    """A chart of (height, value) points by name; None when there are no two points of any line."""
    shown = {name: points for name, points in list(series.items())[:CHART_LINES_MAX] if len(points) > 1}
    if not shown:
        return None
    xs = [x for points in shown.values() for x, _ in points]
    ys = [y for points in shown.values() for _, y in points]
    low, high = min(ys), max(ys)
    across = (CHART_WIDTH - 2 * _MARGIN) / max(1, max(xs) - min(xs))
    down = (CHART_HEIGHT - 2 * _MARGIN) / ((high - low) or 1.0)

    def place(x: int, y: float) -> str:
        return f"{_MARGIN + (x - min(xs)) * across:.1f},{_MARGIN + (high - y) * down:.1f}"

    lines = [Line(name, " ".join(place(x, y) for x, y in points)) for name, points in shown.items()]
    return Chart(caption, lines, f"{low:.4g}", f"{high:.4g}", str(min(xs)), str(max(xs)))


# ---------------------------------------------------------------------------
# HTML.


@cache
def style() -> str:
    """The stylesheet that stands in every page."""
    return (TEMPLATES / "style.css").read_text(encoding="utf-8")


@cache
def content_policy() -> str:
    """The Content-Security-Policy: nothing but our own stylesheet, which is named by its hash."""
    digest = base64.b64encode(sha256(style().encode()).digest()).decode()
    return (
        f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; form-action 'self'; "
        "base-uri 'none'; frame-ancestors 'none'"
    )


@cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,  # Names and reasons are peers' words.
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def html(page: Page, *, json_href: str, navigation: Sequence[tuple[str, str]], source: str) -> str:
    """The page as a document."""
    kinds = [(type(section).__name__.lower(), section) for section in page.sections]
    return (
        _environment()
        .get_template("page.html")
        .render(
            page=page,
            sections=kinds,
            style=style(),
            json_href=json_href,
            navigation=navigation,
            source=source,
            width=CHART_WIDTH,
            height=CHART_HEIGHT,
        )
    )
