"""Named tensors, fixed-point vectors, canonical bytes, blob ids.

An update is one int16 vector with a power-of-two exponent for each tensor (docs/protocol.md, Arithmetic);
a base is one float32 vector. Both become bytes by one header and little-endian data, and the id of the
bytes is an RFC 9162 root over 1,024-byte leaves. Knows nothing of training, of peers or of votes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from consensus import merkle
from consensus.types import Digest
from p2pfl import codec
from p2pfl.errors import PeerFault

Int16 = NDArray[np.int16]
Int64 = NDArray[np.int64]
Float32 = NDArray[np.float32]

LEAF_BYTES = 1024  # 512 coordinates of an update, 256 of a base.
HEADER_BYTES_MAX = 64 * 1024
# The parameters of a model in float32: 33 million of them. Updates have half as many bytes.
MODEL_BYTES_MAX = 128 * 1024 * 1024
# The largest blob is an opening: of a model of 100 MB, two states with their momentum and the samples.
BLOB_BYTES_MAX = 512 * 1024 * 1024
INT16_MAX = 32767
EXPONENT_MIN, EXPONENT_MAX = -40, 10
# A block of float64 stays in a processor's own cache.
_APPLIED_AT_ONCE = 1 << 14
_MAGIC = b"MPSBLOB1"


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor's name and shape."""

    name: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """How many coordinates it has."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Layout:
    """The tensors of a model, in the order in which they lie in a flat vector."""

    tensors: tuple[TensorSpec, ...]

    @property
    def size(self) -> int:
        """How many coordinates the model has."""
        return sum(tensor.size for tensor in self.tensors)

    def slices(self) -> list[slice]:
        """Where each tensor lies in the flat vector."""
        ends = np.cumsum([0, *(tensor.size for tensor in self.tensors)]).tolist()
        return [slice(start, end) for start, end in zip(ends[:-1], ends[1:], strict=True)]

    def flatten(self, arrays: Sequence[NDArray[np.float32]]) -> Float32:
        """One flat float32 vector of all tensors. Raises ValueError when shapes differ from the layout."""
        for array, tensor in zip(arrays, self.tensors, strict=True):
            if array.shape != tensor.shape:
                raise ValueError(f"{tensor.name} has shape {tensor.shape}, not {array.shape}")
        return np.concatenate([array.reshape(-1) for array in arrays]).astype(np.float32, copy=False)

    def unflatten(self, vector: Float32) -> list[Float32]:
        """The tensors of a flat vector (views)."""
        return [
            vector[part].reshape(tensor.shape)
            for part, tensor in zip(self.slices(), self.tensors, strict=True)
        ]


@dataclass(frozen=True, slots=True)
class _BlobHeader:
    kind: str
    tensors: tuple[TensorSpec, ...]
    exponents: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Update:
    """`delta = q * 2^exponent`, tensor by tensor. values: int16, shape (layout.size,)."""

    layout: Layout
    exponents: tuple[int, ...]
    values: Int16

    def to_bytes(self) -> bytes:
        """The canonical bytes."""
        return _to_bytes(
            "update", self.layout, self.exponents, self.values.astype("<i2", copy=False).tobytes()
        )


@dataclass(frozen=True, slots=True)
class Base:
    """The parameters everybody starts a round from. values: float32, shape (layout.size,)."""

    layout: Layout
    values: Float32

    def to_bytes(self) -> bytes:
        """The canonical bytes."""
        return _to_bytes("base", self.layout, (), self.values.astype("<f4", copy=False).tobytes())


def _to_bytes(kind: str, layout: Layout, exponents: tuple[int, ...], data: bytes) -> bytes:
    """magic, header length, header, zeros up to a whole leaf, data: so data leaf k is 512 coordinates."""
    header = codec.encode(_BlobHeader(kind, layout.tensors, exponents))
    head = _MAGIC + len(header).to_bytes(4, "big") + header
    return head + bytes(-len(head) % LEAF_BYTES) + data


def byte_length(kind: Literal["update", "base"], layout: Layout, exponents: tuple[int, ...] = ()) -> int:
    """How many bytes a blob of this layout has."""
    empty = len(_to_bytes(kind, layout, exponents, b""))
    return empty + layout.size * (2 if kind == "update" else 4)


def data_offset(blob: bytes) -> int:
    """Where the data begins: the first whole leaf after the header."""
    length = int.from_bytes(blob[8:12], "big")
    return -(-(12 + length) // LEAF_BYTES) * LEAF_BYTES


def parse_update(blob: bytes, layout: Layout, exponents: tuple[int, ...]) -> Update:
    """The update in these bytes. Raises PeerFault when they are not exactly an update of this layout."""
    data = _data(blob, "update", layout, exponents, 2)
    return Update(layout, exponents, np.frombuffer(data, dtype="<i2"))


def parse_base(blob: bytes, layout: Layout) -> Base:
    """The base in these bytes. Raises PeerFault when they are not exactly a finite base of this layout."""
    values = np.frombuffer(_data(blob, "base", layout, (), 4), dtype="<f4")
    if not np.isfinite(values).all():
        raise PeerFault("bad_blob", "the base holds a number that is not finite")
    return Base(layout, values)


def _data(blob: bytes, kind: str, layout: Layout, exponents: tuple[int, ...], width: int) -> memoryview:
    head = _to_bytes(kind, layout, exponents, b"")
    if len(blob) != len(head) + layout.size * width or not blob.startswith(head):
        raise PeerFault("bad_blob", f"not the bytes of one {kind} of this model")
    return memoryview(blob)[len(head) :]


def leaf_hashes(blob: bytes | memoryview) -> list[bytes]:
    """SHA-256(0x00 || leaf) of each 1,024-byte leaf; the last may be shorter. Costs CPU."""
    view = memoryview(blob)
    prefix = sha256(b"\x00")
    hashes: list[bytes] = []
    for start in range(0, len(view), LEAF_BYTES):
        hasher = prefix.copy()
        hasher.update(view[start : start + LEAF_BYTES])
        hashes.append(hasher.digest())
    return hashes


def blob_id(blob: bytes) -> Digest:
    """The RFC 9162 root over the blob's leaves."""
    return merkle.root_of_hashes(leaf_hashes(blob))


