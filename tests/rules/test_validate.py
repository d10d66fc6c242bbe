"""A group's body is one function of the round: derived and checked alike, and every lie has its name."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from consensus.signing import sign, signing_digest, struct_hash
from consensus.types import ZERO_DIGEST, Digest, RoundChange, SignedRoundChange
from p2pfl import codec
from p2pfl.errors import PeerFault
from p2pfl.genesis import Genesis
from p2pfl.jsonform import to_json
from p2pfl.params import Update, apply_update, blob_id
from p2pfl.records import BaseRef, BloomFilter, GroupBody, Standing, body_root
from p2pfl.rules import filters
from p2pfl.rules.cases import block_gram
from p2pfl.rules.gram import view_of
from p2pfl.rules.pool import Pool, pack
from p2pfl.rules.repeats import counted_in, sent_in
from p2pfl.rules.triage import features
from p2pfl.rules.validate import (
    GroupInputs,
    check_group_body,
    derive_group_body,
    list_root,
)
from p2pfl.signed import Close, SignedClose, SignedParamTx

from . import vectors
from .world import EXPONENTS, LAYOUT, World, honest_updates, world

VECTORS = Path(__file__).parent.parent / "vectors" / "rules_group_body.json"


@pytest.fixture(scope="module")
def there() -> World:
    return world()


@pytest.fixture(scope="module")
def inputs(there: World) -> GroupInputs:
    return there.inputs("g0", honest_updates(there, "g0", 1))


def test_the_body_says_what_the_round_was(there: World, inputs: GroupInputs) -> None:
    derived = derive_group_body(inputs)
    body = derived.body
    assert body.weights == (100, 101, 102, 103)
    assert body.aggregate_id == blob_id(derived.aggregate.to_bytes())
    assert body.next_base_id == blob_id(derived.next_base.to_bytes())
    expected = apply_update(there.base, derived.aggregate)
    assert (derived.next_base.values == expected.values).all()
    assert block_gram(body).inner == view_of(list(inputs.updates.values())).inner
    assert [row.member for row in body.triage] == list(there.members("g0"))
    assert [each.name for each in body.filters] == list(filters.NAMES)


def test_what_is_derived_is_accepted_and_survives_its_bytes(inputs: GroupInputs) -> None:
    body = derive_group_body(inputs).body
    decoded = codec.decode(codec.encode(body), GroupBody, size_max=1 << 20)
    assert decoded == body
    assert check_group_body(decoded, inputs).body == body


def other_than(value: object) -> object:
    """A value of the same type that differs."""
    if isinstance(value, tuple):
        return value[:-1] if value else ("x",)
    if isinstance(value, bytes):
        return bytes([value[0] ^ 1]) + value[1:]
    if isinstance(value, str):
        return value + "?"
    if isinstance(value, BaseRef):
        return dataclasses.replace(value, council_height=value.council_height + 1)
    assert isinstance(value, SignedClose)
    return dataclasses.replace(value, signature=b"\1" + value.signature[1:])


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(GroupBody)])
def test_every_changed_field_is_refused_by_its_name(inputs: GroupInputs, name: str) -> None:
    body = derive_group_body(inputs).body
    changed = dataclasses.replace(body, **{name: other_than(getattr(body, name))})
    with pytest.raises(PeerFault) as fault:
        check_group_body(changed, inputs)
    assert fault.value.reason == f"wrong_{name}"


@pytest.mark.parametrize("index", range(5))
def test_one_wrong_bit_of_a_filter_is_refused(inputs: GroupInputs, index: int) -> None:
    body = derive_group_body(inputs).body
    right = body.filters[index]
    wrong = BloomFilter(
        right.name, right.hashes, right.entries, bytes([right.bits[0] ^ 128]) + right.bits[1:]
    )
    changed = dataclasses.replace(body, filters=(*body.filters[:index], wrong, *body.filters[index + 1 :]))
    with pytest.raises(PeerFault, match="wrong_filters"):
        check_group_body(changed, inputs)


def test_one_unit_in_one_gram_entry_is_refused(inputs: GroupInputs) -> None:
    body = derive_group_body(inputs).body
    first = (body.gram[0][0] + 1, *body.gram[0][1:])
    with pytest.raises(PeerFault, match="wrong_gram"):
        check_group_body(dataclasses.replace(body, gram=(first, *body.gram[1:])), inputs)


def test_the_order_in_which_updates_arrived_does_not_matter(inputs: GroupInputs) -> None:
    turned = dict(reversed(list(inputs.updates.items())))
    again = derive_group_body(dataclasses.replace(inputs, updates=turned)).body
    assert again == derive_group_body(inputs).body


def test_the_golden_vector() -> None:
    """The bytes of a small body, for good: whoever changes them changes the protocol."""
    stored = json.loads(VECTORS.read_text(encoding="utf-8"))
    assert vectors.group_body() == stored


# ---------------------------------------------------------------------------
# Weights.


def test_a_weight_is_checked_not_believed(there: World) -> None:
    updates = honest_updates(there, "g0", 1)
    members = there.members("g0")
    base = there.inputs("g0", updates, samples=dict(zip(members, (50, 5_000_000, 70, 80))))
    lied = dataclasses.replace(base.txs[0].tx, samples=9_000, data_leaves=40)
    txs = (there.signed_tx("g0", lied), *base.txs[1:])
    inputs = dataclasses.replace(base, txs=txs, close=there.signed_close("g0", 0, txs))
    assert derive_group_body(inputs).body.weights == (40, there.genesis.rules.weight_cap, 70, 80)


@pytest.mark.parametrize(
    ("outcome", "left_out"), [("open", True), ("guilty", True), ("no_opening", True), ("cleared", False)]
)
def test_a_suspect_is_left_out_until_it_is_cleared(there: World, outcome: str, left_out: bool) -> None:
    updates = honest_updates(there, "g0", 1)
    suspect = there.members("g0")[1]
    standing = Standing(suspect, Digest(b"\5" * 32), outcome)
    derived = derive_group_body(there.inputs("g0", updates, standings=(standing,)))
    assert derived.body.weights == (100, 0 if left_out else 101, 102, 103)
    assert filters.might_contain(
        derived.body.filters[4], there.salt, filters.case_key(suspect, Digest(b"\5" * 32))
    )
    role = filters.actor_key(suspect, "left_out")
    assert filters.might_contain(derived.body.filters[0], there.salt, role) is left_out
    # Still in the Gram matrix and in the triage rows: the flagged ones too are on the record.
    assert len(derived.body.triage) == 4


def test_who_is_rarer_than_honest_rounds_are_is_left_out_and_on_the_record(there: World) -> None:
    """The default aggregate is that of those whom triage leaves in; the body names the pool it judged by."""
    root = honest_updates(there, "g1", 1)[there.members("g1")[0]]
    rows: list[np.ndarray] = []
    for seed in range(2, 32):  # From members who hardly agree to members who do.
        own, others = (honest_updates(there, name, seed, signal=15 * seed) for name in ("g0", "g1"))
        shown = others[there.members("g1")[0]]
        rows.append(features(derive_group_body(there.inputs("g0", own, root_update=shown)).body.triage))
    pool = Pool.founded(pack(np.concatenate(rows)))
    updates = honest_updates(there, "g0", 1)
    calm = derive_group_body(there.inputs("g0", updates, root_update=root, pool=pool)).body
    assert calm.weights == (100, 101, 102, 103) and calm.pool_digest == pool.digest
    flipper = there.members("g0")[2]
    updates[flipper] = Update(LAYOUT, EXPONENTS, -updates[flipper].values)
    judged = derive_group_body(there.inputs("g0", updates, root_update=root, pool=pool))
    assert judged.body.weights == (100, 101, 0, 103)
    assert judged.body.triage[2].unusual and not judged.body.triage[2].alarm  # 120 rows: too few for 3e-4.
    del updates[flipper]
    without = derive_group_body(there.inputs("g0", updates, root_update=root)).aggregate
    assert np.array_equal(judged.aggregate.values, without.values)


def test_an_update_of_the_rounds_before_is_found_in_their_bodies(there: World) -> None:
    before = derive_group_body(there.inputs("g0", honest_updates(there, "g0", 1)))
    updates = honest_updates(there, "g0", 1, height=1)
    thief, victim = there.members("g0")[0], there.members("g0")[3]
    updates[thief] = honest_updates(there, "g0", 1)[victim]
    earlier = counted_in([before.body])
    body = derive_group_body(there.inputs("g0", updates, height=1, earlier=earlier)).body
    assert [row.repeated for row in body.triage] == [1, 0, 0, 0] and body.weights[0] == 0
    # What was left out then is no measure now: or a thief could make its victim look like one.
    assert thief not in [each.member for each in counted_in([body])]
    assert len(sent_in(body)) == 4


def test_duplicates_and_lengths_out_of_bounds_are_left_out(there: World) -> None:
    updates = honest_updates(there, "g0", 1)
    a, b, _, d = there.members("g0")
    updates[b] = updates[a]
    updates[d] = Update(LAYOUT, EXPONENTS, (updates[d].values // 8).astype(np.int16))
    assert derive_group_body(there.inputs("g0", updates)).body.weights == (0, 0, 102, 0)


def test_when_nobody_counts_the_base_stays(there: World) -> None:
    same = next(iter(honest_updates(there, "g0", 1).values()))
    derived = derive_group_body(there.inputs("g0", dict.fromkeys(there.members("g0"), same)))
    assert derived.body.weights == (0, 0, 0, 0)
    assert not derived.aggregate.values.any()
    assert derived.body.next_base_id == derived.body.base.base_id


def test_an_unrevealed_update_has_no_weight_and_no_row(there: World) -> None:
    updates = honest_updates(there, "g0", 1)
    hidden = there.members("g0")[2]
    derived = derive_group_body(there.inputs("g0", updates, unrevealed=[hidden]))
    assert derived.body.weights == (100, 101, 0, 103)
    assert hidden not in [row.member for row in derived.body.triage]
    assert len(derived.body.gram[0]) == 5 * 6 // 2
    actors = derived.body.filters[0]
    assert filters.might_contain(actors, there.salt, filters.actor_key(hidden, "unrevealed"))


def test_three_commitments_of_four_are_enough_and_two_are_not(there: World) -> None:
    updates = honest_updates(there, "g0", 1)
    members = there.members("g0")
    three = {member: updates[member] for member in members[1:]}
    assert derive_group_body(there.inputs("g0", three)).body.weights == (101, 102, 103)
    two = {member: updates[member] for member in members[2:]}
    with pytest.raises(PeerFault, match="bad_txs"):
        derive_group_body(there.inputs("g0", two))


def test_rows_for_the_previous_aggregate_and_the_root_update(there: World) -> None:
    updates = honest_updates(there, "g0", 1)
    one = next(iter(updates.values()))
    coarser = Update(LAYOUT, tuple(e + 2 for e in EXPONENTS), one.values)
    derived = derive_group_body(there.inputs("g0", updates, previous_aggregate=coarser, root_update=one))
    first = derived.body.triage[0]
    assert (first.previous_cos_micro, first.root_cos_micro) == (1_000_000, 1_000_000)
    assert derive_group_body(there.inputs("g0", updates)).body.triage[0].root_cos_micro == 0


# ---------------------------------------------------------------------------
# What cannot be a round.


def refused(inputs: GroupInputs, reason: str, **changes: object) -> None:
    with pytest.raises(PeerFault) as fault:
        derive_group_body(dataclasses.replace(inputs, **changes))  # type: ignore[arg-type]
    assert fault.value.reason == reason


def with_tx(there: World, inputs: GroupInputs, **changes: object) -> dict[str, object]:
    """The first commitment changed and signed again, and a Close that fits."""
    tx = dataclasses.replace(inputs.txs[0].tx, **changes)  # type: ignore[arg-type]
    digest = signing_digest(there.genesis.domain("g0"), tx)
    secret = there.secrets[inputs.txs[0].tx.member]
    txs = (SignedParamTx(tx, sign(secret, digest)), *inputs.txs[1:])
    return {"txs": txs, "close": there.signed_close("g0", 0, txs)}


@pytest.mark.parametrize(
    "changes",
    [
        {"height": 1},
        {"epoch": 1},
        {"base_id": Digest(b"\1" * 32)},
        {"byte_length": 1},
        {"samples": 0},
        {"data_leaves": 0},
        {"samples": 1 << 70},
    ],
    ids=str,
)
def test_a_commitment_to_something_else_is_refused(there: World, inputs: GroupInputs, changes: dict) -> None:
    if changes.get("samples", 0) >= 1 << 64:  # No ABI word holds it, so nobody can have signed it.
        tx = dataclasses.replace(inputs.txs[0].tx, **changes)
        refused(inputs, "bad_tx", txs=(SignedParamTx(tx, inputs.txs[0].signature), *inputs.txs[1:]))
        return
    refused(inputs, "bad_tx", **with_tx(there, inputs, **changes))


def test_a_stranger_a_borrowed_name_and_a_wrong_order_are_refused(there: World, inputs: GroupInputs) -> None:
    stranger = there.members("g1")[0]
    refused(inputs, "bad_tx", **with_tx(there, inputs, member=stranger))
    refused(inputs, "bad_tx", **with_tx(there, inputs, member=there.members("g0")[1]))
    bad = SignedParamTx(inputs.txs[0].tx, bytes(65))
    refused(inputs, "bad_tx", txs=(bad, *inputs.txs[1:]))
    turned = (inputs.txs[1], inputs.txs[0], *inputs.txs[2:])
    refused(inputs, "bad_txs", txs=turned, close=there.signed_close("g0", 0, turned))
    twice = (inputs.txs[0], inputs.txs[0], *inputs.txs[2:])
    refused(inputs, "bad_txs", txs=twice, close=there.signed_close("g0", 0, twice))


def test_a_close_of_another_round_list_or_hand_is_refused(there: World, inputs: GroupInputs) -> None:
    refused(inputs, "bad_close", close=there.signed_close("g0", 0, inputs.txs[:3]))
    refused(inputs, "bad_close", close=there.signed_close("g0", 1, inputs.txs))
    right = inputs.close
    assert right is not None
    refused(inputs, "bad_close", close=dataclasses.replace(right, tx_ids=right.tx_ids[::-1]))
    refused(inputs, "bad_close", close=dataclasses.replace(right, signature=bytes(65)))
    # Signed by a member whose turn it is not.
    digest = signing_digest(there.genesis.domain("g0"), right.close)
    other = sign(there.secrets[there.members("g0")[1]], digest)
    refused(inputs, "bad_close", close=dataclasses.replace(right, signature=other))


def idle_of(inputs: GroupInputs) -> GroupInputs:
    return dataclasses.replace(inputs, txs=(), close=None, unrevealed=(), updates={})


def test_an_idle_block_has_no_commitments_and_leaves_the_base_as_it_is(inputs: GroupInputs) -> None:
    derived = derive_group_body(idle_of(inputs))
    body = derived.body
    assert (body.txs, body.close, body.weights, body.triage, body.warnings) == ((), None, (), (), ())
    assert body.next_base_id == inputs.base.base_id
    assert not derived.aggregate.values.any()
    assert derived.aggregate.exponents == inputs.exponents
    decoded = codec.decode(codec.encode(body), GroupBody, size_max=1 << 20)
    assert check_group_body(decoded, idle_of(inputs)).body == body


def test_commitments_without_a_close_are_refused(inputs: GroupInputs) -> None:
    refused(inputs, "bad_close", close=None)
    refused(idle_of(inputs), "bad_close", unrevealed=inputs.committee.members[:1])


def close_of_round_1(there: World, inputs: GroupInputs, changes: int) -> SignedClose:
    ids = tuple(struct_hash(signed.tx) for signed in inputs.txs)
    close = Close(0, 0, 1, list_root(ids))
    domain, members = there.genesis.domain("g0"), there.members("g0")
    justification = []
    for member in members[:changes]:
        vote = RoundChange(0, 0, 1, 0, ZERO_DIGEST, ZERO_DIGEST)
        justification.append(
            SignedRoundChange(vote, sign(there.secrets[member], signing_digest(domain, vote)))
        )
    signature = sign(there.secrets[members[1]], signing_digest(domain, close))
    return SignedClose(close, ids, signature, tuple(justification))


def test_a_close_of_a_later_round_carries_the_quorum_that_asked_for_it(
    there: World, inputs: GroupInputs
) -> None:
    later = dataclasses.replace(inputs, close=close_of_round_1(there, inputs, 3))
    body = derive_group_body(later).body
    ci = filters.actor_key(there.members("g0")[1], "aggregator")
    assert filters.might_contain(body.filters[0], there.salt, ci)
    refused(inputs, "bad_close", close=close_of_round_1(there, inputs, 2))
    assert inputs.close is not None
    needless = dataclasses.replace(
        inputs.close, justification=close_of_round_1(there, inputs, 3).justification
    )
    refused(inputs, "bad_close", close=needless)


def test_unrevealed_names_are_few_committed_and_in_order(there: World, inputs: GroupInputs) -> None:
    members = there.members("g0")
    refused(inputs, "bad_unrevealed", unrevealed=members[:2])
    refused(inputs, "bad_unrevealed", unrevealed=(there.members("g1")[0],))
    refused(inputs, "bad_unrevealed", unrevealed=(members[0], members[0]))


def test_our_own_mistakes_are_not_a_peers_fault(there: World, inputs: GroupInputs) -> None:
    missing = dict(list(inputs.updates.items())[1:])
    with pytest.raises(ValueError, match="missing"):
        derive_group_body(dataclasses.replace(inputs, updates=missing))
    coarser = Update(LAYOUT, tuple(e + 1 for e in EXPONENTS), next(iter(inputs.updates.values())).values)
    with pytest.raises(ValueError, match="exponents"):
        derive_group_body(dataclasses.replace(inputs, root_update=coarser))


def test_the_genesis_of_the_vector_is_readable(there: World) -> None:
    """The vector's genesis is plain JSON, so another implementation can build the same inputs."""
    stored = json.loads(VECTORS.read_text(encoding="utf-8"))
    assert stored["genesis"] == to_json(vectors.there().genesis)
    assert isinstance(there.genesis, Genesis)
    body = codec.decode(bytes.fromhex(stored["body"][2:]), GroupBody, size_max=1 << 20)
    assert "0x" + body_root(body).hex() == stored["app_root"]
