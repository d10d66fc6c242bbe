"""Filters never miss a key, are wrong about absent ones as rarely as promised, and have one byte form."""

from __future__ import annotations

from hashlib import sha256

import mmh3
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.types import ZERO_DIGEST, Digest, MemberId
from p2pfl.params import Layout, TensorSpec, Update, data_offset, leaf_hashes
from p2pfl.records import BloomFilter
from p2pfl.rules import filters, murmur
from p2pfl.rules.filters import (
    band_keys,
    build,
    chunk_key,
    chunk_keys,
    epoch_salt,
    hashes_for,
    might_contain,
    might_contain_each,
    simhash,
)

SALT = bytes(range(32))
RATE_PPB = 100_000  # 1e-4
GOLDEN_BITS = "d9d1781713008d0481fc3fdc787dc32c3a90a2a96291a0fdfc0202fb03e46e3d"
LAYOUT = Layout((TensorSpec("w", (40, 50)), TensorSpec("b", (600,))))


def keys(count: int, mark: bytes = b"k") -> list[bytes]:
    return [mark + i.to_bytes(4, "big") for i in range(count)]


@given(st.lists(st.binary(min_size=1, max_size=60), max_size=200))
def test_no_key_is_ever_missed(entries: list[bytes]) -> None:
    found = build("chunks", entries, SALT, RATE_PPB)
    assert found.entries == len(set(entries))
    assert might_contain_each(found, SALT, entries).all()


@given(st.lists(st.binary(min_size=1, max_size=20), max_size=60), st.randoms(use_true_random=False))
def test_order_and_repetition_of_keys_do_not_matter(entries: list[bytes], chance: object) -> None:
    mixed = entries * 2
    chance.shuffle(mixed)  # type: ignore[attr-defined]
    assert build("bands", mixed, SALT, RATE_PPB) == build("bands", entries, SALT, RATE_PPB)


@pytest.mark.parametrize("count", [3, 40, 5_000])
def test_absent_keys_are_found_about_as_rarely_as_promised(count: int) -> None:
    found = build("warnings", keys(count), SALT, RATE_PPB)
    wrong = int(might_contain_each(found, SALT, keys(200_000, b"absent")).sum())
    # Promised are 20 at most; 45 is more than five standard deviations above that.
    assert wrong <= 45


