"""Takes proofs to the contract: contradicting signatures at once, certified verdicts through their window.

A suspicion never comes here. Without a chain the proofs are kept as notes, for anybody to submit. Several
nodes hold the same proof: each waits its turn, looks whether it is done, and only then pays for it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import trio

from consensus.evidence import contradiction
from consensus.signing import signing_digest
from consensus.types import Digest, MemberId, SignedVote
from p2pfl.errors import PeerFault, UserError
from p2pfl.genesis import COUNCIL
from p2pfl.records import CouncilBody, VerdictCertificate, decode_body
from p2pfl.rounds.collect import DoubleSigned
from p2pfl.rounds.context import Context
from p2pfl.store import Notes
from p2pfl.telemetry import logger

log = logger("rounds.prosecutor")

TWO_OF_ONE_SLOT = 6  # E6
# Each next node waits this much longer before it pays for what another may have done already.
TURN_S = 2.0
# Work that waits for the chain; a proof is made once a culprit and height, so this is never reached honestly.
QUEUE_MAX = 256
# A dead chain is tried again this often, as long as the node lives.
RETRY_S = (1.0, 2.0, 5.0, 10.0, 30.0)


class ChainClient(Protocol):
    """What the prosecutor needs of `p2pfl.evm`."""

    async def submit_equivocation(
        self,
        group: Digest,
        kind: str,
        first: Any,
        first_signature: bytes,
        second: Any,
        second_signature: bytes,
    ) -> dict[str, Any]: ...

    async def submit_verdict(self, certificate: VerdictCertificate, council_epoch: int) -> dict[str, Any]: ...

    async def execute_verdict(self, certificate: VerdictCertificate) -> dict[str, Any]: ...


class Prosecutor:
    """One node's proofs on their way to the contract."""

    def __init__(self, context: Context, notes: Notes, chain: ChainClient | None) -> None:
        self._context = context
        self._notes = notes
        self._chain = chain
        self._send, self._receive = trio.open_memory_channel[Callable[[], Awaitable[None]]](QUEUE_MAX)
        self._accused: set[tuple[MemberId, int]] = set()
        self._verdicts: set[Digest] = set()

    async def run(self) -> None:
        """Carry out one after the other until cancelled; on start, what the council's chain has certified."""
        for decided in self._context.council.chain.blocks:
            self.certified(decode_body(decided.block.body, CouncilBody))
        async with trio.open_nursery() as nursery:
            async for work in self._receive:
                nursery.start_soon(self._patiently, work)

    # -- proofs ---------------------------------------------------------------------

    def equivocation(self, culprit: MemberId, pair: tuple[SignedVote, SignedVote]) -> None:
        """E1 to E5: two votes of one signer that contradict each other."""
        kind = contradiction(pair[0].vote, pair[1].vote)
        assert kind is not None
        first, second = pair
        self._evidence(
            culprit,
            int(kind),
            type(first.vote).__name__,
            first.vote,
            first.signature,
            second.vote,
            second.signature,
        )

    def double_signed(self, double: DoubleSigned) -> None:
        """E6: two commitments, requests or closes of one slot."""
        self._evidence(
            double.signer,
            TWO_OF_ONE_SLOT,
            double.kind,
            double.first,
            double.first_signature,
            double.second,
            double.second_signature,
        )

    def certified(self, body: CouncilBody) -> None:
        """A council block holds verdict certificates: a seat takes them to the contract."""
        if self._context.name != COUNCIL:
            return
        for certificate in body.certificates:
            key = signing_digest(self._context.domain, certificate.verdict)
            if key not in self._verdicts:
                self._verdicts.add(key)
                self._notes.add("certificates", certificate, durable=True)
                self._queue(lambda certificate=certificate: self._verdict(certificate))

    def _evidence(self, culprit: MemberId, offence: int, kind: str, *proof: Any) -> None:
        height = proof[0].height
        if (culprit, height) in self._accused:
            return
        self._accused.add((culprit, height))
        context = self._context
        log.warning("two signatures contradict each other", member=context.name_of(culprit), offence=offence)
        first, first_signature, second, second_signature = proof
        note = {
            "offence": offence,
            "kind": kind,
            "group": context.group_id,
            "culprit": culprit,
            "first": first,
            "first_signature": first_signature,
            "second": second,
            "second_signature": second_signature,
        }
        self._notes.add("evidence", note, durable=True)
        fields = {"accused": context.name_of(culprit), "offence": offence, "height": height}
        context.observe("evidence", fields)
        self._queue(lambda: self._equivocation(culprit, offence, kind, proof))

    # -- on the chain -------------------------------------------------------------------

    async def _equivocation(self, culprit: MemberId, offence: int, kind: str, proof: tuple[Any, ...]) -> None:
        assert self._chain is not None
        done = await self._chain.submit_equivocation(self._context.group_id, kind, *proof)
        self._tell("equivocation", culprit, offence, done)
        self._tell_slashed(culprit, offence, done)

    async def _verdict(self, certificate: VerdictCertificate) -> None:
        assert self._chain is not None
        verdict = certificate.verdict
        submitted = await self._chain.submit_verdict(certificate, self._context.committee.epoch)
        self._tell("verdict", verdict.accused, verdict.offence, submitted)
        executed = await self._chain.execute_verdict(certificate)
        self._tell("execute", verdict.accused, verdict.offence, executed)
        self._tell_slashed(verdict.accused, verdict.offence, executed)

    def _tell(self, what: str, accused: MemberId, offence: int, done: dict[str, Any]) -> None:
        name = self._context.name_of(accused)
        self._notes.add("transactions", {"kind": what, "accused": accused, "offence": offence, **done})
        self._context.observe("submitted", {"what": what, "accused": name, "tx": done["tx_hash"]})

    def _tell_slashed(self, accused: MemberId, offence: int, done: dict[str, Any]) -> None:
        fields = {"accused": self._context.name_of(accused), "offence": offence, "tx": done["tx_hash"]}
        self._context.observe("slashed", {**fields, "amount_wei": done["amount_wei"]})
        log.info("stake was slashed", **fields)

    # -- patience ---------------------------------------------------------------------------

    def _queue(self, work: Callable[[], Awaitable[None]]) -> None:
        if self._chain is None:
            return
        try:
            self._send.send_nowait(work)
        except trio.WouldBlock:
            log.error(
                "too many proofs wait for the chain", fix="check the chain's RPC; notes keep the proofs"
            )

    async def _patiently(self, work: Callable[[], Awaitable[None]]) -> None:
        """In this node's turn, and again while the chain cannot be reached."""
        members = self._context.committee.members
        await trio.sleep(members.index(self._context.me) * TURN_S)
        tries = 0
        while True:
            try:
                await work()
                return
            except PeerFault as fault:
                log.error("the contract refused a proof", why=str(fault))
                return
            except UserError as error:
                log.warning("the chain could not be reached", why=error.because, fix=error.fix)
            await trio.sleep(RETRY_S[min(tries, len(RETRY_S) - 1)])
            tries += 1
