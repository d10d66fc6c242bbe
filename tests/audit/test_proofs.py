"""Proofs: small texts that convince somebody who holds the genesis file only, and nobody by a lie."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from p2pfl.audit.proofs import BadProof, check, prove_block, prove_consistency, prove_field
from p2pfl.errors import UserError
from p2pfl.genesis import COUNCIL
from p2pfl.records import CouncilBody, GroupBody
from p2pfl.roster import Roster
from p2pfl.store import BlockFile

from .chain import Built, build


@pytest.fixture(scope="module")
def built() -> Built:
    return build()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, built: Built) -> dict[str, BlockFile]:
    path = built.write(tmp_path_factory.mktemp("node"), blobs=False)
    return {name: BlockFile(path / "chain" / f"{name}.mps") for name in built.chains}


def test_every_earlier_block_can_be_proved_under_every_later_header(
    built: Built, files: dict[str, BlockFile]
) -> None:
    for head in range(1, 6):
        for height in range(head):
            text = prove_block(Roster.of(built.genesis), "g1", files["g1"], height, head)
            proven = check(text, built.genesis)
            assert (proven.chain, proven.height) == ("g1", height)
            assert f"certified header {head}" in proven.statement
    assert check(prove_block(Roster.of(built.genesis), "g1", files["g1"], 2), built.genesis).height == 2


def test_every_field_can_be_proved_alone(built: Built, files: dict[str, BlockFile]) -> None:
    for chain, kind in (("g2", GroupBody), (COUNCIL, CouncilBody)):
        for field in dataclasses.fields(kind):
            text = prove_field(Roster.of(built.genesis), chain, files[chain], 2, field.name)
            proven = check(text, built.genesis)
            assert proven.value == json.loads(text)["value"]
            assert field.name in proven.statement


def test_every_later_history_extends_every_earlier(built: Built, files: dict[str, BlockFile]) -> None:
    for new in range(1, 6):
        for old in range(1, new + 1):
            proven = check(
                prove_consistency(Roster.of(built.genesis), "g3", files["g3"], old, new), built.genesis
            )
            assert f"below block {new} extends the one below block {old}" in proven.statement


def test_what_cannot_be_proved_says_why(built: Built, files: dict[str, BlockFile]) -> None:
    for ask in (
        lambda: prove_block(Roster.of(built.genesis), "g1", files["g1"], 9),
        lambda: prove_block(Roster.of(built.genesis), "g1", files["g1"], 3, 3),
        lambda: prove_field(Roster.of(built.genesis), "g1", files["g1"], 1, "colour"),
        lambda: prove_consistency(Roster.of(built.genesis), "g1", files["g1"], 0, 3),
        lambda: prove_consistency(Roster.of(built.genesis), "g1", files["g1"], 4, 3),
    ):
        with pytest.raises(UserError):
            ask()


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if isinstance(value, dict):
        return [found for key, item in value.items() for found in leaves(item, (*path, key))]
    if isinstance(value, list):
        return [found for index, item in enumerate(value) for found in leaves(item, (*path, index))]
    return [path]


def changed(table: Any, path: tuple[Any, ...]) -> Any:
    """The same with another value at this place."""
    copy = json.loads(json.dumps(table))
    at = copy
    for key in path[:-1]:
        at = at[key]
    old = at[path[-1]]
    if isinstance(old, int):
        at[path[-1]] = old + 1
    else:
        at[path[-1]] = old[:-1] + ("1" if old[-1] != "1" else "2")
    return copy


@pytest.mark.parametrize("kind", ["block", "field", "consistency"])
def test_one_changed_value_anywhere_proves_nothing(
    built: Built, files: dict[str, BlockFile], kind: str
) -> None:
    text = {
        "block": lambda: prove_block(Roster.of(built.genesis), "g1", files["g1"], 2, 5),
        "field": lambda: prove_field(Roster.of(built.genesis), "g1", files["g1"], 2, "weights"),
        "consistency": lambda: prove_consistency(Roster.of(built.genesis), "g1", files["g1"], 3, 5),
    }[kind]()
    table = json.loads(text)
    # The index and size are written for people; a checker takes them from its own table.
    places = [path for path in leaves(table) if path not in (("index",), ("size",))]
    assert len(places) > 15
    for path in places:
        with pytest.raises(BadProof):
            check(json.dumps(changed(table, path)), built.genesis)


def test_a_missing_part_proves_nothing(built: Built, files: dict[str, BlockFile]) -> None:
    table = json.loads(prove_field(Roster.of(built.genesis), "g1", files["g1"], 2, "weights"))
    for name in set(table) - {"index", "size"}:
        rest = {key: value for key, value in table.items() if key != name}
        with pytest.raises(BadProof):
            check(json.dumps(rest), built.genesis)


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", "null", '"x"', "[" * 5000, '{"format": 1}', "9" * 20_000_000]
)
def test_what_is_no_proof_is_refused(built: Built, text: str) -> None:
    with pytest.raises(BadProof):
        check(text, built.genesis)


def test_a_proof_of_another_network_proves_nothing_here(built: Built, files: dict[str, BlockFile]) -> None:
    text = prove_block(Roster.of(built.genesis), "g1", files["g1"], 2)
    other = dataclasses.replace(built.genesis, name="other")
    with pytest.raises(BadProof, match="another network"):
        check(text, other)


def test_a_proof_is_small(built: Built, files: dict[str, BlockFile], tmp_path: Path) -> None:
    assert len(prove_block(Roster.of(built.genesis), "g1", files["g1"], 2)) < 3000
    assert len(prove_field(Roster.of(built.genesis), "g1", files["g1"], 2, "aggregate_id")) < 3000
