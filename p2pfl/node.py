"""One node: its rooms wired and working in one nursery, until it is cancelled.

    parts -> node: network, chains, followers, the way to the EVM chain; epoch after epoch a Term

`assemble` opens the parts (`parts`); `run` lets them work, and closes them in the end.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import trio

from consensus.types import Digest, Fault, MemberId
from p2pfl.contradiction import Contradiction
from p2pfl.errors import PeerFault
from p2pfl.genesis import COUNCIL
from p2pfl.net.interface import PeerAddress
from p2pfl.parts import NodeSettings, Parts, assemble, first_base, initial_base
from p2pfl.records import CouncilBody
from p2pfl.rounds.archive import keep_house
from p2pfl.rounds.chain import Chain, Checked
from p2pfl.rounds.context import Context
from p2pfl.rounds.council import CouncilApp
from p2pfl.rounds.council_view import CouncilView
from p2pfl.rounds.defence import Defence
from p2pfl.rounds.desk import holders_of
from p2pfl.rounds.follow import Follower
from p2pfl.rounds.gauges import watch_process
from p2pfl.rounds.prosecutor import Prosecutor
from p2pfl.rounds.pulse import Pulse
from p2pfl.rounds.served import BLOCKS, reveal, serve_again
from p2pfl.rounds.shelf import Shelf
from p2pfl.rounds.sides import cut_what_is_void
from p2pfl.rounds.speakers import speakers
from p2pfl.rounds.turnover import Comings
from p2pfl.telemetry import counters, logger
from p2pfl.term import Term

log = logger("node")

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
        self.council = CouncilView(genesis, parts.store.chain(COUNCIL))
        self.council.on_block = self._after_council
        self._chains = {self.council.chain.group_id: self.council.chain}
        self._grown = Pulse()  # A chain has a new block, or an epoch of it was closed.
        self._met: dict[MemberId, PeerAddress] = {}
        self._term: Term | None = None
        self._term_seat: tuple[str, int] | None = None
        self.context = self._first_context()
        self.desk = parts.desk
        self.desk.context = self.context
        self.desk.chains = self._chains
        self.desk.defence = Defence(self.context, self.chain_of)
        self._comings = Comings(self.context, (genesis.group_id(each.name) for each in genesis.groups))
        self.prosecutor = Prosecutor(
            self.context, parts.store.notes, parts.chain, self.chain_of, self._accuse
        )

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """See `run` above."""
        parts = self.parts
        await self._keep_initial_base()
        await parts.trainer.warm()
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            self._meet()
            self._follow(COUNCIL)
            parts.network.on_connect.append(self._connected)
            parts.network.on_announce.append(self.desk.announced)
            for group in parts.genesis.groups:
                if parts.store.folder.chain(group.name).exists():
                    self.chain(group.name)  # Of groups that it has left, too: others may ask for blocks.
            await cut_what_is_void(self.council.tip.roster, self._chains)
            await self._take_the_counted_side(*self._chains.values())
            await self._begin_term()
            for chain in self._chains.values():
                serve_again(self.context.shelf, self.council.tip.roster, chain)
                if parts.settings.net.observers_updates:
                    reveal(self.context.shelf, chain, BLOCKS)
            await nursery.start(parts.network.run)
            self._tell_started(await self._open_explorer(nursery))
            nursery.start_soon(self.prosecutor.run)
            nursery.start_soon(self._comings.give_notice)
            if parts.settings.lasting:
                nursery.start_soon(watch_process, parts.network, parts.observe)
                chains = self._chains.values
                nursery.start_soon(keep_house, self.context, chains, parts.store, parts.settings.store)
            task_status.started()
            while True:
                await self._until_term_ends()
                await self._begin_term()

    # -- epochs ----------------------------------------------------------------

    def _seat(self) -> tuple[str, int] | None:
        """The group and the epoch that this node works in next: the earliest that is not over."""
        roster = self.council.tip.roster
        for epoch in range(roster.epoch + 1):
            name = roster.group_of(self.parts.me, epoch)
            if name is not None and not self._is_over(name, epoch):
                return name, epoch
        return None

    def _is_over(self, name: str, epoch: int) -> bool:
        roster = self.council.tip.roster
        tip = self.chain(name).tip
        if (name, epoch) in roster.closings or (tip is not None and tip.epoch > epoch):
            return True
        return tip is not None and tip.epoch == epoch and not self.chain(name).opens(epoch)

    async def _begin_term(self) -> None:
        """Start the work of the epoch in which this node has a seat now, if its group has got there."""
        seat = self._seat()
        self._term_seat = seat
        self._call_neighbours()
        if seat is None:
            log.info("no seat: following the council's chain", epoch=self.council.tip.roster.epoch)
            return
        name, epoch = seat
        self._follow(name)
        if name == COUNCIL or self.parts.settings.store.history != "none":
            for entry in self.parts.genesis.groups:
                self._follow(entry.name)
        if not self._begins(name, epoch):
            log.info("waiting for the epoch of the own group to begin", group=name, epoch=epoch)
            return
        self.parts.guard.begin_epoch(epoch, self.council.tip.roster.seatings[epoch].began_ms)
        self.context = self.prosecutor.context = self._comings.context = self._context_of(name, epoch)
        self._term = Term(
            self.parts,
            self.context,
            self.chain_of,
            on_fault=self._fault,
            on_behind=self._behind,
            on_decided=self._on_decided,
            certified=self.prosecutor.certified,
            comings=self._comings,
        )
        self._scope = trio.CancelScope()
        self._ended = trio.Event()
        await self._nursery.start(self._live, self._term)
        names = [self.context.name_of(member) for member in self.context.committee.members]
        self.parts.observe("epoch", {"group": name, "epoch": epoch, "members": names})

    async def _live(self, term: Term, *, task_status: trio.TaskStatus[None]) -> None:
        with self._scope:
            await term.run(task_status=task_status)
        self._ended.set()

    async def _until_term_ends(self) -> None:
        """Until there is other work: the epoch's last block is done, it was closed, or a seat came."""
        term = self._term
        if term is None:
            before = self._term_seat
            await self._grown.until(lambda: self._seat() != before or self._is_open())
            return
        name, epoch = self.context.name, self.context.committee.epoch
        await self._grown.until(lambda: self._is_over(name, epoch))
        closed = (name, epoch) in self.council.tip.roster.closings
        with trio.move_on_after(0 if closed else HANDED_OVER_S):
            await term.driver.ended.wait()
        self._scope.cancel()
        await self._ended.wait()
        self._term = None
        self.desk.leave_rooms()
        if not closed:
            self.prosecutor.epoch_ended(self.chain(name), epoch)
        log.info("an epoch is over", group=name, epoch=epoch, height=self.chain(name).height, closed=closed)

    def _is_open(self) -> bool:
        seat = self._seat()
        return seat is not None and self._begins(*seat)

    def _begins(self, name: str, epoch: int) -> bool:
        """Whether this epoch is open, and the council cannot close the one before at an earlier block."""
        counted = name == COUNCIL or self.council.tip.open_epochs[self.parts.genesis.group_id(name)] >= epoch
        return counted and self.chain(name).opens(epoch)

    async def _after_council(self, body: CouncilBody) -> None:
        """A council block: who is new, and which epochs it closed."""
        self._meet()
        if body.assignment is not None:
            self._call_neighbours()
        if body.closings:
            await cut_what_is_void(self.council.tip.roster, self._chains)
        await self._take_the_counted_side(*self._chains.values())
        self._grown.beat()

    async def _take_the_counted_side(self, *chains: Chain) -> None:
        """Of copies. The own chain stays what this node voted for."""
        seat = self._seat()
        for chain in chains:
            if chain.name != COUNCIL and (seat is None or chain.name != seat[0]):
                await self.council.counted.heal(chain)

    def _meet(self) -> None:
        """Who may speak to this node after the council's newest block, and who may no more."""
        entries, right = self.council.tip.roster.entries, speakers(self.council.tip)
        addresses = {each: PeerAddress(entries[each].peer_id, entries[each].address) for each in right}
        new = {each: address for each, address in addresses.items() if self._met.get(each) != address}
        self._met = addresses
        self.parts.network.meet(new)
        self.parts.network.part(entries.keys() - right - {self.parts.me})

    def _call_neighbours(self) -> None:
        """A seat calls everybody, a member its groups of now and next, and the seats."""
        roster, seat = self.council.tip.roster, self._seat()
        near = set(roster.newest(COUNCIL).members)
        if seat is not None:
            keeps = holders_of(roster, seat[0], self.parts.me)
            near |= set(roster.entries) if seat[0] == COUNCIL else set(keeps)
        name = roster.group_of(self.parts.me, roster.epoch)
        if name is not None:
            near |= set(holders_of(roster, name, self.parts.me))
        self.parts.network.stay_near(near)

    # -- wiring ----------------------------------------------------------------

    def chain(self, name: str) -> Chain:
        """A chain by its group's name, opened when it is first wanted."""
        group_id = self.parts.genesis.group_id(name)
        if group_id not in self._chains:
            blocks = self.parts.store.chain(name)
            self._chains[group_id] = Chain(
                self.parts.genesis,
                name,
                blocks,
                lambda: self.council.tip.roster,
                trial=lambda: self.council.counted.trial(group_id),
            )
        return self._chains[group_id]

    def chain_of(self, group_id: Digest) -> Chain:
        """A chain by its group's id."""
        return self.chain(self.parts.genesis.group_names[group_id])

    def _first_context(self) -> Context:
        """Of a node that only follows the council's chain."""
        parts = self.parts
        return Context(
            genesis=parts.genesis,
            name=COUNCIL,
            committee=self.council.tip.roster.newest(COUNCIL),
            me=parts.me,
            directory=parts.settings.dir,
            chain=self.council.chain,
            council=self.council,
            shelf=Shelf(parts.store.blobs, parts.network),
            network=parts.network,
            guard=parts.guard,
            trainer=parts.trainer,
            observe=self._observe,
            evaluates=parts.settings.explorer is not None,
            clock_ms=parts.clock_ms,
            on_double=self._double_signed,
        )

    def _context_of(self, name: str, epoch: int) -> Context:
        committee = self.council.tip.roster.committee(name, epoch)
        return replace(self.context, name=name, committee=committee, chain=self.chain(name))

    def _follow(self, name: str) -> None:
        """Fetch this chain's blocks from now on."""
        chain = self.chain(name)
        if chain.group_id in self.desk.followers:
            return

        follower = self.desk.followers[chain.group_id] = Follower(
            chain,
            self.parts.network,
            lambda: holders_of(self.council.tip.roster, name, self.parts.me),
            partial(self._take, chain),
            self._peer_fault,
        )
        self._nursery.start_soon(follower.run)

    async def _take(self, chain: Chain, checked: Checked) -> None:
        """The next blocks of a chain, which were looked at."""
        term = self._term
        mine = term is not None and chain is self.context.chain and chain.opens(self.context.committee.epoch)
        if term is not None and mine:
            await term.begun.wait()
            done = term.driver.catch_up(checked)
            with trio.move_on_after(HANDED_OVER_S):
                await done.wait()
        elif chain is self.council.chain:
            await self.council.extend(checked)
        elif term is not None and isinstance(term.app, CouncilApp):
            await term.app.take_group_blocks(checked)
        elif await chain.extend(checked):
            self._comings.moved(chain.group_id)
        await self._take_the_counted_side(chain)  # It was looked at before the council's last block, perhaps.
        self._grown.beat()

    def _on_decided(self, blocks: int) -> None:
        self._grown.beat()
        if self.parts.settings.net.observers_updates:
            reveal(self.context.shelf, self.context.chain, min(blocks, BLOCKS))
        counters.count("blocks_decided", blocks)

    async def _keep_initial_base(self) -> None:
        """The base that learning starts from is everybody's from the beginning: nobody has to serve it."""
        genesis, shelf = self.parts.genesis, self.context.shelf
        if not await shelf.has(genesis.initial_base_id):
            data = await self.context.aside(first_base, genesis, self.parts.settings.genesis)
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

    def _accuse(self, both: Contradiction) -> None:
        try:
            self._comings.noticed(both)
        except PeerFault as fault:
            log.debug("the council need not hear of a contradiction", why=str(fault))

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
        if self._term is not None and self._term.begun.is_set() and peer in self.context.committee:
            self._term.driver.resend_to(peer)

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
        entry = self.parts.entry
        of_entry = {"name": entry.name, "group": self.parts.group, "peer_id": entry.peer_id}
        fields = {**of_entry, "explorer": explorer}
        self.parts.observe("started", fields)
        log.info("the node is up", **{key: value for key, value in fields.items() if value})


__all__ = ["Node", "NodeSettings", "Parts", "assemble", "initial_base", "run"]
