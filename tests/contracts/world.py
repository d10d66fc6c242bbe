"""A chain with the contracts deployed, members staked, a group and a council: where the tests begin.

Each test starts from the same snapshot. Accounts: 0 owns, 1 is the treasury, 2 the veto body, 3 a stranger,
10 and up are the stakers of the members.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from typing import Any

import pytest
from coincurve import PrivateKey

from consensus.signing import ORDER, Domain, address, sign, signing_digest
from consensus.types import Digest, MemberId
from p2pfl.evm import Client, Mined, Reverted, Staking, Terms, deploy
from p2pfl.evm.client import checksum
from p2pfl.evm.reverts import decode_revert
from p2pfl.signed import Verdict
from testnet import devchain

STAKE_WEI = 10**18
WINDOW_S, LIFE_S = 50, 500
TERMS = Terms(
    stake_amount_wei=STAKE_WEI,
    unbonding_s=1_000,
    evidence_age_s=800,
    challenge_window_s=WINDOW_S,
    margin_s=20,
    verdict_life_s=LIFE_S,
)
GROUP = Digest(sha256(b"group").digest())
COUNCIL = Digest(sha256(b"council").digest())
OWNER, TREASURY, VETO, STRANGER, FIRST_STAKER = 0, 1, 2, 3, 10
BACKENDS = ["pyevm"] + (["anvil"] if shutil.which("anvil") else [])


class World:
    """The deployed contracts, with every key of the play."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.accounts = devchain.accounts()
        self._clients: dict[int, Client] = {}
        keys = [PrivateKey(sha256(b"member %d" % index).digest()) for index in range(12)]
        keys.sort(key=lambda key: address(key.public_key))
        # Ascending inside each, and mixed between them.
        self.members, self.seats, self.spare = keys[0:12:3], keys[1:12:3], keys[2:12:3]
        self.client = self.client_of(OWNER)
        addresses = deploy(self.client, TERMS, treasury=self.account(TREASURY), veto=self.account(VETO))
        self.staking = Staking(self.client, addresses)
        self.registry: Any = self.staking._registry
        self.manager: Any = self.staking._manager
        self.anchors: Any = self.staking._anchors
        for index, key in enumerate([*self.members, *self.seats]):
            self.deposit(key, FIRST_STAKER + index)
        self.staking.set_council(COUNCIL)
        self.staking.register_committee(GROUP, 0, ids(self.members))
        self.staking.register_committee(COUNCIL, 0, ids(self.seats))
        self._mark = self.rpc("evm_snapshot")

    # -- accounts

    def account(self, index: int) -> MemberId:
        return MemberId(bytes.fromhex(self.accounts[index].address[2:]))

    def client_of(self, index: int) -> Client:
        if index not in self._clients:
            self._clients[index] = Client.open(self.url, key=bytes(self.accounts[index].key))
        return self._clients[index]

    def staking_of(self, index: int) -> Staking:
        return Staking(self.client_of(index), self.staking.addresses)

    def close(self) -> None:
        for client in self._clients.values():
            client.close()

    # -- the chain

    def rpc(self, method: str, *parameters: Any) -> Any:
        answer: Any = self.client.web3.provider.make_request(method, list(parameters))  # type: ignore[arg-type]
        assert "error" not in answer, answer
        return answer.get("result")

    def reset(self) -> None:
        self.rpc("evm_revert", self._mark)
        self._mark = self.rpc("evm_snapshot")

    def pass_time(self, seconds: int) -> None:
        self.rpc("evm_increaseTime", seconds)
        self.rpc("evm_mine")

    def send(self, call: Any, *, by: int = OWNER, value: int = 0) -> Mined:
        return self.client_of(by).transact(call, "do this", value_wei=value)

    def events(self, mined: Mined, event: Any) -> list[dict[str, Any]]:
        logs = event.get_logs(from_block=mined.block, to_block=mined.block)
        return [dict(log["args"]) for log in logs if bytes(log["transactionHash"]) == mined.transaction]

    @contextmanager
    def refused(self, name: str, **arguments: Any) -> Iterator[None]:
        """The contract must refuse with this error and at least these arguments."""
        with pytest.raises(Reverted) as caught:
            yield
        assert caught.value.name == name, caught.value
        for key, value in arguments.items():
            assert caught.value.arguments[key] == value, (key, caught.value.arguments)

    def refuses(
        self, call: Any, name: str, *, by: int | str = OWNER, value: int = 0, **arguments: Any
    ) -> None:
        """Only tried, never sent: it must be refused with this error."""
        sender = by if isinstance(by, str) else self.accounts[by].address
        with self.refused(name, **arguments):
            self.client.ask(lambda: call.call({"from": sender, "value": value}))

    # -- members

    def domain(self, group: Digest) -> Domain:
        return Domain(self.client.chain_id, self.staking.addresses.slashing, group)

    def sign(self, key: PrivateKey, group: Digest, struct: Any) -> bytes:
        return sign(key, signing_digest(self.domain(group), struct))

    def deposit(self, key: PrivateKey, staker: int, amount: int = STAKE_WEI) -> None:
        staking = self.staking_of(staker)
        staking.deposit(address(key.public_key), lambda digest: sign(key, Digest(digest)), amount_wei=amount)

    def staker(self, key: PrivateKey) -> int:
        """The account index of the staker of a member or seat."""
        return FIRST_STAKER + [*self.members, *self.seats].index(key)

    def stake(self, key: PrivateKey) -> int:
        return self.staking.stake_of(address(key.public_key))

    def certify(self, verdict: Verdict, seats: Sequence[PrivateKey], group: Digest = COUNCIL) -> list[bytes]:
        return [self.sign(key, group, verdict) for key in seats]

    def balance_is_kept(self) -> None:
        """Whatever happened: the ether in the registry is exactly what it owes."""
        read = self.staking._read
        owed = read(self.registry.functions.totalStake()) + read(self.registry.functions.totalCredit())
        assert self.client.balance_wei(self.staking.addresses.registry) == owed

    def stakes_add_up(self) -> None:
        """The total is the sum of all members' stakes."""
        read = self.staking._read
        everybody = [*self.members, *self.seats, *self.spare]
        assert read(self.registry.functions.totalStake()) == sum(self.stake(key) for key in everybody)


