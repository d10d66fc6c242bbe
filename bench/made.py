"""A group's history on paper: decided blocks with true certificates and true bodies, and nothing learnt.

Each body is that of a real round of random updates, derived by the rules, with another base named in it, so
that no two are the same; the commitments in it are of height 0. Whoever follows the chain does not look: what
a body says was judged by those who certified it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from hashlib import sha256

import numpy as np
from coincurve import PrivateKey

from consensus.chain import FIRST_PARENT_ID, HEADER_VERSION, Log
from consensus.signing import block_id, sign, signing_digest, struct_hash
from consensus.types import ZERO_DIGEST, Block, Certificate, Commit, DecidedBlock, Digest, Header, MemberId
from p2pfl import codec
from p2pfl.genesis import Genesis
from p2pfl.params import Base, Update, blob_id
from p2pfl.records import BaseRef, GroupBody, body_root
from p2pfl.rules.filters import epoch_salt
from p2pfl.rules.validate import GroupInputs, derive_group_body, list_root
from p2pfl.signed import Close, ParamTx, SignedClose, SignedParamTx

Keys = Mapping[MemberId, PrivateKey]
FIRST_MS, ROUND_MS = 1_700_000_000_000, 1500


def inputs_of_a_round(genesis: Genesis, group: str, keys: Keys) -> GroupInputs:
    """A round at height 0 in which every member commits to a random update; nothing came before it."""
    chance, layout, domain = np.random.default_rng(1), genesis.task.layout, genesis.domain(group)
    committee, base = genesis.committee(group), Base(layout, np.zeros(layout.size, dtype=np.float32))
    base_id = blob_id(base.to_bytes())
    updates: dict[MemberId, Update] = {}
    txs: list[SignedParamTx] = []
    for member in committee.members:
        values = chance.normal(0, 400, layout.size).clip(-32000, 32000).astype(np.int16)
        update = updates[member] = Update(layout, genesis.initial_exponents, values)
        data = update.to_bytes()
        tx = ParamTx(
            epoch=0,
            height=0,
            member=member,
            base_id=base_id,
            blob_id=blob_id(data),
            byte_length=len(data),
            samples=100,
            saturated=0,
            data_root=Digest(sha256(member).digest()),
            data_leaves=100,
            trace_root=Digest(sha256(member + b"trace").digest()),
            loss_before_micro=2_300_000,
            loss_after_micro=2_000_000,
        )
        txs.append(SignedParamTx(tx, sign(keys[member], signing_digest(domain, tx))))
    ids = tuple(struct_hash(signed.tx) for signed in txs)
    close = Close(0, 0, 0, list_root(ids))
    ci = keys[committee.proposer(0, 0)]
    return GroupInputs(
        genesis=genesis,
        group=group,
        committee=committee,
        epoch=0,
        height=0,
        txs=tuple(txs),
        close=SignedClose(close, ids, sign(ci, signing_digest(domain, close))),
        unrevealed=(),
        updates=updates,
        exponents=genesis.initial_exponents,
        previous_aggregate=None,
        root_update=None,
        standings=(),
        base=BaseRef(base_id, -1, ZERO_DIGEST, ()),
        base_values=base,
        salt=epoch_salt(genesis.network_id, 0, ZERO_DIGEST),
    )


def decided_blocks(
    genesis: Genesis, group: str, keys: Keys, bodies: Iterable[GroupBody]
) -> list[DecidedBlock]:
    """One block after the other with these bodies, each certified by a quorum."""
    committee, domain, log = genesis.committee(group), genesis.domain(group), Log()
    signers = sorted(committee.members)[: committee.quorum]
    parent_id, blocks = FIRST_PARENT_ID, list[DecidedBlock]()
    for height, body in enumerate(bodies):
        header = Header(
            version=HEADER_VERSION,
            network_id=genesis.network_id,
            group_id=genesis.group_id(group),
            epoch=0,
            height=height,
            parent_id=parent_id,
            proposer=committee.proposer(height, 0),
            time_ms=FIRST_MS + ROUND_MS * height,
            app_root=body_root(body),
            log_root=log.root(),
            next_committee_root=committee.root(),
        )
        parent_id = block_id(header)
        log.append(parent_id)
        digest = signing_digest(domain, Commit(0, height, 0, parent_id))
        certificate = Certificate(0, tuple(sign(keys[member], digest) for member in signers))
        blocks.append(DecidedBlock(Block(header, codec.encode(body)), certificate))
    return blocks


def history(genesis: Genesis, group: str, keys: Keys, blocks: int) -> list[DecidedBlock]:
    """A chain of so many blocks."""
    body = derive_group_body(inputs_of_a_round(genesis, group, keys)).body
    named = (Digest(sha256(height.to_bytes(8, "big")).digest()) for height in range(blocks))
    return decided_blocks(genesis, group, keys, (replace(body, next_base_id=each) for each in named))
