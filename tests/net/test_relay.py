"""Circuit relay: two members that nobody can call take part through a third; nobody else is served."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from p2pfl import params
from p2pfl.net import pnet, relay
from p2pfl.net.host import Network
from p2pfl.net.interface import PeerAddress, Unreachable
from p2pfl.net.options import DEFAULTS, NetOptions
from p2pfl.net.peer_records import can_be_called
from p2pfl.net.sockets import Sockets
from tests.net.common import Memo, noise, tip
from tests.net.hosts import Town, free_port, peer_key, until


@asynccontextmanager
async def behind_routers(
    monkeypatch: pytest.MonkeyPatch, basis: NetOptions = DEFAULTS
) -> AsyncIterator[tuple[Town, list[Network], list[Any]]]:
    """The first can be called; the addresses of the two others lead nowhere."""
    monkeypatch.setattr(relay, "LOOK_S", 0.2)
    town = Town(3)
    third, *hidden = town.members
    for one in hidden:
        town.addresses[one] = PeerAddress(town.addresses[one].peer_id, f"/ip4/127.0.0.1/tcp/{free_port()}")
    memos: list[Any] = [Memo() for _ in town.members]
    nets = []
    for one, memo in zip(town.members, memos, strict=True):
        options = replace(
            basis,
            relay="serve" if one == third else "use",
            announce=(town.addresses[one].address,),
        )
        listen = town.addresses[one].address if one == third else f"/ip4/127.0.0.1/tcp/{free_port()}"
        nets.append(
            Network(
                me=one,
                peer_key=town.keys[one],
                listen=listen,
                peers=town.addresses,
                handlers=memo,
                gossip=False,
                options=options,
            )
        )
    async with trio.open_nursery() as nursery:
        for net in nets:
            await nursery.start(net.run)
        yield town, nets, memos
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("protected", [False, True], ids=["", "a network key"])
async def test_two_members_that_cannot_be_called_take_part(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, protected: bool
) -> None:
    basis = DEFAULTS
    if protected:
        basis = NetOptions(psk_file=tmp_path / "swarm.key")
        pnet.create_file(tmp_path / "swarm.key")
    async with behind_routers(monkeypatch, basis) as (town, (third, a, b), (_, memo_a, memo_b)):
        await a.wait_connected(town.members, 20)
        await b.wait_connected(town.members, 20)
        (through,) = a._finding.relay.own
        assert can_be_called(through)
        assert through in b._finding.book.addresses(a.peer_id)
        for height in range(50):
            a.send(b.me, tip(height))
            b.send(a.me, tip(height))
        await memo_a.until(lambda: len(memo_a.heights()) == 50)
        await memo_b.until(lambda: len(memo_b.heights()) == 50)
        data = noise(1_000_000)
        memo_b.hold(data, params.blob_id(data))
        fetched = await a.fetch_blob(params.blob_id(data), len(data), lambda: [b.me], timeout_s=20)
        assert fetched.data == data
        # Whoever is lost is lost for both, and comes back the same way.
        ups = b._peers[a.me].link.ups
        a._sockets.drop(b.peer_id)
        await until(lambda: b._peers[a.me].link.ups > ups and b.me in a.connected, 15)
        a.send(b.me, tip(50))
        await memo_b.until(lambda: memo_b.heights() == list(range(51)))
        assert third._sockets.totals()[0] > len(data)  # What is relayed goes over its own connections.
        assert not a.faults and not b.faults and not third.faults


async def answer(asker: Sockets, server: str, message: Any) -> Any:
    """What the relay answers; None when it closes the stream instead."""
    with trio.fail_after(5):
        try:
            stream: Any = await asker.host.new_stream(relay.ID.from_string(server), [relay.PROTOCOL_ID])
            await relay.write_delimited_msg(stream, message)
            return await relay.read_delimited_msg(stream, relay.HopMessage)
        except Exception:  # noqa: BLE001 - of the library's, a dozen kinds.
            return None


async def test_who_is_no_member_is_not_served(monkeypatch: pytest.MonkeyPatch) -> None:
    async with behind_routers(monkeypatch) as (town, (third, a, _), _memos):
        await until(lambda: bool(a._finding.relay.own), 15)
        stranger = Sockets(
            peer_key=peer_key(99),
            listen=f"/ip4/127.0.0.1/tcp/{free_port()}",
            admits=lambda _: True,
            on_change=lambda *_: None,
            on_refused=lambda _: None,
            on_bug=lambda error: None,
        )
        reserve = relay.HopMessage(type=relay.HopMessage.RESERVE)
        connect = relay.HopMessage(type=relay.HopMessage.CONNECT)
        connect.peer.id = relay.ID.from_string(a.peer_id).to_bytes()
        async with stranger.running():
            await stranger.connect(third.peer_id, town.addresses[third.me].address)
            assert await answer(stranger, third.peer_id, connect) is None
            assert await answer(stranger, third.peer_id, reserve) is None
        assert (await answer(a._sockets, third.peer_id, reserve)).status == relay.Status.OK


def circuits(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Where relays that are made from now on can be found."""
    made: list[Any] = []
    plain = relay._Circuits.__init__

    def __init__(self: Any, *args: Any, **options: Any) -> None:  # noqa: N807 - it replaces one.
        plain(self, *args, **options)
        made.append(self)

    monkeypatch.setattr(relay._Circuits, "__init__", __init__)
    return made


