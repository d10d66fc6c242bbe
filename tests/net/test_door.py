"""Who may knock: half-open handshakes by address, bans that end, and addresses where members live."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import trio

from p2pfl.errors import PeerFault
from p2pfl.net import ask, door, peer
from p2pfl.net.book import Record
from p2pfl.net.door import Door, customer_of
from p2pfl.net.interface import PeerAddress
from p2pfl.net.outside import Outside
from p2pfl.net.peer import FAULTS_MAX, Peer, Standing
from p2pfl.net.stream import Link
from tests.net.common import member

QUIET = Link(bytes(16), lambda: None, lambda _: None)


class Watched:
    """A door, what it told, and whose sockets it shut."""

    def __init__(self, *homes: str, grace_s: float = 0.0) -> None:
        self.faults: Counter[tuple[str, str]] = Counter()
        self.barred: list[str] = []
        self.shut: list[str] = []
        self.homes = set(homes)
        self.door = Door(lives_here=self.homes.__contains__, on_fault=self._on_fault, grace_s=grace_s)

    def _on_fault(self, address: str, fault: PeerFault, barred: bool) -> None:
        self.faults[address, fault.reason] += 1
        if barred:
            self.barred.append(address)

    def knock(self, address: str, name: str = "") -> Any:
        return self.door.knock(address, lambda: self.shut.append(name or address))


async def test_of_one_address_the_oldest_gives_way(autojump_clock: Any) -> None:
    watched = Watched("10.0.0.1")
    for number in range(door.HALF_OPEN_PER_ADDRESS + 3):
        assert watched.knock("10.0.0.1", str(number)) is not None
    assert watched.shut == ["0", "1", "2"]
    assert watched.door.half_open == door.HALF_OPEN_PER_ADDRESS
    assert watched.faults["10.0.0.1", "half_open"] == 3


async def test_of_many_addresses_the_one_with_most_gives_way(autojump_clock: Any) -> None:
    watched = Watched()
    for _ in range(20):
        watched.knock("10.0.0.1")
    others = [f"10.0.1.{number}" for number in range(door.HALF_OPEN_MAX - 20)]
    assert all(watched.knock(other) for other in others)
    late = watched.knock("10.0.2.1")
    assert late is not None
    assert watched.shut == ["10.0.0.1"]
    watched.door.settled(late, None)
    assert watched.door.half_open == door.HALF_OPEN_MAX - 1


async def test_a_handshake_that_gave_way_is_counted_once(autojump_clock: Any) -> None:
    watched = Watched()
    first = watched.knock("10.0.0.1")
    for _ in range(door.HALF_OPEN_PER_ADDRESS):
        watched.knock("10.0.0.1")
    watched.door.settled(first, "bad_handshake")
    assert watched.faults == {("10.0.0.1", "half_open"): 1}


async def test_an_address_is_barred_for_a_time_and_then_let_in(autojump_clock: Any) -> None:
    watched = Watched()
    for _ in range(FAULTS_MAX):
        watched.door.settled(watched.knock("10.0.0.1"), "bad_handshake")
    assert watched.barred == ["10.0.0.1"]
    assert watched.door.barred() == {"10.0.0.1": pytest.approx(peer.BAN_MIN_S)}
    assert watched.knock("10.0.0.1") is None
    assert watched.knock("10.0.0.2") is not None
    await trio.sleep(peer.BAN_MIN_S + 1)
    assert watched.door.barred() == {}
    assert watched.knock("10.0.0.1") is not None


async def test_where_a_member_lives_or_was_nobody_is_barred(autojump_clock: Any) -> None:
    watched = Watched("10.0.0.1")
    watched.door.settled(watched.knock("10.0.0.2"), None, member=True)
    for address in ("10.0.0.1", "10.0.0.2"):
        for _ in range(3 * FAULTS_MAX):
            watched.door.settled(watched.knock(address), "bad_handshake")
    assert watched.barred == []
    assert watched.faults["10.0.0.2", "bad_handshake"] == 3 * FAULTS_MAX


def bad_handshakes(watched: Watched, address: str, count: int = FAULTS_MAX) -> None:
    for _ in range(count):
        knock = watched.knock(address)
        if knock is not None:
            watched.door.settled(knock, "bad_handshake")


async def test_a_ban_ends_where_a_member_turns_out_to_live(autojump_clock: Any) -> None:
    watched = Watched()
    bad_handshakes(watched, "10.0.0.1")
    assert watched.knock("10.0.0.1") is None
    watched.homes.add("10.0.0.1")  # Its record came by another way.
    assert watched.knock("10.0.0.1") is not None
    assert not watched.door.is_barred("10.0.0.1")
    assert not watched.door.barred()


async def test_after_a_start_a_scanner_does_not_bar_its_neighbours(autojump_clock: Any) -> None:
    """All members come from one router, and none has called yet."""
    watched = Watched(grace_s=door.GRACE_S)
    bad_handshakes(watched, "10.0.0.1", 3 * FAULTS_MAX)
    knock = watched.knock("10.0.0.1")
    assert knock is not None
    watched.door.settled(knock, None, member=True)
    bad_handshakes(watched, "10.0.0.2", FAULTS_MAX)
    await trio.sleep(door.GRACE_S)
    for address in ("10.0.0.1", "10.0.0.2"):
        bad_handshakes(watched, address, FAULTS_MAX + 1)
    assert watched.barred == ["10.0.0.2"]


async def test_where_a_member_came_from_is_remembered_for_hours_whoever_comes(autojump_clock: Any) -> None:
    watched = Watched()
    watched.door.welcome("10.0.0.1")
    for number in range(2 * door.ADDRESSES_MAX):
        watched.door.offend(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", PeerFault("bad_mux"))
    await trio.sleep(door.HOME_S - 1)
    bad_handshakes(watched, "10.0.0.1")
    assert watched.barred == []
    await trio.sleep(2)
    bad_handshakes(watched, "10.0.0.1")
    assert watched.barred == ["10.0.0.1"]


async def test_a_member_that_was_here_last_is_forgotten_last(
    autojump_clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever comes from ever new addresses must not make us forget who comes again and again."""
    monkeypatch.setattr(door, "HOMES_MAX", 3)
    watched = Watched()
    for address in ("10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.1", "10.0.0.4"):
        watched.door.welcome(address)
    bad_handshakes(watched, "10.0.0.1")
    assert watched.barred == []
    bad_handshakes(watched, "10.0.0.2")
    assert watched.barred == ["10.0.0.2"]


