"""The JSON-RPC methods of an Ethereum node, over `testnet.pyevm`.

Exactly what web3 asks a development chain for, with the same names and forms as `anvil` gives them. Reverts
carry their data (code 3), so that custom errors can be decoded. Knows no sockets.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

from testnet.pyevm import TIP_WEI, Call, Mined, PyEvmChain, Refused, Reverted
from testnet.pyevm_forms import block_json, logs, receipt_json, transaction_json

CLIENT_VERSION = "p2pfl-devchain/py-evm"
# JSON-RPC 2.0 section 5.1, and what Ethereum nodes use besides.
PARSE_ERROR, BAD_REQUEST, NO_METHOD, BAD_PARAMETERS, INTERNAL = -32700, -32600, -32601, -32602, -32603
REFUSED, REVERTED = -32000, 3
FEE_HISTORY_MAX = 1024

Method = Callable[[PyEvmChain, list[Any]], Any]
METHODS: dict[str, Method] = {}


def method(name: str) -> Callable[[Method], Method]:
    """Put a function into the table under its JSON-RPC name."""

    def put(function: Method) -> Method:
        METHODS[name] = function
        return function

    return put


def answer(chain: PyEvmChain, request: Any) -> dict[str, Any]:
    """The JSON-RPC response to one decoded request. Never raises."""
    if not isinstance(request, dict) or not isinstance(request.get("method"), str):
        return failure(None, BAD_REQUEST, "not a JSON-RPC request")
    number, name, parameters = request.get("id"), request["method"], request.get("params") or []
    if name not in METHODS:
        return failure(number, NO_METHOD, f"there is no method {name}")
    try:
        return {"jsonrpc": "2.0", "id": number, "result": METHODS[name](chain, parameters)}
    except Refused as error:
        return failure(number, REFUSED, str(error))
    except Reverted as error:
        return failure(number, REVERTED, str(error), "0x" + error.data.hex())
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        traceback.print_exc()
        return failure(number, BAD_PARAMETERS, f"{name}: {type(error).__name__}: {error}")
    except Exception as error:  # noqa: BLE001 - the chain serves sixteen others; the trace goes to its log.
        traceback.print_exc()
        return failure(number, INTERNAL, f"{name}: {type(error).__name__}: {error}")


def failure(number: Any, code: int, message: str, data: str | None = None) -> dict[str, Any]:
    """A JSON-RPC error response."""
    error: dict[str, Any] = {"code": code, "message": message}
    if data is not None:
        error["data"] = data
    return {"jsonrpc": "2.0", "id": number, "error": error}


# ---------------------------------------------------------------------------
# Words of JSON-RPC: quantities are hex without leading zeros, data is hex in pairs.


def _data(value: Any) -> bytes:
    if not isinstance(value, str) or not value.startswith("0x"):
        raise ValueError(f"{value!r} is not 0x-prefixed data")
    return bytes.fromhex(value[2:])


def _address(value: Any) -> bytes:
    found = _data(value)
    if len(found) != 20:
        raise ValueError(f"{value!r} is not an address")
    return found


def _quantity(value: Any) -> int:
    return value if isinstance(value, int) else int(value, 16)


def _block(chain: PyEvmChain, tag: Any) -> Mined | None:
    """The block that a tag or number names; None if there is none. "pending" is the newest: nothing waits."""
    if tag in {None, "latest", "pending", "safe", "finalized"}:
        return chain.head
    number = 0 if tag == "earliest" else _quantity(tag)
    return chain.blocks[number] if 0 <= number < len(chain.blocks) else None


def _known_block(chain: PyEvmChain, tag: Any) -> Mined:
    block = _block(chain, tag)
    if block is None:
        raise Refused(f"there is no block {tag}")
    return block


def _call_of(request: dict[str, Any]) -> Call:
    to = request.get("to")
    return Call(
        sender=_address(request["from"]) if request.get("from") else bytes(20),
        to=_address(to) if to else None,
        value=_quantity(request.get("value") or 0),
        data=_data(request.get("data") or request.get("input") or "0x"),
        gas=_quantity(request["gas"]) if request.get("gas") else None,
    )


# ---------------------------------------------------------------------------
# Methods.


@method("web3_clientVersion")
def _(_chain: PyEvmChain, _: list[Any]) -> str:
    return CLIENT_VERSION


@method("net_version")
def _(chain: PyEvmChain, _: list[Any]) -> str:
    return str(chain.chain_id)


@method("eth_chainId")
def _(chain: PyEvmChain, _: list[Any]) -> str:
    return hex(chain.chain_id)


@method("eth_syncing")
def _(_chain: PyEvmChain, _: list[Any]) -> bool:
    return False


@method("eth_blockNumber")
def _(chain: PyEvmChain, _: list[Any]) -> str:
    chain.catch_up()
    return hex(chain.head.header.block_number)


@method("eth_gasPrice")
def _(chain: PyEvmChain, _: list[Any]) -> str:
    return hex(chain.base_fee_wei() + TIP_WEI)


@method("eth_maxPriorityFeePerGas")
def _(_chain: PyEvmChain, _: list[Any]) -> str:
    return hex(TIP_WEI)


@method("eth_feeHistory")
def _(chain: PyEvmChain, parameters: list[Any]) -> dict[str, Any]:
    count = min(_quantity(parameters[0]), FEE_HISTORY_MAX)
    percentiles = parameters[2] if len(parameters) > 2 else None
    newest = _known_block(chain, parameters[1]).header.block_number
    blocks = chain.blocks[max(0, newest + 1 - count) : newest + 1]
    following = chain.blocks[newest + 1].header.base_fee_per_gas if newest + 1 < len(chain.blocks) else None
    fees = [block.header.base_fee_per_gas for block in blocks]
    fees.append(chain.base_fee_wei() if following is None else following)
    history: dict[str, Any] = {
        "oldestBlock": hex(newest + 1 - len(blocks)),
        "baseFeePerGas": [hex(fee) for fee in fees],
        "gasUsedRatio": [block.gas_used / block.header.gas_limit for block in blocks],
    }
    if percentiles:
        history["reward"] = [[hex(TIP_WEI)] * len(percentiles) for _ in blocks]
    return history


@method("eth_getBalance")
def _(chain: PyEvmChain, parameters: list[Any]) -> str:
    block = _known_block(chain, parameters[1] if len(parameters) > 1 else None)
    return hex(chain.state(block).get_balance(_address(parameters[0])))


@method("eth_getTransactionCount")
def _(chain: PyEvmChain, parameters: list[Any]) -> str:
    block = _known_block(chain, parameters[1] if len(parameters) > 1 else None)
    return hex(chain.state(block).get_nonce(_address(parameters[0])))


@method("eth_getCode")
def _(chain: PyEvmChain, parameters: list[Any]) -> str:
    block = _known_block(chain, parameters[1] if len(parameters) > 1 else None)
    return "0x" + chain.state(block).get_code(_address(parameters[0])).hex()


@method("eth_getStorageAt")
def _(chain: PyEvmChain, parameters: list[Any]) -> str:
    block = _known_block(chain, parameters[2] if len(parameters) > 2 else None)
    value = chain.state(block).get_storage(_address(parameters[0]), _quantity(parameters[1]))
    return "0x" + value.to_bytes(32, "big").hex()


@method("eth_call")
def _(chain: PyEvmChain, parameters: list[Any]) -> str:
    tag = parameters[1] if len(parameters) > 1 else "latest"
    # The newest state is asked in a block of now, so that what depends on the time is up to date.
    block = None if tag in {"latest", "pending", "safe", "finalized"} else _known_block(chain, tag)
    return "0x" + chain.call(_call_of(parameters[0]), block).hex()


@method("eth_estimateGas")
def _(chain: PyEvmChain, parameters: list[Any]) -> str:
    return hex(chain.estimate_gas(_call_of(parameters[0])))


@method("eth_sendRawTransaction")
def _(chain: PyEvmChain, parameters: list[Any]) -> str:
    return "0x" + chain.send(_data(parameters[0])).hex()


@method("eth_getBlockByNumber")
def _(chain: PyEvmChain, parameters: list[Any]) -> dict[str, Any] | None:
    if parameters[0] in {"latest", "pending"}:
        chain.catch_up()
    block = _block(chain, parameters[0])
    return None if block is None else block_json(block, full=len(parameters) > 1 and bool(parameters[1]))


@method("eth_getBlockByHash")
def _(chain: PyEvmChain, parameters: list[Any]) -> dict[str, Any] | None:
    wanted = _data(parameters[0])
    for block in reversed(chain.blocks):
        if block.header.hash == wanted:
            return block_json(block, full=len(parameters) > 1 and bool(parameters[1]))
    return None


@method("eth_getTransactionByHash")
def _(chain: PyEvmChain, parameters: list[Any]) -> dict[str, Any] | None:
    number = chain.number_of.get(_data(parameters[0]))
    return None if number is None else transaction_json(chain.blocks[number])


@method("eth_getTransactionReceipt")
def _(chain: PyEvmChain, parameters: list[Any]) -> dict[str, Any] | None:
    number = chain.number_of.get(_data(parameters[0]))
    return None if number is None else receipt_json(chain.blocks[number])


@method("eth_getLogs")
def _(chain: PyEvmChain, parameters: list[Any]) -> list[dict[str, Any]]:
    wanted = parameters[0]
    first, last = _known_block(chain, wanted.get("fromBlock")), _known_block(chain, wanted.get("toBlock"))
    addresses = wanted.get("address") or []
    addresses = {_address(one) for one in ([addresses] if isinstance(addresses, str) else addresses)}
    topics = [
        None if one is None else {_data(each) for each in ([one] if isinstance(one, str) else one)}
        for one in wanted.get("topics") or []
    ]
    found: list[dict[str, Any]] = []
    for block in chain.blocks[first.header.block_number : last.header.block_number + 1]:
        for log in logs(block):
            if addresses and _data(log["address"]) not in addresses:
                continue
            have = [_data(topic) for topic in log["topics"]]
            if len(have) >= len(topics) and all(
                want is None or topic in want for want, topic in zip(topics, have, strict=False)
            ):
                found.append(log)
    return found


@method("evm_increaseTime")
def _(chain: PyEvmChain, parameters: list[Any]) -> int:
    chain.advance(_quantity(parameters[0]))
    return _quantity(parameters[0])


@method("evm_mine")
def _(chain: PyEvmChain, _: list[Any]) -> str:
    chain.mine()
    return "0x0"


@method("evm_snapshot")
def _(chain: PyEvmChain, _: list[Any]) -> str:
    return hex(chain.snapshot())


@method("evm_revert")
def _(chain: PyEvmChain, parameters: list[Any]) -> bool:
    chain.revert(_quantity(parameters[0]))
    return True
