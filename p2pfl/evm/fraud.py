"""One wrong number of an aggregate, brought to the chain: the proof, and the call that takes the stake.

Needs the signed proposal, the block's body, and one leaf of its row tree; no blob goes to the chain.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from typing import Any

from consensus.types import Digest, Header
from p2pfl.errors import UserError
from p2pfl.evm.client import checksum
from p2pfl.evm.records import Done, offence_key
from p2pfl.evm.staking import Staking
from p2pfl.offences import AGGREGATE_FRAUD
from p2pfl.params import Int16
from p2pfl.records import GroupBody, field_proof
from p2pfl.rules.rows import ROW_COORDINATES, RowProof, prove_row, wrong_coordinates


@dataclass(frozen=True)
class AggregateFraud:
    """A block whose proposer signed a wrong aggregate.

    round, signature: of its signed Propose. factors, row_root: fields of the body, with their paths under the
    header's app root. coordinate: of the leaf, 0 to 31.
    """

    header: Header
    round: int
    signature: bytes
    factors: bytes
    factors_path: tuple[Digest, ...]
    row_root: Digest
    row_root_path: tuple[Digest, ...]
    row: RowProof
    coordinate: int

    def arguments(self) -> tuple[Any, ...]:
        """As `submitAggregateFraud` takes them."""
        rows = (
            self.factors, self.factors_path, self.row_root, self.row_root_path,
            self.row.leaf, self.row.index, self.row.size, self.row.path, self.coordinate,
        )  # fmt: skip
        header = astuple(replace(self.header, proposer=checksum(self.header.proposer)))  # type: ignore[arg-type]
        return header, self.round, self.signature, rows


def prove_fraud(
    header: Header,
    round_: int,
    signature: bytes,
    body: GroupBody,
    updates: Sequence[Int16],
    aggregate: Int16,
) -> AggregateFraud | None:
    """The proof for the first wrong coordinate; None when the rows say what the factors make of them.

    updates: the accepted ones in the order of the commitments; aggregate: the one that the block's row tree
    was made of. All int16 of shape (coordinates,).
    """
    *factors, divisor = body.factors or (0,)
    if not divisor:
        return None  # No weighted sum.
    for start in range(0, len(aggregate), ROW_COORDINATES):
        part = slice(start, start + ROW_COORDINATES)
        pieces = [
            row[part].astype("<i2").tobytes().ljust(2 * ROW_COORDINATES, b"\0")
            for row in (*updates, aggregate)
        ]
        wrong = wrong_coordinates(b"".join(pieces), factors, divisor)
        if wrong:
            return _proof(header, round_, signature, body, prove_row(updates, aggregate, start), wrong[0])
    return None


def _proof(
    header: Header, round_: int, signature: bytes, body: GroupBody, row: RowProof, coordinate: int
) -> AggregateFraud:
    *_, factors, factors_path = field_proof(body, "factors")
    *_, row_root_path = field_proof(body, "row_root")
    return AggregateFraud(
        header, round_, signature, factors, factors_path, body.row_root, row_root_path, row, coordinate
    )


def submit_fraud(staking: Staking, fraud: AggregateFraud) -> Done:
    """Bring it. Nothing is sent when it does not hold under the body's own row root; raises UserError."""
    if not fraud.row.holds(fraud.row_root):
        raise UserError(
            "this is no leaf of the block's row tree",
            because="its path does not lead to the row root that the block names",
            fix="make the proof from the very rows that the block's proposer hashed",
        )
    header = fraud.header
    key = offence_key(header.group_id, header.epoch, header.height, header.proposer, AGGREGATE_FRAUD)
    return staking.bring_fraud(fraud.arguments(), key)
