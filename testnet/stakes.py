"""The stakes of a testnet: contracts deployed, deposits paid, committees fixed, and what was ruled.

Synchronous, for worker threads. Every member and seat has a rich account of the development chain that pays
its stake and submits its evidence. Knows the contracts through `p2pfl.evm` only.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from consensus.signing import sign
from consensus.types import Digest
from p2pfl.genesis import ChainEntry, Genesis
from p2pfl.keys import load_signing_key
from testnet import devchain
from testnet.plan import Ground
from testnet.scenarios import Scenario

if TYPE_CHECKING:
    from coincurve import PrivateKey

    from p2pfl.evm import Addresses, Staking

# Deployer and owner, treasury, veto body.
EXTRA_ACCOUNTS = 3


@dataclass
class Ruled:
    """What the contracts say in the end: names, sorted. anchored: (group, epoch)."""

    slashed: list[str]
    tombstoned: list[str]
    anchored: set[tuple[str, int]]


class Stakes:
    """One network's side of the chain."""

    def __init__(self, url: str, scenario: Scenario) -> None:
        self.url = url
        self._scenario = scenario
        self._addresses: Addresses | None = None

    @cached_property
    def _accounts(self) -> tuple[Any, ...]:
        names = (*self._scenario.member_names, *self._scenario.seat_names)
        return devchain.accounts(len(names) + EXTRA_ACCOUNTS)

    def account_key(self, name: str) -> bytes:
        """The secret of the account of this member or seat."""
        names = (*self._scenario.member_names, *self._scenario.seat_names)
        return bytes(self._accounts[EXTRA_ACCOUNTS + names.index(name)].key)

    # -- before the rounds ------------------------------------------------------

    def deploy(self) -> ChainEntry:
        """Deploy the contracts; what the genesis says of them."""
        from p2pfl.evm import TESTNET_TERMS, Client, deploy  # web3 takes most of a second.

        owner, treasury, veto = self._accounts[:EXTRA_ACCOUNTS]
        terms = dataclasses.replace(TESTNET_TERMS, challenge_window_s=self._scenario.challenge_window_s)
        with Client.open(self.url, key=bytes(owner.key)) as client:
            self._addresses = deploy(
                client,
                terms,
                treasury=_address(treasury),
                veto=_address(veto),
            )
        return ChainEntry(self._addresses.chain_id, self._addresses.registry, self._addresses.slashing)

    def register(self, genesis: Genesis, ground: Ground) -> None:
        """Pay everybody's stake and fix the committees of epoch 0."""
        folders = {seat.name: seat.folder for seat in ground.seats}
        groups = (*genesis.groups, genesis.council)

        for entry in (entry for group in groups for entry in group.members):
            secret = load_signing_key(folders[entry.name].signing_key).secret
            with self._staking(self.account_key(entry.name)) as staking:
                staking.deposit(entry.member_id, partial(_sign, secret))
        with self._staking(bytes(self._accounts[0].key)) as staking:
            staking.set_council(genesis.group_id(genesis.council.name))
            for group in groups:
                members = [entry.member_id for entry in group.members]
                staking.register_committee(genesis.group_id(group.name), 0, members)

    # -- after them ----------------------------------------------------------------

    def ruled(self, genesis: Genesis) -> Ruled:
        """Who lost stake, and who may never return."""
        entries = [entry for group in (*genesis.groups, genesis.council) for entry in group.members]
        with self._staking(None) as staking:
            slashed = {genesis.member(each.member).name for each in staking.slashed()}
            gone = [entry.name for entry in entries if staking.tombstoned(entry.member_id)]
            anchored: set[tuple[str, int]] = set()
            for group_id, name in genesis.group_names.items():
                epoch = 0
                while staking.anchor_of(group_id, epoch) is not None:
                    anchored.add((name, epoch))
                    epoch += 1
        return Ruled(sorted(slashed), sorted(gone), anchored)

    def _staking(self, key: bytes | None) -> _Open:
        from p2pfl.evm import Client

        assert self._addresses is not None, "deploy first"
        return _Open(Client.open(self.url, key=key), self._addresses)


class _Open:
    """A Staking whose client is closed in the end."""

    def __init__(self, client: Any, addresses: Addresses) -> None:
        self._client = client
        self._addresses = addresses

    def __enter__(self) -> Staking:
        from p2pfl.evm import Staking

        return Staking(self._client, self._addresses)

    def __exit__(self, *_: object) -> None:
        self._client.close()


def _sign(secret: PrivateKey, digest: bytes) -> bytes:
    return sign(secret, Digest(digest))


def _address(account: Any) -> Any:
    return bytes.fromhex(account.address[2:])
