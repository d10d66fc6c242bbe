"""What a seat agrees to of comings and goings, by what it has heard itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio
from trio.testing import MockClock

from consensus.signing import sign, signing_digest
from consensus.types import Digest, RoundChange, SignedRoundChange
from p2pfl.errors import PeerFault
from p2pfl.rounds.turnover import Comings
from p2pfl.rules.epochs import Turnover, check_turnover
from tests.rules.test_epochs import EPOCHS, LATE, after, closing
from tests.rules.test_verdicts import RULES
from tests.rules.world import world


async def test_a_round_change_that_no_member_sends_does_not_spoil_the_closing_of_a_group(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """What a proposal brings is taken in as heard; it must not be what no block may hold."""
    there = world(epochs=EPOCHS, rules=RULES)
    state = after(there, 1)
    context: Any = SimpleNamespace(
        genesis=there.genesis, council=SimpleNamespace(tip=state), directory=tmp_path
    )
    comings = Comings(cast(Any, context), list(state.counted))
    await trio.sleep(2 * EPOCHS.stall_ms / 1000)
    good = closing(there, "g0", there.members("g0")[:2])
    liar = there.members("g0")[3]
    vote = RoundChange(0, 0, 0, 0, Digest(bytes(32)), Digest(bytes(32)))  # Nobody asks for round 0.
    signature = sign(there.secrets[liar], signing_digest(there.genesis.domain("g0"), vote))
    bad = replace(good, alive=(*good.alive, SignedRoundChange(vote, signature)))
    with pytest.raises(PeerFault, match="bad_closing"):
        comings.judge(Turnover(LATE, closings=(bad,)))
    comings.judge(Turnover(LATE, closings=(good,)))
    own = comings.records(state, LATE, frozenset())
    assert good in own.closings
    check_turnover(state, own, frozenset())
