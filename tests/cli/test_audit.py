"""`p2pfl audit` from the outside: words in, words or JSON out, and an exit code that a script can rely on."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path

import pytest

from p2pfl import errors
from p2pfl import genesis as genesis_file
from p2pfl.audit import queries
from p2pfl.cli import main
from p2pfl.genesis import COUNCIL
from tests.audit.chain import GROUPS, LIAR, build

Output = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory with one member of each group, and the genesis file beside it."""
    path, built = tmp_path_factory.mktemp("audited") / "run", build()
    for name in GROUPS:
        built.write(path / "nodes" / f"{name}-m0", (name, COUNCIL))
    genesis_file.save(built.genesis, path / "genesis.json")
    return path


def test_a_true_history_is_told_so_with_exit_code_0(run_folder: Path, capsys: Output) -> None:
    assert main(["audit", "verify", str(run_folder)]) == errors.EXIT_OK
    assert capsys.readouterr().out.endswith("the history holds\n")


def test_the_json_object_has_the_promised_names(run_folder: Path, capsys: Output) -> None:
    assert main(["audit", "verify", str(run_folder), "--recompute", "--json"]) == errors.EXIT_OK
    told = json.loads(capsys.readouterr().out)
    assert told["ok"] is True
    assert told["findings"] == []
    assert told["blocks"] > 0
    assert told["certificates"] > 0
    assert told["recomputed"] > 0


def test_a_spoilt_history_is_a_finding_and_exit_code_1(
    run_folder: Path, tmp_path: Path, capsys: Output
) -> None:
    spoilt = tmp_path / "run"
    shutil.copytree(run_folder, spoilt)
    file = spoilt / "nodes" / f"{GROUPS[0]}-m0" / "chain" / f"{GROUPS[0]}.mps"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    assert main(["audit", "verify", str(spoilt), "--json"]) == errors.EXIT_CLAIM_FAILED
    told = json.loads(capsys.readouterr().out)
    assert told["ok"] is False
    assert told["findings"][0]["reason"] == "damaged_file"


def test_a_folder_without_a_history_is_the_operators_matter(tmp_path: Path, capsys: Output) -> None:
    assert main(["audit", "verify", str(tmp_path), "--json"]) == errors.EXIT_USER
    assert json.loads(capsys.readouterr().out)["exit_code"] == errors.EXIT_USER


def test_one_block_is_derived_again_field_by_field(run_folder: Path, capsys: Output) -> None:
    assert main(["audit", "recompute", str(run_folder), GROUPS[0], "1", "--json"]) == errors.EXIT_OK
    told = json.loads(capsys.readouterr().out)
    assert told["ok"] is True
    assert all(told["fields"].values())
    assert "aggregate_id" in told["fields"]
    assert main(["audit", "recompute", str(run_folder), GROUPS[0], "99"]) == errors.EXIT_USER


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["field", "{dir}", GROUPS[1], "1", "weights"], "weights of block 1"),
        (["block", "{dir}", GROUPS[1], "1"], "block 1 of"),
        (["consistency", "{dir}", GROUPS[1], "1", "3"], "extends"),
    ],
)
def test_what_prove_writes_check_accepts(
    run_folder: Path, tmp_path: Path, capsys: Output, words: list[str], said: str
) -> None:
    proof, genesis = tmp_path / "proof.json", run_folder / "genesis.json"
    filled = [word.format(dir=run_folder) for word in words]
    assert main(["audit", "prove", *filled, "--out", str(proof)]) == errors.EXIT_OK
    capsys.readouterr()
    assert main(["audit", "check", str(proof), "--genesis", str(genesis)]) == errors.EXIT_OK
    assert said in capsys.readouterr().out


def test_a_changed_proof_proves_nothing(run_folder: Path, tmp_path: Path, capsys: Output) -> None:
    proof, genesis = tmp_path / "proof.json", run_folder / "genesis.json"
    main(["audit", "prove", "field", str(run_folder), GROUPS[1], "1", "weights", "--out", str(proof)])
    table = json.loads(proof.read_text())
    table["value"][0] += 1
    proof.write_text(json.dumps(table))
    capsys.readouterr()
    assert (
        main(["audit", "check", str(proof), "--genesis", str(genesis), "--json"]) == errors.EXIT_CLAIM_FAILED
    )
    assert json.loads(capsys.readouterr().out)["ok"] is False


def test_a_question_is_answered_as_a_table_as_json_and_as_csv(run_folder: Path, capsys: Output) -> None:
    words = ["audit", "show", str(run_folder), "cases"]
    assert main(words) == errors.EXIT_OK
    assert LIAR in capsys.readouterr().out
    assert main([*words, "--json"]) == errors.EXIT_OK
    objects = json.loads(capsys.readouterr().out)
    assert main([*words, "--csv"]) == errors.EXIT_OK
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["case_id"] for row in rows] == [each["case_id"] for each in objects]
    assert LIAR in {each["accused"] for each in objects}


def test_help_lists_every_question(capsys: Output) -> None:
    with pytest.raises(SystemExit):
        main(["audit", "show", "--help"])
    told = capsys.readouterr().out
    assert all(f"  {name} " in told for name in queries.QUESTIONS)


@pytest.mark.parametrize("value", ["chain", "chain=nobody", "member=g1-m0", "chain=' or 1=1 --"])
def test_a_question_that_is_asked_wrongly_is_explained(run_folder: Path, capsys: Output, value: str) -> None:
    assert main(["audit", "show", str(run_folder), "rounds", value]) == errors.EXIT_USER
    assert "chain=" in capsys.readouterr().err