def ids(keys: Sequence[PrivateKey]) -> list[MemberId]:
    return [address(key.public_key) for key in keys]


def id_of(key: PrivateKey) -> str:
    return checksum(address(key.public_key))


def high_s(signature: bytes) -> bytes:
    """The other signature of the same signer and digest, which must not count."""
    s = ORDER - int.from_bytes(signature[32:64], "big")
    return signature[:32] + s.to_bytes(32, "big") + bytes([55 - signature[64]])


def verdict_words(verdict: Verdict) -> tuple[Any, ...]:
    return (
        verdict.group, verdict.epoch, verdict.height,
        checksum(verdict.accused), verdict.offence, verdict.case_id,
    )  # fmt: skip


def a_verdict(accused: PrivateKey, **changes: Any) -> Verdict:
    values: dict[str, Any] = {
        "group": GROUP, "epoch": 0, "height": 7, "accused": address(accused.public_key), "offence": 16,
        "case_id": Digest(sha256(b"case").digest()),
    }  # fmt: skip
    return Verdict(**{**values, **changes})


@pytest.fixture(scope="session", params=BACKENDS)
def _world(request: pytest.FixtureRequest) -> Iterator[World]:
    with devchain.start(backend=request.param) as chain:
        world = World(chain.url)
        yield world
        world.close()


@pytest.fixture
def world(_world: World) -> Iterator[World]:
    """The world at its beginning; whatever the test did, the books must balance at its end."""
    _world.reset()
    yield _world
    _world.balance_is_kept()


__all__ = ["World", "_world", "world", "decode_revert"]
