"""The five Bloom filters of a block: where has this been seen, and where certainly not.

A filter is a pure function of its keys: every replica recomputes it and refuses one wrong bit, so that an
auditor can rely on absence. Knows how keys become bits; `validate` and `council` say which keys a block has.

    actors     (member), (member, role)                 who took part, and as what
    chunks     (tensor, leaf, leaf hash)                 has this piece of an update been seen before
    bands      (band, 32 SimHash bits)                   near-copies
    warnings   (member, tensor, chunk, reason), (tensor, chunk, reason)
    accused    (member, case id)                         accusations and sanctions
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from hashlib import sha256

import mmh3
import numpy as np
from numpy.typing import NDArray

from consensus.types import Digest, MemberId
from p2pfl.params import LEAF_BYTES, Int16, Int64, Layout, Update, leaf_hashes
from p2pfl.records import BloomFilter
from p2pfl.rules import murmur
from p2pfl.rules.chunks import exact_int64

ACTORS, CHUNKS, BANDS, WARNINGS, ACCUSED = NAMES = ("actors", "chunks", "bands", "warnings", "accused")

# A handful of keys in a handful of bits collide more often than the formula for large filters says.
BITS_MIN = 512
# Bits a key and hash, 1 / ln 2: then a filter of k hashes is wrong for one absent key in 2^k.
LOG2_E_PPB = 1_442_695_041
HASHES_MAX = 32
# Fewer keys are hashed sooner one by one.
MANY_KEYS = 64
# A leaf with fewer numbers than this says little: most of a sparse update's leaves look alike.
LEAF_NONZEROS_MIN = 64
LEAF_COORDINATES = LEAF_BYTES // 2
# The flags of so many leaves are 64 KiB.
LEAVES_AT_ONCE = 128
HASH_BYTES = 32
SKETCH_BUCKETS = 256
# Places of so many numbers, half a MiB, stay in a processor's own cache while all rows are counted.
SKETCH_COORDINATES = 1 << 16
# A sum is at most 2^15 times the coordinates of the largest model, 2^25: so far int64 can shift it.
SHIFT_MAX = 22
BAND_BITS = 32
# The table of buckets of the largest model is 96 MB; one epoch's salt is in use at a time, two at its end.
TABLES_MAX = 2


def epoch_salt(network_id: Digest, epoch: int, previous_last_block_id: Digest) -> bytes:
    """The salt of an epoch: its predecessor's last block, so that collisions cannot be prepared.

    In epoch 0 there is none (32 zeros): the network's own id has to do.
    """
    return sha256(
        b"MPS filter salt" + network_id + epoch.to_bytes(8, "big") + previous_last_block_id
    ).digest()


def build(name: str, keys: Iterable[bytes], salt: bytes, rate_ppb: int) -> BloomFilter:
    """The filter over these keys, each counted once. rate_ppb: false positives per 10^9 absent keys asked."""
    distinct = set(keys)
    hashes = hashes_for(rate_ppb)
    bits = max(BITS_MIN, len(distinct) * hashes * LOG2_E_PPB // 10**9 + 1)
    array = np.zeros(-(-bits // 8) * 8, dtype=np.uint8)
    if distinct:
        array[_positions(list(distinct), name, salt, hashes, len(array)).reshape(-1)] = 1
    return BloomFilter(name, hashes, len(distinct), np.packbits(array, bitorder="little").tobytes())


def might_contain(found: BloomFilter, salt: bytes, key: bytes) -> bool:
    """False: the key is certainly not in it."""
    return bool(might_contain_each(found, salt, [key])[0])


def might_contain_each(found: BloomFilter, salt: bytes, keys: Sequence[bytes]) -> NDArray[np.bool_]:
    """For each key whether it may be in the filter. Returns bool, shape (keys,)."""
    if not keys or not found.bits or not 0 < found.hashes <= HASHES_MAX:
        return np.zeros(len(keys), dtype=np.bool_)
    size = 8 * len(found.bits)
    positions = _positions(keys, found.name, salt, found.hashes, size)
    octets = np.frombuffer(found.bits, dtype=np.uint8)
    hit = octets[positions >> np.uint64(3)] >> (positions & np.uint64(7)).astype(np.uint8) & 1
    return np.asarray(hit.all(axis=1), dtype=np.bool_)


def hashes_for(rate_ppb: int) -> int:
    """The fewest hashes k with 2^-k at most the rate, in whole numbers: `log` is not the same everywhere."""
    if not 0 < rate_ppb < 10**9:
        raise ValueError("the rate lies between 0 and 1")
    hashes = next(k for k in range(1, 64) if rate_ppb << k >= 10**9)
    return min(hashes, HASHES_MAX)


def _positions(keys: Sequence[bytes], name: str, salt: bytes, hashes: int, size: int) -> NDArray[np.uint64]:
    """The bits of each key. uint64, shape (keys, hashes).

    Enhanced double hashing (Dillinger and Manolios 2004): h1 + i h2 + (i^3 - i) / 6, all modulo 2^64 and
    then modulo the size. Plain double hashing is wrong more often in small filters.
    """
    halves = _digests(keys, salt + name.encode())
    i = np.arange(hashes, dtype=np.uint64)
    cubic = (i * i * i - i) // np.uint64(6)
    return (halves[:, :1] + i * halves[:, 1:] + cubic) % np.uint64(size)


def _digests(keys: Sequence[bytes], prefix: bytes) -> NDArray[np.uint64]:
    """128-bit MurmurHash3 of each key after the prefix. uint64, shape (keys, 2)."""
    length = len(keys[0])
    if len(keys) < MANY_KEYS or set(map(len, keys)) != {length}:
        raw = b"".join([mmh3.mmh3_x64_128_digest(prefix + key, 0) for key in keys])
        return np.frombuffer(raw, dtype="<u8").reshape(-1, 2).astype(np.uint64)
    table = np.empty((len(keys), len(prefix) + length), dtype=np.uint8)
    table[:, : len(prefix)] = np.frombuffer(prefix, dtype=np.uint8)
    table[:, len(prefix) :] = np.frombuffer(b"".join(keys), dtype=np.uint8).reshape(-1, length)
    return murmur.digests(table)


# ---------------------------------------------------------------------------
# Keys: a kind, then fields of fixed width; text comes last.


def actor_key(member: MemberId, role: str = "") -> bytes:
    """A member, in any role or in this one."""
    return b"a" + member + role.encode()


def chunk_key(tensor: int, leaf: int, leaf_hash: bytes) -> bytes:
    """A leaf of an update's data: its tensor, its number (512 coordinates each), its SHA-256 leaf hash."""
    return b"c" + tensor.to_bytes(2, "big") + leaf.to_bytes(4, "big") + leaf_hash


