"""Blobs: whole and right, or not here."""

from __future__ import annotations

import os
import random
import resource
import threading
from pathlib import Path

import pytest

from consensus.types import Digest
from p2pfl.errors import PeerFault, UserError
from p2pfl.params import blob_id
from p2pfl.runs import root_of, run_hashes
from p2pfl.store import blobs
from p2pfl.store.blobs import BlobStore
from p2pfl.store.coming import Coming


def test_a_blob_comes_back_by_its_id(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    for size in (0, 1, 1024, 1025, 50_000):
        data = random.Random(size).randbytes(size)
        made = store.put(data)
        assert made == blob_id(data)
        assert store.has(made)
        for fresh in (store, BlobStore(tmp_path)):
            assert fresh.get(made) == data
            source = fresh.source(made)
            assert source is not None
            assert source.length == size
            assert source.run_hashes() == run_hashes(data)
            assert source.read(1000, 500) == data[1000:1500]
            assert root_of(source.run_hashes()) == made
        assert store.path(made).read_bytes() == data
    assert len(set(store.ids())) == 5


def test_other_bytes_than_the_id_names_are_a_peers_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blobs, "BLOB_BYTES_MAX", 5000)
    store = BlobStore(tmp_path)
    with pytest.raises(PeerFault) as caught:
        store.put(b"other", blob_id(b"wanted"))
    assert caught.value.reason == "bad_blob"
    with pytest.raises(PeerFault) as caught:
        store.put(bytes(5001))
    assert caught.value.reason == "blob_too_large"
    assert list(store.ids()) == []
    assert not store.has(blob_id(b"wanted"))
    assert store.get(blob_id(b"wanted")) is None


def test_what_comes_with_its_hashes_is_kept_and_served_by_them(tmp_path: Path) -> None:
    data = os.urandom(5000)
    store = BlobStore(tmp_path)
    assert store.put(data, blob_id(data), runs=run_hashes(data)) == blob_id(data)
    source = store.source(blob_id(data))
    assert source is not None
    assert source.run_hashes() == run_hashes(data)
    assert BlobStore(tmp_path).get(blob_id(data)) == data  # Checked when it is read from the disk.


def test_a_blob_that_rotted_is_not_here_any_more(tmp_path: Path) -> None:
    made = BlobStore(tmp_path).put(b"x" * 3000)
    path = BlobStore(tmp_path).path(made)
    for damaged in (b"x" * 2999, b"x" * 2999 + b"y", b""):
        path.write_bytes(damaged)
        store = BlobStore(tmp_path)
        assert store.get(made) is None
        assert not store.has(made)
        assert store.put(b"x" * 3000) == made
        assert BlobStore(tmp_path).get(made) == b"x" * 3000


def test_what_a_crash_left_half_written_is_deleted(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    made = store.put(b"whole")
    half = store.path(made).with_name(".half.1.2.tmp")
    half.write_bytes(b"ha")
    store = BlobStore(tmp_path)
    assert not half.exists()
    assert list(store.ids()) == [made]


def test_a_full_disk_is_an_operators_error_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    kept = store.put(b"kept")
    data = os.urandom(100_000)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(UserError, match="disk is full"):
            store.put(data)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not store.has(blob_id(data))
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [kept.hex()]
    assert store.put(data) == blob_id(data)


def test_old_blobs_that_nobody_needs_are_deleted(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    old, needed, young = (store.put(name) for name in (b"old", b"needed", b"young"))
    for made in (old, needed):
        os.utime(store.path(made), (1000, 1000))
    assert store.prune({needed}, older_than_ms=2_000_000) == 1
    assert set(store.ids()) == {needed, young}
    assert store.get(old) is None


def test_what_is_put_again_or_used_is_not_old(tmp_path: Path) -> None:
    """An update of the open height may have the bytes of an old one."""
    store = BlobStore(tmp_path)
    again, used, read = (store.put(name) for name in (b"again", b"used", b"read"))
    for made in (again, used, read):
        os.utime(store.path(made), (1000, 1000))
    assert store.put(b"again") == again
    assert store.get_for_use(used) == b"used"
    assert store.get(read) == b"read"
    assert store.prune(set(), older_than_ms=2_000_000) == 1
    assert set(store.ids()) == {again, used}
    store.path(again).write_bytes(b"cut")
    assert store.put(b"again") == again  # No blob's file is shorter than it.
    assert BlobStore(tmp_path).get(again) == b"again"


def test_what_is_promised_to_be_durable_is_though_it_lay_there_already(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = BlobStore(tmp_path)
    made = store.put(b"fetched", durable=False)
    synced: list[int] = []
    fsync = os.fsync

    def noted(handle: int) -> None:
        synced.append(os.fstat(handle).st_ino)
        fsync(handle)

    monkeypatch.setattr(os, "fsync", noted)
    store.put(b"fetched", durable=False)
    assert synced == []
    store.put(b"fetched")
    assert synced == [each.stat().st_ino for each in (store.path(made), store.path(made).parent)]


def test_a_file_that_is_being_served_may_be_put_again(tmp_path: Path) -> None:
    data = os.urandom(5000)
    store = BlobStore(tmp_path, cache_bytes_max=1000)
    made = store.put(data)
    source = store.source(made)
    assert source is not None and not isinstance(source, Coming)
    os.utime(store.path(made), (1000, 1000))
    with pytest.raises(FileNotFoundError):
        source.read(0, 10)  # Somebody else touched it.
    source = store.source(made)
    assert source is not None and not isinstance(source, Coming)
    assert source.run_hashes() == run_hashes(data)
    store.put(data)
    assert source.read(1000, 500) == data[1000:1500]


def test_memory_is_bounded_and_the_least_used_goes_first(tmp_path: Path) -> None:
    store = BlobStore(tmp_path, cache_bytes_max=25_000)
    one, two = store.put(b"1" * 10_000), store.put(b"2" * 10_000)
    store.get(one)
    three = store.put(b"3" * 10_000)
    for made in (one, two, three):
        store.path(made).unlink()
    assert store.get(one) is not None
    assert store.get(two) is None
    assert store.get(three) is not None
    huge = store.put(b"4" * 30_000)
    store.path(huge).unlink()
    assert store.get(huge) is None, "a blob larger than the whole cache stays on the disk"


def test_threads_may_put_the_same_blob_at_once(tmp_path: Path) -> None:
    data = os.urandom(200_000)
    stores = [BlobStore(tmp_path) for _ in range(4)]
    threads = [threading.Thread(target=store.put, args=(data,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert BlobStore(tmp_path).get(blob_id(data)) == data
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 1


def test_an_unknown_id_is_nothing(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    assert store.source(Digest(bytes(32))) is None
