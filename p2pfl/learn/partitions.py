"""How an experiment or a testnet shares one data set out among members, in one table.

In real life every member has its own folder (`own_data`), and nothing here is used. The names are those of
the field (flwr-datasets calls them IidPartitioner and so on). Each is a function of the labels and a seed:
the same seed gives the same shares with the same version of numpy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from p2pfl.errors import UserError
from p2pfl.learn import chance
from p2pfl.learn.tables import Table

Int64 = NDArray[np.int64]

# A split that leaves somebody with too few samples is drawn again, this many times.
DRAWS_MAX = 1000


@dataclass(frozen=True, slots=True)
class Split:
    """What a partitioner may be told beside the labels; each reads what concerns it.

    alpha: concentration of a Dirichlet distribution; small is skewed. classes_each: classes of a member.
    shards_each: shards of a member. sizes: samples of each member; whatever is over goes to nobody.
    """

    alpha: float = 0.5
    classes_each: int = 2
    shards_each: int = 2
    sizes: tuple[int, ...] = ()


Draw = Callable[[Int64, int, Split, np.random.Generator], list[Int64]]
partitioner: Table[Draw] = Table("partitioner")


def partition(
    labels: Int64,
    kind: str,
    parts: int,
    *,
    seed: int,
    alpha: float = 0.5,
    classes_each: int = 2,
    shards_each: int = 2,
    sizes: Sequence[int] = (),
    min_samples: int = 10,
) -> list[Int64]:
    """Which samples each of `parts` members gets: ascending indices, no sample twice.

    labels: int64, shape (samples,). kind: a name in the table, or the user's own `module:function`; the rest
    is in `Split`. All samples are shared out, unless `sizes` asks for fewer. Drawn again until every part has
    `min_samples`; raises UserError when that fails.
    """
    draw = partitioner.find(kind)
    if parts < 1 or alpha <= 0 or min(min_samples, classes_each, shards_each) < 1:
        raise ValueError("parts, alpha, classes_each, shards_each and min_samples must be positive")
    split = Split(alpha, classes_each, shards_each, tuple(sizes))
    rng = np.random.Generator(chance.words("partition", kind.encode(), seed))
    for _ in range(DRAWS_MAX if parts * min_samples <= len(labels) else 0):
        shares = draw(labels, parts, split, rng)
        if min(len(share) for share in shares) >= min_samples:
            return [np.sort(share) for share in shares]
    raise UserError(
        f"cannot share {len(labels)} samples out to {parts} members by {kind}",
        because=f"each must get at least {min_samples}, which no draw of {DRAWS_MAX} gave",
        fix="use fewer members, a larger data set, a larger alpha or a smaller minimum",
    )


# ---------------------------------------------------------------------------
# By label.


@partitioner("Iid")
def iid(labels: Int64, parts: int, _split: Split, rng: np.random.Generator) -> list[Int64]:
    """Equal shares of a shuffled whole."""
    return np.array_split(rng.permutation(len(labels)), parts)


@partitioner("Dirichlet")
def dirichlet(labels: Int64, parts: int, split: Split, rng: np.random.Generator) -> list[Int64]:
    """Each class is cut in proportions drawn from Dir(alpha) (Hsu, Qi and Brown 2019)."""
    shares: list[list[Int64]] = [[] for _ in range(parts)]
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        proportions = rng.dirichlet(np.full(parts, split.alpha))
        cuts = (np.cumsum(proportions)[:-1] * len(members)).astype(np.int64)
        for share, piece in zip(shares, np.split(members, cuts), strict=True):
            share.append(piece)
    return [np.concatenate(share) for share in shares]


@partitioner("InnerDirichlet")
def inner_dirichlet(labels: Int64, parts: int, split: Split, rng: np.random.Generator) -> list[Int64]:
    """Members of equal size (or `sizes`), each with its own mixture of classes from Dir(alpha).

    Acar et al. 2021. A member that wants more of a class than is left takes what is left of the others, in
    its proportions.
    """
    classes = np.unique(labels)
    stacks = [rng.permutation(np.flatnonzero(labels == label)) for label in classes]
    left = np.array([len(stack) for stack in stacks])
    sizes = _sizes(len(labels), parts, split, np.ones(parts))
    wishes = rng.dirichlet(np.full(len(classes), split.alpha), parts)
    shares: list[Int64] = []
    for size, wish in zip(sizes, wishes, strict=True):
        taken = _take(size, wish, left)
        shares.append(np.concatenate([s[n - t : n] for s, n, t in zip(stacks, left, taken, strict=True)]))
        left = left - taken
    return shares


@partitioner("Shard")
def shard(labels: Int64, parts: int, split: Split, rng: np.random.Generator) -> list[Int64]:
    """Samples sorted by label, cut into equal shards, `shards_each` drawn for each (McMahan et al. 2017)."""
    by_label = np.lexsort((rng.permutation(len(labels)), labels))
    shards = np.array_split(by_label, split.shards_each * parts)
    order = rng.permutation(len(shards)).reshape(parts, split.shards_each)
    return [np.concatenate([shards[i] for i in mine]) for mine in order]


@partitioner("Pathological")
def pathological(labels: Int64, parts: int, split: Split, rng: np.random.Generator) -> list[Int64]:
    """`classes_each` classes for each member; a class is cut evenly among those that have it.

    Li et al. 2022. Classes are dealt like cards: one that fewer members have goes first, so none is left.
    """
    classes = np.unique(labels)
    each = min(split.classes_each, len(classes))
    if parts * each < len(classes):
        raise UserError(
            f"{parts} members of {each} classes cannot hold {len(classes)} classes",
            because="every sample has to go to somebody",
            fix="use more members, or more classes each",
        )
    has = np.zeros((parts, len(classes)), dtype=np.bool_)
    for member in range(parts):
        order = np.lexsort((rng.permutation(len(classes)), has.sum(axis=0)))
        has[member, order[:each]] = True
    shares: list[list[Int64]] = [[] for _ in range(parts)]
    for column, label in enumerate(classes):
        owners = np.flatnonzero(has[:, column])
        members = rng.permutation(np.flatnonzero(labels == label))
        for owner, piece in zip(owners, np.array_split(members, len(owners)), strict=True):
            shares[owner].append(piece)
    return [np.concatenate(share) for share in shares]


# ---------------------------------------------------------------------------
# By size: a shuffled whole, cut into unequal parts.


@partitioner("Size")
def size(labels: Int64, parts: int, split: Split, rng: np.random.Generator) -> list[Int64]:
    """So many samples for each member as `sizes` says."""
    if not split.sizes:
        raise UserError(
            "the partitioner 'Size' needs sizes",
            because="it gives each member as many samples as it is told",
            fix="name a number of samples for each member, such as sizes = [100, 200, 300]",
        )
    return _cut(_sizes(len(labels), parts, split, np.ones(parts)), rng.permutation(len(labels)))


@partitioner("Linear")
def linear(labels: Int64, parts: int, _split: Split, rng: np.random.Generator) -> list[Int64]:
    """Sizes as 1 : 2 : 3 and so on."""
    return _cut(_weighted(len(labels), np.arange(1.0, parts + 1)), rng.permutation(len(labels)))


@partitioner("Square")
def square(labels: Int64, parts: int, _split: Split, rng: np.random.Generator) -> list[Int64]:
    """Sizes as 1 : 4 : 9 and so on."""
    return _cut(_weighted(len(labels), np.arange(1.0, parts + 1) ** 2), rng.permutation(len(labels)))


@partitioner("Exponential")
def exponential(labels: Int64, parts: int, _split: Split, rng: np.random.Generator) -> list[Int64]:
    """Sizes as 1 : e : e^2 and so on: few members of which the first has anything at all."""
    weights = np.exp(np.arange(parts, dtype=np.float64) - parts)
    return _cut(_weighted(len(labels), weights), rng.permutation(len(labels)))


def _sizes(count: int, parts: int, split: Split, weights: NDArray[np.float64]) -> list[int]:
    """The sizes that were asked for, or all samples in these proportions."""
    if not split.sizes:
        return _weighted(count, weights)
    if len(split.sizes) != parts or min(split.sizes) < 1 or sum(split.sizes) > count:
        raise UserError(
            f"the sizes {list(split.sizes)} do not fit",
            because=f"there are {parts} members and {count} samples",
            fix="name one positive size for each member, together no more than there are samples",
        )
    return list(split.sizes)


def _weighted(count: int, weights: NDArray[np.float64]) -> list[int]:
    """`count` in these proportions, rounded down; what is over goes to the last, which is the largest."""
    sizes = np.floor(weights / weights.sum() * count).astype(np.int64)
    sizes[-1] += count - int(sizes.sum())
    return sizes.tolist()


def _cut(sizes: Sequence[int], order: Int64) -> list[Int64]:
    return np.split(order, np.cumsum(sizes))[: len(sizes)]


def _take(size: int, wish: NDArray[np.float64], left: Int64) -> Int64:
    """How many of each class make up `size`, as near to the wished shares as what is left allows."""
    taken = np.zeros(len(left), dtype=np.int64)
    while (missing := size - int(taken.sum())) > 0:
        room = left - taken
        shares = np.where(room > 0, wish + 1e-12, 0.0)
        more = np.minimum(np.floor(shares / shares.sum() * missing).astype(np.int64), room)
        if not more.any():  # Less than one of each: whatever is wished for most, one by one.
            more[np.argmax(shares)] = 1
        taken += more
    return taken
