"""Stakes, committees, anchors, verdicts and evidence on the EVM chain.

Every call says what shall be so. Where it is so already, because another seat was quicker or this one asked
before it crashed, the answer names the transaction that did it, and nothing is paid twice. Knows the
contracts (docs/contracts.md); how a transaction gets into a block is in `client`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import astuple, replace
from typing import Any

from consensus.signing import BadSignature, Domain, block_id, recover, signing_digest, words
from consensus.types import ZERO_DIGEST, Certificate, Digest, Header, MemberId
from contracts import artifact
from p2pfl.errors import UserError
from p2pfl.evm.client import ChainUnreachable, Client, Mined, NotMined, checksum
from p2pfl.evm.records import (
    Addresses,
    Anchor,
    Done,
    Judgement,
    MemberState,
    Possession,
    Slashing,
    State,
    Terms,
    offence_key,
    pair_kind,
    verdict_key,
)
from p2pfl.signed import Verdict

REGISTRY, MANAGER, ANCHORS = "StakingRegistry", "SlashingManager", "EpochAnchors"
E6 = 6


def deploy(client: Client, terms: Terms, *, treasury: MemberId, veto: MemberId) -> Addresses:
    """Deploy the contracts and join them; the client's account becomes the owner. Raises UserError.

    Five transactions. If it fails between them, deploy again: what is left over holds nothing.
    """
    registry = make_contract(client, REGISTRY, astuple(terms), checksum(treasury), checksum(client.address))
    assert registry.contract is not None
    manager = make_contract(client, MANAGER, checksum(registry.contract), checksum(veto))
    assert manager.contract is not None
    contract = client.web3.eth.contract(address=checksum(registry.contract), abi=artifact(REGISTRY).abi)
    client.transact(contract.functions.setSlasher(checksum(manager.contract)), "join the contracts")
    anchors = make_contract(client, ANCHORS, checksum(registry.contract))
    assert anchors.contract is not None
    client.transact(contract.functions.setRegistrar(checksum(anchors.contract)), "join the contracts")
    return Addresses(client.chain_id, registry.contract, manager.contract, registry.block)


def make_contract(client: Client, name: str, *arguments: Any) -> Mined:
    """Deploy one of our contracts. Raises UserError."""
    compiled = artifact(name)
    contract = client.web3.eth.contract(abi=compiled.abi, bytecode=compiled.bytecode)
    return client.transact(contract.constructor(*arguments), f"make the contract {name}")


def contract_at(client: Client, name: str, address: MemberId) -> Any:
    """One of our contracts, as web3 calls it. Raises UserError unless its code lies at this address."""
    code = client.code(address)
    if not artifact(name).matches(code):
        because = "there is no contract" if not code else "there is another contract"
        raise UserError(
            f"{name} is not at 0x{address.hex()}",
            because=f"{because} at this address of chain {client.chain_id}",
            fix="check the addresses in the genesis file, and that the chain was not started anew",
        )
    return client.web3.eth.contract(address=checksum(address), abi=artifact(name).abi)


class Staking:
    """The contracts of one network, seen from one account."""

    def __init__(self, client: Client, addresses: Addresses) -> None:
        """Raises UserError unless our contracts lie at these addresses and belong together."""
        self.client = client
        self.addresses = addresses
        if client.chain_id != addresses.chain_id:
            raise UserError(
                "the contracts are on another chain",
                because=f"they are on chain {addresses.chain_id}, chain.rpc is on {client.chain_id}",
                fix="set chain.rpc to a node of that chain",
            )
        self._registry = contract_at(client, REGISTRY, addresses.registry)
        self._manager = contract_at(client, MANAGER, addresses.slashing)
        # The genesis names two contracts; the registry names the third.
        registrar = self._read(self._registry.functions.registrar())
        self._anchors = contract_at(client, ANCHORS, _member(registrar))
        slasher = self._read(self._registry.functions.slasher())
        partners = {self._read(one.functions.REGISTRY()) for one in (self._manager, self._anchors)}
        if (slasher, partners) != (checksum(addresses.slashing), {checksum(addresses.registry)}):
            raise UserError(
                "the contracts do not belong together",
                because=f"the registry obeys {slasher} and {registrar}, these serve {' and '.join(partners)}",
                fix="check both addresses in the genesis file",
            )

    # -- set up (the owner)

    def set_council(self, group: Digest) -> Done:
        """Name the group whose committee certifies verdicts; once and for ever."""
        return self._do(
            self._registry.functions.setCouncil(group),
            "name the council",
            lambda: self.council() == group,
            self._registry.events.CouncilSet,
            {"group": group},
        )

    def register_committee(self, group: Digest, epoch: int, members: Sequence[MemberId]) -> Done:
        """Fix who sits in this group in this epoch, in any order; all must have the full stake."""
        ascending = sorted(members)
        return self._do(
            self._registry.functions.registerCommittee(group, epoch, [checksum(one) for one in ascending]),
            "register the committee",
            lambda: self.committee(group, epoch) == tuple(ascending),
            self._registry.events.CommitteeRegistered,
            {"group": group, "epoch": epoch},
        )

    # -- epochs (anybody)

    def anchor(self, header: Header, certificate: Certificate, next_members: Sequence[MemberId]) -> Done:
        """Fix the last block of an epoch and seat the members of the next one (in any order).

        Raises Reverted: AlreadyAnchored only if this epoch ended in another block.
        """
        members = [checksum(one) for one in sorted(next_members)]
        return self._do(
            self._anchors.functions.anchor(
                _header(header), certificate.round, list(certificate.signatures), members
            ),
            "anchor the epoch",
            lambda: self._ends_in(header),
            self._anchors.events.EpochAnchored,
            {"group": header.group_id, "epoch": header.epoch},
        )

    def anchor_of(self, group: Digest, epoch: int) -> Anchor | None:
        """The last block of a group's epoch; None if nobody has brought it."""
        found, height, anchored_at = self._read(self._anchors.functions.anchorOf(group, epoch))
        return Anchor(Digest(found), height, anchored_at) if any(found) else None

    # -- stakes (the staker)

    def possession_digest(self, member: MemberId, staker: MemberId) -> bytes:
        """What the member's key signs so that this account may register it."""
        domain = Domain(self.addresses.chain_id, self.addresses.slashing, ZERO_DIGEST)
        return signing_digest(domain, Possession(staker, self.member(member).registrations))

    def deposit(
        self, member: MemberId, sign: Callable[[bytes], bytes], *, amount_wei: int | None = None
    ) -> Done:
        """Register a member of this account with a stake (default: the least).

        sign: signs a digest with the member's key (65 bytes). Nothing is paid if it is registered so already.
        """
        digest = self.possession_digest(member, self.client.address)
        signature = sign(digest)
        try:
            signer = recover(Digest(digest), signature)
        except BadSignature as error:
            raise UserError(
                "the proof of possession is no signature", because=str(error), fix="sign anew"
            ) from error
        if signer != member:
            raise UserError(
                f"cannot register member 0x{member.hex()}",
                because=f"the proof of possession was signed by 0x{signer.hex()}",
                fix="sign with the key of that member",
            )
        return self._do(
            self._registry.functions.deposit(checksum(member), signature),
            "take the deposit",
            lambda: self._is_mine(member),
            self._registry.events.Deposited,
            {"member": checksum(member), "staker": checksum(self.client.address)},
            value_wei=self.stake_amount_wei() if amount_wei is None else amount_wei,
        )

    def top_up(self, member: MemberId, amount_wei: int) -> Done:
        """Add to the stake. Paid each time it is called."""
        return self._act(
            self._registry.functions.topUp(checksum(member)), "take the deposit", value_wei=amount_wei
        )

    def request_unbonding(self, member: MemberId) -> Done:
        """Ask to leave."""
        return self._do(
            self._registry.functions.requestUnbonding(checksum(member)),
            "let the member leave",
            lambda: self._is_mine(member) and self.member(member).leaves_at_s > 0,
            self._registry.events.UnbondingRequested,
            {"member": checksum(member)},
        )

    def withdraw(self, member: MemberId, to: MemberId | None = None) -> Done:
        """Take out the rest of the stake after the unbonding period."""
        receiver = checksum(self.client.address if to is None else to)
        return self._act(self._registry.functions.withdraw(checksum(member), receiver), "pay out the stake")

    def claim(self, account: MemberId | None = None) -> Done:
        """Have an account paid what it is owed (reporters, the treasury)."""
        owed = checksum(self.client.address if account is None else account)
        return self._act(self._registry.functions.claim(owed), "pay out the credit")

    # -- judging (anybody)

    def submit_verdict(
        self, verdict: Verdict, signatures: Sequence[bytes], *, council_epoch: int = 0
    ) -> Done:
        """Bring a verdict with its certificate: signatures in ascending order of their signers."""
        key = verdict_key(verdict)
        arguments = (
            verdict.group, verdict.epoch, verdict.height,
            checksum(verdict.accused), verdict.offence, verdict.case_id,
        )  # fmt: skip
        return self._do(
            self._manager.functions.submitVerdict(arguments, council_epoch, list(signatures)),
            "take the verdict",
            lambda: self._state(key) is not State.NONE,
            self._manager.events.VerdictSubmitted,
            {"key": key},
        )

    def submit_equivocation(
        self, group: Digest, first: Any, first_signature: bytes, second: Any, second_signature: bytes
    ) -> Done:
        """Bring two structs of one signer that contradict each other; of E5 the COMMIT is first."""
        kind = pair_kind(first, second)
        domain = Domain(self.addresses.chain_id, self.addresses.slashing, group)
        try:
            signer = recover(signing_digest(domain, first), first_signature)
        except BadSignature as error:
            raise UserError(
                "the evidence is not signed", because=str(error), fix="bring both signatures as they came"
            ) from error
        key = offence_key(group, first.epoch, first.height, signer, min(kind, E6))
        return self._do(
            self._manager.functions.submitEquivocation(
                group, kind, words(first), first_signature, words(second), second_signature
            ),
            "take the evidence",
            lambda: self._state(key) is not State.NONE,
            self._manager.events.EquivocationProven,
            {"key": key},
        )

    def bring_fraud(self, arguments: tuple[Any, ...], key: Digest) -> Done:
        """Bring a proof of aggregate fraud (`fraud.AggregateFraud.arguments`); key: of the offence."""
        return self._do(
            self._manager.functions.submitAggregateFraud(*arguments),
            "take the proof",
            lambda: self._state(key) is not State.NONE,
            self._manager.events.AggregateFraudProven,
            {"key": key},
        )

    def execute_verdict(self, key: Digest) -> Done:
        """Carry out a verdict after its window. Raises Reverted (TooEarly, TooLate, NotPending)."""
        return self._finish("executeVerdict", key, State.EXECUTED, "VerdictExecuted", "carry out the verdict")

    def cancel_verdict(self, key: Digest) -> Done:
        """Cancel a verdict during its window; the veto body only."""
        return self._finish("cancelVerdict", key, State.CANCELLED, "VerdictCancelled", "cancel the verdict")

    def expire_verdict(self, key: Digest) -> Done:
        """Release the accused of a verdict that nobody carried out in time."""
        return self._finish("expireVerdict", key, State.EXPIRED, "VerdictExpired", "end the verdict")

    # -- questions

    def terms(self) -> Terms:
        """What the deployment fixed."""
        names = ("STAKE_AMOUNT", "UNBONDING_SECONDS", "EVIDENCE_AGE_SECONDS", "CHALLENGE_WINDOW_SECONDS",
                 "MARGIN_SECONDS", "VERDICT_LIFE_SECONDS")  # fmt: skip
        return Terms(*(self._read(self._registry.functions[name]()) for name in names))

    def stake_amount_wei(self) -> int:
        """The least stake of a seat."""
        return self._read(self._registry.functions.STAKE_AMOUNT())

    def council(self) -> Digest:
        """The council's group id; zero if it was not named yet."""
        return Digest(bytes(self._read(self._registry.functions.council())))

    def committee(self, group: Digest, epoch: int) -> tuple[MemberId, ...]:
        """Who sits in a group in an epoch, ascending; empty if nobody was registered."""
        return tuple(_member(one) for one in self._read(self._registry.functions.committee(group, epoch)))

    def member(self, member: MemberId) -> MemberState:
        """A member as the registry knows it."""
        staker, stake, leaves_at, registrations, freezes, tombstoned = self._read(
            self._registry.functions.memberOf(checksum(member))
        )
        return MemberState(_member(staker), stake, leaves_at, registrations, freezes, tombstoned)

    def stake_of(self, member: MemberId) -> int:
        """What a member has at stake, wei."""
        return self._read(self._registry.functions.stakeOf(checksum(member)))

    def tombstoned(self, member: MemberId) -> bool:
        """Whether a member was caught contradicting itself."""
        return self.member(member).tombstoned

    def credit_of(self, account: MemberId) -> int:
        """What an account can claim, wei."""
        return self._read(self._registry.functions.creditOf(checksum(account)))

    def judgement(self, key: Digest) -> Judgement:
        """What became of a verdict or of evidence."""
        state, accused, offence, submitted, executable, expires = self._read(
            self._manager.functions.judgementOf(key)
        )
        return Judgement(
            State(state), _member(accused), offence, submitted, executable, expires, self.client.time_s()
        )

    def slashed(self, first_block: int | None = None, last_block: int | None = None) -> list[Slashing]:
        """All stake that was taken in these blocks (default: since the deployment), oldest first."""
        first = self.addresses.block if first_block is None else first_block
        found = self.client.logs(self._registry.events.Slashed, {}, first, last_block)
        return [
            Slashing(
                member=_member(log["args"]["member"]),
                key=Digest(bytes(log["args"]["key"])),
                offence=self._read(self._manager.functions.judgementOf(log["args"]["key"]))[2],
                amount_wei=log["args"]["amount"],
                reward_wei=log["args"]["reward"],
                transaction=bytes(log["transactionHash"]),
                block=log["blockNumber"],
            )
            for log in found
        ]

    # -- inside

    def _read(self, call: Any) -> Any:
        return self.client.ask(call.call)

    def _state(self, key: Digest) -> State:
        return State(self._read(self._manager.functions.judgementOf(key))[0])

    def _ends_in(self, header: Header) -> bool:
        anchor = self.anchor_of(header.group_id, header.epoch)
        return anchor is not None and anchor.block_id == block_id(header)

    def _is_mine(self, member: MemberId) -> bool:
        state = self.member(member)
        return state.staker == self.client.address and not state.tombstoned

    def _act(self, call: Any, what: str, *, value_wei: int = 0) -> Done:
        mined = self.client.transact(call, what, value_wei=value_wei)
        return Done(mined.transaction, mined.block, mined.gas_used, new=True)

    def _do(
        self, call: Any, what: str, is_so: Callable[[], bool], event: Any, filters: dict[str, Any],
        *, value_wei: int = 0,
    ) -> Done:  # fmt: skip
        """Send it; if the contract refuses because it is so already, find the transaction that did it."""
        try:
            return self._act(call, what, value_wei=value_wei)
        except (ChainUnreachable, NotMined):
            raise
        except UserError:  # The contract refused, or there was no money left for it.
            if not is_so():
                raise
        found = self.client.logs(event, filters, self.addresses.block)
        if not found:
            return Done(b"", 0, 0, new=False)
        return Done(bytes(found[-1]["transactionHash"]), found[-1]["blockNumber"], 0, new=False)

    def _finish(self, function: str, key: Digest, state: State, event: str, what: str) -> Done:
        return self._do(
            self._manager.functions[function](key),
            what,
            lambda: self._state(key) is state,
            self._manager.events[event],
            {"key": key},
        )


def _header(header: Header) -> tuple[Any, ...]:
    return astuple(replace(header, proposer=checksum(header.proposer)))


def _member(address: str) -> MemberId:
    return MemberId(bytes.fromhex(address[2:]))
