"""What the members say to one another, and what the core is told and answers.

Knows the shapes only. How they are signed is in `signing`, how they become bytes in `p2pfl.codec`,
who may say what in `replica` and `justification`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NewType, TypeAlias

MemberId = NewType("MemberId", bytes)  # 20 bytes: the EVM address of the signing key.
Digest = NewType("Digest", bytes)  # 32 bytes.

ZERO_DIGEST = Digest(bytes(32))
ZERO_MEMBER = MemberId(bytes(20))


# ---------------------------------------------------------------------------
# Signed structs. TYPE is the EIP-712 type string; the fields are its members in order.
# Every field is one static 32-byte word, so that a contract can check any pair of them.


@dataclass(frozen=True, slots=True)
class Propose:
    """The proposer's word that this block is its proposal of this round."""

    TYPE: ClassVar[str] = "Propose(uint64 epoch,uint64 height,uint32 round,bytes32 blockId)"
    epoch: int
    height: int
    round: int
    block_id: Digest


@dataclass(frozen=True, slots=True)
class Prepare:
    """A member holds this block, found it valid, and votes for it in this round."""

    TYPE: ClassVar[str] = "Prepare(uint64 epoch,uint64 height,uint32 round,bytes32 blockId)"
    epoch: int
    height: int
    round: int
    block_id: Digest


@dataclass(frozen=True, slots=True)
class Commit:
    """A member saw a quorum of PREPAREs for this block in this round."""

    TYPE: ClassVar[str] = "Commit(uint64 epoch,uint64 height,uint32 round,bytes32 blockId)"
    epoch: int
    height: int
    round: int
    block_id: Digest


@dataclass(frozen=True, slots=True)
class RoundChange:
    """A member asks for `round`, and says which block it had prepared before, if any.

    `prepared_round_plus_1` is 0 when nothing was prepared; then `prepared_block_id` is zero.
    `context` is what the application carries across rounds; offences do not look at it.
    """

    TYPE: ClassVar[str] = (
        "RoundChange(uint64 epoch,uint64 height,uint32 round,uint32 preparedRoundPlus1,"
        "bytes32 preparedBlockId,bytes32 context)"
    )
    epoch: int
    height: int
    round: int
    prepared_round_plus_1: int
    prepared_block_id: Digest
    context: Digest


Vote: TypeAlias = Propose | Prepare | Commit | RoundChange


@dataclass(frozen=True, slots=True)
class SignedPropose:
    """A Propose and its 65-byte recoverable signature (r, s, v; low s; v 27 or 28)."""

    vote: Propose
    signature: bytes


@dataclass(frozen=True, slots=True)
class SignedPrepare:
    """A Prepare and its 65-byte recoverable signature."""

    vote: Prepare
    signature: bytes


@dataclass(frozen=True, slots=True)
class SignedCommit:
    """A Commit and its 65-byte recoverable signature."""

    vote: Commit
    signature: bytes


@dataclass(frozen=True, slots=True)
class SignedRoundChange:
    """A RoundChange and its 65-byte recoverable signature."""

    vote: RoundChange
    signature: bytes


SignedVote: TypeAlias = SignedPropose | SignedPrepare | SignedCommit | SignedRoundChange


# ---------------------------------------------------------------------------
# Blocks.


@dataclass(frozen=True, slots=True)
class Header:
    """What is voted on: `block_id = keccak256(abi.encode(header))`, no round and no seals inside.

    `app_root` commits to the body (its Merkle tree belongs to the application), `log_root` is the
    RFC 9162 root over the ids of all earlier blocks of this chain, `next_committee_root` is the root
    of the committee of the next height (it differs from this one's at an epoch's end only).
    """

    TYPE: ClassVar[str] = (
        "Header(uint32 version,bytes32 networkId,bytes32 groupId,uint64 epoch,uint64 height,bytes32 parentId,"
        "address proposer,uint64 timeMs,bytes32 appRoot,bytes32 logRoot,bytes32 nextCommitteeRoot)"
    )
    version: int
    network_id: Digest
    group_id: Digest
    epoch: int
    height: int
    parent_id: Digest
    proposer: MemberId
    time_ms: int
    app_root: Digest
    log_root: Digest
    next_committee_root: Digest


@dataclass(frozen=True, slots=True)
class Block:
    """A header and the application's body, opaque bytes here."""

    header: Header
    body: bytes


@dataclass(frozen=True, slots=True)
class Certificate:
    """A quorum's COMMITs of one round: the signatures, in ascending order of their signers."""

    round: int
    signatures: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class DecidedBlock:
    """A block and the certificate that decided it."""

    block: Block
    certificate: Certificate


# ---------------------------------------------------------------------------
# Messages between members (consensus only; the application has its own).


@dataclass(frozen=True, slots=True)
class Proposal:
    """PROPOSE with the block, and the reason why it may be proposed in a round above 0 (R6).

    justification: q ROUND-CHANGEs for exactly this round. prepared: the PREPAREs of the highest
    prepared round among them (empty for a fresh block).
    """

    propose: SignedPropose
    block: Block
    justification: tuple[SignedRoundChange, ...] = ()
    prepared: tuple[SignedPrepare, ...] = ()


