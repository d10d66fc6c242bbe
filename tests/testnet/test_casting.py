"""Who plays the villain: as many as were asked for, where they were asked for, the same every time."""

from __future__ import annotations

from collections import Counter

import pytest

from p2pfl.errors import UserError
from testnet import attacks

GROUPS = {f"g{g}": [f"g{g}m{m}" for m in range(5)] for g in range(4)}


def by_group(placement: str, share: float) -> list[int]:
    cast = attacks.cast("sign_flip", GROUPS, share, placement, seed=3)
    counts = Counter(member.partition("m")[0] for member in cast)
    return sorted((counts[group] for group in GROUPS), reverse=True)


@pytest.mark.parametrize(
    ("placement", "share", "wanted"),
    [
        ("spread", 0.2, [1, 1, 1, 1]),
        ("spread", 0.3, [2, 2, 1, 1]),
        ("one_group", 0.2, [4, 0, 0, 0]),
        ("one_group", 0.4, [5, 3, 0, 0]),
        ("majority", 0.15, [3, 0, 0, 0]),
        ("majority", 0.4, [3, 3, 2, 0]),
        ("spread", 0.0, [0, 0, 0, 0]),
        ("random", 1.0, [5, 5, 5, 5]),
    ],
)
def test_the_share_is_placed_as_asked(placement: str, share: float, wanted: list[int]) -> None:
    assert by_group(placement, share) == wanted


def test_the_same_seed_casts_the_same_and_another_does_not() -> None:
    drawn = [attacks.cast("gaussian", GROUPS, 0.2, "random", seed=seed) for seed in (1, 1, 2, 3)]
    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2] or drawn[0] != drawn[3]


def test_colluders_are_told_who_they_are_and_others_only_what_was_asked() -> None:
    cast = attacks.cast("alie", GROUPS, 0.2, options={"jitter": 0.2})
    assert all(
        each == [{"name": "alie", "options": {"jitter": 0.2, "cabal": sorted(cast)}}]
        for each in cast.values()
    )
    flippers = attacks.cast("sign_flip", GROUPS, 0.05, options={"scale": 2.0})
    assert list(flippers.values()) == [[{"name": "sign_flip", "options": {"scale": 2.0}}]]


@pytest.mark.parametrize("name", attacks.UNTARGETED)
def test_the_nine_can_be_cast_as_they_are(name: str) -> None:
    assert len(attacks.cast(name, GROUPS, 0.2)) == 4


def test_what_cannot_be_cast_is_said() -> None:
    for name, share, placement, because in (
        ("sign_flip", 1.5, "spread", "the share is 1.5"),
        ("sign_flip", 0.2, "corner", "'corner'"),
        ("hypnosis", 0.2, "spread", "the known ones are"),
    ):
        with pytest.raises(UserError) as caught:
            attacks.cast(name, GROUPS, share, placement)
        assert because in caught.value.because
    with pytest.raises(UserError) as caught:
        attacks.cast("sign_flip", GROUPS, 0.2, options={"strength": 3})
    assert "scale" in caught.value.fix
