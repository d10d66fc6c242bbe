"""An Ethereum chain in one object: py-evm, one block for each transaction, block times that follow the clock.

For development and tests: accounts come rich, anybody may move the clock, nothing is kept on disk. Knows no
JSON and no sockets (`testnet.devchain` serves it) and nothing of stakes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from eth import constants
from eth.chains.base import MiningChain
from eth.consensus.applier import ConsensusApplier
from eth.consensus.noproof import NoProofConsensus
from eth.db.atomic import AtomicDB
from eth.exceptions import Revert
from eth.vm.forks.cancun import CancunVM
from eth.vm.spoof import SpoofTransaction
from eth_utils.crypto import keccak
from eth_utils.exceptions import ValidationError

# py-evm's classes are built at run time; its type hints do not say what they can do.
Header: TypeAlias = Any
Transaction: TypeAlias = Any
Receipt: TypeAlias = Any
State: TypeAlias = Any
Machine: TypeAlias = Any
Computation: TypeAlias = Any

BALANCE_WEI = 1_000_000 * 10**18
BLOCK_GAS_MAX = 30_000_000
GENESIS_BASE_FEE_WEI = 10**9
TIP_WEI = 10**9
# A caller of eth_call pays nothing; this keeps its balance from being the reason of a failure.
BOUNDLESS_WEI = 1 << 200


class Refused(Exception):
    """The chain does not take this transaction or request; nothing happened."""


class Reverted(Exception):
    """The call failed in the EVM; `data` is what it returned (empty: out of gas or an invalid opcode)."""

    def __init__(self, message: str, data: bytes) -> None:
        super().__init__(message)
        self.data = data


@dataclass(frozen=True)
class Mined:
    """A block: its header, and its transaction with the receipt unless it is empty."""

    header: Header
    transaction: Transaction | None = None
    receipt: Receipt | None = None

    @property
    def gas_used(self) -> int:
        """Gas of its one transaction."""
        return 0 if self.receipt is None else int(self.receipt.gas_used)


@dataclass(frozen=True)
class Call:
    """A transaction that is only tried. to: None makes a contract. gas: None means as much as a block has."""

    sender: bytes
    to: bytes | None
    value: int
    data: bytes
    gas: int | None


class PyEvmChain:
    """The chain. One caller at a time."""

    def __init__(
        self, *, chain_id: int, accounts: Sequence[bytes], clock: Callable[[], float] = time.time
    ) -> None:
        self.chain_id = chain_id
        self._clock = clock
        self._ahead_s = 0  # How far block time is ahead of the clock.
        genesis = {
            "coinbase": constants.ZERO_ADDRESS,
            "difficulty": constants.POST_MERGE_DIFFICULTY,
            "extra_data": b"",
            "gas_limit": BLOCK_GAS_MAX,
            "mix_hash": constants.POST_MERGE_MIX_HASH,
            "nonce": constants.POST_MERGE_NONCE,
            "base_fee_per_gas": GENESIS_BASE_FEE_WEI,
            "timestamp": self.now_s(),
        }
        rich = {"balance": BALANCE_WEI, "nonce": 0, "code": b"", "storage": {}}
        rules: Any = ConsensusApplier(NoProofConsensus).amend_vm_configuration(((0, CancunVM),))
        kind: Any = type(
            "DevelopmentChain", (MiningChain,), {"vm_configuration": rules, "chain_id": chain_id}
        )
        self._chain: Any = kind.from_genesis(
            AtomicDB(), genesis, {account: dict(rich) for account in accounts}
        )
        self.blocks: list[Mined] = [Mined(self._chain.get_canonical_block_header_by_number(0))]
        self.number_of: dict[bytes, int] = {}  # Transaction hash to block number.

    # -- time

    def now_s(self) -> int:
        """The time of a block that is made now. Runs with the clock, never back."""
        return int(self._clock()) + self._ahead_s

    def advance(self, seconds: int) -> None:
        """Move the clock of the chain forward."""
        if seconds < 0:
            raise Refused("time does not run backwards")
        self._ahead_s += seconds

    def catch_up(self) -> None:
        """Make an empty block if the last one is older than now, so that whoever asks sees the time pass."""
        if self.now_s() > self.blocks[-1].header.timestamp:
            self.mine()

    # -- blocks

    @property
    def head(self) -> Mined:
        """The newest block."""
        return self.blocks[-1]

    def mine(self, transaction: Transaction | None = None) -> Mined:
        """Make a block with this transaction, or an empty one. Raises Refused."""
        header = self._next_header()
        # Two blocks of one second are not valid: the later one is a second ahead, and all that follows too.
        self._ahead_s = max(self._ahead_s, header.timestamp - int(self._clock()))
        self._chain.header = header
        try:
            wanted = [] if transaction is None else [transaction]
            result, receipts, _ = self._chain.mine_all(wanted)
        except ValidationError as error:
            raise Refused(str(error)) from error
        block = Mined(result.imported_block.header, transaction, receipts[0] if receipts else None)
        self.blocks.append(block)
        if transaction is not None:
            self.number_of[bytes(transaction.hash)] = int(block.header.block_number)
        return block

    def send(self, raw: bytes) -> bytes:
        """Decode and mine a signed transaction. Returns its hash, the same when it comes again."""
        try:
            transaction = self._vm(self._next_header()).get_transaction_builder().decode(raw)
            digest, sender = bytes(transaction.hash), transaction.sender
        except Exception as error:  # rlp, signature and typed-transaction faults have no common class.
            raise Refused(f"not a signed transaction: {error}") from error
        if transaction.chain_id not in {None, self.chain_id}:
            raise Refused(f"wrong chain id {transaction.chain_id}")
        if digest in self.number_of:
            raise Refused("already known")
        expected = self.state().get_nonce(sender)
        if transaction.nonce != expected:
            word = "low" if transaction.nonce < expected else "high"
            raise Refused(f"nonce too {word}: next nonce {expected}, tx nonce {transaction.nonce}")
        if (
            self.state().get_balance(sender)
            < transaction.gas * transaction.max_fee_per_gas + transaction.value
        ):
            raise Refused("insufficient funds for gas * price + value")
        self.mine(transaction)
        return digest

    def snapshot(self) -> int:
        """A mark to which `revert` returns."""
        return len(self.blocks)

    def revert(self, mark: int) -> None:
        """Forget all blocks after the mark. Time does not go back."""
        if not 1 <= mark <= len(self.blocks):
            raise Refused(f"no snapshot {mark}")
        for block in self.blocks[mark:]:
            if block.transaction is not None:
                del self.number_of[bytes(block.transaction.hash)]
        del self.blocks[mark:]

    # -- questions

    def state(self, block: Mined | None = None) -> State:
        """The accounts after this block (default: the newest)."""
        return self._vm((block or self.head).header).state

    def base_fee_wei(self) -> int:
        """What a transaction of the next block must pay for each gas."""
        return int(self._next_header().base_fee_per_gas)

    def call(self, call: Call, block: Mined | None = None) -> bytes:
        """Try it after this block (default: in the next one); its output. Raises Reverted, Refused."""
        return bytes(self._try(call, call.gas or BLOCK_GAS_MAX, block).output)

    def estimate_gas(self, call: Call) -> int:
        """Enough gas for this call now. Raises Reverted, Refused."""
        done = self._try(call, BLOCK_GAS_MAX, None)
        # An inner call gets 63/64 of what is there (EIP-150), and refunds come only afterwards: ask for a
        # little more than was used, and try whether that is enough.
        used = BLOCK_GAS_MAX - done.get_gas_remaining()
        guess = used + used // 16 + 2_300
        try:
            self._try(call, guess, None)
        except Reverted:
            return min(2 * used, BLOCK_GAS_MAX)
        return guess

    # -- inside

    def _next_header(self) -> Header:
        parent = self.head.header
        header: Header = self._chain.create_header_from_parent(
            parent, timestamp=max(int(parent.timestamp) + 1, self.now_s())
        )
        # The gas limit stays; the random word differs from block to block and is the same in every run.
        return header.copy(
            gas_limit=parent.gas_limit, mix_hash=keccak(int(header.block_number).to_bytes(8, "big"))
        )

    def _vm(self, header: Header) -> Machine:
        return self._chain.get_vm(at_header=header)

    def _try(self, call: Call, gas: int, block: Mined | None) -> Computation:
        header = self._next_header() if block is None else block.header
        vm = self._vm(header)
        state = vm.state  # Thrown away afterwards: nothing of it is persisted.
        if call.value > state.get_balance(call.sender):
            raise Refused("insufficient funds for transfer")
        state.set_balance(call.sender, BOUNDLESS_WEI)
        unsigned = vm.get_transaction_builder().new_unsigned_dynamic_fee_transaction(
            chain_id=self.chain_id,
            nonce=state.get_nonce(call.sender),
            max_priority_fee_per_gas=0,
            max_fee_per_gas=header.base_fee_per_gas,
            gas=gas,
            to=call.to or b"",
            value=call.value,
            data=call.data,
            access_list=(),
        )
        try:
            done = state.apply_transaction(SpoofTransaction(unsigned, from_=call.sender))
        except ValidationError as error:
            raise Refused(str(error)) from error
        if done.is_error:
            raise _reverted(done.error, done.output)
        return done


def _reverted(error: Exception, output: bytes) -> Reverted:
    if isinstance(error, Revert):
        return Reverted("execution reverted", bytes(output))
    return Reverted(f"{type(error).__name__}: {error}", b"")
