"""Files with samples: CSV, Parquet and arrays, what is refused in them, and a member's own folder."""

from __future__ import annotations

import dataclasses
import io
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from p2pfl.errors import UserError
from p2pfl.genesis import Task
from p2pfl.learn import sample_tables
from p2pfl.learn.datasets import load_dataset
from p2pfl.learn.own_data import read_own_data
from p2pfl.learn.sample_tables import read_samples

FLOWERS = "length,width,label\n0.5,1,rose\n-2e-1,3,tulip\n7,0.25,rose\n"
TASK = Task("logistic", "flowers.csv", (2,), 2, (), 1, 16, 1, 0, 16, 0, 0, class_names=("rose", "tulip"))


def file(path: Path, text: str, name: str = "flowers.csv") -> Path:
    (path / name).write_text(text, encoding="utf-8")
    return path / name


def test_a_csv_table_gives_its_columns_and_its_labels(tmp_path: Path) -> None:
    found = read_samples(file(tmp_path, FLOWERS))
    assert found.x.dtype == np.float32
    assert found.x.tolist() == [[0.5, 1.0], [np.float32(-0.2), 3.0], [7.0, 0.25]]
    assert (found.y.tolist(), found.class_names) == ([0, 1, 0], ("rose", "tulip"))
    other = read_samples(file(tmp_path, FLOWERS), class_names=("tulip", "oak", "rose"))
    assert other.y.tolist() == [2, 0, 2]


def test_whole_numbers_are_labels_and_any_column_may_hold_them(tmp_path: Path) -> None:
    text = '\ufeff"kind of, flower",a,b\r\n3,1,2\r\n0,"5",6\r\n'
    found = read_samples(file(tmp_path, text), label="kind of, flower")
    assert (found.y.tolist(), found.class_names) == ([3, 0], ())
    assert found.x.tolist() == [[1, 2], [5, 6]]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "it is empty"),
        ("a,label\n", "it holds no sample"),
        ("a,b\n1,2\n", "no column 'label' for the labels; there are a, b"),
        ("label\n1\n", "it has 1 columns"),
        ("a,a,label\n1,2,3\n", "the same name"),
        ("a,label\n1,2\n1\n", "line 3 has 1 columns"),
        ("a,label\n1,2\n\n", "line 3 has 0 columns"),
        ("a,label\nred,2\n", "line 2: could not convert string to float: 'red'"),
        ("a,label\n1,0\n,1\n", "line 3: could not convert"),
        ("a,label\nnan,2\n", "line 2 holds a number that is not finite"),
        ("a,label\n1e60,2\n", "line 2 holds a number that is not finite"),
        ('a,label\n"1,2\n', "unexpected end"),
        ("a,label\n1,rose\n1,\n", "sample 2 has the label ''"),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow")
def test_a_csv_table_with_a_fault_is_refused_with_its_place(text: str, why: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as refused:
        read_samples(file(tmp_path, text))
    assert why in str(refused.value) and refused.value.fix


def test_tables_have_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = file(tmp_path, FLOWERS)
    monkeypatch.setattr(sample_tables, "SAMPLE_BYTES_MAX", 16)
    with pytest.raises(UserError, match="more than 16 bytes"):
        read_samples(path)
    monkeypatch.setattr(sample_tables, "CSV_BYTES_MAX", 20)
    with pytest.raises(UserError, match="more than 20"):
        read_samples(path)
    np.savez_compressed(tmp_path / "zeros.npz", x=np.zeros((100, 100)), y=np.zeros(100, dtype=np.int64))
    with pytest.raises(UserError, match="it unpacks to 8"):
        read_samples(tmp_path / "zeros.npz")
    with pytest.raises(UserError, match=r"ends with \.xls"):
        read_samples(tmp_path / "flowers.xls")


def test_a_label_that_nobody_knows_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="sample 2 has the label 'tulip'"):
        read_samples(file(tmp_path, FLOWERS), class_names=("rose", "oak"))


# ---------------------------------------------------------------------------
# Parquet.


def write_parquet(path: Path, columns: dict[str, object]) -> Path:
    arrow = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet").write_table(arrow.table(columns), path)
    return path


def test_a_parquet_table_is_read_like_a_csv_table(tmp_path: Path) -> None:
    columns = {
        "length": [0.5, -0.2, 7.0],
        "label": ["rose", "tulip", "rose"],
        "width": np.array([1, 3, 2], dtype=np.int16),
    }
    found = read_samples(write_parquet(tmp_path / "f.parquet", columns))
    assert found.x.tolist() == [[0.5, 1.0], [np.float32(-0.2), 3.0], [7.0, 2.0]]
    assert (found.y.tolist(), found.class_names) == ([0, 1, 0], ("rose", "tulip"))


