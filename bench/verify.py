"""How many certificates a second an auditor checks, beside the recoveries that coincurve alone does.

A chain of blocks with random bodies, each certified by a quorum, lies in a file as a node keeps it. Timed is
what `p2pfl audit verify` does with it before it looks into bodies: read the file, check it, and check every
header against its parent and every certificate against the committee. The bare rate is taken in turn with it,
on the signatures of the same chain; the ratio is the middle one of these pairs. Both use one thread, so a
second here is one of processor time, and what else the machine does matters less. Knows no bodies.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from coincurve import PrivateKey, PublicKey

from consensus import chain, signing
from consensus import types as ct
from consensus.committee import Committee
from consensus.signing import Domain, block_id
from p2pfl.errors import UserError
from p2pfl.store import BlockFile
from p2pfl.store.blocks import BlockStore
from testnet.scenarios import MEMBERS_MAX, MEMBERS_MIN

NETWORK = ct.Digest(b"bench: certificates in a row".ljust(32, b"."))
DOMAIN = Domain(0, ct.ZERO_MEMBER, ct.Digest(b"bench: the group".ljust(32, b".")))


def add_parser(commands: Any) -> None:
    """Add `verify`."""
    parser = commands.add_parser(
        "verify", help="certificates a second, beside bare signature recoveries", description=__doc__
    )
    parser.add_argument("--members", type=int, default=4, metavar="N", help="in the committee, 4 to 16 (4)")
    parser.add_argument("--blocks", type=int, default=2000, metavar="N", help="in the chain (2000)")
    parser.add_argument("--times", type=int, default=5, metavar="N", help="both are timed so often (5)")
    parser.add_argument(
        "--body-bytes", type=int, default=16_384, metavar="N", help="length of a block's body"
    )
    parser.set_defaults(measure=measure)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """The figures of `bench verify`."""
    if not MEMBERS_MIN <= arguments.members <= MEMBERS_MAX or min(arguments.blocks, arguments.times) < 1:
        raise UserError(
            "there is nothing to check",
            because=f"a committee has {MEMBERS_MIN} to {MEMBERS_MAX} members, a chain a block at least",
            fix="see --members, --blocks, --times",
        )
    keys = sorted((PrivateKey() for _ in range(arguments.members)), key=_member)
    committee = Committee(0, tuple(map(_member, keys)))
    checked_s: list[float] = []
    recovered_s: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "chain.mps"
        bare = _write(path, keys, committee, arguments.blocks, arguments.body_bytes)
        for _ in range(arguments.times):
            recovered_s.append(_timed(lambda: _recover(bare)))
            checked_s.append(_timed(lambda: _check(path, committee, arguments.blocks)))
    pairs = zip(recovered_s, checked_s, strict=True)
    return {
        "members": arguments.members,
        "blocks": arguments.blocks,
        "body_bytes": arguments.body_bytes,
        "signatures": len(bare),
        "certificates_per_second": round(arguments.blocks / median(checked_s)),
        "signatures_per_second": round(len(bare) / median(checked_s)),
        "recovers_per_second": round(len(bare) / median(recovered_s)),
        "ratio": round(median(recovered / checked for recovered, checked in pairs), 2),
    }


def _member(key: PrivateKey) -> ct.MemberId:
    return signing.address(key.public_key)


def _write(
    path: Path, keys: list[PrivateKey], committee: Committee, blocks: int, body_bytes: int
) -> list[tuple[bytes, bytes]]:
    """The chain's file, and every signature in it as coincurve wants it, with what it signs."""
    bare: list[tuple[bytes, bytes]] = []
    log = chain.Log()
    parent_id = chain.FIRST_PARENT_ID
    store = BlockStore(path, NETWORK, DOMAIN.group_id)
    for height in range(blocks):
        header = ct.Header(
            version=chain.HEADER_VERSION,
            network_id=NETWORK,
            group_id=DOMAIN.group_id,
            epoch=0,
            height=height,
            parent_id=parent_id,
            proposer=committee.proposer(height, 0),
            time_ms=1_700_000_000_000 + height,
            app_root=ct.Digest(os.urandom(32)),
            log_root=log.root(),
            next_committee_root=committee.root(),
        )
        parent_id = block_id(header)
        log.append(parent_id)
        digest = signing.signing_digest(DOMAIN, ct.Commit(0, height, 0, parent_id))
        signatures = tuple(signing.sign(key, digest) for key in keys[: committee.quorum])
        bare += [(signature[:64] + bytes([signature[64] - 27]), digest) for signature in signatures]
        block = ct.Block(header, os.urandom(body_bytes))
        store.append(ct.DecidedBlock(block, ct.Certificate(0, signatures)))
    store.close()
    return bare


def _recover(bare: list[tuple[bytes, bytes]]) -> None:
    for signature, digest in bare:
        PublicKey.from_signature_and_message(signature, digest, hasher=None)


def _check(path: Path, committee: Committee, blocks: int) -> None:
    file = BlockFile(path)
    history = chain.verify_chain(DOMAIN, NETWORK, committee, file)
    if file.damage is not None or history.log.size != blocks:
        raise AssertionError("the chain that was written does not hold")


def _timed(work: Any) -> float:
    begun = time.process_time()
    work()
    return time.process_time() - begun
