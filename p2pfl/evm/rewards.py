"""What honest work earns, on the chain: jobs, their settlement epoch by epoch, and the shares.

The council certifies a Contribution: the root of a Merkle tree with a leaf for each member that earned
something. The tree is OpenZeppelin's (pairs sorted, leaves hashed twice): its library checks the proofs.
Knows no rounds: whose work weighs how much is decided elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from enum import IntEnum
from typing import Any

from consensus.signing import Domain, keccak256, signing_digest
from consensus.types import Digest, MemberId
from p2pfl.evm.client import Client, checksum
from p2pfl.evm.records import Done
from p2pfl.evm.staking import contract_at, make_contract
from p2pfl.signed import Contribution

MANAGER = "RewardManager"
# Some 75,000 gas each: below what the client lets one transaction cost.
CLAIMS_AT_ONCE = 50


class JobState(IntEnum):
    """Of a job (RewardManager.State)."""

    NONE = 0
    OPEN = 1
    REACHED = 2
    USED_UP = 3
    EXPIRED = 4


@dataclass(frozen=True, slots=True)
class Job:
    """A job as the contract knows it. Wei and seconds of the chain's clock; accuracy in millionths."""

    client: MemberId
    price_per_epoch_wei: int
    task: Digest
    next_epoch: int
    settle_by_s: int
    epochs_left: int
    target_micro: int
    state: JobState


@dataclass(frozen=True, slots=True)
class Settlement:
    """What one epoch of a job earned. left_wei: nobody has claimed it yet."""

    root: Digest
    total_weight: int
    left_wei: int
    price_wei: int
    claim_by_s: int


# ---------------------------------------------------------------------------
# The tree.


def contribution_leaf(job: int, epoch: int, member: MemberId, weight: int) -> bytes:
    """keccak256(keccak256(abi.encode(job, epoch, member, weight))), as RewardManager.leafOf."""
    words = (job, epoch, int.from_bytes(member, "big"), weight)
    return keccak256(keccak256(b"".join(word.to_bytes(32, "big") for word in words)))


def contribution_root(job: int, epoch: int, weights: Mapping[MemberId, int]) -> Digest:
    """The root over the members in ascending order; zero when nobody earned anything."""
    levels = _levels(job, epoch, weights)
    return Digest(levels[-1][0]) if levels else Digest(bytes(32))


def contribution_proof(
    job: int, epoch: int, weights: Mapping[MemberId, int], member: MemberId
) -> tuple[bytes, ...]:
    """The path from a member's leaf to the root. Raises KeyError for a member without a leaf."""
    place = _earners(weights).index(member) if weights.get(member) else None
    if place is None:
        raise KeyError(member)
    return _path(_levels(job, epoch, weights), place)


def _path(levels: list[list[bytes]], place: int) -> tuple[bytes, ...]:
    path: list[bytes] = []
    for level in levels[:-1]:
        if place ^ 1 < len(level):
            path.append(level[place ^ 1])
        place //= 2
    return tuple(path)


def _earners(weights: Mapping[MemberId, int]) -> list[MemberId]:
    return sorted(member for member, weight in weights.items() if weight)


def _levels(job: int, epoch: int, weights: Mapping[MemberId, int]) -> list[list[bytes]]:
    level = [contribution_leaf(job, epoch, member, weights[member]) for member in _earners(weights)]
    levels = [level] if level else []
    while len(level) > 1:
        # A last one without a partner goes up as it is.
        level = [
            keccak256(b"".join(sorted(level[i : i + 2]))) if i + 1 < len(level) else level[i]
            for i in range(0, len(level), 2)
        ]
        levels.append(level)
    return levels


def contribution_words(told: Contribution) -> tuple[Any, ...]:
    """As the contract takes it."""
    return (checksum(told.manager), *astuple(told)[1:])


def contribution_digest(chain_id: int, slashing: MemberId, council: Digest, told: Contribution) -> Digest:
    """What a council seat signs: in the council's domain, like a verdict."""
    return Digest(signing_digest(Domain(chain_id, slashing, council), told))


# ---------------------------------------------------------------------------
# The contract.


def deploy_rewards(
    client: Client,
    *,
    registry: MemberId,
    slashing: MemberId,
    treasury: MemberId,
    base_fee_wei: int,
    settle_s: int,
    claim_s: int,
) -> MemberId:
    """Deploy a RewardManager beside a registry; its address. Raises UserError."""
    arguments = (checksum(registry), checksum(slashing), checksum(treasury), base_fee_wei, settle_s, claim_s)
    mined = make_contract(client, MANAGER, *arguments)
    assert mined.contract is not None
    return mined.contract


