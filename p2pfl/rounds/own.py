"""What a member must not lose between signing and deciding, and what it needs to open a round later.

own/<group>.<epoch>/<height>.tx       the exact bytes of its SignedParamTx, durable before it is sent
own/<group>.<epoch>/<height>.states   the training states under its trace root
"""

from __future__ import annotations

import shutil
from pathlib import Path

from consensus import codec
from p2pfl.durable import write_whole
from p2pfl.params import BLOB_BYTES_MAX
from p2pfl.signed import SignedParamTx

# Rounds that may still be asked for: a case opens at most a few council blocks after its round.
KEEP_ROUNDS = 32
KEEP_EPOCHS = 3
TX_BYTES_MAX = 4096


class OwnRounds:
    """The own commitments and training states of the last rounds in one group and epoch."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)

    @classmethod
    def of(cls, node: Path, group: str, epoch: int) -> OwnRounds:
        """Those of a node's folder. Those of epochs that nobody asks for any more are taken away."""
        for old in (node / "own").glob("*.*"):
            if old.suffix[1:].isdigit() and int(old.suffix[1:]) + KEEP_EPOCHS <= epoch:
                shutil.rmtree(old, ignore_errors=True)
        return cls(node / "own" / f"{group}.{epoch}")

    def save(self, signed: SignedParamTx, states: list[bytes]) -> None:
        """Keep a round; the commitment is durable when this returns. The states (if any) are only written."""
        height = signed.tx.height
        if states:
            # A lost trace costs a training again, not a contradiction: no fsync for megabytes.
            trace = codec.encode(tuple(states), tuple[bytes, ...])
            write_whole(self._directory / f"{height}.states", trace, durable=False)
        write_whole(self._directory / f"{height}.tx", codec.encode(signed))
        for kind in ("tx", "states"):
            (self._directory / f"{height - KEEP_ROUNDS}.{kind}").unlink(missing_ok=True)

    def commitment(self, height: int) -> SignedParamTx | None:
        """The own commitment of this height, if one was made."""
        path = self._directory / f"{height}.tx"
        if not path.exists():
            return None
        return codec.decode(path.read_bytes(), SignedParamTx, size_max=TX_BYTES_MAX)

    def states(self, height: int) -> list[bytes]:
        """The training states of this height; none if they were not kept."""
        try:
            data = (self._directory / f"{height}.states").read_bytes()
            return list(codec.decode(data, tuple[bytes, ...], size_max=BLOB_BYTES_MAX))
        except (OSError, codec.DecodeError):
            return []
