"""Twins among four members, every schedule of two rounds and some of three; samples of four and seven."""

from __future__ import annotations

import json

import pytest

from tests.sim.__main__ import bug
from tests.twins.__main__ import main
from tests.twins.schedules import exhaust, partitions, renamings, sample
from tests.twins.stage import Act, Stage

ALL = frozenset(range(5))
TOGETHER = (0, 0, 0, 0, 0)


def test_every_schedule_of_two_rounds_and_a_part_of_three_keeps_what_was_decided() -> None:
    found = exhaust(rounds=3, part=(0, 200))
    assert found.broken is None, found
    assert found.schedules > 10_000
    assert found.states > 100


@pytest.mark.soak
def test_every_schedule_of_three_rounds_keeps_what_was_decided() -> None:
    found = exhaust()
    assert found.broken is None, found
    assert found.schedules > 100_000


@pytest.mark.parametrize(("members", "pairs", "seeds"), [(4, 1, range(1000)), (7, 2, range(300))], ids=str)
def test_samples_keep_what_was_decided(members: int, pairs: int, seeds: range) -> None:
    found = sample(members, pairs, seeds)
    assert found.broken is None, found


def test_partitions_of_five_are_counted_by_bell() -> None:
    assert [len(list(partitions(n))) for n in range(1, 6)] == [1, 2, 5, 15, 52]
    assert len(renamings(4, 3)) == 12


def test_twins_that_are_led_by_themselves_propose_two_blocks_and_one_is_decided() -> None:
    stage = Stage(4, (3,), [3])
    stage.act(0, Act(3, TOGETHER, ALL))
    stage.heal(1)
    assert sorted(process for _, process in stage.names.values()) == [3, 4]
    assert set(stage.decided) >= {0, 1, 2}


def test_who_gets_no_commit_decides_the_same_in_a_later_round() -> None:
    stage = Stage(4, (3,), [0, 1])
    stage.act(0, Act(0, TOGETHER, frozenset({2})))
    assert set(stage.decided) == {2}
    stage.act(
        1, Act(1, (0, 0, 1, 0, 1), ALL)
    )  # Without the one who decided: locked members propose it again.
    assert set(stage.decided) >= {0, 1, 2}
    assert len({decided.block for decided in stage.decided.values()}) == 1


def test_a_quorum_that_is_too_small_breaks_a_schedule_of_one_round() -> None:
    found = exhaust(rounds=1, replica=bug("quorum minus one")["replica"])
    assert found.oracle == "agreement"
    assert len(found.schedule) == 1


def test_twins_invent_nothing_so_a_forged_certificate_is_not_in_their_power() -> None:
    found = sample(4, 1, range(200), replica=bug("prepared certificate unverified")["replica"])
    assert found.broken is None


def test_the_command_prints_its_figures(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--rounds", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["broken"] is None
    assert main(["--members", "7", "--seeds", "0:5", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["schedules"] == 5
    assert main(["--rounds", "1", "--mutant", "quorum minus one", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["oracle"] == "agreement"
