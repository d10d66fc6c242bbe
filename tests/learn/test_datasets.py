"""Data: tables, splits, partitions and the root of a training set."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from consensus import merkle
from p2pfl.errors import PeerFault, UserError
from p2pfl.learn.datasets import (
    DIGITS_TEST_SAMPLES,
    data_leaves,
    data_root,
    load_dataset,
    parse_leaves,
    read_idx,
    root_set,
)

DIGITS = load_dataset("digits")


def test_digits_are_those_of_scikit_learn() -> None:
    original = pytest.importorskip("sklearn.datasets").load_digits()
    order = np.random.RandomState(0).permutation(len(original.target))
    x = np.concatenate((DIGITS.test_x, DIGITS.train_x))
    y = np.concatenate((DIGITS.test_y, DIGITS.train_y))
    assert np.array_equal(x[:, 0] * 16, original.images[order])
    assert np.array_equal(y, original.target[order])
    assert (x.dtype, y.dtype, DIGITS.input_shape) == (np.float32, np.int64, (1, 8, 8))
    assert len(DIGITS.test_y) == DIGITS_TEST_SAMPLES
    assert (float(x.min()), float(x.max())) == (0.0, 1.0)


# ---------------------------------------------------------------------------
# IDX.


def idx(values: np.ndarray) -> bytes:
    head = bytes((0, 0, 8, values.ndim)) + struct.pack(f">{values.ndim}I", *values.shape)
    return head + values.astype(np.uint8).tobytes()


def write_idx_files(directory: Path) -> np.ndarray:
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (7, 28, 28))
    labels = np.array([3, 1, 4, 1, 5, 9, 2])
    (directory / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(images)))
    (directory / "train-labels-idx1-ubyte").write_bytes(idx(labels))
    (directory / "t10k-images-idx3-ubyte").write_bytes(idx(images[:2]))
    (directory / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels[:2])))
    return images


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_idx_files_are_read_plain_or_compressed(name: str, tmp_path: Path) -> None:
    images = write_idx_files(tmp_path)
    found = load_dataset(name, tmp_path)
    assert found.input_shape == (1, 28, 28)
    assert np.array_equal(np.rint(found.train_x[:, 0] * 255), images)
    assert found.train_y.tolist() == [3, 1, 4, 1, 5, 9, 2]
    assert found.test_y.tolist() == [3, 1]


def test_nothing_is_downloaded_and_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="needs a directory"):
        load_dataset("mnist")
    write_idx_files(tmp_path)
    (tmp_path / "t10k-images-idx3-ubyte").unlink()
    with pytest.raises(UserError, match="there is no t10k-images-idx3-ubyte"):
        load_dataset("mnist", tmp_path)


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"no magic at all",
        bytes((0, 0, 8, 2)) + struct.pack(">2I", 2, 2) + bytes(4),
        bytes((0, 0, 8, 1)) + struct.pack(">I", 5) + bytes(4),
        bytes((0, 0, 8, 1)) + struct.pack(">I", 5) + bytes(6),
        bytes((0, 0, 8, 1)) + struct.pack(">I", 2**32 - 1) + bytes(6),
    ],
    ids=["empty", "no magic", "other dimensions", "short", "long", "too large"],
)
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_damaged_idx_file_is_refused(damage: bytes, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"labels{suffix}"
    path.write_bytes(gzip.compress(damage) if suffix else damage)
    with pytest.raises(UserError, match="cannot read"):
        read_idx(path, dimensions=1)


def test_a_cut_or_broken_gzip_file_is_refused(tmp_path: Path) -> None:
    whole = gzip.compress(idx(np.arange(200)))
    unknown_block = whole[:10] + b"\x07" + whole[11:]  # RFC 1951 section 3.2.3: type 11 is reserved.
    wrong_sum = whole[:-8] + bytes(8)
    for damage in (whole[:-20], unknown_block, wrong_sum, b"not gzip"):
        path = tmp_path / "labels.gz"
        path.write_bytes(damage)
        with pytest.raises(UserError, match="cannot read"):
            read_idx(path, dimensions=1)


def test_labels_and_images_must_fit_together(tmp_path: Path) -> None:
    write_idx_files(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(np.arange(6)))
    with pytest.raises(UserError, match="does not fit together"):
        load_dataset("mnist", tmp_path)


# ---------------------------------------------------------------------------
# CIFAR-10.


def write_cifar(directory: Path) -> np.ndarray:
    directory.mkdir(exist_ok=True)
    records = np.random.default_rng(2).integers(0, 256, (12, 3073)).astype(np.uint8)
    records[:, 0] %= 10
    for number in range(1, 6):
        (directory / f"data_batch_{number}.bin").write_bytes(records[2 * number - 2 : 2 * number].tobytes())
    (directory / "test_batch.bin").write_bytes(records[10:].tobytes())
    return records


@pytest.mark.parametrize("below", ["", "cifar-10-batches-bin"])
def test_cifar_is_read_from_its_binary_folder(below: str, tmp_path: Path) -> None:
    records = write_cifar(tmp_path / below)
    found = load_dataset("cifar10", tmp_path)
    assert (found.input_shape, found.classes) == ((3, 32, 32), 10)
    assert (len(found.train_y), len(found.test_y)) == (10, 2)
    assert found.test_y.tolist() == records[10:, 0].tolist()
    # Red before green before blue, row by row.
    assert np.rint(found.train_x[3, 1, 0, 5] * 255) == records[3, 1 + 1024 + 5]
    assert found.train_x.dtype == np.float32
    assert float(found.train_x.max()) <= 1.0


@pytest.mark.parametrize("damage", [b"", bytes(3072), bytes(3074), b"\x0a" + bytes(3072)])
def test_a_damaged_cifar_file_is_refused(damage: bytes, tmp_path: Path) -> None:
    write_cifar(tmp_path)
    (tmp_path / "data_batch_3.bin").write_bytes(damage)
    with pytest.raises(UserError, match="data_batch_3"):
        load_dataset("cifar10", tmp_path)
    (tmp_path / "data_batch_3.bin").unlink()
    with pytest.raises(UserError, match="data_batch_3"):
        load_dataset("cifar10", tmp_path)
    with pytest.raises(UserError, match="needs a directory"):
        load_dataset("cifar10")


def test_a_users_own_data_set_must_fit_together() -> None:
    with pytest.raises(UserError, match="does not fit together"):
        load_dataset("tests.learn.own:own_broken")


# ---------------------------------------------------------------------------
# The public root set.


def test_the_root_set_is_balanced_and_taken_out() -> None:
    x, y, rest = root_set(DIGITS, 100, seed=9)
    assert np.bincount(y).tolist() == [10] * 10
    assert len(rest.train_y) == len(DIGITS.train_y) - 100
    together = np.concatenate((x, rest.train_x)).reshape(len(DIGITS.train_y), -1)
    whole = DIGITS.train_x.reshape(len(DIGITS.train_y), -1)
    assert np.array_equal(np.sort(together, axis=0), np.sort(whole, axis=0))
    assert np.array_equal(rest.test_x, DIGITS.test_x)
    again = root_set(DIGITS, 100, seed=9)
    assert np.array_equal(x, again[0])
    assert not np.array_equal(x, root_set(DIGITS, 100, seed=10)[0])


# ---------------------------------------------------------------------------
# The data root.


def test_the_data_root_is_the_same_everywhere() -> None:
    root, leaves = data_root(DIGITS.train_x[:5], DIGITS.train_y[:5])
    assert leaves == 5
    assert root.hex() == "fdaa5476ddfc2706d4f2f1e78f8d23b23563b47a4867bb5b1c233eee147f9f4d"


def test_one_changed_pixel_label_or_order_changes_the_root() -> None:
    x, y = DIGITS.train_x[:5], DIGITS.train_y[:5]
    brighter, relabelled = x.copy(), y.copy()
    brighter[2, 0, 3, 3] += np.float32(2**-10)
    relabelled[4] = (y[4] + 1) % 10
    roots = {data_root(*pair)[0] for pair in ((x, y), (brighter, y), (x, relabelled), (x[::-1], y[::-1]))}
    assert len(roots) == 4


def test_opened_leaves_give_the_samples_back() -> None:
    leaves = data_leaves(DIGITS.train_x[:5], DIGITS.train_y[:5])
    x, y = parse_leaves(leaves, (1, 8, 8), 10)
    assert np.array_equal(x, DIGITS.train_x[:5])
    assert np.array_equal(y, DIGITS.train_y[:5])
    assert merkle.root(leaves) == data_root(x, y)[0]


def test_leaves_that_are_no_samples_of_this_job_are_refused() -> None:
    x, y = DIGITS.train_x[:1].copy(), DIGITS.train_y[:1]
    (leaf,) = data_leaves(x, y)
    bad = [leaf[:-1], leaf + b"\0", b"", b"\x02" + leaf[1:]]
    bad += data_leaves(x.reshape(1, 8, 8, 1), y)
    bad += data_leaves(x, np.array([10]))
    bad += data_leaves(x, np.array([-1]))
    x[0, 0, 0, 0] = np.nan
    bad += data_leaves(x, y)
    for each in bad:
        with pytest.raises(PeerFault) as caught:
            parse_leaves([leaf, each], (1, 8, 8), 10)
        assert caught.value.reason == "bad_leaf"
