"""Links over streams in memory, under a virtual clock: framing, acknowledgements, heartbeats, rubbish."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from p2pfl.errors import PeerFault
from p2pfl.net import queues, stream, wire
from p2pfl.net.queues import HEAD, HEAD_REST_BYTES
from p2pfl.net.stream import Link, Stream, StreamBroken
from tests.net.common import tip


class Pipe:
    """One end of a stream in memory, with the manners of libp2p's."""

    def __init__(self, end: Any) -> None:
        self.end = end

    async def read(self, n: int | None = None) -> bytes:
        return bytes(await self.end.receive_some(n))

    async def write(self, data: bytes) -> None:
        await self.end.send_all(data)

    async def reset(self) -> None:
        await self.end.aclose()


def pipes() -> tuple[Any, Any]:
    return trio.testing.memory_stream_pair()


class End:
    """A link, the streams it is given, and what its handlers saw."""

    def __init__(self, session: bytes) -> None:
        self.ups = 0
        self.faults: list[str] = []
        self.errors: list[Exception] = []
        self.heights: list[int] = []
        self.link = Link(session * 16, self.came_up, lambda fault: self.faults.append(fault.reason))

    def came_up(self) -> None:
        self.ups += 1

    async def talk(self, end: Any) -> None:
        try:
            await self.link.serve(Stream(Pipe(end)))
        except (PeerFault, StreamBroken, trio.TooSlowError) as error:
            self.errors.append(error)

    async def hear(self) -> None:
        while True:
            message: Any = wire.unpack(await self.link.inbox.next())
            self.heights.append(getattr(message, "height", -1))
            self.link.done()


@asynccontextmanager
async def two() -> AsyncIterator[tuple[trio.Nursery, End, End]]:
    a, b = End(b"a"), End(b"b")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(a.hear)
        nursery.start_soon(b.hear)
        yield nursery, a, b
        nursery.cancel_scope.cancel()


def meet(nursery: trio.Nursery, a: End, b: End) -> tuple[Any, Any]:
    left, right = pipes()
    nursery.start_soon(a.talk, left)
    nursery.start_soon(b.talk, right)
    return left, right


async def test_messages_go_both_ways_over_one_stream(autojump_clock: Any) -> None:
    async with two() as (nursery, a, b):
        meet(nursery, a, b)
        for height in range(300):
            a.link.send(wire.pack(tip(height)))
            b.link.send(wire.pack(tip(1000 + height)))
        await trio.sleep(1)
        assert b.heights == list(range(300))
        assert a.heights == list(range(1000, 1300))
        assert len(a.link.outbox) == len(b.link.outbox) == 0
        assert a.ups == b.ups == 1


