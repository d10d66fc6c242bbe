"""A height whose commitments are split, or whose Ci asks for what cannot be, ends all the same."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from consensus import signing
from consensus.types import Digest, MemberId
from p2pfl import node
from p2pfl.audit.verify import verify
from p2pfl.errors import PeerFault
from p2pfl.genesis import COUNCIL
from p2pfl.net import wire
from p2pfl.records import GroupBody, decode_body
from p2pfl.signed import SignedShareRequest
from tests.rounds.small_network import SmallNetwork, small_network
from tests.rounds.test_network import GROUP, SHORT, chain_of

HEIGHT = 1  # Ci of round 0 is g0m1, of round 1 g0m2, of round 2 g0m3.
SHAPE = {"groups": 2, "members": 4, "seats": 1}
Change = Callable[[MemberId, wire.ShareRequestMessage], wire.ShareRequestMessage | None]


class Meddling:
    """A network that changes or drops requests of one height. Everything else is the honest network's."""

    def __init__(self, honest: Any, group_id: Digest, change: Change) -> None:
        self._honest = honest
        self._group_id = group_id
        self._change = change

    def __getattr__(self, name: str) -> Any:
        return getattr(self._honest, name)

    def broadcast(self, to: Iterable[MemberId], message: Any) -> None:
        if not isinstance(message, wire.ShareRequestMessage) or message.request.request.height != HEIGHT:
            self._honest.broadcast(to, message)
        elif message.group_id == self._group_id:
            for each in to:
                if (changed := self._change(each, message)) is not None:
                    self._honest.send(each, changed)


def bodies(network: SmallNetwork, name: str = "g0m0") -> list[GroupBody]:
    return [decode_body(each.block.body, GroupBody) for each in chain_of(network, name, "g0")]


async def test_commitments_split_by_a_ci_that_reached_only_one_end_in_an_idle_block(tmp_path: Path) -> None:
    asked: list[bool] = []

    def wrap(parts: node.Parts) -> None:
        reached = next(e.member_id for e in parts.genesis.groups[0].members if e.name == "g0m0")

        def only_one(to: MemberId, message: wire.ShareRequestMessage) -> wire.ShareRequestMessage | None:
            if message.request.request.round > 0:
                return message
            asked.append(True)
            return message if parts.name == "g0m1" and to == reached else None

        if (
            parts.name == "g0m1"
        ):  # It asks for an older base than the next Ci will: it hears no council before.
            honest, council = parts.network.request, parts.genesis.group_id(COUNCIL)

            async def deaf(to: MemberId, request: Any, *, timeout_s: float) -> Any:
                if request.group_id == council and not asked:
                    raise PeerFault("unreachable", "to the council")
                return await honest(to, request, timeout_s=timeout_s)

            parts.network.request = deaf
        if parts.group == "g0":
            parts.network = Meddling(parts.network, parts.genesis.group_id("g0"), only_one)

    run = tmp_path / "run"
    async with small_network(run, wrap=wrap, times=SHORT, rounds=4, **SHAPE) as network:
        await network.until(lambda: network.heights(GROUP, 3), timeout_s=120)
    found = bodies(network)
    assert [body.close is None for body in found] == [False, True, False, False]
    idle = found[HEIGHT]
    assert (idle.txs, idle.weights, idle.next_base_id) == ((), (), idle.base.base_id)
    assert chain_of(network, "g0m0", "g0")[HEIGHT].certificate.round >= 2
    assert verify(run, recompute=True).findings == []


async def test_a_request_for_a_base_that_nobody_knows_costs_one_round(tmp_path: Path) -> None:
    def wrap(parts: node.Parts) -> None:
        def unknown(_: MemberId, message: wire.ShareRequestMessage) -> wire.ShareRequestMessage:
            asked = replace(message.request.request, council_block_id=Digest(b"\x07" * 32))
            digest = signing.signing_digest(parts.genesis.domain("g0"), asked)
            return wire.ShareRequestMessage(
                message.group_id, SignedShareRequest(asked, signing.sign(parts.key.secret, digest))
            )

        if parts.name == "g0m1":
            parts.network = Meddling(parts.network, parts.genesis.group_id("g0"), unknown)

    run = tmp_path / "run"
    # A request is given up when nobody has the council block that it names for five seconds.
    times = {**SHORT, "train_ms": 8000}
    async with small_network(run, wrap=wrap, times=times, rounds=3, **SHAPE) as network:
        await network.until(lambda: network.heights(GROUP, 2), timeout_s=120)
    assert [len(body.txs) >= 3 for body in bodies(network)] == [True] * 3
    assert chain_of(network, "g0m0", "g0")[HEIGHT].certificate.round == 1
