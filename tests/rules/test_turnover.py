"""Joins and leaves: who may come and go, and whose word counts for it."""

from __future__ import annotations

import contextlib
from dataclasses import replace

import pytest
from coincurve import PrivateKey

from consensus.signing import address, sign, signing_digest
from consensus.types import Digest, MemberId
from p2pfl.errors import PeerFault
from p2pfl.genesis import COUNCIL
from p2pfl.membership import Join, SignedJoin, entry_hash
from p2pfl.net.identity import peer_id_of
from p2pfl.records import BaseRef, Standing, WarningRow
from p2pfl.rules.cases import shares_of
from p2pfl.rules.counting import uncountable
from p2pfl.rules.epochs import (
    Turnover,
    check_join,
    check_leave,
    check_turnover,
    is_address,
    is_peer_id,
    stalled,
)
from p2pfl.rules.state import CouncilState
from p2pfl.rules.table import AGGREGATORS
from tests.rules.test_epochs import EPOCHS, LATE, NEW, NOW, after, join, leave
from tests.rules.test_verdicts import RULES, accuse
from tests.rules.world import World, derive_all, honest_updates, world


@pytest.fixture
def there() -> World:
    return world(epochs=EPOCHS, rules=RULES)


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (lambda s: replace(s, signature=bytes(65)), "not signed by the newcomer"),
        (lambda s: replace(s, entry=replace(s.entry, address="/ip4/9.9.9.9/tcp/1")), "another entry"),
        (lambda s: replace(s, location="mars"), "another entry"),
        (lambda s: replace(s, join=replace(s.join, council=2)), "not signed"),
    ],
)
def test_a_request_to_join_is_refused(there: World, wrong, why: str) -> None:
    state = CouncilState.genesis(there.genesis)
    check_join(state, join(there))
    with pytest.raises(PeerFault, match=why):
        check_join(state, wrong(join(there)))


def test_neither_members_nor_their_names_join_again(there: World) -> None:
    state = CouncilState.genesis(there.genesis)
    member = there.members("g0")[0]
    with pytest.raises(PeerFault, match="already a member"):
        check_join(state, join(there, key=there.secrets[member]))
    with pytest.raises(PeerFault, match="that another has"):
        check_join(state, join(there, name="g0m1"))
    with pytest.raises(PeerFault, match="too long"):
        check_join(state, join(there, name="n" * 300))


def test_the_guilty_never_join_again(there: World) -> None:
    accused = there.members("g1")[2]
    state, case = accuse(there, accused)
    entry = state.cases[case.case_id]
    guilty = replace(
        state,
        cases={case.case_id: replace(entry, outcome="guilty", outcome_height=1)},
        departed=frozenset({accused}),
    )
    with pytest.raises(PeerFault, match="guilty"):
        check_join(guilty, join(there, key=there.secrets[accused]))


@pytest.mark.parametrize(
    ("address_", "good"),
    [
        ("/ip4/10.0.0.5/tcp/9000", True),
        ("/ip6/::1/tcp/1", True),
        ("/dns4/peer.example.org/tcp/443", True),
        ("/ip4/10.0.0.5/tcp/9000/ws", True),
        ("/ip4/10.0.0.5/udp/9000/ws", False),
        ("/ip4/10.0.0.500/tcp/9000", False),
        ("/ip6/10.0.0.5/tcp/9000", False),
        ("/ip4/10.0.0.5/udp/9000", False),
        ("/ip4/10.0.0.5/tcp/", False),
        ("/ip4/10.0.0.5/tcp/65536", False),
        ("/ip4/10.0.0.5/tcp/9000/p2p/x", False),
        ("/dns4/-bad-/tcp/443", False),
        ("zzz", False),
    ],
)
def test_a_newcomer_can_be_called(there: World, address_: str, good: bool) -> None:
    assert is_address(address_) is good
    signed = join(there)
    entry = replace(signed.entry, address=address_)
    asked = Join(entry.member_id, entry_hash(entry, ""), 0)
    signed = SignedJoin(asked, entry, "", sign(NEW, signing_digest(there.genesis.domain(COUNCIL), asked)))
    if good:
        check_join(CouncilState.genesis(there.genesis), signed)
    else:
        with pytest.raises(PeerFault, match="nobody can call"):
            check_join(CouncilState.genesis(there.genesis), signed)


def test_a_peer_id_is_that_of_an_ed25519_key() -> None:
    good = peer_id_of(b"\x01" * 32)
    assert is_peer_id(good)
    assert not any(map(is_peer_id, ("", "zzz 0", good[:-1], good + "1", "z" * 52, "Qm" + good[2:])))


def test_two_newcomers_of_one_name_do_not_come_together(there: World) -> None:
    both = (join(there), join(there, key=PrivateKey(b"\x0a" * 32)))
    records = Turnover(NOW, joins=tuple(sorted(both, key=lambda each: each.entry.member_id)))
    with pytest.raises(PeerFault, match="one name or peer id"):
        check_turnover(CouncilState.genesis(there.genesis), records, frozenset())


