"""mDNS: two members whose genesis is wrong find each other on one LAN; rubbish there is passed over."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from p2pfl.net import finding
from p2pfl.net.host import Network
from p2pfl.net.lan import STRINGS_MAX, Lan, spoken
from p2pfl.net.options import NetOptions
from tests.net.common import Memo
from tests.net.hosts import Town, free_port, until


def packed(*strings: str) -> bytes:
    return b"".join(bytes((len(one),)) + one.encode() for one in strings)


def test_addresses_are_read_as_libp2p_writes_them() -> None:
    text = packed(
        "dnsaddr=/ip4/10.0.0.5/tcp/9000/p2p/A", "x=y", "dnsaddr=/ip6/::1/tcp/9000/p2p/A", "dnsaddr="
    )
    assert spoken(text) == {"A": ["/ip4/10.0.0.5/tcp/9000", "/ip6/::1/tcp/9000"]}
    many = packed(*(f"dnsaddr=/ip4/10.0.0.5/tcp/{port}/p2p/A" for port in range(100)))
    assert len(spoken(many)["A"]) == STRINGS_MAX


@given(st.binary(max_size=600))
def test_rubbish_in_a_service_is_passed_over(text: bytes) -> None:
    for peer_id, addresses in spoken(text).items():
        assert peer_id
        assert len(addresses) <= STRINGS_MAX


async def test_two_members_with_old_addresses_find_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def on_loopback(*arguments: Any) -> Lan:
        return Lan(*arguments, interfaces=["127.0.0.1"])

    monkeypatch.setattr(finding, "Lan", on_loopback)
    town = Town(2)
    nets = [
        Network(
            me=one,
            peer_key=town.keys[one],
            listen=f"/ip4/127.0.0.1/tcp/{free_port()}",  # Not where the genesis says.
            peers=town.addresses,
            handlers=Memo(),
            gossip=False,
            options=replace(NetOptions(), mdns=True),
        )
        for one in town.members
    ]
    async with trio.open_nursery() as nursery:
        for net in nets:
            await nursery.start(net.run)
        await until(lambda: all(len(net.connected) == 1 for net in nets), 20)
        nursery.cancel_scope.cancel()
