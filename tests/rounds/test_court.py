"""A seat outlives what a lost group decided: the case ends, the node does not."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio

from consensus.types import Digest, MemberId
from p2pfl.net import wire
from p2pfl.rounds.court import Court
from p2pfl.rounds.shelf import Shelf
from p2pfl.store import BlobStore


def test_what_is_offered_to_a_case_is_held_until_it_is_closed(tmp_path: Path) -> None:
    case = SimpleNamespace(case_id=Digest(b"c" * 32), accused=MemberId(b"a" * 20))
    entry = SimpleNamespace(case=case, opened_epoch=0)
    open_cases = [entry]
    tip: Any = SimpleNamespace(
        cases={case.case_id: entry},
        open_cases=lambda: open_cases,
        due_verdicts=list,
        roster=SimpleNamespace(committee=lambda *_: ()),
    )
    shelf = Shelf(BlobStore(tmp_path), None)
    context = SimpleNamespace(council=SimpleNamespace(tip=tip), seats=(), shelf=shelf, me=b"")
    court = Court(cast(Any, context), cast(Any, None), {}, lambda: None)
    for name in (b"1", b"2"):
        court.received(case.accused, wire.OpeningOffer(case.case_id, Digest(name * 32), 7))
    court.update(tip)
    assert shelf.held() == {Digest(b"2" * 32)}  # Its last word; whoever offers for ever fills nothing.
    open_cases.clear()
    court.update(tip)
    assert shelf.held() == set()


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
