"""Small blocks and events for tests of files: they follow one another, and nobody voted on them."""

from __future__ import annotations

import random

from consensus.signing import block_id
from consensus.types import (
    ZERO_DIGEST,
    Block,
    Certificate,
    DecidedBlock,
    Digest,
    Header,
    MemberId,
    Prepare,
    PrepareMessage,
    Proposal,
    Propose,
    Received,
    SignedPrepare,
    SignedPropose,
)

NETWORK, GROUP = Digest(b"n" * 32), Digest(b"g" * 32)
MEMBER = MemberId(b"m" * 20)


def blocks(count: int, *, body_bytes: int = 100, seed: int = 1) -> list[DecidedBlock]:
    """A chain of `count` blocks with random bodies."""
    chance = random.Random(seed)
    made: list[DecidedBlock] = []
    parent = ZERO_DIGEST
    for height in range(count):
        header = Header(
            1, NETWORK, GROUP, 0, height, parent, MEMBER, height + 1, ZERO_DIGEST, ZERO_DIGEST, ZERO_DIGEST
        )
        block = Block(header, chance.randbytes(body_bytes))
        made.append(DecidedBlock(block, Certificate(0, (chance.randbytes(65),) * 3)))
        parent = block_id(header)
    return made


def prepare(height: int, round_: int = 0) -> Received:
    """A small event."""
    vote = SignedPrepare(Prepare(0, height, round_, ZERO_DIGEST), bytes(65))
    return Received(MEMBER, PrepareMessage(vote))


def proposal(height: int, body: bytes) -> Received:
    """An event of any size, with a peer's bytes in it."""
    header = Header(
        1, NETWORK, GROUP, 0, height, ZERO_DIGEST, MEMBER, 1, ZERO_DIGEST, ZERO_DIGEST, ZERO_DIGEST
    )
    vote = SignedPropose(Propose(0, height, 0, block_id(header)), bytes(65))
    return Received(MEMBER, Proposal(vote, Block(header, body)))
