"""Asking and sending: what goes wrong is said, and what went through is not sent again."""

from __future__ import annotations

import socket
import threading
from typing import Any

import pytest

from consensus.types import MemberId
from contracts.build import JOBS
from p2pfl.errors import UserError
from p2pfl.evm import ChainUnreachable, Client, Mined, NotMined, Reverted
from p2pfl.evm.client import ATTEMPTS, BACKOFF_S, checksum, without_secrets
from p2pfl.evm.reverts import _FIXES, CONTRACTS, _errors, decode_revert
from tests.contracts.test_faults_of_others import a_hostile_account
from tests.contracts.world import OWNER, STAKE_WEI, STRANGER, World, id_of
from tests.evm.flaky import Flaky


def key_of(world: World, index: int) -> bytes:
    return bytes(world.accounts[index].key)


def patient(flaky: Flaky, world: World, index: int = STRANGER) -> tuple[Client, list[float]]:
    """A client over the flaky way that only notes how long it would have slept."""
    slept: list[float] = []
    return Client.open(flaky.url, key=key_of(world, index), sleep=slept.append), slept


def top_up(world: World, client: Client) -> Any:
    contract = client.web3.eth.contract(address=world.registry.address, abi=world.registry.abi)
    return contract.functions.topUp(id_of(world.members[0]))


# ---------------------------------------------------------------------------
# A chain that is not there, or not the right one.


def test_the_wrong_chain_is_refused_at_the_start(world: World) -> None:
    with pytest.raises(UserError, match="its id is 31337, the network's genesis names 5"):
        Client.open(world.url, chain_id=5)


def test_a_dead_chain_is_tried_a_few_times_and_then_reported() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # Bound and not listening: nobody answers there.
        slept: list[float] = []
        with pytest.raises(ChainUnreachable) as caught:
            Client.open(f"http://127.0.0.1:{taken.getsockname()[1]}/secret", sleep=slept.append)
    assert slept == [BACKOFF_S * 2**attempt for attempt in range(ATTEMPTS - 1)]
    assert "secret" not in caught.value.what
    assert "chain.rpc" in caught.value.fix


@pytest.mark.parametrize("fault", ["drop", "503", "garbage", "lose"])
def test_a_chain_that_stumbles_is_asked_again(flaky: Flaky, world: World, fault: str) -> None:
    client, slept = patient(flaky, world)
    with client:
        flaky.faults = [fault] * (ATTEMPTS - 1)
        assert client.balance_wei(world.account(STRANGER)) > 0
        assert len(slept) == ATTEMPTS - 1
        flaky.faults = [fault] * ATTEMPTS
        with pytest.raises(ChainUnreachable):
            client.balance_wei(world.account(STRANGER))
        # It is back: so is everything.
        assert client.balance_wei(world.account(STRANGER)) > 0


def test_an_url_is_shown_without_what_providers_hide_in_it() -> None:
    assert without_secrets("https://user:pass@rpc.example:8545/v3/0123?key=4") == "https://rpc.example:8545"
    assert without_secrets("http://127.0.0.1:8545") == "http://127.0.0.1:8545"


# ---------------------------------------------------------------------------
# Transactions.


def staker_client(world: World, flaky: Flaky) -> tuple[Client, list[float]]:
    return patient(flaky, world, world.staker(world.members[0]))


@pytest.mark.parametrize("fault", ["drop", "lose", "503"])
def test_a_transaction_whose_answer_is_lost_is_paid_once(flaky: Flaky, world: World, fault: str) -> None:
    client, _ = staker_client(world, flaky)
    with client:
        flaky.only, flaky.faults = "eth_sendRawTransaction", [fault, fault]
        mined = client.transact(top_up(world, client), "top up", value_wei=5)
    assert world.stake(world.members[0]) == STAKE_WEI + 5
    assert world.client.web3.eth.get_transaction_receipt(mined.transaction)["status"] == 1  # type: ignore[arg-type]


def test_without_an_account_only_questions_are_possible(world: World) -> None:
    with Client.open(world.url) as client:
        assert client.time_s() > 0
        with pytest.raises(UserError, match=r"stake\.key_file"):
            client.transact(top_up(world, client), "top up", value_wei=1)


def test_an_account_without_money_is_told(world: World) -> None:
    with Client.open(world.url, key=b"\x11" * 32) as client:
        contract = client.web3.eth.contract(address=world.registry.address, abi=world.registry.abi)
        with pytest.raises(UserError, match="too little ether"):
            client.transact(
                contract.functions.deposit(id_of(world.spare[0]), b""), "deposit", value_wei=STAKE_WEI
            )
        with pytest.raises(UserError, match="too little ether"):
            # No value: the estimate succeeds, the gas cannot be paid.
            client.transact(a_call_that_succeeds(world, client), "skim")


def a_call_that_succeeds(world: World, client: Client) -> Any:
    account = a_hostile_account(world)
    return client.web3.eth.contract(address=account.address, abi=account.abi).functions.setRefuses(True)


