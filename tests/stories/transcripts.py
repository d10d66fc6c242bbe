"""Reads, plays and writes transcripts: blocks of commands, `----`, and what came out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.stories.theatre import Theatre

FOLDER = Path(__file__).parent
RULE = "----"


def stories() -> list[Path]:
    """All of them, by name."""
    return sorted(FOLDER.glob("*.txt"))


def play(text: str, theatre: Callable[[], Theatre] = Theatre) -> str:
    """The same transcript with what comes out now. Comments and empty lines stay where they are."""
    stage, out = theatre(), list[str]()
    commands: list[str] = []
    recorded = False
    for line in [*text.splitlines(), ""]:
        if recorded:
            recorded = line != ""  # What came out then is left out.
        if recorded:
            continue
        out.append(line)
        if line == RULE:
            for command in commands:
                out += stage.do(command)
            commands, recorded = [], True
        elif line and not line.startswith("#"):
            commands.append(line)
    assert not commands, f"no {RULE} after: {commands}"
    return "\n".join(out).rstrip("\n") + "\n"


def differs(path: Path, **parts: Any) -> bool:
    """Whether a story comes out otherwise with this core; a core that falls over does too."""
    text = path.read_text(encoding="utf-8")
    try:
        return play(text, lambda: Theatre(**parts)) != text
    except Exception:  # noqa: BLE001 - a mutant may do anything
        return True