def test_a_full_filter_has_the_rate_that_is_promised_and_not_a_better_one() -> None:
    """The size follows from the rate: a filter ten times as exact would be larger."""
    rate_ppb = 10_000_000  # 1e-2
    found = build("chunks", keys(20_000), SALT, rate_ppb)
    wrong = int(might_contain_each(found, SALT, keys(100_000, b"absent")).sum())
    assert 0.006 < wrong / 100_000 < 0.010
    assert len(build("chunks", keys(20_000), SALT, rate_ppb // 10).bits) > 1.2 * len(found.bits)


def test_an_empty_filter_holds_nothing_and_a_small_one_is_not_tiny() -> None:
    empty = build("accused", [], SALT, RATE_PPB)
    assert not any(empty.bits) and empty.entries == 0 and len(empty.bits) == 64
    assert not might_contain(empty, SALT, b"anything")
    assert len(build("accused", [b"one"], SALT, RATE_PPB).bits) == 64


def test_name_and_salt_separate_filters() -> None:
    found = build("actors", keys(50), SALT, RATE_PPB)
    renamed = BloomFilter("chunks", found.hashes, found.entries, found.bits)
    assert not might_contain_each(renamed, SALT, keys(50)).any()
    assert not might_contain_each(found, bytes(32), keys(50)).any()


@pytest.mark.parametrize(
    "bad",
    [
        BloomFilter("actors", 0, 1, b"\xff" * 64),
        BloomFilter("actors", 99, 1, b"\xff" * 64),
        BloomFilter("actors", 5, 1, b""),
    ],
)
def test_a_malformed_filter_of_a_peer_holds_nothing(bad: BloomFilter) -> None:
    assert not might_contain(bad, SALT, b"key")


def test_the_number_of_hashes_is_the_fewest_that_keep_the_rate() -> None:
    assert hashes_for(500_000_000) == 1
    assert hashes_for(499_999_999) == 2
    assert hashes_for(RATE_PPB) == 14
    for bad in (0, 10**9):
        with pytest.raises(ValueError, match="rate"):
            hashes_for(bad)


def test_the_bits_are_those_of_the_formula() -> None:
    """h1 + i h2 + (i^3 - i) / 6 modulo 2^64, then modulo the size; bit p is bit p % 8 of octet p // 8."""
    entries = keys(100)
    found = build("actors", entries, SALT, RATE_PPB)
    size = 8 * len(found.bits)
    assert (found.hashes, found.entries, size) == (14, 100, 2024)  # 100 * 14 / ln 2 = 2019.8
    expected = set()
    for key in entries:
        h1, h2 = mmh3.mmh3_x64_128_utupledigest(SALT + b"actors" + key, 0)
        expected |= {(h1 + i * h2 + (i**3 - i) // 6) % 2**64 % size for i in range(14)}
    assert {p for p in range(size) if found.bits[p // 8] >> (p % 8) & 1} == expected


def test_the_bits_are_those_of_the_golden_vector() -> None:
    """Another library version, processor or byte order must not change a single bit."""
    found = build("actors", [b"a", b"bc", b"def"], SALT, RATE_PPB)
    assert sha256(found.bits).hexdigest() == GOLDEN_BITS


def test_salts_differ_by_network_epoch_and_last_block() -> None:
    network = Digest(b"\x01" * 32)
    salts = {
        epoch_salt(network, 0, ZERO_DIGEST),
        epoch_salt(network, 1, ZERO_DIGEST),
        epoch_salt(network, 1, network),
        epoch_salt(Digest(b"\x02" * 32), 0, ZERO_DIGEST),
    }
    assert len(salts) == 4 and all(len(salt) == 32 for salt in salts)


def test_keys_of_different_kinds_never_coincide() -> None:
    member, other = MemberId(b"\x01" * 20), MemberId(b"\x02" * 20)
    found = [
        filters.actor_key(member),
        filters.actor_key(member, "aggregator"),
        filters.actor_key(other),
        filters.warning_key(1, 2, "opposed"),
        filters.warning_key(1, 2, "opposed", member=member),
        filters.warning_key(1, 2, "loud", member=member),
        filters.warning_key(2, 1, "opposed", member=member),
        filters.case_key(member, ZERO_DIGEST),
        filters.band_key(0, b"abcd"),
        filters.band_key(1, b"abcd"),
        filters.chunk_key(0, 0, ZERO_DIGEST),
    ]
    assert len(set(found)) == len(found)


# ---------------------------------------------------------------------------
# Chunks and bands.


def update(seed: int, scale: float = 500.0) -> Update:
    values = np.random.default_rng(seed).normal(0, scale, LAYOUT.size)
    return Update(LAYOUT, (-14, -12), values.astype(np.int16))


def test_a_leaf_is_keyed_by_tensor_number_and_the_hash_under_the_blob_id() -> None:
    one = update(1)
    blob = one.to_bytes()
    hashes = leaf_hashes(blob)[data_offset(blob) // 1024 :]
    # 2,600 coordinates: leaf 3 begins in the first tensor (2,000), leaf 4 in the second.
    assert chunk_keys(one)[3:5] == [chunk_key(0, 3, hashes[3]), chunk_key(1, 4, hashes[4])]
    assert len(chunk_keys(one)) == 5  # The last leaf has 40 coordinates: too few to say anything.


def test_a_leaf_with_fewer_than_64_numbers_has_no_key() -> None:
    values = np.zeros(LAYOUT.size, dtype=np.int16)
    values[512 : 512 + 64] = 1
    values[1024 : 1024 + 63] = 1
    found = chunk_keys(Update(LAYOUT, (0, 0), values))
    assert len(found) == 1 and found[0][1:7] == bytes([0, 0, 0, 0, 0, 1])


def test_a_simhash_depends_on_direction_alone() -> None:
    one = update(1)
    shifted = Update(LAYOUT, (-10, -8), one.values)
    assert simhash(shifted, SALT) == simhash(one, SALT)
    opposite = Update(LAYOUT, one.exponents, -one.values)
    same = np.unpackbits(
        np.bitwise_xor(
            np.frombuffer(simhash(one, SALT), np.uint8), np.frombuffer(simhash(opposite, SALT), np.uint8)
        )
    )
    assert same.sum() >= 250  # All but a sum that is exactly zero.


def test_a_near_copy_shares_a_band_and_a_stranger_does_not() -> None:
    shared_with_copies, shared_with_strangers = 0, 0
    for seed in range(30):
        one = update(seed)
        noise = np.random.default_rng([seed, 1]).normal(0, 25, LAYOUT.size)  # A twentieth of its length.
        copy = Update(LAYOUT, one.exponents, (one.values + noise).astype(np.int16))
        shared_with_copies += bool(set(band_keys(simhash(one, SALT))) & set(band_keys(simhash(copy, SALT))))
        stranger = simhash(update(seed + 1000), SALT)
        shared_with_strangers += bool(set(band_keys(simhash(one, SALT))) & set(band_keys(stranger)))
    assert shared_with_copies >= 28
    assert shared_with_strangers == 0


def test_a_zero_update_has_no_bands() -> None:
    nothing = Update(LAYOUT, (0, 0), np.zeros(LAYOUT.size, dtype=np.int16))
    assert simhash(nothing, SALT) == b"" and band_keys(b"") == []


def test_a_sketch_is_that_of_python_integers() -> None:
    one = update(3)
    table = filters._buckets(SALT, LAYOUT.size).tolist()
    sketch = [0] * 256
    for index, value in enumerate(one.values.tolist()):
        weight = value << (0 if index < 2000 else 2)
        sketch[table[index] % 256] += -weight if table[index] >= 256 else weight
    bits = sum((value > 0) << i for i, value in enumerate(sketch))
    assert simhash(one, SALT) == bits.to_bytes(32, "little")


def test_buckets_and_signs_are_spread_evenly() -> None:
    table = filters._buckets(SALT, 200_000)
    assert 0.49 < (table >= 256).mean() < 0.51
    counts = np.bincount(table % 256, minlength=256)
    assert counts.min() > 600 and counts.max() < 1000


def test_many_keys_are_hashed_as_one_is() -> None:
    rng = np.random.default_rng(4)
    for length in [*range(1, 50), 77, 96]:
        table = rng.integers(0, 256, (5, length)).astype(np.uint8)
        for row, halves in zip(table, murmur.digests(table), strict=True):
            assert halves.astype("<u8").tobytes() == mmh3.mmh3_x64_128_digest(row.tobytes(), 0)


def test_leaves_that_were_hashed_already_give_the_same_keys() -> None:
    one = update(5)
    blob = one.to_bytes()
    known, skip = b"".join(leaf_hashes(blob)), 32 * data_offset(blob) // 1024
    assert chunk_keys(one, known) == chunk_keys(one)
    other = known[:skip] + bytes([known[skip] ^ 1]) + known[skip + 1 :]
    assert chunk_keys(one, other)[0] != chunk_keys(one)[0]


def test_several_updates_are_sketched_as_one_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """And as the definition says, in plain integers; whatever is counted at a time."""
    ends = [np.full(LAYOUT.size, end, dtype=np.int16) for end in (-32768, 32767)]
    some = [*(update(seed) for seed in range(3)), *(Update(LAYOUT, (0, 0), each) for each in ends)]
    buckets = filters._buckets(SALT, LAYOUT.size).tolist()
    for each in some:
        exact, shift = [0] * 512, each.exponents[1] - each.exponents[0]
        for number, value in enumerate(each.values.tolist()):
            exact[buckets[number]] += value << (shift if number >= 2000 else 0)
        bits = [exact[place] > exact[place + 256] for place in range(256)]
        assert simhash(each, SALT) == np.packbits(bits, bitorder="little").tobytes()
    far = [Update(LAYOUT, (-40, 10), each.values) for each in some]  # Beyond what int64 could shift.
    for each in far:
        bits = np.unpackbits(np.frombuffer(simhash(each, SALT), np.uint8), bitorder="little")
        tail = [0] * 512
        for number, value in enumerate(each.values.tolist()):
            tail[buckets[number]] += value << (50 if number >= 2000 else 0)
        assert bits.tolist() == [int(tail[place] > tail[place + 256]) for place in range(256)]
    alone = [simhash(each, SALT) for each in some]
    monkeypatch.setattr(filters, "SKETCH_COORDINATES", 700)
    assert filters.simhashes(some, SALT) == alone
    nothing = Update(LAYOUT, (0, 0), np.zeros(LAYOUT.size, dtype=np.int16))
    assert filters.simhashes([some[0], nothing], SALT) == [alone[0], b""]
