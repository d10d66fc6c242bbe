"""A history on paper and how it is written down: keys by name, blocks that a quorum has certified, blobs.

Which blocks it has is in `chain`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from consensus import signing
from consensus.signing import block_id
from consensus.types import Block, Certificate, Commit, DecidedBlock, Digest, Header, MemberId
from p2pfl import codec
from p2pfl.durable import Journal
from p2pfl.genesis import COUNCIL, Genesis
from p2pfl.keys import SigningKey
from p2pfl.records import CouncilBody, GroupBody, body_root, decode_body
from p2pfl.store import Store
from p2pfl.store.blocks import identity


@lru_cache(maxsize=64)
def key_of(name: str) -> SigningKey:
    return SigningKey.from_secret(sha256(name.encode()).digest())


def member_of(name: str) -> MemberId:
    return key_of(name).member_id


@dataclass
class Built:
    """A history: the blocks of each chain, every blob by id."""

    genesis: Genesis
    chains: dict[str, list[DecidedBlock]]
    blobs: dict[Digest, bytes] = field(default_factory=dict)

    def write(self, path: Path, names: Sequence[str] = (), *, blobs: bool = True) -> Path:
        """One node's folder with these chains (none: all)."""
        store = Store(path, self.genesis)
        for name in names or self.chains:
            # As BlockStore.append would write it, with one fsync for all.
            own = identity(self.genesis.network_id, self.genesis.group_id(name))
            records = [codec.encode(decided) for decided in self.chains[name]]
            Journal.create(store.folder.chain(name), own, records).close()
        for data in self.blobs.values() if blobs else ():
            store.blobs.put(data, durable=False)
        store.close()
        return path

    def body(self, name: str, height: int) -> Any:
        kind = CouncilBody if name == COUNCIL else GroupBody
        return decode_body(self.chains[name][height].block.body, kind)

    def with_last(self, name: str, body: Any) -> Built:
        """The same history with another body in the chain's last block, certified by the same members."""
        old = self.chains[name][-1]
        header = dataclasses.replace(old.block.header, app_root=body_root(body))
        last = decide(self.genesis, name, header, codec.encode(body))
        return self.with_block(name, -1, last)

    def with_block(self, name: str, height: int, decided: DecidedBlock) -> Built:
        chain = list(self.chains[name])
        chain[height] = decided
        return dataclasses.replace(self, chains={**self.chains, name: chain})


def decide(genesis: Genesis, name: str, header: Header, body: bytes, *, round_: int = 0) -> DecidedBlock:
    """The block with the COMMITs of three of the four members."""
    commit = Commit(header.epoch, header.height, round_, block_id(header))
    names = [each.name for each in genesis.entry(name).members if each.member_id != header.proposer]
    signers = sorted(names, key=member_of)
    signatures = tuple(signed(genesis, name, each, commit) for each in signers)
    return DecidedBlock(Block(header, body), Certificate(round_, signatures))


def signed(genesis: Genesis, group: str, signer: str, struct: Any) -> bytes:
    return signing.sign(key_of(signer).secret, signing.signing_digest(genesis.domain(group), struct))
