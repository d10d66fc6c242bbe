"""After a restart a node still serves what others need of it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from consensus import types as ct
from consensus.votes import subject
from p2pfl import node
from p2pfl.net import wire
from p2pfl.records import GroupBody, decode_body
from tests.rounds.small_network import small_network
from tests.rounds.test_network import GROUP, SHORT, chain_of

HEIGHT = 1
VOTERS = ["g0m0", "g0m1", "g0m2"]


class Lossy:
    """A network that loses the COMMITs of one height, as long as `loses` is not empty."""

    def __init__(self, honest: Any, group_id: ct.Digest, loses: list[bool]) -> None:
        self._honest, self._group_id, self._loses = honest, group_id, loses

    def __getattr__(self, name: str) -> Any:
        return getattr(self._honest, name)

    def _lost(self, message: Any) -> bool:
        return (
            bool(self._loses)
            and isinstance(message, wire.ConsensusMessage)
            and message.group_id == self._group_id
            and isinstance(message.message, ct.CommitMessage)
            and subject(message.message).height == HEIGHT
        )

    def send(self, to: ct.MemberId, message: Any) -> None:
        if not self._lost(message):
            self._honest.send(to, message)

    def broadcast(self, to: Iterable[ct.MemberId], message: Any) -> None:
        if not self._lost(message):
            self._honest.broadcast(to, message)


async def test_who_missed_a_prepared_block_gets_its_updates_from_members_that_were_started_anew(
    tmp_path: Path,
) -> None:
    """Three prepare a block and stop; one of them stays away, so the fourth has to vote for it too."""
    loses = [True]

    def wrap(parts: node.Parts) -> None:
        if parts.group == "g0":
            parts.network = Lossy(parts.network, parts.genesis.group_id("g0"), loses)

    shape: dict[str, Any] = {"groups": 1, "members": 4, "seats": 1}
    async with small_network(tmp_path / "run", wrap=wrap, times=SHORT, **shape) as network:
        await network.until(lambda: network.heights(GROUP, HEIGHT - 1))
        await network.stop("g0m3")
        await network.until(
            lambda: all(network.seen("step", by=name, height=HEIGHT, step="commit") for name in VOTERS)
        )
        for name in VOTERS:
            await network.stop(name)
        assert not network.seen("decided", group="g0", height=HEIGHT)
        loses.clear()
        there = ["g0m0", "g0m2", "g0m3"]
        for name in there:
            await network.start(name, new=False)
        await network.until(lambda: network.heights(there, HEIGHT), timeout_s=60)


async def test_the_updates_of_decided_blocks_are_served_to_the_seats_after_a_restart(tmp_path: Path) -> None:
    async with small_network(tmp_path / "run", groups=1, members=4, seats=1, rounds=1) as network:
        await network.until(lambda: network.heights(GROUP, 0))
        body = decode_body(chain_of(network, "g0m0", "g0")[0].block.body, GroupBody)
        seat = network.id_of("seat0")
        for name in GROUP:
            await network.stop(name)
            await network.start(name, new=False)
        blobs = [*(signed.tx.blob_id for signed in body.txs), body.aggregate_id]
        for name in GROUP:
            assert all(network.parts[name].desk.blob(seat, blob) for blob in blobs)
