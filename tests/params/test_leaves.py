"""The hashes of a blob's leaves are made once: who reads or fetches it leaves them for who checks a block."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from p2pfl import runs
from p2pfl.params import leaf_hashes
from p2pfl.runs import RUN_BYTES, leaves_of, run_hashes
from p2pfl.store.blobs import BlobStore


@pytest.mark.parametrize("size", [1, 1024, RUN_BYTES, RUN_BYTES + 1, 3 * RUN_BYTES + 5000])
def test_what_was_hashed_lately_is_known_by_its_runs(size: int) -> None:
    data = os.urandom(size)
    assert leaves_of(run_hashes(data)) == b"".join(leaf_hashes(data))


def test_one_unknown_run_makes_all_unknown() -> None:
    known = run_hashes(os.urandom(2 * RUN_BYTES))
    assert leaves_of(known) and not leaves_of(known + bytes(32))


def test_only_so_many_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "_leaves", runs._Leaves())
    monkeypatch.setattr(runs, "LEAVES_KNOWN_MAX", 3)
    first, second = run_hashes(os.urandom(2 * RUN_BYTES)), run_hashes(os.urandom(2 * RUN_BYTES))
    assert not leaves_of(first) and leaves_of(second)


def test_a_store_tells_them_of_what_it_has_read(tmp_path: Path) -> None:
    data = os.urandom(100_000)
    blob_id = BlobStore(tmp_path).put(data, durable=False)
    again = BlobStore(tmp_path)
    assert again.leaves(blob_id) == b""  # It has looked at nothing yet.
    assert again.get(blob_id) == data
    assert again.leaves(blob_id) == b"".join(leaf_hashes(data))
