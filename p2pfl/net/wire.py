"""The table of messages: one line gives a message's type, tag, size limit and rate.

A packed message is its tag (one byte) and its canonical CBOR. How packed messages are framed on a stream is
in `stream`, who may say what when is in `rounds/`. Knows no socket.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

import consensus.types as ct
from consensus.types import DecidedBlock, Digest
from p2pfl import codec
from p2pfl.contradiction import Contradiction
from p2pfl.errors import PeerFault
from p2pfl.membership import SignedLeave
from p2pfl.net.peer_records import PeerRecords
from p2pfl.net.pieces import (  # noqa: F401 - who speaks of a message says wire.GetPiece, wherever it is.
    HELD_BYTES_MAX,
    PROOF_DIGESTS_MAX,
    GetHeld,
    GetPiece,
    Held,
    Piece,
    PieceHead,
)
from p2pfl.net.pieces import a_digest as _digest
from p2pfl.net.pieces import a_length as _length
from p2pfl.params import EXPONENT_MAX, EXPONENT_MIN
from p2pfl.records import BODY_BYTES_MAX
from p2pfl.signed import (
    SignedBallot,
    SignedClose,
    SignedMeasurement,
    SignedParamTx,
    SignedShareRequest,
    Verdict,
)

VERSION = 1

# ---------------------------------------------------------------------------
# One-way messages: acknowledged, sent again after a reconnect, delivered once.


@dataclass(frozen=True, slots=True)
class ConsensusMessage:
    """A message of the consensus of one group (or of the council)."""

    group_id: Digest
    message: ct.Message

    def __post_init__(self) -> None:
        _digest(self.group_id)


@dataclass(frozen=True, slots=True)
class ShareRequestMessage:
    """Ci opens the round."""

    group_id: Digest
    request: SignedShareRequest

    def __post_init__(self) -> None:
        _digest(self.group_id)


@dataclass(frozen=True, slots=True)
class ParamTxMessage:
    """A member commits to its update."""

    group_id: Digest
    tx: SignedParamTx

    def __post_init__(self) -> None:
        _digest(self.group_id)


@dataclass(frozen=True, slots=True)
class CloseMessage:
    """Ci ends the collection; with the commitments that it lists."""

    group_id: Digest
    close: SignedClose
    txs: tuple[SignedParamTx, ...]

    def __post_init__(self) -> None:
        _digest(self.group_id)


@dataclass(frozen=True, slots=True)
class BallotMessage:
    """A member says whether its held-out data are served by the last block's aggregate."""

    group_id: Digest
    ballot: SignedBallot

    def __post_init__(self) -> None:
        _digest(self.group_id)


@dataclass(frozen=True, slots=True)
class Have:
    """The sender holds this blob and serves it to the receiver."""

    blob_id: Digest

    def __post_init__(self) -> None:
        _digest(self.blob_id)


@dataclass(frozen=True, slots=True)
class Tip:
    """The newest decided block of a group's chain; also what gossip announces."""

    group_id: Digest
    height: int
    block_id: Digest

    def __post_init__(self) -> None:
        _digest(self.group_id)
        _digest(self.block_id)
        _height(self.height)


# A model has tens of tensors, the largest some hundreds.
TENSORS_MAX = 4096


@dataclass(frozen=True, slots=True)
class BaseDelta:
    """A seat holds this update, which makes the base `base_id` of the base before it: half as many bytes.

    A hint: whoever adds it and gets another base fetches the whole one.
    """

    base_id: Digest
    delta_id: Digest
    exponents: tuple[int, ...]

    def __post_init__(self) -> None:
        _digest(self.base_id)
        _digest(self.delta_id)
        if not 1 <= len(self.exponents) <= TENSORS_MAX:
            raise ValueError("one exponent a tensor")
        if not all(EXPONENT_MIN <= exponent <= EXPONENT_MAX for exponent in self.exponents):
            raise ValueError("an exponent is out of range")


@dataclass(frozen=True, slots=True)
class OpenRequest:
    """The council asks the accused of this case to open its round."""

    case_id: Digest

    def __post_init__(self) -> None:
        _digest(self.case_id)


