"""A whole grid from its file to its results: what is missing is run, kept as it comes, and shown in the end.

Ctrl-C loses the cells that are being run and no other; the same command goes on.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from testnet.experiments import journal as journals
from testnet.experiments import report, results, runner
from testnet.experiments.cells import Cell
from testnet.experiments.facts import Row
from testnet.experiments.grid import Grid
from testnet.experiments.journal import Journal


@dataclass(frozen=True)
class Options:
    """jobs: cells at a time. engine: "local" or "ray". live: a progress bar, else a line a cell."""

    jobs: int = 1
    engine: str = "local"
    data_dir: Path | None = None
    parquet: bool = False
    live: bool = False


def run(grid: Grid, directory: Path, options: Options) -> Journal:
    """Run what is missing of the grid. Raises UserError; KeyboardInterrupt leaves all that was done."""
    journal = journals.begin(directory, grid)
    missing = [cell for cell in grid.cells if cell.key not in journal.rows]
    data_dir = options.data_dir.resolve() if options.data_dir is not None else None
    try:
        with _progress(grid, missing, live=options.live) as told:
            for key, outcome in _engine(options)(missing, jobs=options.jobs, data_dir=data_dir):
                if isinstance(outcome, Row):
                    journal.add(outcome)
                else:
                    journal.fail(key, outcome)
                told.cell(key, outcome)
    finally:
        if journal.rows:
            _write(journal, parquet=options.parquet)
    return journal


def _engine(options: Options):
    if options.engine == "ray":
        from testnet.experiments import on_ray  # An extra of its own.

        return on_ray.run_all
    return runner.run_all


def _write(journal: Journal, *, parquet: bool) -> None:
    rows = list(journal.rows.values())
    if parquet:
        results.write_parquet(rows, journal.directory / "rows.parquet")
    else:
        results.write_csv(rows, journal.directory / "rows.csv")
    report.write(journal)


class Progress:
    """How far it is, and how long it will take: by the client-rounds of each kind of cell that are left."""

    def __init__(self, grid: Grid, missing: Sequence[Cell]) -> None:
        self._left = {cell.key: cell for cell in missing}
        self._spent: dict[tuple[str, str, str], tuple[float, int]] = {}
        self.total, self.done = len(grid.cells), len(grid.cells) - len(missing)
        self._begun_s = time.perf_counter()
        self._work_s = 0.0

    def take(self, key: str, outcome: Row | str) -> None:
        """A cell has ended."""
        cell = self._left.pop(key)
        self.done += 1
        if isinstance(outcome, Row):
            seconds, rounds = self._spent.get(_kind(cell), (0.0, 0))
            self._spent[_kind(cell)] = seconds + outcome.wall_s, rounds + cell.client_rounds
            self._work_s += outcome.wall_s

    def left_s(self) -> float | None:
        """Seconds until the end, None while nothing is known."""
        elapsed_s = time.perf_counter() - self._begun_s
        if not self._work_s:
            return None
        all_s = sum(seconds for seconds, _ in self._spent.values())
        usual = all_s / sum(rounds for _, rounds in self._spent.values())
        rates = {kind: seconds / rounds for kind, (seconds, rounds) in self._spent.items()}
        work_s = sum(cell.client_rounds * rates.get(_kind(cell), usual) for cell in self._left.values())
        # So many of them at a time as there were until now.
        return work_s * elapsed_s / self._work_s


def _kind(cell: Cell) -> tuple[str, str, str]:
    return cell.mode, cell.dataset, cell.model


def left(seconds: float | None) -> str:
    """A time for people."""
    if seconds is None:
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"


class _Lines:
    """A line a cell."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def cell(self, key: str, outcome: Row | str) -> None:
        progress = self._progress
        progress.take(key, outcome)
        word = (
            f"accuracy {outcome.accuracy:.3f}, {outcome.wall_s:.1f} s"
            if isinstance(outcome, Row)
            else outcome
        )
        print(
            f"{progress.done} of {progress.total}, {left(progress.left_s())} left: {key} {word}",
            file=sys.stderr,
        )


class _Bar:
    """One line that moves."""

    def __init__(self, progress: Progress, bar: object, task: object) -> None:
        self._progress, self._bar, self._task = progress, bar, task

    def cell(self, key: str, outcome: Row | str) -> None:
        progress = self._progress
        progress.take(key, outcome)
        if isinstance(outcome, str):
            self._bar.console.print(f"cell {key} failed: {outcome}")  # type: ignore[attr-defined]
        told = left(progress.left_s())
        self._bar.update(self._task, completed=progress.done, left=told)  # type: ignore[attr-defined]


@contextmanager
def _progress(grid: Grid, missing: Sequence[Cell], *, live: bool) -> Iterator[_Lines | _Bar]:
    progress = Progress(grid, missing)
    if not live:
        yield _Lines(progress)
        return
    from rich import progress as bars  # Only where somebody looks.
    from rich.console import Console

    columns = (
        bars.TextColumn(grid.name), bars.BarColumn(), bars.MofNCompleteColumn(),
        bars.TextColumn("{task.fields[left]} left"), bars.TimeElapsedColumn(),
    )  # fmt: skip
    with bars.Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("cells", total=progress.total, completed=progress.done, left="?")
        yield _Bar(progress, bar, task)
