"""Whose clock is wrong? Judged by the times of fresh proposals, and told to the operator when it matters.

One proposer whose time is far from mine costs a round. When more than f members are apart from me, an honest
one is among them: then it is my clock, or more than f others' are wrong and nothing can be decided. Knows
times and members only; where the time comes from is in `context`.
"""

from __future__ import annotations

from collections.abc import Callable

from consensus.types import Header, MemberId
from p2pfl.errors import PeerFault
from p2pfl.telemetry import logger

log = logger("rounds.clocks")


class Clocks:
    """The other clocks of one committee, as their last fresh proposals showed them."""

    def __init__(
        self,
        *,
        faulty_max: int,
        skew_ms_max: int,
        clock_ms: Callable[[], int],
        name_of: Callable[[MemberId], str],
    ) -> None:
        self._faulty_max = faulty_max
        self._skew_ms_max = skew_ms_max
        self._clock_ms = clock_ms
        self._name_of = name_of
        self._apart_ms: dict[MemberId, int] = {}  # One entry a member at most.

    def judge(self, header: Header) -> None:
        """A fresh proposal's time is close to mine. Raises PeerFault when it is not."""
        apart_ms = header.time_ms - self._clock_ms()
        if abs(apart_ms) <= self._skew_ms_max:
            self._apart_ms.pop(header.proposer, None)
            return
        self._apart_ms[header.proposer] = apart_ms
        if len(self._apart_ms) > self._faulty_max:
            apart = sorted((self._name_of(member), ms) for member, ms in self._apart_ms.items())
            log.error(
                "the clocks of this group are too far apart, and nothing is decided until they agree",
                apart=", ".join(f"{name} {ms / 1000:+.0f} s" for name, ms in apart),
                at_most=f"{self._skew_ms_max / 1000:g} s",
                fix="set the clock of this machine (NTP); if it is right, those members must set theirs",
            )
        raise PeerFault("clock", f"its time is {apart_ms} ms from mine; one of the two clocks is wrong (NTP)")
