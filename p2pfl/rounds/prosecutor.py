"""Takes proofs to the contract: contradicting signatures at once, certified verdicts through their window.

A suspicion never comes here. Without a chain the proofs are kept as notes, for anybody to submit. Several
nodes hold the same proof: each waits its turn, looks whether it is done, and only then pays for it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from consensus.evidence import OffenceKind, offence
from consensus.signing import signing_digest
from consensus.types import Digest, MemberId, SignedVote
from p2pfl.contradiction import Contradiction, as_note, from_note, of_votes
from p2pfl.durable import DiskFull
from p2pfl.errors import UserError
from p2pfl.genesis import COUNCIL
from p2pfl.records import CouncilBody, VerdictCertificate, decode_body
from p2pfl.rounds.collect import DoubleSigned
from p2pfl.rounds.context import Context
from p2pfl.rounds.follow import Chain
from p2pfl.rounds.patience import when_there_is_room
from p2pfl.store import Notes
from p2pfl.telemetry import logger

if TYPE_CHECKING:
    from p2pfl.evm import Done, StakingWorker  # web3 is slow to import: only where a chain is named.

log = logger("rounds.prosecutor")

# Each next node waits this much longer before it pays for what another may have done already.
TURN_S = 2.0
# Work that waits for the chain; a proof is made once a culprit and height, so this is never reached honestly.
QUEUE_MAX = 256
# A dead chain is tried again this often, as long as the node lives.
RETRY_S = (1.0, 2.0, 5.0, 10.0, 30.0)


class Prosecutor:
    """One node's proofs on their way to the contract."""

    def __init__(
        self,
        context: Context,
        notes: Notes,
        connect: Callable[[], StakingWorker] | None,
        chain_of: Callable[[Digest], Chain],
        to_council: Callable[[Contradiction], None],
    ) -> None:
        """context: of the epoch in which the node works; it follows. connect: opens the chain and checks the
        contracts (blocking, in a thread); None: no chain. chain_of: a group's chain, where it lies here.
        to_council: takes a proof to the seats, who expel its culprit.
        """
        self._to_council = to_council
        self._chain_of = chain_of
        self.context = context
        self._notes = notes
        self._connect = connect
        self._connected: StakingWorker | None = None
        self._connecting = trio.Lock()
        self._send, self._receive = trio.open_memory_channel[Callable[[], Awaitable[None]]](QUEUE_MAX)
        self._late_send, self._late = trio.open_memory_channel[tuple[str, Any]](QUEUE_MAX)
        self._accused: set[tuple[MemberId, int]] = set()
        self._verdicts: set[Digest] = set()

    async def run(self) -> None:
        """Carry out what is queued until cancelled; first, what the council's chain has certified so far.

        Raises UserError when the chain answers and is not the one that the genesis names.
        """
        for decided in self.context.council.chain.blocks:
            self.certified(decode_body(decided.block.body, CouncilBody))
        for note in self._notes.read("evidence"):
            if (both := from_note(note)) is not None:
                self._to_council(both)  # It may not have come so far before the node ended.
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._check_chain)
            nursery.start_soon(self._keep_late)
            async for work in self._receive:
                nursery.start_soon(self._patiently, work)

    async def _check_chain(self) -> None:
        if self._connect is None:
            return
        from p2pfl.evm import ChainUnreachable

        try:
            await self._chain()
        except ChainUnreachable as error:
            log.warning("the chain does not answer yet", why=error.because, fix=error.fix)

    # -- proofs ---------------------------------------------------------------------

    def equivocation(self, culprit: MemberId, pair: tuple[SignedVote, SignedVote]) -> None:
        """E1 to E5: two votes of one signer that contradict each other."""
        proven = offence(self.context.domain, *pair)
        assert proven is not None
        both = of_votes(self.context.group_id, proven.first, proven.second)
        self._evidence(culprit, proven.kind, both)

    def double_signed(self, double: DoubleSigned) -> None:
        """E6: two commitments, requests or closes of one slot."""
        both = Contradiction(
            self.context.group_id,
            double.first,
            double.first_signature,
            double.second,
            double.second_signature,
        )
        self._evidence(double.signer, OffenceKind.TWO_OF_ONE_SLOT, both)

    def certified(self, body: CouncilBody) -> None:
        """A council block holds verdict certificates: a seat takes them to the contract."""
        if self.context.name != COUNCIL or self.context.me not in self.context.committee:
            return
        for certificate in body.certificates:
            key = signing_digest(self.context.domain, certificate.verdict)
            if key not in self._verdicts:
                self._verdicts.add(key)
                self._keep("certificates", certificate)
                self._queue(lambda certificate=certificate: self._verdict(certificate))

    def epoch_ended(self, chain: Chain, epoch: int) -> None:
        """The own group's epoch has its last block: it goes to the contract, those before it first."""
        self._queue(lambda: self._anchor(chain, epoch))

    def _evidence(self, culprit: MemberId, kind: OffenceKind, both: Contradiction) -> None:
        height = both.first.height
        if (culprit, height) in self._accused:
            return
        self._accused.add((culprit, height))
        context = self.context
        log.warning(
            "two signatures contradict each other", member=context.name_of(culprit), offence=kind.name
        )
        self._keep("evidence", {"offence": int(kind), "culprit": culprit, **as_note(both)})
        fields = {"accused": context.name_of(culprit), "offence": int(kind), "height": height}
        context.observe("evidence", fields)
        self._to_council(both)
        self._queue(lambda: self._equivocation(culprit, int(kind), both))

    def _keep(self, name: str, proof: Any) -> None:
        """Durable on return; a proof that finds the disk full waits in memory until there is room."""
        try:
            self._notes.add(name, proof, durable=True)
        except DiskFull as full:
            log.error("a proof waits for room on the disk", name=name, because=full.because, fix=full.fix)
            try:
                self._late_send.send_nowait((name, proof))
            except trio.WouldBlock:
                log.error(
                    "too many proofs wait for room on the disk; this one is in the log only", proof=proof
                )

    async def _keep_late(self) -> None:
        async for name, proof in self._late:
            await when_there_is_room(partial(self._notes.add, name, proof, durable=True))

    # -- on the chain -------------------------------------------------------------------

    async def _equivocation(self, culprit: MemberId, code: int, both: Contradiction) -> None:
        from p2pfl.evm import offence_key

        chain, group_id, first = await self._chain(), both.group_id, both.first
        await self._seated(group_id, first.epoch)
        done = await chain.submit_equivocation(
            group_id, first, both.first_signature, both.second, both.second_signature
        )
        self._tell("equivocation", culprit, code, done)
        key = offence_key(group_id, first.epoch, first.height, culprit, code)
        await self._tell_slashed(chain, key, culprit, code)

    async def _seated(self, group_id: Digest, epoch: int) -> None:
        """A proof is judged by the committee of its epoch: the contract has to have heard of it."""
        if epoch and not await (await self._chain()).committee(group_id, epoch):
            await self._anchor(self._chain_of(group_id), epoch - 1)

    def _is_counted(self, group_id: Digest, epoch: int) -> bool:
        return self.context.council.tip.open_epochs.get(group_id, epoch + 1) > epoch

    async def _anchor(self, chain: Chain, newest: int) -> None:
        contract, roster = await self._chain(), self.context.roster
        for decided in chain.last_of_epochs(newest):
            header = decided.block.header
            # What the council has not counted it may still close at an earlier block.
            group_id = header.group_id
            await self.context.council.pulse.until(partial(self._is_counted, group_id, newest))
            roster = self.context.roster
            if (chain.name, header.epoch) in roster.closings:
                return
            if header.next_committee_root != roster.next_root(chain.name, header.epoch):
                return  # Closed by the council, or the group has ended: the contract hears nothing of that.
            if await contract.anchor_of(header.group_id, header.epoch) is None:
                members = roster.committee(chain.name, header.epoch + 1).members
                done = await contract.anchor(header, decided.certificate, members)
                tx = "0x" + done.transaction.hex()
                fields = {"group": chain.name, "epoch": header.epoch, "height": header.height}
                self._notes.add("transactions", {"kind": "anchor", **fields, "tx_hash": tx})
                self.context.observe("anchored", {**fields, "tx": tx})

    async def _verdict(self, certificate: VerdictCertificate) -> None:
        from p2pfl.evm import verdict_key

        chain, verdict = await self._chain(), certificate.verdict
        epoch = self.context.council.tip.cases[verdict.case_id].opened_epoch
        await self._seated(verdict.group, verdict.epoch)
        await self._seated(self.context.council.chain.group_id, epoch)
        done = await chain.submit_verdict(verdict, certificate.signatures, council_epoch=epoch)
        self._tell("verdict", verdict.accused, verdict.offence, done)
        key = verdict_key(verdict)
        judgement = await chain.carry_out(key)
        log.info("a verdict came to its end", state=judgement.state.name, accused=verdict.accused.hex())
        await self._tell_slashed(chain, key, verdict.accused, verdict.offence)

    def _tell(self, what: str, accused: MemberId, code: int, done: Done) -> None:
        tx = "0x" + done.transaction.hex()
        note = {"kind": what, "accused": accused, "offence": code, "tx_hash": tx, "block": done.block}
        self._notes.add("transactions", {**note, "new": done.new, "gas_used": done.gas_used})
        self.context.observe("submitted", {"what": what, "accused": self.context.name_of(accused), "tx": tx})

    async def _tell_slashed(self, chain: StakingWorker, key: Digest, accused: MemberId, code: int) -> None:
        for taken in await chain.slashed():
            if taken.key == key:
                tx = "0x" + taken.transaction.hex()
                fields = {"accused": self.context.name_of(accused), "offence": code, "tx": tx}
                self._notes.add("transactions", {"kind": "slashed", **fields, "amount_wei": taken.amount_wei})
                self.context.observe("slashed", {**fields, "amount_wei": taken.amount_wei})
                log.info("stake was slashed", **fields)

    async def _chain(self) -> StakingWorker:
        """The chain's client, opened once. Raises UserError."""
        assert self._connect is not None
        async with self._connecting:
            connected = self._connected or await trio.to_thread.run_sync(self._connect)
            self._connected = connected
            return connected

    # -- patience ---------------------------------------------------------------------------

    def _queue(self, work: Callable[[], Awaitable[None]]) -> None:
        if self._connect is None:
            return
        try:
            self._send.send_nowait(work)
        except trio.WouldBlock:
            log.error(
                "too many proofs wait for the chain", fix="check the chain's RPC; notes keep the proofs"
            )

    async def _patiently(self, work: Callable[[], Awaitable[None]]) -> None:
        """In this node's turn, and again while the chain cannot be reached."""
        from p2pfl.evm import Reverted

        members, me = self.context.committee.members, self.context.me
        await trio.sleep((members.index(me) if me in members else len(members)) * TURN_S)
        tries = 0
        while True:
            try:
                await work()
                return
            except Reverted as refused:
                log.error("the contract refused a proof", why=refused.because, fix=refused.fix)
                return
            except UserError as error:
                log.warning("a proof could not be taken to the chain", why=error.because, fix=error.fix)
            await trio.sleep(RETRY_S[min(tries, len(RETRY_S) - 1)])
            tries += 1
