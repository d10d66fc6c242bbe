"""The judge says no, with a reason, for everything that a claim excludes."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from testnet.facts import Event, Facts, percentile
from testnet.judge import CONDITIONS, Killed, Outcome, judge
from testnet.scenarios import Scenario, load


def told(facts: Facts, name: str, kind: str, **fields: Any) -> None:
    facts.take(Event(name, kind, fields, 1.0))


def decided(facts: Facts, group: str, height: int, *, by: str, block: str | None = None, **more: Any) -> None:
    fields = {"group": group, "height": height, "round": 0, "block_id": block or f"0x{group}{height}"}
    told(facts, by, "decided", proposer=by, seconds=1.0 + height, **fields, **more)


def good_run(scenario: Scenario) -> Outcome:
    """A run in which all went well: every round decided by everybody, the culprits accused and slashed."""
    facts = Facts()
    for group in range(scenario.network.groups):
        for height in range(scenario.network.rounds):
            for member in range(scenario.network.members):
                decided(facts, f"g{group}", height, by=f"g{group}m{member}")
            told(facts, f"g{group}m0", "evaluated", group=f"g{group}", height=height, accuracy=0.95)
    for culprit in scenario.culprits:
        told(facts, "g0m0", "evidence", accused=culprit, offence=2, height=3)
    outcome = Outcome(facts, slashed=list(scenario.culprits), tombstoned=list(scenario.culprits))
    outcome.killed = [Killed("g0m0", kill.group, kill.height, 9, 9) for kill in scenario.kills]
    return outcome


def test_a_good_run_holds_and_a_bad_one_does_not() -> None:
    for name in ("honest", "sign_flip", "equivocate", "crash"):
        scenario = load(name)
        assert judge(scenario, good_run(scenario)) == []
        assert judge(scenario, Outcome(Facts())) != []


def test_who_is_slashed_without_cause_is_named() -> None:
    scenario = load("honest")
    outcome = good_run(scenario)
    outcome.slashed = ["g1m1"]
    assert judge(scenario, outcome) == ["g1m1 was slashed, and is no culprit"]


def test_who_is_cleared_is_not_accused_and_who_opens_nothing_is() -> None:
    facts = Facts()
    for case, accused, outcome in (
        ("0x1", "g0m0", "cleared"),
        ("0x2", "g0m1", "no_opening"),
        ("0x3", "g0m2", "guilty"),
    ):
        told(facts, "seat0", "case", case_id=case, group="g0", height=1, accused=accused, cause="group_apart")
        told(facts, "seat0", "outcome", case_id=case, accused=accused, outcome=outcome)
    told(facts, "seat0", "case", case_id="0x4", group="g0", height=2, accused=None, cause="group_apart")
    assert facts.accused() == ["g0m1", "g0m2"]
    told(facts, "seat0", "case", case_id="0x5", group="g0", height=2, accused="g0m3", cause="hard_rule")
    assert facts.open_cases() == ["0x5"]  # 0x4 accuses nobody: it is on record, and that was all.


def test_a_fork_always_counts() -> None:
    scenario = load("honest")
    outcome = good_run(scenario)
    decided(outcome.facts, "g1", 5, by="g1m2", block="0xother")
    assert judge(scenario, outcome) == ["two blocks were decided in g1 at height 5"]


def test_a_node_that_fell_over_always_counts() -> None:
    scenario = load("honest")
    outcome = good_run(scenario)
    outcome.died = {"g0m3": 70}
    assert judge(scenario, outcome) == ["g0m3 ended by itself (status 70)"]


def test_each_condition_of_a_crash_can_fail() -> None:
    scenario = load("crash")
    for broken, words in (
        (Killed("g0m0", "g0", 4, 3, 9), "did not catch up"),
        (Killed("g0m0", "g0", 4, 9, 4), "did not vote again"),
        (Killed("g0m0", "g0", 9, 9, 9), "went no further"),
    ):
        outcome = good_run(scenario)
        outcome.killed = [broken]
        assert any(words in each for each in judge(scenario, outcome)), words
    outcome.killed = []
    assert any("nobody was killed" in each for each in judge(scenario, outcome))


def test_accuracy_is_that_of_the_last_round() -> None:
    scenario = dataclasses.replace(load("honest"), holds={"accuracy_min": 0.9})
    outcome = good_run(scenario)
    told(outcome.facts, "seat0", "evaluated", group="council", height=9, accuracy=0.89)
    assert judge(scenario, outcome) == ["the accuracy is 0.890, not 0.9 or more"]


def test_a_condition_that_is_false_is_not_asked() -> None:
    scenario = dataclasses.replace(load("honest"), holds={"all_rounds": False})
    assert judge(scenario, Outcome(Facts())) == []


def harmed(**holds: Any) -> tuple[Scenario, Outcome]:
    """A run of two rounds in which g1m2 counts in the first block of its group, and g1m0 in both."""
    scenario = dataclasses.replace(load("honest"), left_out=("g1m2",), culprits=("g1m2",), holds=holds)
    outcome = Outcome(Facts())
    members = ["g1m0", "g1m2"]
    decided(outcome.facts, "g1", 0, by="g1m0", members=members, left_out=[])
    decided(outcome.facts, "g1", 1, by="g1m0", members=members, left_out=["g1m2"])
    decided(outcome.facts, "council", 0, by="seat0", members=["g0", "g1"], left_out=["g1"])
    return scenario, outcome


@pytest.mark.parametrize(
    ("name", "holds", "fails"),
    [
        ("left_out_within", 2, 1),
        ("counts_at_most", 0.5, 0.4),
        ("count_in_the_end", ["g1m0"], ["g1m2"]),
        ("group_left_out", "g1", "g0"),
    ],
)
def test_who_is_left_out_is_read_from_the_blocks(name: str, holds: Any, fails: Any) -> None:
    assert judge(*harmed(**{name: holds})) == []
    (why,) = judge(*harmed(**{name: fails}))
    assert "g1m2" in why or "g0" in why


def test_who_else_is_accused_or_slashed_is_named() -> None:
    scenario, outcome = harmed(nobody_else_accused=True, nobody_else_slashed=True)
    told(outcome.facts, "seat0", "evidence", accused="g1m2", offence=2, height=1)
    outcome.slashed = ["g1m2"]
    assert judge(scenario, outcome) == []
    told(outcome.facts, "seat0", "evidence", accused="g0m1", offence=2, height=1)
    outcome.slashed.append("g0m1")
    assert judge(scenario, outcome) == ["g0m1 was accused", "g0m1 was slashed, and is no culprit"]


def test_cases_are_closed_in_time_and_well() -> None:
    scenario, outcome = harmed(named_within=3, cleared=["g1m0"])
    assert len(judge(scenario, outcome)) == 2
    for case, accused, height, end in (("0x1", "g1m2", 2, "guilty"), ("0x2", "g1m0", 2, "cleared")):
        told(outcome.facts, "seat0", "case", case_id=case, group="g1", height=height, accused=accused)
        told(outcome.facts, "seat0", "outcome", case_id=case, accused=accused, outcome=end)
    assert judge(scenario, outcome) == []
    late = dataclasses.replace(scenario, holds={"named_within": 2})
    assert judge(late, outcome) == ["g1m2 was not found guilty of one of its first 2 rounds"]


def test_a_lie_must_be_told_and_must_not_be_decided() -> None:
    scenario, outcome = harmed(no_lie_decided=True)
    assert judge(scenario, outcome) == ["nobody lied: the moment never came"]
    told(outcome.facts, "g1m2", "lied", group="g1", height=1, block_id="0xfalse")
    assert judge(scenario, outcome) == []
    told(outcome.facts, "g1m2", "lied", group="g1", height=1, block_id="0xg11")
    assert judge(scenario, outcome) == ["the lie 0xg11 was decided in g1 at height 1"]


def test_conditions_say_what_they_mean() -> None:
    assert all(function.__doc__ for function in CONDITIONS.values())


def test_percentiles_are_of_what_was_measured() -> None:
    values = [float(each) for each in range(1, 101)]
    assert percentile(values, 0.5) == 51
    assert percentile(values, 0.95) == 96
    assert percentile([], 0.5) is None


def test_bytes_of_both_lives_count() -> None:
    facts = Facts()
    for life, sent in ((0, 10), (0, 30), (1, 5)):
        facts.take(Event("g0m0", "wire", {"sent": {"messages": sent}}, 1.0, life))
    facts.take(Event("g0m1", "wire", {"sent": {"messages": 2, "blobs": 7}}, 1.0))
    assert facts.wire_bytes() == {"blobs": 7, "messages": 37}
