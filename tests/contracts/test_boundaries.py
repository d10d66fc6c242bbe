"""To the second: what may happen at which time. On a chain whose clock stands still."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from consensus.signing import address
from p2pfl.evm import verdict_key
from testnet import devchain
from testnet.devchain import HOST, Server
from testnet.pyevm import PyEvmChain
from tests.contracts.world import STRANGER, VETO, World, a_verdict, id_of


class Still:
    """A world in which time passes only when told to (and a second for each block)."""

    def __init__(self, chain: PyEvmChain, world: World) -> None:
        self.chain = chain
        self.world = world

    def at(self, second: int) -> None:
        """What is tried from now on is tried in a block of exactly this time."""
        self.chain.advance(second - self.chain.now_s())
        assert self.chain.head.header.timestamp < second == self.chain.now_s()

    def allows(self, call: Any, *, by: int = STRANGER) -> None:
        sender = {"from": self.world.accounts[by].address}
        self.world.client.ask(lambda: call.call(sender))


@pytest.fixture(scope="module")
def still() -> Iterator[Still]:
    rich = [bytes.fromhex(account.address[2:]) for account in devchain.accounts()]
    chain = PyEvmChain(chain_id=devchain.CHAIN_ID, accounts=rich, clock=lambda: 2_000_000_000.0)
    with Server((HOST, 0), chain) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        world = World(f"http://{HOST}:{server.server_address[1]}")
        yield Still(chain, world)
        world.close()
        server.shutdown()
        thread.join()


def test_a_stake_is_free_from_the_second_that_was_named(still: Still) -> None:
    world, key = still.world, still.world.members[0]
    staker = world.staker(key)
    world.send(world.registry.functions.requestUnbonding(id_of(key)), by=staker)
    free = world.staking.member(address(key.public_key)).leaves_at_s
    withdraw = world.registry.functions.withdraw(id_of(key), world.accounts[staker].address)
    still.at(free - 1)
    world.refuses(withdraw, "TooEarly", by=staker, now_=free - 1)
    still.at(free)
    still.allows(withdraw, by=staker)


def test_the_three_ends_of_a_verdict_never_overlap(still: Still) -> None:
    world = still.world
    verdict = a_verdict(world.members[1])
    world.staking.submit_verdict(verdict, world.certify(verdict, world.seats[:3]))
    key = verdict_key(verdict)
    judgement = world.staking.judgement(key)
    functions = world.manager.functions
    cancel, execute, expire = (
        functions.cancelVerdict(key),
        functions.executeVerdict(key),
        functions.expireVerdict(key),
    )

    still.at(judgement.executable_at_s - 1)
    still.allows(cancel, by=VETO)
    world.refuses(execute, "TooEarly")
    world.refuses(expire, "TooEarly")

    still.at(judgement.executable_at_s)
    world.refuses(cancel, "TooLate", by=VETO)
    still.allows(execute)
    world.refuses(expire, "TooEarly")

    still.at(judgement.expires_at_s - 1)
    world.refuses(cancel, "TooLate", by=VETO)
    still.allows(execute)
    world.refuses(expire, "TooEarly")

    still.at(judgement.expires_at_s)
    world.refuses(cancel, "TooLate", by=VETO)
    world.refuses(execute, "TooLate")
    still.allows(expire)
