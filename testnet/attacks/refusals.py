"""Who does not do its part: commits and never reveals, opens no round to the council, is always late."""

from __future__ import annotations

from typing import Any

import trio

from consensus.types import Digest, MemberId
from p2pfl.learn.train import TrainResult
from p2pfl.net import wire
from testnet.attacks.messages import Speech, hear, serve
from testnet.attacks.table import attack


@attack("no_reveal")
def no_reveal(parts: Any) -> None:
    """Commits to an update like everybody and serves it to nobody."""
    own: set[Digest] = set()

    def note(message: Any) -> Any:
        if isinstance(message, wire.ParamTxMessage) and message.tx.tx.member == parts.me:
            own.add(message.tx.tx.blob_id)
        return message

    parts.network = Speech(parts.network, note)
    serve(parts, lambda blob_id: blob_id not in own)


@attack("refuse_audit")
def refuse_audit(parts: Any) -> None:
    """Never opens a round to the council, whatever it is asked for. Put it on beside another attack."""
    hear(parts, lambda sender, message: not isinstance(message, wire.OpenRequest))


@attack("slow")
def slow(parts: Any, *, delay_s: float, rounds: int = 0) -> None:
    """Takes delay_s longer than it needs to train, in its first `rounds` trainings (0: in all)."""
    parts.trainer = _Slow(parts.trainer, delay_s, rounds)


class _Slow:
    """A trainer that takes its time. Everything else is the honest trainer's."""

    def __init__(self, honest: Any, delay_s: float, rounds: int) -> None:
        self._honest = honest
        self._delay_s = delay_s
        self._rounds = rounds
        self._done = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._honest, name)

    async def train(self, base: Any, seed: bytes, member: MemberId, **options: Any) -> TrainResult:
        """The honest training, late."""
        result = await self._honest.train(base, seed, member, **options)
        self._done += 1
        if not self._rounds or self._done <= self._rounds:
            await trio.sleep(self._delay_s)
        return result