@pytest.mark.parametrize(
    ("columns", "why"),
    [
        ({"a": [1.0, None], "label": [0, 1]}, "1 empty places"),
        ({"a": ["x", "y"], "label": [0, 1]}, "holds string, not numbers"),
        ({"a": [1.0, float("inf")], "label": [0, 1]}, "not finite"),
        ({"a": [1.0, 2.0], "label": [0, None]}, "the label ''"),
        ({"a": [1.0, 2.0]}, "it has 1 columns"),
    ],
)
def test_a_parquet_table_with_a_fault_is_refused(
    columns: dict[str, object], why: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as refused:
        read_samples(write_parquet(tmp_path / "f.parquet", columns))
    assert why in str(refused.value)


def test_bytes_that_are_no_parquet_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    (tmp_path / "f.parquet").write_bytes(b"PAR1 and nothing more PAR1")
    with pytest.raises(UserError, match="cannot be read"):
        read_samples(tmp_path / "f.parquet")


def test_without_pyarrow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError) as refused:
        read_samples(file(tmp_path, "", "f.parquet"))
    assert "p2pfl-mps[parquet]" in refused.value.fix


# ---------------------------------------------------------------------------
# Arrays.


def test_arrays_are_taken_as_they_are_and_bytes_are_pixels(tmp_path: Path) -> None:
    x = np.arange(16, dtype=np.float32).reshape(4, 2, 2)
    np.savez(tmp_path / "a.npz", x=x, y=np.arange(4, dtype=np.int32), test_x=x[:1], test_y=np.array([3]))
    found = read_samples(tmp_path / "a.npz")
    assert np.array_equal(found.x, x)
    assert (found.y.dtype, found.y.tolist()) == (np.int64, [0, 1, 2, 3])
    assert found.test_y.tolist() == [3]
    np.savez(tmp_path / "b.npz", x=np.array([[0, 51, 255]], dtype=np.uint8), y=np.array([1]))
    assert read_samples(tmp_path / "b.npz").x.tolist() == [[0.0, np.float32(0.2), 1.0]]


@pytest.mark.parametrize(
    ("arrays", "why"),
    [
        ({"x": np.zeros((2, 2))}, "y is not a file"),
        ({"x": np.zeros((2, 2)), "y": np.zeros(2)}, "of float64"),
        ({"x": np.zeros((2, 2)), "y": np.zeros(3, dtype=np.int64)}, "not samples"),
        ({"x": np.zeros((2, 2), dtype=np.int32), "y": np.zeros(2, dtype=np.int64)}, "x is int32"),
        ({"x": np.full((2, 2), np.nan), "y": np.zeros(2, dtype=np.int64)}, "not finite"),
        ({"x": np.array(["a", None], dtype=object), "y": np.zeros(2, dtype=np.int64)}, "Object arrays"),
    ],
)
def test_arrays_that_are_no_samples_are_refused(
    arrays: dict[str, np.ndarray], why: str, tmp_path: Path
) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(UserError, match="cannot be read") as refused:
        read_samples(tmp_path / "a.npz")
    assert why in str(refused.value)


def test_a_broken_archive_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.ones((50, 2)), y=np.zeros(50, dtype=np.int64))
    whole = (tmp_path / "a.npz").read_bytes()
    for damage in (b"", whole[:200], whole[:100] + bytes(60) + whole[160:]):
        (tmp_path / "a.npz").write_bytes(damage)
        with pytest.raises(UserError, match="cannot be read"):
            read_samples(tmp_path / "a.npz")
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", b"no array")
    with pytest.raises(UserError, match="cannot be read"):
        read_samples(tmp_path / "a.npz")


def test_a_column_of_ids_is_no_column_of_classes(tmp_path: Path) -> None:
    text = "length,id\n" + "".join(f"0.5,{900_000_000 + each}\n" for each in range(10))
    with pytest.raises(UserError, match="65536 classes") as refused:
        load_dataset("flowers.csv#id", file(tmp_path, text).parent)
    assert "column" in refused.value.fix
    for highest in (np.array([1 << 16]), np.array([(1 << 64) - 1], dtype=np.uint64)):
        np.savez(tmp_path / "a.npz", x=np.zeros((1, 2)), y=highest)
        with pytest.raises(UserError, match="65536 classes"):
            read_samples(tmp_path / "a.npz")


