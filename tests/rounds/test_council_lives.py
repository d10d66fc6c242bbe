"""One hostile seat, or a group that is lost, does not halt the council: the others go on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from consensus import signing
from consensus import types as ct
from consensus.signing import block_id
from p2pfl import node
from p2pfl.errors import PeerFault
from p2pfl.genesis import COUNCIL
from p2pfl.net import wire
from p2pfl.records import CouncilBody, GroupBody, decode_body
from tests.rounds.small_network import SmallNetwork, small_network
from tests.rounds.test_network import SHORT, chain_of

TIMES = {**SHORT, "propose_ms": 3000, "gather_ms": 1000, "double_max": 2}
SEATS = [f"seat{index}" for index in range(4)]


async def test_a_root_update_that_is_shown_to_some_seats_only_reaches_the_others_through_them(
    tmp_path: Path,
) -> None:
    """Its author says nothing more once two of three have prepared its block."""
    hostile: list[str] = []

    def wrap(parts: node.Parts) -> None:
        committee = parts.genesis.committee(COUNCIL)
        author = committee.proposer(0, 0)
        if parts.me != author:
            return
        hostile.append(parts.name)
        victim = [member for member in committee.members if member != author][-1]
        honest_blob, network = parts.desk.blob, parts.network

        async def answer(sender: ct.MemberId, request: Any) -> wire.Refused:
            return wire.Refused("not_held")

        def say(honest: Any, to: Any, message: Any) -> None:
            inner = getattr(message, "message", None)
            if inner is None or isinstance(inner, (ct.Proposal, ct.PrepareMessage)):
                honest(to, message)

        parts.desk.blob = lambda sender, blob: None if sender == victim else honest_blob(sender, blob)
        parts.desk.answer = answer
        network.send, network.broadcast = partial(say, network.send), partial(say, network.broadcast)

    shape: dict[str, Any] = {"groups": 1, "members": 4, "seats": 4, "rounds": 4}
    async with small_network(tmp_path / "run", wrap=wrap, times=TIMES, **shape) as network:
        honest = [name for name in SEATS if name not in hostile]
        assert len(honest) == 3
        await network.until(lambda: network.heights(honest, 0), timeout_s=90)


def counted(network: SmallNetwork, name: str) -> list[tuple[str, int]]:
    genesis = network.parts["seat0"].genesis
    bodies = [decode_body(each.block.body, CouncilBody) for each in chain_of(network, name, COUNCIL)]
    return [
        (genesis.group_names[each.header.group_id], each.header.height)
        for body in bodies
        for each in body.counted
    ]


class Fork:
    """g0 certifies two blocks of height 0; these seats get the second one, and nothing that follows."""

    def __init__(self, deceived: Sequence[str], *, seats_hand_on: bool) -> None:
        self.deceived, self.seats_hand_on = deceived, seats_hand_on
        self._keys: dict[ct.MemberId, Any] = {}

    def wrap(self, parts: node.Parts) -> None:
        genesis = parts.genesis
        group_id, committee = genesis.group_id("g0"), genesis.committee("g0")
        if parts.group == "g0":
            self._keys[parts.me] = parts.key.secret
        if parts.group != COUNCIL:
            return
        honest, deceived = parts.network.request, parts.name in self.deceived

        async def request(to: ct.MemberId, asked: Any, *, timeout_s: float) -> Any:
            if asked.group_id != group_id or not isinstance(asked, wire.GetBlocks):
                return await honest(to, asked, timeout_s=timeout_s)
            if to not in committee and self.seats_hand_on:
                return await honest(to, asked, timeout_s=timeout_s)
            if to not in committee or (deceived and asked.start > 0):
                raise PeerFault("refused", "to hand on what others got")
            answer = await honest(to, asked, timeout_s=timeout_s)
            forged = self._forged(genesis.domain("g0"), committee, answer.blocks[0])
            return replace(answer, blocks=(forged,)) if deceived else answer

        parts.network.request = request

    def _forged(self, domain: Any, committee: Any, decided: ct.DecidedBlock) -> ct.DecidedBlock:
        header = replace(decided.block.header, time_ms=decided.block.header.time_ms + 1)
        vote = ct.Commit(header.epoch, header.height, 0, block_id(header))
        digest = signing.signing_digest(domain, vote)
        signers = sorted(committee.members)[: committee.quorum]
        signatures = tuple(signing.sign(self._keys[member], digest) for member in signers)
        return ct.DecidedBlock(ct.Block(header, decided.block.body), ct.Certificate(0, signatures))


async def test_a_group_that_certifies_two_blocks_of_one_height_does_not_halt_the_others(
    tmp_path: Path,
) -> None:
    """One to two seats, the other to two: neither half has a quorum for its own copy."""
    wrap = Fork(["seat1", "seat3"], seats_hand_on=False).wrap
    shape: dict[str, Any] = {"groups": 2, "members": 4, "seats": 4, "rounds": 30}
    async with small_network(tmp_path / "run", wrap=wrap, times=TIMES, **shape) as network:
        await network.until(lambda: network.heights(SEATS, 1), timeout_s=120)
    assert all(("g1", 0) in counted(network, name) for name in SEATS)


async def test_a_seat_that_holds_the_other_side_of_a_fork_takes_the_one_that_the_council_counted(
    tmp_path: Path,
) -> None:
    """One block to three seats, the other to the fourth: without it, nobody may be absent after that."""
    wrap = Fork(["seat3"], seats_hand_on=True).wrap
    shape: dict[str, Any] = {"groups": 1, "members": 4, "seats": 4, "rounds": 30}
    async with small_network(tmp_path / "run", wrap=wrap, times=TIMES, **shape) as network:

        def has_counted(name: str) -> bool:
            return any(each["counted"] for each in network.seen("decided", by=name, group=COUNCIL))

        await network.until(lambda: has_counted("seat3"), timeout_s=60)
        await network.stop("seat0")
        living = SEATS[1:]
        reached = max(each["height"] for each in network.seen("decided", by="seat3", group=COUNCIL))
        await network.until(lambda: network.heights(living, reached + 2), timeout_s=60)
    chains = [chain_of(network, name, "g0") for name in living]
    assert len({block_id(chain[0].block.header) for chain in chains}) == 1


async def test_a_group_that_serves_no_aggregate_holds_up_nobody(tmp_path: Path) -> None:
    def wrap(parts: node.Parts) -> None:
        if parts.group == "g0":
            whole, seats = parts.desk.blob, parts.genesis.committee(COUNCIL)
            parts.desk.blob = lambda sender, blob: None if sender in seats else whole(sender, blob)

    shape: dict[str, Any] = {"groups": 2, "members": 4, "seats": 1, "rounds": 30}
    async with small_network(tmp_path / "run", wrap=wrap, times=TIMES, **shape) as network:
        await network.until(
            lambda: any(["g1", 2] in each["counted"] for each in network.seen("decided", by="seat0")),
            timeout_s=40,
        )
        blocks = chain_of(network, "g0m0", "g0")
    assert len(blocks) > 1  # It learns on, by itself.
    assert all(decode_body(each.block.body, GroupBody).txs for each in blocks)
    assert {name for name, _ in counted(network, "seat0")} == {"g1"}
