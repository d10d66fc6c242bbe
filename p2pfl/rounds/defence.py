"""An accused member opens its round to the council's seats, and to nobody else.

It does so whether or not it has a seat in the epoch that runs: an honest member answers for what it did
until its case is closed.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from consensus.types import Digest, MemberId
from p2pfl.errors import PeerFault, UserError
from p2pfl.genesis import COUNCIL
from p2pfl.learn.worker import TaskFailed, WorkerDied
from p2pfl.net import wire
from p2pfl.params import blob_id
from p2pfl.records import Case, GroupBody, decode_body
from p2pfl.rounds.bases import base_of_block
from p2pfl.rounds.context import Context
from p2pfl.rounds.court import open_cases
from p2pfl.rounds.follow import Chain
from p2pfl.rounds.own import OwnRounds
from p2pfl.rounds.replay import make_opening
from p2pfl.telemetry import logger

log = logger("rounds.defence")


class Defence:
    """Answers OpenRequests for the cases that the council's chain names."""

    def __init__(self, context: Context, chain_of: Callable[[Digest], Chain]) -> None:
        self._context = context
        self._chain_of = chain_of
        self._openings: dict[Digest, tuple[Digest, int]] = {}
        self._turn = trio.Lock()  # All seats ask at once; the work is done once.

    async def asked(self, sender: MemberId, request: wire.OpenRequest) -> None:
        """A seat asks for the opening of a case. Raises PeerFault when it may not."""
        context = self._context
        case = open_cases(context.council.tip).get(request.case_id)
        bench = () if case is None else self._bench(case)
        if sender not in context.seats and sender not in bench:
            raise PeerFault("not_a_seat", "only the council's seats may ask for an opening")
        if case is None or case.accused != context.me:
            # The seat may be a block ahead: it asks again.
            log.info("asked to open a case that is not known here yet", case=request.case_id.hex())
            return
        async with self._turn:
            opened = await self._opened(case)
        if opened is None:
            return
        opening_id, length = opened
        context.shelf.show(opening_id, (*context.seats, *bench))
        context.network.send(sender, wire.OpeningOffer(request.case_id, opening_id, length))

    def _bench(self, case: Case) -> tuple[MemberId, ...]:
        """The seats that finish the case, though they may have left the council since."""
        state = self._context.council.tip
        return state.roster.committee(COUNCIL, state.cases[case.case_id].opened_epoch).members

    async def _opened(self, case: Case) -> tuple[Digest, int] | None:
        """The opening of this case: what was opened before, if it is here. None: it cannot be opened."""
        shelf, still_open = self._context.shelf, open_cases(self._context.council.tip)
        shelf.hold_only(still_open)
        for closed in self._openings.keys() - still_open.keys():
            del self._openings[closed]
        known = self._openings.pop(case.case_id, None)
        if known is None or not await shelf.has(known[0]):
            known = await self._open(case)
        if known is not None:
            self._openings[case.case_id] = known
            shelf.hold(case.case_id, self._context.me, known[0])
        return known

    async def _open(self, case: Case) -> tuple[Digest, int] | None:
        context, trainer = self._context, self._context.trainer
        try:
            if trainer.x is None or trainer.y is None:
                raise PeerFault("no_trace", "this node holds no samples")
            states = await self._states(case)
            data = await context.aside(make_opening, trainer.x, trainer.y, states)
        except (PeerFault, UserError, WorkerDied, TaskFailed, ValueError) as error:
            # ValueError: larger than a blob may be.
            log.error("the round cannot be opened", height=case.height, why=str(error))
            return None
        opening_id = await context.aside(blob_id, data)
        await context.shelf.put(opening_id, data)
        log.info("the round is opened to the council", height=case.height, bytes=len(data))
        return opening_id, len(data)

    async def _states(self, case: Case) -> list[bytes]:
        """The training states of the round, kept or trained again. Raises PeerFault when they are lost."""
        context, chain = self._context, self._chain_of(case.group_id)
        rounds = OwnRounds.of(context.directory, chain.name, case.epoch)
        kept = await context.aside(rounds.states, case.height)
        if kept:
            return kept
        decided, own = chain.get(case.height), rounds.commitment(case.height)
        if decided is None or own is None:
            raise PeerFault("no_trace", "the own commitment of this height is gone")
        body: GroupBody = decode_body(decided.block.body, GroupBody)
        members = context.roster.committee(chain.name, case.epoch).members
        base = await base_of_block(
            context, chain, body.base, [each for each in members if each != context.me]
        )
        seed = context.genesis.round_seed(case.group_id, case.epoch, case.height)
        result = await context.trainer.train(base.values, seed, context.me, keep_states=True)
        if result.trace_root != own.tx.trace_root:
            raise PeerFault("no_trace", "training again gave other states: another machine or another torch")
        return result.states
