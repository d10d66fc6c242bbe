"""The development chain by itself: it starts, keeps time, and ends with whoever started it."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from eth_account import Account

from p2pfl.errors import UserError
from testnet import devchain
from testnet.pyevm import BALANCE_WEI, Call, PyEvmChain, Refused, Reverted
from testnet.pyevm_rpc import METHODS, answer
from tests.contracts.world import BACKENDS

ROOT = Path(__file__).resolve().parents[2]


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.5

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def chain(clock: Clock) -> PyEvmChain:
    rich = [bytes.fromhex(account.address[2:]) for account in devchain.accounts()[:3]]
    return PyEvmChain(chain_id=7, accounts=rich, clock=clock)


def address(index: int) -> bytes:
    return bytes.fromhex(devchain.accounts()[index].address[2:])


def transfer(nonce: int = 0, *, by: int = 0, value: int = 1, **changes: Any) -> bytes:
    request = {
        "chainId": 7, "nonce": nonce, "gas": 21_000, "to": devchain.accounts()[2].address, "value": value,
        "maxFeePerGas": 3 * 10**9, "maxPriorityFeePerGas": 10**9, "data": b"", "type": 2,
    }  # fmt: skip
    return bytes(devchain.accounts()[by].sign_transaction({**request, **changes}).raw_transaction)


def rpc(chain: PyEvmChain, method: str, *parameters: Any) -> Any:
    return answer(chain, {"jsonrpc": "2.0", "id": 5, "method": method, "params": list(parameters)})


# ---------------------------------------------------------------------------
# The process.


@pytest.mark.parametrize("backend", BACKENDS)
def test_it_starts_answers_and_stops(backend: str) -> None:
    with devchain.start(backend=backend, count=12, chain_id=99) as chain:
        assert chain.backend == backend
        assert ask(chain.port, "eth_chainId")["result"] == hex(99)
        poorest = devchain.accounts()[11].address
        assert int(ask(chain.port, "eth_getBalance", poorest, "latest")["result"], 16) == BALANCE_WEI
    assert chain.process.returncode == 0
    with pytest.raises(ConnectionRefusedError):
        ask(chain.port, "eth_chainId")


def ask(port: int, method: str, *parameters: Any) -> Any:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": list(parameters)})
        connection.request("POST", "/", body, {"Content-Type": "application/json"})
        return json.loads(connection.getresponse().read())
    finally:
        connection.close()


@pytest.mark.parametrize("backend", BACKENDS)
def test_it_listens_on_this_machine_only(backend: str) -> None:
    with devchain.start(backend=backend, count=1) as chain:
        assert chain.url == f"http://127.0.0.1:{chain.port}"
        # A second address of this machine (all of 127/8 is): a server on every interface would answer there.
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.2", chain.port), timeout=5).close()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_port_in_use_is_reported(backend: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UserError) as caught:
            devchain.start(backend=backend, port=taken.getsockname()[1])
    assert "in use" in caught.value.because.lower()
    assert "--port" in caught.value.fix or "port" in caught.value.fix


def test_anvil_that_is_not_there_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="not on the PATH"):
        devchain.start(backend="anvil")


def test_it_dies_with_whoever_started_it(tmp_path: Path) -> None:
    program = "from testnet import devchain; print(devchain.start(backend='pyevm').pid, flush=True); input()"
    parent = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert parent.stdout is not None
    assert parent.stdin is not None
    child = int(parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdin.close()
    parent.stdout.close()
    gone = threading.Event()
    for _ in range(100):
        if not alive(child):
            break
        gone.wait(0.1)
    assert not alive(child)


def alive(pid: int) -> bool:
    try:
        return " Z " not in (Path("/proc") / str(pid) / "stat").read_text(encoding="utf-8")
    except OSError:
        return False


def test_the_accounts_are_the_well_known_ones() -> None:
    assert devchain.accounts()[0].address == "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266"
    assert devchain.accounts()[9].address == "0xa0Ee7A142d267C1f36714E4a8F75612F20a79720"
    assert len({account.address for account in devchain.accounts()}) == devchain.ACCOUNTS


def test_bad_requests_are_answered(tmp_path: Path) -> None:
    log = tmp_path / "chain.log"
    with devchain.start(backend="pyevm", count=1, log=log) as chain:
        connection = http.client.HTTPConnection("127.0.0.1", chain.port, timeout=10)

        def post(body: str) -> Any:
            connection.request("POST", "/", body)
            return json.loads(connection.getresponse().read())

        assert post("not json")["error"]["code"] == -32700
        assert post("7")["error"]["code"] == -32600
        assert post('{"id": 1, "method": "eth_sendTransaction"}')["error"]["code"] == -32601
        assert (
            post('{"id": 1, "method": "eth_getBalance", "params": ["nonsense"]}')["error"]["code"] == -32602
        )
        assert [one["id"] for one in post(json.dumps([{"id": 3, "method": "eth_chainId"}] * 2))] == [3, 3]
        assert post(json.dumps([{"id": 3}] * (devchain.BATCH_MAX + 1)))["error"]["code"] == -32600
        connection.close()
        large = http.client.HTTPConnection("127.0.0.1", chain.port, timeout=10)
        large.putrequest("POST", "/")
        large.putheader("Content-Length", str(devchain.REQUEST_BYTES_MAX + 1))
        large.endheaders()
        assert large.getresponse().status == 413
        large.close()
        assert ask(chain.port, "eth_chainId")["result"] == hex(devchain.CHAIN_ID)
    assert "nonsense" in log.read_text(encoding="utf-8")


# ---------------------------------------------------------------------------
# Time.


def test_block_time_follows_the_clock(chain: PyEvmChain, clock: Clock) -> None:
    first = int(rpc(chain, "eth_getBlockByNumber", "latest", False)["result"]["timestamp"], 16)
    clock.now += 30
    later = int(rpc(chain, "eth_getBlockByNumber", "latest", False)["result"]["timestamp"], 16)
    assert later == first + 30


def test_blocks_of_one_second_run_ahead_and_time_still_passes(chain: PyEvmChain, clock: Clock) -> None:
    start = chain.head.header.timestamp
    for nonce in range(5):
        chain.send(transfer(nonce))
    assert [block.header.timestamp - start for block in chain.blocks] == [0, 1, 2, 3, 4, 5]
    clock.now += 2
    chain.catch_up()
    assert chain.head.header.timestamp == start + 7
    assert len(chain.blocks) == 7
    chain.catch_up()  # Nothing has passed since.
    assert len(chain.blocks) == 7


def test_the_clock_can_be_moved_forward_only(chain: PyEvmChain) -> None:
    before = chain.now_s()
    assert rpc(chain, "evm_increaseTime", 100)["result"] == 100
    rpc(chain, "evm_mine")
    assert chain.head.header.timestamp == before + 100
    assert rpc(chain, "evm_increaseTime", -1)["error"]["message"] == "time does not run backwards"


# ---------------------------------------------------------------------------
# Transactions.


def test_a_transaction_is_mined_at_once_and_once(chain: PyEvmChain) -> None:
    raw = transfer(value=5)
    digest = rpc(chain, "eth_sendRawTransaction", "0x" + raw.hex())["result"]
    receipt = rpc(chain, "eth_getTransactionReceipt", digest)["result"]
    assert (receipt["status"], receipt["gasUsed"], receipt["blockNumber"]) == ("0x1", hex(21_000), "0x1")
    assert chain.state().get_balance(address(2)) == BALANCE_WEI + 5
    assert rpc(chain, "eth_getTransactionByHash", digest)["result"]["value"] == "0x5"
    block = rpc(chain, "eth_getBlockByNumber", "0x1", True)["result"]
    assert block["transactions"][0]["hash"] == digest
    assert rpc(chain, "eth_getBlockByHash", block["hash"], False)["result"]["transactions"] == [digest]
    assert rpc(chain, "eth_sendRawTransaction", "0x" + raw.hex())["error"]["message"] == "already known"


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (transfer(1), "nonce too high"),
        (transfer(value=2 * BALANCE_WEI), "insufficient funds"),
        (transfer(maxFeePerGas=1, maxPriorityFeePerGas=1), "max fee"),
        (transfer(gas=20_000), "gas"),
        (transfer(chainId=8), "wrong chain id 8"),
        (b"\x02nonsense", "not a signed transaction"),
        (b"", "not a signed transaction"),
    ],
)
def test_a_bad_transaction_is_refused_and_changes_nothing(chain: PyEvmChain, raw: bytes, words: str) -> None:
    with pytest.raises(Refused, match=words):
        chain.send(raw)
    assert len(chain.blocks) == 1
    chain.send(transfer())
    with pytest.raises(Refused, match="nonce too low"):
        chain.send(transfer(value=9))


def test_what_a_contract_returns_with_its_revert_reaches_the_caller(chain: PyEvmChain) -> None:
    # mstore8(31, 7); revert(0, 32)
    code = bytes.fromhex("6007601f5360206000fd")
    with pytest.raises(Reverted) as caught:
        chain.call(Call(address(0), None, 0, code, None))
    assert caught.value.data == (7).to_bytes(32, "big")
    request = {"from": "0x" + address(0).hex(), "data": "0x" + code.hex()}
    for method in ("eth_call", "eth_estimateGas"):
        error = rpc(chain, method, request, "latest")["error"]
        assert (error["code"], error["data"]) == (3, "0x" + (7).to_bytes(32, "big").hex())
    with pytest.raises(Reverted) as caught:
        chain.call(Call(address(0), None, 0, b"\xfe", None))
    assert caught.value.data == b""


def test_an_estimate_is_enough_and_not_much_more(chain: PyEvmChain) -> None:
    # Writes 60 slots: sstore(i, 1) for i in 0..59.
    code = b"".join(bytes([0x60, 1, 0x60, slot, 0x55]) for slot in range(60))
    gas = chain.estimate_gas(Call(address(0), None, 0, code, None))
    chain.send(transfer(gas=gas, to=b"", data=code, value=0))
    receipt = rpc(chain, "eth_getTransactionReceipt", "0x" + chain.head.transaction.hash.hex())["result"]
    assert receipt["status"] == "0x1"
    assert int(receipt["gasUsed"], 16) <= gas <= 1.1 * int(receipt["gasUsed"], 16)


def test_who_has_nothing_can_ask_but_not_spend(chain: PyEvmChain) -> None:
    poor = b"\x05" * 20
    assert chain.call(Call(poor, address(1), 0, b"", None)) == b""
    with pytest.raises(Refused, match="insufficient funds"):
        chain.call(Call(poor, address(1), 1, b"", None))
    assert chain.state().get_balance(poor) == 0


def test_snapshots_bring_back_the_state_and_not_the_time(chain: PyEvmChain, clock: Clock) -> None:
    chain.send(transfer(value=5))
    mark = rpc(chain, "evm_snapshot")["result"]
    time_s = chain.now_s()
    raw = transfer(1, value=6)
    chain.send(raw)
    assert rpc(chain, "evm_revert", mark)["result"] is True
    assert chain.state().get_balance(address(2)) == BALANCE_WEI + 5
    assert chain.now_s() >= time_s
    chain.send(raw)
    assert chain.state().get_balance(address(2)) == BALANCE_WEI + 11
    assert rpc(chain, "evm_revert", hex(99))["error"]["message"] == "no snapshot 99"


# ---------------------------------------------------------------------------
# Questions.


def test_past_states_can_be_asked(chain: PyEvmChain) -> None:
    chain.send(transfer(value=5))
    chain.send(transfer(1, value=5))
    account = "0x" + address(2).hex()
    balances = [int(rpc(chain, "eth_getBalance", account, hex(n))["result"], 16) for n in range(3)]
    assert balances == [BALANCE_WEI, BALANCE_WEI + 5, BALANCE_WEI + 10]
    assert rpc(chain, "eth_getTransactionCount", "0x" + address(0).hex(), "pending")["result"] == "0x2"
    assert rpc(chain, "eth_getBlockByNumber", "0x63", False)["result"] is None
    assert "no block" in rpc(chain, "eth_getBalance", account, "0x63")["error"]["message"]
    assert rpc(chain, "eth_getTransactionReceipt", "0x" + "00" * 32)["result"] is None


def test_logs_are_found_by_block_address_and_topic(chain: PyEvmChain) -> None:
    # The runtime logs one topic, the first word of its input: log1(0, 0, calldataload(0)).
    runtime = bytes.fromhex("60003560006000a1")
    load = bytes([0x67, *runtime, 0x60, 0, 0x52, 0x60, len(runtime), 0x60, 24, 0xF3])
    chain.send(transfer(gas=200_000, to=b"", data=load, value=0))
    created = rpc(chain, "eth_getTransactionReceipt", "0x" + chain.head.transaction.hash.hex())["result"]
    where = created["contractAddress"]
    assert rpc(chain, "eth_getCode", where, "latest")["result"] == "0x" + runtime.hex()
    topics = [bytes([at]) * 32 for at in (1, 2, 1)]
    for nonce, topic in enumerate(topics, start=1):
        chain.send(transfer(nonce, gas=60_000, to=where, data=topic, value=0))
    names = ["0x" + topic.hex() for topic in topics]

    def find(**wanted: Any) -> list[int]:
        found = rpc(chain, "eth_getLogs", {"fromBlock": "0x0", "toBlock": "latest", **wanted})["result"]
        return [int(log["blockNumber"], 16) for log in found]

    assert find() == [2, 3, 4]
    assert find(address=where) == [2, 3, 4]
    assert find(address=["0x" + "11" * 20]) == []
    assert find(topics=[names[0]]) == [2, 4]
    assert find(topics=[[names[0], names[1]]]) == [2, 3, 4]
    assert find(topics=[None]) == [2, 3, 4]
    assert find(topics=[None, names[0]]) == []
    assert find(fromBlock="0x3", toBlock="0x3") == [3]


def test_every_method_that_web3_needs_is_there() -> None:
    needed = [
        "chainId", "blockNumber", "getBalance", "getTransactionCount", "gasPrice", "feeHistory",
        "maxPriorityFeePerGas", "estimateGas", "call", "sendRawTransaction", "getTransactionReceipt",
        "getLogs", "getCode", "getBlockByNumber", "getTransactionByHash", "getBlockByHash", "getStorageAt",
        "syncing",
    ]  # fmt: skip
    assert {f"eth_{name}" for name in needed} <= set(METHODS)


def test_fees_are_told_as_nodes_tell_them(chain: PyEvmChain) -> None:
    chain.send(transfer())
    history = rpc(chain, "eth_feeHistory", "0x5", "latest", [50])["result"]
    assert history["oldestBlock"] == "0x0"
    assert len(history["baseFeePerGas"]) == 3
    assert len(history["gasUsedRatio"]) == len(history["reward"]) == 2
    assert int(rpc(chain, "eth_gasPrice")["result"], 16) == int(history["baseFeePerGas"][-1], 16) + 10**9


def test_older_kinds_of_transactions_are_taken_too(chain: PyEvmChain) -> None:
    plain = {
        "chainId": 7,
        "nonce": 0,
        "gas": 21_000,
        "to": devchain.accounts()[2].address,
        "value": 1,
        "data": b"",
    }
    raw = Account.sign_transaction({**plain, "gasPrice": 3 * 10**9}, devchain.accounts()[0].key)
    digest = rpc(chain, "eth_sendRawTransaction", "0x" + bytes(raw.raw_transaction).hex())["result"]
    told = rpc(chain, "eth_getTransactionByHash", digest)["result"]
    assert (told["type"], told["gasPrice"]) == ("0x0", hex(3 * 10**9))
