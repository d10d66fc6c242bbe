"""Numbers make sure that every message is taken once and in order, whatever breaks in between."""

from __future__ import annotations

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from p2pfl.errors import PeerFault
from p2pfl.net import queues, wire
from p2pfl.net.queues import HEAD, Bucket, Buckets, Inbox, Outbox


def parse(frames: list[bytes]) -> list[tuple[int, int, bytes]]:
    """(number, oldest, packed) of what Outbox.take gives."""
    heads, bodies = frames[::2], frames[1::2]
    parsed = []
    for head, body in zip(heads, bodies, strict=True):
        length, number, oldest, _ = HEAD.unpack(head)
        assert length == len(head) - 4 + len(body)
        parsed.append((number, oldest, body))
    return parsed


def name(number: int) -> bytes:
    return number.to_bytes(4, "big")


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("push"), st.integers(1, 5)),
            st.tuples(
                st.just("carry"), st.integers(1, 4)
            ),  # So many frames arrive, the rest is still written.
            st.tuples(st.just("lose"), st.integers(0, 4)),  # So many arrive, then the stream breaks.
            st.tuples(st.just("handle"), st.integers(1, 3)),
        ),
        max_size=60,
    ),
    st.integers(2, 6),
)
def test_whatever_breaks_each_message_is_taken_once_and_in_order(steps: list, room: int) -> None:
    """A model of two ends: streams break, inboxes fill up, acknowledgements arrive late or never."""
    outbox, inbox = Outbox(), Inbox()
    inbox.greet(b"s" * 16, outbox.oldest)
    pushed, handled = 0, []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(queues, "INBOX_MESSAGES_MAX", room)
        wire_now: list[tuple[int, int, bytes]] = []

        def arrive(count: int) -> None:
            for _ in range(min(count, len(wire_now))):
                number, oldest, packed = wire_now.pop(0)
                if inbox.place(number, oldest) == 0:
                    inbox.take(packed)

        def handle(count: int) -> None:
            for _ in range(min(count, len(inbox._kept))):
                handled.append(int.from_bytes(inbox._kept[0], "big"))
                if inbox.done():
                    outbox.acknowledged(inbox.expected)
                    outbox.rewind()

        for step, count in [*steps, *[("lose", 0), ("carry", 1000), ("handle", 1000)] * 80]:
            match step:
                case "push":
                    for _ in range(count):
                        outbox.push(name(pushed))
                        pushed += 1
                case "carry":
                    wire_now += parse(outbox.take(inbox.expected, 1 << 20))
                    arrive(count)
                case "lose":
                    wire_now += parse(outbox.take(inbox.expected, 1 << 20))
                    arrive(count)
                    wire_now.clear()
                    inbox.greet(b"s" * 16, outbox.oldest)
                    outbox.acknowledged(inbox.expected)
                    outbox.rewind()
                case "handle":
                    handle(count)
    assert handled == list(range(pushed))
    assert len(outbox) == 0


def test_a_full_outbox_gives_up_the_oldest_and_the_peer_goes_on_from_there() -> None:
    outbox, inbox = Outbox(), Inbox()
    inbox.greet(b"s" * 16, 1)
    for number in range(queues.OUTBOX_MESSAGES_MAX + 10):
        outbox.push(name(number))
    assert (len(outbox), outbox.dropped, outbox.oldest) == (queues.OUTBOX_MESSAGES_MAX, 10, 11)
    number, oldest, packed = parse(outbox.take(1, 1))[0]
    assert inbox.place(number, oldest) == 0
    assert inbox.take(packed)
    assert inbox.expected == 12


def test_the_outbox_is_bounded_in_bytes_too_but_keeps_the_newest() -> None:
    outbox = Outbox()
    for _ in range(3):
        outbox.push(bytes(queues.OUTBOX_BYTES_MAX))
    assert len(outbox) == 1
    assert outbox.dropped == 2


def test_an_acknowledgement_of_what_was_never_sent_is_a_fault() -> None:
    outbox = Outbox()
    outbox.push(b"a")
    outbox.acknowledged(2)
    with pytest.raises(PeerFault, match="bad_ack"):
        outbox.acknowledged(3)
    outbox.acknowledged(1)  # An old one says nothing new.


def test_a_peer_that_started_anew_begins_anew() -> None:
    inbox = Inbox()
    inbox.greet(b"a" * 16, 7)
    assert inbox.place(7, 7) == 0
    assert inbox.take(b"x")
    inbox.greet(b"b" * 16, 1)
    assert inbox.expected == 1
    inbox.greet(b"b" * 16, 1)
    assert inbox.place(1, 1) == 0


def test_a_full_inbox_takes_no_more_and_says_when_it_does_again() -> None:
    inbox = Inbox()
    inbox.greet(b"a" * 16, 1)
    taken = 0
    while inbox.take(bytes(1 << 20)):
        taken += 1
    assert taken == queues.INBOX_BYTES_MAX >> 20
    said = [inbox.done() for _ in range(taken)]
    assert said.index(True) == taken // 2 - 1
    assert said.count(True) == 1


async def test_a_message_larger_than_the_room_is_taken_by_an_empty_inbox() -> None:
    inbox = Inbox()
    assert inbox.take(bytes(queues.INBOX_BYTES_MAX + 1))
    assert len(await inbox.next()) == queues.INBOX_BYTES_MAX + 1


async def test_a_bucket_gives_its_burst_and_then_its_rate(autojump_clock: trio.abc.Clock) -> None:
    bucket = Bucket(10, 5)
    assert [bucket.take() for _ in range(7)] == [True] * 5 + [False] * 2
    await trio.sleep(0.25)
    assert [bucket.take() for _ in range(4)] == [True, True, False, False]
    await trio.sleep(100)
    assert [bucket.take() for _ in range(6)] == [True] * 5 + [False]


async def test_buckets_do_not_share(autojump_clock: trio.abc.Clock) -> None:
    buckets = Buckets()
    row = wire.BY_KIND[wire.OpenRequest]
    assert all(buckets.take(row.tag) for _ in range(row.burst))
    assert not buckets.take(row.tag)
    assert buckets.take(wire.BY_KIND[wire.Tip].tag)
