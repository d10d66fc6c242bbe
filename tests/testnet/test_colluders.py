"""What colluders send is what the papers say, and they know it of one another in time."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import trio
import trio.testing

from consensus.types import MemberId
from p2pfl.errors import UserError
from testnet.attacks import cabal, colluders
from testnet.attacks.lying import Delta, Training, jittered

RNG = np.random.default_rng(5)
HONEST = RNG.normal(1.0, 0.5, (9, 40))


def training(delta: Delta, *, base: float = 0.0, member: int = 1) -> Training:
    start = np.full(len(delta), base, dtype=np.float32)
    return Training(start, bytes(32), MemberId(bytes([member]) * 20), delta)


def knower(run: Path, name: str, *names: str) -> cabal.Knowledge:
    parts: Any = SimpleNamespace(
        name=name,
        settings=SimpleNamespace(dir=run / "nodes" / name),
        genesis=SimpleNamespace(times=SimpleNamespace(train_ms=5_000)),
        desk=SimpleNamespace(),
    )
    return cabal.Knowledge(parts, names)


@pytest.mark.parametrize(
    ("members", "attackers", "wanted"),
    # Baruch et al., section 3.2: 50 workers, 24 of them corrupted, 2 supporters are needed: 24 of 26 honest.
    [(50, 24, 1.4261), (50, 12, 0.3360), (4, 1, 0.0), (5, 1, 0.0), (8, 2, 0.0)],
)
def test_z_is_that_of_the_paper(members: int, attackers: int, wanted: float) -> None:
    assert colluders.z_max(members, attackers) == pytest.approx(wanted, abs=1e-4)


def test_a_little_is_so_many_deviations_below_the_mean() -> None:
    sent = colluders.alie_vector(HONEST, z=1.5)
    np.testing.assert_allclose((HONEST.mean(0) - sent) / HONEST.std(0), 1.5)


def test_the_inner_product_with_the_mean_is_negative() -> None:
    assert colluders.ipm_vector(HONEST, 0.5) @ HONEST.mean(0) == pytest.approx(
        -0.5 * (HONEST.mean(0) @ HONEST.mean(0))
    )


@pytest.mark.parametrize("direction", sorted(colluders.DIRECTIONS))
def test_min_max_is_as_far_from_the_farthest_as_two_honest_are_apart(direction: str) -> None:
    sent = colluders.min_max_vector(HONEST, direction)
    apart = max(float(np.linalg.norm(a - b)) for a in HONEST for b in HONEST)
    assert max(float(np.linalg.norm(sent - u)) for u in HONEST) == pytest.approx(apart)


@pytest.mark.parametrize("direction", sorted(colluders.DIRECTIONS))
def test_min_sum_is_as_far_from_all_as_the_farthest_honest_one(direction: str) -> None:
    sent = colluders.min_sum_vector(HONEST, direction)
    most = max(sum(float(((a - b) ** 2).sum()) for b in HONEST) for a in HONEST)
    assert sum(float(((sent - u) ** 2).sum()) for u in HONEST) == pytest.approx(most)


def test_who_knows_only_itself_does_no_harm() -> None:
    for vector in (colluders.alie_vector, colluders.min_max_vector, colluders.min_sum_vector):
        np.testing.assert_array_equal(vector(HONEST[:1]), HONEST[0])


def test_jitter_takes_two_equal_vectors_apart_and_is_the_members_own() -> None:
    shared = HONEST.mean(0)
    first, second, again = (jittered(shared, training(shared, member=m), 0.2) for m in (1, 2, 1))
    np.testing.assert_array_equal(first, again)
    longer = max(np.linalg.norm(first), np.linalg.norm(second))
    assert 0.15 < float(np.linalg.norm(first - second) / longer) < 0.4
    assert jittered(shared, training(shared), 0.0) is shared


def test_a_wrong_direction_is_told_the_right_ones() -> None:
    with pytest.raises(UserError, match="deviation, unit, sign"):
        colluders.find_direction("up")


# -- what they know ----------------------------------------------------------------


async def test_three_in_one_process_know_the_same(tmp_path: Path, autojump_clock: Any) -> None:
    names = ("g0m0", "g0m1", "g1m0")
    knowers = [knower(tmp_path, name, *names) for name in names]
    known: list[Any] = [None] * 3

    async def learn(index: int) -> None:
        await trio.sleep(index / 2)  # Some are done sooner; nobody waits two seconds.
        known[index] = await knowers[index].updates(training(HONEST[index]))

    async with trio.open_nursery() as nursery:
        for index in range(3):
            nursery.start_soon(learn, index)
    for each in known:
        np.testing.assert_array_equal(each, HONEST[:3])
    assert not (tmp_path / "cabal").exists()


async def test_who_waits_in_vain_goes_on_alone(tmp_path: Path, autojump_clock: Any) -> None:
    first, _ = knower(tmp_path, "g0m0", "g0m1"), knower(tmp_path, "g0m1", "g0m0")
    begun = trio.current_time()
    np.testing.assert_array_equal(await first.updates(training(HONEST[0])), HONEST[:1])
    assert trio.current_time() - begun == pytest.approx(5.0 * cabal.PATIENCE_SHARE, abs=0.2)


async def test_other_processes_are_told_through_files(tmp_path: Path, autojump_clock: Any) -> None:
    names = ("g0m0", "g0m1", "g1m0")
    # Three objects that do not know of one another, as in three processes.
    apart = [cabal.Cabal(tmp_path / "cabal", names) for _ in names]
    for each, name in zip(apart, names, strict=True):
        each.here.add(name)
    told: list[dict[str, Delta]] = [{}] * 3

    async def share(index: int) -> None:
        told[index] = await apart[index].share(names[index], training(HONEST[index]), 3.0)

    async with trio.open_nursery() as nursery:
        for index in range(3):
            nursery.start_soon(share, index)
    for each in told:
        assert list(each) == list(names)
        np.testing.assert_array_equal(np.stack(list(each.values())), HONEST[:3])
    for base in range(2 * cabal.BASES_KEPT):
        await apart[0].share(names[0], training(HONEST[0], base=base), 0.0)
    assert len(list((tmp_path / "cabal").glob("*.g0m0.npy"))) == cabal.BASES_KEPT