def test_two_threads_of_one_account_do_not_take_each_others_nonce(world: World) -> None:
    client = world.client_of(world.staker(world.members[0]))
    results: list[Any] = []

    def work() -> None:
        try:
            results.append(client.transact(top_up(world, client), "top up", value_wei=1))
        except UserError as error:
            results.append(error)

    together(work, 4)
    assert [type(result) for result in results] == [Mined] * 4, results
    assert world.stake(world.members[0]) == STAKE_WEI + 4


def test_two_programs_with_one_account_try_again(world: World) -> None:
    index = world.staker(world.members[0])
    clients = [Client.open(world.url, key=key_of(world, index)) for _ in range(3)]
    results: list[Any] = []

    def work(client: Client, value: int) -> None:
        try:
            client.transact(top_up(world, client), "top up", value_wei=value)
            results.append(value)
        except UserError as error:
            results.append(error)

    # Different values: two equal transactions of one account and nonce are one, and that is how we want it.
    threads = [threading.Thread(target=work, args=(client, 1 << at)) for at, client in enumerate(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for client in clients:
        client.close()
    paid = [result for result in results if isinstance(result, int)]
    assert world.stake(world.members[0]) == STAKE_WEI + sum(paid)
    assert all("at the same time" in str(result) for result in results if not isinstance(result, int))
    assert paid


def test_more_gas_than_the_limit_is_not_sent(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("p2pfl.evm.client.GAS_MAX", 30_000)
    client = world.client_of(world.staker(world.members[0]))
    with pytest.raises(UserError, match="too much work to top up"):
        client.transact(top_up(world, client), "top up", value_wei=1)


def test_gas_that_is_too_dear_is_not_bought(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("p2pfl.evm.client.GAS_PRICE_MAX_WEI", 1)
    client = world.client_of(world.staker(world.members[0]))
    with pytest.raises(UserError, match="gas is too dear"):
        client.transact(top_up(world, client), "top up", value_wei=1)


def test_a_transaction_that_no_block_takes_is_reported(flaky: Flaky, world: World) -> None:
    client, slept = staker_client(world, flaky)
    with client:
        client._mined_seconds_max = 3.0
        client._find = lambda digest: None  # type: ignore[method-assign]
        with pytest.raises(NotMined) as caught:
            client.transact(top_up(world, client), "top up", value_wei=1)
    assert len(caught.value.transaction) == 32
    assert sum(slept) >= 3.0


def test_what_fails_when_it_is_mined_has_its_reason(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The estimate is skipped, as if somebody else had been quicker after it."""
    client = world.client_of(STRANGER)
    call = top_up(world, client)
    build = call.build_transaction
    monkeypatch.setattr(call, "estimate_gas", lambda _: 100_000)
    monkeypatch.setattr(call, "build_transaction", build)
    with pytest.raises(Reverted) as caught:
        client.transact(call, "top up", value_wei=1)
    assert caught.value.name == "NotTheStaker"
    receipt: Any = client.web3.eth.get_transaction_receipt(caught.value.transaction)  # type: ignore[arg-type]
    assert receipt["status"] == 0


# ---------------------------------------------------------------------------
# Reasons.


def test_a_refusal_says_what_was_refused_why_and_what_helps(world: World) -> None:
    client = world.client_of(STRANGER)
    with pytest.raises(Reverted) as caught:
        client.transact(top_up(world, client), "take the deposit", value_wei=1)
    error = caught.value
    assert error.what == "the contract refused to take the deposit"
    assert error.because == (
        f"NotTheStaker(member {id_of(world.members[0]).lower()}, "
        f"caller {world.accounts[STRANGER].address.lower()})"
    )
    assert "the account that registered this member" in error.fix
    assert error.transaction == b""


def test_built_in_and_unknown_reverts_are_told_too() -> None:
    text = (
        bytes.fromhex("08c379a0")
        + (32).to_bytes(32, "big")
        + (2).to_bytes(32, "big")
        + b"no".ljust(32, b"\0")
    )
    assert decode_revert(text, "go").because == "Error(message no)"
    panic = bytes.fromhex("4e487b71") + (0x11).to_bytes(32, "big")
    assert decode_revert(panic, "go").because == "Panic(code 17)"
    assert decode_revert(b"", "go").because == "it gave no reason"
    assert decode_revert(b"\x01\x02\x03\x04", "go").name == "0x01020304"
    assert decode_revert(panic[:10], "go").name == "Panic"


def test_advice_is_given_for_errors_that_exist() -> None:
    names = {entry["name"] for entry in _errors().values()}
    assert set(_FIXES) <= names
    assert set(CONTRACTS) == {name for job in JOBS[:-1] for name in job.contracts}


def test_an_address_is_written_with_its_checksum() -> None:
    member = MemberId(bytes.fromhex("f39fd6e51aad88f6f4ce6ab8827279cfffb92266"))
    assert checksum(member) == "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266"


def together(work: Any, count: int) -> None:
    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_the_owner_is_the_account_that_deployed(world: World) -> None:
    assert world.client_of(OWNER).address == world.account(OWNER)