async def test_what_was_not_acknowledged_is_sent_again_and_taken_once(autojump_clock: Any) -> None:
    async with two() as (nursery, a, b):
        height = 0
        for _ in range(20):
            left, right = meet(nursery, a, b)
            for _ in range(10):
                a.link.send(wire.pack(tip(height)))
                height += 1
            # The stream breaks before, while and after the messages and their acknowledgements travel.
            for _ in range(height % 37 // 3):
                await trio.lowlevel.checkpoint()
            await left.aclose()
            await right.aclose()
            a.link.send(wire.pack(tip(height)))
            height += 1
            await trio.sleep(0.01)
        meet(nursery, a, b)
        await trio.sleep(1)
        assert b.heights == list(range(height))
        assert len(a.link.outbox) == 0


async def test_a_newer_stream_takes_the_place_of_a_stale_one(autojump_clock: Any) -> None:
    async with two() as (nursery, a, b):
        stale, _ = pipes()
        nursery.start_soon(a.talk, stale)
        await trio.sleep(1)
        meet(nursery, a, b)
        a.link.send(wire.pack(tip(1)))
        await trio.sleep(1)
        assert b.heights == [1]
        assert a.link.up


async def test_a_peer_that_started_again_is_given_what_it_did_not_acknowledge(autojump_clock: Any) -> None:
    async with two() as (nursery, a, b):
        left, right = meet(nursery, a, b)
        a.link.send(wire.pack(tip(1)))
        await trio.sleep(1)
        await left.aclose()
        await right.aclose()
        a.link.send(wire.pack(tip(2)))
        again = End(b"c")
        nursery.start_soon(again.hear)
        meet(nursery, a, again)
        again.link.send(wire.pack(tip(7)))
        await trio.sleep(1)
        assert again.heights == [2]
        assert a.heights == [7]


async def test_slow_handlers_refuse_what_they_have_no_room_for_and_get_it_later(
    autojump_clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queues, "INBOX_MESSAGES_MAX", 8)
    a, b = End(b"a"), End(b"b")
    async with trio.open_nursery() as nursery:
        meet(nursery, a, b)
        for height in range(500):
            a.link.send(wire.pack(tip(height)))
        await trio.sleep(10)
        assert len(b.link.inbox._kept) == 8
        assert a.link.up  # Heartbeats go on meanwhile.
        assert b.link.up
        nursery.start_soon(b.hear)
        await trio.sleep(30)
        assert b.heights == list(range(500))
        nursery.cancel_scope.cancel()


async def test_whoever_has_nothing_to_say_is_heard_all_the_same(autojump_clock: Any) -> None:
    async with two() as (nursery, a, b):
        meet(nursery, a, b)
        for _ in range(20):
            await trio.sleep(1)
            assert trio.current_time() - a.link.last_heard_s <= stream.HEARTBEAT_S + 0.1


async def test_who_only_listens_to_a_steady_talker_is_no_flood(autojump_clock: Any) -> None:
    async with two() as (nursery, a, b):
        meet(nursery, a, b)
        for height in range(6000):
            a.link.send(wire.pack(tip(height)))
            await trio.sleep(0.03)
        await trio.sleep(1)
        assert b.heights == list(range(6000))
        assert a.faults == b.faults == []


async def test_an_acknowledgement_comes_soon_even_when_the_peer_says_nothing(autojump_clock: Any) -> None:
    async with two() as (nursery, a, b):
        meet(nursery, a, b)
        a.link.send(wire.pack(tip(1)))
        await trio.sleep(stream.ACK_S + 0.01)
        assert len(a.link.outbox) == 0


async def test_a_peer_that_does_not_say_hello_is_left(autojump_clock: Any) -> None:
    async with two() as (nursery, a, _):
        left, _ = pipes()
        nursery.start_soon(a.talk, left)
        await trio.sleep(stream.HELLO_S + 0.1)
        assert isinstance(a.errors[0], trio.TooSlowError)


HELLO = stream._HELLO.pack(stream._HELLO.size - 4, b"MPS1", b"x" * 16, 1, bytes(16), 1)


def frame(number: int, packed: bytes, *, oldest: int = 1, ack: int = 1) -> bytes:
    return HEAD.pack(HEAD_REST_BYTES + len(packed), number, oldest, ack) + packed


async def said(data: bytes) -> End:
    """What a link makes of these bytes from a peer."""
    a = End(b"a")
    left, right = pipes()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(a.hear)
        nursery.start_soon(a.talk, left)
        await right.send_all(data)
        await trio.sleep(0.5)
        nursery.cancel_scope.cancel()
    return a


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n" + bytes(100), "bad_hello"),
        (HELLO[:4] + b"MPS9" + HELLO[8:], "bad_hello"),
        (HELLO + b"\xff\xff\xff\xff" + bytes(100), "bad_frame"),
        (HELLO + (HEAD_REST_BYTES + wire.PACKED_BYTES_MAX + 1).to_bytes(4, "big") + bytes(100), "bad_frame"),
        (HELLO + bytes(100), "bad_frame"),
        (HELLO + frame(0, wire.pack(tip(1))), "bad_frame"),
        (HELLO + frame(3, wire.pack(tip(1)), oldest=4), "bad_frame"),
        (HELLO + frame(1 << 63, wire.pack(tip(1)), oldest=1 << 63), "bad_frame"),
        (HELLO + frame(1, wire.pack(tip(1)), ack=9), "bad_ack"),
        (HELLO + frame(0, bytes((11,)) + b"rubbish"), "bad_message"),
    ],
)
async def test_broken_framing_ends_the_stream(data: bytes, reason: str, autojump_clock: Any) -> None:
    a = await said(data)
    assert [getattr(error, "reason", error) for error in a.errors] == [reason]
    assert a.heights == []


async def test_an_unknown_message_is_counted_and_those_around_it_are_taken(autojump_clock: Any) -> None:
    frames = [
        wire.pack(tip(1)),
        b"\xc8of a later version",
        wire.pack(wire.GetStatus(bytes(32))),
        wire.pack(tip(2)),
    ]
    a = await said(HELLO + b"".join(frame(n, packed) for n, packed in enumerate(frames, 1)))
    assert a.heights == [1, 2]
    assert a.faults == ["unknown_message", "unknown_message"]
    assert a.errors == []


async def test_a_flood_is_counted_and_not_delivered(autojump_clock: Any) -> None:
    row = wire.BY_KIND[wire.OpenRequest]
    packed = wire.pack(wire.OpenRequest(bytes(32)))
    a = await said(HELLO + b"".join(frame(n, packed) for n in range(1, row.burst + 301)))
    assert a.faults.count("flood") >= 250
    assert len(a.heights) + a.faults.count("flood") == row.burst + 300


async def test_endless_repetitions_are_a_flood(autojump_clock: Any) -> None:
    a = await said(HELLO + frame(1, wire.pack(tip(1))) * (stream._REPEATS_BURST + 100))
    assert a.heights == [1]
    assert "flood" in a.faults


@given(st.binary(max_size=300))
def test_no_bytes_do_more_than_end_a_stream(data: bytes) -> None:
    """Whatever comes after a hello: a fault, a wait for more, or messages."""

    async def one() -> None:
        a = await said(HELLO + data)
        assert all(isinstance(error, PeerFault) for error in a.errors)

    trio.run(one, clock=trio.testing.MockClock(autojump_threshold=0))


async def test_a_bug_in_our_own_code_is_not_taken_for_a_broken_stream(autojump_clock: Any) -> None:
    a = End(b"a")
    left, right = pipes()

    def broken() -> None:
        raise ZeroDivisionError

    a.link._on_up = broken
    await right.send_all(HELLO)
    with pytest.raises(ZeroDivisionError):
        await a.link.serve(Stream(Pipe(left)))


def test_a_link_that_never_spoke_was_never_heard() -> None:
    assert Link(bytes(16), lambda: None, lambda _: None).last_heard_s == -math.inf
