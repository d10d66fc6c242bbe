"""Every planted bug is found: by a story, by twins or by seeds; nearly all by more than one of them."""

from __future__ import annotations

import json

import pytest

from tests.mutants.__main__ import main, row, seeds_against, sentence_against, story_against, twins_against
from tests.mutants.patch import load
from tests.mutants.table import MUTANTS, Mutant, parts_of
from tests.stories.transcripts import FOLDER, differs

# Those without a story fall within the first fifty.
SEEDS = 200
# Bugs in what lies below a vote: only a sentence speaks of them.
BY_SENTENCE = {"no domain separation"}


def named(name: str) -> Mutant:
    (mutant,) = (each for each in MUTANTS if each.name == name)
    return mutant


def test_there_are_many_and_their_names_differ() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 60


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_planted_bug_is_found(mutant: Mutant) -> None:
    if mutant.name in BY_SENTENCE:
        assert sentence_against(mutant)
    else:
        found = (story_against(mutant) if mutant.changes else None) or seeds_against(mutant, SEEDS)
        assert found


# Seeds alone find these, quickly: the simulator has eyes of its own.
BY_SEEDS = {
    "quorum minus one": "agreement validity",
    "ROUND-CHANGE omits the prepared block": "offence blame agreement",
    "WAL without the prepared certificate": "offence blame agreement",
    "COMMITs of mixed rounds counted": "validity progress",
    "decided members stay silent": "progress",
    "send before persist": "offence blame agreement",
    "restart from nothing": "offence blame agreement",
    "who leaves answers nobody": "progress",
    "no clock is looked at": "validity",
    "auditors skip justifications": "accountability",
    "auditors skip certificates": "accountability",
    "WAL forgets why a proposal was accepted": "accountability",
}


@pytest.mark.parametrize("name", BY_SEEDS)
def test_seeds_alone_find_the_worst(name: str) -> None:
    found = seeds_against(named(name), SEEDS)
    assert found is not None
    assert found[0] in BY_SEEDS[name].split()


# Twins alone find these; the rest needs a forger, a restart, or a liar of its own.
BY_TWINS = {
    "quorum minus one": "agreement",
    "second proposal of a round also prepared": "offence",
    "ROUND-CHANGE omits the prepared block": "offence",
    "COMMIT in a round that was left": "offence",
    "PREPAREs of other rounds counted": "offence",
    "decided members stay silent": "progress",
    "auditors take two rounds for one": "blame",
}


@pytest.mark.parametrize("name", BY_TWINS)
def test_twins_alone_find_what_two_honest_faces_can_break(name: str) -> None:
    found = twins_against(named(name))
    assert found is not None
    assert found[0] == BY_TWINS[name]


# What a prototype's random seeds hardly ever saw, and the story that shows it.
STORIES = {
    "any prepared block instead of the highest": "highest",
    "COMMITs of mixed rounds counted": "mixed_rounds",
    "f+1 ROUND-CHANGEs are a justification": "justification",
    "WAL without the prepared certificate": "pruned",
    "answers never come back": "answers",
    "late votes not compared": "late_evidence",
}


@pytest.mark.parametrize("name", STORIES)
def test_a_named_story_tells_what_random_seeds_miss(name: str) -> None:
    parts = parts_of(named(name))
    core = {"replica": parts["replica"], "audit": parts["audit"]}
    assert differs(FOLDER / f"{STORIES[name]}.txt", **core)


def test_the_core_itself_has_nothing_to_find() -> None:
    same = Mutant("the same text", (("answers", "ANSWERS_MAX = 4\n", "ANSWERS_MAX = 4  # Four.\n"),))
    found = row(same, 20)
    assert found["killed"] is False
    assert found["by"] == []


def test_a_change_that_is_not_found_is_an_error() -> None:
    with pytest.raises(LookupError, match="0 times"):
        load((("replica", "no such text", ""),))


def test_the_command_prints_a_row_for_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--only", "quorum minus one", "--seeds", "5", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["killed"] is True
    assert printed["by"] == ["story", "sentence", "twins", "seeds"]
    assert printed["seeds"][1] <= 5
    assert main(["--only", "quorum minus one", "--seeds", "5"]) == 0
    assert "killed" in capsys.readouterr().out
