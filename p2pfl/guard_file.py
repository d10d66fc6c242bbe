"""What lies in a guard's file: whose it is, what is refused as a whole, and every signature that counts.

    first record     Identity
    further records  GuardRecord, one for each signature

Shapes and bytes. What may be signed beside them is known to `guard`; how they move to another machine, to
`interchange`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from consensus.types import Digest, MemberId
from p2pfl import codec
from p2pfl.durable import Journal, scan
from p2pfl.errors import UserError

T = TypeVar("T")

GUARD_VERSION = 2
# The longest, a ParamTx, takes 700 bytes.
RECORD_BYTES_MAX = 4096
# One floor for each group of a network, 60 bytes each.
IDENTITY_BYTES_MAX = 64 * 1024
DAMAGED = (
    "restore the guard from a copy made after the last signature; if there is none, move it away and start "
    "with --guard-lost: then this key signs nothing until the next epoch"
)


@dataclass(frozen=True, slots=True)
class Floor:
    """Nothing is signed at or below this epoch and height in this domain (separator: the domain's)."""

    separator: Digest
    epoch: int
    height: int


@dataclass(frozen=True, slots=True)
class Identity:
    """The first record.

    lost_at_ms: when the guard before this one was found lost (0: never); then nothing is signed before the
    epoch `signs_from` (None: it is not known yet). floors: what was imported without its signatures.
    """

    version: int
    member: MemberId
    lost_at_ms: int = 0
    signs_from: int | None = None
    floors: tuple[Floor, ...] = ()


@dataclass(frozen=True, slots=True)
class GuardRecord:
    """One signature. separator: the domain's; words: the struct's ABI words; digest: what was signed."""

    separator: Digest
    kind: str
    epoch: int
    height: int
    round: int
    digest: Digest
    words: bytes
    signature: bytes


def decode_record(path: Path, offset: int, payload: bytes) -> GuardRecord:
    """A record of a journal. Raises UserError with the offset."""
    try:
        return codec.decode(payload, GuardRecord, size_max=RECORD_BYTES_MAX)
    except codec.DecodeError as error:
        raise UserError(
            f"{path} is damaged at byte {offset}", because=f"not a record of a guard: {error}", fix=DAMAGED
        ) from error


def identity_of(journal: Journal, member: MemberId) -> Identity:
    """The first record of an open journal. Raises UserError for what is no guard, or another key's."""
    try:
        found: Identity = codec.decode(journal.identity, Identity, size_max=IDENTITY_BYTES_MAX)
        if found.version != GUARD_VERSION:
            raise codec.DecodeError(f"version {found.version}, this release writes {GUARD_VERSION}")
    except codec.DecodeError as error:
        raise UserError(f"{journal.path} is not a guard", because=str(error), fix=DAMAGED) from error
    if found.member != member:
        raise UserError(
            f"{journal.path} guards another key",
            because=f"it belongs to 0x{found.member.hex()}, the signing key is 0x{member.hex()}",
            fix="put the guard beside the key that it was made with",
        )
    return found


def member_of_guard(path: Path) -> MemberId | None:
    """Whose guard this is, without opening or locking it; None where there is none to read."""
    try:
        found: Identity = codec.decode(
            scan(path, lambda _, __: None).identity, Identity, size_max=IDENTITY_BYTES_MAX
        )
    except (OSError, codec.DecodeError):
        return None
    return found.member


def kind_of(struct_type: Any) -> str:
    """The name that is hashed, not the class's: two classes of one type string are one kind."""
    return str(struct_type.TYPE).partition("(")[0]


def struct_of(words: bytes, struct_type: type[T]) -> T:
    """The struct of these ABI words."""
    declared = str(struct_type.TYPE)  # type: ignore[attr-defined]
    kinds = [part.split(" ")[0] for part in declared[declared.index("(") + 1 : -1].split(",")]
    values: list[Any] = []
    for index, kind in enumerate(kinds):
        word = words[32 * index : 32 * index + 32]
        if kind.startswith(("uint", "int")):
            values.append(int.from_bytes(word, "big", signed=kind.startswith("int")))
        else:
            values.append(word if kind == "bytes32" else word[12:])
    assert len(values) == len(fields(struct_type))  # type: ignore[arg-type]
    return struct_type(*values)
