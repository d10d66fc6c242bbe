"""Everything that a scenario or a genesis may name of learning is in the handbook."""

from __future__ import annotations

from pathlib import Path

import pytest

from p2pfl.learn.datasets import dataset
from p2pfl.learn.models import model
from p2pfl.learn.optimizers import optimizer
from p2pfl.learn.partitions import partitioner
from testnet.scenarios import TRAINING

HANDBOOK = (Path(__file__).parents[2] / "docs" / "testnet.md").read_text(encoding="utf-8")
NAMES = [name for table in (dataset, model, optimizer, partitioner) for name in table.names()]


@pytest.mark.parametrize("name", [*(name for name in NAMES if not name.startswith("tests_")), *TRAINING])
def test_whatever_can_be_named_is_in_the_handbook(name: str) -> None:
    section = HANDBOOK.partition("## Data, models and training")[2].partition("\n## ")[0]
    assert f"`{name}`" in section
