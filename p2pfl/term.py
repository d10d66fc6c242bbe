"""What a node works on in one epoch: the rounds of its group, or those of the council, wired.

Made when the epoch of its group begins here, ended when a block or the council ends it. What outlives an
epoch (network, chains, followers, the way to the EVM chain) is in `node`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import trio

from consensus.replica import Replica
from consensus.types import DecidedBlock, Digest, Fault, MemberId
from p2pfl.genesis import COUNCIL
from p2pfl.parts import Parts
from p2pfl.records import CouncilBody
from p2pfl.rounds.chain import Chain, Checked
from p2pfl.rounds.context import Context
from p2pfl.rounds.council import CouncilApp
from p2pfl.rounds.court import Court
from p2pfl.rounds.driver import Application, Driver
from p2pfl.rounds.group import GroupApp
from p2pfl.rounds.home import Home
from p2pfl.rounds.pace import Pace, council_parts, group_parts
from p2pfl.rounds.turnover import Comings


class Term:
    """One epoch of one node's work."""

    def __init__(
        self,
        parts: Parts,
        context: Context,
        chain_of: Callable[[Digest], Chain],
        *,
        on_fault: Callable[[Fault], None],
        on_behind: Callable[[MemberId, int], None],
        on_decided: Callable[[int], None],
        certified: Callable[[CouncilBody], None],
        comings: Comings,
    ) -> None:
        """chain_of: a chain by its group's id. on_decided: after own blocks, told how many."""
        self.context = context
        self._parts = parts
        self._chain_of = chain_of
        self._on_fault, self._on_behind, self._on_decided = on_fault, on_behind, on_decided
        self._certified = certified
        self._comings = comings
        self.begun = trio.Event()  # From then on there is a driver.
        self.app: GroupApp | CouncilApp | None = None

    @property
    def over(self) -> bool:
        """Whether the driver has ended the epoch's last height, and all that belongs to it is done."""
        return self.driver.ended.is_set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled."""
        parts, context = self._parts, self.context
        async with trio.open_nursery() as nursery:
            pace = self._pace()
            app = self.app = self._open(pace, Home(nursery))
            self.driver = self._drive(app, pace)
            self.begun.set()
            self._at_the_desk(app)
            task_status.started()
            rounds = parts.genesis.rounds
            if context.name == COUNCIL or not rounds or context.chain.height + 1 < rounds:
                await self.driver.run(app.started(), resume=True)

    def _pace(self) -> Pace:
        parts, context = self._parts, self.context
        times = parts.genesis.times
        return Pace(
            council_parts(times) if context.name == COUNCIL else group_parts(times),
            times.double_max,
            context.name,
            context.committee.quorum,
            context.name_of,
            self._set_deadline,
            parts.observe,
        )

    def _set_deadline(self, at: float) -> None:
        self.driver.set_deadline(at)

    def _open(self, pace: Pace, home: Home) -> GroupApp | CouncilApp:
        context = self.context
        if context.name != COUNCIL:
            return GroupApp(context, pace, home)
        groups = self._groups()
        app = CouncilApp(context, pace, groups, home, self._certified, self._comings)
        app.court = Court(context, home, groups, app.changed)
        app.court.update(context.council.tip)
        return app

    def _groups(self) -> Mapping[Digest, Chain]:
        genesis = self._parts.genesis
        ids = [genesis.group_id(entry.name) for entry in genesis.groups]
        return {group_id: self._chain_of(group_id) for group_id in ids}

    def _drive(self, app: GroupApp | CouncilApp, pace: Pace) -> Driver:
        parts, context = self._parts, self.context
        return Driver(
            replica=Replica(
                context.committee,
                parts.me,
                context.domain,
                decided_at=context.chain.get,
                fits=context.chain.fits,
                context=app.context_digest,
            ),
            app=_Advancing(app, self._on_decided),
            domain=context.domain,
            wal=parts.store.wal(context.name),
            guard=parts.guard,
            network=parts.network,
            me=parts.me,
            members=context.committee.members,
            on_fault=self._on_fault,
            on_behind=self._on_behind,
            on_vote=pace.voted,
            listeners=lambda: () if context.name == COUNCIL else context.seats,
        )

    def _at_the_desk(self, app: GroupApp | CouncilApp) -> None:
        """From now on what comes in reaches these rooms."""
        desk, context = self._parts.desk, self.context
        desk.context, desk.driver = context, self.driver
        desk.group = app if isinstance(app, GroupApp) else None
        desk.court = app.court if isinstance(app, CouncilApp) else None
        desk.comings = app.comings if isinstance(app, CouncilApp) else None
        desk.open_rooms()


class _Advancing:
    """The application, with a word to the node after decisions: how many."""

    def __init__(self, app: Application, then: Callable[[int], None]) -> None:
        self._app = app
        self._then = then
        self.entered = app.entered
        self.build = app.build
        self.validate = app.validate
        self.started = app.started

    async def decided(self, decided: DecidedBlock) -> bool:
        goes_on = await self._app.decided(decided)
        self._then(1)
        return goes_on

    async def caught_up(self, checked: Checked) -> bool | None:
        goes_on = await self._app.caught_up(checked)
        if goes_on is not None:
            self._then(len(checked.blocks))
        return goes_on