@pytest.mark.parametrize(
    ("genesis", "record", "remote", "home"),
    [
        ("/ip6/2001:db8::1/tcp/9000", None, "2001:db8::ffff", True),
        ("/ip6/2001:db8::1/tcp/9000", None, "2001:db8:0:1::1", False),
        ("/ip4/10.0.0.9/tcp/9000", "/ip6/2001:db8::1/tcp/9000/ws", "2001:db8::2", True),
        ("/ip4/10.0.0.9/tcp/9000", "/ip4/10.0.0.5/tcp/1/p2p/R/p2p-circuit", "10.0.0.5", False),
        ("/ip4/110.0.0.5/tcp/9000", None, "10.0.0.5", False),
    ],
)
async def test_a_member_is_known_by_all_its_addresses(
    genesis: str, record: str | None, remote: str, home: bool, autojump_clock: Any
) -> None:
    one = Peer(member(1), PeerAddress("A", genesis), QUIET)
    said = Record("A", 1, (record,), b"") if record else None
    outside = Outside({"A": one}, lambda *_: None, lambda *_: False, lambda _: None, lambda _: said)
    assert outside._lives_here(customer_of(remote)) is home


async def test_a_member_that_was_called_by_a_name_is_known_by_its_address(autojump_clock: Any) -> None:
    one = Peer(member(1), PeerAddress("A", "/dns4/home.example/tcp/9000"), QUIET)
    outside = Outside({"A": one}, lambda *_: None, lambda *_: False, lambda _: None, lambda _: None)
    assert not outside.door._is_home("10.0.0.5")
    outside.member_at("A", "10.0.0.5")
    await trio.sleep(3 * door.HOME_S)
    assert outside.door._is_home("10.0.0.5")
    outside.member_at("A", "")
    assert outside.door._is_home("10.0.0.5")
    await trio.sleep(door.HOME_S)
    assert not outside.door._is_home("10.0.0.5")


