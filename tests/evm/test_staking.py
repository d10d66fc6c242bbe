"""Stakes, verdicts and evidence from Python: what is so already is not done again."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import pytest

from consensus.signing import address, sign
from consensus.types import Digest, MemberId
from p2pfl.errors import UserError
from p2pfl.evm import Client, Done, Reverted, Staking, State, deploy, offence_key, pair_kind, verdict_key
from tests.contracts.test_equivocation import GUILTY
from tests.contracts.world import (
    COUNCIL,
    GROUP,
    OWNER,
    STAKE_WEI,
    STRANGER,
    TERMS,
    TREASURY,
    VETO,
    WINDOW_S,
    World,
    a_verdict,
    ids,
)


def status(world: World, done: Done) -> Any:
    return world.client.web3.eth.get_transaction_receipt(done.transaction)["status"]  # type: ignore[arg-type]


def at_once(works: list[Any]) -> list[Any]:
    """Run all in threads that start together; results or exceptions."""
    gate = threading.Barrier(len(works))
    results: list[Any] = [None] * len(works)

    def run(index: int) -> None:
        gate.wait()
        try:
            results[index] = works[index]()
        except Exception as error:  # noqa: BLE001 - the test looks at it.
            results[index] = error

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


# ---------------------------------------------------------------------------
# The right contracts.


def test_wrong_addresses_are_found_at_the_start(world: World) -> None:
    good = world.staking.addresses
    nothing, person = MemberId(b"\x01" * 20), world.account(STRANGER)
    for addresses, words in (
        (replace(good, registry=nothing), "StakingRegistry is not at"),
        (replace(good, slashing=person), "SlashingManager is not at"),
        (replace(good, registry=good.slashing), "there is another contract"),
        (replace(good, chain_id=1), "on another chain"),
    ):
        with pytest.raises(UserError, match=words):
            Staking(world.client, addresses)


def test_contracts_that_do_not_belong_together_are_refused(world: World) -> None:
    other = deploy(world.client, TERMS, treasury=world.account(TREASURY), veto=world.account(VETO))
    with pytest.raises(UserError, match="do not belong together"):
        Staking(world.client, replace(world.staking.addresses, slashing=other.slashing))
    assert Staking(world.client, other).terms() == TERMS
    assert Staking(world.client, other).council() == bytes(32)


def test_bad_terms_are_refused_with_the_reason(world: World) -> None:
    with pytest.raises(Reverted) as caught:
        deploy(world.client, replace(TERMS, unbonding_s=10), treasury=world.account(1), veto=world.account(2))
    assert caught.value.because == "UnbondingTooShort(unbondingSeconds 10, requiredSeconds 870)"


# ---------------------------------------------------------------------------
# What is so already.


def test_setting_up_twice_changes_nothing(world: World) -> None:
    staking = world.staking
    for done in (
        staking.set_council(COUNCIL),
        staking.register_committee(GROUP, 0, ids(world.members)[::-1]),
    ):
        assert not done.new
        assert status(world, done) == 1
    with pytest.raises(Reverted, match="AlreadySet"):
        staking.set_council(GROUP)
    with pytest.raises(Reverted, match="CommitteeExists"):
        staking.register_committee(GROUP, 0, ids(world.members[:3]))
    with pytest.raises(Reverted, match="OwnableUnauthorizedAccount"):
        world.staking_of(STRANGER).register_committee(GROUP, 9, ids(world.members))


def test_a_deposit_is_paid_once(world: World) -> None:
    key = world.members[0]
    staking = world.staking_of(world.staker(key))
    before = world.client.balance_wei(staking.client.address)

    def prove(digest: bytes) -> bytes:
        return sign(key, Digest(digest))

    done = staking.deposit(address(key.public_key), prove)
    assert not done.new
    assert status(world, done) == 1
    assert world.client.balance_wei(staking.client.address) == before
    with pytest.raises(Reverted, match="AlreadyRegistered"):
        world.staking_of(STRANGER).deposit(address(key.public_key), prove)
    with pytest.raises(UserError, match="the proof of possession was signed by"):
        world.staking_of(STRANGER).deposit(address(world.spare[0].public_key), prove)
    with pytest.raises(UserError, match="is no signature"):
        world.staking_of(STRANGER).deposit(address(world.spare[0].public_key), lambda _: b"")


def test_a_member_can_top_up_leave_and_take_its_stake(world: World) -> None:
    key = world.members[0]
    member = address(key.public_key)
    staking = world.staking_of(world.staker(key))
    staking.top_up(member, 9)
    assert staking.request_unbonding(member).new
    assert not staking.request_unbonding(member).new
    with pytest.raises(Reverted, match="TooEarly"):
        staking.withdraw(member)
    world.pass_time(TERMS.unbonding_s + 1)
    to = world.account(44)
    before = world.client.balance_wei(to)
    assert staking.withdraw(member, to).new
    assert world.client.balance_wei(to) == before + STAKE_WEI + 9
    assert staking.member(member).staker == bytes(20)


def test_a_verdict_goes_its_way(world: World) -> None:
    verdict = a_verdict(world.members[1])
    key = verdict_key(verdict)
    first = world.staking_of(STRANGER).submit_verdict(verdict, world.certify(verdict, world.seats[:3]))
    again = world.staking.submit_verdict(verdict, world.certify(verdict, world.seats[1:]))
    assert first.new
    assert (again.new, again.transaction, again.block) == (False, first.transaction, first.block)
    with pytest.raises(Reverted, match="TooEarly"):
        world.staking.execute_verdict(key)
    world.pass_time(WINDOW_S + 1)
    first = world.staking_of(STRANGER).execute_verdict(key)
    again = world.staking.execute_verdict(key)
    assert (first.new, again.new, again.transaction) == (True, False, first.transaction)
    (slashed,) = world.staking.slashed()
    assert (slashed.member, slashed.key, slashed.offence) == (verdict.accused, key, 16)
    assert (slashed.amount_wei, slashed.reward_wei) == (STAKE_WEI * 3 // 10, 0)
    assert (slashed.transaction, slashed.block) == (first.transaction, first.block)
    with pytest.raises(Reverted, match="NotPending"):
        world.staking.expire_verdict(key)
    before = world.client.balance_wei(world.account(TREASURY))
    world.staking.claim(world.account(TREASURY))
    assert world.client.balance_wei(world.account(TREASURY)) == before + STAKE_WEI * 3 // 10
    with pytest.raises(Reverted, match="NothingToClaim"):
        world.staking.claim(world.account(TREASURY))


def test_a_cancelled_verdict_stays_cancelled(world: World) -> None:
    verdict = a_verdict(world.members[1])
    key = verdict_key(verdict)
    world.staking.submit_verdict(verdict, world.certify(verdict, world.seats[:3]))
    with pytest.raises(Reverted, match="NotTheVeto"):
        world.staking.cancel_verdict(key)
    veto = world.staking_of(VETO)
    assert [veto.cancel_verdict(key).new, veto.cancel_verdict(key).new] == [True, False]
    assert not world.staking.submit_verdict(verdict, world.certify(verdict, world.seats[:3])).new
    assert world.staking.judgement(key).state is State.CANCELLED
    with pytest.raises(Reverted, match="NotPending"):
        world.staking.execute_verdict(key)


def test_a_void_verdict_is_ended_once(world: World) -> None:
    verdict = a_verdict(world.members[1])
    world.staking.submit_verdict(verdict, world.certify(verdict, world.seats[:3]))
    world.pass_time(WINDOW_S + TERMS.verdict_life_s + 1)
    with pytest.raises(Reverted, match="TooLate"):
        world.staking.execute_verdict(verdict_key(verdict))
    ended = [world.staking.expire_verdict(verdict_key(verdict)).new for _ in range(2)]
    assert ended == [True, False]


@pytest.mark.parametrize("name", GUILTY)
def test_evidence_goes_its_way(world: World, name: str) -> None:
    first, second, offence = GUILTY[name]
    culprit = world.members[2]
    signatures = [world.sign(culprit, GROUP, one) for one in (first, second)]
    brought = (GROUP, first, signatures[0], second, signatures[1])
    done = world.staking_of(STRANGER).submit_equivocation(*brought)
    again = world.staking.submit_equivocation(*brought)
    assert (done.new, again.new, again.transaction) == (True, False, done.transaction)
    member = address(culprit.public_key)
    assert world.staking.tombstoned(member)
    (slashed,) = world.staking.slashed()
    assert slashed.key == offence_key(GROUP, 0, 7, member, offence)
    assert (slashed.member, slashed.offence, slashed.amount_wei) == (member, offence, STAKE_WEI)
    assert slashed.reward_wei == STAKE_WEI // 10
    # The reward is the first one's; the staker's proof does not bring the key back.
    assert world.staking.credit_of(world.account(STRANGER)) == STAKE_WEI // 10
    with pytest.raises(Reverted, match="AlreadyRegistered"):
        world.staking_of(world.staker(culprit)).deposit(member, lambda digest: sign(culprit, Digest(digest)))


def test_structs_that_are_no_pair_are_a_mistake_of_the_caller(world: World) -> None:
    propose, commit = GUILTY["E1"][0], GUILTY["E3"][0]
    change = GUILTY["E5: claims nothing"][1]
    for pair in ((propose, commit), (change, commit), (world, world)):
        with pytest.raises(ValueError, match="are no pair"):
            pair_kind(*pair)
    with pytest.raises(UserError, match="not signed"):
        world.staking.submit_equivocation(GROUP, *(GUILTY["E3"][0], b"", GUILTY["E3"][1], b""))


# ---------------------------------------------------------------------------
# Races.


def test_four_seats_bring_one_verdict_at_once(world: World) -> None:
    verdict = a_verdict(world.members[1])
    seats = [world.staking_of(world.staker(seat)) for seat in world.seats]
    quorums = [[*world.seats[:at], *world.seats[at + 1 :]] for at in range(4)]
    works = [
        lambda staking=staking, quorum=quorum: staking.submit_verdict(verdict, world.certify(verdict, quorum))
        for staking, quorum in zip(seats, quorums, strict=True)
    ]
    done = at_once(works)
    assert all(isinstance(one, Done) for one in done), done
    assert sum(one.new for one in done) == 1
    assert len({one.transaction for one in done}) == 1
    world.pass_time(WINDOW_S + 1)
    done = at_once(
        [lambda staking=staking: staking.execute_verdict(verdict_key(verdict)) for staking in seats]
    )
    assert all(isinstance(one, Done) for one in done), done
    assert sum(one.new for one in done) == 1
    assert len({one.transaction for one in done}) == 1
    assert world.stake(world.members[1]) == STAKE_WEI * 7 // 10


def test_many_bring_one_piece_of_evidence_at_once(world: World) -> None:
    first, second, _ = GUILTY["E3"]
    culprit = world.members[1]
    brought = (
        GROUP, first, world.sign(culprit, GROUP, first), second, world.sign(culprit, GROUP, second)
    )  # fmt: skip
    witnesses = [world.staking_of(index) for index in (STRANGER, 20, 21, 22)]
    done = at_once([lambda one=one: one.submit_equivocation(*brought) for one in witnesses])
    assert all(isinstance(one, Done) for one in done), done
    assert sum(one.new for one in done) == 1
    assert world.stake(culprit) == 0


def test_a_race_that_is_lost_after_the_estimate_is_no_failure(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both estimates succeed, then both transactions are sent: the second one fails on chain."""
    verdict = a_verdict(world.members[1])
    late, early = world.staking_of(20), world.staking_of(21)
    signatures = world.certify(verdict, world.seats[:3])
    send = Client._send
    quick: list[Done] = []

    def overtaken(client: Client, raw: bytes, digest: bytes, what: str) -> bool:
        if client is late.client and not quick:
            quick.append(early.submit_verdict(verdict, signatures))
        return send(client, raw, digest, what)

    monkeypatch.setattr(Client, "_send", overtaken)
    done = late.submit_verdict(verdict, signatures)
    assert quick[0].new
    assert (done.new, done.transaction) == (False, quick[0].transaction)


def test_the_owner_is_who_deployed(world: World) -> None:
    owner = world.staking._read(world.registry.functions.owner())
    assert owner == world.accounts[OWNER].address
