"""`p2pfl model`: a base out of a folder, a file into a network, and what a model is worth on data."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from p2pfl import errors
from p2pfl import genesis as genesis_file
from p2pfl.cli import main
from p2pfl.genesis import COUNCIL
from p2pfl.learn.datasets import load_dataset
from p2pfl.learn.model_files import Named, read_model, read_named, write_base, write_safetensors
from p2pfl.learn.models import initial_parameters, layout
from p2pfl.learn.train import evaluate
from p2pfl.params import Base, blob_id, parse_base
from tests.audit.chain import GROUPS, build

safetensors = pytest.importorskip("safetensors.numpy")

Output = pytest.CaptureFixture[str]
SHAPE = (1, 8, 8)
LAYOUT = layout("logistic", SHAPE, 10)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path, built = tmp_path_factory.mktemp("exported") / "node", build()
    built.write(path, (GROUPS[0], COUNCIL))
    genesis_file.save(built.genesis, path / "genesis.json")
    return path


def told(words: list[str], capsys: Output) -> dict[str, object]:
    assert main([*words, "--json"]) == errors.EXIT_OK
    return json.loads(capsys.readouterr().out)


def refused(words: list[str], capsys: Output) -> str:
    assert main(words) == errors.EXIT_USER
    return capsys.readouterr().err


def base(seed: int = 3) -> Base:
    return Base(LAYOUT, initial_parameters("logistic", SHAPE, 10, seed))


def test_the_newest_base_is_exported_with_the_layouts_names(
    node: Path, tmp_path: Path, capsys: Output
) -> None:
    built, out = build(), tmp_path / "m.safetensors"
    newest = built.body(COUNCIL, -1).base_id
    found = told(["model", "export", str(node), "--out", str(out)], capsys)
    assert found["base_id"] == "0x" + newest.hex()
    tensors = safetensors.load_file(out)
    assert list(tensors) == sorted(spec.name for spec in built.genesis.task.tensors)
    wanted = parse_base(built.blobs[newest], built.genesis.task.layout)
    for spec, part in zip(wanted.layout.tensors, wanted.layout.unflatten(wanted.values), strict=True):
        assert np.array_equal(tensors[spec.name], part)
    assert np.array_equal(read_model(out, wanted.layout).values, wanted.values)
    assert read_named(out) == Named("mlp", (100,), 30)


def test_a_block_or_an_id_chooses_another_base(node: Path, tmp_path: Path, capsys: Output) -> None:
    built, out = build(), tmp_path / "m.safetensors"
    first = "0x" + built.body(COUNCIL, 0).base_id.hex()
    words = ["model", "export", str(node), "--out", str(out)]
    assert told([*words, "--block", "0"], capsys)["base_id"] == first
    assert told([*words, "--blob", first], capsys)["base_id"] == first
    assert "no council block 99" in refused([*words, "--block", "99"], capsys)
    assert "is not here" in refused([*words, "--blob", "00" * 32], capsys)
    assert "is no id of a blob" in refused([*words, "--blob", "0x12"], capsys)


def test_an_imported_model_is_a_base_with_an_id(tmp_path: Path, capsys: Output) -> None:
    file, out = tmp_path / "m.safetensors", tmp_path / "initial.base"
    write_safetensors(file, base(), Named("logistic", SHAPE, 10))
    found = told(["model", "import", str(file), "--out", str(out)], capsys)
    assert out.read_bytes() == base().to_bytes()
    assert found["initial_base_id"] == "0x" + blob_id(base().to_bytes()).hex()
    by_name = ["model", "import", str(file), "--out", str(out), "--model", "logistic", "--dataset", "digits"]
    assert told(by_name, capsys)["initial_base_id"] == found["initial_base_id"]


def test_loss_and_accuracy_of_a_file_are_those_of_its_parameters(tmp_path: Path, capsys: Output) -> None:
    data = load_dataset("digits")
    loss, accuracy = evaluate("logistic", SHAPE, 10, base().values, data.test_x, data.test_y)
    write_safetensors(tmp_path / "m.safetensors", base(), Named("logistic", SHAPE, 10))
    write_base(tmp_path / "m.base", base())
    for words in (["m.safetensors"], ["m.base", "--model", "logistic"]):
        asked = ["model", "evaluate", str(tmp_path / words[0]), *words[1:], "--dataset", "digits"]
        found = told(asked, capsys)
        assert (found["loss"], found["accuracy"], found["samples"]) == (loss, accuracy, 360)
    np.savez(tmp_path / "own.npz", x=data.test_x[:7], y=data.test_y[:7])
    asked = ["model", "evaluate", str(tmp_path / "m.safetensors"), "--data", str(tmp_path / "own.npz")]
    assert told(asked, capsys)["samples"] == 7


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"linear.bias": None}, "it lacks linear.bias"),
        ({"more": np.zeros(1, dtype=np.float32)}, "unknown there: more"),
        ({"linear.bias": np.zeros(9, dtype=np.float32)}, "linear.bias is float32 (9,)"),
        ({"linear.bias": np.zeros(10, dtype=np.int32)}, "linear.bias is int32"),
        ({"linear.bias": np.full(10, np.nan, dtype=np.float32)}, "not finite"),
        ({"linear.bias": np.full(10, 1e300)}, "not finite"),
    ],
)
def test_a_file_that_is_not_of_the_model_is_refused(
    change: dict[str, np.ndarray | None], why: str, tmp_path: Path, capsys: Output
) -> None:
    tensors = {"linear.weight": np.zeros((10, 64), dtype=np.float32), "linear.bias": np.zeros(10, np.float32)}
    tensors = {name: value for name, value in (tensors | change).items() if value is not None}
    safetensors.save_file(tensors, tmp_path / "m.safetensors")
    asked = ["model", "import", str(tmp_path / "m.safetensors"), "--model", "logistic", "--dataset", "digits"]
    assert why in refused([*asked, "--out", str(tmp_path / "out")], capsys)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("data", [b"", b"MPSBLOB1 and rubbish", b"\xff" * 40, bytes(8) + b"{}"])
def test_rubbish_is_no_model(data: bytes, tmp_path: Path, capsys: Output) -> None:
    (tmp_path / "m.safetensors").write_bytes(data)
    asked = ["model", "evaluate", str(tmp_path / "m.safetensors")]
    assert "cannot be read" in refused([*asked, "--model", "logistic", "--dataset", "digits"], capsys)
    assert "is not known" in refused(asked, capsys)


def test_a_file_remembers_what_its_classes_are_called(tmp_path: Path, capsys: Output) -> None:
    kinds = tuple("abcdefghij")
    write_safetensors(tmp_path / "m.safetensors", base(), Named("logistic", SHAPE, 10, kinds))
    columns = ",".join(f"p{i}" for i in range(64))
    row = ",".join(["0.5"] * 64)
    (tmp_path / "own.csv").write_text(f"{columns},label\n{row},j\n{row},b\n", encoding="utf-8")
    asked = ["model", "evaluate", str(tmp_path / "m.safetensors"), "--data", str(tmp_path / "own.csv")]
    assert told(asked, capsys)["samples"] == 2
    (tmp_path / "own.csv").write_text(f"{columns},label\n{row},k\n", encoding="utf-8")
    assert "the label 'k'" in refused(asked, capsys)


def test_half_precision_is_read_too(tmp_path: Path) -> None:
    tensors = {"linear.weight": np.ones((10, 64), np.float16), "linear.bias": np.zeros(10, np.float64)}
    safetensors.save_file(tensors, tmp_path / "m.safetensors")
    assert read_model(tmp_path / "m.safetensors", LAYOUT).values.sum() == 640


def test_a_file_does_not_choose_what_code_runs(tmp_path: Path, capsys: Output) -> None:
    (tmp_path / "not_imported.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    file, out = tmp_path / "m.safetensors", str(tmp_path / "out")
    write_safetensors(file, base(), Named("not_imported:model", SHAPE, 10))
    script = "import sys; from p2pfl.cli import main; sys.exit(main(sys.argv[1:]))"
    for verb in (["import", str(file), "--out", out], ["evaluate", str(file), "--dataset", "digits"]):
        asked = [sys.executable, "-c", script, "model", *verb]
        done = subprocess.run(asked, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == errors.EXIT_USER and "--model not_imported:model" in done.stderr
    assert not (tmp_path / "ran").exists()
    words = ["model", "import", str(file), "--out", out, "--model", "logistic", "--dataset", "digits"]
    assert told(words, capsys)["model"] == "logistic"


@pytest.mark.parametrize("shape", ["[" * 200_000, "[Infinity]", "{}", "7"])
def test_a_shape_that_is_none_says_nothing(shape: str, tmp_path: Path) -> None:
    said = {"model": "logistic", "input_shape": shape, "classes": "10"}
    safetensors.save_file({"a": np.zeros(1, np.float32)}, tmp_path / "m.safetensors", metadata=said)
    found = read_named(tmp_path / "m.safetensors")
    assert found is None or found.input_shape == ()


def test_own_samples_are_read_without_what_lies_beside_them(tmp_path: Path, capsys: Output) -> None:
    data = load_dataset("digits")
    write_safetensors(tmp_path / "m.safetensors", base(), Named("logistic", SHAPE, 10))
    np.savez(tmp_path / "own.npz", x=data.test_x[:7], y=data.test_y[:7])
    (tmp_path / "held_out.npz").write_bytes(b"of another task, or broken")
    asked = ["model", "evaluate", str(tmp_path / "m.safetensors"), "--data", str(tmp_path / "own.npz")]
    assert told(asked, capsys)["samples"] == 7
