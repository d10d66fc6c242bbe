"""With real training: who turns its updates round is named within a few rounds, and nobody else."""

from __future__ import annotations

import pytest

from .training import learn


@pytest.mark.slow
def test_a_flipper_is_named_and_found_guilty_and_nobody_else_is() -> None:
    run = learn(1, {7: 1.0}, rounds=4)
    assert run.first is not None and run.first <= 2
    assert run.wrong == []
    assert run.outcomes == ["guilty"]


@pytest.mark.slow
def test_honest_members_learn_and_nobody_is_named() -> None:
    run = learn(1, {}, rounds=4)
    assert run.named == [] and run.apart == 0
    assert run.accuracy[-1] >= 0.6 and run.accuracy[-1] > run.accuracy[0] + 0.2


@pytest.mark.soak
@pytest.mark.parametrize("scale", [0.0, 1.0, 2.0, 3.0])
def test_over_twelve_seeds_every_flipper_is_named_and_wrong_cases_are_rare(scale: float) -> None:
    wrong = 0
    for seed in range(1, 13):
        run = learn(seed, {seed * 7 % 12: scale} if scale else {})
        wrong += len(run.wrong)
        assert not scale or (run.first is not None and run.first <= 6), seed
    assert wrong <= 2
