"""One byte form for everything: what is encoded comes back, and nothing else is let in."""

from __future__ import annotations

import tracemalloc

import cbor2
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from consensus import types as t
from p2pfl import codec
from p2pfl.codec import DecodeError
from tests.consensus.lab import Lab

numbers = st.integers(0, (1 << 64) - 1)
rounds = st.integers(0, (1 << 32) - 1)
digests = st.binary(min_size=32, max_size=32).map(t.Digest)
members = st.binary(min_size=20, max_size=20).map(t.MemberId)
signatures = st.binary(min_size=65, max_size=65)
votes = {
    kind: st.builds(kind, numbers, numbers, rounds, digests) for kind in (t.Propose, t.Prepare, t.Commit)
}
changes = st.builds(t.RoundChange, numbers, numbers, rounds, rounds, digests, digests)
prepares = st.builds(t.SignedPrepare, votes[t.Prepare], signatures)
signed_changes = st.builds(t.SignedRoundChange, changes, signatures)
headers = st.builds(
    t.Header, rounds, digests, digests, numbers, numbers, digests, members, numbers, digests, digests, digests
)
blocks = st.builds(t.Block, headers, st.binary(max_size=50))
certificates = st.builds(t.Certificate, rounds, st.lists(signatures, max_size=4).map(tuple))
decided = st.builds(t.DecidedBlock, blocks, certificates)
messages = st.one_of(
    st.builds(
        t.Proposal,
        st.builds(t.SignedPropose, votes[t.Propose], signatures),
        blocks,
        st.lists(signed_changes, max_size=3).map(tuple),
        st.lists(prepares, max_size=3).map(tuple),
    ),
    st.builds(t.PrepareMessage, prepares),
    st.builds(t.CommitMessage, st.builds(t.SignedCommit, votes[t.Commit], signatures), st.binary(max_size=9)),
    st.builds(t.RoundChangeMessage, signed_changes, st.lists(prepares, max_size=3).map(tuple)),
    st.builds(t.DecidedMessage, decided),
    st.builds(t.FetchBlock, numbers, numbers, digests),
    st.builds(t.BlockMessage, blocks),
)
events = st.one_of(
    st.builds(t.Received, members, messages),
    st.builds(t.Started, st.none() | headers, digests, digests),
    st.builds(t.Elapsed, numbers, rounds),
    st.builds(t.Resend, st.none() | members),
    st.builds(t.Built, numbers, rounds, blocks),
    st.builds(t.Validated, numbers, rounds, digests, st.booleans()),
)

LIMIT = 1 << 20


@given(messages)
def test_a_message_comes_back_as_it_was(message: t.Message) -> None:
    data = codec.encode(message, t.Message)
    assert codec.decode(data, t.Message, size_max=LIMIT) == message


@given(events)
def test_an_event_comes_back_from_the_wal_as_it_was(event: t.Event) -> None:
    data = codec.encode(event, t.Event)
    assert codec.decode(data, t.Event, size_max=LIMIT) == event


@given(st.binary(max_size=200))
@example(b"")
@example(b"\x9f\xff")
@example(bytes([0x81] * 200))
def test_junk_is_refused_and_nothing_else_happens(data: bytes) -> None:
    with pytest.raises(DecodeError):
        codec.decode(data, t.Message, size_max=LIMIT)


@settings(max_examples=300)
@given(messages, st.data())
def test_a_changed_byte_gives_another_message_or_none(message: t.Message, data: st.DataObject) -> None:
    whole = bytearray(codec.encode(message, t.Message))
    place = data.draw(st.integers(0, len(whole) - 1))
    whole[place] ^= data.draw(st.integers(1, 255))
    try:
        other = codec.decode(bytes(whole), t.Message, size_max=LIMIT)
    except DecodeError:
        return
    assert other != message
    assert codec.encode(other, t.Message) == bytes(whole)


