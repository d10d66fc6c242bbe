"""`p2pfl wal` on the folder of a seat that has run: shown, checked and told again, and never changed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import trio

from consensus.signing import block_id
from p2pfl import errors
from p2pfl.cli import main
from p2pfl.genesis import COUNCIL
from p2pfl.store import Folder, wal
from testnet import plan
from tests.rounds.alone import Alone, network_of_one

HEIGHTS = 4


@pytest.fixture(scope="module")
def seat(tmp_path_factory: pytest.TempPathFactory) -> plan.Plan:
    return network_of_one(tmp_path_factory.mktemp("network") / "run")


@pytest.fixture(scope="module")
def lived(seat: plan.Plan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with four decided heights, the older ones set aside."""
    folder = tmp_path_factory.mktemp("lived") / "node"
    with pytest.MonkeyPatch.context() as small:
        small.setattr(wal, "SEGMENT_BYTES", 1_500)
        alone = Alone(seat, folder, HEIGHTS)
        trio.run(alone.run)
        alone.close()
    return folder


@pytest.fixture
def folder(lived: Path, tmp_path: Path) -> Folder:
    shutil.copytree(lived, tmp_path / "node")
    return Folder(tmp_path / "node")


def content(folder: Folder) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}


@pytest.mark.parametrize("verb", ["dump", "verify", "replay"])
@pytest.mark.parametrize("flags", [[], ["--json"]], ids=["words", "json"])
def test_a_sound_log_is_read_and_not_changed(
    folder: Folder, capsys: pytest.CaptureFixture[str], verb: str, flags: list[str]
) -> None:
    before = content(folder)
    assert main(["wal", verb, str(folder.path), *flags]) == errors.EXIT_OK
    out = capsys.readouterr().out
    assert out
    if flags:
        assert json.loads(out)
    assert content(folder) == before


def test_dump_shows_every_entry_with_its_place(folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    main(["wal", "dump", str(folder.path)])
    lines = capsys.readouterr().out.splitlines()
    main(["wal", "dump", str(folder.path), "--json"])
    entries = json.loads(capsys.readouterr().out)
    assert len(lines) == len(entries) >= 3 * HEIGHTS
    assert [entry["height"] for entry in entries] == sorted(entry["height"] for entry in entries)
    assert {entry["height"] for entry in entries} == set(range(HEIGHTS))
    assert any(entry["file"].endswith(".kept") for entry in entries)
    assert {"Proposal", "Validated", "PrepareMessage"} <= {entry["kind"] for entry in entries}
    assert all(str(entry["offset"]) in line for entry, line in zip(entries, lines, strict=True))
    assert "seat0: PREPARE of round 0 for 0x" in "\n".join(lines)


def test_verify_names_the_file_and_the_offset_of_damage(
    folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["wal", "dump", str(folder.path), "--json"])
    third = json.loads(capsys.readouterr().out)[2]
    path = folder.path / "wal" / third["file"]
    data = bytearray(path.read_bytes())
    data[third["offset"] + 50] ^= 1
    path.write_bytes(data)
    assert main(["wal", "verify", str(folder.path)]) == errors.EXIT_CLAIM_FAILED
    assert f"WRONG: {third['file']} at byte {third['offset']}: " in capsys.readouterr().out
    assert main(["wal", "verify", str(folder.path), "--json"]) == errors.EXIT_CLAIM_FAILED
    (log,) = json.loads(capsys.readouterr().out)["logs"]
    assert [(fault["file"], fault["offset"]) for fault in log["faults"]] == [(third["file"], third["offset"])]


def test_replay_tells_what_was_decided_and_where_it_stands(
    seat: plan.Plan, folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = Alone(seat, folder.path, HEIGHTS)
    decided = [block_id(block.block.header) for block in alone.store.chain(COUNCIL)]
    alone.close()
    assert main(["wal", "replay", str(folder.path)]) == errors.EXIT_OK
    out = capsys.readouterr().out
    assert out.startswith("council, as seat0\n")
    for height, block in enumerate(decided):
        assert f"height {height}, epoch 0: " in out
        assert f"decided 0x{block[:6].hex()} in round 0, as the chain says" in out
    # Without its last block the height is open, and a start would take it up.
    blocks = folder.chain(COUNCIL)
    cut = blocks.read_bytes()[:-5]
    blocks.write_bytes(cut)
    main(["wal", "replay", str(folder.path)])
    out = capsys.readouterr().out
    assert f"it stands at height {HEIGHTS - 1}, round 0, " in out
    assert f"a start would sign PROPOSE of round 0 for 0x{decided[-1][:6].hex()}" in out


def test_a_log_whose_oldest_proposals_were_dropped_is_sound_too(
    seat: plan.Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(wal, "SEGMENT_BYTES", 1_500)
    monkeypatch.setattr(wal, "KEPT_BYTES_MAX", 6_000)
    alone = Alone(seat, tmp_path / "node", 10)
    trio.run(alone.run)
    alone.close()
    main(["wal", "dump", str(tmp_path / "node"), "--json"])
    first = [entry for entry in json.loads(capsys.readouterr().out) if entry["height"] == 0]
    assert {entry["kind"] for entry in first} == {"PrepareMessage"}
    assert main(["wal", "verify", str(tmp_path / "node")]) == errors.EXIT_OK
    assert main(["wal", "replay", str(tmp_path / "node")]) == errors.EXIT_OK


@pytest.mark.parametrize("verb", ["dump", "verify", "replay"])
def test_a_running_node_is_not_read(
    seat: plan.Plan, folder: Folder, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    alone = Alone(seat, folder.path, HEIGHTS)
    assert main(["wal", verb, str(folder.path)]) == errors.EXIT_USER
    assert "the node is running" in capsys.readouterr().err
    alone.close()


def test_a_copy_without_guard_and_keys_says_whose_it_is(
    folder: Folder, capsys: pytest.CaptureFixture[str]
) -> None:
    folder.guard.unlink()
    words = ["wal", "verify", str(folder.path)]
    assert main(words) == errors.EXIT_USER
    assert main([*words, "--as", "seat0"]) == errors.EXIT_OK
    assert main([*words, "--as", "nobody"]) == errors.EXIT_USER
    assert "there is nobody called nobody" in capsys.readouterr().err


@pytest.mark.parametrize("more", [["--chain", "g0"], ["--chain", "g9"]])
def test_a_chain_without_a_log_is_told(
    folder: Folder, capsys: pytest.CaptureFixture[str], more: list[str]
) -> None:
    assert main(["wal", "dump", str(folder.path), *more]) == errors.EXIT_USER
    assert "it holds those of council" in capsys.readouterr().err
