"""What one member has heard of the height that is being decided.

Keeps votes, blocks and proofs, each within a limit, and notices who contradicts himself. What follows from
them is in `replica`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, TypeAlias, TypeVar, cast

from consensus import chain, justification
from consensus import types as t
from consensus.committee import Committee
from consensus.evidence import OffenceKind, contradiction, in_order
from consensus.signing import block_id
from consensus.types import Digest, MemberId, SignedCommit, SignedPrepare, SignedRoundChange, SignedVote
from consensus.votes import BadCertificate, Recover, certificate_of, check_certificate, signed_vote, votes_in

S = TypeVar("S", bound=SignedVote)
Fits: TypeAlias = Callable[[t.Block], bool]  # Whether a body is the one under its header's app root.
B = TypeVar("B", SignedPrepare, SignedCommit)

# Rounds kept for one signer and kind of vote, the highest. Only a liar has more in use: his flood pushes out
# his own votes. As many proofs are kept: there is at most one a round.
ROUNDS_MAX = 8
# Blocks held at once. Each round may bring one; the prepared one is never dropped, and what turns out to be
# decided after all is fetched again.
BLOCKS_MAX = 8


class Prepared(NamedTuple):
    """A round in which q members sent PREPARE for one block, and the proof of it."""

    round: int
    block_id: Digest
    proof: tuple[SignedPrepare, ...]


class Height:
    """Votes are the first of each signer, kind and round; their signatures were checked before."""

    def __init__(
        self, started: t.Started | None, committee: Committee, group_id: Digest, recover: Recover, fits: Fits
    ) -> None:
        parent = None if started is None else started.parent
        before = chain.FIRST_HEIGHT - (started is None)
        self.number = before if parent is None else parent.height + 1
        self._started, self._committee, self._group_id = started, committee, group_id
        self._recover, self._quorum, self._fits = recover, committee.quorum, fits
        self._votes: dict[tuple[type, int], dict[MemberId, SignedVote]] = {}
        self._rounds: dict[tuple[type, MemberId], list[int]] = {}
        self._said: dict[MemberId, dict[tuple[type, int], SignedVote]] = {}  # The same votes, by signer.
        self._accused: set[tuple[MemberId, OffenceKind]] = set()
        self._wanted: dict[Digest, list[MemberId]] = {}  # Who holds a block that is to be fetched.
        self._proofs: dict[tuple[int, Digest], Prepared] = {}
        self.asked: dict[MemberId, int] = {}  # The highest round that each member asked for.
        self.certified: tuple[Digest, t.Certificate] | None = None  # q COMMITs: final, held or not.
        self._extensions: dict[MemberId, tuple[Digest, bytes]] = {}  # With a COMMIT for which block.
        self._own: dict[type, t.Message] = {}  # The last own message of each kind, signed.
        self.blocks: dict[Digest, t.Block] = {}
        self.valid: set[Digest] = set()  # Held, and the application agreed.

    def add(self, signer: MemberId, signed: SignedVote) -> bool:
        """Keep a vote, unless its slot is taken or the signer's higher rounds fill his share."""
        kind, round_ = type(signed), signed.vote.round
        slot = self._votes.setdefault((kind, round_), {})
        if signer in slot:
            return False
        rounds = self._rounds.setdefault((kind, signer), [])
        slot[signer] = self._said.setdefault(signer, {})[kind, round_] = signed
        rounds.append(round_)
        if isinstance(signed, SignedRoundChange):
            self.asked[signer] = max(self.asked.get(signer, 0), round_)
        elif isinstance(signed, SignedCommit) and self.certified is None:
            commits = self.supporters(SignedCommit, round_, signed.vote.block_id)
            if len(commits) >= self._quorum:
                self.certified = signed.vote.block_id, certificate_of(round_, commits, self._quorum)
        if len(rounds) <= ROUNDS_MAX:
            return True
        lowest = min(rounds)
        rounds.remove(lowest)
        del self._votes[kind, lowest][signer], self._said[signer][kind, lowest]
        if not self._votes[kind, lowest]:
            del self._votes[kind, lowest]
        return lowest != round_

    def of(self, kind: type[S], round_: int) -> dict[MemberId, S]:
        """The votes of one kind and round, by signer."""
        return cast("dict[MemberId, S]", self._votes.get((kind, round_), {}))

    def by(self, signer: MemberId) -> Iterator[SignedVote]:
        """All votes of one signer."""
        return iter(self._said.get(signer, {}).values())

    def believable(self, round_: int) -> list[tuple[MemberId, SignedRoundChange]]:
        """Who asked for exactly this round, with no claim or a proved one."""
        asked = self.of(SignedRoundChange, round_).items()
        return [pair for pair in asked if not pair[1].vote.prepared_round_plus_1 or self.proof_of(pair[1])]

    def supporters(self, kind: type[B], round_: int, block: Digest) -> dict[MemberId, B]:
        """Who voted for this block in exactly this round."""
        votes = self.of(kind, round_).items()
        return {member: signed for member, signed in votes if signed.vote.block_id == block}

    def speak(self, message: t.Message) -> None:
        """Keep an own signed message, to be sent again."""
        self._own[type(message)] = message

    def current(self, round_: int) -> Iterator[t.Message]:
        """The own messages that still matter, in the order they were made.

        An old COMMIT can still complete a certificate, an old ROUND-CHANGE lift who is behind.
        """
        for kind in (t.RoundChangeMessage, t.Proposal, t.PrepareMessage, t.CommitMessage):
            message = self._own.get(kind)
            signed = None if message is None else signed_vote(message)
            if message is not None and signed is not None:
                if signed.vote.round == round_ or kind in (t.RoundChangeMessage, t.CommitMessage):
                    yield message

    def extend(self, member: MemberId, message: t.CommitMessage) -> None:
        """Keep what came with a counted COMMIT."""
        self._extensions[member] = (message.commit.vote.block_id, message.extension)

    def extensions(self, block: Digest) -> tuple[tuple[MemberId, bytes], ...]:
        """What came with the COMMITs for this block, by member."""
        said = sorted(self._extensions.items())
        return tuple((member, words) for member, (about, words) in said if about == block)

    def offence(self, signer: MemberId, signed: SignedVote) -> Iterator[t.Fault]:
        """What this vote contradicts among the signer's others: once a signer and kind. E5: COMMIT first."""
        said = self._said.get(signer, {})
        known = said.get((type(signed), signed.vote.round))
        for other in () if known is signed or known == signed else said.values():
            kind = contradiction(other.vote, signed.vote)
            if kind is not None and (signer, kind) not in self._accused:
                self._accused.add((signer, kind))
                yield t.Fault(signer, "equivocation", in_order(kind, other, signed))

    def learn(self, proposal: t.Proposal) -> Iterator[t.Fault]:
        """Votes inside a justification are votes: they count, and may contradict what their signer said."""
        for signed in (*proposal.justification, *proposal.prepared):
            signer = self._recover(signed.vote, signed.signature)
            assert signer is not None  # The proposal was checked.
            yield from self.offence(signer, signed)
            self.add(signer, signed)
        if proposal.prepared:
            vote = proposal.prepared[0].vote
            self.believe(Prepared(vote.round, vote.block_id, proposal.prepared))

    def believe(self, prepared: Prepared) -> None:
        """Keep a proof that has been checked."""
        self._proofs[prepared[:2]] = prepared
        if len(self._proofs) > ROUNDS_MAX:
            del self._proofs[min(self._proofs)]

    def proof_of(self, signed: SignedRoundChange) -> Prepared | None:
        """The proof of what a ROUND-CHANGE claims, if it is known."""
        return self._proofs.get((signed.vote.prepared_round_plus_1 - 1, signed.vote.prepared_block_id))

    def block_objection(self, block: t.Block) -> str | None:
        """Why this block cannot follow the parent of this height; None if it can.

        An id and a certificate vouch for the header only: the body has to be the one under its app root.
        """
        assert self._started is not None
        if not self._fits(block):
            return "a body that is not the header's"
        return chain.objection(
            block.header,
            parent=self._started.parent,
            parent_id=self._started.parent_id,
            log_root=self._started.log_root,
            committee=self._committee,
            group_id=self._group_id,
            closed=self._started.closed,
        )

    def proposal_objection(self, proposal: t.Proposal) -> str | None:
        """Why this proposal may not be made (R6); None if it may."""
        reason = justification.objection(self._recover, self._committee, proposal)
        return self.block_objection(proposal.block) if reason is None else reason

    def change_objection(self, message: t.RoundChangeMessage) -> str | None:
        """Why a ROUND-CHANGE cannot be, or does not prove what it claims; None if it does."""
        claim = message.round_change.vote
        if not justification.well_formed(claim):
            return "a round change that cannot be"
        if claim.prepared_round_plus_1 == 0 or self.proof_of(message.round_change) is not None:
            return None
        prepared = Prepared(claim.prepared_round_plus_1 - 1, claim.prepared_block_id, message.prepared)
        if not justification.proves_prepared(self._recover, self._committee, self.number, *prepared):
            return "a prepared claim without proof"
        self.believe(prepared)
        return None

    def decided_objection(self, decided: t.DecidedBlock) -> str | None:
        """Why this block with its certificate does not end this height; None if it does."""
        try:
            check_certificate(self._recover, self._committee, decided.block.header, decided.certificate)
        except BadCertificate as error:
            return str(error)
        return self.block_objection(decided.block)

    def learn_decided(self, decided: t.DecidedBlock) -> Iterator[t.Fault]:
        """The COMMITs of a checked certificate may contradict what their signers said."""
        for signed in votes_in(t.DecidedMessage(decided)):
            signer = self._recover(signed.vote, signed.signature)
            assert signer is not None
            yield from self.offence(signer, signed)
            self.add(signer, signed)

    def late(self, sender: MemberId, message: t.Message) -> Iterator[t.Fault]:
        """What comes after the decision changes nothing, but may show who signed a contradiction."""
        signed = signed_vote(message)
        if isinstance(message, t.DecidedMessage) and self.decided_objection(message.decided) is None:
            yield from self.learn_decided(message.decided)
        elif signed is not None and self._recover(signed.vote, signed.signature) == sender:
            yield from self.offence(sender, signed)
            self.add(sender, signed)

    def hold(self, block: t.Block, *, keep: Prepared | None) -> Digest:
        """Keep a block; drop the oldest beyond the limit, but not the one to `keep`. Returns its id."""
        known = block_id(block.header)
        self.blocks[known] = block
        self._wanted.pop(known, None)
        for oldest in list(self.blocks)[: max(0, len(self.blocks) - BLOCKS_MAX)]:
            if oldest != known and (keep is None or oldest != keep.block_id):
                del self.blocks[oldest]
                self.valid.discard(oldest)
        return known

    def want(self, wanted: Digest, votes: Iterable[SignedVote], *, me: MemberId) -> MemberId | None:
        """A block is needed that these voters hold: whom to ask first, if it was not asked for before."""
        signers = (self._recover(signed.vote, signed.signature) for signed in votes)
        holders = [member for member in signers if member is not None and member != me]
        if wanted in self._wanted or not holders:
            return None
        self._wanted[wanted] = holders
        return holders[0]

    def wants(self, block: t.Block) -> bool:
        """Whether it was asked for. Its id vouches for it."""
        return block_id(block.header) in self._wanted

    def next_holders(self) -> list[tuple[Digest, MemberId]]:
        """Whom to ask now for each block that did not come."""
        for holders in self._wanted.values():
            holders.append(holders.pop(0))
        return [(wanted, holders[0]) for wanted, holders in self._wanted.items()]
