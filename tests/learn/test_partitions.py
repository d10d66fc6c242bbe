"""Data sets shared out: every sample once, by seed, and as skewed as the name says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pfl.errors import UserError
from p2pfl.learn.datasets import load_dataset
from p2pfl.learn.partitions import partition, partitioner

LABELS = load_dataset("digits").train_y
# Exponential sizes leave nothing for the first of many; "Size" is told.
MANY = [name for name in partitioner.names() if name not in ("Exponential", "Size")]


@pytest.mark.parametrize("kind", MANY)
@given(parts=st.integers(5, 11), seed=st.integers(0, 2**31))
def test_every_sample_goes_to_exactly_one_member(kind: str, parts: int, seed: int) -> None:
    shares = partition(LABELS, kind, parts, alpha=1.0, seed=seed, min_samples=2)
    assert len(shares) == parts
    assert sorted(np.concatenate(shares).tolist()) == list(range(len(LABELS)))
    assert min(len(share) for share in shares) >= 2
    again = partition(LABELS, kind, parts, alpha=1.0, seed=seed, min_samples=2)
    assert all(np.array_equal(one, other) for one, other in zip(shares, again, strict=True))


@pytest.mark.parametrize("kind", [name for name in MANY if name != "Pathological"])
def test_one_member_gets_all(kind: str) -> None:
    (share,) = partition(LABELS, kind, 1, seed=3)
    assert len(share) == len(LABELS)


@pytest.mark.parametrize("kind", partitioner.names())
def test_seeds_give_different_partitions(kind: str) -> None:
    sizes = (300, 400, 500) if kind == "Size" else ()
    one, other = (partition(LABELS, kind, 3, seed=seed, sizes=sizes, classes_each=4) for seed in (1, 2))
    assert not np.array_equal(one[0], other[0])


def largest_class_share(shares: list[np.ndarray]) -> float:
    """How much of a member's data is of its most frequent class, on average."""
    return float(np.mean([np.bincount(LABELS[share]).max() / len(share) for share in shares]))


@pytest.mark.parametrize("kind", ["Dirichlet", "InnerDirichlet"])
def test_dirichlet_is_the_more_skewed_the_smaller_alpha_is(kind: str) -> None:
    skew = [
        largest_class_share(partition(LABELS, kind, 12, alpha=alpha, seed=5, min_samples=5))
        for alpha in (0.1, 0.5, 100.0)
    ]
    assert skew[0] > skew[1] + 0.1 > skew[2] + 0.2
    assert skew[2] < 0.25


def test_inner_dirichlet_keeps_members_of_equal_size() -> None:
    sizes = [len(share) for share in partition(LABELS, "InnerDirichlet", 12, alpha=0.1, seed=5)]
    assert max(sizes) - min(sizes) <= 12


@pytest.mark.parametrize(("shards_each", "classes_max"), [(1, 2), (2, 4), (4, 8)])
def test_shards_leave_few_classes_to_a_member(shards_each: int, classes_max: int) -> None:
    shares = partition(LABELS, "Shard", 10, seed=1, shards_each=shards_each)
    assert max(len(np.unique(LABELS[share])) for share in shares) <= classes_max


@given(parts=st.integers(1, 20), each=st.integers(1, 12), seed=st.integers(0, 1000))
def test_pathological_members_have_so_many_classes(parts: int, each: int, seed: int) -> None:
    if parts * each < 10:
        with pytest.raises(UserError, match="cannot hold 10 classes"):
            partition(LABELS, "Pathological", parts, seed=seed, classes_each=each)
        return
    shares = partition(LABELS, "Pathological", parts, seed=seed, classes_each=each, min_samples=2)
    assert {len(np.unique(LABELS[share])) for share in shares} == {min(each, 10)}
    assert sum(len(share) for share in shares) == len(LABELS)


@pytest.mark.parametrize(
    ("kind", "weights"),
    [("Linear", [1, 2, 3, 4]), ("Square", [1, 4, 9, 16]), ("Exponential", np.exp(np.arange(4)))],
)
def test_sizes_grow_as_the_name_says(kind: str, weights: list[float]) -> None:
    sizes = np.array([len(share) for share in partition(LABELS, kind, 4, seed=1)])
    expected = np.array(weights) / np.sum(weights) * len(LABELS)
    assert np.abs(sizes - expected).max() <= 4
    assert sizes.sum() == len(LABELS)


def test_sizes_that_are_told_are_kept_and_the_rest_goes_to_nobody() -> None:
    for kind in ("Size", "InnerDirichlet"):
        shares = partition(LABELS, kind, 3, seed=1, sizes=(10, 20, 700))
        assert [len(share) for share in shares] == [10, 20, 700]
        assert len(set(np.concatenate(shares).tolist())) == 730


@pytest.mark.parametrize("sizes", [(10, 20), (10, 20, 0), (10, 20, 1500)])
def test_sizes_that_do_not_fit_are_refused(sizes: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match="do not fit"):
        partition(LABELS, "Size", 3, seed=1, sizes=sizes)
    with pytest.raises(UserError, match="needs sizes"):
        partition(LABELS, "Size", 3, seed=1)


@pytest.mark.parametrize(("kind", "parts", "least"), [
    ("Dirichlet", 200, 10), ("Dirichlet", 12, 110), ("Exponential", 12, 10),
])  # fmt: skip
def test_a_partition_that_cannot_be_is_refused(kind: str, parts: int, least: int) -> None:
    with pytest.raises(UserError, match="cannot share 1437 samples"):
        partition(LABELS, kind, parts, alpha=0.05, seed=1, min_samples=least)


def test_an_unknown_partitioner_is_answered_with_the_known_ones() -> None:
    with pytest.raises(UserError, match="Dirichlet, Exponential, Iid, InnerDirichlet, Linear, Pathological"):
        partition(LABELS, "Random", 3, seed=1)
