"""Two signed structs of one member that contradict each other: proven on chain, and nothing else is."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256
from random import Random
from typing import Any

import pytest
from coincurve import PrivateKey

from consensus.evidence import contradiction
from consensus.signing import address, sign, signing_digest, words
from consensus.types import Commit, Digest, Prepare, Propose, RoundChange
from p2pfl.evm import Reverted, State, offence_key, pair_kind
from p2pfl.signed import Close, ParamTx, ShareRequest
from tests.contracts.world import (
    COUNCIL,
    GROUP,
    OWNER,
    STAKE_WEI,
    STRANGER,
    TERMS,
    TREASURY,
    VETO,
    World,
    a_verdict,
    high_s,
    id_of,
    ids,
)


def d(name: str) -> Digest:
    return Digest(sha256(name.encode()).digest())


ZERO = Digest(bytes(32))
TX = ParamTx(0, 7, bytes(20), d("base"), d("blob"), 99, 10, 0, d("data"), 10, d("trace"), 2_000_000, -5)  # type: ignore[arg-type]
CHANGE = RoundChange(0, 7, 3, 2, d("block"), d("context"))
REQUEST = ShareRequest(0, 7, 1, d("base"), d("council block"))

GUILTY: dict[str, tuple[Any, Any, int]] = {
    "E1": (Propose(0, 7, 1, d("a")), Propose(0, 7, 1, d("b")), 1),
    "E2": (Prepare(0, 7, 1, d("a")), Prepare(0, 7, 1, d("b")), 2),
    "E3": (Commit(0, 7, 1, d("a")), Commit(0, 7, 1, d("b")), 3),
    "E4: another block": (CHANGE, replace(CHANGE, prepared_block_id=d("other")), 4),
    "E4: another round": (CHANGE, replace(CHANGE, prepared_round_plus_1=3), 4),
    "E4: nothing prepared": (CHANGE, replace(CHANGE, prepared_round_plus_1=0, prepared_block_id=ZERO), 4),
    "E5: claims nothing": (Commit(0, 7, 2, d("a")), RoundChange(0, 7, 3, 0, ZERO, ZERO), 5),
    "E5: claims a round below": (Commit(0, 7, 2, d("a")), RoundChange(0, 7, 9, 2, d("a"), ZERO), 5),
    "E5: claims another block": (Commit(0, 7, 2, d("a")), RoundChange(0, 7, 3, 3, d("b"), ZERO), 5),
    "E6: two updates": (TX, replace(TX, blob_id=d("another blob")), 6),
    "E6: two losses": (TX, replace(TX, loss_after_micro=-6), 6),
    "E6: two names": (TX, replace(TX, member=b"\1" * 20), 6),
    "E6: two requests, base": (REQUEST, replace(REQUEST, base_id=d("other")), 6),
    "E6: two requests, council": (REQUEST, replace(REQUEST, council_block_id=d("other")), 6),
    "E6: two closes": (Close(0, 7, 1, d("list")), Close(0, 7, 1, d("other list")), 6),
}

INNOCENT: dict[str, tuple[Any, Any, str]] = {
    "the same proposal twice": (Propose(0, 7, 1, d("a")), Propose(0, 7, 1, d("a")), "NoConflict"),
    "the same vote twice": (Prepare(0, 7, 1, d("a")), Prepare(0, 7, 1, d("a")), "NoConflict"),
    "the same update twice": (TX, TX, "NoConflict"),
    "the same request twice": (REQUEST, REQUEST, "NoConflict"),
    "the same close twice": (Close(0, 7, 1, d("list")), Close(0, 7, 1, d("list")), "NoConflict"),
    "another context only": (CHANGE, replace(CHANGE, context=d("other")), "NoConflict"),
    "proposals of two rounds": (Propose(0, 7, 1, d("a")), Propose(0, 7, 2, d("b")), "OtherSlot"),
    "votes of two rounds": (Prepare(0, 7, 1, d("a")), Prepare(0, 7, 2, d("b")), "OtherSlot"),
    "commits of two rounds": (Commit(0, 7, 1, d("a")), Commit(0, 7, 2, d("b")), "OtherSlot"),
    "commits of two heights": (Commit(0, 7, 1, d("a")), Commit(0, 8, 1, d("b")), "OtherSlot"),
    "commits of two epochs": (Commit(0, 7, 1, d("a")), Commit(1, 7, 1, d("b")), "OtherSlot"),
    "changes to two rounds": (CHANGE, replace(CHANGE, round=4, prepared_round_plus_1=0), "OtherSlot"),
    "requests of two rounds": (REQUEST, replace(REQUEST, round=2, base_id=d("other")), "OtherSlot"),
    "closes of two rounds": (Close(0, 7, 1, d("list")), Close(0, 7, 2, d("other")), "OtherSlot"),
    "updates of two heights": (TX, replace(TX, height=8, blob_id=d("other")), "OtherSlot"),
    "updates of two epochs": (TX, replace(TX, epoch=1, blob_id=d("other")), "OtherSlot"),
    "a change before the commit": (
        Commit(0, 7, 2, d("a")),
        RoundChange(0, 7, 2, 0, ZERO, ZERO),
        "NoConflict",
    ),
    "a change that owns up": (Commit(0, 7, 2, d("a")), RoundChange(0, 7, 3, 3, d("a"), ZERO), "NoConflict"),
    "a change that prepared later": (
        Commit(0, 7, 2, d("a")),
        RoundChange(0, 7, 9, 5, d("b"), ZERO),
        "NoConflict",
    ),
    "a change of another height": (Commit(0, 7, 2, d("a")), RoundChange(0, 8, 3, 0, ZERO, ZERO), "OtherSlot"),
    "a change of another epoch": (Commit(0, 7, 2, d("a")), RoundChange(1, 7, 3, 0, ZERO, ZERO), "OtherSlot"),
}


def evidence(world: World, first: Any, second: Any, key: PrivateKey, group: Digest = GROUP) -> Any:
    return world.manager.functions.submitEquivocation(
        group, pair_kind(first, second),
        words(first), world.sign(key, group, first), words(second), world.sign(key, group, second),
    )  # fmt: skip


@pytest.mark.parametrize("name", GUILTY)
def test_a_contradiction_costs_the_whole_stake_for_ever(world: World, name: str) -> None:
    first, second, offence = GUILTY[name]
    culprit = world.members[1]
    mined = world.send(evidence(world, first, second, culprit), by=STRANGER)
    reward = STAKE_WEI // 10
    told = world.events(mined, world.manager.events.EquivocationProven)[0]
    key = offence_key(GROUP, 0, 7, address(culprit.public_key), offence)
    assert (told["key"], told["accused"], told["offence"]) == (key, id_of(culprit), offence)
    assert (told["amount"], told["reporter"]) == (STAKE_WEI, world.accounts[STRANGER].address)
    slashed = world.events(mined, world.registry.events.Slashed)[0]
    assert (slashed["amount"], slashed["reward"], slashed["key"]) == (STAKE_WEI, reward, key)
    assert world.events(mined, world.registry.events.Tombstoned) == [{"member": id_of(culprit), "key": key}]
    assert world.events(mined, world.registry.events.Credited) == [
        {"account": world.accounts[STRANGER].address, "amount": reward},
        {"account": world.accounts[TREASURY].address, "amount": STAKE_WEI - reward},
    ]
    assert world.staking.judgement(key).state is State.EXECUTED
    assert world.stake(culprit) == 0
    assert world.staking.tombstoned(address(culprit.public_key))
    assert world.staking.credit_of(world.account(STRANGER)) == reward
    assert world.staking.credit_of(world.account(TREASURY)) == STAKE_WEI - reward
    assert [world.stake(key) for key in world.members if key is not culprit] == [STAKE_WEI] * 3


@pytest.mark.parametrize("name", INNOCENT)
def test_what_an_honest_member_may_sign_is_no_evidence(world: World, name: str) -> None:
    first, second, error = INNOCENT[name]
    world.staking.register_committee(GROUP, 1, ids(world.members))
    world.refuses(evidence(world, first, second, world.members[1]), error, by=STRANGER)


@pytest.mark.parametrize("name", [name for name in INNOCENT if pair_kind(*INNOCENT[name][:2]) <= 5])
def test_python_finds_the_same_pairs_innocent(name: str) -> None:
    assert contradiction(*INNOCENT[name][:2]) is None


@pytest.mark.parametrize("name", [name for name in GUILTY if GUILTY[name][2] <= 5])
def test_python_finds_the_same_pairs_guilty(name: str) -> None:
    assert contradiction(*GUILTY[name][:2]) == GUILTY[name][2]


def test_contract_and_consensus_agree_on_random_pairs(world: World) -> None:
    chance = Random(5)
    blocks = [d("a"), d("b")]
    agreed = {True: 0, False: 0}
    for _ in range(120):
        kinds = chance.choice(
            [(Propose,) * 2, (Prepare,) * 2, (Commit,) * 2, (RoundChange,) * 2, (Commit, RoundChange)]
        )
        pair: list[Any] = []
        for kind in kinds:
            slot = (0, chance.choice([7, 7, 7, 8]), chance.randint(0, 1))
            if kind is RoundChange:
                claim = (chance.randint(0, 2), chance.choice(blocks))
                pair.append(RoundChange(*slot, *claim, chance.choice(blocks)))
            else:
                pair.append(kind(*slot, chance.choice(blocks)))
        call = world.manager.functions.equivocationDigests(GROUP, pair_kind(*pair), *map(words, pair))
        try:
            world.client.ask(call.call)
            refusal = ""
        except Reverted as error:
            refusal = error.name
        assert refusal in {"", "NoConflict", "OtherSlot"}
        guilty = not refusal
        assert guilty == (contradiction(*pair) is not None), pair
        agreed[guilty] += 1
    assert min(agreed.values()) >= 20, agreed


# ---------------------------------------------------------------------------
# Who signed.


def test_two_members_do_not_contradict_each_other(world: World) -> None:
    first, second, _ = GUILTY["E3"]
    call = world.manager.functions.submitEquivocation(
        GROUP, 3,
        words(first), world.sign(world.members[0], GROUP, first),
        words(second), world.sign(world.members[1], GROUP, second),
    )  # fmt: skip
    names = {"first": id_of(world.members[0]).lower(), "second": id_of(world.members[1]).lower()}
    world.refuses(call, "SignersDiffer", **names)


def test_strangers_and_members_of_other_groups_lose_nothing(world: World) -> None:
    first, second, _ = GUILTY["E3"]
    for outsider in (world.spare[0], world.seats[0]):
        world.refuses(evidence(world, first, second, outsider), "NotASeat", account=id_of(outsider).lower())


def test_an_epoch_without_a_committee_proves_nothing(world: World) -> None:
    first, second = (replace(one, epoch=3) for one in GUILTY["E3"][:2])
    world.refuses(evidence(world, first, second, world.members[0]), "NoCommittee", group=GROUP, epoch=3)


def test_a_committee_is_that_of_the_epoch_in_the_evidence(world: World) -> None:
    world.staking.register_committee(GROUP, 3, ids(world.members[1:]))
    first, second = (replace(one, epoch=3) for one in GUILTY["E3"][:2])
    world.refuses(evidence(world, first, second, world.members[0]), "NotASeat", epoch=3)
    world.send(evidence(world, first, second, world.members[1]))


def test_signatures_count_in_the_groups_domain_only(world: World) -> None:
    first, second, _ = GUILTY["E3"]
    key, own = world.members[1], world.domain(GROUP)
    for domain in (
        replace(own, group_id=COUNCIL),
        replace(own, chain_id=own.chain_id + 1),
        replace(own, verifying_contract=world.staking.addresses.registry),
    ):
        foreign = [sign(key, signing_digest(domain, one)) for one in (first, second)]
        call = world.manager.functions.submitEquivocation(
            GROUP, 3, words(first), foreign[0], words(second), foreign[1]
        )
        with pytest.raises(Reverted) as caught:
            world.client.ask(call.call)
        assert caught.value.name in {"SignersDiffer", "BadSignature"}


def test_a_prepare_is_no_commit(world: World) -> None:
    first, second = Prepare(0, 7, 1, d("a")), Commit(0, 7, 1, d("b"))
    key = world.members[1]
    call = world.manager.functions.submitEquivocation(
        GROUP, 3, words(first), world.sign(key, GROUP, first), words(second), world.sign(key, GROUP, second)
    )
    world.refuses(call, "SignersDiffer")


@pytest.mark.parametrize(("damage", "reason"), [
    (high_s, 3), (lambda s: s[:64], 2), (lambda s: s + b"\0", 2), (lambda s: s[:64] + bytes([s[64] - 27]), 1),
])  # fmt: skip
@pytest.mark.parametrize("which", [0, 1])
def test_only_canonical_signatures_count(world: World, damage: Any, reason: int, which: int) -> None:
    first, second, _ = GUILTY["E3"]
    signatures = [world.sign(world.members[1], GROUP, one) for one in (first, second)]
    signatures[which] = damage(signatures[which])
    call = world.manager.functions.submitEquivocation(
        GROUP, 3, words(first), signatures[0], words(second), signatures[1]
    )
    world.refuses(call, "BadSignature", index=which, reason=reason)


# ---------------------------------------------------------------------------
# What is brought.


@pytest.mark.parametrize("kind", [0, 9, 255])
def test_there_are_eight_kinds_of_pairs(world: World, kind: int) -> None:
    first, second, _ = GUILTY["E3"]
    call = world.manager.functions.submitEquivocation(GROUP, kind, words(first), b"", words(second), b"")
    world.refuses(call, "UnknownKind", kind=kind)


@pytest.mark.parametrize(
    "name",
    [
        "E1", "E2", "E3", "E4: another block", "E5: claims nothing",
        "E6: two updates", "E6: two requests, base", "E6: two closes",
    ],
)  # fmt: skip
def test_words_have_exactly_the_length_of_their_struct(world: World, name: str) -> None:
    first, second, _ = GUILTY[name]
    kind, a, b = pair_kind(first, second), words(first), words(second)
    submit = world.manager.functions.submitEquivocation
    for short in (a[:-1], a + b"\0", a[:-32], b""):
        world.refuses(
            submit(GROUP, kind, short, b"", b, b""), "WrongLength", length=len(short), expected=len(a)
        )
    for short in (b[:-1], b + bytes(32), b""):
        world.refuses(
            submit(GROUP, kind, a, b"", short, b""), "WrongLength", length=len(short), expected=len(b)
        )


@pytest.mark.parametrize("place", [0, 1])
def test_an_epoch_or_height_of_more_than_64_bits_is_none(world: World, place: int) -> None:
    a, b = (bytearray(words(one)) for one in GUILTY["E3"][:2])
    for one in (a, b):
        one[32 * place + 23] = 1
    call = world.manager.functions.submitEquivocation(GROUP, 3, bytes(a), b"", bytes(b), b"")
    world.refuses(call, "NotCanonical", word=place)


# ---------------------------------------------------------------------------
# Once, by anybody, at any time.


def test_an_offence_counts_once_whoever_brings_it_in_whatever_order(world: World) -> None:
    first, second, _ = GUILTY["E3"]
    third = replace(second, block_id=d("c"))
    key = world.members[1]
    world.send(evidence(world, first, second, key), by=STRANGER)
    for pair in ((first, second), (second, first), (second, third)):
        world.refuses(evidence(world, *pair, key), "AlreadyJudged", by=VETO, state=State.EXECUTED)
    assert world.staking.credit_of(world.account(TREASURY)) == STAKE_WEI * 9 // 10


def test_a_second_offence_is_recorded_and_finds_nothing_more(world: World) -> None:
    key = world.members[1]
    world.send(evidence(world, *GUILTY["E3"][:2], key), by=STRANGER)
    mined = world.send(evidence(world, *GUILTY["E2"][:2], key), by=VETO)
    assert world.events(mined, world.manager.events.EquivocationProven)[0]["amount"] == 0
    assert world.staking.credit_of(world.account(VETO)) == 0


def test_the_same_offence_at_two_heights_is_two(world: World) -> None:
    key = world.members[1]
    world.send(evidence(world, *GUILTY["E3"][:2], key))
    world.send(evidence(world, *(replace(one, height=8) for one in GUILTY["E3"][:2]), key))


@pytest.mark.parametrize("by", [OWNER, TREASURY, VETO, STRANGER])
def test_anybody_may_bring_evidence_and_nobody_waits(world: World, by: int) -> None:
    world.send(evidence(world, *GUILTY["E1"][:2], world.members[1]), by=by)
    assert world.stake(world.members[1]) == 0


def test_who_reports_itself_still_loses_nine_tenths(world: World) -> None:
    key = world.members[1]
    staker = world.staker(key)
    world.send(evidence(world, *GUILTY["E1"][:2], key), by=staker)
    assert world.staking.credit_of(world.account(staker)) == STAKE_WEI // 10


def test_leaving_does_not_save_a_stake_before_it_has_left(world: World) -> None:
    key = world.members[1]
    world.send(world.registry.functions.requestUnbonding(id_of(key)), by=world.staker(key))
    world.pass_time(TERMS.unbonding_s + 1)
    world.send(evidence(world, *GUILTY["E3"][:2], key), by=STRANGER)
    assert world.stake(key) == 0


def test_the_tombstoned_never_return(world: World) -> None:
    key = world.members[1]
    staker = world.staker(key)
    member = id_of(key)
    functions = world.registry.functions
    world.send(evidence(world, *GUILTY["E3"][:2], key), by=STRANGER)
    world.refuses(functions.topUp(member), "IsTombstoned", by=staker, value=STAKE_WEI)
    world.refuses(functions.registerCommittee(GROUP, 1, [member]), "NotActive", stake=0)
    world.send(functions.requestUnbonding(member), by=staker)
    world.pass_time(TERMS.unbonding_s + 1)
    world.send(functions.withdraw(member, world.accounts[staker].address), by=staker)
    with world.refused("IsTombstoned", member=member.lower()):
        world.deposit(key, staker)


def test_who_left_before_the_evidence_is_tombstoned_with_nothing_to_take(world: World) -> None:
    key = world.members[1]
    staker = world.staker(key)
    functions = world.registry.functions
    world.send(functions.requestUnbonding(id_of(key)), by=staker)
    world.pass_time(TERMS.unbonding_s + 1)
    world.send(functions.withdraw(id_of(key), world.accounts[staker].address), by=staker)
    world.send(evidence(world, *GUILTY["E3"][:2], key), by=STRANGER)
    assert world.staking.credit_of(world.account(STRANGER)) == 0
    with world.refused("IsTombstoned"):
        world.deposit(key, staker)


def test_a_verdict_after_evidence_takes_nothing_and_still_ends(world: World) -> None:
    key = world.members[1]
    verdict = a_verdict(key)
    world.staking.submit_verdict(verdict, world.certify(verdict, world.seats[:3]))
    world.send(evidence(world, *GUILTY["E3"][:2], key), by=STRANGER)
    world.pass_time(TERMS.challenge_window_s + 1)
    offence = offence_key(GROUP, 0, 7, address(key.public_key), 16)
    world.staking.execute_verdict(offence)
    assert world.staking.judgement(offence).state is State.EXECUTED
    assert world.staking.member(address(key.public_key)).freezes == 0
