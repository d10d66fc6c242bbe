"""How often a holder of blocks is asked again that failed: as long as it does, less and less often."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from p2pfl.rounds import incoming
from tests.rounds.test_follow_many import BLOCKS, WAIT_S, Away, forged


async def test_only_blocks_that_hold_are_forgiven_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer forgave everything once, so that who gave rubbish was asked every half second for ever."""
    monkeypatch.setattr(incoming, "AGAIN_S", 0.01)
    away = Away(tmp_path)
    liar, *_ = away.holders
    away.holders[liar].blocks = forged(away.blocks)
    async with away.up(height=-1):
        away.follower.tip_seen(liar, BLOCKS - 1)
        with trio.fail_after(WAIT_S):
            while len(away.faults) < 3:
                await away.holders[liar].was_asked(len(away.holders[liar].asked) + 1)
        assert away.follower._incoming._standings[liar].failed >= 2
        away.holders[liar].blocks = away.blocks
        await away.reaches()
        assert away.follower._incoming._standings[liar].failed == 0