async def test_connections_have_a_rate_by_address(autojump_clock: Any) -> None:
    watched = Watched("10.0.0.1")
    took = 0
    for _ in range(300):
        knock = watched.knock("10.0.0.1")
        if knock is not None:
            took += 1
            watched.door.settled(knock, None)
    assert took == door.CONNECTIONS_BURST
    assert watched.faults["10.0.0.1", "connection_flood"] == 200
    await trio.sleep(2)
    assert watched.knock("10.0.0.1") is not None


async def test_somebody_with_many_addresses_does_not_keep_members_out(autojump_clock: Any) -> None:
    watched = Watched("10.0.0.1")
    took = sum(watched.knock(f"10.1.{number >> 8}.{number & 255}") is not None for number in range(1000))
    assert took == door.STRANGERS_BURST
    assert watched.barred == []
    assert watched.knock("10.0.0.1") is not None
    await trio.sleep(1)
    assert watched.knock("10.2.0.1") is not None


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:10.0.0.1", "10.0.0.1", True),
        ("fe80::1%eth0", "fe80::2%eth1", True),
        ("10.0.0.1", "10.0.0.2", False),
    ],
)
async def test_what_one_customer_has_is_one_address(
    one: str, other: str, same: bool, autojump_clock: Any
) -> None:
    watched = Watched()
    for _ in range(FAULTS_MAX):
        watched.door.offend(one, PeerFault("bad_mux"))
    assert watched.door.is_barred(one)
    assert watched.door.is_barred(other) is same


async def test_addresses_are_forgotten_and_the_barred_ones_last(autojump_clock: Any) -> None:
    watched = Watched()
    for _ in range(FAULTS_MAX):
        watched.door.offend("10.9.9.9", PeerFault("bad_mux"))
    for number in range(door.ADDRESSES_MAX + 50):
        watched.door.offend(f"10.1.{number >> 8}.{number & 255}", PeerFault("bad_mux"))
    assert len(watched.door._addresses) == door.ADDRESSES_MAX
    assert watched.door.is_barred("10.9.9.9")


async def test_earlier_bans_are_forgotten_in_time(autojump_clock: Any) -> None:
    standing = Standing()
    lasted = []
    for pause_s in (0.0, 0.0, 2.5 * peer.BAN_FORGOTTEN_S, 0.0):
        while not standing.offend(PeerFault("bad_frame")):
            pass
        lasted.append(standing.banned_for_s)
        await trio.sleep(standing.banned_for_s + pause_s)
    assert lasted == pytest.approx([60, 120, 240, 120])


async def test_an_answer_that_nobody_takes_is_given_up(autojump_clock: Any) -> None:
    """A peer that takes a byte now and then keeps an answer in memory for ever: its writer never gives up."""

    class Slow:
        async def read(self, n: int | None = None) -> bytes:
            return ask.framed(b"\x20ask")

        async def write(self, data: bytes) -> None:
            await trio.sleep_forever()

        async def reset(self) -> None:
            pass

    async def answer(_: bytes) -> list[bytes]:
        return [bytes(1 << 20)]

    from p2pfl.net.stream import Stream

    begun_s = trio.current_time()
    with pytest.raises(PeerFault, match="slow_reader"), trio.fail_after(600):
        await ask.serve(Stream(Slow()), answer)
    assert trio.current_time() - begun_s == pytest.approx(ask.TAKE_S + 32)
