"""A seat outlives what a lost group decided: the case ends, the node does not."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio

from consensus.types import MemberId
from p2pfl.rounds.court import Court


@pytest.mark.parametrize("raised", [KeyError("x"), ValueError("x"), RuntimeError("x"), AssertionError("x")])
async def test_an_inquiry_that_nobody_foresaw_ends_and_the_node_lives(
    raised: Exception, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    async def run() -> None:
        raise raised

    context = SimpleNamespace(council=SimpleNamespace(tip=None))
    court = Court(cast(Any, context), cast(Any, None), {}, lambda: None)
    monkeypatch.setattr(court, "_inquiry", lambda case: SimpleNamespace(run=run))
    await court._inquire(cast(Any, SimpleNamespace(accused=MemberId(b"x" * 20))), trio.CancelScope())
    assert "a case cannot be looked into" in capfd.readouterr().err
