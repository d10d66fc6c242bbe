"""Announcements by gossip: heard by all who are there, after a restart and after a lost connection too."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import trio

from p2pfl.net import fences, gossip, host, peer, wire
from p2pfl.net.identity import peer_id_of
from p2pfl.net.peer_records import PeerRecords
from tests.net.common import tip
from tests.net.hosts import Town, hosts, peer_key, until

MESH_S = gossip.MESH_S  # As it is outside of these tests.


@pytest.fixture(autouse=True)
def _gossip_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gossip, "QUIET_START_S", 0.0)
    monkeypatch.setattr(gossip, "SPREAD_S", 0.0)
    monkeypatch.setattr(gossip, "MESH_S", 1)


async def test_announcements_reach_the_others_also_after_a_restart() -> None:
    """A node that starts again with the same key is heard (its message numbers go on), and hears."""
    town = Town(3)
    heard: dict[Any, list[int]] = {one: [] for one in town.members}

    def make(one: Any) -> host.Network:
        network = town.network(one, gossip=True)
        network.on_announce.append(lambda sender, said, one=one: heard[one].append(said.height))
        return network

    async def live(network: host.Network, task_status: Any) -> None:
        stopped = trio.Event()
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                await nursery.start(network.run)
                task_status.started((scope, stopped))
        stopped.set()

    async def announce_until_heard(network: host.Network, height: int) -> None:
        """The mesh needs a moment; an announcement that comes before it is lost, as it may be."""
        with trio.fail_after(8):
            while not all(height in heard[one] for one in town.members if one != network.me):
                network.announce(tip(height))
                await trio.sleep(0.2)

    a, b, c = (make(one) for one in town.members)
    async with trio.open_nursery() as nursery:
        await nursery.start(live, a)
        await nursery.start(live, b)
        scope, stopped = await nursery.start(live, c)
        for network in (a, b, c):
            await network.wait_connected(town.members, 10)
        await announce_until_heard(a, 1)
        await announce_until_heard(c, 2)
        burst = range(100, 200)
        for height in burst:
            c.announce(tip(height))
            await trio.sleep(0.002)
        await trio.sleep(0.5)
        scope.cancel()
        await stopped.wait()
        await until(lambda: c.me not in a.connected)
        c = make(c.me)
        await nursery.start(live, c)
        await c.wait_connected(town.members, 10)
        await announce_until_heard(c, 3)
        await announce_until_heard(a, 4)
        # More than libp2p's ten a second; what a full queue of ours gave up is missing, and no more.
        assert sum(height in heard[b.me] for height in burst) >= len(burst) - 10
        nursery.cancel_scope.cancel()


async def test_what_two_others_have_said_is_not_said_again(
    autojump_clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gossip, "SPREAD_S", 0.5)
    told: list[bytes] = []

    async def publish(topic: str, packed: bytes) -> None:
        told.append(packed)

    one = gossip.Gossip("tips", lambda *_: None, lambda _: True)
    one.pubsub = SimpleNamespace(my_id=b"me", publish=publish)

    def hear(author: bytes, height: int) -> None:
        one._hear(SimpleNamespace(from_id=author, data=wire.pack(tip(height))))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(one._publish)
        for author, height in ((b"a", 1), (b"b", 1), (b"a", 2), (b"a", 2), (b"c", 3)):
            hear(author, height)
        for height in (1, 2, 3):
            one.announce(tip(height))
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert told == [wire.pack(tip(2)), wire.pack(tip(3))]
    for height in range(1000):
        hear(b"a", height)
    assert len(one._said) <= gossip.SAID_MAX


async def test_4_of_a_burst_the_newest_are_heard_and_none_is_lost_on_the_way() -> None:
    """libp2p's queue to a neighbour has 32 places, 1.2 takes two a message; what finds none is dropped."""
    async with hosts(2, gossip=True) as (_, (a, b), _):
        heard: list[int] = []
        b.on_announce.append(lambda sender, said: heard.append(said.height))
        with trio.fail_after(10):
            while not heard:
                a.announce(tip(0))
                await trio.sleep(0.1)
        for height in range(1, 301):
            a.announce(tip(height))
        newest = set(range(301 - gossip.WAITING_MAX, 301))
        await until(lambda: newest <= set(heard))
        assert len([height for height in heard if height]) == gossip.WAITING_MAX
        for net in (a, b):
            spoken = {each for each in net._sockets.by_protocol()[0] if str(each).startswith("/meshsub/")}
            assert spoken == {"/meshsub/1.1.0"}


