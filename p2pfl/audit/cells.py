"""How the things of a history look in a table: times, members, cases, blocks, each leading to its page."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

from consensus.types import MemberId
from p2pfl.audit.page import Cell, CellLike, Table, cell, path, short
from p2pfl.audit.queries import Answer
from p2pfl.genesis import COUNCIL, Genesis

# Columns of answers that name a member, and that hold a case.
_MEMBER_COLUMNS = {"member", "accused", "seat", "proposer", "name"}
_GOOD, _BAD = {"cleared"}, {"guilty", "no_opening", "open"}
# A note is a line for people; whatever is longer is shown in the JSON.
_NOTE_CHARS_MAX = 160


def when(time_ms: int | None) -> str:
    """A time in UTC, to the second."""
    if time_ms is None:
        return ""
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(time_ms / 1000))
    except (ValueError, OverflowError, OSError):
        return f"{time_ms} ms"


def member_named(name: str) -> Cell:
    """A member by the name that the genesis gives it."""
    return Cell(name, path("member", name))


def member_of(genesis: Genesis, member: MemberId) -> Cell:
    """A member by its id; a stranger by the beginning of it."""
    try:
        return member_named(genesis.member(member).name)
    except KeyError:
        return short("0x" + member.hex())


def case_of(case_id: str) -> Cell:
    """A case by its id."""
    return short(case_id, path("case", case_id))


def outcome(text: str) -> Cell:
    """How a case stands, marked."""
    return Cell(text, mark="good" if text in _GOOD else "bad" if text in _BAD else "")


def answered(answer: Answer, genesis: Genesis, caption: str) -> Table:
    """An answer as a table whose members, cases and blocks lead to their pages."""
    columns = [name.replace("_", " ") for name in answer.columns]
    rows = [
        [_answered(genesis, name, value, dict(zip(answer.columns, row, strict=True)))
         for name, value in zip(answer.columns, row, strict=True)]
        for row in answer.rows
    ]  # fmt: skip
    return Table(caption, columns or ["answer"], rows)


def _answered(genesis: Genesis, column: str, value: Any, row: dict[str, Any]) -> Cell:
    if isinstance(value, str):
        if column == "case_id":
            return case_of(value)
        if column in _MEMBER_COLUMNS and not value.startswith("0x"):
            return member_named(value)
        if column in ("chain", "group") and value in genesis.group_names.values():
            return Cell(value, path("chain", value))
        if column == "outcome":
            return outcome(value)
        return short(value) if value.startswith("0x") else Cell(value)
    chain = str(row.get("chain", row.get("group")))
    if column == "height" and isinstance(value, int) and chain in genesis.group_names.values():
        return Cell(str(value), path("block", chain, value), number=True)
    if column in ("council_height", "opened_at") and isinstance(value, int) and value >= 0:
        return Cell(str(value), path("block", COUNCIL, value), number=True)
    return cell(value)


def notes_table(caption: str, notes: Sequence[dict[str, Any]]) -> Table:
    """Notes under the fields that any of them has, the newest first."""
    columns = list(dict.fromkeys(name for note in notes for name in note))
    rows = [[_noted(note.get(name)) for name in columns] for note in reversed(notes)]
    return Table(caption, columns or ["note"], rows)


def _noted(value: Any) -> Cell:
    if isinstance(value, str) and value.startswith("0x"):
        return short(value)
    if value is None or isinstance(value, (str, int, float)):
        return cell(value if not isinstance(value, str) else value[:_NOTE_CHARS_MAX])
    return Cell(json.dumps(value)[:_NOTE_CHARS_MAX])


def micro(value: int) -> CellLike:
    """Millionths as a number."""
    return Cell(f"{value / 1e6:.3f}", number=True)
