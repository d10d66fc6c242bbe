"""One node: its rooms wired and working in one nursery, until it is cancelled.

`assemble` opens the parts (`parts`); `run` lets them work, and closes them in the end.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import trio

from consensus.replica import Replica
from consensus.types import DecidedBlock, DecidedMessage, Fault, MemberId
from p2pfl.errors import PeerFault, UserError
from p2pfl.genesis import COUNCIL
from p2pfl.params import blob_id
from p2pfl.parts import NodeSettings, Parts, assemble, initial_base
from p2pfl.rounds.context import Context
from p2pfl.rounds.council import CouncilApp
from p2pfl.rounds.council_view import CouncilView
from p2pfl.rounds.court import Court
from p2pfl.rounds.defence import Defence
from p2pfl.rounds.desk import holders_of
from p2pfl.rounds.driver import Application, Driver
from p2pfl.rounds.follow import Chain, Follower
from p2pfl.rounds.group import GroupApp
from p2pfl.rounds.pace import Pace, council_parts, group_parts
from p2pfl.rounds.prosecutor import Prosecutor
from p2pfl.rounds.pulse import Pulse
from p2pfl.rounds.shelf import Shelf
from p2pfl.telemetry import counters, logger

log = logger("node")

# How often a watcher is told of bytes sent and of the event loop's lag.
REPORT_S = 2.0
LAG_PROBE_S = 0.01
# What a follower waits for consensus to decide a block that it handed over.
HANDED_OVER_S = 5.0


async def run(parts: Parts, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
    """Let the node work until it is cancelled; close what `assemble` opened."""
    try:
        await Node(parts).run(task_status=task_status)
    finally:
        parts.trainer.close()
        parts.guard.close()
        parts.store.close()


class Node:
    """The rooms of one node, wired."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        genesis = parts.genesis
        self.council_chain = Chain(genesis, COUNCIL, parts.store.chain(COUNCIL))
        self.own_chain = (
            self.council_chain
            if parts.group == COUNCIL
            else Chain(genesis, parts.group, parts.store.chain(parts.group))
        )
        self.context = Context(
            genesis=genesis,
            name=parts.group,
            me=parts.me,
            directory=parts.settings.dir,
            chain=self.own_chain,
            council=CouncilView(genesis, self.council_chain),
            shelf=Shelf(parts.store.blobs, parts.network),
            network=parts.network,
            guard=parts.guard,
            trainer=parts.trainer,
            observe=self._observe,
            evaluates=parts.settings.explorer is not None,
            on_double=self._double_signed,
        )
        self.desk = parts.desk
        self.desk.context = self.context
        self.prosecutor = Prosecutor(self.context, parts.store.notes, parts.chain)
        self._advanced = Pulse()

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """See `run` above."""
        parts = self.parts
        await self._keep_initial_base()
        await parts.trainer.worker.warm()
        async with trio.open_nursery() as nursery:
            self.driver, app = self._open_consensus(nursery)
            self._open_followers(nursery, app)
            parts.network.on_connect.append(self._connected)
            parts.network.on_announce.append(self.desk.announced)
            await nursery.start(parts.network.run)
            explorer = await self._open_explorer(nursery)
            self._tell_started(explorer)
            nursery.start_soon(self.prosecutor.run)
            nursery.start_soon(self._watch_lag)
            nursery.start_soon(self._report_wire)
            task_status.started()
            rounds = parts.genesis.rounds
            if parts.group == COUNCIL or not rounds or self.own_chain.height + 1 < rounds:
                nursery.start_soon(lambda: self.driver.run(self.own_chain.started(), resume=True))

    # -- wiring ----------------------------------------------------------------

    def _open_consensus(self, nursery: trio.Nursery) -> tuple[Driver, GroupApp | CouncilApp]:
        parts, context = self.parts, self.context
        times = parts.genesis.times
        pace = Pace(
            council_parts(times) if parts.group == COUNCIL else group_parts(times),
            times.double_max,
            context.name,
            context.committee.quorum,
            context.name_of,
            self._set_deadline,
            parts.observe,
        )
        app: GroupApp | CouncilApp
        if parts.group == COUNCIL:
            groups = {
                parts.genesis.group_id(entry.name): Chain(
                    parts.genesis, entry.name, parts.store.chain(entry.name)
                )
                for entry in parts.genesis.groups
            }
            app = CouncilApp(context, pace, groups, nursery, self.prosecutor.certified)
            self.desk.court = app.court = Court(context, nursery, groups, app.changed)
            self.desk.chains.update(groups)
        else:
            app = GroupApp(context, pace, nursery)
            self.desk.group = app
            self.desk.defence = Defence(context, app.own)
        replica = Replica(
            context.committee,
            parts.me,
            context.domain,
            decided_at=self.own_chain.get,
            context=app.context_digest,
        )
        driver = Driver(
            replica=replica,
            app=_Advancing(app, self._on_decided),
            domain=context.domain,
            wal=parts.store.wal(context.name),
            guard=parts.guard,
            network=parts.network,
            me=parts.me,
            members=context.committee.members,
            on_fault=self._fault,
            on_behind=self._behind,
            on_vote=pace.voted,
        )
        self.desk.driver = driver
        return driver, app

    def _set_deadline(self, at: float) -> None:
        self.driver.set_deadline(at)

    def _open_followers(self, nursery: trio.Nursery, app: GroupApp | CouncilApp) -> None:
        context, desk = self.context, self.desk
        desk.chains[context.group_id] = self.own_chain
        desk.chains[self.council_chain.group_id] = self.council_chain
        for group_id, chain in list(desk.chains.items()):
            if chain is self.own_chain:
                take = self._hand_over
            elif chain is self.council_chain:
                take = self._take_council
            else:
                assert isinstance(app, CouncilApp)
                take = app.take_group_block
            follower = Follower(
                chain, self.parts.network, holders_of(context, chain.name), take, self._peer_fault
            )
            desk.followers[group_id] = follower
            nursery.start_soon(follower.run)

    async def _take_council(self, decided: DecidedBlock) -> None:
        await self.context.council.take(decided)

    async def _hand_over(self, decided: DecidedBlock) -> None:
        """A block of the own chain that others decided: consensus checks it and decides it too."""
        height = decided.block.header.height
        self.driver.deliver(self.parts.me, DecidedMessage(decided))
        await self._advanced.until(lambda: self.own_chain.height >= height, timeout_s=HANDED_OVER_S)

    def _on_decided(self) -> None:
        self._advanced.beat()
        counters.count("blocks_decided")

    async def _keep_initial_base(self) -> None:
        """The genesis base is drawn from the model's name and the seed: the same bits on every machine."""
        genesis, shelf = self.parts.genesis, self.context.shelf
        if not await shelf.has(genesis.initial_base_id):
            base = await self.context.aside(initial_base, genesis)
            data = base.to_bytes()
            if blob_id(data) != genesis.initial_base_id:
                raise UserError(
                    "the genesis names another initial base than its model and seed give",
                    because=f"{genesis.task.model} drawn here has the id 0x{blob_id(data).hex()}",
                    fix="use the release of p2pfl-mps that made the genesis, or a genesis made by this one",
                )
            await shelf.put(genesis.initial_base_id, data)
        shelf.show(genesis.initial_base_id)

    async def _open_explorer(self, nursery: trio.Nursery) -> str | None:
        where = self.parts.settings.explorer
        if where is None:
            return None
        from p2pfl.audit.explorer import StoreView, serve_explorer  # Pages cost imports: only where wanted.

        host, port = where
        view = StoreView(self.parts.store)
        return await nursery.start(serve_explorer, view, host, port)

    # -- what goes wrong -----------------------------------------------------------

    def _fault(self, fault: Fault) -> None:
        counters.count("peer_faults", reason=fault.reason)
        self.parts.observe("fault", {"peer": self._name(fault.peer), "reason": fault.reason})
        if fault.pair is not None:
            self.prosecutor.equivocation(fault.peer, fault.pair)

    def _peer_fault(self, peer: MemberId, fault: PeerFault) -> None:
        log.warning("a peer was at fault", peer=self._name(peer), why=str(fault))
        self.parts.observe("fault", {"peer": self._name(peer), "reason": fault.reason})

    def _double_signed(self, double: Any) -> None:
        self._peer_fault(double.signer, PeerFault("double_signed", double.kind))
        self.prosecutor.double_signed(double)

    def _name(self, peer: MemberId) -> str:
        try:
            return self.context.name_of(peer)
        except KeyError:
            return "0x" + peer.hex()

    # -- the network ------------------------------------------------------------------

    def _connected(self, peer: MemberId) -> None:
        if peer in self.context.committee:
            self.driver.resend_to(peer)

    def _behind(self, peer: MemberId, height: int) -> None:
        # Who votes on height h has decided h - 1.
        self.desk.followers[self.context.group_id].tip_seen(peer, height - 1)

    def _observe(self, kind: str, fields: dict[str, Any]) -> None:
        """What the rooms tell: accuracies are kept for the pages, all goes on to the watcher."""
        if kind == "evaluated":
            note = {"chain": fields["group"], "height": fields["height"], "accuracy": fields["accuracy"]}
            self.parts.store.notes.add("metrics", {**note, "loss": fields["loss"]})
        self.parts.observe(kind, fields)

    # -- what watchers see -----------------------------------------------------------------

    def _tell_started(self, explorer: str | None) -> None:
        entry = self.parts.genesis.member(self.parts.me)
        fields = {
            "name": entry.name,
            "group": self.parts.group,
            "peer_id": entry.peer_id,
            "explorer": explorer,
        }
        self.parts.observe("started", fields)
        log.info("the node is up", **{key: value for key, value in fields.items() if value})

    async def _watch_lag(self) -> None:
        """How late the event loop wakes, p99 of each period: votes wait at least so long."""
        late_ms: list[float] = []
        while True:
            due = trio.current_time() + LAG_PROBE_S
            await trio.sleep_until(due)
            late_ms.append((trio.current_time() - due) * 1000)
            if len(late_ms) * LAG_PROBE_S >= REPORT_S:
                late_ms.sort()
                p99 = late_ms[math.ceil(len(late_ms) * 0.99) - 1]
                self.parts.observe("lag", {"p99_ms": round(p99, 3), "max_ms": round(late_ms[-1], 3)})
                late_ms.clear()

    async def _report_wire(self) -> None:
        while True:
            await trio.sleep(REPORT_S)
            self.parts.observe("wire", {"sent": dict(self.parts.network.sent_bytes)})


class _Advancing:
    """The application, with a word to the node after each decision."""

    def __init__(self, app: Application, then: Callable[[], None]) -> None:
        self._app = app
        self._then = then
        self.entered = app.entered
        self.build = app.build
        self.validate = app.validate
        self.started = app.started

    async def decided(self, decided: DecidedBlock) -> bool:
        goes_on = await self._app.decided(decided)
        self._then()
        return goes_on


__all__ = ["Node", "NodeSettings", "Parts", "assemble", "initial_base", "run"]
