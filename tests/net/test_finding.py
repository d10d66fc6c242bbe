"""Members that move are found again by everybody, by what they sign; and nobody can move another."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from consensus.types import MemberId
from p2pfl.net import wire
from p2pfl.net.book import sealed
from p2pfl.net.host import Network
from p2pfl.net.interface import PeerAddress
from p2pfl.net.options import NetOptions
from p2pfl.net.peer_records import PeerRecords
from tests.net.common import Memo, tip
from tests.net.hosts import Town, free_port, hosts, peer_key, until


def moved(town: Town, one: MemberId) -> PeerAddress:
    """The same member at another port."""
    return PeerAddress(town.addresses[one].peer_id, f"/ip4/127.0.0.1/tcp/{free_port()}")


def network_at(town: Town, one: Any, listen: str, **options: Any) -> Network:
    return Network(
        me=one,
        peer_key=town.keys[one],
        listen=listen,
        peers=town.addresses,
        handlers=Memo(),
        **{"gossip": False, **options},
    )


async def test_two_members_that_moved_find_each_other_through_a_third(tmp_path: Path) -> None:
    """Nobody's genesis has a new address, and the third is not started again."""
    town = Town(3)
    third, *movers = town.members
    async with trio.open_nursery() as nursery:
        still = network_at(town, third, town.addresses[third].address)
        await nursery.start(still.run)
        async with trio.open_nursery() as before:
            for one in movers:
                await before.start(network_at(town, one, town.addresses[one].address).run)
            await still.wait_connected(movers, 10)
            before.cancel_scope.cancel()
        nets = [
            network_at(town, one, moved(town, one).address, book_path=tmp_path / f"{one.hex()}.json")
            for one in movers
        ]
        for net in nets:
            await nursery.start(net.run)
        with trio.fail_after(15):
            await nets[0].wait_connected([movers[1], third], 15)
            await nets[1].wait_connected([movers[0], third], 15)
        await until(lambda: all(len(net._finding.book.records()) == 3 for net in (still, *nets)))
        assert not any(net.faults for net in (still, *nets))
        await until(lambda: all((tmp_path / f"{one.hex()}.json").exists() for one in movers))
        nursery.cancel_scope.cancel()


async def test_what_is_on_disk_finds_a_member_that_moved_before_the_last_start(tmp_path: Path) -> None:
    """The third is gone: whoever was told once knows it after a restart."""
    town = Town(2)
    low, high = town.members
    there = moved(town, high)
    path = tmp_path / "peers.json"
    async with trio.open_nursery() as nursery:
        a = network_at(town, low, town.addresses[low].address, book_path=path)
        b = network_at(town, high, there.address, neighbours=[])
        await nursery.start(b.run)
        a._finding.hint(there.peer_id, "bootstrap", [there.address])
        async with trio.open_nursery() as first:
            await first.start(a.run)
            await a.wait_connected([high], 10)
            await until(
                lambda: path.exists() and len(a._finding.book.records()) == 2 and not a._finding.book.dirty
            )
            first.cancel_scope.cancel()
        again = network_at(town, low, town.addresses[low].address, book_path=path)
        await nursery.start(again.run)
        await again.wait_connected([high], 10)
        nursery.cancel_scope.cancel()


async def test_an_address_of_the_operator_finds_who_is_not_where_the_genesis_says() -> None:
    town = Town(2)
    low, high = town.members
    there = moved(town, high)
    async with trio.open_nursery() as nursery:
        await nursery.start(network_at(town, high, there.address, neighbours=[]).run)
        options = replace(NetOptions(), bootstrap=(there,))
        a = network_at(town, low, town.addresses[low].address, options=options)
        await nursery.start(a.run)
        await a.wait_connected([high], 10)
        nursery.cancel_scope.cancel()


async def test_addresses_that_change_while_a_node_runs_are_told_to_all() -> None:
    async with hosts(3) as (_town, nets, _):
        mover = nets[0]
        await until(lambda: all(len(net._finding.book.records()) == 3 for net in nets))
        before = mover._finding.own
        mover._finding._listen = "/ip4/127.0.0.2/tcp/9000"
        mover._finding.refresh()
        for net in nets[1:]:
            book = net._finding.book
            await until(lambda book=book: book.addresses(mover.peer_id)[0] == "/ip4/127.0.0.2/tcp/9000")
        assert mover._finding.own.seq > before.seq
        mover._finding.refresh()
        assert mover._finding.own.addresses == ("/ip4/127.0.0.2/tcp/9000",)


async def test_foreign_old_and_forged_records_are_refused_by_name() -> None:
    async with hosts(2) as (town, (a, b), (memo, _)):
        await until(lambda: all(len(net._finding.book.records()) == 2 for net in (a, b)))
        known = a._finding.book.record(b.peer_id)
        assert known is not None
        number = town.numbers[1]
        foreign = sealed(peer_key(77), ["/ip4/10.0.0.1/tcp/1"], known.seq + 1)
        old = sealed(peer_key(number), ["/ip4/10.0.0.1/tcp/1"], known.seq - 1)
        forged = bytearray(sealed(peer_key(number), ["/ip4/10.0.0.1/tcp/1"], known.seq + 1).envelope)
        forged[-1] ^= 1
        b.send(a.me, PeerRecords((foreign.envelope, old.envelope, bytes(forged))))
        b.send(a.me, tip(1))
        await memo.until(lambda: memo.heights() == [1])
        found = {reason: count for (_, reason), count in a.faults.items()}
        assert found == {"foreign_record": 1, "old_record": 1, "bad_record": 1}
        assert a._finding.book.record(b.peer_id) == known


