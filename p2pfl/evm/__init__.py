"""The stake on an EVM chain: the only room that knows web3.

Import it where a chain is configured and not before: web3 takes most of a second to load.
"""

from __future__ import annotations

from p2pfl.evm.client import ChainUnreachable, Client, Mined, NotMined
from p2pfl.evm.records import (
    TESTNET_TERMS,
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
from p2pfl.evm.reverts import Reverted
from p2pfl.evm.staking import Staking, deploy
from p2pfl.evm.worker import StakingWorker

__all__ = [
    "TESTNET_TERMS",
    "Addresses",
    "Anchor",
    "ChainUnreachable",
    "Client",
    "Done",
    "Judgement",
    "MemberState",
    "Mined",
    "NotMined",
    "Possession",
    "Reverted",
    "Slashing",
    "Staking",
    "StakingWorker",
    "State",
    "Terms",
    "deploy",
    "offence_key",
    "pair_kind",
    "verdict_key",
]
