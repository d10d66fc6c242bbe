"""A member's own contribution: train from the requested base, fix the update, commit to it, once a height."""

from __future__ import annotations

from functools import partial
from typing import Any

import trio

from consensus.types import Digest
from p2pfl.errors import PeerFault, UserError
from p2pfl.keys import Refused
from p2pfl.learn.worker import TaskFailed, WorkerDied
from p2pfl.params import blob_id, delta_of, quantize
from p2pfl.records import MICRO
from p2pfl.rounds.bases import Bases, Resolved
from p2pfl.rounds.collect import Collected
from p2pfl.rounds.context import Context
from p2pfl.rounds.own import OwnRounds, rounds_asked
from p2pfl.rounds.patience import when_there_is_room
from p2pfl.signed import ParamTx, ShareRequest, SignedParamTx
from p2pfl.telemetry import logger

log = logger("rounds.commit")


class Committer:
    """Makes this member's commitments. One at a time: a height has one."""

    def __init__(self, context: Context, bases: Bases, own: OwnRounds) -> None:
        self._context = context
        self._bases = bases
        self._own = own
        self.busy = False

    async def commit(self, heard: Collected, request: ShareRequest) -> SignedParamTx | None:
        """The durable, signed commitment; None when there can be none now, with the reason in the log.

        Raises PeerFault when the request cannot be followed.
        """
        self.busy = True
        begun_s = trio.current_time()
        try:
            signed = await self._commit(heard, request)
        except (Refused, UserError, WorkerDied, TaskFailed) as error:
            log.warning("no commitment in this height", height=heard.height, why=str(error))
            return None
        finally:
            self.busy = False
        self._context.observe(
            "trained",
            {
                "height": heard.height,
                "member": self._context.name_of(self._context.me),
                "seconds": trio.current_time() - begun_s,
                "loss_before": signed.tx.loss_before_micro / MICRO,
                "loss_after": signed.tx.loss_after_micro / MICRO,
            },
        )
        return signed

    async def _commit(self, heard: Collected, request: ShareRequest) -> SignedParamTx:
        context = self._context
        resolved = await self._bases.resolve(request.council_block_id, heard.height)
        if resolved.ref.base_id != request.base_id:
            raise PeerFault("bad_request", "it names a base that is not its council block's")
        seed = context.genesis.round_seed(context.group_id, heard.epoch, heard.height)
        result = await context.trainer.train(resolved.base.values, seed, context.me)
        tx = await self._fix(heard, resolved, result)
        signed = SignedParamTx(tx, await context.sign(tx))
        await when_there_is_room(partial(self._own.save, signed, result.states), limiter=context.heavy)
        seat = (context.name, heard.epoch)
        asked = [height for *of, height in rounds_asked(context) if tuple(of) == seat]
        counted = context.council.tip.counted[context.group_id][0]
        await context.aside(self._own.forget, heard.height, counted, asked)
        return signed

    async def _fix(self, heard: Collected, resolved: Resolved, result: Any) -> ParamTx:
        """Turn the training's result into bytes on the shelf and the commitment that names them."""
        context = self._context
        layout = context.genesis.task.layout

        def fix() -> tuple[bytes, Digest, int]:
            delta = delta_of(resolved.base, result.parameters)
            update, saturated = quantize(delta, layout, resolved.exponents)
            data = update.to_bytes()
            return data, blob_id(data), saturated

        data, update_id, saturated = await context.aside(fix)
        await context.shelf.put(update_id, data)
        return ParamTx(
            epoch=heard.epoch,
            height=heard.height,
            member=context.me,
            base_id=resolved.ref.base_id,
            blob_id=update_id,
            byte_length=len(data),
            samples=result.samples,
            saturated=saturated,
            data_root=context.trainer.data_root,
            data_leaves=context.trainer.data_leaves,
            trace_root=result.trace_root,
            loss_before_micro=result.loss_before_micro,
            loss_after_micro=result.loss_after_micro,
        )
