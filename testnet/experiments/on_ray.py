"""A grid spread over a Ray cluster: a cell a task, wherever there is a processor.

Without a cluster that RAY_ADDRESS names, Ray starts one on this machine. The package must be installed on
every machine, and a data set's folder lie there under the same path.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from p2pfl import telemetry
from p2pfl.errors import UserError
from testnet.experiments import worker
from testnet.experiments.cells import Cell
from testnet.experiments.facts import Row
from testnet.experiments.runner import ENVIRONMENT, Outcome

# Tasks in Ray's hands, a processor each: enough that none waits, few enough that Ctrl-C is quick.
AHEAD = 2


def run_all(cells: Sequence[Cell], *, jobs: int, data_dir: Path | None) -> Iterator[Outcome]:
    """As `runner.run_all`; jobs counts on this machine only, a cluster has as many as it has processors."""
    try:
        import ray  # type: ignore[import-not-found]
    except ImportError as error:
        raise UserError(
            "there is no Ray here",
            because="the package ray is not installed",
            fix="pip install 'p2pfl-mps[ray]', or --engine local",
        ) from error
    address = os.environ.get("RAY_ADDRESS")
    ours: dict[str, Any] = {} if address else {"num_cpus": jobs, "include_dashboard": False}
    environment = {**ENVIRONMENT, "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    ray.init(address=address, runtime_env={"env_vars": environment}, logging_level="error", **ours)
    try:
        yield from _spread(ray, cells, data_dir)
    finally:
        ray.shutdown()


def _spread(ray: Any, cells: Sequence[Cell], data_dir: Path | None) -> Iterator[Outcome]:
    where = None if data_dir is None else str(data_dir)
    task = ray.remote(num_cpus=1, max_retries=0)(_cell)
    waiting, running = list(reversed(cells)), dict[Any, str]()
    while waiting or running:
        room = max(1, int(ray.cluster_resources().get("CPU", 1))) * AHEAD - len(running)
        for _ in range(min(room, len(waiting))):
            cell = waiting.pop()
            running[task.remote(dataclasses.asdict(cell), where)] = cell.key
        for ended in ray.wait(list(running), num_returns=1)[0]:
            key = running.pop(ended)
            try:
                answer = ray.get(ended)
            except ray.exceptions.RayError as error:
                yield key, str(error).splitlines()[0]
                continue
            yield key, Row(**answer["row"]) if "row" in answer else str(answer["why"])


def _cell(values: dict[str, Any], data_dir: str | None) -> dict[str, Any]:
    """On some machine: the answer of a worker."""
    telemetry.configure(level="error")
    return worker.answer_to(Cell(**values), None if data_dir is None else Path(data_dir))
