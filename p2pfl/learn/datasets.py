"""What is learnt from: data sets, the public root set, and the root of a member's training set.

numpy only. Knows nothing of models and training. Nothing is ever downloaded: digits come with the
package, everything else lies in a directory that the user names. Pixels become float32 from 0 to 1 (the byte
divided by 255, the digits' grey level by 16); numbers in tables stay as they are (`sample_tables`).
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from consensus import merkle
from consensus.types import Digest
from p2pfl.errors import PeerFault, UserError
from p2pfl.learn import chance
from p2pfl.learn.sample_tables import LABEL, SUFFIXES, read_samples
from p2pfl.learn.tables import Table

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]

DIGITS_TEST_SAMPLES = 360
# 1 GiB holds MNIST 20 times over. A gzip file of a few MB can unpack to more than a machine has.
IDX_BYTES_MAX = 1 << 30
SAMPLE_DIMENSIONS_MAX = 4
# One record of CIFAR-10: the label, then the red, the green and the blue of 32 x 32 pixels.
CIFAR_RECORD_BYTES = 1 + 3 * 32 * 32
# Its files have 10,000 records each.
CIFAR_RECORDS_MAX = 100_000
# Of a table without a test part, one sample in so many is kept for the public test.
TABLE_TEST_SHARE = 5


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """Labelled samples, split into training and test.

    x: float32, shape (samples, channels, height, width) of pictures, (samples, columns) of tables; y: int64
    in [0, classes). class_names: what a table calls its classes, in the order of their numbers.
    """

    train_x: Float32
    train_y: Int64
    test_x: Float32
    test_y: Int64
    classes: int
    class_names: tuple[str, ...] = ()

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one sample."""
        return tuple(self.train_x.shape[1:])


dataset: Table[Callable[[Path | None], Dataset]] = Table("dataset")


def load_dataset(name: str, directory: Path | None = None) -> Dataset:
    """The data set `name`: one of the table, a file of `directory`, or the user's own `module:function`.

    A file is one that `sample_tables` reads: `flowers.csv`, or `flowers.csv#species` if its labels are in the
    column `species`. Raises UserError.
    """
    file, _, label = name.partition("#")
    if Path(file).suffix.lower() in SUFFIXES:
        return table_dataset(file, label or LABEL, directory)
    found = dataset.find(name)(directory)
    _check(name, found)
    return found


def _check(name: str, found: Dataset) -> None:
    """Raise UserError for a data set of a user's own that nothing could be learnt from."""
    for half, x, y in (("train", found.train_x, found.train_y), ("test", found.test_x, found.test_y)):
        fits = x.dtype == np.float32 and y.dtype == np.int64 and y.ndim == 1 and len(x) == len(y) > 0
        if not fits or x.shape[1:] != found.train_x.shape[1:] or y.min() < 0 or y.max() >= found.classes:
            raise UserError(
                f"the data set {name!r} does not fit together",
                because=f"{half}: x is {x.dtype} {x.shape}, y {y.dtype} {y.shape}, {found.classes} classes",
                fix="x is float32 with samples first, y int64 from 0 to classes - 1, as many as samples",
            )


@dataset("digits")
def digits(_directory: Path | None = None) -> Dataset:
    """1,797 handwritten digits, 8 x 8, 17 grey levels: 1,437 to train, 360 to test. Comes with the package.

    Optical Recognition of Handwritten Digits, E. Alpaydin and C. Kaynak, UCI Machine Learning
    Repository, CC BY 4.0; the copy that scikit-learn ships as `load_digits`.
    """
    with np.load(Path(__file__).with_name("digits.npz"), allow_pickle=False) as file:
        images, labels = file["images"], file["labels"]
    # RandomState's streams are frozen for ever (NEP 19), so this is the same split on every machine.
    order = np.random.RandomState(0).permutation(len(labels))
    x = (images[order].astype(np.float32) / np.float32(16)).reshape(-1, 1, 8, 8)
    y = labels[order].astype(np.int64)
    test = DIGITS_TEST_SAMPLES
    return Dataset(x[test:], y[test:], x[:test], y[:test], classes=10)


@dataset("mnist")
def mnist(directory: Path | None = None) -> Dataset:
    """70,000 handwritten digits, 28 x 28 (LeCun, Cortes, Burges), from the four IDX files in `directory`."""
    return _idx_dataset("mnist", directory)


@dataset("fashion_mnist")
def fashion_mnist(directory: Path | None = None) -> Dataset:
    """70,000 pictures of clothes, 28 x 28 (Xiao, Rasul, Vollgraf), from the four IDX files in `directory`."""
    return _idx_dataset("fashion_mnist", directory)


