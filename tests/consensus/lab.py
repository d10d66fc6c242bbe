"""One replica on the bench, everybody's keys in the drawer, real signatures.

`lab.prepare(by=2, block=b)` hands the replica a signed message of member 2 and returns all that it did,
its own votes signed and handed back. Members are named by their place in the committee.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from coincurve import PrivateKey

from consensus import chain, signing
from consensus import types as t
from consensus.committee import Committee
from consensus.replica import Replica
from consensus.votes import signed_vote, with_signature

V = TypeVar("V")

KEYS = sorted(
    (PrivateKey(bytes([i + 1]) * 32) for i in range(17)), key=lambda key: signing.address(key.public_key)
)
IDS = tuple(signing.address(key.public_key) for key in KEYS)
STRANGER = 16
DOMAIN = signing.Domain(31337, t.MemberId(b"\x11" * 20), t.Digest(b"G" * 32))
NETWORK = t.Digest(b"N" * 32)


def committee_of(n: int, epoch: int = 0) -> Committee:
    """The first n members, in the order of their ids."""
    return Committee(epoch, IDS[:n])


def sign(by: int, vote: Any, domain: signing.Domain = DOMAIN) -> bytes:
    """Member `by`'s signature."""
    return signing.sign(KEYS[by], signing.signing_digest(domain, vote))


def signed(by: int, vote: t.Vote) -> Any:
    """Member `by`'s signed vote."""
    wrap = {
        t.Propose: t.SignedPropose,
        t.Prepare: t.SignedPrepare,
        t.Commit: t.SignedCommit,
        t.RoundChange: t.SignedRoundChange,
    }[type(vote)]
    return wrap(vote, sign(by, vote))


def certificate(decided_by: Iterable[int], header: t.Header, round_: int = 0) -> t.Certificate:
    """COMMITs of these members, in the order of their ids."""
    vote = t.Commit(header.epoch, header.height, round_, signing.block_id(header))
    return t.Certificate(round_, tuple(sign(by, vote) for by in sorted(decided_by)))