# ---------------------------------------------------------------------------
# Fixed point.


def quantize(delta: NDArray[np.floating], layout: Layout, exponents: Sequence[int]) -> tuple[Update, int]:
    """The fixed-point update nearest to `delta`, and how many coordinates were saturated.

    delta: float32 or float64, shape (layout.size,); a number that is not finite raises ValueError.
    """
    wide = np.asarray(delta, dtype=np.float64)
    if not np.isfinite(wide).all():
        raise ValueError("the update holds a number that is not finite")
    values = np.empty(layout.size, dtype=np.int16)
    saturated = 0
    for part, exponent in zip(layout.slices(), exponents, strict=True):
        scaled = np.rint(np.ldexp(wide[part], -exponent))
        saturated += int(np.count_nonzero(np.abs(scaled) > INT16_MAX))
        values[part] = np.clip(scaled, -INT16_MAX, INT16_MAX).astype(np.int16)
    return Update(layout, tuple(exponents), values), saturated


def divide_round_half_even(numerator: Int64, denominator: int) -> Int64:
    """Integer division, ties to even. numerator: int64, |numerator| < 2^62; denominator > 0."""
    if denominator <= 0:
        raise ValueError("the denominator must be positive")
    if denominator & (denominator - 1) == 0:
        quotient = numerator >> (denominator.bit_length() - 1)
    else:
        quotient = np.floor_divide(numerator, denominator)
    beyond = numerator - quotient * denominator
    beyond *= 2
    beyond += quotient & 1  # At a tie an odd quotient goes up.
    return quotient + (beyond > denominator)


def apply_update(base: Base, update: Update) -> Base:
    """float32(base + q * 2^e), one rounding to float64 and one to float32, the same on every machine."""
    values = np.empty_like(base.values)
    for part, exponent in zip(base.layout.slices(), update.exponents, strict=True):
        unit = (
            2.0**exponent
        )  # Exact, and so is every product: no exponent of an update leaves float64's range.
        for start in range(part.start, part.stop, _APPLIED_AT_ONCE):
            here = slice(start, min(start + _APPLIED_AT_ONCE, part.stop))
            step = np.multiply(update.values[here], unit, dtype=np.float64)
            values[here] = np.add(step, base.values[here], out=step)
    return Base(base.layout, values)


def delta_of(base: Base, after: Float32) -> NDArray[np.float64]:
    """after - base in float64."""
    return np.asarray(after, dtype=np.float64) - base.values.astype(np.float64)


def fitting_exponents(update: Update, *, headroom_bits: int = 3) -> tuple[int, ...]:
    """For each tensor the exponent at which the largest coordinate leaves `headroom_bits` free in int16."""
    exponents: list[int] = []
    for part, exponent in zip(update.layout.slices(), update.exponents, strict=True):
        largest = int(np.abs(update.values[part].astype(np.int32)).max(initial=0))
        wanted = exponent + largest.bit_length() - (15 - headroom_bits) if largest else exponent
        exponents.append(min(EXPONENT_MAX, max(EXPONENT_MIN, wanted)))
    return tuple(exponents)
