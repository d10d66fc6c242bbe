"""Samples in a file that people have: a table with a label column as CSV or Parquet, or arrays as .npz.

Values come out as they stand, as float32; whole bytes (uint8, in .npz) are pixels and are divided by 255.
Nothing else is scaled: columns should lie within about -1 and 1 before they come here, by the same rule
for all members. Whatever does not fit is refused with its place; nothing is guessed or left out. Knows
nothing of models, members and networks.
"""

from __future__ import annotations

import csv
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from p2pfl.errors import UserError

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]

SUFFIXES = (".npz", ".csv", ".parquet")
LABEL = "label"
# 1 GiB of float32 holds MNIST five times over. A compressed file of a few MB can unpack to more than a
# machine has, so what it says that it holds is compared with this before it is read.
SAMPLE_BYTES_MAX = 1 << 30
# As text a number takes up to three times as many bytes.
CSV_BYTES_MAX = 3 << 30
COLUMNS_MAX = 1 << 16
# A model has an output for each class. More than so many are no classes but ids, or another column.
CLASSES_MAX = 1 << 16
# What the readers of these forms raise for bytes that are none.
_BROKEN = (
    *(OSError, EOFError, ValueError, KeyError, RuntimeError, csv.Error, zipfile.BadZipFile, zlib.error),
    MemoryError,  # An array of a shape that no machine holds.
)


@dataclass(frozen=True, slots=True, eq=False)
class SampleTable:
    """x: float32, shape (samples, ...); y: int64, shape (samples,). test_x, test_y: of .npz files with both.

    class_names: what the file calls its classes, in the order of their numbers; empty: it has numbers.
    """

    x: Float32
    y: Int64
    class_names: tuple[str, ...] = ()
    test_x: Float32 | None = None
    test_y: Int64 | None = None


