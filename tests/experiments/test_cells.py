"""A cell is a real network: it learns, names its attacker, and comes out the same each time."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest

from p2pfl.params import Layout, TensorSpec, Update
from p2pfl.store import BlobStore, BlockStore, Notes, Store, Wal
from testnet.experiments import facts, flat, inline, rooms, world
from testnet.experiments.cells import Cell
from testnet.experiments.fingerprint import fingerprint

SMALL = Cell(groups=2, rounds=4, model="logistic", seed=3)
ATTACKED = dataclasses.replace(SMALL, attack="sign_flip", share=0.125)


@pytest.fixture(scope="module")
def row() -> facts.Row:
    return facts.row_of(world.run(ATTACKED))


def test_a_network_in_memory_learns_and_slashes_who_flips_and_nobody_else(row: facts.Row) -> None:
    assert row.ended and row.rounds_done == 4
    assert (row.honest, row.attackers) == (7, 1)
    assert row.honest_client_rounds == 7 * 4
    assert row.accuracy > 0.4 > row.curve[0]
    assert (row.honest_slashed, row.attackers_slashed) == (0, 1)
    assert 0 < row.named[0] <= row.slashed_rounds[0] <= 4
    assert [kind for _, kind, _, _ in row.story if kind == "slashed"]


def test_the_same_cell_gives_the_same_row(row: facts.Row) -> None:
    again = facts.row_of(world.run(ATTACKED))
    assert json.dumps(again.stable()) == json.dumps(row.stable())


def test_another_seed_gives_another_row() -> None:
    first, second = (world.run(dataclasses.replace(SMALL, rounds=1, seed=seed)) for seed in (1, 2))
    assert facts.row_of(first).curve != facts.row_of(second).curve


def test_a_flat_rule_learns_from_everybody_and_krum_from_one() -> None:
    mean = flat.run(dataclasses.replace(SMALL, mode="flat", rule="mean", rounds=6))
    assert mean.accuracy > mean.curve[0]
    assert (mean.honest_client_rounds, mean.attackers) == (8 * 6, 0)
    attacked = flat.run(dataclasses.replace(ATTACKED, mode="flat", rule="mean", rounds=6))
    assert attacked.accuracy < mean.accuracy


def test_a_flat_rule_is_that_of_the_groups() -> None:
    layout = Layout((TensorSpec("w", (4,)),))
    rows = [np.array(v, dtype=np.int16) for v in ([1, 2, 3, 4], [3, 2, 1, 0], [900, -900, 900, -900])]
    updates = [Update(layout, (0,), values) for values in rows]
    root = Update(layout, (0,), rows[0])
    found = flat.combine("median", updates, [1, 1, 1], None, root, 1)
    assert found.values.tolist() == [3, 2, 3, 0]


def test_first_harm_is_when_the_attack_says() -> None:
    assert facts.first_harmful(SMALL) == 0
    assert facts.first_harmful(dataclasses.replace(SMALL, attack="free_rider", share=0.25)) == 1
    late = dataclasses.replace(ATTACKED, options={"honest_rounds": 3})
    assert facts.first_harmful(late) == 3


@pytest.mark.parametrize(("p_ppm", "below"), [(0, 1), (1, 1), (300, 317), (1000, 1000), (1_000_000, 1e6)])
def test_a_p_value_is_counted_in_the_bin_whose_limit_it_does_not_pass(p_ppm: int, below: float) -> None:
    limit = 10 ** (facts.bin_of(p_ppm) / facts.BINS_A_DECADE)
    assert math.isclose(limit, below, rel_tol=0.01)


# ---------------------------------------------------------------------------
# What is remembered.


def test_what_is_remembered_depends_on_the_whole_content() -> None:
    layout = Layout((TensorSpec("w", (2,)),))
    same = [Update(layout, (0,), np.array([1, 2], dtype=np.int16)) for _ in range(2)]
    others = [
        Update(layout, (1,), same[0].values),
        Update(layout, (0,), np.array([1, 3], dtype=np.int16)),
        Update(layout, (0,), np.array([1, 2], dtype=np.int32)),
    ]
    prints = [fingerprint(each) for each in (*same, *others)]
    assert prints[0] == prints[1]
    assert len(set(prints)) == 4
    assert fingerprint(((1, 2), 3)) != fingerprint(((1,), 2, 3))
    assert fingerprint(("a", b"a")) != fingerprint((b"a", "a"))
    with pytest.raises(TypeError, match="no fingerprint"):
        fingerprint(object())


def test_memory_calls_once_and_remembers_no_exception() -> None:
    calls: list[int] = []

    def work(value: int) -> int:
        calls.append(value)
        return 1 // value

    memory = inline.Memory(most=2)
    assert [memory.call(work, each) for each in (1, 1, 1)] == [1, 1, 1]
    assert calls == [1]
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            memory.call(work, 0)
    assert calls == [1, 0, 0]
    memory.call(work, 2)
    memory.call(work, 3)
    memory.call(work, 1)
    assert calls[-1] == 1  # The oldest was forgotten.


# ---------------------------------------------------------------------------
# What a node keeps, in memory.


@pytest.mark.parametrize(
    ("kept", "real", "of_files"),
    [
        (rooms.MemoryBlobs, BlobStore, {"path", "known_runs", "know_runs", "set_aside"}),
        (rooms.MemoryChain, BlockStore, set[str]()),
        (rooms.MemoryLog, Wal, {"kept"}),
        (rooms.MemoryNotes, Notes, set[str]()),
        (rooms.MemoryStore, Store, {"chains"}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_rooms_in_memory_offer_what_those_on_the_disk_do(kept: type, real: type, of_files: set[str]) -> None:
    wanted = {name for name in vars(real) if not name.startswith("_")} - of_files
    assert wanted <= set(dir(kept))
