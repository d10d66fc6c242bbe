"""Who signed a contradiction loses its seat when the epoch is over; nothing less takes a seat."""

from __future__ import annotations

from dataclasses import replace

import pytest

from consensus.signing import sign, signing_digest
from consensus.types import Commit, Digest, MemberId, SignedCommit
from p2pfl.contradiction import Contradiction, of_votes
from p2pfl.errors import PeerFault
from p2pfl.genesis import COUNCIL
from p2pfl.rules.council import compare, derive_council
from p2pfl.rules.epochs import Turnover, check_contradiction, check_join, check_turnover, derive_assignment
from p2pfl.rules.state import CouncilState
from p2pfl.signed import ShareRequest
from tests.rules.test_epochs import EPOCHS, NOW, after, everybody, join, leave
from tests.rules.test_verdicts import RULES
from tests.rules.world import World, world


@pytest.fixture
def there() -> World:
    return world(epochs=EPOCHS, rules=RULES)


def two_commits(there: World, member: MemberId, group: str = "g0", epoch: int = 0) -> Contradiction:
    """Of one round, for two blocks."""
    votes = [Commit(epoch, 0, 0, Digest(bytes([block]) * 32)) for block in (1, 2)]
    domain = there.genesis.domain(group)
    signed = [SignedCommit(v, sign(there.secrets[member], signing_digest(domain, v))) for v in votes]
    return of_votes(domain.group_id, *signed)


def test_who_signed_a_contradiction_loses_its_seat_at_the_end_of_the_epoch_for_good(there: World) -> None:
    culprit = there.members("g0")[1]
    turnover = Turnover(NOW, contradictions=(two_commits(there, culprit),))
    check_turnover(after(there, 2), turnover, frozenset())
    told = after(there, 2, turnover=turnover)
    assert told.expelled == {culprit}
    assert told.roster.epoch == 0  # It votes until the epoch is over: a committee never changes within one.
    assigned = derive_assignment(told, 2, Turnover(NOW), ())
    assert assigned is not None
    before = {member for name in ("g0", "g1", "g2", COUNCIL) for member in there.members(name)}
    assert everybody(assigned) == before - {culprit}
    # In the very block that ends the epoch, too.
    assert derive_assignment(after(there, 2), 2, turnover, ()) == assigned
    over = after_more(there, told)
    assert over.roster.epoch == 1
    assert over.roster.group_of(culprit, 1) is None
    assert culprit in over.departed & over.expelled
    back = join(there, key=there.secrets[culprit], name="again")
    with pytest.raises(PeerFault, match="expelled"):
        check_join(over, back)


def after_more(there: World, state: CouncilState) -> CouncilState:
    """One empty block more."""
    inputs = there.council_inputs(state, ())
    body = derive_council(
        inputs, compare(inputs), root_update_id=Digest(bytes(32)), turnover=Turnover(NOW)
    ).body
    header, _ = there.decide(COUNCIL, body)
    return state.apply(replace(header, time_ms=NOW), body)


def test_a_contradiction_of_a_seat_is_one_of_the_council(there: World) -> None:
    seat = there.members(COUNCIL)[0]
    assert check_contradiction(after(there, 1), two_commits(there, seat, COUNCIL)) == seat
    with pytest.raises(PeerFault, match="signed by no member"):
        check_contradiction(after(there, 1), two_commits(there, seat, "g0"))


def test_two_commitments_of_one_height_expel(there: World) -> None:
    member = there.members("g0")[2]
    requests = [ShareRequest(0, 2, 0, Digest(bytes([base]) * 32), Digest(bytes(32))) for base in (1, 2)]
    domain = there.genesis.domain("g0")
    signatures = [sign(there.secrets[member], signing_digest(domain, each)) for each in requests]
    both = Contradiction(domain.group_id, requests[0], signatures[0], requests[1], signatures[1])
    assert check_contradiction(after(there, 1), both) == member
    with pytest.raises(PeerFault, match="proves nothing"):
        check_contradiction(
            after(there, 1), replace(both, second=requests[0], second_signature=signatures[0])
        )


def test_what_proves_nothing_expels_nobody(there: World) -> None:
    state, culprit = after(there, 1), there.members("g0")[1]
    both = two_commits(there, culprit)
    other = two_commits(there, there.members("g0")[2])
    wrong = {
        "another's signature": replace(both, second_signature=other.second_signature),
        "no signature": replace(both, first_signature=bytes(65)),
        "the same twice": replace(both, second=both.first, second_signature=both.first_signature),
        "of another group": replace(both, group_id=there.genesis.group_id("g1")),
        "of no group": replace(both, group_id=Digest(bytes(32))),
        "a vote and a request": replace(
            both, second=ShareRequest(0, 0, 0, Digest(bytes(32)), Digest(bytes(32)))
        ),
    }
    for what, false in wrong.items():
        with pytest.raises(PeerFault, match="proves nothing"):
            print(what, check_contradiction(state, false))
    with pytest.raises(PeerFault, match="epoch 7"):
        check_contradiction(state, two_commits(there, culprit, epoch=7))
    with pytest.raises(PeerFault, match="ascending"):
        check_turnover(state, Turnover(NOW, contradictions=(both, both)), frozenset())
    told = after(there, 1, turnover=Turnover(NOW, contradictions=(both,)))
    with pytest.raises(PeerFault, match="expelled already"):
        check_contradiction(told, both)


def test_who_left_and_comes_back_in_the_very_block_that_expels_it_gets_no_seat(there: World) -> None:
    gone = there.members("g0")[1]
    leaver = Turnover(NOW, leaves=(leave(there, gone),))
    state = after(there, 3, turnover=leaver)
    assert gone in state.departed
    for _ in range(2):
        state = after_more(there, state)
    back = join(there, key=there.secrets[gone], name="again")
    turnover = Turnover(NOW, joins=(back,), contradictions=(two_commits(there, gone),))
    check_turnover(state, turnover, frozenset())
    assigned = derive_assignment(state, state.height + 1, turnover, ())
    assert assigned is not None
    assert gone not in everybody(assigned)


def test_a_hostile_councils_block_with_a_proof_of_nothing_is_refused_and_crashes_nobody(there: World) -> None:
    both = replace(two_commits(there, there.members("g0")[1]), first_signature=bytes(65))
    with pytest.raises(ValueError, match="proves nothing"):
        after(there, 1).signer_of(both)
    with pytest.raises(KeyError):
        after(there, 1).signer_of(replace(both, group_id=Digest(bytes(32))))