class Lab:
    """Member `me` of n, at the chain's first height unless started elsewhere."""

    def __init__(self, n: int = 4, me: int = 3, *, start: bool = True, **options: Any) -> None:
        self.n, self.me = n, me
        self.committee = committee_of(n)
        self.store: list[t.DecidedBlock] = []
        self.log = chain.Log()
        self.options = options
        self.replica = self.fresh()
        self.valid = True  # The application's answer; None: it takes its time.
        self.refused: tuple[type, ...] = ()  # Votes that the guard refuses.
        self.wal: list[t.Event] = []
        self.signed: list[tuple[int, t.Vote]] = []  # How many entries the WAL had, and what was signed then.
        self.nonce = 0
        if start:
            self.step(self.started())

    def fresh(self) -> Replica:
        """A replica that knows nothing."""
        return Replica(
            self.committee,
            IDS[self.me],
            DOMAIN,
            decided_at=lambda height: self.store[height] if 0 <= height < len(self.store) else None,
            **self.options,
        )

    def started(self) -> t.Started:
        """After the tip of the store."""
        tip = self.store[-1].block.header if self.store else None
        return t.Started(tip, signing.block_id(tip) if tip else chain.FIRST_PARENT_ID, self.log.root())

    def next_height(self) -> list[t.Effect]:
        """Begin the height after the tip."""
        self.wal = []
        return self.step(self.started())

    # What others, or the clock, tell the replica.

    def step(self, event: t.Event) -> list[t.Effect]:
        """Everything that follows from an event, in order."""
        return self.carry_out(self.replica.step(event))

    def carry_out(self, effects: list[t.Effect]) -> list[t.Effect]:
        """What a driver does, without a network."""
        done = list(effects)
        for effect in effects:
            match effect:
                case t.Persist(event=event):
                    self.wal.append(event)
                case t.Sign(message=message):
                    vote = signed_vote(message)
                    assert vote is not None and vote.signature == b""
                    if type(vote.vote) not in self.refused:
                        self.signed.append((len(self.wal), vote.vote))
                        done += self.receive(
                            self.me, with_signature(message, sign(self.me, vote.vote), b"mine")
                        )
                case t.Validate(height, round_, block) if self.valid is not None:
                    done += self.judge(block, self.valid, round_=round_)
                case t.Build(height, round_):
                    done += self.step(t.Built(height, round_, self.block(by=self.me)))
                case t.Decide(decided=decided):
                    self.store.append(decided)
                    self.log.append(signing.block_id(decided.block.header))
        return done

    def receive(self, by: int, message: t.Message) -> list[t.Effect]:
        """A message of member `by`."""
        return self.step(t.Received(IDS[by], message))

    def judge(self, block: t.Block, valid: bool, round_: int | None = None) -> list[t.Effect]:
        """The application's answer."""
        round_ = self.replica.round if round_ is None else round_
        known = signing.block_id(block.header)
        return self.step(t.Validated(self.replica.height, round_, known, valid))

    def elapse(self, round_: int | None = None) -> list[t.Effect]:
        """The timer of a round (the current one) runs out."""
        return self.step(t.Elapsed(self.replica.height, self.replica.round if round_ is None else round_))

    def proposal(self, block: t.Block, round_: int = 0, by: int | None = None, **why: Any) -> t.Proposal:
        """A signed proposal by the right proposer, or by another."""
        by = self.proposer(round_) if by is None else by
        vote = t.Propose(0, block.header.height, round_, signing.block_id(block.header))
        return t.Proposal(signed(by, vote), block, **why)

    def propose(self, block: t.Block, round_: int = 0, by: int | None = None, **why: Any) -> list[t.Effect]:
        """Hand in that proposal."""
        sender = self.proposer(round_) if by is None else by
        return self.receive(sender, self.proposal(block, round_, by, **why))

    def prepare(self, by: int, block: t.Block, round_: int = 0) -> list[t.Effect]:
        """A PREPARE."""
        return self.receive(by, t.PrepareMessage(self.prepares([by], block, round_)[0]))

    def commit(self, by: int, block: t.Block, round_: int = 0, extension: bytes = b"") -> list[t.Effect]:
        """A COMMIT."""
        vote = t.Commit(0, block.header.height, round_, signing.block_id(block.header))
        return self.receive(by, t.CommitMessage(signed(by, vote), extension))

    def change(
        self, by: int, round_: int, block: t.Block | None = None, prepared: int = 0
    ) -> t.SignedRoundChange:
        """A ROUND-CHANGE that claims `block` prepared in round `prepared`, if one is given."""
        claim = (prepared + 1, signing.block_id(block.header)) if block else (0, t.ZERO_DIGEST)
        return signed(by, t.RoundChange(0, self.replica.height, round_, *claim, t.ZERO_DIGEST))

    def round_change(
        self, by: int, round_: int, block: t.Block | None = None, prepared: int = 0, proof: Any = None
    ) -> list[t.Effect]:
        """Hand in that ROUND-CHANGE, with a proof of its claim unless another is given."""
        if proof is None:
            proof = () if block is None else self.prepares(self.quorum(), block, prepared)
        return self.receive(by, t.RoundChangeMessage(self.change(by, round_, block, prepared), tuple(proof)))

    # What there is to speak of.

    def proposer(self, round_: int) -> int:
        """Whose turn it is at this height."""
        return IDS.index(self.committee.proposer(self.replica.height, round_))

    def quorum(self) -> range:
        """The first q members."""
        return range(self.committee.quorum)

    def block(self, by: int | None = None, body: bytes = b"body", **fields: Any) -> t.Block:
        """A block of this height, different each time."""
        started = self.started()
        self.nonce += 1
        header = t.Header(
            version=chain.HEADER_VERSION,
            network_id=NETWORK,
            group_id=DOMAIN.group_id,
            epoch=0,
            height=self.replica.height,
            parent_id=started.parent_id,
            proposer=IDS[self.proposer(self.replica.round) if by is None else by],
            time_ms=1000 + 1000 * self.replica.height,
            app_root=t.Digest(self.nonce.to_bytes(32, "big")),
            log_root=started.log_root,
            next_committee_root=self.committee.root(),
        )
        return t.Block(replace(header, **fields), body)

    def prepares(self, by: Iterable[int], block: t.Block, round_: int = 0) -> tuple[t.SignedPrepare, ...]:
        """These members' PREPAREs."""
        vote = t.Prepare(0, block.header.height, round_, signing.block_id(block.header))
        return tuple(signed(member, vote) for member in by)

    def decide(self, block: t.Block | None = None) -> t.DecidedBlock:
        """Let the others decide this height, and tell the replica."""
        block = block or self.block()
        decided = t.DecidedBlock(block, certificate(self.quorum(), block.header))
        self.receive(0 if self.me else 1, t.DecidedMessage(decided))
        return decided


def votes(effects: Sequence[t.Effect], kind: type[V]) -> list[V]:
    """The votes of a kind that were to be signed."""
    signs = [signed_vote(effect.message) for effect in effects if isinstance(effect, t.Sign)]
    return [each.vote for each in signs if each is not None and isinstance(each.vote, kind)]


def only(effects: Sequence[t.Effect], kind: type[V]) -> list[V]:
    """The effects of a kind."""
    return [effect for effect in effects if isinstance(effect, kind)]


def reasons(effects: Sequence[t.Effect]) -> list[str]:
    """Why peers were blamed."""
    return [fault.reason for fault in only(effects, t.Fault)]
