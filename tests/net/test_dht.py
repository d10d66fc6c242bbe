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
from tests.net.common import Memo
from tests.net.hosts import Town, free_port


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
