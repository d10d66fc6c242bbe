"""Scenarios are read strictly, and a wrong name is told the right ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from p2pfl.errors import UserError
from testnet import attacks, judge
from testnet.scenarios import FOLDER, known, load

MINIMAL = """
title = "t"
claim = "c"
culprits = []
[holds]
all_rounds = true
"""


@pytest.mark.parametrize("name", known())
def test_every_scenario_loads_and_says_what_it_claims(name: str) -> None:
    scenario = load(name)
    assert scenario.name == name
    assert scenario.claim
    assert set(scenario.holds) <= set(judge.CONDITIONS)
    assert {attack.name for attack in scenario.attacks} <= set(attacks.names())


def test_the_four_of_the_handbook_are_there() -> None:
    assert set(known()) >= {"honest", "sign_flip", "equivocate", "crash"}


def test_an_unknown_name_is_told_the_known_ones() -> None:
    with pytest.raises(UserError, match="sing_flip") as caught:
        load("sing_flip")
    assert all(name in caught.value.because for name in known())


def test_sizes_are_overridden_and_names_follow() -> None:
    scenario = load("honest", groups=2, members=5, seats=1, rounds=3, seed=None)
    assert scenario.network.seed == load("honest").network.seed
    assert scenario.member_names[-1] == "g1m4"
    assert scenario.seat_names == ("seat0",)


@pytest.mark.parametrize(
    ("name", "sizes", "because"),
    [
        ("sign_flip", {"groups": 2}, "groups must be 3"),
        ("equivocate", {"groups": 1}, "g1m2"),
        ("crash", {"rounds": 3}, "height 4 of 3"),
        ("equivocate", {"rounds": 2}, "height 2 of 2"),
        ("honest", {"members": 3}, "members must be 4"),
        ("honest", {"seats": 2}, "seats must be 1 or 4"),
        ("honest", {"rounds": 0}, "at least one round"),
    ],
)
def test_what_cannot_be_run_is_said(name: str, sizes: dict[str, int], because: str) -> None:
    with pytest.raises(UserError) as caught:
        load(name, **sizes)
    assert because in caught.value.because


@pytest.mark.parametrize(
    ("text", "because"),
    [
        (MINIMAL + "surprise = 1", "no condition surprise"),
        (MINIMAL.replace("culprits = []", "culprits = 3"), "culprits must be a list"),
        (MINIMAL.replace("culprits = []", ""), "culprits is missing"),
        (MINIMAL + "[network]\ngroups = true", "network.groups must be of type int"),
        (MINIMAL + "[network]\nplanets = 9", "network.planets is unknown"),
        (MINIMAL + "[times]\nopen_s = 9", "[times] has no open_s"),
        (MINIMAL + '[[attacks]]\nmember = "g0m0"\nname = "hypnosis"', "sign_flip"),
        (MINIMAL + '[[kills]]\ngroup = "g0"\nheight = 1\nstep = "tea"\n', "no step 'tea'"),
        ("title = ", "Invalid value"),
    ],
)
def test_a_file_of_ones_own_is_read_strictly(tmp_path: Path, text: str, because: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        load(str(path))
    assert because in caught.value.because


def test_an_attack_of_ones_own_is_named_by_its_address(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    own = "tests.testnet.test_attacks:sulk"
    path.write_text(f'{MINIMAL}[[attacks]]\nmember = "g0m0"\nname = "{own}"\noptions = {{ how = "loudly" }}')
    assert load(str(path)).attacks[0].options == {"how": "loudly"}
    path.write_text(f'{MINIMAL}[[attacks]]\nmember = "g0m0"\nname = "{own}"')
    with pytest.raises(UserError, match="its options are: how"):
        load(str(path))


def test_a_file_of_ones_own_can_be_run(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text((FOLDER / "sign_flip.toml").read_text())
    assert load(str(path)).culprits == ("g2m3",)