def test_9_nothing_that_is_announced_comes_near_the_size_that_libp2p_drops() -> None:
    """Above 1 MiB an RPC is gone without a word, and a full mesh sends every byte n - 1 times."""
    for kind in (wire.Tip, PeerRecords):
        assert wire.BY_KIND[kind].size_max <= fences.GOSSIP_DATA_BYTES_MAX
    assert fences.GOSSIP_DATA_BYTES_MAX <= 1024 * 1024 // 32


async def test_10_the_mesh_is_mended_every_few_seconds() -> None:
    """Every 120 seconds otherwise."""
    assert MESH_S <= 10
    async with hosts(2, gossip=True) as (_, (a, _), _):
        await until(lambda: a._gossip is not None and a._gossip.pubsub is not None)
        assert a._gossip.pubsub.router.heartbeat_interval == gossip.MESH_S


async def test_announcements_go_on_after_a_connection_was_lost_for_a_moment() -> None:
    """libp2p learns of the loss after the two are connected again."""
    async with hosts(2, gossip=True) as (town, (a, b), _):
        heard: list[int] = []
        b.on_announce.append(lambda sender, said: heard.append(said.height))
        for turn in range(2):
            with trio.fail_after(10):
                while turn not in heard:
                    a.announce(tip(turn))
                    await trio.sleep(0.1)
            a._sockets.drop(b.peer_id)
            await until(lambda: b.me not in a.connected)
            await a._sockets.connect(b.peer_id, town.addresses[b.me].address)
            await a.wait_connected([b.me], 5)
            await b.wait_connected([a.me], 5)


async def test_connections_that_come_and_go_leave_no_tasks_behind() -> None:
    """Two welcomes of one peer at the same time left one waiting for ever at a queue that nobody knew."""
    async with hosts(3, gossip=True) as (town, (a, b, c), _):
        counts: list[int] = []
        for _ in range(2):
            for _ in range(5):
                for other in (b, c):
                    a._sockets.drop(other.peer_id)
                a.announce(tip(1))
                await until(lambda: not a.connected)
                await a.wait_connected(town.members, 5)
                await b.wait_connected(town.members, 5)
            await trio.sleep(1.5)
            counts.append(trio.lowlevel.current_statistics().tasks_living)
        assert counts[1] <= counts[0] + 2


async def test_a_node_that_ends_while_gossip_forwards_ends_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """libp2p asks a closed listener for its address then, and raises beside the cancellation."""

    async def forward() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise OSError(9, "Bad file descriptor")

    async def run(host: Any) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            nursery.start_soon(forward)

    told = gossip.Gossip("/mps/test/tips", lambda sender, said: None, lambda author: True)
    monkeypatch.setattr(told, "_run", run)
    with trio.move_on_after(0.1) as scope:
        await told.run(None)
    assert scope.cancelled_caught


async def test_a_member_that_floods_is_not_passed_on_and_nobody_else_pays(autojump_clock: Any) -> None:
    """The rate is by author; whoever passed it on would be the one that its neighbours find too loud."""

    class Said:
        def __init__(self, author: str, number: int) -> None:
            self.from_id = gossip.ID.from_string(author).to_bytes()
            self.seqno = number.to_bytes(8, "big")

    class Ours:
        my_id = gossip.ID.from_string(peer_id_of(peer_key(9)))

    loud, calm = (peer_id_of(peer_key(number)) for number in (1, 2))
    told = gossip.Gossip("/mps/test/tips", lambda *_: None, lambda author: author in (loud, calm))
    told.pubsub = Ours()
    passed = sum(told._may_pass(None, Said(loud, number)) for number in range(1, 2000))
    assert passed == gossip.AUTHOR_BURST
    assert told._may_pass(None, Said(calm, 1))
    await trio.sleep(10)
    # What a stranger says again uses up another rate than what the member says next.
    again = sum(told._may_pass(None, Said(loud, 1)) for _ in range(2000))
    assert again == gossip.LATE_BURST
    assert told._may_pass(None, Said(loud, 2000))


def test_whoever_passes_on_too_much_is_slowed_down_and_never_barred() -> None:
    assert not peer.REASONS["gossip_flood"][0]