@given(messages)
def test_the_end_may_not_be_missing_and_nothing_may_follow(message: t.Message) -> None:
    data = codec.encode(message, t.Message)
    for wrong in (data[:-1], data + b"\0"):
        with pytest.raises(DecodeError):
            codec.decode(wrong, t.Message, size_max=LIMIT)
    with pytest.raises(DecodeError, match="limit"):
        codec.decode(data, t.Message, size_max=len(data) - 1)


@pytest.mark.parametrize(
    ("what", "data"),
    [
        ("a number in more bytes than it needs", bytes.fromhex("83180000") + cbor2.dumps(bytes(32))),
        ("an array without an end mark", b"\x9f\x00\x00" + cbor2.dumps(bytes(32)) + b"\xff"),
        ("a big number as bytes", b"\x83\xc2\x41\x01\x00" + cbor2.dumps(bytes(32))),
        ("a float", cbor2.dumps([0.0, 0, bytes(32)])),
        ("a truth value for a number", cbor2.dumps([True, 0, bytes(32)])),
        ("a number too large", cbor2.dumps([1 << 64, 0, bytes(32)])),
        ("text for bytes", cbor2.dumps([0, 0, "x" * 32])),
        ("a field too many", cbor2.dumps([0, 0, bytes(32), 0])),
        ("a field too few", cbor2.dumps([0, 0])),
        ("a map", cbor2.dumps({0: 0, 1: 0, 2: bytes(32)})),
        ("a tag", cbor2.dumps(cbor2.CBORTag(1, 0))),
    ],
)
def test_there_is_one_form_only(what: str, data: bytes) -> None:
    assert codec.decode(cbor2.dumps([0, 0, bytes(32)]), t.FetchBlock, size_max=LIMIT)
    with pytest.raises(DecodeError):
        codec.decode(data, t.FetchBlock, size_max=LIMIT)


def test_a_tag_that_names_no_message_is_refused() -> None:
    for tag in (-1, 7, 255, True, None, "0"):
        with pytest.raises(DecodeError):
            codec.decode(cbor2.dumps([tag, []]), t.Message, size_max=LIMIT)


@settings(max_examples=200)
@given(st.lists(st.tuples(st.integers(0, 3), messages), max_size=5))
def test_a_replica_bears_whatever_decodes(said: list[tuple[int, t.Message]]) -> None:
    lab = Lab()
    for by, message in said:
        lab.receive(by, message)
    assert lab.replica.round == 0
    assert lab.store == []


def bignum(size: int) -> bytes:
    return b"\xc2\x5a" + size.to_bytes(4, "big") + b"\xff" * size


@pytest.mark.parametrize(
    "bomb",
    [
        pytest.param(b"\xc4\x82\x00" + bignum(40_000), id="a decimal fraction"),
        pytest.param(b"\xc5\x82\x00" + bignum(40_000), id="a big float"),
        pytest.param(b"\xd8\x1e\x82" + bignum(9_000) + bignum(9_001), id="a ratio"),
        pytest.param(b"\xd8\x1c\x81\xd8\x1d\x00", id="an array that contains itself"),
        pytest.param(b"\xa1\x00\x00", id="a map"),
    ],
)
def test_what_is_costly_to_read_is_refused_before_it_is_read(bomb: bytes) -> None:
    """The library reads tags at once: a decimal fraction of 4 MB in a message stopped a node for an hour."""
    with pytest.raises(codec.DecodeError, match="not CBOR"):
        codec.decode(b"\x83\x00\x00" + bomb, t.FetchBlock, size_max=LIMIT)


def test_a_large_message_of_small_items_is_refused_before_memory_is_taken() -> None:
    bomb = b"\x9a" + (4_000_000).to_bytes(4, "big") + b"\x80" * 4_000_000
    tracemalloc.start()
    try:
        with pytest.raises(codec.DecodeError, match="items"):
            codec.decode(bomb, t.FetchBlock, size_max=1 << 23)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
