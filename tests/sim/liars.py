"""Byzantine members: an honest member whose words are changed on the way out, one function for each kind.

Twins (two honest copies with one key) are made by the world itself. A liar signs with its own pen only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from consensus.signing import block_id
from consensus.types import (
    ZERO_DIGEST,
    Block,
    Commit,
    CommitMessage,
    Digest,
    MemberId,
    Message,
    Prepare,
    PrepareMessage,
    Proposal,
    Propose,
    RoundChange,
    RoundChangeMessage,
    SignedCommit,
    SignedPrepare,
    SignedPropose,
    SignedRoundChange,
)
from consensus.votes import signed_vote, with_signature
from tests.sim.member import APP_ROOT, BAD_BODY, Liar, Member

Said = list[tuple[MemberId | None, Message]]
LIARS: dict[str, Liar] = {}
# Further than any clock is from another, and than a world lasts.
FAR_AHEAD_MS = 1_000_000


def liar(tell: Callable[[Member, Message], Said]) -> Callable[[Member, Message], Said]:
    """Put a kind of liar into the table under its function's name."""
    LIARS[tell.__name__] = tell
    return tell


@liar
def silent(member: Member, message: Message) -> Said:
    """Says nothing at all."""
    return []


@liar
def selective(member: Member, message: Message) -> Said:
    """Says the truth to some, nothing to others; drawn anew for each message."""
    rng = member.world.rng
    return [(peer, message) for peer in _others(member) if rng.random() < 0.5]


@liar
def leader(member: Member, message: Message) -> Said:
    """Honest but for its proposals: two blocks, a bad body, committee or time, a justification cut short."""
    if not isinstance(message, Proposal):
        return [(None, message)]
    rng = member.world.rng
    trick = rng.randrange(7)
    if trick == 0:
        other = _propose(member, message, _other_block(member, message.block, b"good"))
        return [(peer, rng.choice((message, other))) for peer in _others(member)]
    if trick == 1:
        return [
            (None, _propose(member, message, _bad(member, _other_block(member, message.block, BAD_BODY))))
        ]
    if trick == 2:
        return [(None, replace(message, justification=message.justification[:-1]))]
    if trick == 3:  # A fresh block where a prepared one is due.
        fresh = _propose(member, message, _other_block(member, message.block, b"good"))
        return [(None, replace(fresh, prepared=()))]
    if trick == 4:
        return [(None, replace(message, prepared=message.prepared[:-1]))]
    other = _other_block(member, message.block, b"good")
    wrong: dict[str, Any] = (
        {"next_committee_root": APP_ROOT} if trick == 5 else {"time_ms": other.header.time_ms + FAR_AHEAD_MS}
    )
    bad = _bad(member, replace(other, header=replace(other.header, **wrong)))
    return [(None, _propose(member, replace(message, prepared=()), bad))]


@liar
def usurper(member: Member, message: Message) -> Said:
    """Helps a block to be prepared, never to be decided; then proposes another, with a reason made up."""
    if isinstance(message, CommitMessage):
        return []
    if not isinstance(message, Proposal) or message.propose.vote.round == 0:
        return [(None, message)]
    other = _propose(member, message, _other_block(member, message.block, b"good"))
    lie = _claim(member, other)
    rest = [change for change in message.justification if member.world.notary.author(change) != member.id]
    tricks = (
        {"prepared": ()},  # A fresh block, whatever was prepared.
        {"justification": tuple(c for c in rest if not c.vote.prepared_round_plus_1), "prepared": ()},
        {"justification": (lie.round_change, *rest), "prepared": _quorum_of_one(member, other)},
    )
    return [(None, replace(other, **member.world.rng.choice(tricks)))]


def _claim(member: Member, proposal: Proposal) -> RoundChangeMessage:
    """A ROUND-CHANGE that claims this block to be prepared in the round before."""
    vote = proposal.propose.vote
    claim = RoundChange(vote.epoch, vote.height, vote.round, vote.round, vote.block_id, ZERO_DIGEST)
    return _sign(member, RoundChangeMessage(SignedRoundChange(claim, b"")))


def _quorum_of_one(member: Member, proposal: Proposal) -> tuple[SignedPrepare, ...]:
    """Enough PREPAREs, all by the same member."""
    vote = proposal.propose.vote
    prepare = _sign(
        member,
        PrepareMessage(SignedPrepare(Prepare(vote.epoch, vote.height, vote.round - 1, vote.block_id), b"")),
    )
    return (prepare.prepare,) * member.committee.quorum


