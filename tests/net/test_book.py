"""Signed records of addresses: only the author's own word holds, its newest, and it outlives the process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfl.errors import PeerFault, UserError
from p2pfl.net.book import Book, opened, sealed
from p2pfl.net.identity import peer_id_of
from p2pfl.net.options import announced, bootstrapped
from p2pfl.net.own import own_addresses
from p2pfl.net.peer_records import ADDRESSES_MAX, CIRCUIT, RECORD_BYTES_MAX
from tests.net.hosts import peer_key

NOW_MS = 1_795_000_000_000
HERE, THERE = "/ip4/10.0.0.5/tcp/9000", "/ip4/192.0.2.9/tcp/9001"
# Made by @libp2p/peer-record of js-libp2p with the key of 32 bytes 0x07; a QUIC address beside that of TCP.
OF_JS = (
    "0a2408011220ea4a6c63e29c520abef5507b132ec5f9954776aebebe7b92421eea691446d22c120203011a4a0a26002408011220"
    "ea4a6c63e29c520abef5507b132ec5f9954776aebebe7b92421eea691446d22c1080bcd9f29e341a0a0a0804cb0071050623281a"
    "0d0a0b04cb00710591022328cd032a404a825e37199aef555fff233b63c7f5af87ef4f8c3b4ed4206f4e1eac030a8f750bba4f93"
    "cde505024e84df028271a23f986f8d0c0ec71878bbfe55d3afbb9f07"
)


def test_a_record_of_another_implementation_is_read() -> None:
    record = opened(bytes.fromhex(OF_JS))
    assert record.peer_id == peer_id_of(bytes([7]) * 32)
    assert (record.seq, record.addresses) == (NOW_MS, ("/ip4/203.0.113.5/tcp/9000",))


def test_a_record_says_who_where_and_when() -> None:
    record = sealed(peer_key(1), [HERE, THERE], NOW_MS)
    assert opened(record.envelope) == record
    assert record.peer_id == peer_id_of(peer_key(1))


@given(st.data())
def test_no_byte_of_a_record_can_be_changed(data: st.DataObject) -> None:
    record = sealed(peer_key(1), [HERE], NOW_MS)
    spoilt = bytearray(record.envelope)
    place = data.draw(st.integers(0, len(spoilt) - 1))
    spoilt[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(PeerFault, match="bad_record"):
        opened(bytes(spoilt))


@given(st.binary(max_size=RECORD_BYTES_MAX + 1))
def test_rubbish_is_refused_by_name(data: bytes) -> None:
    with pytest.raises(PeerFault, match="bad_record"):
        opened(data)


@pytest.mark.parametrize("seq", [0, 1 << 53, (1 << 64) - 1])
def test_a_number_that_no_clock_has_is_refused(seq: int) -> None:
    with pytest.raises(PeerFault, match="bad_record"):
        opened(sealed(peer_key(1), [HERE], seq).envelope)


def test_a_record_names_as_many_addresses_as_it_has_room_for() -> None:
    """One above the limit was an exception that ended the node; circuits carry names that others chose."""
    name = ".".join(["a" * 63] * 3)
    direct = [f"/dns4/{name}/tcp/{port}" for port in range(1, 4)]
    circuits = [f"/dns4/{name}/tcp/{port}/p2p/{peer_id_of(peer_key(2))}{CIRCUIT}" for port in (4, 5)]
    record = sealed(peer_key(1), [*circuits, *direct], NOW_MS)
    assert opened(record.envelope) == record
    assert record.addresses == (circuits[0], *direct)
    full = sealed(peer_key(1), [f"/dns4/{name}/tcp/{port}" for port in range(1, 9)], NOW_MS)
    assert opened(full.envelope).addresses == full.addresses[:8] != ()


def test_a_record_of_somebody_else_is_refused() -> None:
    """libp2p 0.8.1 checks the signature, and not whose record it is."""
    from libp2p.crypto.ed25519 import create_new_key_pair
    from libp2p.peer.envelope import consume_envelope, seal_record
    from libp2p.peer.id import ID
    from libp2p.peer.peer_record import PeerRecord
    from multiaddr import Multiaddr

    theirs = PeerRecord(ID.from_string(peer_id_of(peer_key(2))), [Multiaddr(THERE)], NOW_MS)
    forged = seal_record(theirs, create_new_key_pair(peer_key(1)).private_key).marshal_envelope()
    assert consume_envelope(forged, "libp2p-peer-record")
    with pytest.raises(PeerFault, match="bad_record"):
        opened(forged)


def test_only_a_newer_record_counts() -> None:
    book, me = Book(), peer_id_of(peer_key(1))
    book.learn(sealed(peer_key(1), [HERE], NOW_MS))
    for seq in (NOW_MS, NOW_MS - 1):
        with pytest.raises(PeerFault, match="old_record"):
            book.learn(sealed(peer_key(1), [THERE], seq))
    assert book.addresses(me) == (HERE,)
    book.learn(sealed(peer_key(1), [THERE], NOW_MS + 1))
    assert book.addresses(me) == (THERE,)


def test_the_newest_record_is_called_before_what_others_say_and_what_worked_before_all() -> None:
    book, me = Book(), peer_id_of(peer_key(1))
    book.hint(me, "lan", ["/ip4/10.0.0.1/tcp/3"])
    book.hint(me, "dht", ["/ip4/10.0.0.1/tcp/4"])
    book.hint(me, "genesis", ["/ip4/10.0.0.1/tcp/2", "/ip4/10.0.0.1/udp/2/quic-v1"])
    book.hint(me, "bootstrap", ["/ip4/10.0.0.1/tcp/1"])
    hints = tuple(f"/ip4/10.0.0.1/tcp/{port}" for port in (1, 2, 3, 4))
    assert book.addresses(me) == hints
    book.learn(sealed(peer_key(1), [HERE], NOW_MS))
    assert book.addresses(me) == (HERE, *hints)
    book.worked(me, hints[1])
    assert book.addresses(me) == (hints[1], HERE, hints[0], *hints[2:])
    book.learn(sealed(peer_key(1), [THERE], NOW_MS + 1))
    assert book.addresses(me) == (THERE, *hints)


def test_the_book_is_kept_and_read_again(tmp_path: Path) -> None:
    path = tmp_path / "peers.json"
    book = Book(path)
    book.learn(sealed(peer_key(1), [HERE], NOW_MS))
    assert book.dirty
    book.save()
    again = Book(path)
    assert again.records() == book.records()
    assert not again.dirty


@pytest.mark.parametrize(
    "spoil", ["{", "[]", '{"format": 2, "records": []}', '{"format": 1, "records": ["AAAA"]}']
)
def test_a_book_that_cannot_be_read_is_begun_anew(tmp_path: Path, spoil: str) -> None:
    path = tmp_path / "peers.json"
    path.write_text(spoil)
    book = Book(path)
    assert book.records() == []
    book.save()
    assert json.loads(path.read_text()) == {"format": 1, "records": []}


def test_the_book_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("p2pfl.net.book.BOOK_RECORDS_MAX", 2)
    book = Book()
    for number in (1, 2):
        book.learn(sealed(peer_key(number), [HERE], NOW_MS))
    with pytest.raises(PeerFault, match="full"):
        book.learn(sealed(peer_key(3), [HERE], NOW_MS))
    book.learn(sealed(peer_key(2), [THERE], NOW_MS + 1))


def test_own_addresses_are_what_the_operator_says_or_where_we_listen() -> None:
    many = [f"10.0.0.{number}" for number in range(20)]
    assert own_addresses(HERE) == (HERE,)
    assert own_addresses(HERE, [THERE]) == (THERE,)
    assert own_addresses("/ip4/0.0.0.0/tcp/7", interfaces=lambda _: ["127.0.0.1", "10.1.1.1"]) == (
        "/ip4/10.1.1.1/tcp/7",
    )
    assert own_addresses("/ip4/0.0.0.0/tcp/7", interfaces=lambda _: ["127.0.0.1"]) == (
        "/ip4/127.0.0.1/tcp/7",
    )
    assert len(own_addresses("/ip4/0.0.0.0/tcp/7", interfaces=lambda _: many)) == ADDRESSES_MAX


def test_the_operators_lists_are_checked() -> None:
    who = peer_id_of(peer_key(1))
    assert announced(None) == () == bootstrapped("")
    assert announced(f"{HERE}, {THERE}") == (HERE, THERE)
    (found,) = bootstrapped(f"{HERE}/p2p/{who}")
    assert (found.peer_id, found.address) == (who, HERE)
    wrong: list[Any] = [(announced, "here"), (announced, ",".join([HERE] * 9)), (bootstrapped, HERE)]
    for read, text in [*wrong, (bootstrapped, f"{HERE}/p2p/{who[:-1]}0")]:
        with pytest.raises(UserError):
            read(text)