@dataset("cifar10")
def cifar10(directory: Path | None = None) -> Dataset:
    """60,000 pictures of ten kinds, 3 x 32 x 32 (Krizhevsky 2009), from the six .bin files in `directory`."""
    if directory is None:
        raise _needs_directory(
            "cifar10", "its binary version (data_batch_1.bin to data_batch_5.bin, test_batch.bin)"
        )
    inner = directory / "cifar-10-batches-bin"  # What the archive unpacks to.
    folder = inner if inner.is_dir() else directory
    halves = [[f"data_batch_{i}.bin" for i in range(1, 6)], ["test_batch.bin"]]
    parts: list[tuple[Float32, Int64]] = []
    for names in halves:
        records = np.concatenate([_cifar_records(folder / name) for name in names])
        x = records[:, 1:].reshape(-1, 3, 32, 32).astype(np.float32)
        x /= np.float32(255)  # In place: it has 600 MB.
        parts.append((x, records[:, 0].astype(np.int64)))
    return Dataset(*parts[0], *parts[1], classes=10)


def _cifar_records(path: Path) -> NDArray[np.uint8]:
    try:
        size = path.stat().st_size
        records, over = divmod(size, CIFAR_RECORD_BYTES)
        if over or not 1 <= records <= CIFAR_RECORDS_MAX:
            raise ValueError(f"{size} bytes are no whole number of records of {CIFAR_RECORD_BYTES} bytes")
        found = np.fromfile(path, dtype=np.uint8).reshape(records, CIFAR_RECORD_BYTES)
        if found[:, 0].max() > 9:
            raise ValueError(f"it holds the label {found[:, 0].max()}, labels are 0 to 9")
    except (OSError, ValueError) as error:
        raise _bad_file(path, str(error)) from error
    return found


