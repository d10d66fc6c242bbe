"""Kademlia: two members that know nothing of each other but ids meet through those in between."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import trio

from p2pfl.net import dht
from p2pfl.net.finding import Finding
from p2pfl.net.host import Network
from p2pfl.net.interface import PeerAddress
from p2pfl.net.options import NetOptions
from p2pfl.net.sockets import Sockets
from p2pfl.net.stream import StreamBroken
from tests.net.common import Memo
from tests.net.hosts import Town, free_port, until
from tests.net.test_observers import stranger


async def test_two_ends_of_a_line_of_four_find_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Signed records would do it too: here nobody listens to them."""
    monkeypatch.setattr(Finding, "received", lambda *_, **__: None)
    monkeypatch.setattr(dht, "LOOK_S", 0.3)
    town = Town(4)
    options = replace(NetOptions(), dht=True)
    nets = []
    for place, one in enumerate(town.members):
        # Everybody knows its neighbours in the line; of the others, an address at which nobody is.
        peers = {
            other: at
            if abs(place - number) <= 1
            else PeerAddress(at.peer_id, f"/ip4/127.0.0.1/tcp/{free_port()}")
            for number, (other, at) in enumerate((m, town.addresses[m]) for m in town.members)
        }
        handlers: Any = Memo()
        nets.append(
            Network(
                me=one,
                peer_key=town.keys[one],
                listen=town.addresses[one].address,
                peers=peers,
                handlers=handlers,
                gossip=False,
                options=options,
            )
        )
    async with trio.open_nursery() as nursery:
        for net in nets:
            await nursery.start(net.run)
        first, last = nets[0], nets[3]
        await first.wait_connected([last.me], 20)
        await last.wait_connected([first.me], 20)
        nursery.cancel_scope.cancel()


async def answer_to(sockets: Sockets, peer_id: str, data: bytes) -> bytes:
    stream = await sockets.open(peer_id, str(dht.PROTOCOL_ID))
    await stream.write(data)
    return await stream.read()


async def test_a_stranger_is_told_nothing_and_not_taken_into_the_tables() -> None:
    """It connects as an observer, as anybody may, and opens a stream of Kademlia's."""
    from libp2p.kad_dht.pb.kademlia_pb2 import Message

    town = Town(2)
    me = town.members[0]
    net = town.network(me, gossip=False, options=replace(NetOptions(), dht=True), neighbours=[])
    made: list[Any] = []
    plain = dht.Dht._fence

    def fence(self: Any, host: Any, service: Any) -> None:
        plain(self, host, service)
        made.append(service)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dht.Dht, "_fence", fence)
        async with trio.open_nursery() as nursery:
            await nursery.start(net.run)
            await until(lambda: bool(made))
            async with stranger(net) as sockets:
                asked = dht.ID.from_string(town.addresses[town.members[1]].peer_id).to_bytes()
                question = Message(type=Message.MessageType.FIND_NODE, key=asked).SerializeToString()
                with pytest.raises(StreamBroken), trio.fail_after(5):
                    await answer_to(sockets, net.peer_id, bytes([len(question)]) + question)
                assert sockets.is_connected(net.peer_id)
                name = dht.ID.from_string(sockets.peer_id)
                await made[0].add_peer(name, skip_server_mode_check=True)
                assert not made[0].routing_table.peer_in_table(name)
                assert await made[0].peer_routing._query_peer_for_closest(name, asked) == []
            nursery.cancel_scope.cancel()
