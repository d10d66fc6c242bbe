"""One account's way to an EVM chain: ask, send, wait, and say clearly what went wrong.

Synchronous and made for a worker thread (`p2pfl.evm.worker` wraps it for trio). Knows JSON-RPC, nonces, gas
and receipts; what the contracts mean is in `staking`. A chain that does not answer is tried again a few times
and then reported as ChainUnreachable: the caller decides whether to go on without it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

import requests
from eth_account import Account
from eth_account.signers.local import LocalAccount
from web3 import Web3
from web3.exceptions import (
    BadResponseFormat,
    ContractCustomError,
    ContractLogicError,
    RequestTimedOut,
    TransactionNotFound,
    Web3RPCError,
    Web3ValueError,
)
from web3.types import RPCEndpoint

from consensus.types import MemberId
from p2pfl.errors import UserError
from p2pfl.evm.reverts import Reverted, decode_revert

T = TypeVar("T")

REQUEST_SECONDS_MAX = 10.0
# Waits of 0.2, 0.4, 0.8, 1.6 s: a node that is being restarted is back, a dead one has not cost long.
ATTEMPTS = 5
BACKOFF_S, BACKOFF_MAX_S = 0.2, 5.0
# A deployment of our largest contract takes 2.3 million, everything else less than half a million.
GAS_MAX = 6_000_000
# What others do between estimate and execution may cost a little more than was estimated.
GAS_MARGIN_PERCENT = 20
# Above this, somebody is being robbed or something is broken: ask a person.
GAS_PRICE_MAX_WEI = 1_000 * 10**9
NONCE_ATTEMPTS = 4
POLL_S, POLL_MAX_S = 0.02, 1.0
MINED_SECONDS_MAX = 180.0
# What public providers take in one eth_getLogs, and how far back we look in all.
LOG_BLOCKS, LOG_BLOCKS_MAX = 5_000, 200_000


class ChainUnreachable(UserError):
    """The chain did not answer. Nothing is known about what was asked; asking again is safe."""

    def __init__(self, url: str, because: str) -> None:
        super().__init__(
            f"the chain at {without_secrets(url)} does not answer",
            because=because,
            fix="check chain.rpc and that the chain is running; what was asked can be asked again",
        )


class NotMined(UserError):
    """A transaction was sent and no block took it in time. It may still be taken."""

    def __init__(self, transaction: bytes, seconds: float) -> None:
        super().__init__(
            f"transaction 0x{transaction.hex()} is not in a block",
            because=f"{seconds:.0f} seconds passed",
            fix="wait, or look it up in a block explorer; asking again does not pay twice",
        )
        self.transaction = transaction


@dataclass(frozen=True, slots=True)
class Mined:
    """A transaction that succeeded. contract: the address that it made, if it made one."""

    transaction: bytes
    block: int
    gas_used: int
    contract: MemberId | None = None


class Client:
    """One account (or none, for questions only) on one chain. Safe to use from several threads."""

    def __init__(
        self, url: str, *, key: bytes | None = None, attempts: int = ATTEMPTS,
        mined_seconds_max: float = MINED_SECONDS_MAX, sleep: Callable[[float], None] = time.sleep,
    ) -> None:  # fmt: skip
        """key: the secret of the account that pays (32 bytes). sleep: how to wait between attempts."""
        self.url = url
        self._attempts = attempts
        self._mined_seconds_max = mined_seconds_max
        self._sleep = sleep
        self._session = requests.Session()
        # A proxy from the environment must not see what goes to this machine.
        self._session.trust_env = urlsplit(url).hostname not in {"127.0.0.1", "localhost", "::1"}
        provider = Web3.HTTPProvider(
            url,
            request_kwargs={"timeout": REQUEST_SECONDS_MAX},
            session=self._session,
            exception_retry_configuration=None,
            # web3 asks for the chain id before each call and transaction; `connect` has compared it.
            cache_allowed_requests=True,
            cacheable_requests={RPCEndpoint("eth_chainId")},
        )
        self.web3 = Web3(provider)
        self.account: LocalAccount | None = None if key is None else Account.from_key(key)
        self._lock = threading.Lock()
        self.chain_id = 0

    @classmethod
    def open(
        cls, url: str, *, key: bytes | None = None, chain_id: int | None = None, **options: Any
    ) -> Client:
        """A client whose chain answers and is the expected one. Raises UserError."""
        client = cls(url, key=key, **options)
        try:
            client.connect(chain_id)
        except BaseException:
            client.close()
            raise
        return client

    def connect(self, chain_id: int | None = None) -> None:
        """Ask which chain it is. Raises UserError when it is another one than expected."""
        found = self.ask(lambda: self.web3.eth.chain_id)
        if chain_id is not None and found != chain_id:
            raise UserError(
                f"{without_secrets(self.url)} is the wrong chain",
                because=f"its id is {found}, the network's genesis names {chain_id}",
                fix="set chain.rpc to a node of that chain",
            )
        self.chain_id = found

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def address(self) -> MemberId:
        """The account's address. Raises UserError without an account."""
        return MemberId(bytes.fromhex(self._payer().address[2:]))

    # -- questions

    def ask(self, question: Callable[[], T], what: str = "answer") -> T:
        """Ask, again after a while if nobody answers. Raises ChainUnreachable, Reverted, UserError."""
        for attempt in range(self._attempts):
            try:
                return question()
            except ContractLogicError as error:
                raise decode_revert(_revert_data(error), what) from error
            except TransactionNotFound:
                raise
            except (requests.RequestException, BadResponseFormat, RequestTimedOut, ConnectionError) as error:
                because = f"{type(error).__name__}: {error}"
            except Web3RPCError as error:
                raise self._refused(_message(error), what) from error
            except ValueError as error:  # Not JSON: something else listens there.
                if isinstance(error, Web3ValueError):
                    raise
                because = f"the answer is not JSON-RPC: {error}"
            if attempt + 1 < self._attempts:
                self._sleep(min(BACKOFF_MAX_S, BACKOFF_S * 2**attempt))
        raise ChainUnreachable(self.url, because)

    def time_s(self) -> int:
        """The chain's clock: the time of its newest block."""
        block: Any = self.ask(lambda: self.web3.eth.get_block("latest"))
        return block["timestamp"]

    def code(self, address: MemberId) -> bytes:
        """The code at an address; empty if there is no contract."""
        return bytes(self.ask(lambda: self.web3.eth.get_code(checksum(address))))

    def balance_wei(self, address: MemberId) -> int:
        """What an account has."""
        return self.ask(lambda: self.web3.eth.get_balance(checksum(address)))

    def logs(self, event: Any, filters: dict[str, Any], first: int, last: int | None = None) -> list[Any]:
        """The events of a contract in these blocks, oldest first; of the newest LOG_BLOCKS_MAX at most."""
        end = self.ask(lambda: self.web3.eth.block_number) if last is None else last
        start = max(first, end + 1 - LOG_BLOCKS_MAX)
        found: list[Any] = []
        while start <= end:
            stop = min(end, start + LOG_BLOCKS - 1)
            span = (start, stop)
            found += self.ask(
                lambda span=span: event.get_logs(
                    argument_filters=filters, from_block=span[0], to_block=span[1]
                )
            )
            start = stop + 1
        return found

    # -- transactions

    def transact(self, call: Any, what: str, *, value_wei: int = 0) -> Mined:
        """Send a call of a contract (or a constructor) and wait until it is mined.

        what: a verb phrase for errors. Raises Reverted (before it costs anything, where that can be known),
        ChainUnreachable, NotMined, UserError.
        """
        payer = self._payer()
        with self._lock:  # One nonce after the other.
            for _ in range(NONCE_ATTEMPTS):
                request = self._prepare(call, what, value_wei)
                signed: Any = payer.sign_transaction(request)
                digest = bytes(signed.hash)
                if self._send(bytes(signed.raw_transaction), digest, what):
                    break
            else:
                raise UserError(
                    f"the account {payer.address} could not {what}",
                    because="another program sends transactions from it at the same time",
                    fix="give every process an account of its own",
                )
        return self._await(digest, request, what)

    def _prepare(self, call: Any, what: str, value_wei: int) -> dict[str, Any]:
        payer = self._payer().address
        gas = self.ask(lambda: call.estimate_gas({"from": payer, "value": value_wei}), what)
        gas += gas * GAS_MARGIN_PERCENT // 100
        if gas > GAS_MAX:
            raise UserError(
                f"it is too much work to {what}",
                because=f"the chain estimates {gas} gas, the limit is {GAS_MAX}",
                fix="check that the addresses are those of our contracts",
            )
        block: Any = self.ask(lambda: self.web3.eth.get_block("latest"))
        tip = self.ask(lambda: self.web3.eth.max_priority_fee)
        price = 2 * block["baseFeePerGas"] + tip  # Base fees at most double in six blocks.
        if price > GAS_PRICE_MAX_WEI:
            raise UserError(
                f"gas is too dear to {what}",
                because=f"{price} wei a unit, the limit is {GAS_PRICE_MAX_WEI}",
                fix="try again when the chain is less busy",
            )
        nonce = self.ask(lambda: self.web3.eth.get_transaction_count(self._payer().address, "pending"))
        return dict(
            call.build_transaction(
                {
                    "from": payer,
                    "value": value_wei,
                    "gas": gas,
                    "nonce": nonce,
                    "chainId": self.chain_id,
                    "maxFeePerGas": price,
                    "maxPriorityFeePerGas": tip,
                }
            )
        )

    def _send(self, raw: bytes, digest: bytes, what: str) -> bool:
        """Send it. True if the chain has it, from this or an earlier attempt; False if the nonce is taken."""
        try:
            self.ask(lambda: self.web3.eth.send_raw_transaction(raw), what)
        except _Taken:
            return self._find(digest) is not None
        return True

    def _await(self, digest: bytes, request: dict[str, Any], what: str) -> Mined:
        waited, pause = 0.0, POLL_S
        while True:
            receipt = self._find(digest)
            if receipt is not None:
                break
            if waited >= self._mined_seconds_max:
                raise NotMined(digest, waited)
            self._sleep(pause)
            waited, pause = waited + pause, min(POLL_MAX_S, 2 * pause)
        if receipt["status"] != 1:
            raise self._why(request, receipt["blockNumber"], digest, what)
        made = receipt.get("contractAddress")
        return Mined(
            transaction=digest,
            block=receipt["blockNumber"],
            gas_used=receipt["gasUsed"],
            contract=MemberId(bytes.fromhex(made[2:])) if made else None,
        )

    def _find(self, digest: bytes) -> Any | None:
        """The receipt; None while there is none."""
        try:
            return self.ask(lambda: self.web3.eth.get_transaction_receipt(digest))  # type: ignore[arg-type]
        except TransactionNotFound:
            return None

    def _why(self, request: dict[str, Any], block: int, digest: bytes, what: str) -> Reverted:
        """Why it failed when it was mined: the same call again on the state that it left."""
        keys = ("from", "to", "value", "data", "gas")
        again: Any = {key: request[key] for key in keys if key in request}
        try:
            self.ask(lambda: self.web3.eth.call(again, block), what)
        except Reverted as error:
            return Reverted(error.name, error.arguments, what, digest)
        except UserError:
            pass
        return Reverted("", {}, what, digest)

    def _refused(self, message: str, what: str) -> UserError:
        """What a node means when it takes no transaction. Nodes agree on the words more than on the codes."""
        lower = message.lower()
        if any(
            words in lower for words in ("nonce too", "already known", "known transaction", "underpriced")
        ):
            return _Taken(message)
        if "insufficient funds" in lower:
            who = "the account" if self.account is None else self.account.address
            return UserError(
                f"cannot {what}", because=f"{who} has too little ether: {message}", fix="send it some"
            )
        return UserError(
            f"the chain refused to {what}",
            because=message,
            fix="see the words of the node above; nothing was sent",
        )

    def _payer(self) -> LocalAccount:
        if self.account is None:
            raise UserError(
                "there is no account to pay with",
                because="this needs a transaction, and no stake key was given",
                fix="set stake.key_file and stake.password_file",
            )
        return self.account


class _Taken(UserError):
    """This nonce is used already, perhaps by this very transaction."""

    def __init__(self, message: str) -> None:
        super().__init__("the nonce is taken", because=message, fix="try again")


def checksum(address: bytes) -> Any:
    """An address as web3 wants it."""
    return Web3.to_checksum_address("0x" + address.hex())


def without_secrets(url: str) -> str:
    """A URL without the user, path and query in which providers put their keys."""
    parts = urlsplit(url)
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{parts.hostname or ''}{port}"


def _revert_data(error: ContractLogicError) -> bytes:
    data = error.data
    if isinstance(error, ContractCustomError) and not data:
        data = error.message
    return bytes.fromhex(data[2:]) if isinstance(data, str) and data.startswith("0x") else b""


def _message(error: Web3RPCError) -> str:
    response: Any = error.rpc_response
    if isinstance(response, dict) and isinstance(response.get("error"), dict):
        return str(response["error"].get("message", error))
    return str(error)