def band_key(band: int, bits: bytes) -> bytes:
    """One band of a SimHash."""
    return b"b" + band.to_bytes(1, "big") + bits


def warning_key(tensor: int, chunk: int, reason: str, member: MemberId | None = None) -> bytes:
    """A warning about a chunk, by anybody or by this member."""
    who = b"v" if member is None else b"w" + member
    return who + tensor.to_bytes(2, "big") + chunk.to_bytes(4, "big") + reason.encode()


def case_key(member: MemberId, case_id: Digest) -> bytes:
    """An accusation of a member."""
    return b"x" + member + case_id


# ---------------------------------------------------------------------------
# Chunks and bands of one update.


def chunk_keys(update: Update, hashes: bytes = b"") -> list[bytes]:
    """The keys of the update's leaves with at least 64 numbers that are not zero.

    hashes: those of the leaves of its bytes, one after another, if somebody has made them already.
    """
    table = _chunk_table(update.layout).copy()
    found = np.frombuffer(hashes or b"".join(leaf_hashes(update.to_bytes())), dtype=np.uint8)
    # The header's leaves come before those of the data.
    table[:, -HASH_BYTES:] = found.reshape(-1, HASH_BYTES)[-len(table) :]
    kept = table[_nonzeros(update.values) >= LEAF_NONZEROS_MIN]
    return kept.view(f"V{table.shape[1]}").reshape(-1).tolist()


