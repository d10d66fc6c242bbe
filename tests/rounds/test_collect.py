"""What a member hears of a height: each message for itself, and contradictions handed out as pairs."""

from __future__ import annotations

import dataclasses

import pytest
from coincurve import PrivateKey

from consensus.committee import Committee
from consensus.signing import Domain, address, sign, signing_digest, struct_hash
from consensus.types import Digest, MemberId, RoundChange, SignedRoundChange
from p2pfl.errors import PeerFault
from p2pfl.rounds.collect import ROUNDS_MAX, Collected, DoubleSigned, context_of
from p2pfl.rules.validate import list_root
from p2pfl.signed import Close, ParamTx, ShareRequest, SignedClose, SignedParamTx, SignedShareRequest

KEYS = [PrivateKey(bytes([i + 1]) * 32) for i in range(4)]
MEMBERS = tuple(address(key.public_key) for key in KEYS)
DOMAIN = Domain(0, MemberId(bytes(20)), Digest(b"g" * 32))
BASE = Digest(b"b" * 32)
HEIGHT = 5  # Ci of round 0 is member 1.


@pytest.fixture
def heard() -> Collected:
    return Collected(DOMAIN, Committee(0, MEMBERS), 0, HEIGHT)


def signed(who: int, struct):
    return sign(KEYS[who], signing_digest(DOMAIN, struct))


def tx_of(who: int, *, base: Digest = BASE, samples: int = 10, height: int = HEIGHT) -> SignedParamTx:
    tx = ParamTx(
        0, height, MEMBERS[who], base, Digest(bytes([who]) * 32), 2048, samples, 0, BASE, samples, BASE, 1, 1
    )
    return SignedParamTx(tx, signed(who, tx))


def request_of(who: int, round_: int = 0, *, base: Digest = BASE, justification=()) -> SignedShareRequest:
    request = ShareRequest(0, HEIGHT, round_, base, Digest(b"c" * 32))
    return SignedShareRequest(request, signed(who, request), justification)


def close_of(who: int, txs, round_: int = 0, justification=()) -> SignedClose:
    ids = tuple(struct_hash(each.tx) for each in txs)
    close = Close(0, HEIGHT, round_, list_root(ids))
    return SignedClose(close, ids, signed(who, close), justification)


def changes(*who: int, round_: int = 1) -> tuple[SignedRoundChange, ...]:
    vote = RoundChange(0, HEIGHT, round_, 0, Digest(bytes(32)), Digest(bytes(32)))
    return tuple(SignedRoundChange(vote, signed(each, vote)) for each in who)


def test_only_the_ci_of_the_round_may_open_it(heard: Collected) -> None:
    with pytest.raises(PeerFault, match="not_your_turn"):
        heard.add_request(request_of(2))
    assert heard.add_request(request_of(1)) is True
    assert heard.add_request(request_of(1)) is False  # Repeated: nothing new.


def test_a_request_of_a_later_round_brings_a_quorum_of_round_changes(heard: Collected) -> None:
    with pytest.raises(PeerFault, match="unjustified"):
        heard.add_request(request_of(2, 1))
    with pytest.raises(PeerFault, match="unjustified"):
        heard.add_request(request_of(2, 1, justification=changes(0, 1)))
    with pytest.raises(PeerFault, match="unjustified"):  # Signatures of one signer count once.
        heard.add_request(request_of(2, 1, justification=changes(0, 0, 1)))
    with pytest.raises(PeerFault, match="unjustified"):  # Of another round.
        heard.add_request(request_of(2, 1, justification=changes(0, 1, 3, round_=2)))
    assert heard.add_request(request_of(2, 1, justification=changes(0, 1, 3))) is True
    heard.add_request(request_of(1))
    assert heard.request is not None
    assert heard.request.request.round == 0  # The earliest counts.


def test_a_height_that_took_very_many_rounds_can_still_be_opened(heard: Collected) -> None:
    """After a long outage: the earliest request and the newest are kept, and so few in all."""
    for round_ in range(3 * ROUNDS_MAX):
        who = (HEIGHT + round_) % 4
        asked = changes(0, 1, 2, round_=round_) if round_ else ()
        assert heard.add_request(request_of(who, round_, justification=asked)) is True
    assert len(heard.requests) == ROUNDS_MAX
    assert {0, 3 * ROUNDS_MAX - 1} <= set(heard.requests)


def test_two_requests_of_one_round_are_an_offence(heard: Collected) -> None:
    heard.add_request(request_of(1))
    double = heard.add_request(request_of(1, base=Digest(b"x" * 32)))
    assert isinstance(double, DoubleSigned)
    assert (double.signer, double.kind) == (MEMBERS[1], "ShareRequest")
    assert heard.request == request_of(1)  # The first stays.


def test_two_commitments_of_one_height_are_an_offence(heard: Collected) -> None:
    assert heard.add_tx(tx_of(3)) is True
    double = heard.add_tx(tx_of(3, samples=11))
    assert isinstance(double, DoubleSigned)
    assert double.signer == MEMBERS[3]
    assert heard.txs[MEMBERS[3]] == tx_of(3)


def test_a_commitment_is_signed_by_its_member_and_of_this_height(heard: Collected) -> None:
    forged = dataclasses.replace(tx_of(3), signature=tx_of(2).signature)
    with pytest.raises(PeerFault, match="bad_signature"):
        heard.add_tx(forged)
    with pytest.raises(PeerFault, match="wrong_height"):
        heard.add_tx(tx_of(3, height=HEIGHT + 1))
    with pytest.raises(PeerFault, match="trained on nothing"):
        heard.add_tx(tx_of(3, samples=0))
    assert not heard.txs