def test_what_bytes_become_has_a_limit_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = np.zeros((300, 10), dtype=np.uint8), np.zeros(300, dtype=np.uint8)
    np.savez(tmp_path / "a.npz", x=x, y=y, test_x=x, test_y=y)
    monkeypatch.setattr(sample_tables, "SAMPLE_BYTES_MAX", 24_000)
    assert len(read_samples(tmp_path / "a.npz").x) == 300
    monkeypatch.setattr(sample_tables, "SAMPLE_BYTES_MAX", 23_999)
    with pytest.raises(UserError, match="24000 bytes as float32"):
        read_samples(tmp_path / "a.npz")


def test_an_array_that_only_claims_its_shape_is_refused(tmp_path: Path) -> None:
    head = io.BytesIO()
    said = {"descr": "<f4", "fortran_order": False, "shape": (1 << 30, 1 << 30)}
    np.lib.format.write_array_header_1_0(head, said)
    for member in (head.getvalue(), b"no array"):
        np.savez(tmp_path / "a.npz", y=np.zeros(2, dtype=np.int64))
        with zipfile.ZipFile(tmp_path / "a.npz", "a") as archive:
            archive.writestr("x.npy", member)
        with pytest.raises(UserError, match="cannot be read"):
            read_samples(tmp_path / "a.npz")


# ---------------------------------------------------------------------------
# As a public data set, and as a member's own.


def test_a_table_is_a_data_set_with_every_fifth_sample_for_the_test(tmp_path: Path) -> None:
    lines = "".join(f"{i},{i % 3}\n" for i in range(100))
    file(tmp_path, "number,label\n" + lines, "numbers.csv")
    found = load_dataset("numbers.csv", tmp_path)
    assert (len(found.train_y), len(found.test_y), found.classes, found.input_shape) == (80, 20, 3, (1,))
    assert sorted(np.concatenate((found.train_x, found.test_x))[:, 0].tolist()) == list(range(100))
    assert np.array_equal(found.test_x, load_dataset("numbers.csv", tmp_path).test_x)
    file(tmp_path, "kind,a\n" + "rose,1\ntulip,2\n" * 5, "own.csv")
    assert load_dataset("own.csv#kind", tmp_path).class_names == ("rose", "tulip")


@pytest.mark.parametrize("name", ["../numbers.csv", "/etc/numbers.csv", "sub/numbers.csv"])
def test_a_genesis_names_files_of_the_data_folder_only(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="needs a directory"):
        load_dataset(name, tmp_path)
    with pytest.raises(UserError, match="needs a directory"):
        load_dataset("numbers.csv")


def test_a_member_reads_what_is_in_its_own_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no training data"):
        read_own_data(tmp_path, TASK)
    file(tmp_path, FLOWERS, "data.csv")
    x, y, held_out = read_own_data(tmp_path, TASK)
    assert (x.shape, y.tolist(), held_out) == ((3, 2), [0, 1, 0], None)
    file(tmp_path, "length,width,label\n1,2,tulip\n", "held_out.csv")
    assert read_own_data(tmp_path, TASK)[2][1].tolist() == [1]
    np.savez(tmp_path / "data.npz", x=np.zeros((1, 2)), y=np.array([0]))
    with pytest.raises(UserError, match=r"data\.npz and data\.csv"):
        read_own_data(tmp_path, TASK)
    (tmp_path / "held_out.csv").unlink()
    other = file(tmp_path, "length,kind,width\n1,rose,2\n", "elsewhere.csv")
    assert read_own_data(tmp_path, TASK, path=other, label="kind")[0].tolist() == [[1, 2]]


def test_columns_take_the_shape_of_the_task(tmp_path: Path) -> None:
    names = ",".join(f"p{i}" for i in range(64))
    file(tmp_path, f"{names},label\n" + ",".join(["0.5"] * 64) + ",7\n", "data.csv")
    task = dataclasses.replace(TASK, input_shape=(1, 8, 8), classes=10, class_names=())
    assert read_own_data(tmp_path, task)[0].shape == (1, 1, 8, 8)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"input_shape": (3,)}, "a sample has shape"),
        ({"class_names": ()}, "labels are words"),
        ({"classes": 1}, "labels go from 0 to 1"),
    ],
)
def test_own_data_of_another_task_is_refused(change: dict[str, object], why: str, tmp_path: Path) -> None:
    file(tmp_path, FLOWERS, "data.csv")
    with pytest.raises(UserError, match="does not fit the task") as refused:
        read_own_data(tmp_path, dataclasses.replace(TASK, **change))  # type: ignore[arg-type]
    assert why in str(refused.value)
