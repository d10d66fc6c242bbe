"""Pieces prove themselves, and a fetch comes to its end whatever some holders do."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from consensus import merkle
from consensus.types import Digest, MemberId
from p2pfl import params
from p2pfl.errors import PeerFault
from p2pfl.net import ask, piece_server, wire
from p2pfl.net.blobs import Fetch, InMemory, check_piece
from p2pfl.net.interface import BytesBlob, Fetched, Unreachable
from p2pfl.net.piece_server import PieceServer
from p2pfl.runs import RunTree, piece_leaves, run_hashes
from tests.net.common import member, noise

A, B, C, D = (member(number) for number in range(4))
KIB = 1024


async def at_once(work: Any) -> Any:
    return work()


async def piece_of(data: bytes, request: wire.GetPiece) -> wire.Piece:
    head, body = await PieceServer(at_once).answer(BytesBlob(data), request)
    assert isinstance(head, wire.PieceHead)
    assert head.length == len(body)
    return wire.Piece(head.total_length, head.proof, body)


@given(leaves=st.integers(1, 700), short=st.integers(0, 1023), run=st.sampled_from([64, 128, 256, 512, 1024]))
def test_every_run_of_every_blob_proves_itself(leaves: int, short: int, run: int) -> None:
    data = noise(leaves * KIB)[short:] if leaves * KIB > short else b"x"
    blob_id = params.blob_id(data)
    tree = RunTree(run_hashes(data))
    for first in range(0, -(-len(data) // KIB), run):
        part = data[first * KIB : (first + run) * KIB]
        piece = wire.Piece(len(data), tree.proof(first, run), part)
        check_piece(piece, wire.GetPiece(blob_id, first, run), len(data))


def test_the_proof_of_a_run_is_the_audit_path_in_the_tree_of_runs() -> None:
    """Checked against the tree of RFC 9162 built from the runs' own roots."""
    data = noise(11 * 64 * KIB + 5)
    hashes = params.leaf_hashes(data)
    runs = [merkle.root_of_hashes(hashes[n : n + 64]) for n in range(0, len(hashes), 64)]
    assert merkle.root_of_hashes(runs) == params.blob_id(data)
    tree = RunTree(run_hashes(data))
    for number in range(len(runs)):
        assert tree.proof(number * 64, 64) == merkle.inclusion_proof(runs, number)


