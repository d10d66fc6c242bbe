"""Every story comes out as it was recorded."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.stories.__main__ import main
from tests.stories.transcripts import play, stories


@pytest.mark.parametrize("path", stories(), ids=lambda path: path.stem)
def test_a_story_comes_out_as_it_was_recorded(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert play(text) == text, "read the difference; if it is right: python -m tests.stories --record"


def test_the_stories_that_random_seeds_miss_are_there() -> None:
    names = {path.stem for path in stories()}
    assert names >= {"highest", "mixed_rounds", "justification", "pruned", "answers", "late_evidence"}
    assert names >= {"normal", "round_change", "again", "jump", "restart", "culprits"}


def test_a_story_that_does_not_hold_is_seen() -> None:
    assert play("cast 4\n----\nnothing\n") != "cast 4\n----\nnothing\n"
    with pytest.raises(AssertionError, match="no ----"):
        play("cast 4\n")


def test_the_command_finds_no_difference(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert capsys.readouterr().out == ""
