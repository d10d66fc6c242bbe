"""A node never waits for whoever watches it."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest

from testnet.member import BUFFER_BYTES_MAX, EventPipe


def drained(end: socket.socket) -> bytes:
    """Everything that can be read now."""
    end.setblocking(False)
    data = b""
    try:
        while piece := end.recv(1 << 16):
            data += piece
    except BlockingIOError:
        pass
    return data


def events(data: bytes) -> list[dict[str, Any]]:
    """The whole lines."""
    return [json.loads(line) for line in data.split(b"\n")[:-1]]


def test_events_arrive_in_their_order_with_their_time() -> None:
    ours, theirs = socket.socketpair()
    with ours:
        pipe = EventPipe(theirs, clock=iter([1.5, 2.5]).__next__)
        pipe.observe("step", {"height": 1})
        pipe.observe("step", {"height": 2})
        assert events(drained(ours)) == [
            {"kind": "step", "fields": {"height": 1}, "at": 1.5},
            {"kind": "step", "fields": {"height": 2}, "at": 2.5},
        ]
        pipe.close()


def test_who_does_not_listen_costs_memory_up_to_a_bound_and_no_time() -> None:
    ours, theirs = socket.socketpair()
    with ours:
        pipe = EventPipe(theirs, clock=lambda: 0.0)
        words = "x" * 1000
        sent = 3 * BUFFER_BYTES_MAX // len(words)
        for number in range(sent):
            pipe.observe("step", {"number": number, "words": words})
        dropped = pipe.dropped
        assert dropped > sent // 2
        data = b""
        while b'"lag"' not in data:
            data += drained(ours)
            pipe.observe("lag", {"p99_ms": 1.0})  # The next event pushes what waits.
        heard = events(data + drained(ours))
        numbers = [event["fields"]["number"] for event in heard if event["kind"] == "step"]
        assert numbers == list(range(sent - dropped))
        assert [event["fields"]["count"] for event in heard if event["kind"] == "dropped"] == [dropped]
        pipe.close()


@pytest.mark.parametrize("count", [0, 5])
def test_a_launcher_that_is_gone_is_no_error(count: int) -> None:
    ours, theirs = socket.socketpair()
    pipe = EventPipe(theirs)
    ours.close()
    for number in range(count):
        pipe.observe("step", {"number": number})
    pipe.close()
