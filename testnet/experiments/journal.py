"""What a grid has come to so far: one JSON line a cell, in a file that only grows.

A run that was interrupted reads it and goes on; a line that was cut short counts as not written. A cell that
failed is a line too, and is tried again.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from p2pfl.durable import disk_error
from p2pfl.errors import UserError
from testnet.experiments.facts import Row
from testnet.experiments.grid import Grid

NAME = "journal.jsonl"


@dataclass
class Journal:
    """rows, failed: by the cell's key. failed: why."""

    directory: Path
    title: str = ""
    grid: str = ""
    rows: dict[str, Row] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def add(self, row: Row) -> None:
        """Keep a result."""
        self.rows[row.key] = row
        self.failed.pop(row.key, None)
        self._append({"row": dataclasses.asdict(row)})

    def fail(self, key: str, why: str) -> None:
        """Keep that a cell has failed."""
        self.failed[key] = why
        self._append({"failed": key, "why": why})

    def _append(self, line: dict[str, Any]) -> None:
        try:
            with (self.directory / NAME).open("a", encoding="utf-8") as file:
                file.write(json.dumps(line, separators=(",", ":")) + "\n")
        except OSError as error:
            raise disk_error(self.directory, error) from error


def begin(directory: Path, grid: Grid) -> Journal:
    """A new journal, or that of a run of the same grid that was interrupted. Raises UserError."""
    path = directory / NAME
    if path.exists():
        found = read(directory)
        wanted = {cell.key for cell in grid.cells}
        if found.grid != grid.name:
            raise UserError(
                f"{directory} holds the results of another grid",
                because=f"its journal is of {found.grid!r}, this grid is {grid.name!r}",
                fix="name another folder with --dir",
            )
        # A grid may have grown or shrunk meanwhile: what is the same cell is the same result.
        found.rows = {key: row for key, row in found.rows.items() if key in wanted}
        found.failed = {key: why for key, why in found.failed.items() if key in wanted}
        _mend(path)
        return found
    try:
        directory.mkdir(parents=True, exist_ok=True)
        made = Journal(directory, grid.title, grid.name)
        made._append({"grid": grid.name, "title": grid.title})
    except OSError as error:
        raise disk_error(directory, error) from error
    return made


def read(directory: Path) -> Journal:
    """The journal in this folder. Raises UserError when there is none."""
    try:
        lines = (directory / NAME).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UserError(
            f"{directory} holds no results", because=str(error), fix="p2pfl experiment run GRID.toml"
        ) from error
    found = Journal(directory)
    names = {each.name for each in dataclasses.fields(Row)}
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:
            continue  # Cut short.
        if "grid" in entry:
            found.grid, found.title = entry["grid"], entry["title"]
        elif "failed" in entry:
            found.failed[entry["failed"]] = entry["why"]
        elif "row" in entry:
            row = Row(**{name: value for name, value in entry["row"].items() if name in names})
            found.rows[row.key] = row
            found.failed.pop(row.key, None)
    return found


def _mend(path: Path) -> None:
    """A line that was cut short must not spoil the next one."""
    data = path.read_bytes()
    if data and not data.endswith(b"\n"):
        with path.open("ab") as file:
            file.write(b"\n")