@given(st.data())
def test_a_changed_piece_is_refused(data: st.DataObject) -> None:
    blob = noise(300 * KIB + 17)
    request = wire.GetPiece(params.blob_id(blob), data.draw(st.sampled_from([0, 64, 128, 192, 256])), 64)
    tree = RunTree(run_hashes(blob))
    part = bytearray(blob[request.first_leaf * KIB : (request.first_leaf + 64) * KIB])
    proof = list(tree.proof(request.first_leaf, 64))
    total = len(blob)
    match data.draw(st.sampled_from(["byte", "short", "long", "proof", "less", "more", "total", "place"])):
        case "byte":
            part[data.draw(st.integers(0, len(part) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        case "short":
            del part[-1]
        case "long":
            part.append(0)
        case "proof":
            proof[data.draw(st.integers(0, len(proof) - 1))] = Digest(bytes(32))
        case "less":
            proof.pop()
        case "more":
            proof.append(Digest(bytes(32)))
        case "total":
            total += data.draw(st.sampled_from([-1, 1, KIB]))
        case "place":
            request = wire.GetPiece(request.blob_id, (request.first_leaf + 64) % 256, 64)
    with pytest.raises(PeerFault, match="wrong_piece"):
        check_piece(wire.Piece(total, tuple(proof), bytes(part)), request, len(blob))


async def test_a_run_beyond_the_end_is_refused() -> None:
    with pytest.raises(PeerFault, match="bad_request"):
        await piece_of(noise(64 * KIB), wire.GetPiece(Digest(bytes(32)), 64, 64))


@pytest.mark.parametrize(("length", "leaves"), [(1, 64), (100_000, 64), (5_000_000, 512), (90_000_000, 1024)])
def test_blobs_have_about_sixteen_pieces_within_limits(length: int, leaves: int) -> None:
    assert piece_leaves(length) == leaves


def test_the_server_forgets_old_trees() -> None:
    async def serve() -> None:
        server = PieceServer(at_once)
        for number in range(piece_server.TREES_MAX + 5):
            data = noise(KIB, seed=number)
            request = wire.GetPiece(params.blob_id(data), 0, 64)
            await server.answer(BytesBlob(data), request)
        assert len(server._trees) == piece_server.TREES_MAX

    trio.run(serve)


# ---------------------------------------------------------------------------
# Fetching.


class Hall:
    """Holders by name, each with its manners; counts what each was asked and what it sent."""

    def __init__(self, data: bytes, manners: dict[MemberId, str]) -> None:
        self.data = data
        self.blob_id = params.blob_id(data)
        self.manners = manners
        self.asked: Counter[MemberId] = Counter()
        self.sent: Counter[MemberId] = Counter()
        self.faults: list[tuple[MemberId, str]] = []
        self.server = PieceServer(at_once)

    @asynccontextmanager
    async def open(self, holder: MemberId) -> AsyncIterator[Any]:
        if self.manners[holder] == "away":
            raise Unreachable("away")
        yield HallHolder(self, holder)

    def fetch(self, holders: Sequence[MemberId], **options: Any) -> Fetch:
        return Fetch(
            self.blob_id,
            options.get("length", len(self.data)),
            lambda: holders,
            self.open,
            lambda one, fault: self.faults.append((one, fault.reason)),
            options.get("sink"),
        )


class HallHolder:
    def __init__(self, hall: Hall, me: MemberId) -> None:
        self.hall, self.me = hall, me
        self.requests: list[wire.GetPiece] = []

    async def send(self, request: Any) -> None:
        self.hall.asked[self.me] += 1
        self.requests.append(request)

    async def receive(self, *, silence_s: float) -> object:
        hall, manner = self.hall, self.hall.manners[self.me]
        request = self.requests.pop(0)
        if manner == "refuses":
            return wire.Refused("not_held")
        if manner == "silent":
            await trio.sleep(silence_s)
            raise ask.Stalled("silent")
        await trio.sleep(1.9 if manner == "slow" else 0.01)
        head, body = await hall.server.answer(BytesBlob(hall.data), request)
        if isinstance(head, wire.Held):
            return head
        assert isinstance(head, wire.PieceHead)
        if manner == "lies":
            body = bytes(len(body))
        if manner == "babbles":
            return wire.Status(bytes(32), 1, bytes(32))
        hall.sent[self.me] += len(body)
        return wire.Piece(head.total_length, head.proof, body)


BLOB = noise(3_000_000)  # 12 pieces of 256 KiB.


async def timed(fetch: Fetch) -> tuple[bytes, float]:
    began = trio.current_time()
    return (await fetch.run()).data, trio.current_time() - began


async def test_all_holders_share_the_work(autojump_clock: Any) -> None:
    hall = Hall(BLOB, dict.fromkeys((A, B, C, D), "good"))
    fetched = await hall.fetch((A, B, C, D)).run()
    assert fetched.data == BLOB
    assert fetched.runs == run_hashes(BLOB)  # In their order, so that nobody hashes again.
    assert sum(hall.sent.values()) == len(BLOB)
    assert all(hall.sent[one] > 0 for one in (A, B, C, D))


async def test_a_small_blob_comes_from_one_holder(autojump_clock: Any) -> None:
    hall = Hall(noise(90_000), dict.fromkeys((A, B), "good"))
    assert (await hall.fetch((A, B)).run()).data == hall.data
    assert hall.sent == {A: 90_000}


@pytest.mark.parametrize(
    ("manner", "reason"),
    [
        ("lies", "wrong_piece"),
        ("silent", "slow"),
        ("babbles", "bad_answer"),
        ("refuses", None),
        ("away", None),
    ],
)
async def test_a_bad_holder_is_left_for_another_within_two_seconds(
    manner: str, reason: str | None, autojump_clock: Any
) -> None:
    for blob, shared in ((BLOB, True), (BLOB, False), (noise(50_000), False)):
        hall = Hall(blob, {A: manner, B: "good"})
        sink = InMemory(len(blob)) if shared else None
        data, took_s = await timed(hall.fetch((A, B), sink=sink))
        assert (sink.fetched().data if sink else data) == blob
        assert took_s <= 2.1
        assert {one for one, _ in hall.faults} <= {A}
        # Silence is a fault only if nobody else brought the piece before it was noticed.
        assert {why for _, why in hall.faults} == ({reason} if reason else set()) or manner == "silent"


async def test_a_slow_holder_delays_nobody_for_long(autojump_clock: Any) -> None:
    hall = Hall(BLOB, {A: "slow", B: "good"})
    data, took_s = await timed(hall.fetch((A, B)))
    assert data == BLOB
    assert took_s < 1.0
    assert hall.asked[B] >= 10


async def test_a_slow_holder_of_a_large_blob_delays_nobody_for_long(autojump_clock: Any) -> None:
    hall, sink = Hall(BLOB, {A: "slow", B: "good"}), InMemory(len(BLOB))
    _, took_s = await timed(hall.fetch((A, B), sink=sink))
    assert sink.fetched().data == BLOB
    assert took_s < 2.0


async def test_what_lies_in_the_sink_is_not_asked_for(autojump_clock: Any) -> None:
    hall, sink = Hall(BLOB, {A: "good"}), InMemory(len(BLOB))
    with trio.move_on_after(0.075):
        await hall.fetch((A,), sink=sink).run()
    here = 12 - len(sink.missing())
    assert 3 <= here <= 9
    hall.asked.clear()
    await hall.fetch((A,), sink=sink).run()
    assert sink.fetched() == Fetched(BLOB, run_hashes(BLOB))
    assert hall.asked[A] == 12 - here + 1  # And once for what it has.


async def test_the_only_holder_is_asked_however_slow_it_is(autojump_clock: Any) -> None:
    hall = Hall(BLOB, {A: "slow"})
    data, took_s = await timed(hall.fetch((A,)))
    assert data == BLOB
    assert took_s < 12 * 1.9 + 1


async def test_a_liar_who_is_the_only_holder_ends_with_the_time(autojump_clock: Any) -> None:
    hall = Hall(BLOB, {A: "lies"})
    with trio.move_on_after(30) as scope:
        await hall.fetch((A,)).run()
    assert scope.cancelled_caught
    assert 3 <= len(hall.faults) <= 8  # It is not asked in a tight loop.


async def test_a_holder_that_begins_to_serve_is_asked_again_at_once(autojump_clock: Any) -> None:
    hall = Hall(BLOB, {A: "refuses"})
    fetch = hall.fetch((A,))
    done: list[float] = []

    async def run() -> None:
        assert (await fetch.run()).data == BLOB
        done.append(trio.current_time())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await trio.sleep(9.9)
        refused = hall.asked[A]
        hall.manners[A] = "good"
        fetch.announced_by(A)
    assert refused < 30
    assert done[0] - 9.9 < 0.5


async def test_a_wrong_length_is_a_fault_of_whoever_said_it(autojump_clock: Any) -> None:
    hall = Hall(BLOB, {A: "good"})
    with trio.move_on_after(1):
        await hall.fetch((A,), length=len(BLOB) - 5).run()
    assert hall.faults[0] == (A, "wrong_piece")
    for length in (0, params.BLOB_BYTES_MAX + 1):
        with pytest.raises(PeerFault, match="bad_length"):
            hall.fetch((A,), length=length)


async def test_a_bug_while_fetching_is_not_hidden(autojump_clock: Any) -> None:
    hall = Hall(BLOB, {A: "good"})
    hall.server = None  # type: ignore[assignment]
    with pytest.raises(AttributeError):
        await hall.fetch((A,)).run()
