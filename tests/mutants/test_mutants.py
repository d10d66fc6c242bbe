"""Every planted bug is found, by a sentence or, where none speaks of it, by seeds."""

from __future__ import annotations

import pytest

from tests.mutants.__main__ import main, row, seeds_against
from tests.mutants.patch import load
from tests.mutants.table import MUTANTS, Mutant

# Those without a sentence fall within the first hundred.
SEEDS = 200


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_planted_bug_is_found(mutant: Mutant) -> None:
    assert row(mutant, SEEDS, all_ways=False)["killed"]


# Seeds alone find these, quickly: the simulator has eyes of its own.
BY_SEEDS = {
    "quorum minus one": "agreement validity",
    "ROUND-CHANGE omits the prepared block": "offence blame agreement",
    "WAL without the prepared certificate": "offence blame agreement",
    "COMMITs of mixed rounds counted": "validity progress",
    "decided members stay silent": "progress",
    "send before persist": "offence blame agreement",
    "restart from nothing": "offence blame agreement",
}


@pytest.mark.parametrize("name", BY_SEEDS)
def test_seeds_alone_find_the_worst(name: str) -> None:
    (mutant,) = (each for each in MUTANTS if each.name == name)
    found = seeds_against(mutant, SEEDS)
    assert found is not None
    assert found[0] in BY_SEEDS[name].split()


def test_the_core_itself_has_nothing_to_find() -> None:
    same = Mutant("the same text", (("answers", "ANSWERS_MAX = 4\n", "ANSWERS_MAX = 4  # Four.\n"),))
    assert row(same, 20)["killed"] is False


def test_a_change_that_is_not_found_is_an_error() -> None:
    with pytest.raises(LookupError, match="0 times"):
        load((("replica", "no such text", ""),))


def test_the_command_prints_a_row_for_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--only", "quorum minus one", "--seeds", "5", "--json"]) == 0
    assert '"killed": true' in capsys.readouterr().out