def test_the_latest_request_says_whether_it_is_for_the_council(there: World) -> None:
    state = after(there, 1, turnover=Turnover(NOW, joins=(join(there, council=1),)))
    new = address(NEW.public_key)
    assert state.wants_seats(()) == {new}
    gone = replace(state, departed=frozenset({new}))
    assert gone.wants_seats((join(there),)) == frozenset()


def test_who_is_held_up_by_another_groups_end_is_not_late(there: World) -> None:
    state = after(there, 3)
    ids = {name: there.genesis.group_id(name) for name in ("g0", "g1", "g2")}
    shared = {
        name
        for name in ("g1", "g2")
        if set(there.members(name)) & set(state.roster.committee("g0", 1).members)
    }
    assert shared  # The shuffle brought somebody of another group into g0.
    ended = replace(state, open_epochs={**state.open_epochs, ids["g0"]: 1})
    assert ended.waited_for(ids["g0"]) == {ids[name] for name in shared}
    assert ids["g0"] not in stalled(ended, LATE)
    free = replace(state, open_epochs=dict.fromkeys(ids.values(), 1))
    assert free.waited_for(ids["g0"]) == frozenset()
    assert ids["g0"] in stalled(free, LATE)


@pytest.mark.parametrize(
    ("header", "body", "why"),
    [
        ({"epoch": 1}, {}, "epoch"),
        ({"next_committee_root": Digest(bytes(32))}, {}, "committee"),
        ({}, {"exponents": (1,)}, "exponents"),
        ({}, {"weights": (1,)}, "weights"),
        ({}, {"weights": (-1, 0, 0, 0)}, "weights"),
        ({}, {"weights": (1 << 62, 0, 0, 0)}, "weights"),
        ({}, {"exponents": (11, 11)}, "exponents"),
        ({}, {"triage": ()}, "triage"),
        ({}, {"rule": "median"}, "rule"),
        ({}, {"gram": ()}, "shape"),
        ({}, {"filters": ()}, "filters"),
        ({}, {"warnings": (WarningRow(MemberId(bytes(20)), 0, 0, "loud"),)}, "warns"),
        ({}, {"standings": (Standing(MemberId(bytes(20)), Digest(bytes(32)), "open"),)}, "strangers"),
        ({}, {"unrevealed": (MemberId(bytes(20)),)}, "commitments"),
        ({}, {"close": None}, "commitments"),
        ({}, {"txs": ()}, "commitments"),
        ({}, {"base": BaseRef(Digest(bytes(32)), -1, Digest(bytes(32)), ())}, "commitments"),
    ],
)
def test_what_a_quorum_of_liars_decided_is_not_counted(there: World, header, body, why: str) -> None:
    state = CouncilState.genesis(there.genesis)
    (_, derived), *_ = derive_all(there, 0, {"g0": honest_updates(there, "g0", 1)})
    good, _ = there.decide("g0", derived.body)
    assert uncountable(state, good, derived.body, 0) is None
    told = uncountable(state, replace(good, **header), replace(derived.body, **body), 0)
    assert told is not None
    assert why in told


@pytest.mark.parametrize("rule", sorted(AGGREGATORS))
def test_inner_products_that_no_updates_have_are_not_counted(there: World, rule: str) -> None:
    """By them members are taken out of an aggregate: the root of a negative number would halt the council."""
    state = CouncilState.genesis(there.genesis)
    (_, derived), *_ = derive_all(there, 0, {"g0": honest_updates(there, "g0", 1)})
    good, _ = there.decide("g0", derived.body)
    for entry in (-1, -(1 << 40), 0, 1):
        lie = tuple((entry, *(1 << 50 for _ in each[1:])) for each in derived.body.gram)
        lying = replace(derived.body, gram=lie)
        if entry < 0:
            assert uncountable(state, good, lying, 0) == "its Gram matrix is none"
        with contextlib.suppress(ValueError, ArithmeticError):  # What `uncountable` takes for a lie.
            shares_of(replace(lying, rule=rule), 1)


def test_a_notice_counts_in_its_epoch_and_by_its_signer_only(there: World) -> None:
    state = CouncilState.genesis(there.genesis)
    member, other = there.members("g0")[:2]
    check_leave(state, leave(there, member))
    with pytest.raises(PeerFault, match="of epoch 1"):
        check_leave(state, leave(there, member, epoch=1))
    with pytest.raises(PeerFault, match="somebody else"):
        check_leave(state, replace(leave(there, member), signature=leave(there, other).signature))


def test_records_stand_in_order_and_once(there: World) -> None:
    state = CouncilState.genesis(there.genesis)
    two = sorted(there.members("g0")[:2])
    notices = [leave(there, member) for member in two]
    check_turnover(state, Turnover(NOW, leaves=tuple(notices)), frozenset())
    for wrong in ((notices[1], notices[0]), (notices[0], notices[0])):
        with pytest.raises(PeerFault, match="bad_leave"):
            check_turnover(state, Turnover(NOW, leaves=wrong), frozenset())
    with pytest.raises(PeerFault, match="bad_join"):
        check_turnover(state, Turnover(NOW, joins=(join(there), join(there))), frozenset())
