"""A run on a terminal: the table below, the story above it. Without a terminal: the story as plain lines.

Knows rich and nothing of nodes; what there is to show is in `story`.
"""

from __future__ import annotations

import sys
from typing import TextIO

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from testnet.facts import COUNCIL, Event
from testnet.story import Row, Story

# A terminal is redrawn at most so often: it costs the launcher's processor, which the nodes need.
FRAMES_A_SECOND = 4


class Watch:
    """Shows a story. Use it as a context manager; `show` for each event, `draw` a few times a second."""

    def __init__(self, story: Story, *, out: TextIO | None = None, live: bool | None = None) -> None:
        """out: stdout by default. live: a table that is redrawn; by default where `out` is a terminal."""
        self._story = story
        self._out = out if out is not None else sys.stdout
        self.live = self._out.isatty() if live is None else live
        # Without a terminal there are no control characters and no line breaks of our own.
        self._console = Console(file=self._out, highlight=False, soft_wrap=True) if self.live else None
        self._live: Live | None = None
        self._now_s = 0.0

    def __enter__(self) -> Watch:
        if self._console is not None:
            self._live = Live(
                self.table(),
                console=self._console,
                auto_refresh=False,
                transient=False,
                vertical_overflow="crop",
            )
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Leave the table as it is; what is said from now on stands below it."""
        if self._live is not None:
            self._live.update(self.table(), refresh=True)
            self._live.stop()
            self._live = None

    def show(self, event: Event) -> None:
        """One more event: its sentences now, the table at the next `draw`."""
        self._now_s = event.at_s
        for line in self._story.take(event):
            self.say(line, event.at_s)

    def say(self, line: str, at_s: float | None = None) -> None:
        """A sentence of the story, or a line of the summary, which has no time."""
        text = spoken(line, at_s)
        if self._console is not None:
            self._console.print(text)
        else:
            print(text.plain, file=self._out, flush=True)

    def draw(self, now_s: float) -> None:
        """Redraw the table."""
        self._now_s = now_s
        if self._live is not None:
            self._live.update(self.table(), refresh=True)

    def table(self) -> Table:
        """All rows, the council's last."""
        story = self._story
        shape = story.scenario.network
        wanted = shape.groups * shape.members + shape.seats
        title = f"{story.scenario.name}: {len(story.started)} of {wanted} processes, {self._now_s:.0f} s"
        table = Table(title=title, title_justify="left", title_style="bold", expand=False)
        for name in ("group", "height", "round", "step", "votes", "accuracy", "distance"):
            table.add_column(
                name, justify="left" if name in ("group", "step") else "right", min_width=len(name)
            )
        for row in story.rows.values():
            table.add_row(*cells(row), style="bold" if row.group == COUNCIL else "")
        return table


def cells(row: Row) -> tuple[str, ...]:
    """One row as words."""
    votes = f"{row.votes}/{row.quorum}" if row.quorum and row.votes else ""
    accuracy = "" if row.accuracy is None else f"{row.accuracy:.1%}"
    distance = "" if row.distance is None else f"{row.distance:.2f}"
    height = "" if row.height < 0 else str(row.height)
    return row.group, height, str(row.round) if row.height >= 0 else "", row.step, votes, accuracy, distance


def spoken(line: str, at_s: float | None = None) -> Text:
    """A sentence with its time."""
    stamp = "" if at_s is None else f"{at_s:6.1f} s  "
    return Text.assemble((stamp, "dim"), (line, _style(line)))


def _style(line: str) -> str:
    """Colours for what one must not miss."""
    if line.startswith("slashed") or "guilty" in line or "ended by itself" in line:
        return "bold red"
    if "stands apart" in line or "proof against" in line or "killed" in line or "broke a hard rule" in line:
        return "yellow"
    return "green" if "cleared" in line or "claim holds" in line else ""
