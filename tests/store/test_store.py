"""A node's folder as a whole, its notes, and what it refuses to be opened as."""

from __future__ import annotations

import dataclasses
import os
import resource
from pathlib import Path

import pytest

from consensus.types import ZERO_DIGEST, Elapsed, Started
from p2pfl.errors import UserError
from p2pfl.genesis import COUNCIL
from p2pfl.records import VerdictCertificate
from p2pfl.signed import Verdict
from p2pfl.store import Folder, Notes, Store, node_folders
from tests.audit.chain import Built, build, member_of


@pytest.fixture(scope="module")
def built() -> Built:
    return build()


def test_what_is_kept_is_there_after_a_restart(tmp_path: Path, built: Built) -> None:
    store = Store(tmp_path, built.genesis)
    for decided in built.chains["g1"]:
        store.chain("g1").append(decided)
    for decided in built.chains[COUNCIL]:
        store.council.append(decided)
    store.wal("g1").reset(6)
    store.wal("g1").append(Elapsed(6, 0))
    blob = store.blobs.put(b"parameters")
    store.notes.add("metrics", {"chain": "g1", "height": 5, "accuracy": 0.9})
    store.close()
    store = Store(tmp_path)  # The genesis comes from the folder.
    assert store.genesis == built.genesis
    assert list(store.chain("g1")) == built.chains["g1"]
    assert store.council.tip == built.chains[COUNCIL][-1]
    assert list(store.chains()) == ["g1", COUNCIL]
    assert store.wal("g1").replay(6) == [Elapsed(6, 0)]
    assert store.blobs.get(blob) == b"parameters"
    assert store.notes.read("metrics")[0]["accuracy"] == 0.9
    store.close()


def test_one_folder_serves_one_node_at_a_time(tmp_path: Path, built: Built) -> None:
    store = Store(tmp_path, built.genesis)
    store.chain("g1")
    store.wal("g1")
    second = Store(tmp_path, built.genesis)
    with pytest.raises(UserError, match="in use"):
        second.chain("g1")
    with pytest.raises(UserError, match="in use"):
        second.wal("g1")
    store.close()
    second.chain("g1")
    second.close()


def test_a_folder_of_another_network_is_refused(tmp_path: Path, built: Built) -> None:
    Store(tmp_path, built.genesis).close()
    with pytest.raises(UserError, match="another network"):
        Store(tmp_path, dataclasses.replace(built.genesis, name="other"))


def test_a_chain_that_the_genesis_does_not_name_is_a_bug(tmp_path: Path, built: Built) -> None:
    store = Store(tmp_path, built.genesis)
    for name in ("g9", "../g1", ""):
        with pytest.raises(KeyError):
            store.chain(name)
        with pytest.raises(KeyError):
            store.wal(name)
    store.close()


def test_a_folder_that_cannot_be_made_says_so(tmp_path: Path, built: Built) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="cannot be written"):
        Store(tmp_path / "file" / "node", built.genesis)


def test_the_folders_are_durable_before_a_file_is_made_in_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(os, "fsync", lambda handle: synced.append(Path(f"/proc/self/fd/{handle}").resolve()))
    Folder(tmp_path / "node").make()
    assert synced == [tmp_path / "node", tmp_path]


def test_keys_lie_where_only_the_owner_looks(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "node")
    folder.make()
    assert folder.keys.stat().st_mode & 0o777 == 0o700


def test_run_directories_and_single_nodes_are_told_apart(tmp_path: Path, built: Built) -> None:
    for name in ("b", "a"):
        Store(tmp_path / "run" / "nodes" / name, built.genesis).close()
    assert list(node_folders(tmp_path / "run")) == ["a", "b"]
    assert list(node_folders(tmp_path / "run" / "nodes" / "a")) == [""]
    with pytest.raises(UserError, match="no history"):
        node_folders(tmp_path)


def test_a_full_disk_keeps_what_was_decided(tmp_path: Path, built: Built) -> None:
    store = Store(tmp_path, built.genesis)
    for decided in built.chains["g1"][:3]:
        store.chain("g1").append(decided)
    wal = store.wal("g1")
    wal.reset(3)
    wal.append(Started(None, ZERO_DIGEST, ZERO_DIGEST))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = (tmp_path / "chain" / "g1.mps").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, hard))
    try:
        with pytest.raises(UserError, match="disk is full"):
            store.chain("g1").append(built.chains["g1"][3])
        assert store.chain("g1").tip == built.chains["g1"][2]
        with pytest.raises(UserError, match="disk is full"):
            wal.append_many([Elapsed(3, 0)] * 1000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    store.chain("g1").append(built.chains["g1"][3])
    store.close()
    store = Store(tmp_path)
    assert list(store.chain("g1")) == built.chains["g1"][:4]
    assert store.wal("g1").replay(3) == [Started(None, ZERO_DIGEST, ZERO_DIGEST)]
    store.close()


# -- notes ----------------------------------------------------------------------


def test_notes_are_lines_of_json(tmp_path: Path) -> None:
    notes = Notes(tmp_path)
    assert notes.read("faults") == []
    verdict = Verdict(ZERO_DIGEST, 0, 3, member_of("g1-m0"), 16, ZERO_DIGEST)
    notes.add("certificates", VerdictCertificate(verdict, (b"s" * 65,)), durable=True)
    notes.add("faults", {"peer": "a\nb", "reason": "<x>"})
    notes.add("faults", {"peer": "c"})
    assert notes.read("certificates")[0]["verdict"]["offence"] == 16
    assert notes.read("faults") == [{"peer": "a\nb", "reason": "<x>"}, {"peer": "c"}]
    assert len((tmp_path / "faults.jsonl").read_text().splitlines()) == 2
    with pytest.raises(KeyError):
        notes.add("diary", {})


def test_a_note_that_was_cut_short_costs_only_itself(tmp_path: Path) -> None:
    notes = Notes(tmp_path)
    notes.add("faults", {"n": 1})
    notes.add("faults", {"n": 2})
    path = tmp_path / "faults.jsonl"
    whole = path.read_bytes()
    for end in range(len(whole) // 2 + 1, len(whole)):
        path.write_bytes(whole[:end])
        notes.add("faults", {"n": 3})
        found = [note["n"] for note in notes.read("faults")]
        assert found in ([1, 3], [1, 2, 3])
        assert found[0] == 1
    path.write_bytes(b"\xff\xfe\n[1]\nnull\n" + whole)
    assert [note["n"] for note in notes.read("faults")] == [1, 2]