@liar
def mutator(member: Member, message: Message) -> Said:
    """Changes a field of every second vote and signs it again; different for each receiver."""
    rng = member.world.rng
    return [(peer, _mutated(member, message) if rng.random() < 0.5 else message) for peer in _others(member)]


@liar
def forgetful(member: Member, message: Message) -> Said:
    """Denies in every ROUND-CHANGE what it has prepared."""
    if not isinstance(message, RoundChangeMessage):
        return [(None, message)]
    vote = replace(message.round_change.vote, prepared_round_plus_1=0, prepared_block_id=ZERO_DIGEST)
    return [(None, _sign(member, replace(message, round_change=replace(message.round_change, vote=vote))))]


@liar
def parrot(member: Member, message: Message) -> Said:
    """Votes for every block it ever heard of at this height, in every round it heard of, with everybody."""
    said: Said = [(None, message)]
    seen: dict[tuple[int, int], dict[Digest, None]] = member.__dict__.setdefault("seen", {})
    signed = signed_vote(message)
    if signed is None:
        return said
    height, round_ = signed.vote.height, signed.vote.round
    for (height_, round_seen), blocks in list(seen.items()):
        if height_ < height:
            del seen[height_, round_seen]
        for block in blocks if height_ == height else ():
            for each in (round_, round_seen):
                said += _both_votes(member, height, each, block)
    block = getattr(signed.vote, "block_id", None)
    if block is not None:
        seen.setdefault((height, round_), {})[block] = None
    if isinstance(message, Proposal):
        other = _propose(member, message, _other_block(member, message.block, b"good"))
        seen[height, round_][other.propose.vote.block_id] = None
        some = member.world.rng.choice(_others(member))
        said = [(peer, other if peer == some else message) for peer in _others(member)]
    return said


def _both_votes(member: Member, height: int, round_: int, block: Digest) -> Said:
    seat = member.world.epochs.at(height).epoch, height, round_
    prepare = PrepareMessage(SignedPrepare(Prepare(*seat, block), b""))
    commit = CommitMessage(SignedCommit(Commit(*seat, block), b""))
    some = member.world.rng.choice(_others(member))
    return [(some, _sign(member, prepare)), (some, _sign(member, commit))]


def _others(member: Member) -> list[MemberId]:
    return [peer for peer in member.committee.members if peer != member.id]


def _sign(member: Member, message: Any) -> Any:
    signed = signed_vote(message)
    assert signed is not None
    return with_signature(message, member.world.notary.sign(member.id, signed.vote), b"ballot")


def _other_block(member: Member, block: Block, body: bytes) -> Block:
    member.nonce += 1
    root = Digest(bytes([255, member.nonce % 256]) + block.header.app_root[2:])
    return Block(replace(block.header, app_root=root, proposer=member.id), body)


def _bad(member: Member, block: Block) -> Block:
    member.world.oracles.bad_blocks.add(block_id(block.header))
    return block


def _propose(member: Member, proposal: Proposal, block: Block) -> Proposal:
    vote = replace(proposal.propose.vote, block_id=block_id(block.header))
    assert isinstance(vote, Propose)
    return _sign(member, replace(proposal, propose=SignedPropose(vote, b""), block=block))


def _mutated(member: Member, message: Message) -> Message:
    signed = signed_vote(message)
    if signed is None:
        return message
    rng = member.world.rng
    vote: Any = signed.vote
    changes: list[dict[str, Any]] = [
        {"round": vote.round + 1},
        {"round": max(0, vote.round - 1)},
        {"round": (1 << 32) - 1},
        {"height": vote.height + 1},
        {"height": vote.height + 1000},
        {"epoch": vote.epoch + 1},
    ]
    if hasattr(vote, "block_id"):
        changes += [{"block_id": Digest(rng.randbytes(32))}] * 3
    else:
        changes += [
            {"prepared_round_plus_1": 0, "prepared_block_id": ZERO_DIGEST},
            {"prepared_round_plus_1": vote.round},
            {"prepared_block_id": Digest(rng.randbytes(32))},
        ]
    new = replace(vote, **rng.choice(changes))
    match message:
        case Proposal():
            changed: Any = replace(message, propose=replace(message.propose, vote=new))
        case PrepareMessage():
            changed = PrepareMessage(replace(message.prepare, vote=new))
        case CommitMessage():
            changed = replace(message, commit=replace(message.commit, vote=new))
        case RoundChangeMessage():
            changed = replace(message, round_change=replace(message.round_change, vote=new))
        case _:
            return message
    # Now and then it keeps the old signature, which is nobody's then.
    return changed if rng.random() < 0.2 else _sign(member, changed)
