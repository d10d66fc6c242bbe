"""The driver's clock: a refused proposal ends its round soon, and later each time."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import trio
from trio.testing import MockClock

from consensus import types as ct
from consensus.signing import Domain
from p2pfl.rounds.driver import REFUSED_DOUBLINGS_MAX, REFUSED_S, Driver

ZERO = ct.Digest(bytes(32))


class Refusing:
    """An application to which no block is good."""

    async def validate(self, effect: ct.Validate) -> bool:
        return False


async def test_a_round_whose_proposal_is_refused_ends_soon_and_later_each_time(
    autojump_clock: MockClock,
) -> None:
    me = ct.MemberId(b"m" * 20)
    driver = Driver(
        replica=cast(Any, SimpleNamespace()),
        app=cast(Any, Refusing()),
        domain=Domain(0, ct.ZERO_MEMBER, ZERO),
        wal=cast(Any, None),
        guard=cast(Any, None),
        network=cast(Any, None),
        me=me,
        members=(me,),
        on_fault=lambda fault: None,
        on_behind=lambda peer, height: None,
        on_vote=lambda kind: None,
    )
    fed: list[ct.Event] = []
    driver._feed = fed.append  # type: ignore[method-assign]
    header = ct.Header(1, ZERO, ZERO, 0, 0, ZERO, me, 1, ZERO, ZERO, ZERO)
    for round_, pause_s in ((0, REFUSED_S), (1, 2 * REFUSED_S), (50, REFUSED_S * 2**REFUSED_DOUBLINGS_MAX)):
        began = trio.current_time()
        await driver._validate(ct.Validate(0, round_, ct.Block(header, b""), True))
        assert abs(trio.current_time() - began - pause_s) < 1e-6
        answer, end = fed[-2:]
        assert isinstance(answer, ct.Validated)
        assert not answer.valid
        assert end == ct.Elapsed(0, round_)
