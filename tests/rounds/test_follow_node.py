"""A real node that missed many blocks: consensus takes them many at once, and says nothing of the past."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import trio

from bench import made
from consensus import types as ct
from consensus.votes import subject
from p2pfl import node
from p2pfl.keys import load_signing_key
from p2pfl.learn.worker import Worker
from p2pfl.net import wire
from p2pfl.net.memory import MemoryHub
from p2pfl.records import GroupBody, decode_body
from p2pfl.rounds import chain as chains
from testnet import plan, scenarios
from tests.rounds.small_network import NO_CHAIN
from tests.rounds.test_follow_many import Holder

MISSED = 130
# Whose turn it is after them is not the node's.
LAST = MISSED - 1


class Member(Holder):
    """Another member: it holds the chain, votes for nothing, and notes what the node says and asks."""

    def __init__(self, blocks: Any, asked: trio.Event) -> None:
        super().__init__(blocks)
        self.heard: list[Any] = []
        self.wanted: set[bytes] = set()
        self.asked_for_a_blob = asked

    async def received(self, sender: Any, message: Any) -> None:
        self.heard.append(message)

    def blob(self, sender: Any, blob_id: Any) -> None:
        self.wanted.add(blob_id)
        self.asked_for_a_blob.set()


async def test_a_node_catches_up_through_its_consensus_and_wants_the_newest_blob_only(tmp_path: Path) -> None:
    (tmp_path / "nodes").mkdir()
    ground = plan.break_ground(scenarios.load("honest", groups=1, members=4, seats=1, rounds=1000), tmp_path)
    drawn = plan.draw_plan(ground, NO_CHAIN)
    genesis, hub = drawn.genesis, MemoryHub()
    seats = {seat.entry.member_id: seat for seat in ground.seats}
    keys = {member: load_signing_key(seat.folder.signing_key).secret for member, seat in seats.items()}
    blocks = made.history(genesis, "g0", keys, MISSED)
    me = genesis.committee("g0").members[0]
    assert genesis.committee("g0").proposer(MISSED, 0) != me
    told: list[tuple[str, dict[str, Any]]] = []
    settings = node.NodeSettings(seats[me].folder.path, drawn.genesis_path, seats[me].name, new_keys=True)
    parts = node.assemble(
        settings,
        lambda kind, fields: told.append((kind, fields)),
        network=lambda _, mine, __, handlers: hub.network(mine, seats, handlers),
    )
    asked = trio.Event()
    others = {
        member: Member(blocks if seat.group == "g0" else [], asked)
        for member, seat in seats.items()
        if member != me
    }
    with Worker() as worker:
        parts.trainer.worker = worker
        async with trio.open_nursery() as nursery:
            for member, other in others.items():
                await nursery.start(hub.network(member, seats, other).run)
            running = node.Node(parts)
            await nursery.start(lambda task_status: running.run(task_status=task_status))
            chain = running.chain("g0")
            for member in genesis.committee("g0").members[1:]:
                running.desk.followers[chain.group_id].tip_seen(member, LAST)
            with trio.fail_after(60):
                await chain.grown.until(lambda: chain.height == LAST)
                await chain.until_caught_up()
                await asked.wait()
            nursery.cancel_scope.cancel()
    parts.guard.close()
    assert list(parts.store.chain("g0")) == blocks
    parts.store.close()
    decided = [fields["height"] for kind, fields in told if kind == "decided"]
    assert decided == list(range(MISSED))  # Each is told, in order, once.
    body: GroupBody = decode_body(blocks[-1].block.body, GroupBody)
    assert set().union(*(other.wanted for other in others.values())) == {body.aggregate_id}
    heights = {_height(message) for other in others.values() for message in other.heard} - {None}
    assert heights <= {0, MISSED}  # Before it knew better, and after: no vote and no request in between.
    tips = [each for other in others.values() for each in other.heard if isinstance(each, wire.Tip)]
    assert len(tips) <= 2 * (1 + MISSED // chains.BATCH_BLOCKS) * len(others)


def _height(message: Any) -> int | None:
    match message:
        case wire.ConsensusMessage(_, ct.FetchBlock() | ct.DecidedMessage()):
            return None
        case wire.ConsensusMessage(_, inner):
            return subject(inner).height
        case wire.ShareRequestMessage(_, request):
            return request.request.height
        case _:
            return None
