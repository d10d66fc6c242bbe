"""What a member signs besides its votes: requests, commitments, closes, measurements, verdicts.

EIP-712 structs in the domain of the group (of the council for measurements and verdicts), and each with its
signature. Shapes only. All numbers are integers, losses and ratios in millionths (`_micro`, `_ppm`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from consensus.types import Digest, MemberId, SignedRoundChange


@dataclass(frozen=True, slots=True)
class ShareRequest:
    """Ci opens the round: train from this base. Two of one round are an offence (E6)."""

    TYPE: ClassVar[str] = (
        "ShareRequest(uint64 epoch,uint64 height,uint32 round,bytes32 baseId,bytes32 councilBlockId)"
    )
    epoch: int
    height: int
    round: int
    base_id: Digest
    council_block_id: Digest


@dataclass(frozen=True, slots=True)
class ParamTx:
    """A member commits to its update of this height before anybody's is shown. Two of one height are E6."""

    TYPE: ClassVar[str] = (
        "ParamTx(uint64 epoch,uint64 height,address member,bytes32 baseId,bytes32 blobId,uint64 byteLength,"
        "uint64 samples,uint64 saturated,bytes32 dataRoot,uint64 dataLeaves,bytes32 traceRoot,"
        "int64 lossBeforeMicro,int64 lossAfterMicro)"
    )
    epoch: int
    height: int
    member: MemberId
    base_id: Digest
    blob_id: Digest
    byte_length: int
    samples: int
    saturated: int
    data_root: Digest
    data_leaves: int
    trace_root: Digest
    loss_before_micro: int
    loss_after_micro: int


@dataclass(frozen=True, slots=True)
class Close:
    """Ci ends the collection. list_root = keccak256 of the concatenated struct hashes of the ParamTxs."""

    TYPE: ClassVar[str] = "Close(uint64 epoch,uint64 height,uint32 round,bytes32 listRoot)"
    epoch: int
    height: int
    round: int
    list_root: Digest


@dataclass(frozen=True, slots=True)
class Ballot:
    """A member's word on the new base, by its own held-out data (attached to its COMMIT; issue of later)."""

    TYPE: ClassVar[str] = (
        "Ballot(uint64 epoch,uint64 height,bytes32 blockId,"
        "int64 lossOldMicro,int64 lossNewMicro,uint8 approve)"
    )
    epoch: int
    height: int
    block_id: Digest
    loss_old_micro: int
    loss_new_micro: int
    approve: int


@dataclass(frozen=True, slots=True)
class Measurement:
    """What one council seat measured when it replayed an opened round.

    status: 0 = the opening matches the commitments and was replayed, 1 = none came in time. worst_ppm: the
    largest relative distance of a segment, in millionths (capped at 2^63 - 1). disagree_ppm: share of the
    opened samples that the reference model calls something else than their labels do; expected_ppm: the share
    that it gets wrong of public samples with the same mix of labels. Both 0 where nothing was replayed.
    """

    TYPE: ClassVar[str] = (
        "Measurement(uint64 epoch,bytes32 caseId,address accused,"
        "uint8 status,bytes32 openingId,uint64 worstPpm,uint64 disagreePpm,uint64 expectedPpm)"
    )
    epoch: int
    case_id: Digest
    accused: MemberId
    status: int
    opening_id: Digest
    worst_ppm: int
    disagree_ppm: int
    expected_ppm: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the council certifies (in its domain). epoch, height: of the accused's round."""

    TYPE: ClassVar[str] = (
        "Verdict(bytes32 group,uint64 epoch,uint64 height,address accused,uint8 offence,bytes32 caseId)"
    )
    group: Digest
    epoch: int
    height: int
    accused: MemberId
    offence: int
    case_id: Digest


@dataclass(frozen=True, slots=True)
class Contribution:
    """What the council certifies (in its domain): what an epoch of the network earned in a paid job.

    manager: the RewardManager that holds the job. root: over the members and their weights
    (p2pfl.evm.rewards). accuracy_micro: of the council's base.
    """

    TYPE: ClassVar[str] = (
        "Contribution(address manager,uint256 job,uint64 epoch,bytes32 root,uint256 totalWeight,"
        "uint32 accuracyMicro)"
    )
    manager: MemberId
    job: int
    epoch: int
    root: Digest
    total_weight: int
    accuracy_micro: int


@dataclass(frozen=True, slots=True)
class SignedShareRequest:
    """The request and its signature; in a round above 0 also the q ROUND-CHANGEs for that round."""

    request: ShareRequest
    signature: bytes
    justification: tuple[SignedRoundChange, ...] = ()


@dataclass(frozen=True, slots=True)
class SignedParamTx:
    """The commitment and its signature."""

    tx: ParamTx
    signature: bytes


@dataclass(frozen=True, slots=True)
class SignedClose:
    """The end of the collection; `tx_ids` are the struct hashes under `list_root`, in committee order."""

    close: Close
    tx_ids: tuple[Digest, ...]
    signature: bytes
    justification: tuple[SignedRoundChange, ...] = ()


@dataclass(frozen=True, slots=True)
class SignedBallot:
    """The ballot and its signature."""

    ballot: Ballot
    signature: bytes


@dataclass(frozen=True, slots=True)
class SignedMeasurement:
    """A seat's measurement and its signature (domain of the council)."""

    measurement: Measurement
    signature: bytes
