"""Answers of the table of questions, checked against the blocks themselves."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from p2pfl.audit.queries import QUESTIONS, ask
from p2pfl.audit.view import FolderView
from p2pfl.errors import UserError
from p2pfl.genesis import COUNCIL

from .chain import COPIED, COPY, GROUPS, HEIGHTS, LIAR, REJECTED, Built, build, cases_of


@pytest.fixture(scope="module")
def built() -> Built:
    return build()


@pytest.fixture(scope="module")
def view(tmp_path_factory: pytest.TempPathFactory, built: Built) -> FolderView:
    return FolderView(built.write(tmp_path_factory.mktemp("node"), blobs=False))


def asked(view: FolderView, name: str, **given: str) -> list[dict[str, object]]:
    return ask(view.index(), view.genesis, name, given).to_json()


def test_rounds(view: FolderView, built: Built) -> None:
    for name in GROUPS:
        rows = asked(view, "rounds", chain=name)
        assert [row["height"] for row in rows] == list(range(6))
        for row in rows:
            body = built.body(name, row["height"])  # type: ignore[arg-type]
            assert row["committed"] == len(body.txs)
            assert row["accepted"] == sum(weight > 0 for weight in body.weights)
            assert row["unrevealed"] == len(body.unrevealed)
            assert row["council_height"] == body.base.council_height


def test_left_out_names_the_reason(view: FolderView) -> None:
    rows = asked(view, "left_out")
    why = {(row["height"], row["member"]): row["why"] for row in rows}
    assert why[1, COPY] == why[1, COPIED] == "duplicate"
    assert why[2, "g1-m3"] == "not revealed"
    assert why[2, LIAR] == "case open"
    assert why[5, LIAR] == "case guilty"


def test_audits_say_who_was_drawn_and_what_came_of_it(tmp_path: Path, view: FolderView) -> None:
    assert asked(view, "audits") == []
    drawn = build(audit_share_ppm=1_000_000)
    rows = {row["member"]: row for row in asked(FolderView(drawn.write(tmp_path, blobs=False)), "audits")}
    cases = [case for case in cases_of(drawn) if case.cause == "audit"]
    by_name = Counter(drawn.genesis.member(case.accused).name for case in cases)
    assert {name: row["asked"] for name, row in rows.items()} == by_name
    ends = ("still_open", "cleared", "guilty", "harmful", "no_opening")
    assert all(sum(row[end] for end in ends) == row["asked"] for row in rows.values())  # type: ignore[misc]
    assert sum(row["cleared"] for row in rows.values()) > 0  # type: ignore[misc]


def test_ballots_say_whom_a_block_served(view: FolderView) -> None:
    group, height = REJECTED
    rows = asked(view, "ballots", chain=group)
    assert [row["height"] for row in rows] == [each for each in range(HEIGHTS - 1) for _ in range(4)]
    assert {row["height"] for row in rows if row["taken_back"]} == {height}
    about = [row for row in rows if row["height"] == height]
    assert [row["approves"] for row in about] == [1, 0, 0, 0]
    assert [row["loss_after"] for row in about] == [None, 9.0, 9.0, 9.0]
    left_out = asked(view, "left_out")
    why = {row["why"] for row in left_out if (row["chain"], row["height"]) == (group, height + 1)}
    assert why == {"trained on a block that was taken back"}


def test_members_and_what_they_did(view: FolderView, built: Built) -> None:
    rows = {row["name"]: row for row in asked(view, "members")}
    assert len(rows) == 16
    assert rows[LIAR]["cases"] == 1
    assert rows[LIAR]["left_out"] == 4
    assert rows["council-m1"]["updates"] == 0
    proposed = sum(row["blocks_proposed"] for row in rows.values())  # type: ignore[misc]
    assert proposed == sum(len(chain) for chain in built.chains.values())


def test_cases_and_verdicts(view: FolderView, built: Built) -> None:
    rows = {row["accused"]: row for row in asked(view, "cases")}
    assert (rows[LIAR]["outcome"], rows[LIAR]["verdicts"], rows[LIAR]["cause"]) == (
        "guilty",
        "16",
        "group_apart",
    )
    assert (rows[COPY]["outcome"], rows[COPY]["verdicts"]) == ("cleared", None)
    (verdict,) = asked(view, "verdicts")
    assert (verdict["accused"], verdict["council_height"], verdict["signatures"]) == (LIAR, 3, 3)
    case_id = "0x" + cases_of(built)[0].case_id.hex()
    assert [row["member"] for row in asked(view, "candidates", case=case_id)] == [LIAR]
    assert len(asked(view, "measurements", case=case_id[:12])) == 3
    assert len(asked(view, "measured_by", member="council-m0")) == 3


def test_a_copy_is_seen_by_its_blob(view: FolderView, built: Built) -> None:
    (row,) = asked(view, "copies")
    assert set(str(row["members"]).split(",")) == {COPIED, COPY}
    assert len(asked(view, "uses_of", blob=str(row["blob_id"]))) == 2
    base = "0x" + built.genesis.initial_base_id.hex()
    assert {row["used_as"] for row in asked(view, "uses_of", blob=base)} == {"base"}


def test_round_changes_and_filters(view: FolderView) -> None:
    assert [(row["chain"], row["height"], row["round"]) for row in asked(view, "round_changes")] == [
        ("g1", 3, 1)
    ]
    assert {row["name"] for row in asked(view, "filters", chain=COUNCIL)} == {"actors", "accused"}
    assert len(asked(view, "slowest", count="4")) == 4
    assert len(asked(view, "compared")) == 12


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("nothing", {}),
        ("rounds", {}),
        ("rounds", {"chain": "g9"}),
        ("rounds", {"chain": "g1", "also": "x"}),
        ("updates_of", {"member": "nobody"}),
        ("uses_of", {"blob": "0x"}),
        ("uses_of", {"blob": "' or 1=1"}),
        ("uses_of", {"blob": "f" * 65}),
        ("slowest", {"count": "-1"}),
        ("slowest", {"count": "1000000"}),
        ("slowest", {"count": "²"}),
    ],
)
def test_a_bad_question_is_an_operators_error(view: FolderView, name: str, given: dict[str, str]) -> None:
    with pytest.raises(UserError):
        ask(view.index(), view.genesis, name, given)


def test_every_question_runs_on_an_empty_history(built: Built) -> None:
    from p2pfl.store.index import Index

    index = Index(built.genesis)
    given = {"chain": "g1", "member": LIAR, "case": "0x1", "blob": "0x1", "count": "1"}
    for question in QUESTIONS.values():
        wanted = {each.name: given[each.name] for each in question.parameters}
        answer = ask(index, built.genesis, question.name, wanted)
        assert answer.columns
        assert len(answer.rows) == (16 if question.name == "members" else 0)
    index.close()