@dataclass(frozen=True, slots=True)
class OpeningOffer:
    """The opening of a case lies ready as a blob: of the accused itself, or of a seat that relays it."""

    case_id: Digest
    blob_id: Digest
    length: int

    def __post_init__(self) -> None:
        _digest(self.case_id)
        _digest(self.blob_id)
        _length(self.length)


@dataclass(frozen=True, slots=True)
class MeasurementMessage:
    """What a seat measured when it replayed an opened round."""

    measurement: SignedMeasurement


@dataclass(frozen=True, slots=True)
class VerdictShare:
    """A seat's signature under a verdict."""

    verdict: Verdict
    signature: bytes


@dataclass(frozen=True, slots=True)
class NoticeMessage:
    """To the council: a member gives notice, or is proved to have broken a rule."""

    notice: SignedLeave | Contradiction


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Says that the sender is alive, and carries its acknowledgement. Never reaches the handlers.

    again: what came after the acknowledged messages was not taken (a full inbox); send it once more.
    """

    again: bool = False


Message: TypeAlias = (
    ConsensusMessage
    | ShareRequestMessage
    | ParamTxMessage
    | CloseMessage
    | BallotMessage
    | Have
    | Tip
    | OpenRequest
    | OpeningOffer
    | MeasurementMessage
    | VerdictShare
    | NoticeMessage
    | PeerRecords
    | BaseDelta
    | Heartbeat
)


# ---------------------------------------------------------------------------
# Requests and their answers.


@dataclass(frozen=True, slots=True)
class GetStatus:
    """Asks for the tip of the chain of this group."""

    group_id: Digest

    def __post_init__(self) -> None:
        _digest(self.group_id)


@dataclass(frozen=True, slots=True)
class Status:
    """The tip of a chain; height -1 and a zero id when it has no block yet."""

    group_id: Digest
    height: int
    block_id: Digest

    def __post_init__(self) -> None:
        _digest(self.group_id)
        _digest(self.block_id)
        if self.height < -1:
            raise ValueError("a height is -1 or more")


# More blocks than this never fit one answer; the answer holds as many as fit (`fitting`).
BLOCKS_COUNT_MAX = 256


@dataclass(frozen=True, slots=True)
class GetBlocks:
    """The decided blocks from height `start` on, at most `count`, as many as fit one answer."""

    group_id: Digest
    start: int
    count: int

    def __post_init__(self) -> None:
        _digest(self.group_id)
        _height(self.start)
        if not 1 <= self.count <= BLOCKS_COUNT_MAX:
            raise ValueError(f"1 to {BLOCKS_COUNT_MAX} blocks")


@dataclass(frozen=True, slots=True)
class Blocks:
    """Consecutive decided blocks; none when the chain ends before `start`."""

    blocks: tuple[DecidedBlock, ...]

    def __post_init__(self) -> None:
        if len(self.blocks) > BLOCKS_COUNT_MAX:
            raise ValueError(f"at most {BLOCKS_COUNT_MAX} blocks")


@dataclass(frozen=True, slots=True)
class Refused:
    """No answer, and why: a name such as "not_held" or "busy"."""

    reason: str

    def __post_init__(self) -> None:
        if len(self.reason) > 64 or not self.reason.isprintable():
            raise ValueError("a reason is a short name")


Request: TypeAlias = GetStatus | GetBlocks
Response: TypeAlias = Status | Blocks


# ---------------------------------------------------------------------------
# The table.


@dataclass(frozen=True, slots=True)
class Row:
    """One message. size_max: bytes of its CBOR. rate_per_s, burst: what one peer may send (0: an answer)."""

    tag: int
    kind: type
    size_max: int
    rate_per_s: float
    burst: int


KIB = 1024
# A proposal is a block with q ROUND-CHANGEs and q PREPAREs of about 250 bytes: 64 KiB hold hundreds.
_BLOCK_BYTES_MAX = BODY_BYTES_MAX + 64 * KIB

# A burst covers what an honest peer has in its outbox (`stream.OUTBOX_MESSAGES_MAX`) after an outage.
TABLE: tuple[Row, ...] = (
    # Votes: a decision needs three disk writes. Heartbeats: ten a second, and one for every 64 messages.
    Row(1, ConsensusMessage, size_max=_BLOCK_BYTES_MAX, rate_per_s=1000, burst=8192),
    Row(2, ShareRequestMessage, size_max=32 * KIB, rate_per_s=20, burst=512),
    Row(3, ParamTxMessage, size_max=2 * KIB, rate_per_s=100, burst=2048),
    Row(4, CloseMessage, size_max=64 * KIB, rate_per_s=50, burst=1024),
    Row(5, Have, size_max=64, rate_per_s=200, burst=2048),
    Row(6, Tip, size_max=128, rate_per_s=500, burst=4096),
    Row(7, OpenRequest, size_max=64, rate_per_s=10, burst=256),
    Row(8, OpeningOffer, size_max=128, rate_per_s=10, burst=256),
    Row(9, MeasurementMessage, size_max=KIB, rate_per_s=20, burst=512),
    Row(10, VerdictShare, size_max=KIB, rate_per_s=20, burst=512),
    Row(11, Heartbeat, size_max=16, rate_per_s=50, burst=1024),
    Row(12, NoticeMessage, size_max=2 * KIB, rate_per_s=4, burst=32),
    # All that is known, once a connection, and one for every move of anybody.
    Row(13, PeerRecords, size_max=17 * KIB, rate_per_s=2, burst=64),
    Row(14, BaseDelta, size_max=16 * KIB, rate_per_s=20, burst=256),
    # One a height, and once more in each of its rounds.
    Row(15, BallotMessage, size_max=512, rate_per_s=20, burst=512),
    Row(32, GetStatus, size_max=64, rate_per_s=20, burst=128),
    Row(33, GetBlocks, size_max=64, rate_per_s=20, burst=128),
    Row(34, GetPiece, size_max=64, rate_per_s=4000, burst=8192),
    # Ten times a second of each of sixteen blobs, as long as somebody fetches them too.
    Row(35, GetHeld, size_max=64, rate_per_s=400, burst=2048),
    Row(48, Status, size_max=128, rate_per_s=0, burst=0),
    Row(49, Blocks, size_max=_BLOCK_BYTES_MAX, rate_per_s=0, burst=0),
    Row(50, PieceHead, size_max=KIB, rate_per_s=0, burst=0),
    Row(51, Refused, size_max=128, rate_per_s=0, burst=0),
    Row(52, Held, size_max=HELD_BYTES_MAX + 16, rate_per_s=0, burst=0),
)
BY_TAG = {row.tag: row for row in TABLE}
BY_KIND = {row.kind: row for row in TABLE}
assert len(BY_TAG) == len(BY_KIND) == len(TABLE)
# The largest packed message: what a reader of frames must be ready to hold.
PACKED_BYTES_MAX = 1 + max(row.size_max for row in TABLE)


def pack(message: object) -> bytes:
    """Tag and canonical bytes. Raises ValueError for what is too large to be sent: our own bug."""
    row = BY_KIND[type(message)]
    data = codec.encode(message)
    if len(data) > row.size_max:
        raise ValueError(f"{row.kind.__name__} of {len(data)} bytes, the limit is {row.size_max}")
    return bytes((row.tag,)) + data


def unpack(data: bytes | bytearray | memoryview) -> object:
    """The message in these bytes. Raises PeerFault ("unknown_message", "bad_message")."""
    if not data or (row := BY_TAG.get(data[0])) is None:
        raise PeerFault("unknown_message", f"tag {data[0]}" if data else "empty")
    if len(data) - 1 > row.size_max:
        raise PeerFault(
            "bad_message", f"{len(data) - 1} bytes, {row.kind.__name__} has {row.size_max} at most"
        )
    try:
        return codec.decode(bytes(memoryview(data)[1:]), row.kind, size_max=row.size_max)
    except codec.DecodeError as error:
        raise PeerFault("bad_message", f"{row.kind.__name__}: {error}") from error


def fitting(blocks: Iterable[DecidedBlock]) -> Blocks:
    """As many of these blocks, from the first on, as one answer may hold."""
    room = BY_KIND[Blocks].size_max - 16
    chosen: list[DecidedBlock] = []
    for block in blocks:
        room -= len(codec.encode(block))
        if room < 0 or len(chosen) == BLOCKS_COUNT_MAX:
            break
        chosen.append(block)
    return Blocks(tuple(chosen))


def _height(value: int) -> None:
    if not 0 <= value < 1 << 63:
        raise ValueError("a height is 0 or more")
