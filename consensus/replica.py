"""One member's part in deciding one height after another: QBFT as a table, `step(event) -> effects`.

Knows the rules R1 to R9 (docs/consensus.md). It never signs, waits, logs, or looks at a clock or a disk: it
asks for each by an effect. What a block means, the application knows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeAlias

from consensus import justification
from consensus import types as t
from consensus.answers import Answers
from consensus.committee import Committee
from consensus.height import Fits, Height, Prepared
from consensus.signing import Domain, block_id
from consensus.types import ZERO_DIGEST, Digest, MemberId, SignedCommit, SignedPrepare, SignedRoundChange
from consensus.votes import (
    Recover,
    recoverer,
    signed_vote,
    subject,
    to_commit,
    to_prepare,
    to_round_change,
    within_bounds,
)

Changes: TypeAlias = tuple[SignedRoundChange, ...]
ROUND_MAX = (1 << 32) - 1  # A round is a uint32 where it is signed.
BODY_BYTES_MAX = 8 * 1024 * 1024  # Blobs travel beside blocks.


class Replica:
    """The state of one member. Give it `Started`, then events; carry out the effects in their order.

    decided_at: a decided block of the store (R7), where each `Decide` is put at once. fits: is this body the
    header's? recover: a vote's signer. context: what goes with ROUND-CHANGE.
    """

    def __init__(
        self,
        committee: Committee,
        me: MemberId,
        domain: Domain,
        *,
        decided_at: Callable[[int], t.DecidedBlock | None],
        fits: Fits = lambda block: True,
        recover: Recover | None = None,
        context: Callable[[], Digest] = lambda: ZERO_DIGEST,
        body_bytes_max: int = BODY_BYTES_MAX,
    ) -> None:
        if me not in committee:
            raise ValueError("only a member of the committee takes part")
        self.committee, self.me, self.domain, self.context = committee, me, domain, context
        self._recover, self._fits, self._body_bytes_max = recover or recoverer(domain), fits, body_bytes_max
        self._quorum, self._faulty_max = committee.quorum, committee.faulty_max
        self._answers = Answers(decided_at)
        self._out: list[t.Effect] = []
        self._at = Height(None, committee, domain.group_id, self._recover, fits)
        self._begin(None)

    @property
    def followed(self) -> bool:
        """Whether q members ask for my round or more: the timer of a round above 0 waits for that (R4)."""
        return self.round == 0 or sum(n >= self.round for n in self._at.asked.values()) >= self._quorum

    def _begin(self, started: t.Started | None) -> None:
        self.started, self._before = started, self._at  # For late evidence.
        self._at = Height(started, self.committee, self.domain.group_id, self._recover, self._fits)
        self.height = self._at.number
        self.decided: t.Decide | None = None
        self.prepared: Prepared | None = None  # The highest, by own count (R2).
        self._begin_round(0)

    def _begin_round(self, round_: int) -> None:
        self.round = round_
        self.accepted: t.Proposal | None = None  # The own one is unsigned until it comes back.
        self._voted = False  # A PREPARE of this round was asked for.
        self._building: Changes | None = None  # Why a fresh block is being built.
        self._asked: Digest | None = None  # The prepared block that is validated before it is proposed again.

    # The table: events first, then the rules that they may have enabled.

    def step(self, event: t.Event) -> list[t.Effect]:
        """Take one event, return what to do, in this order."""
        self._out = []
        match event:
            case t.Received():
                self._receive(event)
            case t.Elapsed(round=round_) if self._is_open(event) and self.round <= round_ < ROUND_MAX:
                self._change_round(round_ + 1)  # R4; a round above mine is a jump, read back from the WAL.
            case t.Validated() if self._is_open(event):
                self._judge(event)
            case t.Built() if self._is_open(event) and event.round == self.round:
                self._built(event.block)
            case t.Resend(to=to):
                self._resend(to)  # R8
            case t.Started():
                self._start(event)
            case _:
                pass  # Late: that height or round is over.
        self._follow_rules()
        return self._out

    def _follow_rules(self) -> None:
        """Fire what is enabled until nothing is. A rule that fires has changed what enabled it."""
        fired = self.started is not None
        while fired and self.decided is None:
            fired = self._r3() or self._r5() or self._r6() or self._r1() or self._r2()

    def _r1(self) -> bool:
        """The accepted proposal is valid, still in its round: make it durable, PREPARE. Once a round."""
        accepted = self.accepted
        if self._voted or accepted is None or not accepted.propose.signature:
            return False
        block = accepted.propose.vote.block_id
        if block not in self._at.valid:
            return False
        if self._proposer() != self.me:  # The own one was made durable before it was signed.
            self._out.append(t.Persist(t.Received(self._proposer(), accepted)))
        self._out.append(t.Persist(t.Validated(self.height, self.round, block, True)))
        self._voted = True
        self._out.append(t.Sign(to_prepare(self._seat(), block)))
        return True

    def _r2(self) -> bool:
        """q PREPAREs for the accepted, valid block in the current round: it is prepared; COMMIT. Once."""
        if self.accepted is None or (self.prepared is not None and self.prepared.round == self.round):
            return False
        block = self.accepted.propose.vote.block_id
        votes = self._at.supporters(SignedPrepare, self.round, block)
        if len(votes) < self._quorum or block not in self._at.valid:
            return False
        signers = sorted(votes)[: self._quorum]
        self.prepared = Prepared(self.round, block, tuple(votes[signer] for signer in signers))
        self._at.believe(self.prepared)
        for signer in signers:
            if signer != self.me:  # The own vote was made durable when it came back signed.
                self._out.append(t.Persist(t.Received(signer, t.PrepareMessage(votes[signer]))))
        self._out.append(t.Sign(to_commit(self._seat(), block)))
        return True

    def _r3(self) -> bool:
        """q COMMITs of one round, any round, for a block that is held: it is final."""
        if self._at.certified is None:
            return False
        wanted, certificate = self._at.certified
        block = self._at.blocks.get(wanted)
        if block is None:
            vote = t.Commit(self.committee.epoch, self.height, certificate.round, wanted)
            self._fetch(wanted, [SignedCommit(vote, signature) for signature in certificate.signatures])
            return False
        self._decide(t.DecidedBlock(block, certificate))
        return True

    def _r5(self) -> bool:
        """f+1 signers ask for rounds above mine: one of them is honest; jump to the (f+1)-th highest."""
        if len(self._at.asked) <= self._faulty_max:
            return False
        target = sorted(self._at.asked.values(), reverse=True)[self._faulty_max]
        if target <= self.round:
            return False
        self._change_round(target)
        return True

    def _r6(self) -> bool:
        """My turn, and q ROUND-CHANGEs for exactly this round (none for round 0): propose the safe value."""
        if self.accepted is not None or self._building is not None or self._proposer() != self.me:
            return False
        if self.round == 0:
            return self._build(())
        believed = self._at.believable(self.round)
        if len(believed) < self._quorum:
            return False
        changes = justification.choose(believed, self._quorum)
        prepared = self._at.proof_of(changes[0])
        if prepared is None:
            return self._build(changes)
        block = self._at.blocks.get(prepared.block_id)
        if block is None:
            self._fetch(prepared.block_id, prepared.proof)
        elif prepared.block_id in self._at.valid:
            self._propose(block, changes, prepared.proof)
            return True
        elif self._asked != prepared.block_id:
            self._asked = prepared.block_id
            self._out.append(t.Validate(self.height, self.round, block, fresh=False))
        return False

    def _start(self, started: t.Started) -> None:
        self._begin(started)
        self._enter(0)
        for event in self._answers.begin(self.height):
            self._follow_rules()
            self._receive(event)

    def restore(self, started: t.Started, events: Iterable[t.Event]) -> list[t.Effect]:
        """R9: begin a height again from the events that were persisted in it, in their order.

        What they led to was done, or is asked for again at the end. Contradicts no earlier signature.
        """
        for event in (started, *events):
            self.step(event)
        if self.decided is not None:
            return [self.decided]
        self._out = [t.EnteredRound(self.height, self.round, self._proposer())]
        self._resend(None)
        accepted, prepared = self.accepted, self.prepared
        back = {type(signed) for signed in self._at.by(self.me) if signed.vote.round == self.round}
        if accepted is None and self.round > 0 and SignedRoundChange not in back:
            self._sign_round_change()
        if accepted is not None and not accepted.propose.signature:
            self._out.append(t.Sign(accepted))
        elif accepted is not None and not self._voted:
            self._ask_validity(accepted)
        if accepted is not None and self._voted and SignedPrepare not in back:
            self._out.append(t.Sign(to_prepare(self._seat(), accepted.propose.vote.block_id)))
        if prepared is not None and prepared.round == self.round and SignedCommit not in back:
            self._out.append(t.Sign(to_commit(self._seat(), prepared.block_id)))
        self._building = self._asked = None
        self._follow_rules()
        return self._out

    def _enter(self, round_: int, changes: Changes = ()) -> None:
        self._begin_round(round_)
        self._out.append(t.EnteredRound(self.height, round_, self._proposer(), changes))

    def _change_round(self, round_: int) -> None:
        """R4 and R5: go there, durably, and say what is prepared."""
        self._out.append(t.Persist(t.Elapsed(self.height, round_ - 1)))
        self._enter(round_)
        self._sign_round_change()

    def _decide(self, decided: t.DecidedBlock) -> None:
        self.decided = t.Decide(decided, self._at.extensions(block_id(decided.block.header)))
        self._out.append(self.decided)

    def _receive(self, event: t.Received) -> None:
        sender, message = event.sender, event.message
        about = subject(message)
        if sender not in self.committee:
            return
        if not within_bounds(message, self.committee, self._body_bytes_max):
            self._out.append(t.Fault(sender, "too large"))
        elif about.height < self.height or (about.height == self.height and self.decided is not None):
            book = self._at if about.height == self.height else self._before
            self._out += book.late(sender, message) if about.height == book.number else ()
            if sender != self.me and (found := self._answers.decided(sender, message, self.height)):  # R7
                self._out.append(t.Send(sender, t.DecidedMessage(found)))
        elif about.height > self.height:
            # Kept or not, who speaks of the next height twice in one way is well ahead.
            if about.height > self.height + 1 or not self._answers.keep(event):
                self._out.append(t.Behind(sender, about.height))
        elif about.epoch != self.committee.epoch:
            self._out.append(t.Fault(sender, "another epoch"))
        else:
            self._read(event)

    def _read(self, event: t.Received) -> None:
        """A message of the open height and this epoch."""
        sender, message = event.sender, event.message
        signed = signed_vote(message)
        # The own unsigned proposal comes from the WAL. Nobody else sends as me.
        intent = sender == self.me and isinstance(message, t.Proposal) and not message.propose.signature
        if signed is not None and not intent:
            if self._recover(signed.vote, signed.signature) != sender:
                self._out.append(t.Fault(sender, "not signed by its sender"))
                return
            self._out += self._at.offence(sender, signed)
            self._answers.first(self.height, sender, message)
        reason = None
        match message:
            case t.Proposal():
                reason = self._read_proposal(sender, message)
            case t.PrepareMessage():
                self._count(event, message.prepare)
            case t.CommitMessage():
                if self._count(event, message.commit):
                    self._at.extend(sender, message)
            case t.RoundChangeMessage():
                reason = self._at.change_objection(message)
                if reason is None:
                    self._count(event, message.round_change)
            case t.DecidedMessage(decided=decided):
                reason = self._at.decided_objection(decided)
                if reason is None:
                    self._out += self._at.learn_decided(decided)
                    self._decide(decided)
            case t.FetchBlock():
                block = self._at.blocks.get(message.block_id)
                if block is not None and self._answers.may(self.height, sender):
                    self._out.append(t.Send(sender, t.BlockMessage(block)))
            case t.BlockMessage(block=block):  # pragma: no branch - there is no other message.
                if self._at.wants(block) and self._at.block_objection(block) is None:
                    self._at.hold(block, keep=self.prepared)
        if reason is not None:
            self._out.append(t.Fault(sender, reason))

    def _count(self, event: t.Received, signed: SignedPrepare | SignedCommit | SignedRoundChange) -> bool:
        new = self._at.add(event.sender, signed)
        if new and event.sender == self.me:
            self._at.speak(event.message)
            self._out.append(t.Persist(event))
        return new

    def _read_proposal(self, sender: MemberId, proposal: t.Proposal) -> str | None:
        """R1: the right proposer, justified, not below my round, and the first of its round."""
        vote = proposal.propose.vote
        if self.committee.proposer(self.height, vote.round) != sender:
            return "not its turn"
        if proposal.propose.signature:
            self._at.add(sender, proposal.propose)
        if vote.round == self.round and self.accepted is not None:
            if sender == self.me and self.accepted.propose.vote == vote and proposal.propose.signature:
                self.accepted = proposal  # It comes back signed.
                self._at.speak(proposal)
            return None
        if vote.round < self.round:
            return None
        if (reason := self._at.proposal_objection(proposal)) is not None:
            return reason
        self._out += self._at.learn(proposal)
        if vote.round > self.round:
            self._enter(vote.round, proposal.justification)
        self.accepted = proposal
        self._at.hold(proposal.block, keep=self.prepared)
        if sender == self.me:
            self._at.valid.add(vote.block_id)
        self._ask_validity(proposal)
        return None

    # The application's answers, and what is said.

    def _judge(self, event: t.Validated) -> None:
        if event.valid and event.block_id in self._at.blocks:
            self._at.valid.add(event.block_id)  # In every round. A refusal counts in its own only.
        elif self.accepted is not None and event.round == self.round and not event.valid:
            self._out.append(t.Fault(self._proposer(), "invalid block"))

    def _ask_validity(self, proposal: t.Proposal) -> None:
        if proposal.propose.vote.block_id not in self._at.valid:
            fresh = not proposal.prepared
            self._out.append(t.Validate(self.height, self.round, proposal.block, fresh))

    def _build(self, changes: Changes) -> bool:
        assert self.started is not None
        self._building, tip = changes, self.started
        self._out.append(t.Build(*self._seat()[1:], tip.parent, tip.parent_id, tip.log_root, changes))
        return True

    def _built(self, block: t.Block) -> None:
        if self._building is None or self.accepted is not None:
            return
        reason = self._at.block_objection(block)
        if reason is not None or block.header.proposer != self.me:
            raise ValueError(f"the application built a block that may not be proposed: {reason}")
        self._propose(block, self._building, ())

    def _propose(self, block: t.Block, changes: Changes, proof: tuple[SignedPrepare, ...]) -> None:
        """Take the own proposal as accepted, still unsigned, durably: there is never a second one."""
        known = self._at.hold(block, keep=self.prepared)
        self._at.valid.add(known)
        propose = t.SignedPropose(t.Propose(*self._seat(), known), b"")
        self.accepted = t.Proposal(propose, block, changes, proof)
        self._out.append(t.Persist(t.Received(self.me, self.accepted)))
        self._out.append(t.Sign(self.accepted))

    def _resend(self, to: MemberId | None) -> None:
        """R8: the own current messages again, in the order they were made; ask the next holder for blocks."""
        if to is None:
            self._answers.refill()
        if self.decided is not None:
            return
        said: list[t.Message] = list(self._at.current(self.round))
        if not said and self.round > 0:
            # Refused by the guard, so nobody hears of me: ask whether this height is decided.
            said = [t.FetchBlock(self.committee.epoch, self.height, ZERO_DIGEST)]
        self._out += (t.Send(to, message) for message in said)
        for wanted, holder in self._at.next_holders() if to is None else ():
            self._out.append(t.Send(holder, t.FetchBlock(self.committee.epoch, self.height, wanted)))

    def _sign_round_change(self) -> None:
        proof = self.prepared.proof if self.prepared else ()
        self._out.append(t.Sign(to_round_change(self._seat(), proof, self.context())))

    def _is_open(self, event: t.Elapsed | t.Validated | t.Built) -> bool:
        return self.started is not None and self.decided is None and event.height == self.height

    def _proposer(self) -> MemberId:
        return self.committee.proposer(self.height, self.round)

    def _seat(self) -> tuple[int, int, int]:
        return self.committee.epoch, self.height, self.round

    def _fetch(self, wanted: Digest, votes: Iterable[t.SignedVote]) -> None:
        holder = self._at.want(wanted, votes, me=self.me)
        if holder is not None:
            self._out.append(t.Send(holder, t.FetchBlock(self.committee.epoch, self.height, wanted)))
