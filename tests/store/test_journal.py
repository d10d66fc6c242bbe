"""Journals: what a crash can do to their end is cut, everything else is damage with an offset."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from p2pfl.durable import Journal, scan, write_whole
from p2pfl.errors import UserError
from p2pfl.keys import create_signing_key
from p2pfl.store.blobs import BlobStore

RECORDS = [bytes([index]) * (60 * index + 1) for index in range(1, 12)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "journal"
    journal = Journal.create(path, b"identity")
    journal.append(*RECORDS)
    journal.close()
    return path


def opened(path: Path) -> tuple[list[bytes], Journal]:
    found: list[bytes] = []
    journal = Journal.open(
        path, lambda offset, payload: found.append(payload), identity=b"identity", fix="mend it"
    )
    return found, journal


def test_what_was_appended_is_read_back_by_record_and_by_offset(path: Path) -> None:
    found, journal = opened(path)
    assert found == RECORDS
    assert journal.cut is None
    offsets = journal.append(b"one", b"", b"two")
    assert [journal.read(offset) for offset in offsets] == [b"one", b"", b"two"]
    journal.close()
    found, journal = opened(path)
    assert found == [*RECORDS, b"one", b"", b"two"]
    journal.close()


@pytest.mark.usefixtures("quick_disk")
def test_every_truncation_keeps_a_prefix_and_can_be_appended_to(path: Path) -> None:
    whole = path.read_bytes()
    starts: list[int] = []
    scan(path, lambda offset, payload: starts.append(offset))
    for end in range(starts[0], len(whole), 7):
        path.write_bytes(whole[:end])
        found, journal = opened(path)
        complete = sum(
            1 for start, record in zip(starts, RECORDS, strict=True) if start + 32 + len(record) <= end
        )
        assert found == RECORDS[:complete]
        assert (journal.cut is None) == (end in (starts[complete], len(whole)))
        journal.append(b"next")
        journal.close()
        found, journal = opened(path)
        assert found == [*RECORDS[:complete], b"next"]
        journal.close()


@pytest.mark.usefixtures("quick_disk")
def test_a_head_that_is_cut_short_is_damage(path: Path) -> None:
    whole = path.read_bytes()
    for end in range(64):
        path.write_bytes(whole[:end])
        with pytest.raises(UserError, match="damaged at byte"):
            opened(path)


def test_zeros_at_the_end_are_an_interrupted_append(path: Path) -> None:
    """A crash may leave a file that has grown without the data having been written."""
    whole = path.read_bytes()
    last = len(whole) - 32 - len(RECORDS[-1])
    for tail in (bytes(10), bytes(5000)):
        path.write_bytes(whole + tail)
        found, journal = opened(path)
        assert found == RECORDS
        journal.close()
    for written in (0, 20, 32, 100):  # The first bytes of the record were written, the rest are zeros.
        path.write_bytes(whole[: last + written] + bytes(len(whole) - last - written))
        found, journal = opened(path)
        assert found == RECORDS[:-1]
        journal.close()


def test_a_sector_that_was_not_written_is_an_interrupted_append(path: Path) -> None:
    found, journal = opened(path)
    journal.append(b"\x99" * 4000)
    journal.close()
    whole = path.read_bytes()
    hole = len(whole) - 2048 - len(whole) % 512
    path.write_bytes(whole[:hole] + bytes(512) + whole[hole + 512 :])
    found, journal = opened(path)
    assert found == RECORDS
    journal.close()


@pytest.mark.usefixtures("quick_disk")
def test_a_flipped_bit_anywhere_is_damage_with_the_offset_of_its_record(path: Path) -> None:
    whole = path.read_bytes()
    starts: list[int] = []
    scan(path, lambda offset, payload: starts.append(offset))
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(UserError) as caught:
            opened(path)
        if place >= starts[0]:
            record = max(start for start in starts if start <= place)
            assert f"damaged at byte {record}" in caught.value.what
            assert caught.value.fix == "mend it"
        damage = scan(path, lambda offset, payload: None).damage
        assert damage is not None
    path.write_bytes(whole)


@pytest.mark.usefixtures("quick_disk")
def test_removed_bytes_in_the_middle_are_damage(path: Path) -> None:
    whole = path.read_bytes()
    for place in range(200, len(whole) - 700, 97):
        path.write_bytes(whole[:place] + whole[place + 3 :])
        with pytest.raises(UserError, match="damaged at byte"):
            opened(path)


def test_a_record_inside_a_payload_is_not_taken_for_a_record(path: Path) -> None:
    """A peer sends bytes that look like a whole record; a torn append of them must still be cut."""
    inner = path.read_bytes()[24:]
    found, journal = opened(path)
    size = journal.size_bytes
    journal.append(inner * 3)
    journal.close()
    whole = path.read_bytes()
    path.write_bytes(whole[: size + 32 + len(inner) * 2])
    found, journal = opened(path)
    assert found == RECORDS
    journal.close()


def test_a_journal_is_locked_against_other_processes(path: Path) -> None:
    _, journal = opened(path)
    code = (
        "import sys; from pathlib import Path\n"
        "from p2pfl.durable import Journal; from p2pfl.errors import UserError\n"
        "try: Journal.open(Path(sys.argv[1]), lambda o, p: None, identity=None, fix='')\n"
        "except UserError as error: sys.exit(7 if 'in use' in error.what else 1)"
    )
    command = [sys.executable, "-c", code, str(path)]
    assert subprocess.run(command, check=False).returncode == 7
    journal.close()
    assert subprocess.run(command, check=False).returncode == 0


def test_another_identity_is_refused(path: Path) -> None:
    with pytest.raises(UserError, match="belongs to something else"):
        Journal.open(path, lambda offset, payload: None, identity=b"other", fix="")


def test_compaction_takes_the_place_of_the_old_file_as_a_whole(path: Path) -> None:
    _, journal = opened(path)
    journal = journal.replace(b"identity", [b"kept"])
    journal.append(b"new")
    with pytest.raises(UserError, match="in use"):
        opened(path)
    journal.close()
    assert opened(path)[0] == [b"kept", b"new"]
    assert [each.name for each in path.parent.iterdir()] == ["journal"]


def test_a_file_is_whole_or_not_there(tmp_path: Path) -> None:
    write_whole(tmp_path / "file", b"content")
    assert (tmp_path / "file").read_bytes() == b"content"
    with pytest.raises(UserError):
        write_whole(tmp_path / "none" / "file", b"content")
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_creations_and_renames_are_durable_in_their_folder_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rename that was not followed by an fsync of the folder rolled back a signer's record once."""
    told: list[str] = []

    def fsync(handle: int) -> None:
        place = Path(f"/proc/self/fd/{handle}").resolve()
        told.append("folder " + place.name if place.is_dir() else "file")

    def renamed(old: Path, new: Path) -> None:
        told.append("rename")
        rename(old, new)

    rename = os.rename
    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "rename", renamed)
    journal = Journal.create(tmp_path / "journal", b"identity")
    assert told == ["file", "rename", f"folder {tmp_path.name}"]
    journal = journal.replace(b"identity", [])
    assert told[3:] == ["file", "rename", f"folder {tmp_path.name}"]
    journal.close()
    told.clear()
    write_whole(tmp_path / "file", b"content")
    assert told == ["file", "rename", f"folder {tmp_path.name}"]
    told.clear()
    blob_id = BlobStore(tmp_path / "blobs").put(b"parameters")
    assert told == ["folder blobs", "file", "rename", f"folder {blob_id.hex()[:2]}"]
    told.clear()
    create_signing_key(tmp_path / "key")
    assert told == ["file", f"folder {tmp_path.name}"]