@dataclass(frozen=True, slots=True)
class PrepareMessage:
    """PREPARE."""

    prepare: SignedPrepare


@dataclass(frozen=True, slots=True)
class CommitMessage:
    """COMMIT, with the application's vote extension (signed by itself, opaque here)."""

    commit: SignedCommit
    extension: bytes = b""


@dataclass(frozen=True, slots=True)
class RoundChangeMessage:
    """ROUND-CHANGE with the PREPAREs that prove its prepared claim (empty if it claims none)."""

    round_change: SignedRoundChange
    prepared: tuple[SignedPrepare, ...] = ()


@dataclass(frozen=True, slots=True)
class DecidedMessage:
    """The answer to somebody who is behind (R7), and to a FetchBlock of a decided block."""

    decided: DecidedBlock


@dataclass(frozen=True, slots=True)
class FetchBlock:
    """Asks for the block with this id (known from votes only) at this height."""

    epoch: int
    height: int
    block_id: Digest


@dataclass(frozen=True, slots=True)
class BlockMessage:
    """The answer to FetchBlock: a block that is not decided yet. Its id vouches for it."""

    block: Block


Message: TypeAlias = (
    Proposal
    | PrepareMessage
    | CommitMessage
    | RoundChangeMessage
    | DecidedMessage
    | FetchBlock
    | BlockMessage
)


# ---------------------------------------------------------------------------
# Events: what the core is told.


@dataclass(frozen=True, slots=True)
class Started:
    """Begin the height after `parent` (None: the chain's first). closed: see `chain.objection`."""

    parent: Header | None
    parent_id: Digest
    log_root: Digest
    closed: bool = False


@dataclass(frozen=True, slots=True)
class Received:
    """A decoded message came from `sender` (an authenticated peer; our own id for our own votes)."""

    sender: MemberId
    message: Message


@dataclass(frozen=True, slots=True)
class Elapsed:
    """The timer of this round ran out, or the application found that its step overran its part."""

    height: int
    round: int


@dataclass(frozen=True, slots=True)
class Resend:
    """It is time to send the own current messages again (R8); to one peer after a reconnect."""

    to: MemberId | None = None


@dataclass(frozen=True, slots=True)
class Built:
    """The application's answer to Build: a fresh block for this round."""

    height: int
    round: int
    block: Block


@dataclass(frozen=True, slots=True)
class Validated:
    """The application's answer to Validate."""

    height: int
    round: int
    block_id: Digest
    valid: bool


Event: TypeAlias = Started | Received | Elapsed | Resend | Built | Validated


# ---------------------------------------------------------------------------
# Effects: what the core answers. The order of the list is a promise: Persist before what depends on it.


@dataclass(frozen=True, slots=True)
class Persist:
    """Make this event durable (WAL) before any later Sign, Send or Decide is carried out.

    The entry is an input of the core: `Replica.restore` with the entries of a height, in their order,
    brings it back. Entries with nothing after them may wait for the next effect's fsync.
    """

    event: Event


@dataclass(frozen=True, slots=True)
class Sign:
    """Sign the vote of this message with the guarded signer, fill the signature in, send the message to every
    other member and hand it to the core as Received(sender=me).

    `votes.with_signature` fills it in, and a COMMIT's extension, which the application is asked for. If the
    guard refuses, nothing is sent or handed back: the core goes on without this vote.
    """

    message: Proposal | PrepareMessage | CommitMessage | RoundChangeMessage


@dataclass(frozen=True, slots=True)
class Send:
    """Send this (already signed) message to one member, or to all others (None)."""

    to: MemberId | None
    message: Message


@dataclass(frozen=True, slots=True)
class EnteredRound:
    """A round began: restart the timer for it. The application knows how long each part may take.

    justification: the q ROUND-CHANGEs for this round where they are known (else empty).
    """

    height: int
    round: int
    proposer: MemberId
    justification: tuple[SignedRoundChange, ...] = ()


@dataclass(frozen=True, slots=True)
class Build:
    """I am the proposer of this round and nothing is prepared: make a fresh block (answer: Built)."""

    height: int
    round: int
    parent: Header | None
    parent_id: Digest
    log_root: Digest
    justification: tuple[SignedRoundChange, ...] = ()


@dataclass(frozen=True, slots=True)
class Validate:
    """Is this block valid for the application (answer: Validated)? Clock and local views count if fresh."""

    height: int
    round: int
    block: Block
    fresh: bool


@dataclass(frozen=True, slots=True)
class Decide:
    """This block is final. `extensions` are those that came with the counted COMMITs."""

    decided: DecidedBlock
    extensions: tuple[tuple[MemberId, bytes], ...] = ()


@dataclass(frozen=True, slots=True)
class Behind:
    """Somebody speaks of a height above the next one: start a sync with this peer."""

    peer: MemberId
    height: int


@dataclass(frozen=True, slots=True)
class Fault:
    """A peer broke the protocol (named reason); `pair`: two signed votes that prove an offence E1..E5."""

    peer: MemberId
    reason: str
    pair: tuple[SignedVote, SignedVote] | None = None


Effect: TypeAlias = Persist | Sign | Send | EnteredRound | Build | Validate | Decide | Behind | Fault
