"""Blobs on a node: fetched once however many ask, shown only to whom they may be shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import trio
import trio.testing

from consensus.types import Digest, MemberId
from p2pfl.errors import PeerFault
from p2pfl.net.interface import Fetched
from p2pfl.params import BLOB_BYTES_MAX, MODEL_BYTES_MAX, blob_id
from p2pfl.rounds import shelf as shelf_module
from p2pfl.rounds.pace import Pace
from p2pfl.rounds.pulse import Pulse
from p2pfl.rounds.shelf import OTHERS_AFTER_S, Shelf
from p2pfl.runs import run_hashes
from p2pfl.store import BlobStore

DATA = b"parameters" * 500
ID = blob_id(DATA)
A, B, C = (MemberId(bytes([i]) * 20) for i in (1, 2, 3))


class Wire:
    """A network that serves from whom it is told, slowly."""

    def __init__(self, serving: set[MemberId], delay_s: float = 0.0) -> None:
        self.serving, self.delay_s, self.asked = serving, delay_s, 0
        self.holders: list[tuple[MemberId, ...]] = []

    async def fetch_blob(
        self, blob: Digest, length: int, holders: Callable[[], Sequence[MemberId]], *, timeout_s: float
    ) -> Fetched:
        self.asked += 1
        self.holders.append(tuple(holders()))
        await trio.sleep(self.delay_s)
        if not self.serving & set(holders()):
            raise PeerFault("blob_missing", "nobody serves it")
        return Fetched(DATA, run_hashes(DATA))


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs")


async def test_a_blob_is_fetched_once_however_many_ask(store: BlobStore) -> None:
    wire = Wire({A}, 0.05)
    shelf = Shelf(store, wire)
    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(shelf.need, ID, len(DATA), [A])
    assert wire.asked == 1
    assert await shelf.need(ID, len(DATA), [A]) == DATA
    assert (wire.asked, shelf.fetched) == (1, 1)


async def test_when_the_fetcher_is_cancelled_another_who_waits_goes_on(store: BlobStore) -> None:
    wire = Wire({A}, 0.2)
    shelf = Shelf(store, wire)
    got: list[bytes] = []

    async def wait() -> None:
        got.append(await shelf.need(ID, len(DATA), [A]))

    async with trio.open_nursery() as nursery:
        with trio.move_on_after(0.05):
            nursery.start_soon(trio.lowlevel.checkpoint)
            async with trio.open_nursery() as impatient:
                impatient.start_soon(shelf.need, ID, len(DATA), [A])
                await trio.sleep(0.01)
                nursery.start_soon(wait)
    assert got == [DATA]
    assert wire.asked == 2


async def test_others_are_asked_when_the_first_does_not_serve(store: BlobStore) -> None:
    wire = Wire({B})
    shelf = Shelf(store, wire)
    begun = trio.current_time()
    assert await shelf.need(ID, len(DATA), [A], [B]) == DATA
    assert trio.current_time() - begun > OTHERS_AFTER_S
    assert wire.holders[0] == (A,)
    assert wire.holders[-1] == (A, B)


async def test_what_nobody_serves_is_a_peers_fault_in_the_end(store: BlobStore) -> None:
    with pytest.raises(PeerFault, match="blob_missing"):
        await Shelf(store, Wire(set())).need(ID, len(DATA), [A], timeout_s=0.3)


async def test_stalled_openings_keep_no_blob_of_a_round_waiting(store: BlobStore) -> None:
    asked, begun = trio.open_memory_channel[Digest](10)

    async def fetch_blob(blob: Digest, *_: object, **__: object) -> Fetched:
        asked.send_nowait(blob)
        await trio.sleep_forever()
        raise AssertionError

    shelf = Shelf(store, SimpleNamespace(fetch_blob=fetch_blob))
    offered = {Digest(bytes([n]) * 32) for n in range(6)}  # More than fits where lengths are known.
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            for blob in offered:
                nursery.start_soon(partial(shelf.need, blob, BLOB_BYTES_MAX, [A], claimed=True))
            assert {await begun.receive() for _ in offered} == offered
            nursery.start_soon(shelf.need, ID, MODEL_BYTES_MAX, [B])
            assert await begun.receive() == ID
            nursery.cancel_scope.cancel()


async def test_who_claims_another_length_keeps_nobody_waiting(store: BlobStore) -> None:
    shelf = Shelf(store, Wire({B}))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(shelf.need, ID, len(DATA), [A], claimed=True))
        await trio.sleep(0.05)
        assert await shelf.need(ID, len(DATA), [B], timeout_s=5) == DATA
        nursery.cancel_scope.cancel()


async def test_a_blob_is_served_to_whom_it_was_shown_only(store: BlobStore) -> None:
    shelf = Shelf(store, Wire(set()))
    await shelf.put(ID, DATA)
    assert shelf.source(A, ID) is None
    shelf.show(ID, [A])
    assert shelf.source(A, ID) is not None
    assert shelf.source(B, ID) is None
    shelf.show(ID, [B])
    assert shelf.source(A, ID) is not None  # What was shown once stays shown.
    shelf.show(ID)
    assert shelf.source(C, ID) is not None


def test_showing_to_a_few_does_not_hide_what_everybody_may_have(store: BlobStore) -> None:
    shelf = Shelf(store, Wire(set()))
    shelf.show(ID)
    shelf.show(ID, [A])
    assert shelf.may_have(B, ID)


def test_what_is_pushed_out_by_newer_blobs_is_shown_to_the_same_as_before(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as it is kept: else only who started anew would serve what is older."""
    monkeypatch.setattr(shelf_module, "SHOWN_MAX", 2)
    shelf = Shelf(store, None)
    blobs = [Digest(bytes([number]) * 32) for number in range(5)]
    shelf.show(blobs[0], [A])
    shelf.show(blobs[1])
    for newer in blobs[2:]:
        shelf.show(newer, [B])
    assert shelf.may_have(A, blobs[0]) and not shelf.may_have(B, blobs[0])
    assert not shelf.may_have(None, blobs[0]) and shelf.may_have(None, blobs[1])
    shelf.show(blobs[0], [C])
    assert shelf.may_have(A, blobs[0]) and shelf.may_have(C, blobs[0])


async def test_a_pulse_wakes_who_waits(autojump_clock: trio.testing.MockClock) -> None:
    pulse, state = Pulse(), {"ready": False}

    async def later() -> None:
        await trio.sleep(1)
        state["ready"] = True
        pulse.beat()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(later)
        assert await pulse.until(lambda: state["ready"], timeout_s=5)
    assert not await pulse.until(lambda: False, timeout_s=1)
    del autojump_clock


async def test_a_part_of_a_round_has_its_own_time_and_doubles_with_the_round(
    autojump_clock: trio.testing.MockClock,
) -> None:
    deadlines: list[float] = []
    parts = {"wait": 1000, "train": 2000, "reveal": 500, "propose": 3000}
    pace = Pace(parts, 2, "g0", 3, lambda member: member.hex(), deadlines.append, lambda *told: None)
    pace.enter(0, 0)
    pace.step("wait")
    assert deadlines[-1] == trio.current_time() + 1
    await trio.sleep(0.5)
    pace.step("reveal")
    assert deadlines[-1] == trio.current_time() + 0.5
    before = len(deadlines)
    pace.step("train")  # Never backwards: a late request does not give time back.
    assert len(deadlines) == before
    for round_, factor in ((1, 2), (2, 4), (9, 4)):
        pace.enter(0, round_)
        pace.step("wait")
        assert deadlines[-1] == trio.current_time() + factor
    del autojump_clock
