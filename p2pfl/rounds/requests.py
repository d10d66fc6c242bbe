"""From which base a height is trained: the request that a member follows, and the one that Ci makes.

Keeps why a request could not be followed; what has been heard of the height is in `collect`.
"""

from __future__ import annotations

from consensus import types as ct
from p2pfl.errors import PeerFault
from p2pfl.rounds.bases import Bases
from p2pfl.rounds.collect import Collected
from p2pfl.rounds.context import Context
from p2pfl.signed import ShareRequest, SignedShareRequest


class Requests:
    """The requests of one height, seen by one member."""

    def __init__(self, context: Context, bases: Bases, heard: Collected) -> None:
        self._context = context
        self._bases = bases
        self._heard = heard
        self._unfit: dict[int, str] = {}  # By round: why it could not be followed.

    def to_follow(self) -> SignedShareRequest | None:
        """The earliest request on whose base a block can follow, as far as one knows."""
        ordered = (signed for _, signed in sorted(self._heard.requests.items()))
        return next((each for each in ordered if self._can_follow(each.request)), None)

    def unfit(self, request: ShareRequest, fault: PeerFault) -> None:
        """This request could not be followed."""
        self._unfit[request.round] = fault.reason

    def _can_follow(self, request: ShareRequest) -> bool:
        if self._bases.too_old(request.council_block_id):
            return False
        why = self._unfit.get(request.round)
        if self._context.council.at(request.council_block_id) is None:
            # It may come; but who was in vain once, or has committed, does not wait for what may be made up.
            return why is None and self._context.me not in self._heard.txs
        return why not in ("bad_request", "old_base")

    async def make(self, effect: ct.Build) -> SignedShareRequest:
        """Choose the base: the newest council block that counts our parent, if it comes in time."""
        context, heard = self._context, self._heard
        await self.council_counts_all()
        resolved = await self._bases.resolve(context.council.tip.block_id, heard.height)
        request = ShareRequest(
            heard.epoch, heard.height, effect.round, resolved.ref.base_id, resolved.ref.council_block_id
        )
        return SignedShareRequest(request, await context.sign(request), effect.justification)

    async def council_counts_all(self) -> None:
        """Wait, but not for ever, until the council has counted the own group's last block."""
        view, group_id, last = self._context.council, self._context.group_id, self._heard.height - 1
        await view.pulse.until(lambda: view.tip.counted[group_id][0] >= last, timeout_s=self._council_s())

    def _council_s(self) -> float:
        """How long Ci waits for the council's next block. An epoch begins with one: then it has no choice."""
        tip = self._context.chain.tip
        if tip is None:
            return 0
        wait_s = self._context.genesis.times.council_ms / 1000
        return wait_s if tip.epoch == self._context.committee.epoch else float("inf")
