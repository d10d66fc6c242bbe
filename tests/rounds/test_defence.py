"""An accused that cannot open its round says why, and lives on."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from consensus.types import Digest, MemberId
from p2pfl.errors import PeerFault
from p2pfl.net import wire
from p2pfl.params import blob_id
from p2pfl.rounds import defence, replay
from p2pfl.rounds.defence import Defence
from p2pfl.rounds.desk import Desk
from p2pfl.rounds.shelf import Shelf
from p2pfl.store import BlobStore


async def test_an_opening_larger_than_a_blob_is_told_and_ends_nothing(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    async def aside(work: Any, *arguments: Any) -> Any:
        return work(*arguments)

    async def states(_: Any) -> list[bytes]:
        return [bytes(1000)]

    trainer = SimpleNamespace(x=(), y=())
    accused = Defence(cast(Any, SimpleNamespace(trainer=trainer, aside=aside)), cast(Any, None))
    monkeypatch.setattr(accused, "_states", states)
    monkeypatch.setattr(replay, "BLOB_BYTES_MAX", 999)
    monkeypatch.setattr(replay, "data_leaves", lambda x, y: ())
    assert defence.make_opening is replay.make_opening
    assert await accused._open(cast(Any, SimpleNamespace(height=7))) is None
    assert "the round cannot be opened" in capfd.readouterr().err


def accused_between_epochs(monkeypatch: pytest.MonkeyPatch, blobs: BlobStore, sent: list[Any]) -> Defence:
    """Accused in an epoch whose bench was OLD; the council's seat is NEW now."""
    case = SimpleNamespace(case_id=CASE, accused=ME, height=3)
    entry = SimpleNamespace(case=case, opened_epoch=0, awaits_measurements=True)
    state = SimpleNamespace(
        cases={CASE: entry},
        open_cases=lambda: [entry],
        roster=SimpleNamespace(committee=lambda *_: SimpleNamespace(members=(OLD,))),
    )
    context: Any = SimpleNamespace(
        me=ME,
        seats=(NEW,),
        council=SimpleNamespace(tip=state),
        network=SimpleNamespace(send=lambda to, message: sent.append((to, message))),
        shelf=Shelf(blobs, None),
    )
    accused = Defence(context, cast(Any, None))

    async def opened(_: Any) -> tuple[Digest, int]:
        await context.shelf.put(OPENING, b"opening")
        return OPENING, 7

    monkeypatch.setattr(accused, "_open", opened)
    return accused


ME, OLD, NEW, STRANGER = (MemberId(bytes([n]) * 20) for n in (1, 2, 3, 4))
CASE = Digest(b"c" * 32)
OPENING = blob_id(b"opening")


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path)


@pytest.mark.parametrize("seat", [OLD, NEW])
async def test_seats_of_now_and_of_the_case_are_answered_also_between_epochs(
    seat: MemberId, monkeypatch: pytest.MonkeyPatch, blobs: BlobStore
) -> None:
    sent: list[Any] = []
    desk = Desk()
    desk.context = cast(Any, SimpleNamespace())
    desk.defence = accused_between_epochs(monkeypatch, blobs, sent)
    desk.leave_rooms()
    await desk.received(seat, wire.OpenRequest(CASE))
    assert sent == [(seat, wire.OpeningOffer(CASE, OPENING, 7))]


async def test_what_was_opened_and_lost_is_opened_again(
    monkeypatch: pytest.MonkeyPatch, blobs: BlobStore
) -> None:
    """Retention or a rotten disk took it: to offer it for ever would be to offer nothing."""
    sent: list[Any] = []
    accused = accused_between_epochs(monkeypatch, blobs, sent)
    shelf = accused._context.shelf
    for _ in range(2):
        await accused.asked(NEW, wire.OpenRequest(CASE))
        assert shelf.source(NEW, OPENING) is not None
        assert shelf.held() == {OPENING}
        blobs.prune(set(), older_than_ms=2**40 * 10)
        assert shelf.source(NEW, OPENING) is None
    assert len(sent) == 2


async def test_openings_of_cases_that_are_closed_are_forgotten(
    monkeypatch: pytest.MonkeyPatch, blobs: BlobStore
) -> None:
    accused = accused_between_epochs(monkeypatch, blobs, [])
    accused._openings[Digest(b"x" * 32)] = (OPENING, 7)
    await accused.asked(NEW, wire.OpenRequest(CASE))
    assert accused._openings == {CASE: (OPENING, 7)}


async def test_nobody_else_is_answered(monkeypatch: pytest.MonkeyPatch, blobs: BlobStore) -> None:
    sent: list[Any] = []
    with pytest.raises(PeerFault, match="not_a_seat"):
        await accused_between_epochs(monkeypatch, blobs, sent).asked(STRANGER, wire.OpenRequest(CASE))
    assert sent == []