async def test_one_pair_has_two_circuits_and_who_gives_up_keeps_none(monkeypatch: pytest.MonkeyPatch) -> None:
    made = circuits(monkeypatch)
    async with behind_routers(monkeypatch) as (town, (third, a, b), _memos):
        await a.wait_connected(town.members, 20)
        await b.wait_connected(town.members, 20)
        (served,) = [one for one in made if one.allow_hop]
        await until(lambda: served._open.total() == 1)
        ((source, target),) = served._open
        caller = a if source == a.peer_id else b
        connect = relay.HopMessage(type=relay.HopMessage.CONNECT)
        connect.peer.id = relay.ID.from_string(target).to_bytes()
        streams = [
            await caller._sockets.host.new_stream(relay.ID.from_string(third.peer_id), [relay.PROTOCOL_ID])
            for _ in range(4)
        ]
        for stream in streams:
            await relay.write_delimited_msg(stream, connect)
        # Whoever is beyond the limit is told by the end of its stream.
        ended = 0
        for stream in streams:
            with trio.move_on_after(2):
                try:
                    await relay.read_delimited_msg(stream, relay.HopMessage)
                except Exception:  # noqa: BLE001 - of the library's, a dozen kinds.
                    ended += 1
        assert ended == 3
        assert served._open == {(source, target): 2}
        for stream in streams:
            await stream.reset()
        await until(lambda: served._open.total() == 1)
        # A call that is given up, before the target answers or while it shakes hands.
        (through,) = (b if caller is a else a)._finding.relay.own
        for after_s in (0.005, 0.02, 0.04, 0.06):
            with trio.move_on_after(after_s), suppress(Unreachable):
                await caller._finding.relay.connect(target, through)
        await until(lambda: served._open.total() == 1)
        await until(lambda: len(served._ended) == 1)


def test_an_address_through_a_relay_names_the_relay() -> None:
    relay_id = Town(1).addresses[Town(1).members[0]].peer_id
    assert can_be_called(f"/ip4/10.0.0.1/tcp/1/p2p/{relay_id}/p2p-circuit")
    for wrong in (
        f"/p2p/{relay_id}/p2p-circuit",
        "/ip4/10.0.0.1/tcp/1/p2p-circuit",
        "/ip4/10.0.0.1/tcp/1/p2p/x/p2p-circuit",
    ):
        assert not can_be_called(wrong)
