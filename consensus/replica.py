"""One member's part in deciding one height after another: QBFT as a table, `step(event) -> effects`.

Knows the rules R1 to R9 (docs/consensus.md) and what was voted at this height. It never signs, waits, logs,
or looks at a clock or a disk: it asks for each by an effect. What a block means, the application knows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from consensus import chain, justification
from consensus.committee import Committee
from consensus.evidence import OffenceKind, contradiction
from consensus.signing import Domain, block_id
from consensus.types import (
    ZERO_DIGEST,
    Behind,
    Block,
    BlockMessage,
    Build,
    Built,
    Certificate,
    Commit,
    CommitMessage,
    Decide,
    DecidedBlock,
    DecidedMessage,
    Digest,
    Effect,
    Elapsed,
    EnteredRound,
    Event,
    Fault,
    FetchBlock,
    MemberId,
    Message,
    Persist,
    Prepare,
    PrepareMessage,
    Proposal,
    Propose,
    Received,
    Resend,
    RoundChange,
    RoundChangeMessage,
    Send,
    Sign,
    SignedCommit,
    SignedPrepare,
    SignedPropose,
    SignedRoundChange,
    SignedVote,
    Started,
    Validate,
    Validated,
)
from consensus.votes import (
    ROUNDS_MAX,
    BadCertificate,
    Book,
    Recover,
    certificate_of,
    check_certificate,
    recoverer,
    seat,
    signed_vote,
    within_bounds,
)

ROUND_MAX = (1 << 32) - 1  # A round is a uint32 where it is signed.
BODY_BYTES_MAX = 8 * 1024 * 1024  # Blobs travel beside blocks: a body of 16 members is far below this.
# Blocks of the open height held at once. Each new round may bring one; the prepared one is never dropped,
# and what turns out to be decided after all is fetched again.
BLOCKS_MAX = 8
# R7: how often one peer is answered about one height, and how far back height by height. Who asks about
# older ones is sent the tip, which tells him to sync.
ANSWERS_MAX = 4
ANSWERED_HEIGHTS = 8


class Prepared(NamedTuple):
    """The highest round in which this member saw q PREPAREs, and for which block."""

    round: int
    block_id: Digest
    proof: tuple[SignedPrepare, ...]


class Replica:
    """The state of one member. Give it `Started`, then events; carry out the effects in their order.

    decided_at: finds a decided block of an earlier height (R7), from the driver's store, so a `Decide` must
    be stored before the next step. recover: finds a vote's signer. context: what the application carries
    across rounds, asked whenever a ROUND-CHANGE is made.
    """

    def __init__(
        self,
        committee: Committee,
        me: MemberId,
        domain: Domain,
        *,
        decided_at: Callable[[int], DecidedBlock | None],
        recover: Recover | None = None,
        context: Callable[[], Digest] = lambda: ZERO_DIGEST,
        body_bytes_max: int = BODY_BYTES_MAX,
    ) -> None:
        if me not in committee:
            raise ValueError("only a member of the committee takes part")
        self.committee, self.me, self.domain = committee, me, domain
        self.context = context
        self._decided_at = decided_at
        self._recover = recover or recoverer(domain)
        self._body_bytes_max = body_bytes_max
        self.started: Started | None = None
        self.height = chain.FIRST_HEIGHT - 1
        self._next: dict[tuple[MemberId, type], Received] = {}  # One message a sender and kind of height + 1.
        self._heard: set[tuple[int, MemberId, type]] = set()
        self._answered: dict[tuple[int, MemberId], int] = {}
        self._out: list[Effect] = []
        self._rules = (self._r3_decide, self._r5_jump, self._r6_propose, self._r1_prepare, self._r2_commit)
        self._reset()

    def _reset(self) -> None:
        """Forget the height."""
        self.round = 0
        self.prepared: Prepared | None = None
        self.decided: Decide | None = None
        self._certified: tuple[Digest, Certificate] | None = (
            None  # q COMMITs of one round: final, held or not.
        )
        self._book = Book()
        self._asked_rounds: dict[MemberId, int] = {}  # The highest round each member asked for.
        self._proofs: dict[tuple[int, Digest], tuple[SignedPrepare, ...]] = {}
        self._blocks: dict[Digest, Block] = {}
        self._valid: set[Digest] = set()
        self._wanted: dict[Digest, list[MemberId]] = {}
        self._own: dict[type, Message] = {}
        self._extensions: dict[MemberId, tuple[Digest, bytes]] = {}
        self._accused: set[tuple[MemberId, OffenceKind]] = set()
        self._clear_round()

    def _clear_round(self) -> None:
        self.accepted: Proposal | None = None
        self._voted = False  # A PREPARE of this round was asked for.
        self._building: tuple[SignedRoundChange, ...] | None = None  # Why a fresh block is being built (R6).
        self._asked: Digest | None = None  # The prepared block that is being validated before R6.

    # -----------------------------------------------------------------------
    # The table.

    def step(self, event: Event) -> list[Effect]:
        """Take one event, return what to do, in this order."""
        self._out = []
        self._take(event)
        self._follow_rules()
        return self._out

    def _take(self, event: Event) -> None:
        match event:
            case Received():
                self._receive(event)
            case Elapsed(height=height, round=round_) if self._is_open(height):
                if self.round <= round_ < ROUND_MAX:  # R4; a higher one is a jump read back from the WAL.
                    self._change_round(round_ + 1)
            case Validated(height=height, round=round_) if self._is_open(height) and round_ == self.round:
                self._judge(event)
            case Built(height=height, round=round_) if self._is_open(height) and round_ == self.round:
                self._built(event.block)
            case Resend(to=to):  # R8
                self._resend(to)
            case Started():
                self._begin(event)
            case _:
                pass  # Late: that height or round is over.

    def _follow_rules(self) -> None:
        """Fire what is enabled until nothing is. A rule that fires has changed what enabled it."""
        while self.started is not None and self.decided is None:
            if not any(rule() for rule in self._rules):
                break

    def _r1_prepare(self) -> bool:
        """The accepted proposal is valid, still in its round: make it durable, PREPARE. Once a round."""
        accepted = self.accepted
        if self._voted or accepted is None or not accepted.propose.signature:
            return False
        block = accepted.propose.vote.block_id
        if block not in self._valid:
            return False
        proposer = self.committee.proposer(self.height, self.round)
        if proposer != self.me:  # The own one was made durable before it was signed.
            self._persist(Received(proposer, accepted))
        self._persist(Validated(self.height, self.round, block, True))
        self._voted = True
        self._out.append(Sign(self._prepare(block)))
        return True

    def _r2_commit(self) -> bool:
        """q PREPAREs for the accepted, valid block in the current round: that is prepared; COMMIT. Once."""
        if self.accepted is None or (self.prepared is not None and self.prepared.round == self.round):
            return False
        block = self.accepted.propose.vote.block_id
        if block not in self._valid:
            return False
        votes = self._book.supporters(SignedPrepare, self.round, block)
        if len(votes) < self.committee.quorum:
            return False
        signers = sorted(votes)[: self.committee.quorum]
        self.prepared = Prepared(self.round, block, tuple(votes[signer] for signer in signers))
        self._keep_proof((self.round, block), self.prepared.proof)
        for signer in signers:
            if signer != self.me:  # The own vote was made durable when it came back signed.
                self._persist(Received(signer, PrepareMessage(votes[signer])))
        self._out.append(Sign(self._commit(block)))
        return True

    def _r3_decide(self) -> bool:
        """q COMMITs of one round, any round, for a block that is held: it is final."""
        if self._certified is None:
            return False
        wanted, certificate = self._certified
        block = self._blocks.get(wanted)
        if block is None:
            vote = Commit(self.committee.epoch, self.height, certificate.round, wanted)
            self._fetch(wanted, [self._recover(vote, signature) for signature in certificate.signatures])
            return False
        self._decide(DecidedBlock(block, certificate))
        return True

    def _r5_jump(self) -> bool:
        """f+1 signers ask for rounds above mine: one of them is honest; jump to the (f+1)-th highest."""
        asked = sorted(self._asked_rounds.values(), reverse=True)
        target = asked[self.committee.faulty_max] if len(asked) > self.committee.faulty_max else 0
        if target <= self.round:
            return False
        self._change_round(target)
        return True

    def _r6_propose(self) -> bool:
        """My turn, and q ROUND-CHANGEs for exactly this round (none for round 0): propose the safe value."""
        if self.accepted is not None or self._building is not None:
            return False
        if self.committee.proposer(self.height, self.round) != self.me:
            return False
        if self.round == 0:
            return self._build(())
        asked = self._book.of(SignedRoundChange, self.round).items()
        believed = [(member, signed) for member, signed in asked if self._proved(signed.vote)]
        if len(believed) < self.committee.quorum:
            return False
        changes = justification.choose(believed, self.committee.quorum)
        claim = justification.highest_claim(changes)
        if claim is None:
            return self._build(changes)
        wanted = claim.prepared_block_id
        proof = self._proofs[claim.prepared_round_plus_1 - 1, wanted]
        block = self._blocks.get(wanted)
        if block is None:
            self._fetch(wanted, [self._recover(signed.vote, signed.signature) for signed in proof])
        elif wanted in self._valid:
            self._propose(block, changes, proof)
            return True
        elif self._asked != wanted:
            self._asked = wanted
            self._out.append(Validate(self.height, self.round, block, fresh=False))
        return False

    # -----------------------------------------------------------------------
    # Heights and rounds.

    def _begin(self, started: Started) -> None:
        self.started = started
        self.height = chain.FIRST_HEIGHT if started.parent is None else started.parent.height + 1
        self._reset()
        self._heard = {key for key in self._heard if key[0] >= self.height - ANSWERED_HEIGHTS}
        oldest = self.height - ANSWERED_HEIGHTS
        self._answered = {key: count for key, count in self._answered.items() if key[0] >= oldest}
        self._enter(0)
        early, self._next = self._next, {}
        self._follow_rules()
        for event in early.values():
            self._receive(event)
            self._follow_rules()

    def restore(self, started: Started, events: Iterable[Event]) -> list[Effect]:
        """R9: begin a height again from the events that were persisted in it, in their order.

        What the events lead to was done before, or is asked for again at the end. Contradicts nothing that
        was signed before, whatever was signed after the last event that reached the disk.
        """
        self.step(started)
        for event in events:
            self.step(event)
        self._out = []
        if self.decided is not None:
            return [self.decided]
        self._out.append(EnteredRound(self.height, self.round, self._proposer()))
        self._resend(None)
        accepted, prepared = self.accepted, self.prepared
        prepared_here = prepared is not None and prepared.round == self.round
        if accepted is None and self.round > 0 and not self._signed(SignedRoundChange):
            self._out.append(Sign(self._round_change()))
        if accepted is not None and not accepted.propose.signature:
            self._out.append(Sign(accepted))
        elif accepted is not None and not self._voted:
            fresh = not accepted.prepared
            self._out.append(Validate(self.height, self.round, accepted.block, fresh))
        if accepted is not None and self._voted and not self._signed(SignedPrepare):
            self._out.append(Sign(self._prepare(accepted.propose.vote.block_id)))
        if prepared is not None and prepared_here and not self._signed(SignedCommit):
            self._out.append(Sign(self._commit(prepared.block_id)))
        self._building = self._asked = None
        self._follow_rules()
        return self._out

    def _enter(self, round_: int, changes: tuple[SignedRoundChange, ...] = ()) -> None:
        self.round = round_
        self._clear_round()
        self._out.append(EnteredRound(self.height, round_, self._proposer(), changes))

    def _change_round(self, round_: int) -> None:
        """R4 and R5: go there, durably, and say what is prepared."""
        self._persist(Elapsed(self.height, round_ - 1))
        self._enter(round_)
        self._out.append(Sign(self._round_change()))

    def _decide(self, decided: DecidedBlock) -> None:
        wanted = block_id(decided.block.header)
        said = self._extensions.items()
        extensions = tuple(sorted((member, words) for member, (block, words) in said if block == wanted))
        self.decided = Decide(decided, extensions)
        self._out.append(self.decided)

    # -----------------------------------------------------------------------
    # Messages.

    def _receive(self, event: Received) -> None:
        sender, message = event.sender, event.message
        epoch, height = seat(message)
        if self.started is None or sender not in self.committee:
            return
        if not within_bounds(message, self.committee, self._body_bytes_max):
            self._out.append(Fault(sender, "too large"))
        elif height < self.height or (height == self.height and self.decided is not None):
            self._answer(sender, message, height)
        elif height > self.height + 1:
            self._out.append(Behind(sender, height))
        elif height == self.height + 1:
            key = (sender, type(message))
            if self._next.get(key, event) != event:  # Its slot is taken: the sender is well ahead.
                self._out.append(Behind(sender, height))
            self._next[key] = event
        elif epoch != self.committee.epoch:
            self._out.append(Fault(sender, "another epoch"))
        else:
            self._read(event)

    def _read(self, event: Received) -> None:
        """A message of the open height and this epoch."""
        sender, message = event.sender, event.message
        signed = signed_vote(message)
        if signed is not None and not (isinstance(message, Proposal) and self._is_intent(event)):
            if self._recover(signed.vote, signed.signature) != sender:
                self._out.append(Fault(sender, "not signed by its sender"))
                return
            self._look_for_offence(sender, signed)
            self._heard.add((self.height, sender, type(message)))
        match message:
            case Proposal():
                self._read_proposal(event, message)
            case PrepareMessage(prepare=prepare):
                if self._book.add(sender, prepare):
                    self._keep_own(event)
            case CommitMessage(commit=commit, extension=extension):
                if self._book.add(sender, commit):
                    self._extensions[sender] = (commit.vote.block_id, extension)
                    self._keep_own(event)
                    self._count_commits(commit)
            case RoundChangeMessage(round_change=change, prepared=prepared):
                self._read_round_change(event, change, prepared)
            case DecidedMessage(decided=decided):
                self._read_decided(sender, decided)
            case FetchBlock(block_id=wanted):
                block = self._blocks.get(wanted)
                if block is not None and self._may_answer(self.height, sender):
                    self._out.append(Send(sender, BlockMessage(block)))
            case BlockMessage(block=block):
                if block_id(block.header) in self._wanted and self._follows_parent(sender, block):
                    self._hold(block)

    def _read_proposal(self, event: Received, proposal: Proposal) -> None:
        """R1: the right proposer, justified, not below my round, and the first of its round."""
        sender, vote = event.sender, proposal.propose.vote
        if self.committee.proposer(self.height, vote.round) != sender:
            self._out.append(Fault(sender, "not its turn"))
            return
        if proposal.propose.signature:
            self._book.add(sender, proposal.propose)
        if vote.round < self.round:
            return
        if vote.round == self.round and self.accepted is not None:
            # The own proposal, made durable before it was signed, comes back.
            if not self.accepted.propose.signature and self.accepted.propose.vote == vote:
                self.accepted = self._own[Proposal] = proposal
            return
        reason = justification.objection(self._recover, self.committee, proposal)
        if reason is not None:
            self._out.append(Fault(sender, reason))
            return
        if not self._follows_parent(sender, proposal.block):
            return
        self._learn(proposal)
        if vote.round > self.round:
            self._enter(vote.round, proposal.justification)
        self.accepted = proposal
        self._hold(proposal.block)
        if sender == self.me:
            self._valid.add(vote.block_id)
            self._own[Proposal] = proposal
        elif vote.block_id not in self._valid:
            self._out.append(Validate(self.height, self.round, proposal.block, fresh=not proposal.prepared))

    def _read_round_change(
        self, event: Received, change: SignedRoundChange, prepared: tuple[SignedPrepare, ...]
    ) -> None:
        vote = change.vote
        if not justification.well_formed(vote):
            self._out.append(Fault(event.sender, "a round change that cannot be"))
            return
        if not self._proved(vote):
            seat_ = (self.height, vote.prepared_round_plus_1 - 1, vote.prepared_block_id)
            if not justification.proves_prepared(self._recover, self.committee, *seat_, prepared):
                self._out.append(Fault(event.sender, "a prepared claim without proof"))
                return
            self._keep_proof(seat_[1:], prepared)
        if self._book.add(event.sender, change):
            self._asked_rounds[event.sender] = max(self._asked_rounds.get(event.sender, 0), vote.round)
            self._keep_own(event)

    def _read_decided(self, sender: MemberId, decided: DecidedBlock) -> None:
        header, certificate = decided.block.header, decided.certificate
        if not self._follows_parent(sender, decided.block):
            return
        try:
            signers = check_certificate(self._recover, self.committee, header, certificate)
        except BadCertificate as error:
            self._out.append(Fault(sender, str(error)))
            return
        vote = Commit(header.epoch, header.height, certificate.round, block_id(header))
        for signer, signature in zip(signers, certificate.signatures, strict=True):
            self._look_for_offence(signer, SignedCommit(vote, signature))
        self._decide(decided)

    def _answer(self, sender: MemberId, message: Message, height: int) -> None:
        """R7: a member that still works on an older height is sent what was decided there."""
        if sender == self.me or isinstance(message, DecidedMessage | BlockMessage):
            return
        if height < self.height - ANSWERED_HEIGHTS:
            height = self.height - 1
        elif isinstance(message, Proposal | PrepareMessage | CommitMessage):
            # The last votes of a height arrive after its decision: only one that is sent again asks for help.
            key = (height, sender, type(message))
            if key not in self._heard:
                self._heard.add(key)
                return
        if self._may_answer(height, sender):
            decided = self._decided_at(height)
            if decided is not None:
                self._out.append(Send(sender, DecidedMessage(decided)))

    def _may_answer(self, height: int, peer: MemberId) -> bool:
        count = self._answered.get((height, peer), 0)
        self._answered[height, peer] = min(count + 1, ANSWERS_MAX)
        return count < ANSWERS_MAX

    # -----------------------------------------------------------------------
    # The application's answers, and what is said.

    def _judge(self, event: Validated) -> None:
        if event.valid and event.block_id in self._blocks:
            self._valid.add(event.block_id)
        elif self.accepted is not None and self.accepted.propose.vote.block_id == event.block_id:
            self._out.append(Fault(self._proposer(), "invalid block"))

    def _build(self, changes: tuple[SignedRoundChange, ...]) -> bool:
        assert self.started is not None
        self._building = changes
        started = self.started
        ask = Build(self.height, self.round, started.parent, started.parent_id, started.log_root, changes)
        self._out.append(ask)
        return True

    def _built(self, block: Block) -> None:
        if self._building is None or self.accepted is not None:
            return
        reason = self._objection(block)
        if reason is not None or block.header.proposer != self.me:
            raise ValueError(f"the application built a block that cannot be proposed: {reason}")
        self._propose(block, self._building, ())

    def _propose(
        self, block: Block, changes: tuple[SignedRoundChange, ...], proof: tuple[SignedPrepare, ...]
    ) -> None:
        """Take the own proposal as accepted, still unsigned, durably: there is never a second one."""
        vote = Propose(self.committee.epoch, self.height, self.round, block_id(block.header))
        self.accepted = Proposal(SignedPropose(vote, b""), block, changes, proof)
        self._hold(block)
        self._valid.add(vote.block_id)
        self._persist(Received(self.me, self.accepted))
        self._out.append(Sign(self.accepted))

    def _is_intent(self, event: Received) -> bool:
        """Whether this is the own unsigned proposal, read back from the WAL. Nobody else has my id."""
        message = event.message
        return event.sender == self.me and isinstance(message, Proposal) and not message.propose.signature

    def _resend(self, to: MemberId | None) -> None:
        """R8: the own current votes again, in the order they were made; ask the next holder for blocks."""
        if self.started is None or self.decided is not None:
            return
        for kind in (RoundChangeMessage, Proposal, PrepareMessage, CommitMessage):
            message = self._own.get(kind)
            signed = None if message is None else signed_vote(message)
            if message is None or signed is None:
                continue
            # An old COMMIT can still complete a certificate, and an old ROUND-CHANGE lift who is behind.
            current = signed.vote.round == self.round and bool(signed.signature)
            if current or kind in (RoundChangeMessage, CommitMessage):
                self._out.append(Send(to, message))
        for wanted, holders in self._wanted.items() if to is None else ():
            holders.append(holders.pop(0))
            self._out.append(Send(holders[0], FetchBlock(self.committee.epoch, self.height, wanted)))

    def _prepare(self, block: Digest) -> PrepareMessage:
        vote = Prepare(self.committee.epoch, self.height, self.round, block)
        return PrepareMessage(SignedPrepare(vote, b""))

    def _commit(self, block: Digest) -> CommitMessage:
        return CommitMessage(SignedCommit(Commit(self.committee.epoch, self.height, self.round, block), b""))

    def _round_change(self) -> RoundChangeMessage:
        claim = self.prepared or Prepared(-1, ZERO_DIGEST, ())
        seat_ = (self.committee.epoch, self.height, self.round)
        vote = RoundChange(*seat_, claim.round + 1, claim.block_id, self.context())
        return RoundChangeMessage(SignedRoundChange(vote, b""), claim.proof)

    # -----------------------------------------------------------------------
    # Small questions and changes.

    def _is_open(self, height: int) -> bool:
        return self.started is not None and self.decided is None and height == self.height

    def _proposer(self) -> MemberId:
        return self.committee.proposer(self.height, self.round)

    def _signed(self, kind: type[SignedVote]) -> bool:
        """Whether the own vote of this kind and round came back signed."""
        return self._book.get(kind, self.round, self.me) is not None

    def _persist(self, event: Event) -> None:
        self._out.append(Persist(event))

    def _keep_own(self, event: Received) -> None:
        if event.sender == self.me:
            self._own[type(event.message)] = event.message
            self._persist(event)

    def _hold(self, block: Block) -> None:
        known = block_id(block.header)
        self._blocks[known] = block
        self._wanted.pop(known, None)
        kept = {known, self.prepared.block_id if self.prepared else known}
        for oldest in list(self._blocks):
            if len(self._blocks) > BLOCKS_MAX and oldest not in kept:
                del self._blocks[oldest]
                self._valid.discard(oldest)

    def _fetch(self, wanted: Digest, holders: list[MemberId | None]) -> None:
        others = [member for member in holders if member is not None and member != self.me]
        if wanted not in self._wanted and others:
            self._wanted[wanted] = others
            self._out.append(Send(others[0], FetchBlock(self.committee.epoch, self.height, wanted)))

    def _proved(self, change: RoundChange) -> bool:
        claim = (change.prepared_round_plus_1 - 1, change.prepared_block_id)
        return change.prepared_round_plus_1 == 0 or claim in self._proofs

    def _keep_proof(self, claim: tuple[int, Digest], prepared: tuple[SignedPrepare, ...]) -> None:
        self._proofs[claim] = prepared
        if len(self._proofs) > ROUNDS_MAX:
            del self._proofs[min(self._proofs)]

    def _count_commits(self, commit: SignedCommit) -> None:
        round_, block = commit.vote.round, commit.vote.block_id
        commits = self._book.supporters(SignedCommit, round_, block)
        if self._certified is None and len(commits) >= self.committee.quorum:
            self._certified = (block, certificate_of(round_, commits, self.committee.quorum))

    def _learn(self, proposal: Proposal) -> None:
        """Votes inside a justification are votes: they count, and may contradict what their signer said."""
        for signed in (*proposal.justification, *proposal.prepared):
            signer = self._recover(signed.vote, signed.signature)
            if signer is not None:
                self._look_for_offence(signer, signed)
                self._book.add(signer, signed)
                if isinstance(signed, SignedRoundChange):
                    asked = self._asked_rounds.get(signer, 0)
                    self._asked_rounds[signer] = max(asked, signed.vote.round)
        if proposal.prepared:
            vote = proposal.prepared[0].vote
            self._keep_proof((vote.round, vote.block_id), proposal.prepared)

    def _look_for_offence(self, signer: MemberId, signed: SignedVote) -> None:
        for other in self._book.by(signer):
            kind = contradiction(other.vote, signed.vote)
            if kind is not None and (signer, kind) not in self._accused:
                self._accused.add((signer, kind))
                self._out.append(Fault(signer, "equivocation", (other, signed)))

    def _objection(self, block: Block) -> str | None:
        assert self.started is not None
        return chain.objection(
            block.header,
            parent=self.started.parent,
            parent_id=self.started.parent_id,
            log_root=self.started.log_root,
            committee=self.committee,
            group_id=self.domain.group_id,
        )

    def _follows_parent(self, sender: MemberId, block: Block) -> bool:
        reason = self._objection(block)
        if reason is not None:
            self._out.append(Fault(sender, reason))
        return reason is None
