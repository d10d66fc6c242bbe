"""The floor of consensus: three steps, all to all, on the streams that consensus uses, and nothing decided.

    proposer   log, guard, PROPOSE with the block             --> all
    all        log, guard, PREPARE                            --> all
    all        q of them: log, guard, COMMIT                  --> all
    all        q of them: the block and its certificate, next

Each word before an arrow is a write and an fsync of a file of its own: what docs/protocol.md (Durability)
wants on the disk before a vote leaves, the log before the guard, and the block before the next height.
Messages have the kinds and lengths of real ones and no meaning: no signature is made or checked, no state
is kept but counts. The fsync is called on the event loop, which costs less than a thread.
"""

from __future__ import annotations

import os
import time
from collections import defaultdict
from io import FileIO
from pathlib import Path

import trio

from consensus import types as ct
from consensus.committee import Committee
from p2pfl import codec
from p2pfl.net import wire
from p2pfl.net.interface import NetworkLike

# Whatever comes with this group id belongs to the floor.
MARK = ct.Digest(b"bench: the floor of consensus".ljust(32, b"."))
_SIGNATURE = bytes(64) + b"\x1b"
# As long as what the guard keeps of one vote.
_GUARD_RECORD = bytes(320)


class Exchange:
    """One member's part. Runs are numbered; messages of a run that has not begun here wait."""

    mark = MARK

    def __init__(self, network: NetworkLike, me: ct.MemberId, committee: Committee, folder: Path) -> None:
        self.floor_ms: list[float] = []
        self.fsync_ms: list[float] = []
        self._network, self._me, self._committee = network, me, committee
        self._others = tuple(member for member in committee.members if member != me)
        self._log, self._guard, self._blocks = (
            (folder / f"floor.{name}").open("wb", buffering=0) for name in ("log", "guard", "blocks")
        )
        self._seen: dict[tuple[int, str], int] = defaultdict(int)
        self._changed = trio.Event()
        self._turn = 0

    def received(self, sender: ct.MemberId, message: ct.Message) -> None:
        """Count it."""
        match message:
            case ct.Proposal(propose=signed) | ct.PrepareMessage(signed) | ct.CommitMessage(signed):
                self._count(signed.vote.height, type(message).__name__)
            case _:
                raise ValueError(f"{sender.hex()} sent a {type(message).__name__} to the floor")

    async def run(self, decided: ct.DecidedBlock, times: int) -> None:
        """So many exchanges of messages such as decided this block. The first one only brings all in step."""
        ended: float | None = None
        for _ in range(times + 1):
            await self._once(decided)
            now = time.perf_counter()
            if ended is not None:
                self.floor_ms.append((now - ended) * 1000)
            ended = now

    async def _once(self, decided: ct.DecidedBlock) -> None:
        turn, self._turn = self._turn, self._turn + 1
        quorum, block = self._committee.quorum, decided.block
        vote = codec.encode(ct.SignedPrepare(ct.Prepare(0, turn, 0, ct.ZERO_DIGEST), _SIGNATURE))
        if self._committee.members[turn % len(self._committee.members)] == self._me:
            self._before_a_vote(codec.encode(block))
            signed = ct.SignedPropose(ct.Propose(0, turn, 0, ct.ZERO_DIGEST), _SIGNATURE)
            self._tell(turn, ct.Proposal(propose=signed, block=block))
        await self._until(turn, "Proposal", 1)
        self._before_a_vote(codec.encode(block) + vote)
        self._tell(
            turn, ct.PrepareMessage(ct.SignedPrepare(ct.Prepare(0, turn, 0, ct.ZERO_DIGEST), _SIGNATURE))
        )
        await self._until(turn, "PrepareMessage", quorum)
        self._before_a_vote(vote * quorum)
        self._tell(turn, ct.CommitMessage(ct.SignedCommit(ct.Commit(0, turn, 0, ct.ZERO_DIGEST), _SIGNATURE)))
        await self._until(turn, "CommitMessage", quorum)
        self._keep(self._blocks, codec.encode(decided))

    def _tell(self, turn: int, message: ct.Message) -> None:
        self._network.broadcast(self._others, wire.ConsensusMessage(MARK, message))
        self._count(turn, type(message).__name__)

    def _count(self, turn: int, kind: str) -> None:
        self._seen[turn, kind] += 1
        self._changed.set()

    async def _until(self, turn: int, kind: str, count: int) -> None:
        while self._seen[turn, kind] < count:
            self._changed = trio.Event()
            await self._changed.wait()

    def _before_a_vote(self, entries: bytes) -> None:
        self._keep(self._log, entries)
        self._keep(self._guard, _GUARD_RECORD)

    def _keep(self, file: FileIO, data: bytes) -> None:
        begun = time.perf_counter()
        file.write(data)
        os.fsync(file.fileno())
        self.fsync_ms.append((time.perf_counter() - begun) * 1000)