def test_a_close_cannot_bring_junk_in_the_place_of_what_was_verified(heard: Collected) -> None:
    """It would be earliest for ever, and no block could follow on it."""
    three = tuple(tx_of(i) for i in (0, 1, 2))
    for each in three:
        heard.add_tx(each)
    junk = tuple(dataclasses.replace(each, signature=bytes(65)) for each in three)
    assert heard.add_close(close_of(1, three), junk) is True
    assert heard.closed_txs(close_of(1, three)) == three
    fresh = Collected(DOMAIN, Committee(0, MEMBERS), 0, HEIGHT)
    with pytest.raises(PeerFault, match="did not sign"):
        fresh.add_close(close_of(1, three), junk)
    assert fresh.close is None


def test_round_0_needs_no_justification_and_takes_none(heard: Collected) -> None:
    three = tuple(tx_of(i) for i in (0, 1, 2))
    with pytest.raises(PeerFault, match="unjustified"):
        heard.add_close(close_of(1, three, justification=changes(0)), three)
    with pytest.raises(PeerFault, match="unjustified"):
        heard.add_request(request_of(1, justification=changes(0)))
    with pytest.raises(PeerFault, match="unjustified"):  # Nor a later one more than its members can ask.
        heard.add_request(request_of(2, 1, justification=changes(*[0, 1, 2, 3] * 2)))
    assert (heard.close, heard.request) == (None, None)


def test_a_close_that_is_refused_leaves_nothing_behind(heard: Collected) -> None:
    three = tuple(tx_of(i) for i in (0, 1, 2))
    heard.add_tx(three[0])
    other = (tx_of(0, samples=11), *three[1:])
    with pytest.raises(PeerFault, match="more commitments than members"):
        heard.add_close(close_of(1, three), (*three, *other))
    with pytest.raises(PeerFault, match="does not bring"):
        heard.add_close(close_of(1, (tx_of(0, samples=12), *three[1:])), other)
    assert heard.take_doubles() == []


def test_who_committed_twice_stands_in_each_close_as_its_ci_heard_it(heard: Collected) -> None:
    three = tuple(tx_of(i) for i in (0, 1, 2))
    other = (tx_of(0, samples=11), *three[1:])
    heard.add_tx(three[0])
    close = close_of(1, other)
    assert heard.add_close(close, other) is True
    assert heard.closed_txs(close) == other
    (double,) = heard.take_doubles()
    assert (double.signer, double.kind) == (MEMBERS[0], "ParamTx")
    assert heard.take_doubles() == []


def test_a_height_is_split_when_no_base_can_have_a_quorum_any_more(heard: Collected) -> None:
    other = Digest(b"y" * 32)
    for who, base, split in ((0, BASE, False), (1, other, False), (2, BASE, False), (3, other, True)):
        assert not heard.split
        heard.add_tx(tx_of(who, base=base))
        assert heard.split == split
    assert [signed.tx.member for signed in heard.agreed()] == [MEMBERS[0], MEMBERS[2]]


def test_one_commitment_to_another_base_splits_nothing(heard: Collected) -> None:
    assert heard.agreed() == ()
    for who in (3, 1, 0):
        heard.add_tx(tx_of(who))
    heard.add_tx(tx_of(2, base=Digest(b"y" * 32)))
    assert not heard.split
    assert [signed.tx.member for signed in heard.agreed()] == [MEMBERS[0], MEMBERS[1], MEMBERS[3]]


def test_a_close_lists_a_quorum_on_one_base_in_committee_order(heard: Collected) -> None:
    three = tuple(tx_of(i) for i in (0, 1, 2))
    bad = {
        "2 commitments": three[:2],
        "not in committee order": (three[1], three[0], three[2]),
        "different bases": (three[0], three[1], tx_of(2, base=Digest(b"y" * 32))),
    }
    for text, txs in bad.items():
        fresh = Collected(DOMAIN, Committee(0, MEMBERS), 0, HEIGHT)
        with pytest.raises(PeerFault, match=text):
            fresh.add_close(close_of(1, txs), txs)
        assert fresh.close is None
    with pytest.raises(PeerFault, match="does not bring"):
        heard.add_close(close_of(1, three), three[:2])
    with pytest.raises(PeerFault, match="not_your_turn"):
        heard.add_close(close_of(0, three), three)
    wrong_root = dataclasses.replace(close_of(1, three), tx_ids=close_of(1, three[:2]).tx_ids)
    with pytest.raises(PeerFault, match="not those under its root"):
        heard.add_close(wrong_root, three)
    assert heard.add_close(close_of(1, three), three) is True
    assert heard.close == close_of(1, three)
    assert heard.closed_txs(close_of(1, three)) == three


def test_the_earliest_close_counts_and_a_second_of_one_round_is_an_offence(heard: Collected) -> None:
    four, three = tuple(tx_of(i) for i in range(4)), tuple(tx_of(i) for i in (0, 1, 2))
    heard.add_close(close_of(2, four, 1, changes(0, 1, 2)), four)
    heard.add_close(close_of(1, three), three)
    assert heard.close == close_of(1, three)
    double = heard.add_close(close_of(1, four), four)
    assert isinstance(double, DoubleSigned)
    assert (double.signer, double.kind) == (MEMBERS[1], "Close")


def test_what_a_round_change_carries_names_request_and_close(heard: Collected) -> None:
    three = tuple(tx_of(i) for i in (0, 1, 2))
    request, close = request_of(1).request, close_of(1, three)
    seen = {context_of(None, None), context_of(request, None), context_of(request, close)}
    assert len(seen) == 3
    assert context_of(None, None) == bytes(32)
