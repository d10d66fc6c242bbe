"""What the contracts are asked and what they answer, as plain records.

No web3 here. Times are seconds of the chain's clock, amounts are wei.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any, ClassVar

from consensus.evidence import OffenceKind
from consensus.signing import keccak256
from consensus.types import Commit, Digest, MemberId, Prepare, Propose, RoundChange
from p2pfl.signed import Close, ParamTx, ShareRequest, Verdict


@dataclass(frozen=True, slots=True)
class Terms:
    """What a deployment fixes for ever (StakingRegistry.Terms). Seconds and wei.

    unbonding_s must be at least evidence_age_s + challenge_window_s + margin_s.
    """

    stake_amount_wei: int
    unbonding_s: int
    evidence_age_s: int
    challenge_window_s: int
    margin_s: int
    verdict_life_s: int


# For a network on one machine: a verdict can be carried out within the run.
TESTNET_TERMS = Terms(
    stake_amount_wei=10**18,
    unbonding_s=3_600,
    evidence_age_s=3_000,
    challenge_window_s=3,
    margin_s=60,
    verdict_life_s=3_600,
)


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where the contracts of a network lie. block: where their events begin."""

    chain_id: int
    registry: MemberId
    slashing: MemberId
    block: int = 0


@dataclass(frozen=True, slots=True)
class Done:
    """What was asked is so. new: this call did it; else somebody had done it before.

    transaction: hash of the one that did it (empty if it is older than what we search). block, gas_used: its
    own, 0 where they are not known.
    """

    transaction: bytes
    block: int
    gas_used: int
    new: bool


@dataclass(frozen=True, slots=True)
class MemberState:
    """A member as the registry knows it.

    staker: zero if not registered. leaves_at_s: 0 unless it asked to leave. freezes: verdicts pending.
    """

    staker: MemberId
    stake_wei: int
    leaves_at_s: int
    registrations: int
    freezes: int
    tombstoned: bool


class State(IntEnum):
    """Of a judgement (SlashingManager.State)."""

    NONE = 0
    PENDING = 1
    EXECUTED = 2
    CANCELLED = 3
    EXPIRED = 4


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict or proven equivocation. now_s: the chain's clock when it was asked."""

    state: State
    accused: MemberId
    offence: int
    submitted_at_s: int
    executable_at_s: int
    expires_at_s: int
    now_s: int


@dataclass(frozen=True, slots=True)
class Anchor:
    """The last block of a group's epoch, as it was brought to the chain."""

    block_id: Digest
    height: int
    anchored_at_s: int


@dataclass(frozen=True, slots=True)
class Slashing:
    """Stake that was taken. key names the offence; offence is its code, 0 if another contract took it."""

    member: MemberId
    key: Digest
    offence: int
    amount_wei: int
    reward_wei: int
    transaction: bytes
    block: int


@dataclass(frozen=True, slots=True)
class Possession:
    """Signed by a member's key, group id zero: `staker` may register it. nonce: how often it was so far."""

    TYPE: ClassVar[str] = "Possession(address staker,uint64 nonce)"
    staker: MemberId
    nonce: int


def offence_key(group: Digest, epoch: int, height: int, accused: MemberId, offence: int) -> Digest:
    """What the contract calls this offence: the same whoever shows it (SlashingManager.keyOf)."""
    numbers = [value.to_bytes(32, "big") for value in (epoch, height)]
    return keccak256(group + b"".join(numbers) + accused.rjust(32, b"\0") + offence.to_bytes(32, "big"))


def verdict_key(verdict: Verdict) -> Digest:
    """The key of a verdict; its case id has no part in it."""
    return offence_key(verdict.group, verdict.epoch, verdict.height, verdict.accused, verdict.offence)


# The kinds of pairs that the contract knows; for 1 to 5 they are the offences, 6 to 8 are all E6.
_KINDS: dict[type, int] = {
    Propose: OffenceKind.TWO_PROPOSE,
    Prepare: OffenceKind.TWO_PREPARE,
    Commit: OffenceKind.TWO_COMMIT,
    RoundChange: OffenceKind.TWO_ROUND_CHANGE,
    ParamTx: 6,
    ShareRequest: 7,
    Close: 8,
}


def pair_kind(first: Any, second: Any) -> int:
    """The contract's number for a pair of structs. Raises ValueError for a pair that is no offence's."""
    if isinstance(first, Commit) and isinstance(second, RoundChange):
        return OffenceKind.DENIED_COMMIT
    if type(first) is not type(second) or type(first) not in _KINDS:
        raise ValueError(f"{type(first).__name__} and {type(second).__name__} are no pair of an offence")
    return _KINDS[type(first)]
