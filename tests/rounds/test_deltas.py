"""Members make the next base of the one before and a delta of half the bytes; a false one misleads none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from p2pfl import node
from p2pfl.net import wire
from p2pfl.params import byte_length
from tests.rounds.small_network import small_network
from tests.rounds.test_network import GROUP, SHORT

HEIGHTS = 3


class Watched:
    """A network whose fetched lengths are noted, and whose deltas may be others than the seat's."""

    def __init__(self, honest: Any, fetched: list[int], lies: bool) -> None:
        self._honest, self._fetched, self._lies = honest, fetched, lies
        self.deltas: list[wire.BaseDelta] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._honest, name)

    async def fetch_blob(self, blob_id: bytes, length: int, *args: Any, **more: Any) -> Any:
        self._fetched.append(length)
        return await self._honest.fetch_blob(blob_id, length, *args, **more)

    def broadcast(self, to: Any, message: Any) -> None:
        if isinstance(message, wire.BaseDelta):
            self.deltas.append(message)
            if self._lies:  # The delta of another block: it is served, and gives another base.
                first = self.deltas[0]
                message = wire.BaseDelta(message.base_id, first.delta_id, first.exponents)
                if len(self.deltas) == 1:
                    return
        self._honest.broadcast(to, message)


@pytest.mark.parametrize("lies", [False, True])
async def test_a_base_comes_as_a_delta_and_a_false_one_is_not_taken(tmp_path: Path, lies: bool) -> None:
    fetched: dict[str, list[int]] = {name: [] for name in (*GROUP, "seat0")}
    seats: list[Watched] = []

    def wrap(parts: node.Parts) -> None:
        parts.network = Watched(parts.network, fetched[parts.name], lies and parts.name == "seat0")
        if parts.name == "seat0":
            seats.append(parts.network)

    shape: dict[str, Any] = {"groups": 1, "members": 4, "seats": 1, "rounds": HEIGHTS, "model": "logistic"}
    async with small_network(tmp_path / "run", wrap=wrap, times=SHORT, **shape) as network:
        await network.until(lambda: network.heights(GROUP, HEIGHTS - 1))
        genesis = network.parts["g0m0"].genesis
        whole = byte_length("base", genesis.task.layout)
        assert len(seats[0].deltas) >= HEIGHTS - 1
        for name in GROUP:
            count = fetched[name].count(whole)
            # The genesis base is drawn by everybody: no whole base is fetched by who believes the seat.
            assert (count > 0) if lies else (count == 0), (name, fetched[name])
            view = network.parts[name].desk.context.council
            assert view.delta_of(seats[0].deltas[-1].base_id) is None or not lies
