"""Cells on many processors: a process a job, cells one after the other, each result as soon as it is there.

The processes are fresh interpreters with a fixed order of hashes, so that a cell gives the same result
wherever it runs. One that dies takes its cell with it and no other.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from testnet.experiments.cells import Cell
from testnet.experiments.facts import Row

# One thread each: there are as many processes as processors.
ENVIRONMENT = {
    "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1",
}  # fmt: skip
# After so many cells a process makes room for a fresh one: what torch and the allocators keep is given back.
CELLS_A_PROCESS = 200

# A cell's key, and its row or why it failed.
Outcome = tuple[str, Row | str]


def run_all(cells: Sequence[Cell], *, jobs: int, data_dir: Path | None) -> Iterator[Outcome]:
    """Results in the order in which they come. Ends its processes, also when it is given up."""
    waiting: queue.SimpleQueue[Cell] = queue.SimpleQueue()
    done: queue.SimpleQueue[Outcome | BaseException] = queue.SimpleQueue()
    for cell in cells:
        waiting.put(cell)
    hands = [_Hand(waiting, done, data_dir) for _ in range(min(jobs, len(cells)))]
    try:
        for hand in hands:
            hand.start()
        for _ in cells:
            found = done.get()
            if isinstance(found, BaseException):
                raise found
            yield found
    finally:
        for hand in hands:
            hand.stop()


class _Hand(threading.Thread):
    """Feeds one process."""

    def __init__(self, waiting: Any, done: Any, data_dir: Path | None) -> None:
        super().__init__(daemon=True)
        self._waiting, self._done, self._data_dir = waiting, done, data_dir
        self._process: subprocess.Popen[str] | None = None
        self._stopped = False
        self._cells = 0

    def run(self) -> None:
        """Until no cell waits."""
        try:
            while not self._stopped:
                try:
                    cell = self._waiting.get_nowait()
                except queue.Empty:
                    break
                outcome = cell.key, self._ask(cell)
                if self._stopped:
                    return
                self._done.put(outcome)
            self._end()
        except BaseException as error:  # noqa: BLE001 (told where the results are waited for)
            self._done.put(error)

    def stop(self) -> None:
        """Now, whatever it does."""
        self._stopped = True
        process = self._process
        if process is not None:
            process.kill()
        if self.ident is not None:
            self.join()
        self._end()

    def _ask(self, cell: Cell) -> Row | str:
        process = self._start()
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(json.dumps(dataclasses.asdict(cell)) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except OSError as error:
            line = ""
            if not self._stopped:
                print(f"the process of a cell is gone: {error}", file=sys.stderr)
        if not line:
            self._end()
            return f"its process ended with status {process.returncode}"
        answer = json.loads(line)
        self._cells += 1
        if self._cells >= CELLS_A_PROCESS:
            self._end()
        return Row(**answer["row"]) if "row" in answer else str(answer["why"])

    def _start(self) -> subprocess.Popen[str]:
        if self._process is None:
            self._cells = 0
            where = [] if self._data_dir is None else [str(self._data_dir)]
            self._process = subprocess.Popen(
                [sys.executable, "-m", "testnet.experiments.worker", *where],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,  # Ctrl-C is for whoever started it.
                env={**os.environ, **ENVIRONMENT, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
            )
        return self._process

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            assert process.stdin is not None and process.stdout is not None
            with contextlib.suppress(OSError):
                process.stdin.close()
            process.wait()
            process.stdout.close()
