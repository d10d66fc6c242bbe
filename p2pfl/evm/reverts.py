"""Why a contract refused: its custom errors, by name and with their arguments, and what to do about them.

Knows the contracts' ABI. Sends nothing.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from eth_abi.abi import decode
from eth_abi.exceptions import DecodingError

from consensus.signing import keccak256
from contracts import artifact
from p2pfl.errors import UserError

CONTRACTS = (
    "StakingRegistry",
    "SlashingManager",
    "EpochAnchors",
    "RewardManager",
    "RewardTreasury",
    "SlashTreasury",
)
# What Solidity itself reverts with.
_BUILT_IN = [
    {"type": "error", "name": "Error", "inputs": [{"name": "message", "type": "string"}]},
    {"type": "error", "name": "Panic", "inputs": [{"name": "code", "type": "uint256"}]},
]
_UNKNOWN_FIX = (
    "look at the transaction in a block explorer, and whether contracts and program are of one release"
)
# What an operator can do. An error that is not here leaves nothing to do but to read its words.
_FIXES = {
    "AlreadyRegistered": "use the account that registered this member, or another signing key",
    "WrongPossession": "sign with the member's signing key, for the account that sends the deposit",
    "StakeTooSmall": "send at least the required amount",
    "IsTombstoned": "make a new signing key; this one contradicted itself and never returns",
    "NotTheStaker": "send it from the account that registered this member",
    "NotRegistered": "deposit first, and check the member's address",
    "IsLeaving": "wait until the stake can be withdrawn, withdraw it, and deposit again",
    "NotLeaving": "ask to leave first; the stake is free after the unbonding period",
    "TooEarly": "wait until the time that is named",
    "TooLate": "nothing; the time for it is over",
    "IsFrozen": "wait until the pending verdicts against this member are executed, cancelled or void",
    "NotActive": "let every member of the committee deposit the full stake first",
    "NotASeat": "check group, epoch and address against the registered committee",
    "NoCommittee": "let the owner register the committee of this group and epoch, or anchor the epoch before",
    "CommitteeExists": "nothing; a committee is registered once and never changes",
    "NotSet": "let the owner finish the deployment",
    "CouncilNotSet": "let the owner name the council's group id",
    "CommitteeTooSmall": "form a council of at least 4 seats; a smaller one may exclude, never slash",
    "NoQuorum": "collect the signatures of more seats",
    "NotBonded": "leave this seat's signature out; it has nothing at stake any more",
    "NotAscending": "order by address, each one once",
    "AccusedSigned": "leave the accused's own signature out",
    "BadSignature": "check which key signed, and in which domain (chain, contract, group)",
    "SignersDiffer": "both structs must be signed by one member, in the domain of its group",
    "NoConflict": "nothing; an honest member may sign both",
    "OtherSlot": "nothing; the two belong to different epochs, heights or rounds",
    "AlreadyAnchored": "compare the two blocks; if both are certified, more than f members signed both: "
    "keep both certificates as evidence",
    "NotTheLastBlock": "bring the last block of the epoch, and exactly the members that it names",
    "TooFewBonded": "collect the signatures of more seats that still have a stake",
    "UnknownVersion": "use the program and the contracts of one release",
    "NotTheVeto": "only the veto body may cancel a verdict",
    "OwnableUnauthorizedAccount": "send it from the account that owns the registry",
    "NotTheProposer": "bring the signed proposal of the member whom the header names",
    "WrongPath": "make the proof from the body of this very block",
    "AggregateIsRight": "nothing; this number follows from the updates and the factors",
    "WrongPayment": "send exactly the base fee and the price of all epochs",
    "JobNotOpen": "open another job; this one has ended",
    "NotTheNextEpoch": "settle the epochs in their order, from the job's first one on, none left out",
    "OtherManager": "bring it to the contract that it was signed for",
    "ClaimTooShort": "give more time for claims than a verdict may be pending",
    "NotSettled": "bring the council's certificate of this epoch first",
    "AlreadyClaimed": "nothing; this share was credited before",
    "NotInRoot": "use the weight and the proof of this member, job and epoch",
    "MoreThanAll": "nothing; the certified weights add up to more than their total, and others came first",
    "TransferFailed": "name a receiver that takes ether",
}


class Reverted(UserError):
    """A contract refused. name: of its custom error ("" if it gave none); arguments: by their names.

    transaction: hash of the transaction if it failed when it was mined; empty if nothing was sent.
    """

    def __init__(self, name: str, arguments: dict[str, Any], what: str, transaction: bytes = b"") -> None:
        told = ", ".join(f"{key} {_plain(value)}" for key, value in arguments.items())
        because = f"{name}({told})" if name else "it gave no reason"
        super().__init__(
            f"the contract refused to {what}", because=because, fix=_FIXES.get(name, _UNKNOWN_FIX)
        )
        self.name = name
        self.arguments = arguments
        self.transaction = transaction


def decode_revert(data: bytes, what: str, transaction: bytes = b"") -> Reverted:
    """The reason in the data of a revert. what: a verb phrase, such as "take the deposit"."""
    entry = _errors().get(data[:4])
    if entry is None:
        return Reverted("" if not data else "0x" + data[:4].hex(), {}, what, transaction)
    try:
        values = decode([part["type"] for part in entry["inputs"]], data[4:])
    except DecodingError:
        return Reverted(entry["name"], {}, what, transaction)
    names = [part["name"] for part in entry["inputs"]]
    return Reverted(entry["name"], dict(zip(names, values, strict=True)), what, transaction)


@cache
def _errors() -> dict[bytes, dict[str, Any]]:
    """Selector to ABI entry, of all our contracts."""
    found = [*_BUILT_IN]
    for name in CONTRACTS:
        found += [entry for entry in artifact(name).abi if entry["type"] == "error"]
    return {selector(entry): entry for entry in found}


def selector(entry: dict[str, Any]) -> bytes:
    """The four bytes that name an error or a function."""
    kinds = ",".join(part["type"] for part in entry["inputs"])
    return keccak256(f"{entry['name']}({kinds})".encode())[:4]


def _plain(value: Any) -> str:
    return "0x" + value.hex() if isinstance(value, bytes) else str(value)