def read_samples(path: Path, *, label: str = LABEL, class_names: Sequence[str] = ()) -> SampleTable:
    """The samples in this .npz, .csv or .parquet file.

    label: the column of a table that holds the labels: whole numbers from 0, or names. class_names: the names
    in the order of their numbers; empty: whatever names there are, sorted. An .npz file holds arrays `x`
    (float32, float64 or uint8, samples first) and `y` (whole numbers), and may hold `test_x` and `test_y`.
    Raises UserError with the place of what is wrong.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise _bad(path, f"its name ends with {suffix or 'nothing'}", f"use one of {', '.join(SUFFIXES)}")
    try:
        if suffix == ".npz":
            return _read_npz(path)
        x, words = _read_csv(path, label) if suffix == ".csv" else _read_parquet(path, label)
    except _BROKEN as error:
        # What a KeyError says of itself stands in quotes.
        because = error.strerror if isinstance(error, OSError) else None
        because = error.args[0] if isinstance(error, KeyError) and error.args else because
        raise _bad(path, str(because or error)) from error
    if not len(x):
        raise _bad(path, "it holds no sample")
    y, names = _numbers(words, class_names, path)
    try:
        _check_classes(int(y.max()))
    except ValueError as error:
        raise _bad(path, str(error), "name the column of the labels, or number the classes from 0") from error
    return SampleTable(x, y, names)


def _check_classes(highest: int) -> None:
    """Raises ValueError for labels that are too many to be classes. highest: the largest of them."""
    if highest >= CLASSES_MAX:
        raise ValueError(f"its labels go up to {highest}, and there can be {CLASSES_MAX} classes")


def _bad(path: Path, because: str, fix: str = "mend the file, or name another") -> UserError:
    return UserError(f"the data {path} cannot be read", because=because, fix=fix)


# ---------------------------------------------------------------------------
# Arrays.


def _read_npz(path: Path) -> SampleTable:
    with zipfile.ZipFile(path) as archive:
        size = sum(each.file_size for each in archive.infolist())
        if size > 2 * SAMPLE_BYTES_MAX:  # float64 has twice as many.
            raise ValueError(f"it unpacks to {size} bytes, more than {2 * SAMPLE_BYTES_MAX}")
    with np.load(path, allow_pickle=False) as file:
        names = ("x", "y", "test_x", "test_y") if "test_x" in file else ("x", "y")
        arrays = [np.asarray(file[name]) for name in names]  # A member that is no array comes as bytes.
    size = sum(4 * each.size for each in arrays[::2])
    if size > SAMPLE_BYTES_MAX:  # A byte becomes four.
        raise ValueError(f"its samples have {size} bytes as float32, more than {SAMPLE_BYTES_MAX}")
    x, y = _pair(arrays[0], arrays[1], "x", "y")
    if len(arrays) == 2:
        return SampleTable(x, y)
    test_x, test_y = _pair(arrays[2], arrays[3], "test_x", "test_y")
    if test_x.shape[1:] != x.shape[1:]:
        raise ValueError(f"a sample of x has shape {x.shape[1:]}, one of test_x {test_x.shape[1:]}")
    return SampleTable(x, y, (), test_x, test_y)


def _pair(x: NDArray[Any], y: NDArray[Any], x_name: str, y_name: str) -> tuple[Float32, Int64]:
    if x.dtype == np.uint8:
        x = x.astype(np.float32) / np.float32(255)
    elif x.dtype in (np.float32, np.float64):
        x = x.astype(np.float32, copy=False)
    else:
        raise ValueError(f"{x_name} is {x.dtype}, and should be float32, float64 or uint8")
    if y.ndim != 1 or y.dtype.kind not in "iu" or x.ndim < 2 or len(x) != len(y) or not len(y):
        raise ValueError(
            f"{x_name} has shape {x.shape}, {y_name} {y.shape} of {y.dtype}: not samples, labels"
        )
    _check_classes(int(y.max()))
    if not np.isfinite(x).all():
        raise ValueError(f"{x_name} holds a number that is not finite")
    return x, y.astype(np.int64, copy=False)


# ---------------------------------------------------------------------------
# Tables.


def _read_csv(path: Path, label: str) -> tuple[Float32, list[Any]]:
    """A first line with the names of the columns, then a line for each sample (RFC 4180)."""
    if path.stat().st_size > CSV_BYTES_MAX:
        raise ValueError(f"it has {path.stat().st_size} bytes, more than {CSV_BYTES_MAX}")
    with path.open(newline="", encoding="utf-8-sig") as file:
        lines = csv.reader(file, strict=True)
        try:
            names = next(lines)
        except StopIteration:
            raise ValueError("it is empty") from None
        place = _label_place(names, label)
        rows: list[Float32] = []
        words: list[Any] = []
        for row in lines:
            if len(row) != len(names):
                raise ValueError(f"line {lines.line_num} has {len(row)} columns, the first has {len(names)}")
            words.append(row.pop(place).strip())
            rows.append(_row(row, lines.line_num))
            if len(rows) * 4 * len(row) > SAMPLE_BYTES_MAX:
                raise ValueError(f"its samples have more than {SAMPLE_BYTES_MAX} bytes")
    return (np.stack(rows) if rows else np.zeros((0, len(names) - 1), dtype=np.float32)), words


def _row(cells: Sequence[str], line: int) -> Float32:
    try:
        row = np.fromiter(map(float, cells), dtype=np.float32, count=len(cells))
    except ValueError as error:
        raise ValueError(f"line {line}: {error}") from None
    if not np.isfinite(row).all():
        raise ValueError(f"line {line} holds a number that is not finite")
    return row


def _read_parquet(path: Path, label: str) -> tuple[Float32, list[Any]]:
    try:
        import pyarrow as arrow  # 100 MB on the disk: only for those who have such files.
        from pyarrow import parquet
    except ImportError as error:
        raise UserError(
            f"the data {path} cannot be read",
            because="reading Parquet needs pyarrow, which is not installed",
            fix="pip install 'p2pfl-mps[parquet]', or save the table as CSV",
        ) from error
    try:
        file = parquet.ParquetFile(path)
        names = file.schema_arrow.names
        place = _label_place(names, label)
        size = 4 * file.metadata.num_rows * (len(names) - 1)
        if size > SAMPLE_BYTES_MAX:
            raise ValueError(f"its samples have {size} bytes, more than {SAMPLE_BYTES_MAX}")
        table = file.read(use_threads=False)
    except arrow.ArrowException as error:
        raise ValueError(str(error)) from error
    columns = [_column(name, table.column(name)) for i, name in enumerate(names) if i != place]
    words = table.column(names[place]).to_pylist()
    return np.stack(columns, axis=1), words


def _column(name: str, column: Any) -> Float32:
    if column.null_count:
        raise ValueError(f"the column {name!r} has {column.null_count} empty places")
    values = column.to_numpy()
    if values.dtype.kind not in "iufb":
        raise ValueError(f"the column {name!r} holds {column.type}, not numbers")
    values = values.astype(np.float32)
    if not np.isfinite(values).all():
        raise ValueError(f"the column {name!r} holds a number that is not finite")
    return values


def _label_place(names: Sequence[str], label: str) -> int:
    if len(set(names)) != len(names):
        raise ValueError("two columns have the same name")
    if not 2 <= len(names) <= COLUMNS_MAX:
        raise ValueError(f"it has {len(names)} columns; 2 to {COLUMNS_MAX} can be read")
    if label not in names:
        shown = ", ".join(names[:8]) + (", .." if len(names) > 8 else "")
        raise ValueError(f"it has no column {label!r} for the labels; there are {shown}")
    return names.index(label)


def _numbers(words: Sequence[Any], class_names: Sequence[str], path: Path) -> tuple[Int64, tuple[str, ...]]:
    """The labels as numbers from 0, and the names of the classes if they have any."""
    if not class_names and all(_is_whole(word) for word in words):
        return np.array([int(word) for word in words], dtype=np.int64), ()
    texts = ["" if word is None else str(word) for word in words]
    names = tuple(class_names) or tuple(sorted(set(texts)))
    number = {name: i for i, name in enumerate(names)}
    for place, text in enumerate(_where(texts, number)):
        if text is not None:
            raise _bad(
                path,
                f"sample {place + 1} has the label {text!r}",
                f"the labels are {', '.join(names[:8])}{', ..' if len(names) > 8 else ''}",
            )
    return np.array([number[text] for text in texts], dtype=np.int64), names


def _where(texts: Sequence[str], known: dict[str, int]) -> Iterator[str | None]:
    """None for a label that is known, itself for one that is not, or that is empty."""
    return (None if text and text in known else text for text in texts)


def _is_whole(word: Any) -> bool:
    if isinstance(word, str):
        return word.isascii() and word.isdigit() and len(word) < 10
    return isinstance(word, int) and not isinstance(word, bool) and 0 <= word < 10**9