@lru_cache(maxsize=TABLES_MAX)
def _chunk_table(layout: Layout) -> NDArray[np.uint8]:
    """The keys of all leaves, with zeros for their hashes. uint8, shape (leaves, bytes of a key)."""
    ends = np.array([part.stop for part in layout.slices()])
    tensors = np.searchsorted(ends, np.arange(0, layout.size, LEAF_COORDINATES), side="right").tolist()
    raw = b"".join(chunk_key(tensor, leaf, bytes(HASH_BYTES)) for leaf, tensor in enumerate(tensors))
    return np.frombuffer(raw, dtype=np.uint8).reshape(len(tensors), -1)


def _nonzeros(values: Int16) -> Int64:
    """How many numbers of each leaf are not zero. int64, shape (leaves,)."""
    counts = np.zeros(-(-len(values) // LEAF_COORDINATES), dtype=np.int64)
    whole = len(values) // LEAF_COORDINATES
    for first in range(0, whole, LEAVES_AT_ONCE):
        last = min(first + LEAVES_AT_ONCE, whole)
        # Eight flags at a time: a leaf's 64 words add up to at most 64 in each of their bytes.
        flags = values[first * LEAF_COORDINATES : last * LEAF_COORDINATES] != 0
        words = flags.view(np.uint64).reshape(last - first, LEAF_COORDINATES // 8)
        lanes = np.add.reduce(words, axis=1).view(np.uint8).reshape(last - first, 8)
        np.add.reduce(lanes, axis=1, dtype=np.int64, out=counts[first:last])
    if whole < len(counts):
        counts[-1] = np.count_nonzero(values[whole * LEAF_COORDINATES :])
    return counts


def band_keys(sketch: bytes) -> list[bytes]:
    """The eight bands of an update's SimHash; none for a zero update."""
    width = BAND_BITS // 8
    return [band_key(band, sketch[band * width : (band + 1) * width]) for band in range(len(sketch) // width)]


def simhash(update: Update, salt: bytes) -> bytes:
    """The signs of a 256-bucket count sketch (Charikar et al. 2002), as 256 bits, little-endian.

    Empty for a zero update, which resembles everything.
    """
    return simhashes([update], salt)[0]


def simhashes(updates: Sequence[Update], salt: bytes) -> list[bytes]:
    """The same of several updates of one layout: where whose bucket is, is looked up once for all."""
    if not updates:
        return []
    layout = updates[0].layout
    buckets = _buckets(salt, layout.size)
    sketches = np.zeros((len(updates), SKETCH_BUCKETS), dtype=np.int64)
    units = [min(update.exponents) for update in updates]
    if any(max(update.exponents) - unit > SHIFT_MAX for update, unit in zip(updates, units, strict=True)):
        sketches = sketches.astype(object)  # Python's integers have no end.
    for tensor, part in enumerate(layout.slices()):
        sums = np.zeros((len(updates), 2 * SKETCH_BUCKETS), dtype=np.float64)
        for start in range(part.start, part.stop, SKETCH_COORDINATES):
            here = slice(start, min(start + SKETCH_COORDINATES, part.stop))
            places = buckets[here].astype(np.intp)
            for row, update in zip(sums, updates, strict=True):
                row += np.bincount(places, weights=update.values[here], minlength=2 * SKETCH_BUCKETS)
        whole = exact_int64(sums)
        signed = whole[:, :SKETCH_BUCKETS] - whole[:, SKETCH_BUCKETS:]
        shifts = [update.exponents[tensor] - unit for update, unit in zip(updates, units, strict=True)]
        sketches += signed << np.array(shifts, dtype=sketches.dtype)[:, np.newaxis]
    signs = (sketches > 0).astype(np.bool_)
    bits = np.packbits(signs, axis=1, bitorder="little")
    return [each.tobytes() if u.values.any() else b"" for each, u in zip(bits, updates, strict=True)]


@lru_cache(maxsize=TABLES_MAX)
def _buckets(salt: bytes, size: int) -> NDArray[np.uint16]:
    """Each coordinate's bucket, plus 256 where its sign is negative: nine bits from Philox under the salt.

    Raw words of the generator are the same in every version of numpy; its drawing of integers is not.
    """
    key = int.from_bytes(sha256(b"MPS sketch" + salt).digest()[:16], "little")
    words = np.random.Philox(key=key).random_raw(-(-size // 4)).astype("<u8")
    return words.view("<u2")[:size] & np.uint16(2 * SKETCH_BUCKETS - 1)
