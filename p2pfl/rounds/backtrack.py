"""From a group that stands apart to the one member: fetch what the reasoning wants, and no blob more.

    chunks that deviate -> warnings filter (no blob) -> the candidates' blobs -> leave one out

The reasoning itself is `rules.cases`, so that an auditor repeats it without this room.
"""

from __future__ import annotations

from collections.abc import Callable

from consensus.types import Digest, Header, MemberId
from p2pfl.errors import PeerFault
from p2pfl.params import Update, parse_update
from p2pfl.records import Case, GroupBody
from p2pfl.rounds.context import Context
from p2pfl.rounds.driver import UNFORESEEN
from p2pfl.rules.audits import cases_without_updates
from p2pfl.rules.cases import Suspicion, derive_case
from p2pfl.rules.council import Comparison, CouncilInputs, suspicions
from p2pfl.telemetry import logger

log = logger("rounds.backtrack")

# How long a candidate's update may take: a round of the council has to have time left to leave its block out.
UPDATE_WAIT_S = 8.0
# Cases whose number of fetched blobs is remembered for watchers.
REMEMBERED_MAX = 256


class Backtrack:
    """A seat's way from groups to members. `fetched`: blobs fetched for each case.

    on_missing: told of a block of which a candidate's update is not to be had.
    """

    def __init__(self, context: Context, on_missing: Callable[[Header], None]) -> None:
        self._context = context
        self._on_missing = on_missing
        self.fetched: dict[Digest, int] = {}

    async def cases(self, inputs: CouncilInputs, comparison: Comparison) -> tuple[Case, ...]:
        """The cases that follow, in a fixed order: what comparing the groups leads to, then all others."""
        found: list[Case] = []
        for suspicion in await self._context.aside(suspicions, inputs, comparison):
            case = await self._case(suspicion)
            if case is not None:
                found.append(case)
        deadline_height = inputs.height + inputs.state.network.rules.case_blocks
        rest = cases_without_updates(inputs.state, inputs.counted, inputs.bodies, deadline_height)
        return (*found, *rest)

    async def _case(self, suspicion: Suspicion) -> Case | None:
        context, body = self._context, suspicion.block.body
        chunks = await context.aside(suspicion.chunks)
        wanted = await context.aside(suspicion.wanted, chunks)
        before = context.shelf.fetched
        updates = {member: await self._update(suspicion, body, member) for member, _ in wanted}
        try:
            case = await context.aside(derive_case, suspicion, updates)
            if suspicion.is_unexplained(case):
                for member in set(suspicion.counted()) - updates.keys():
                    updates[member] = await self._update(suspicion, body, member)
                case = await context.aside(derive_case, suspicion, updates)
        except PeerFault:
            raise  # An update is not to be had: the block is left out for a while, as `_update` has said.
        except UNFORESEEN as error:
            # A lost group's block must not stand in the way of all others for ever.
            log.error("a bug: a block cannot be looked into", why=repr(error))
            self._on_missing(suspicion.block.header)
            raise PeerFault("bad_block", repr(error)) from error
        new = context.shelf.fetched - before
        if case is not None and len(self.fetched) < REMEMBERED_MAX:
            self.fetched[case.case_id] = max(new, self.fetched.get(case.case_id, 0))
        return case

    async def _update(self, suspicion: Suspicion, body: GroupBody, member: MemberId) -> Update:
        context = self._context
        tx = next(signed.tx for signed in body.txs if signed.tx.member == member)
        others = [each for each in suspicion.committee.members if each != member]
        try:
            data = await context.shelf.need(
                tx.blob_id, tx.byte_length, [member], [*others, *context.others], timeout_s=UPDATE_WAIT_S
            )
            update = parse_update(data, context.genesis.task.layout, body.exponents)
        except PeerFault as fault:
            name = context.name_of(member)
            log.warning("a candidate's update is not to be had", member=name, why=str(fault))
            self._on_missing(suspicion.block.header)
            raise
        context.shelf.show(tx.blob_id, context.seats)
        return update
