"""`p2pfl node join`, `admit`, `leave`: what they write, and what they refuse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from p2pfl import errors
from p2pfl import genesis as genesis_file
from p2pfl.cli import main
from p2pfl.parts import OWN_JOIN
from p2pfl.rounds.turnover import JOINS, LEAVE, read_join
from p2pfl.rules.epochs import check_join
from p2pfl.rules.state import CouncilState
from tests.rules.vectors import there

LISTEN = "/ip4/127.0.0.1/tcp/9000"


def newcomer(tmp_path: Path, name: str = "new") -> Path:
    folder = tmp_path / name
    main(["node", "init", str(folder), "--name", name, "--listen", LISTEN])
    genesis_file.save(there().genesis, folder / "genesis.json")
    return folder


def test_a_request_to_join_is_one_that_the_council_takes(tmp_path: Path) -> None:
    folder = newcomer(tmp_path)
    assert main(["node", "join", str(folder), "--listen", LISTEN]) == errors.EXIT_OK
    signed = read_join(folder / OWN_JOIN)
    assert (signed.entry.name, signed.entry.address, signed.join.council) == ("new", LISTEN, 0)
    check_join(CouncilState.genesis(there().genesis), signed)


def test_a_seat_keeps_the_requests_that_it_admits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, seat = newcomer(tmp_path), newcomer(tmp_path, "seat")
    main(["node", "join", str(folder), "--listen", LISTEN])
    capsys.readouterr()
    assert main(["node", "admit", str(folder / OWN_JOIN), "--dir", str(seat)]) == errors.EXIT_OK
    assert "new" in capsys.readouterr().out
    (kept,) = (seat / JOINS).iterdir()
    assert read_join(kept) == read_join(folder / OWN_JOIN)


def test_a_request_that_was_changed_is_not_admitted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, seat = newcomer(tmp_path), newcomer(tmp_path, "seat")
    main(["node", "join", str(folder), "--listen", LISTEN])
    path = folder / OWN_JOIN
    table = json.loads(path.read_text(encoding="utf-8"))
    table["entry"]["address"] = "/ip4/10.9.9.9/tcp/9000"
    path.write_text(json.dumps(table), encoding="utf-8")
    assert main(["node", "admit", str(path), "--dir", str(seat)]) == errors.EXIT_USER
    assert "not signed by the member" in capsys.readouterr().err
    path.write_text("[1", encoding="utf-8")
    assert main(["node", "admit", str(path), "--dir", str(seat)]) == errors.EXIT_USER
    assert not (seat / JOINS).exists()


def test_a_location_without_a_group_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = newcomer(tmp_path)
    code = main(["node", "join", str(folder), "--listen", LISTEN, "--location", "mars"])
    assert code == errors.EXIT_USER
    assert "no group at location 'mars'" in capsys.readouterr().err


def test_leaving_is_a_mark_in_the_folder_of_a_node(tmp_path: Path) -> None:
    folder = newcomer(tmp_path)
    assert main(["node", "leave", str(folder)]) == errors.EXIT_OK
    assert (folder / LEAVE).exists()
    assert main(["node", "leave", str(tmp_path / "nothing")]) == errors.EXIT_USER
