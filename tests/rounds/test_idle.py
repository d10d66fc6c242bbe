"""A height whose commitments are split, or whose Ci asks for what cannot be, ends all the same."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from consensus import signing
from consensus import types as ct
from consensus.types import Digest, MemberId
from p2pfl import node
from p2pfl.audit.verify import verify
from p2pfl.errors import PeerFault
from p2pfl.genesis import COUNCIL
from p2pfl.net import wire
from p2pfl.records import GroupBody, decode_body
from p2pfl.rounds.requests import Requests
from p2pfl.signed import ShareRequest, SignedShareRequest
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


async def test_a_member_that_commits_twice_neither_halts_its_group_nor_gets_away(tmp_path: Path) -> None:
    """Each Ci closes with the commitment that it heard; the others take it from the Close."""

    class TwoFaced:
        def __init__(self, parts: node.Parts) -> None:
            self._honest, self._parts = parts.network, parts

        def __getattr__(self, name: str) -> Any:
            return getattr(self._honest, name)

        def broadcast(self, to: Iterable[MemberId], message: Any) -> None:
            if not isinstance(message, wire.ParamTxMessage) or message.tx.tx.height != HEIGHT:
                self._honest.broadcast(to, message)
                return
            parts, tx = self._parts, replace(message.tx.tx, samples=message.tx.tx.samples + 1)
            signature = signing.sign(parts.key.secret, signing.signing_digest(parts.genesis.domain("g0"), tx))
            other = replace(message, tx=replace(message.tx, tx=tx, signature=signature))
            ci = parts.genesis.committee("g0").proposer(HEIGHT, 0)
            for each in to:
                self._honest.send(each, message if each == ci else other)

    def wrap(parts: node.Parts) -> None:
        if parts.name == "g0m0":
            parts.network = TwoFaced(parts)

    async with small_network(tmp_path / "run", wrap=wrap, times=SHORT, rounds=3, **SHAPE) as network:
        await network.until(lambda: network.heights(GROUP, 2), timeout_s=60)
        await network.until(lambda: bool(network.seen("evidence")))
    assert {each["accused"] for each in network.seen("evidence")} == {"g0m0"}
    assert [body.close is None for body in bodies(network)] == [False] * 3


async def test_a_request_on_which_no_epoch_can_begin_costs_no_more_than_its_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It names the council block that holds the assignment, which does not count the group's last block."""
    honest, asked = Requests.make, list[tuple[int, int]]()

    async def make(self: Requests, effect: ct.Build) -> SignedShareRequest:
        context, heard = self._context, self._heard
        view, tip = context.council, context.chain.tip
        begins = tip is not None and tip.epoch < heard.epoch
        if asked or not begins or context.name != "g0":
            return await honest(self, effect)
        later = [i for i in view.newest_ids() if (s := view.at(i)) and s.roster.epoch >= heard.epoch]
        request = ShareRequest(heard.epoch, heard.height, effect.round, Digest(b"\5" * 32), later[-1])
        asked.append((heard.height, effect.round))
        return SignedShareRequest(request, await context.sign(request), effect.justification)

    monkeypatch.setattr(Requests, "make", make)
    async with small_network(
        tmp_path / "run", epochs={"blocks": 2}, times=SHORT, rounds=40, **SHAPE
    ) as network:
        await network.until(
            lambda: bool(asked) and bool(network.seen("decided", group="g0", height=asked[0][0])),
            timeout_s=120,
        )
    height, round_ = asked[0]
    led = network.seen("decided", group="g0", height=height)[0]
    assert led["round"] == round_ + 1
    assert led["members"]  # It was no idle block.
