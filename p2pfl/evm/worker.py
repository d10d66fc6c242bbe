"""The chain for trio: every call in a worker thread, and patience where time has to pass on the chain.

Thin: what is done is in `staking`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import trio

from consensus.types import Certificate, Digest, Header, MemberId
from p2pfl.evm.client import ChainUnreachable
from p2pfl.evm.records import Anchor, Done, Judgement, Slashing, State
from p2pfl.evm.reverts import Reverted
from p2pfl.evm.staking import Staking
from p2pfl.signed import Verdict

T = TypeVar("T")

# One that waits for a block, one for a question meanwhile.
THREADS = 2
PATIENCE_S, PATIENCE_MAX_S = 1.0, 30.0


class StakingWorker:
    """A Staking whose calls do not hold up the event loop. A cancelled call goes on in its thread."""

    def __init__(
        self,
        staking: Staking,
        *,
        threads: int = THREADS,
        sleep: Callable[[float], Awaitable[None]] = trio.sleep,
    ) -> None:
        self.staking = staking
        self._sleep = sleep
        self._limiter = trio.CapacityLimiter(threads)

    async def run(self, work: Callable[..., T], *arguments: Any, **options: Any) -> T:
        """Any method of the Staking, in a thread."""
        # The stubs that come with libp2p are of an older trio, which called it `cancellable`.
        options_of_thread: dict[str, Any] = {"limiter": self._limiter, "abandon_on_cancel": True}
        return await trio.to_thread.run_sync(partial(work, *arguments, **options), **options_of_thread)

    async def submit_verdict(
        self, verdict: Verdict, signatures: Sequence[bytes], *, council_epoch: int = 0
    ) -> Done:
        """See Staking.submit_verdict."""
        return await self.run(self.staking.submit_verdict, verdict, signatures, council_epoch=council_epoch)

    async def submit_equivocation(
        self, group: Digest, first: Any, first_signature: bytes, second: Any, second_signature: bytes
    ) -> Done:
        """See Staking.submit_equivocation."""
        return await self.run(
            self.staking.submit_equivocation, group, first, first_signature, second, second_signature
        )

    async def anchor(
        self, header: Header, certificate: Certificate, next_members: Sequence[MemberId]
    ) -> Done:
        """See Staking.anchor."""
        return await self.run(self.staking.anchor, header, certificate, next_members)

    async def anchor_of(self, group: Digest, epoch: int) -> Anchor | None:
        """See Staking.anchor_of."""
        return await self.run(self.staking.anchor_of, group, epoch)

    async def committee(self, group: Digest, epoch: int) -> tuple[MemberId, ...]:
        """See Staking.committee."""
        return await self.run(self.staking.committee, group, epoch)

    async def stake_of(self, member: MemberId) -> int:
        """See Staking.stake_of."""
        return await self.run(self.staking.stake_of, member)

    async def judgement(self, key: Digest) -> Judgement:
        """See Staking.judgement."""
        return await self.run(self.staking.judgement, key)

    async def slashed(self, first_block: int | None = None) -> list[Slashing]:
        """See Staking.slashed."""
        return await self.run(self.staking.slashed, first_block)

    async def persist(self, work: Callable[..., T], *arguments: Any, **options: Any) -> T:
        """Like `run`, again and again while the chain does not answer. Cancel it to give up."""
        patience_s = PATIENCE_S
        while True:
            try:
                return await self.run(work, *arguments, **options)
            except ChainUnreachable:
                await self._sleep(patience_s)
                patience_s = min(PATIENCE_MAX_S, 2 * patience_s)

    async def carry_out(self, key: Digest) -> Judgement:
        """Wait until the window of a verdict is over and execute it; several seats may do so at once.

        Returns what became of it: executed by whomever, cancelled, or expired. Outlives a chain that is away.
        """
        while True:
            judgement = await self.persist(self.staking.judgement, key)
            if judgement.state is not State.PENDING:
                return judgement
            # The chain's clock is not ours: ask again when the window should be over, and now and then.
            wait_s = judgement.executable_at_s - judgement.now_s
            if wait_s > 0:
                await self._sleep(min(wait_s, PATIENCE_MAX_S))
                continue
            act = self.staking.execute_verdict
            if judgement.now_s >= judgement.expires_at_s:
                act = self.staking.expire_verdict
            try:
                await self.persist(act, key)
            except Reverted as error:
                # The next block was a little earlier or later than we thought; or somebody else was quicker.
                if error.name not in {"TooEarly", "TooLate", "NotPending"}:
                    raise
                await self._sleep(PATIENCE_S)
