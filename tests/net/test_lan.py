"""mDNS: two members whose genesis is wrong find each other on one LAN; rubbish there is passed over."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
import trio
import zeroconf
from hypothesis import given
from hypothesis import strategies as st

from p2pfl.net import finding, lan
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


class WithoutHost(Lan):
    """The specification wants the TXT record only; zeroconf's own question waits for an address in vain."""

    def _service(self, addresses: Any) -> Any:
        info = super()._service(addresses)
        info.addresses = []
        return info


@pytest.mark.parametrize("kind", [Lan, WithoutHost])
async def test_two_members_with_old_addresses_find_each_other(
    monkeypatch: pytest.MonkeyPatch, kind: type[Lan]
) -> None:
    def on_loopback(*arguments: Any) -> Lan:
        return kind(*arguments, interfaces=["127.0.0.1"])

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


@pytest.mark.parametrize(
    ("step", "error"),
    [
        ("register_service", zeroconf.NonUniqueNameException),
        ("update_service", zeroconf.EventLoopBlocked),
        ("close", zeroconf.NotRunningException),
    ],
)
async def test_what_zeroconf_raises_stops_no_node(
    step: str, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Anybody on the LAN may claim our name, and a laptop that wakes up finds that its loop was blocked."""
    monkeypatch.setattr(lan, "AGAIN_S", 0.02)
    names: list[str] = []

    class Fake:
        """A LAN on which one step never works. What is looked at is who survives it."""

        def __init__(self, **_: Any) -> None: ...

        def register_service(self, info: Any) -> None:
            names.append(info.name)
            self._fail_at("register_service")

        def update_service(self, info: Any) -> None:
            self._fail_at("update_service")

        def close(self) -> None:
            self._fail_at("close")

        def _fail_at(self, here: str) -> None:
            # To come to an end at all, the last step needs another one to fail.
            if here == step or (step == "close" and here == "update_service"):
                raise error

    class Browser:
        def __init__(self, *_: Any, **__: Any) -> None: ...

        def cancel(self) -> None: ...

    monkeypatch.setattr(zeroconf, "Zeroconf", Fake)
    monkeypatch.setattr(zeroconf, "ServiceBrowser", Browser)
    places = (f"/ip4/10.0.0.5/tcp/{port}" for port in itertools.count(1))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Lan("A", lambda: [next(places)], lambda *_: None).run)
        await until(lambda: len(names) >= 3)
        nursery.cancel_scope.cancel()
    assert len(set(names)) == len(names)


async def test_a_name_that_is_none_does_not_end_the_thread_that_hears_it() -> None:
    one = Lan("A", list, lambda *_: None)
    for name in ("", "x", "a.b.c", "\0" * 300):
        one._heard(trio.lowlevel.current_trio_token(), zeroconf=None, name=name)


def test_what_is_heard_after_the_node_has_ended_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The browser's thread outlives the event loop for as long as a question takes."""

    class Info:
        text = packed("dnsaddr=/ip4/10.0.0.5/tcp/1/p2p/B")

        def __init__(self, *_: Any) -> None: ...

        def request(self, *_: Any) -> bool:
            return True

    async def token() -> trio.lowlevel.TrioToken:
        return trio.lowlevel.current_trio_token()

    found: list[Any] = []
    one = Lan("A", list, lambda *news: found.append(news))
    monkeypatch.setattr(zeroconf, "ServiceInfo", Info)
    assert list(spoken(Info.text)) == ["B"]
    one._heard(trio.run(token), zeroconf=None, name=f"b.{lan.SERVICE}")
    assert found == []
