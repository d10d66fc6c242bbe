"""Members come and go while the rounds go on: the short form; and growth is found where there is some."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.live.churn import ALLOWANCE, grown, held_by, quarters
from tests.live.figures import rounds_of
from tests.live.shape import GROUP
from tests.live.typed import typed

RUN_S_MAX = 400


def series(**last: int) -> list[dict[str, int]]:
    """A process' life: flat, with something more in its last quarter."""
    flat = {"rss_bytes": 100 << 20, "descriptors": 40, "tasks": 90}
    more = {what: value + last.get(what, 0) for what, value in flat.items()}
    return [flat] * 30 + [more] * 10


@pytest.mark.parametrize("what", ALLOWANCE)
def test_what_grows_in_the_second_half_is_found(what: str) -> None:
    assert grown({"g0m0": series()}) == []
    assert grown({"g0m0": series(**{what: ALLOWANCE[what]})}) == []
    (found,) = grown({"g0m0": series(**{what: ALLOWANCE[what] + 1})})
    assert found.startswith(f"g0m0's {what} grew")


def test_a_process_that_hardly_says_anything_is_not_flat() -> None:
    assert grown({"g0m0": series()[:10]}) == ["g0m0 told only 10 times what it holds"]
    assert quarters([]) == {}


def test_only_those_who_stay_are_looked_at() -> None:
    told = {"kind": "process", "rss_bytes": 1, "descriptors": 2, "tasks": 3, "at_s": 1.0, "life": 0}
    held = held_by([{**told, "by": "g0m0"}, {**told, "by": "g0m3"}, {"kind": "step", "by": "g0m0"}], ["g0m0"])
    assert held == {"g0m0": [{"rss_bytes": 1, "descriptors": 2, "tasks": 3}]}


def test_rounds_are_counted_from_what_the_first_member_tells() -> None:
    def told(kind: str, height: int, at_s: float, **more: Any) -> dict[str, Any]:
        return {"kind": kind, "group": GROUP, "height": height, "at_s": at_s, **more}

    figures = rounds_of(
        [
            told("decided", 4, 1.0, round=0),
            told("step", 5, 1.5, step="propose"),
            told("step", 5, 1.7, step="prepare"),
            told("decided", 5, 2.0, round=0),
            told("decided", 5, 2.4, round=0),
            told("step", 6, 2.5, step="propose"),
            told("decided", 6, 9.0, round=2),
        ]
    )
    assert figures["heights"] == 3
    assert figures["round_s"] == {"median": 4.0, "p95": 7.0, "max": 7.0}
    assert figures["decision_s"]["max"] == 0.5  # Of the heights that needed one round.
    assert (figures["changed"], figures["round_changes"]) == (1, 2)


@pytest.mark.e2e
@pytest.mark.slow
def test_nobody_is_lost_while_members_come_and_go(tmp_path: Path) -> None:
    words = ("churn", "--minutes", "2.5", "--every", "8")
    result = typed(*words, directory=tmp_path, timeout_s=RUN_S_MAX)
    assert result["findings"] == []
    assert result["held"] is True
    assert result["killed"] + result["terminated"] >= 5
    assert result["heights"] > 10
    assert {name: set(held) for name, held in result["processes"].items()} == {
        "g0m0": set(ALLOWANCE),
        "seat0": set(ALLOWANCE),
    }
