"""An accused member opens its round to the council's seats, and to nobody else."""

from __future__ import annotations

from consensus.types import Digest, MemberId
from p2pfl.errors import PeerFault
from p2pfl.net import wire
from p2pfl.params import blob_id
from p2pfl.records import Case
from p2pfl.rounds.context import Context
from p2pfl.rounds.court import open_cases
from p2pfl.rounds.own import OwnRounds
from p2pfl.rounds.replay import make_opening
from p2pfl.telemetry import logger

log = logger("rounds.defence")


class Defence:
    """Answers OpenRequests for the cases that the council's chain names."""

    def __init__(self, context: Context, own: OwnRounds) -> None:
        self._context = context
        self._own = own
        self._openings: dict[Digest, tuple[Digest, int]] = {}

    async def asked(self, sender: MemberId, request: wire.OpenRequest) -> None:
        """A seat asks for the opening of a case. Raises PeerFault when it may not, or the trace is gone."""
        context = self._context
        if sender not in context.seats:
            raise PeerFault("not_a_seat", "only the council's seats may ask for an opening")
        case = open_cases(context.council.tip).get(request.case_id)
        if case is None or case.accused != context.me:
            # The seat may be a block ahead: it asks again.
            log.info("asked to open a case that is not known here yet", case=request.case_id.hex())
            return
        if request.case_id not in self._openings:
            self._openings[request.case_id] = await self._open(case)
        opening_id, length = self._openings[request.case_id]
        context.network.send(sender, wire.OpeningOffer(request.case_id, opening_id, length))

    async def _open(self, case: Case) -> tuple[Digest, int]:
        context, trainer = self._context, self._context.trainer
        states = await context.aside(self._own.states, case.height)
        assert trainer.x is not None and trainer.y is not None
        data = await context.aside(make_opening, trainer.x, trainer.y, states)
        opening_id = await context.aside(blob_id, data)
        await context.shelf.put(opening_id, data)
        context.shelf.show(opening_id, context.seats)
        log.info("the round is opened to the council", height=case.height, bytes=len(data))
        return opening_id, len(data)
