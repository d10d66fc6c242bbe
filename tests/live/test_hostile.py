"""A hostile peer with a member's key against a network of four: a few attacks; the long form has them all."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.live.attacks import TABLE
from tests.live.typed import typed

ROOT = Path(__file__).parents[2]
ATTACKS = ("half_open", "message_flood", "thousands_of_streams", "gossip_flood")
RUN_S_MAX = 400


def test_each_attack_says_what_it_does_and_the_handbook_names_it() -> None:
    handbook = (ROOT / "docs" / "testnet.md").read_text(encoding="utf-8")
    assert [name for name in TABLE if f"| `{name}` |" not in handbook] == []
    assert all((function.__doc__ or "").endswith(".") for function, _ in TABLE.values())
    assert set(ATTACKS) < set(TABLE)


@pytest.mark.e2e
@pytest.mark.slow
def test_the_network_goes_on_under_attack_and_is_as_before_afterwards(tmp_path: Path) -> None:
    chosen = (word for name in ATTACKS for word in ("--only", name))
    result = typed("hostile", "--minutes", "0.17", *chosen, directory=tmp_path, timeout_s=RUN_S_MAX)
    assert result["findings"] == []
    assert result["held"] is True
    assert {each["attack"] for each in result["attacks"]} == set(ATTACKS)
    assert result["under"]["counted"]["flood"] > 0
