"""A page shows who came, left or fell silent, and who sits where next."""

from __future__ import annotations

from p2pfl.audit.block_pages import council_sections
from p2pfl.audit.page import Page, html
from p2pfl.rules.council import compare, derive_council
from p2pfl.rules.epochs import Turnover
from p2pfl.rules.state import CouncilState
from tests.rules.test_epochs import EPOCHS, LATE, NOW, RULES, after, closing, join, leave
from tests.rules.test_expulsion import two_commits
from tests.rules.world import world


def text(sections) -> str:
    page = Page("A block", "", {})
    page.sections = sections
    return html(page, json_href="", navigation=(), source="")


def test_the_last_block_of_an_epoch_shows_the_next_committees() -> None:
    there = world(epochs=EPOCHS, rules=RULES)
    state: CouncilState = after(there, 2)
    gone, silent, twice = there.members("g1")[0], there.members("g0")[3], there.members("g2")[1]
    records = Turnover(
        LATE + NOW,
        joins=(join(there),),
        leaves=(leave(there, gone),),
        closings=(closing(there, "g0", there.members("g0")[:3]),),
        contradictions=(two_commits(there, twice, "g2"),),
    )
    inputs = there.council_inputs(state, ())
    body = derive_council(inputs, compare(inputs), root_update_id=state.root_update_id, turnover=records).body
    header, _ = there.decide("council", body)
    shown = text(council_sections(there.genesis, "council", header, body))
    assert "Who sits where in epoch 1" in shown
    assert "3 members are alive" in shown
    assert there.genesis.member(gone).name in shown
    assert "is expelled" in shown
    assert "two COMMIT of one round, in g2" in shown
    assert shown.count(">new<") == 2  # Joins, and has a seat.
    assert there.genesis.member(silent).name not in shown


def test_a_block_in_the_middle_of_an_epoch_shows_nothing_of_it() -> None:
    there = world(epochs=EPOCHS, rules=RULES)
    inputs = there.council_inputs(CouncilState.genesis(there.genesis), ())
    body = derive_council(inputs, compare(inputs), root_update_id=bytes(32)).body
    header, _ = there.decide("council", body)
    shown = text(council_sections(there.genesis, "council", header, body))
    assert "Who sits where" not in shown
    assert "Comings" not in shown
