"""A whole network in one trio run, over the network in memory: the real nodes, no sockets, no chain."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from consensus.types import MemberId
from p2pfl import node
from p2pfl.genesis import ChainEntry, Genesis
from p2pfl.learn.worker import Worker
from p2pfl.net.interface import Handlers
from p2pfl.net.memory import MemoryHub, MemoryNetwork
from testnet import attacks, plan, scenarios

NO_CHAIN = ChainEntry(0, MemberId(bytes(20)), MemberId(bytes(20)))


@dataclass
class SmallNetwork:
    """Nodes by name, their events, and a way to wait for one."""

    plan: plan.Plan
    worker: Worker
    nursery: trio.Nursery
    wrap: Callable[[node.Parts], None]
    hub: MemoryHub = field(default_factory=MemoryHub)
    events: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)
    parts: dict[str, node.Parts] = field(default_factory=dict)
    _scopes: dict[str, trio.CancelScope] = field(default_factory=dict)
    _ended: dict[str, trio.Event] = field(default_factory=dict)
    _beat: trio.Event = field(default_factory=trio.Event)

    def id_of(self, name: str) -> MemberId:
        return next(seat.entry.member_id for seat in self.plan.ground.seats if seat.name == name)

    async def start(self, name: str, *, new: bool = True) -> None:
        folder = self.plan.ground.directory / "nodes" / name
        settings = node.NodeSettings(folder, self.plan.genesis_path, name, new_keys=new)

        def observe(kind: str, fields: dict[str, Any]) -> None:
            self.events.append((name, kind, fields))
            self._beat.set()
            self._beat = trio.Event()

        parts = node.assemble(settings, observe, network=self._network)
        parts.trainer.worker = self.worker
        parts.trainer.close = lambda: None  # One training process for all; the fixture closes it.
        self.wrap(parts)
        self.parts[name], self._scopes[name], self._ended[name] = parts, trio.CancelScope(), trio.Event()
        await self.nursery.start(self._live, name)

    async def _live(self, name: str, task_status: trio.TaskStatus[None]) -> None:
        with self._scopes[name]:
            await node.run(self.parts[name], task_status=task_status)
        self._ended[name].set()

    async def stop(self, name: str) -> None:
        self._scopes[name].cancel()
        await self._ended[name].wait()

    def _network(self, genesis: Genesis, me: MemberId, _: bytes, handlers: Handlers) -> MemoryNetwork:
        groups = (*genesis.groups, genesis.council)
        everybody = [entry.member_id for group in groups for entry in group.members]
        return self.hub.network(me, everybody, handlers)

    async def until(self, wanted: Callable[[], bool], timeout_s: float = 180) -> None:
        with trio.fail_after(timeout_s):
            while not wanted():
                await self._beat.wait()

    def seen(self, event: str, by: str | None = None, **fields: Any) -> list[dict[str, Any]]:
        return [
            each
            for name, kind, each in self.events
            if kind == event
            and by in (None, name)
            and all(each.get(key) == value for key, value in fields.items())
        ]

    def heights(self, names: Sequence[str], height: int) -> bool:
        """Whether each of these nodes has decided this height of its own chain."""
        return all(self.seen("decided", by=name, height=height) for name in names)


@asynccontextmanager
async def small_network(
    directory: Path,
    *,
    befallen: dict[str, list[dict[str, Any]]] | None = None,
    wrap: Callable[[node.Parts], None] | None = None,
    times: dict[str, int] | None = None,
    epochs: dict[str, int] | None = None,
    rules: dict[str, Any] | None = None,
    absent: Sequence[str] = (),
    **shape: Any,
) -> AsyncIterator[SmallNetwork]:
    """All nodes of an honest network of this shape, started. befallen: attacks by member."""
    scenario = scenarios.load("honest", **shape)
    scenario.times.update(times or {})
    scenario.epochs.update(epochs or {})
    scenario.rules.update(rules or {})
    (directory / "nodes").mkdir(parents=True)

    def put_on(parts: node.Parts) -> None:
        attacks.put_on(parts, (befallen or {}).get(parts.name, []))
        if wrap is not None:
            wrap(parts)

    drawn = plan.draw_plan(plan.break_ground(scenario, directory), NO_CHAIN)
    with Worker() as worker:
        async with trio.open_nursery() as nursery:
            network = SmallNetwork(drawn, worker, nursery, put_on)
            for seat in drawn.ground.seats:
                if seat.name not in absent:
                    await network.start(seat.name)
            yield network
            nursery.cancel_scope.cancel()