async def test_a_member_whose_clock_was_set_back_signs_a_later_number() -> None:
    """The others remember a later word of its own, and tell it."""
    async with hosts(2) as (town, (a, b), _):
        await until(lambda: all(len(net._finding.book.records()) == 2 for net in (a, b)))
        later = a._finding.own.seq + 3_600_000
        forgotten = sealed(town.keys[a.me], ["/ip4/10.9.9.9/tcp/9"], later)
        b.send(a.me, PeerRecords((forgotten.envelope,)))
        await until(lambda: a._finding.own.seq == later + 1)
        assert a._finding.own.addresses == (town.addresses[a.me].address,)
        await until(lambda: b._finding.book.record(a.peer_id) == a._finding.own)
        assert not a.faults and not b.faults


async def test_a_record_is_heard_by_gossip_too(monkeypatch: Any) -> None:
    monkeypatch.setattr("p2pfl.net.gossip.QUIET_START_S", 0.0)
    async with hosts(2, gossip=True) as (_, (a, b), _memos):
        await until(lambda: all(len(net._finding.book.records()) == 2 for net in (a, b)))
        heard: list[wire.Message] = []
        plain = b._finding.published
        monkeypatch.setattr(
            b._finding, "published", lambda peer, said: (heard.append(said), plain(peer, said))
        )
        with trio.fail_after(20):
            while not heard:
                a.announce(PeerRecords((a._finding.own.envelope,)))
                await trio.sleep(0.5)
        assert not b.faults


async def test_what_a_stranger_says_again_by_gossip_is_no_fault_of_its_author() -> None:
    """Old records of an honest member, signed by it, as fast as somebody likes."""
    async with hosts(2) as (town, (a, b), _):
        await until(lambda: all(len(net._finding.book.records()) == 2 for net in (a, b)))
        known = a._finding.book.record(b.peer_id)
        assert known is not None
        (author,) = a._peers.values()
        for number in range(200):
            a._announced(b.peer_id, PeerRecords((known.envelope,)))
            old = sealed(town.keys[b.me], ["/ip4/10.0.0.1/tcp/1"], known.seq - 1 - number % 40)
            a._announced(b.peer_id, PeerRecords((old.envelope, known.envelope[:-1])))
        assert not a.faults
        assert not author.is_banned()
        assert a._finding.book.record(b.peer_id) == known


async def test_gossip_that_is_held_already_takes_nothing_from_the_rate() -> None:
    async with hosts(2) as (town, (a, b), _):
        await until(lambda: all(len(net._finding.book.records()) == 2 for net in (a, b)))
        known = a._finding.book.record(b.peer_id)
        assert known is not None
        for _ in range(500):
            a._announced(b.peer_id, PeerRecords((known.envelope,)))
        moved_to = sealed(town.keys[b.me], ["/ip4/10.0.0.1/tcp/1"], known.seq + 1)
        a._announced(b.peer_id, PeerRecords((moved_to.envelope,)))
        assert a._finding.book.record(b.peer_id) == moved_to


@pytest.mark.parametrize("places", [2, 150])
@pytest.mark.parametrize("source", ["record", "lan"])
async def test_nobody_makes_others_call_a_stranger_again_and_again(source: str, places: int) -> None:
    """Addresses said in turns, or ever new ones, were each called at once."""
    town = Town(2)
    low, high = town.members
    came = 0

    async def hang_up(stream: trio.SocketStream) -> None:
        nonlocal came
        came += 1
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, hang_up, 0, host="0.0.0.0"))
        port = listener.socket.getsockname()[1]
        a = network_at(town, low, town.addresses[low].address)
        await nursery.start(a.run)
        peer = a._peers[high]
        for number in range(150):
            said = [f"/ip4/127.0.0.{1 + number % places}/tcp/{port}"]
            if source == "record":
                record = sealed(town.keys[high], said, number + 1)
                a._finding._take(peer, record.envelope)
            else:
                a._finding.hint(peer.address.peer_id, "lan", said)
            await trio.sleep(0.01)
        # 0.1, 0.2, 0.4 and 0.8 s after the last one; and news does not put a call off either.
        assert 2 <= came <= 9
        nursery.cancel_scope.cancel()


async def test_long_names_of_relays_end_nobody() -> None:
    """A member that serves as a relay chooses the name that stands in our own record."""
    name = ".".join(["a" * 63] * 3)
    async with hosts(2) as (_, (a, b), _memos):
        await until(lambda: len(b._finding.book.records()) == 2)
        direct = tuple(f"/dns4/{name}/tcp/{port}" for port in range(1, 9))
        a._finding.relay.own = tuple(f"{one}/p2p/{b.peer_id}/p2p-circuit" for one in direct[:7])
        a._finding.refresh()
        own = a._finding.own
        assert 1 < len(own.addresses) < 8
        a._finding.refresh()
        assert a._finding.own is own
        await until(lambda: b._finding.book.record(a.peer_id) == own)
        assert not a.faults and not b.faults
