"""What a node has in memory of answers that observers do not take is bounded, for one of them and for all."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from p2pfl import params
from p2pfl.net import ask, observers, wire
from p2pfl.net.exchange import BLOBS
from p2pfl.net.host import Network
from p2pfl.net.sockets import Sockets
from tests.net.common import noise
from tests.net.hosts import until
from tests.net.test_observers import Shown, node, stranger

# A piece of 1 MiB does not fit a stream's window: whoever does not read it leaves most of it in our memory.
DATA = noise(1024 * 1024)
BLOB_ID = params.blob_id(DATA)
PIECE = wire.GetPiece(BLOB_ID, 0, 1024)
# Fast enough that nobody waits for a turn.
QUICK_KIB_S = 1_000_000


def made_of(network: Network, memo: Shown) -> list[int]:
    """The sizes of what is answered from now on."""
    memo.hold(DATA, BLOB_ID)
    memo.public.add(BLOB_ID)
    made: list[int] = []
    strangers: Any = network.observers
    plain = strangers._answer

    async def answer(*asked: Any) -> Any:
        parts = await plain(*asked)
        made.append(sum(len(part) for part in parts))
        return parts

    strangers._answer = answer
    return made


async def ask_for_a_piece(sockets: Sockets, network: Network) -> ask.Asker:
    asker = ask.Asker(await sockets.open(network.peer_id, BLOBS))
    await asker.send(PIECE)
    return asker


async def test_no_further_answer_is_made_for_who_takes_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observers, "UNTAKEN_BYTES", 1024)
    async with node(observers_kib_s=QUICK_KIB_S) as (network, memo), stranger(network) as sockets:
        made = made_of(network, memo)
        askers = [await ask_for_a_piece(sockets, network) for _ in range(observers.ASKED_STREAMS_MAX)]
        await until(lambda: len(made) == 1)
        (one,) = network.observers._here.values()
        await until(lambda: one.asking == observers.ASKED_STREAMS_MAX)
        await trio.sleep(0.1)
        assert len(made) == 1
        assert len(DATA) < one.untaken_bytes == made[0]
        for number, asker in enumerate(askers, 1):
            piece = await asker.receive(silence_s=5)
            assert isinstance(piece, wire.Piece) and piece.data == DATA
            # Whoever takes gives room for the next.
            await until(lambda number=number: len(made) == min(number + 1, len(askers)))
        await until(lambda: one.untaken_bytes == 0)
        assert not network.observers.faults


async def test_who_has_most_that_it_does_not_take_gives_way_to_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(observers, "UNTAKEN_ALL_BYTES", 5 * len(DATA) // 2)
    async with (
        node(observers_kib_s=QUICK_KIB_S) as (network, memo),
        stranger(network, 1) as greedy,
        stranger(network, 2) as second,
        stranger(network, 3) as third,
    ):
        made = made_of(network, memo)
        for number, sockets in enumerate((greedy, greedy, second), 1):
            await ask_for_a_piece(sockets, network)
            await until(lambda number=number: len(made) == number)
        asker = await ask_for_a_piece(third, network)
        assert isinstance(await asker.receive(silence_s=5), wire.Piece)
        await until(lambda: not greedy.is_connected(network.peer_id))
        assert second.is_connected(network.peer_id)
        assert network.observers.faults == {"slow_reader": 1}