def table_dataset(name: str, label: str, directory: Path | None) -> Dataset:
    """The samples in a file of `directory`; every fifth of a public shuffle is the test, if it has none."""
    if directory is None or Path(name).name != name:
        raise _needs_directory(name, "this file, by its name alone")
    found = read_samples(directory / name, label=label)
    x, y, test_x, test_y = found.x, found.y, found.test_x, found.test_y
    if test_x is None or test_y is None:
        order = chance.shuffled(len(y), chance.words("public test of a table"))
        tested, rest = (
            np.sort(order[: len(y) // TABLE_TEST_SHARE]),
            np.sort(order[len(y) // TABLE_TEST_SHARE :]),
        )
        x, y, test_x, test_y = x[rest], y[rest], x[tested], y[tested]
    classes = len(found.class_names) or 1 + max(int(y.max()), int(test_y.max(initial=0)))
    whole = Dataset(x, y, test_x, test_y, classes, found.class_names)
    _check(name, whole)
    return whole


def _needs_directory(name: str, holds: str) -> UserError:
    return UserError(
        f"the data set {name!r} needs a directory",
        because="it does not come with the package, and nothing is downloaded",
        fix=f"name the directory that holds {holds}: data.dir of a node, --data-dir of a testnet",
    )


# ---------------------------------------------------------------------------
# IDX: two zero bytes, the type (0x08: unsigned byte), the number of dimensions, each dimension as a
# big-endian uint32, the data.


def _idx_dataset(name: str, directory: Path | None) -> Dataset:
    if directory is None:
        raise _needs_directory(name, "its IDX files (train-images-idx3-ubyte.gz and three more)")
    parts: list[tuple[Float32, Int64]] = []
    for half in ("train", "t10k"):
        images = read_idx(_idx_file(directory, f"{half}-images-idx3-ubyte"), dimensions=3)
        labels = read_idx(_idx_file(directory, f"{half}-labels-idx1-ubyte"), dimensions=1)
        if len(images) != len(labels) or not len(labels) or int(labels.max()) > 9:
            raise UserError(
                f"the data set {name!r} in {directory} does not fit together",
                because=f"{half}: {len(images)} images, {len(labels)} labels, all of which must be 0 to 9",
                fix="copy the four files again from where they came from",
            )
        parts.append((images[:, None].astype(np.float32) / np.float32(255), labels.astype(np.int64)))
    return Dataset(*parts[0], *parts[1], classes=10)


def _idx_file(directory: Path, stem: str) -> Path:
    for path in (directory / f"{stem}.gz", directory / stem):
        if path.is_file():
            return path
    raise UserError(
        f"there is no {stem} in {directory}",
        because="neither it nor its .gz is a file there",
        fix="name the directory that holds the four IDX files; nothing is downloaded",
    )


def read_idx(path: Path, *, dimensions: int) -> NDArray[np.uint8]:
    """The bytes of one IDX file, plain or .gz, in its shape. Raises UserError when it is not one."""
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            head = file.read(4 + 4 * dimensions)
            if len(head) != 4 + 4 * dimensions or head[:4] != bytes((0, 0, 8, dimensions)):
                raise ValueError(f"it does not begin like unsigned bytes in {dimensions} dimensions")
            shape = struct.unpack(f">{dimensions}I", head[4:])
            size = math.prod(shape)
            if size > IDX_BYTES_MAX:
                raise ValueError(f"it claims {size} bytes, more than {IDX_BYTES_MAX}")
            data = file.read(size + 1)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise _bad_file(path, str(error)) from error
    if len(data) != size:
        raise _bad_file(path, f"it claims {size} bytes and holds {'more' if len(data) > size else len(data)}")
    return np.frombuffer(data, dtype=np.uint8).reshape(shape)


def _bad_file(path: Path, because: str) -> UserError:
    return UserError(
        f"cannot read {path}", because=because, fix="copy the file again from where it came from"
    )


# ---------------------------------------------------------------------------
# The public root set.


def root_set(whole: Dataset, size: int, seed: int) -> tuple[Float32, Int64, Dataset]:
    """Take `size` public training samples out, as equal a number of each class as there are.

    Returns their x, their y, and the data set without them. The council trains its root update on them.
    """
    if not 0 <= size < len(whole.train_y):
        raise ValueError(f"a root set of {size} out of {len(whole.train_y)} samples")
    order = chance.shuffled(len(whole.train_y), chance.words("root set", seed))
    labels = whole.train_y[order]
    rank_in_class = np.empty(len(order), dtype=np.int64)
    for label in range(whole.classes):
        mine = labels == label
        rank_in_class[mine] = np.arange(np.count_nonzero(mine))
    # First the first of every class, then the second of every class, and so on.
    chosen = np.sort(order[np.argsort(rank_in_class, kind="stable")[:size]])
    rest = np.delete(np.arange(len(order)), chosen)
    remaining = replace(whole, train_x=whole.train_x[rest], train_y=whole.train_y[rest])
    return whole.train_x[chosen], whole.train_y[chosen], remaining


# ---------------------------------------------------------------------------
# The data root: what a member commits to for an epoch, and opens to the council when it is asked to.
#
#     leaf = dimensions (1 byte) | each dimension (uint32 LE) | label (int64 LE) | values (float32 LE)


def data_leaves(x: Float32, y: Int64) -> list[bytes]:
    """One canonical leaf for each sample, in order. x: float32, shape (samples, ...); y: int64."""
    if x.dtype != np.float32 or y.dtype != np.int64 or len(x) != len(y):
        raise ValueError("x must be float32 and y int64, of one length")
    if not 1 <= x.ndim - 1 <= SAMPLE_DIMENSIONS_MAX:
        raise ValueError(f"a sample has 1 to {SAMPLE_DIMENSIONS_MAX} dimensions, not {x.ndim - 1}")
    head = _leaf_head(tuple(x.shape[1:]))
    values = np.ascontiguousarray(x, dtype="<f4")
    return [head + struct.pack("<q", int(y[i])) + values[i].tobytes() for i in range(len(y))]


def data_root(x: Float32, y: Int64) -> tuple[Digest, int]:
    """The RFC 9162 root over the leaves, and how many there are."""
    return merkle.root(data_leaves(x, y)), len(y)


def parse_leaves(
    leaves: Sequence[bytes], input_shape: tuple[int, ...], classes: int
) -> tuple[Float32, Int64]:
    """The samples of opened leaves. Raises PeerFault when one is not exactly a sample of this job."""
    head = _leaf_head(input_shape)
    length = len(head) + 8 + 4 * math.prod(input_shape)
    x = np.empty((len(leaves), *input_shape), dtype=np.float32)
    y = np.empty(len(leaves), dtype=np.int64)
    for i, leaf in enumerate(leaves):
        if len(leaf) != length or not leaf.startswith(head):
            raise PeerFault("bad_leaf", f"sample {i} is not of shape {input_shape}")
        y[i] = struct.unpack_from("<q", leaf, len(head))[0]
        x[i] = np.frombuffer(leaf, dtype="<f4", offset=len(head) + 8).reshape(input_shape)
    if not np.isfinite(x).all() or ((y < 0) | (y >= classes)).any():
        raise PeerFault("bad_leaf", "a value is not finite, or a label is no class")
    return x, y


def _leaf_head(shape: tuple[int, ...]) -> bytes:
    return struct.pack(f"<B{len(shape)}I", len(shape), *shape)
