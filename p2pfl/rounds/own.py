"""What a member must not lose between signing and deciding, and what it needs to open a round later.

own/<group>.<epoch>/<height>.tx       the exact bytes of its SignedParamTx, durable before it is sent
own/<group>.<epoch>/<height>.states   the training states under its trace root
own/<group>.<epoch>/<height>.ballot   the exact bytes of its SignedBallot, durable before it is sent
"""

from __future__ import annotations

import shutil
from collections.abc import Collection
from pathlib import Path

from p2pfl import codec
from p2pfl.durable import write_whole
from p2pfl.params import BLOB_BYTES_MAX
from p2pfl.rounds.context import Context
from p2pfl.signed import SignedBallot, SignedParamTx

# Rounds whose states are kept in any case, a megabyte or ten each; others can be trained again.
KEEP_ROUNDS = 32
KEEP_EPOCHS = 3
TX_BYTES_MAX = 4096


def rounds_asked(context: Context) -> set[tuple[str, int, int]]:
    """Group, epoch and height of the rounds that open cases ask this node to open."""
    names = context.genesis.group_names
    cases = (entry.case for entry in context.council.tip.open_cases())
    return {(names[each.group_id], each.epoch, each.height) for each in cases if each.accused == context.me}


class OwnRounds:
    """The own commitments and training states of the last rounds in one group and epoch."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)

    @classmethod
    def of(cls, node: Path, group: str, epoch: int) -> OwnRounds:
        """Those of a node's folder."""
        return cls(node / "own" / f"{group}.{epoch}")

    @classmethod
    def begin(cls, context: Context) -> OwnRounds:
        """Those of an epoch that begins. Those of epochs that nobody asks for any more are taken away."""
        asked = {(name, epoch) for name, epoch, _ in rounds_asked(context)}
        epoch = context.committee.epoch
        for old in (context.directory / "own").glob("*.*"):
            known = old.suffix[1:].isdigit() and (old.stem, int(old.suffix[1:])) not in asked
            if known and int(old.suffix[1:]) + KEEP_EPOCHS <= epoch:
                shutil.rmtree(old, ignore_errors=True)
        return cls.of(context.directory, context.name, epoch)

    def save(self, signed: SignedParamTx, states: list[bytes]) -> None:
        """Keep a round; the commitment is durable when this returns. The states (if any) are only written."""
        height = signed.tx.height
        if states:
            # A lost trace costs a training again, not a contradiction: no fsync for megabytes.
            trace = codec.encode(tuple(states), tuple[bytes, ...])
            write_whole(self._directory / f"{height}.states", trace, durable=False)
        write_whole(self._directory / f"{height}.tx", codec.encode(signed))

    def forget(self, height: int, counted: int, asked: Collection[int]) -> None:
        """After the round of this height: take away what nobody can ask for any more.

        counted: the last height that the council has counted: with it the last case about those before was
        opened. asked: heights of open cases. The commitments of all others stay, the states of the newest.
        """
        for path in self._directory.glob("*.*"):
            if not path.stem.isdigit() or int(path.stem) > height - KEEP_ROUNDS or int(path.stem) in asked:
                continue
            if path.suffix == ".states" or int(path.stem) <= counted:
                path.unlink(missing_ok=True)

    def commitment(self, height: int) -> SignedParamTx | None:
        """The own commitment of this height, if one was made."""
        path = self._directory / f"{height}.tx"
        if not path.exists():
            return None
        return codec.decode(path.read_bytes(), SignedParamTx, size_max=TX_BYTES_MAX)

    def save_ballot(self, signed: SignedBallot) -> None:
        """Keep a ballot; it is durable when this returns."""
        write_whole(self._directory / f"{signed.ballot.height}.ballot", codec.encode(signed))

    def ballot(self, height: int) -> SignedBallot | None:
        """The own ballot on the block of this height, if one was cast."""
        path = self._directory / f"{height}.ballot"
        if not path.exists():
            return None
        return codec.decode(path.read_bytes(), SignedBallot, size_max=TX_BYTES_MAX)

    def states(self, height: int) -> list[bytes]:
        """The training states of this height; none if they were not kept."""
        try:
            data = (self._directory / f"{height}.states").read_bytes()
            return list(codec.decode(data, tuple[bytes, ...], size_max=BLOB_BYTES_MAX))
        except (OSError, codec.DecodeError):
            return []
