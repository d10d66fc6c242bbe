"""Blocks, transactions, receipts and logs of `testnet.pyevm` as JSON-RPC writes them.

Knows forms only; which method answers with which is in `testnet.pyevm_rpc`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from eth._utils.address import generate_contract_address
from eth.constants import CREATE_CONTRACT_ADDRESS
from eth.vm.forks.byzantium.constants import EIP658_TRANSACTION_STATUS_CODE_SUCCESS
from eth_utils.address import to_checksum_address

from testnet.pyevm import Mined


def block_json(block: Mined, *, full: bool) -> dict[str, Any]:
    """A block; with `full` its transaction too, else only the hash of it."""
    header = block.header
    transactions: list[Any] = []
    if block.transaction is not None:
        transactions = [transaction_json(block) if full else "0x" + block.transaction.hash.hex()]
    return {
        "number": hex(header.block_number),
        "hash": "0x" + header.hash.hex(),
        "parentHash": "0x" + header.parent_hash.hex(),
        "timestamp": hex(header.timestamp),
        "gasLimit": hex(header.gas_limit),
        "gasUsed": hex(header.gas_used),
        "baseFeePerGas": hex(header.base_fee_per_gas),
        "miner": to_checksum_address(header.coinbase),
        "difficulty": hex(header.difficulty),
        "extraData": "0x" + header.extra_data.hex(),
        "logsBloom": "0x" + header.bloom.to_bytes(256, "big").hex(),
        "mixHash": "0x" + header.mix_hash.hex(),
        "nonce": "0x" + header.nonce.hex(),
        "receiptsRoot": "0x" + header.receipt_root.hex(),
        "sha3Uncles": "0x" + header.uncles_hash.hex(),
        "stateRoot": "0x" + header.state_root.hex(),
        "transactionsRoot": "0x" + header.transaction_root.hex(),
        "transactions": transactions,
        "uncles": [],
    }


def _place(block: Mined) -> dict[str, str]:
    assert block.transaction is not None
    return {
        "blockHash": "0x" + block.header.hash.hex(),
        "blockNumber": hex(block.header.block_number),
        "transactionHash": "0x" + block.transaction.hash.hex(),
        "transactionIndex": "0x0",
    }


def _price_wei(block: Mined) -> int:
    transaction: Any = block.transaction
    base = block.header.base_fee_per_gas
    return min(transaction.max_fee_per_gas, base + transaction.max_priority_fee_per_gas)


def transaction_json(block: Mined) -> dict[str, Any]:
    """The transaction of a block that has one."""
    transaction: Any = block.transaction
    kind = getattr(transaction, "type_id", None) or 0
    place = _place(block)
    form = {
        **{key: value for key, value in place.items() if key != "transactionHash"},
        "hash": place["transactionHash"],
        "from": to_checksum_address(transaction.sender),
        "to": _to(transaction),
        "nonce": hex(transaction.nonce),
        "value": hex(transaction.value),
        "gas": hex(transaction.gas),
        "gasPrice": hex(_price_wei(block)),
        "input": "0x" + transaction.data.hex(),
        "type": hex(kind),
        "r": hex(transaction.r),
        "s": hex(transaction.s),
        "v": hex(transaction.y_parity if kind else transaction.v),
    }
    if kind:
        form["chainId"] = hex(transaction.chain_id)
        form["accessList"] = []
    if kind == 2:
        form["maxFeePerGas"] = hex(transaction.max_fee_per_gas)
        form["maxPriorityFeePerGas"] = hex(transaction.max_priority_fee_per_gas)
    return form


def _to(transaction: Any) -> str | None:
    return None if transaction.to == CREATE_CONTRACT_ADDRESS else to_checksum_address(transaction.to)


def receipt_json(block: Mined) -> dict[str, Any]:
    """The receipt of the transaction of a block that has one."""
    transaction: Any = block.transaction
    receipt: Any = block.receipt
    created = None
    if transaction.to == CREATE_CONTRACT_ADDRESS:
        created = to_checksum_address(generate_contract_address(transaction.sender, transaction.nonce))
    return {
        **_place(block),
        "from": to_checksum_address(transaction.sender),
        "to": _to(transaction),
        "contractAddress": created,
        "cumulativeGasUsed": hex(receipt.gas_used),
        "gasUsed": hex(receipt.gas_used),
        "effectiveGasPrice": hex(_price_wei(block)),
        "logs": list(logs(block)),
        "logsBloom": "0x" + receipt.bloom.to_bytes(256, "big").hex(),
        "status": "0x1" if receipt.state_root == EIP658_TRANSACTION_STATUS_CODE_SUCCESS else "0x0",
        "type": hex(getattr(transaction, "type_id", None) or 0),
    }


def logs(block: Mined) -> Iterator[dict[str, Any]]:
    """The events of a block."""
    if block.receipt is None:
        return
    for index, log in enumerate(block.receipt.logs):
        yield {
            **_place(block),
            "address": to_checksum_address(log.address),
            "topics": ["0x" + topic.to_bytes(32, "big").hex() for topic in log.topics],
            "data": "0x" + log.data.hex(),
            "logIndex": hex(index),
            "removed": False,
        }
