"""Blobs on their way: what has come survives, is believed only when it is proved, and is limited."""

from __future__ import annotations

import os
import resource
import time
from pathlib import Path

import numpy as np
import pytest

from consensus.types import Digest
from p2pfl.durable import DiskFull
from p2pfl.errors import PeerFault
from p2pfl.params import BLOB_BYTES_MAX
from p2pfl.runs import RunTree, root_of, run_hashes
from p2pfl.store.blobs import BlobStore
from p2pfl.store.coming import AGE_S_MAX, Arriving, Busy, Coming, held_path, part_path

DATA = np.random.default_rng(5).bytes(3_000_000)  # 12 pieces of 256 KiB, the last one shorter.
RUNS = run_hashes(DATA)
ID, TREE = root_of(RUNS), RunTree(RUNS)
LEAVES, PIECE = 256, 256 * 1024


def keep(coming: Coming, *numbers: int, data: bytes = DATA) -> None:
    for number in numbers:
        part = data[number * PIECE : (number + 1) * PIECE]
        coming.keep(number, part, TREE.proof(number * LEAVES, LEAVES), run_hashes(part))


def reopened(folder: Path) -> Coming:
    return Coming(folder, ID, len(DATA))


def test_what_has_come_is_there_again_and_the_rest_makes_it_whole(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    coming = store.arriving.open(ID, len(DATA))
    assert coming.piece_leaves == LEAVES
    keep(coming, 3, 11, 0)
    store.arriving.close(coming)
    store = BlobStore(tmp_path)
    assert store.source(ID) is None  # Nobody fetches it now, so nobody serves it.
    coming = store.arriving.open(ID, len(DATA))
    assert coming.missing() == [1, 2, 4, 5, 6, 7, 8, 9, 10]
    keep(coming, *coming.missing())
    store.adopt(coming)
    store.arriving.close(coming)
    assert store.get(ID) == DATA
    assert BlobStore(tmp_path).get(ID) == DATA
    assert list((tmp_path / "coming").iterdir()) == []


def test_what_is_here_of_it_is_served_with_the_proofs_that_came_with_it(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    coming = store.arriving.open(ID, len(DATA))
    keep(coming, 1, 9)
    source = store.source(ID)
    assert source is coming
    assert coming.held() == bytes((0b01000000, 0b01000000))
    assert coming.piece(9) == (TREE.proof(9 * LEAVES, LEAVES), DATA[9 * PIECE : 10 * PIECE])
    assert coming.piece(2) is None
    store.arriving.close(coming)
    assert coming.piece(9) is None


@pytest.mark.parametrize("where", ["part", "held", "head", "short", "foreign", "no part"])
def test_damage_costs_only_the_pieces_it_touches(where: str, tmp_path: Path) -> None:
    coming = reopened(tmp_path)
    keep(coming, 2, 5, 7)
    coming.close()
    part, held = part_path(tmp_path, ID), held_path(tmp_path, ID)
    everything, expected = list(range(12)), [n for n in range(12) if n not in (2, 7)]
    match where:
        case "part":
            with part.open("r+b") as file:
                file.seek(5 * PIECE + 77)
                file.write(b"\0" if DATA[5 * PIECE + 77] else b"\1")
        case "held":
            slot = 1 + 4 * 32
            with held.open("r+b") as file:
                file.seek(-7 * slot + 30, os.SEEK_END)
                file.write(os.urandom(40))
        case "head":
            with held.open("r+b") as file:
                file.write(b"?")
            expected = everything
        case "short":
            os.truncate(part, len(DATA) - 1)
            expected = everything
        case "foreign":
            part.write_bytes(bytes(len(DATA)))
            expected = everything
        case "no part":
            part.unlink()
            expected = everything
    coming = reopened(tmp_path)
    assert coming.missing() == expected
    keep(coming, *coming.missing())
    assert part.read_bytes() == DATA
    coming.close()


def test_a_full_disk_is_told_and_costs_nothing_that_has_come(tmp_path: Path) -> None:
    coming = reopened(tmp_path)
    keep(coming, 0, 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5 * PIECE, hard))
    try:
        with pytest.raises(DiskFull, match="full"):
            keep(coming, 9)
        with pytest.raises(DiskFull, match="full"):
            Coming(tmp_path, Digest(bytes(32)), 100_000_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert 9 in coming.missing()
    keep(coming, 9)
    coming.close()
    coming = reopened(tmp_path)
    assert coming.missing() == [n for n in range(12) if n not in (0, 1, 9)]
    coming.close()


def test_how_many_and_how_much_may_be_on_the_way_is_limited(tmp_path: Path) -> None:
    arriving = Arriving(tmp_path, count_max=3, bytes_max=10_000_000)
    ids = [Digest(bytes([n]) * 32) for n in range(6)]
    one, two = arriving.open(ids[0], 3_000_000), arriving.open(ids[1], 4_000_000)
    for blob_id, length in ((ids[2], 4_000_000), (ids[0], 3_000_000)):  # Too much; twice the same.
        with pytest.raises(Busy):
            arriving.open(blob_id, length)
    three = arriving.open(ids[2], 1_000_000)
    with pytest.raises(Busy):
        arriving.open(ids[3], 1)
    for coming in (one, two, three):
        arriving.close(coming)
    for blob_id, age_s in ((ids[0], 300), (ids[1], 200), (ids[2], AGE_S_MAX + 60)):
        os.utime(part_path(tmp_path, blob_id), (time.time() - age_s,) * 2)
    arriving.close(arriving.open(ids[3], 4_000_000))  # Makes room: too old; and the oldest of too much.
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {path(tmp_path, each).name for each in (ids[1], ids[3]) for path in (part_path, held_path)}
    arriving.close(arriving.open(ids[4], 10_000_000))
    assert {path.stem for path in tmp_path.iterdir()} == {ids[4].hex()}


def test_of_what_is_only_claimed_just_what_has_come_counts_and_takes_room(tmp_path: Path) -> None:
    arriving = Arriving(tmp_path, count_max=4, bytes_max=2 * PIECE, reserve=False)
    for n in range(3):
        arriving.open(Digest(bytes([n]) * 32), BLOB_BYTES_MAX)  # And then nothing comes.
    assert sum(path.stat().st_blocks * 512 for path in tmp_path.glob("*.part")) < PIECE
    coming = arriving.open(ID, len(DATA))
    with pytest.raises(Busy):
        arriving.open(Digest(b"5" * 32), 1)  # One too many.
    keep(coming, 4, 5, 11)
    arriving.close(coming)
    coming = arriving.open(ID, len(DATA))
    assert coming.missing() == [n for n in range(12) if n not in (4, 5, 11)]
    assert coming.come_bytes() == 3 * PIECE
    first = arriving.find(Digest(bytes(32)))
    assert first is not None
    arriving.close(first)
    with pytest.raises(Busy):
        arriving.open(Digest(b"5" * 32), 1)  # Too much has come.
    keep(coming, *coming.missing())
    assert part_path(tmp_path, ID).read_bytes() == DATA


@pytest.mark.parametrize("length", [0, -1, BLOB_BYTES_MAX + 1, 200 * 10**9, 1 << 62])
def test_a_length_that_no_blob_has_takes_neither_memory_nor_disk(length: int, tmp_path: Path) -> None:
    arriving = Arriving(tmp_path)
    with pytest.raises(PeerFault, match="bad_length"):
        arriving.open(ID, length)
    assert list(tmp_path.iterdir()) == []
    arriving.close(arriving.open(ID, len(DATA)))


def test_a_large_blob_is_served_from_its_file_until_somebody_touches_it(tmp_path: Path) -> None:
    BlobStore(tmp_path).put(DATA)
    store = BlobStore(tmp_path, cache_bytes_max=1_000_000)
    source = store.source(ID)
    assert source is not None and not isinstance(source, Coming)
    assert source.length == len(DATA)
    assert source.run_hashes() == RUNS
    assert source.read(1000, 5000) == DATA[1000:6000]
    assert source.read_now(1000, 5000) in (DATA[1000:6000], None)
    path = store.path(ID)
    path.write_bytes(bytes(len(DATA)))
    os.utime(path, (1, 1))
    for read in (source.read, source.read_now):
        with pytest.raises(OSError, match="changed"):
            read(1000, 5000)
    fresh = store.source(ID)
    assert fresh is not None
    with pytest.raises(OSError, match="damaged"):
        fresh.run_hashes()
    assert store.source(ID) is None