class Rewards:
    """The RewardManager of a network, seen from one account. Raises Reverted where the contract refuses."""

    def __init__(self, client: Client, address: MemberId) -> None:
        """Raises UserError unless our contract lies at this address."""
        self.client = client
        self._manager = contract_at(client, MANAGER, address)

    def open_job(
        self, task: Digest, *, price_per_epoch_wei: int, epochs: int, target_micro: int, first_epoch: int
    ) -> tuple[int, Done]:
        """Open a job and pay for it in full; its number."""
        call = self._manager.functions.openJob(task, price_per_epoch_wei, epochs, target_micro, first_epoch)
        cost_wei = self.base_fee_wei() + price_per_epoch_wei * epochs
        mined = self.client.transact(call, "open the job", value_wei=cost_wei)
        (told,) = self.client.logs(
            self._manager.events.JobOpened,
            {"client": checksum(self.client.address), "task": task},
            mined.block,
            mined.block,
        )[-1:]
        return told["args"]["job"], Done(mined.transaction, mined.block, mined.gas_used, new=True)

    def settle(self, contribution: Contribution, signatures: Sequence[bytes]) -> Done:
        """Bring what the council certified; signatures in ascending order of their signers."""
        return self._act("settle", "settle the epoch", contribution_words(contribution), list(signatures))

    def claim(self, job: int, epoch: int, member: MemberId, weights: Mapping[MemberId, int]) -> Done:
        """Have a member's share credited to its staker. weights: of everybody in this epoch."""
        proof = contribution_proof(job, epoch, weights, member)
        return self._act("claim", "credit the share", job, epoch, checksum(member), weights[member], proof)

    def claim_many(self, job: int, epoch: int, weights: Mapping[MemberId, int]) -> list[Done]:
        """The same for all, some dozens at a time; what would be refused alone is skipped."""
        members, levels, done = _earners(weights), _levels(job, epoch, weights), list[Done]()
        for start in range(0, len(members), CLAIMS_AT_ONCE):
            part = range(start, min(start + CLAIMS_AT_ONCE, len(members)))
            named = [checksum(members[place]) for place in part]
            shares = [weights[members[place]] for place in part]
            proofs = [_path(levels, place) for place in part]
            done.append(self._act("claimMany", "credit the shares", job, epoch, named, shares, proofs))
        return done

    def expire(self, job: int) -> Done:
        """End a job that nobody settled in time."""
        return self._act("expireJob", "end the job", job)

    def sweep(self, job: int, epoch: int) -> Done:
        """Give the treasury what nobody claimed in time."""
        return self._act("sweep", "sweep the epoch", job, epoch)

    def collect(self, account: MemberId | None = None) -> Done:
        """Have an account paid what it is owed."""
        owed = self.client.address if account is None else account
        return self._act("collect", "pay out the credit", checksum(owed))

    def job(self, job: int) -> Job:
        """A job; state NONE if there is none of this number."""
        found = self._read("jobOf", job)
        client, price, task, next_epoch, settle_by, epochs_left, target, state = found
        owner, named = MemberId(bytes.fromhex(client[2:])), Digest(bytes(task))
        return Job(owner, price, named, next_epoch, settle_by, epochs_left, target, JobState(state))

    def settlement(self, job: int, epoch: int) -> Settlement | None:
        """What an epoch earned; None if nothing was shared out."""
        root, total, left, price, claim_by = self._read("settlementOf", job, epoch)
        return Settlement(Digest(bytes(root)), total, left, price, claim_by) if claim_by else None

    def credit_of(self, account: MemberId) -> int:
        """What an account can collect, wei."""
        return self._read("creditOf", checksum(account))

    def base_fee_wei(self) -> int:
        """What opening a job costs beside its prices."""
        return self._read("BASE_FEE")

    def _read(self, function: str, *arguments: Any) -> Any:
        return self.client.ask(self._manager.functions[function](*arguments).call)

    def _act(self, function: str, what: str, *arguments: Any) -> Done:
        mined = self.client.transact(self._manager.functions[function](*arguments), what)
        return Done(mined.transaction, mined.block, mined.gas_used, new=True)
