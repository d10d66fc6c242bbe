"""A clock that is wrong costs its owner a round; more than f of them are said aloud, with what to do."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pytest

from consensus.types import ZERO_DIGEST, Header, MemberId
from p2pfl import telemetry
from p2pfl.errors import PeerFault
from p2pfl.rounds.clocks import Clocks

NOW_MS = 1_700_000_000_000
HOUR_MS = 3_600_000
MEMBERS = [MemberId(bytes([each]) * 20) for each in range(4)]
LOUD = "the clocks of this group are too far apart"


@pytest.fixture
def told() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    telemetry.configure(level="warning", stream=stream)
    yield stream
    telemetry.configure()


@pytest.fixture
def clocks() -> Clocks:
    names = {member: f"g0m{each}" for each, member in enumerate(MEMBERS)}
    return Clocks(faulty_max=1, skew_ms_max=30_000, clock_ms=lambda: NOW_MS, name_of=names.__getitem__)


def proposal(who: int, apart_ms: int) -> Header:
    digest = ZERO_DIGEST
    return Header(1, digest, digest, 0, 5, digest, MEMBERS[who], NOW_MS + apart_ms, digest, digest, digest)


def refused(clocks: Clocks, who: int, apart_ms: int) -> str:
    with pytest.raises(PeerFault) as caught:
        clocks.judge(proposal(who, apart_ms))
    assert caught.value.reason == "clock"
    return caught.value.detail


def test_a_time_within_the_skew_is_taken(clocks: Clocks, told: io.StringIO) -> None:
    clocks.judge(proposal(1, 30_000))
    clocks.judge(proposal(1, -30_000))
    assert told.getvalue() == ""


def test_a_time_beyond_it_is_refused_by_how_much(clocks: Clocks, told: io.StringIO) -> None:
    assert "30001 ms" in refused(clocks, 1, 30_001)
    assert "-3600000 ms" in refused(clocks, 1, -HOUR_MS)
    assert told.getvalue() == ""  # One wrong clock, however often, stops nobody.


def test_more_than_f_wrong_clocks_are_an_error_that_names_them(clocks: Clocks, told: io.StringIO) -> None:
    refused(clocks, 1, HOUR_MS)
    refused(clocks, 2, -HOUR_MS)
    line = told.getvalue()
    assert line.count("\n") == 1
    assert LOUD in line
    assert "error" in line
    assert "g0m1 +3600 s, g0m2 -3600 s" in line
    assert "NTP" in line


def test_who_is_right_again_no_longer_counts(clocks: Clocks, told: io.StringIO) -> None:
    refused(clocks, 1, HOUR_MS)
    clocks.judge(proposal(1, 0))
    refused(clocks, 2, HOUR_MS)
    assert told.getvalue() == ""
