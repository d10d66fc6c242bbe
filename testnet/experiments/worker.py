"""One process of a grid: cells come in as JSON lines, rows go out as JSON lines, until there are no more.

python -m testnet.experiments.worker [DATA_DIR]
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from p2pfl import telemetry
from testnet.experiments.cells import Cell
from testnet.experiments.facts import Row


def run_cell(cell: Cell, data_dir: Path | None) -> Row:
    """One cell, whichever its mode, and how long it took."""
    from testnet.experiments import (  # Half of the node and torch: not before they are needed.
        facts,
        flat,
        world,
    )

    cpu_s, wall_s = time.process_time(), time.perf_counter()
    row = flat.run(cell, data_dir) if cell.mode == "flat" else facts.row_of(world.run(cell, data_dir))
    row.cpu_s = round(time.process_time() - cpu_s, 3)
    row.wall_s = round(time.perf_counter() - wall_s, 3)
    return row


def answer_to(cell: Cell, data_dir: Path | None) -> dict[str, Any]:
    """What a cell is answered: a row, or why there is none."""
    try:
        return {"row": dataclasses.asdict(run_cell(cell, data_dir))}
    except Exception as error:  # noqa: BLE001 (one cell must not end the grid)
        print(traceback.format_exc(), file=sys.stderr)
        leaf: BaseException = error
        while isinstance(leaf, BaseExceptionGroup):
            leaf = leaf.exceptions[0]
        return {"why": f"{type(leaf).__name__}: {leaf}".splitlines()[0][:300]}


def main() -> None:
    """Answer every line."""
    # Whatever prints must not come between the answers.
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    telemetry.configure(level="error")
    data_dir = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    for line in sys.stdin:
        found = answer_to(Cell(**json.loads(line)), data_dir)
        try:
            print(json.dumps(found, separators=(",", ":")), file=out, flush=True)
        except BrokenPipeError:  # Whoever asked has gone.
            os._exit(1)


if __name__ == "__main__":
    main()
