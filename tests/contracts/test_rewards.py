"""What honest work earns: jobs are paid in full, shared out by certificate, and the rest comes back."""

from __future__ import annotations

import pytest

from consensus.signing import address
from consensus.types import Digest, MemberId
from p2pfl.evm.client import checksum
from p2pfl.evm.rewards import JobState, contribution_proof, contribution_root, deploy_rewards
from tests.contracts.office import (
    CLAIM_S,
    CLIENT,
    EPOCHS,
    FEE_WEI,
    PRICE_WEI,
    SETTLE_S,
    TARGET_MICRO,
    TASK,
    Office,
)
from tests.contracts.test_equivocation import GUILTY, evidence
from tests.contracts.test_faults_of_others import a_hostile_account, encoded, pass_on
from tests.contracts.test_verdict import submit
from tests.contracts.world import (
    COUNCIL,
    GROUP,
    LIFE_S,
    OWNER,
    STAKE_WEI,
    STRANGER,
    TREASURY,
    VETO,
    WINDOW_S,
    a_verdict,
    id_of,
    ids,
)

# ---------------------------------------------------------------------------
# Opening a job.


def test_a_job_is_paid_exactly_and_the_fee_is_the_treasurys(office: Office) -> None:
    call = office.functions.openJob(TASK, PRICE_WEI, EPOCHS, TARGET_MICRO, 0)
    cost = FEE_WEI + EPOCHS * PRICE_WEI
    for sent in (0, cost - 1, cost + 1):
        office.world.refuses(call, "WrongPayment", by=CLIENT, value=sent, sent=sent, required=cost)
    job = office.open()
    assert office.rewards.job(job).state is JobState.OPEN
    assert office.rewards.job(job).client == office.world.account(CLIENT)
    assert office.rewards.credit_of(office.world.account(TREASURY)) == FEE_WEI
    assert office.world.client.balance_wei(office.address) == cost


def test_a_job_of_nothing_is_refused(office: Office) -> None:
    opening = office.functions.openJob
    for arguments, what in (
        ((bytes(32), PRICE_WEI, 1, 1, 0), "task"),
        ((TASK, 0, 1, 1, 0), "pricePerEpoch"),
        ((TASK, PRICE_WEI, 0, 1, 0), "epochs"),
        ((TASK, PRICE_WEI, 1, 0, 0), "targetMicro"),
    ):
        office.world.refuses(opening(*arguments), "ZeroValue", by=CLIENT, value=FEE_WEI, what=what)
    office.world.refuses(opening(TASK, 1, 100_001, 1, 0), "TooManyEpochs", by=CLIENT, value=FEE_WEI + 100_001)


def test_the_periods_have_limits_and_the_partners_must_be_contracts(office: Office) -> None:
    world, at = office.world, office.world.staking.addresses
    good = {"registry": at.registry, "slashing": at.slashing, "treasury": world.account(TREASURY),
            "base_fee_wei": 0, "settle_s": 1, "claim_s": CLAIM_S}  # fmt: skip
    nobody = MemberId(bytes(20))
    for change, error in (
        ({"registry": nobody}, "NotAContract"), ({"slashing": nobody}, "NotAContract"),
        ({"treasury": nobody}, "ZeroAddress"), ({"settle_s": 0}, "ZeroValue"), ({"claim_s": 0}, "ZeroValue"),
        ({"claim_s": WINDOW_S + LIFE_S}, "ClaimTooShort"),
        ({"settle_s": 365 * 86_400 + 1}, "PeriodTooLong"), ({"claim_s": 365 * 86_400 + 1}, "PeriodTooLong"),
    ):  # fmt: skip
        with world.refused(error):
            deploy_rewards(world.client, **{**good, **change})
    year = 365 * 86_400
    deploy_rewards(world.client, **{**good, "settle_s": year, "claim_s": year})


# ---------------------------------------------------------------------------
# Settling an epoch.


def test_a_quorum_of_the_councils_seats_of_that_epoch_settles_and_nobody_else(office: Office) -> None:
    world, job = office.world, office.open()
    told = office.told(job)
    seats = world.seats
    for signers, error in (
        (seats[:2], "NoQuorum"),
        ([seats[0], seats[0], seats[1]], "NotAscending"),
        ([seats[1], seats[0], seats[2]], "NotAscending"),
        (world.members[:3], "NotASeat"),
        ([seats[0]] * 17, "TooManySignatures"),
    ):
        world.refuses(office.settling(told, office.certify(told, signers)), error, by=STRANGER)
    # Signed for another group, for another number: not the council's word on this.
    foreign = office.certify(told, seats[:3], council=GROUP)
    world.refuses(office.settling(told, foreign), "NotASeat", by=STRANGER)
    other = office.certify(office.told(job, accuracy_micro=900_001), seats[:3])
    with pytest.raises(Exception, match=r"NotASeat|NotAscending"):
        world.client.ask(
            lambda: office.settling(told, other).call({"from": world.accounts[STRANGER].address})
        )
    world.send(office.settling(told, office.certify(told, seats[:3])), by=STRANGER)
    assert office.rewards.settlement(job, 0) is not None
    later = office.told(job, epoch=1)
    world.refuses(office.settling(later, office.certify(later, seats[:3])), "NoCommittee", by=STRANGER)


def test_a_council_of_fewer_than_four_settles_nothing(office: Office) -> None:
    world, job = office.world, office.open()
    office.settle(job)
    world.staking.register_committee(COUNCIL, 1, ids(world.seats[:3]))
    told = office.told(job, epoch=1)
    call = office.settling(told, office.certify(told, world.seats[:3]))
    world.refuses(call, "CommitteeTooSmall", size=3, required=4)


def test_each_epoch_is_settled_in_its_turn_and_none_is_left_out(office: Office) -> None:
    """Else whoever brings a later certificate first would cancel what the earlier epochs earned."""
    world, job = office.world, office.open()
    world.staking.register_committee(COUNCIL, 1, ids(world.seats))
    later = office.told(job, epoch=1, accuracy_micro=TARGET_MICRO)
    call = office.settling(later, office.certify(later, world.seats[:3]))
    world.refuses(call, "NotTheNextEpoch", epoch=1, next=0)
    office.settle(job, 0)
    told = office.told(job)
    again = office.settling(told, office.certify(told, world.seats[:3]))
    world.refuses(again, "NotTheNextEpoch", epoch=0, next=1)
    world.send(call, by=STRANGER)
    assert office.rewards.job(job).state is JobState.REACHED
    assert office.rewards.credit_of(world.account(CLIENT)) == (EPOCHS - 2) * PRICE_WEI
    world.refuses(office.settling(office.told(99), []), "JobNotOpen", job=99, state=JobState.NONE)


def test_a_certificate_counts_in_the_contract_that_it_names_and_in_no_other(office: Office) -> None:
    world, other = office.world, Office(office.world)
    job, same = office.open(), other.open()
    assert job == same
    told = other.told(job)
    signatures = other.certify(told, world.seats[:3])
    world.refuses(office.settling(told, signatures), "OtherManager", manager="0x" + other.address.hex())
    world.send(other.settling(told, signatures), by=STRANGER)


def test_the_shares_are_the_weights_and_anybody_may_have_them_credited(office: Office) -> None:
    world, job = office.world, office.open()
    office.settle(job)
    for key in world.members:
        mined = world.send(office.claiming(job, key), by=STRANGER)
        (told,) = world.events(mined, office.rewards._manager.events.Rewarded)
        assert (told["member"], told["amount"]) == (id_of(key), office.share(key))
        assert office.rewards.credit_of(office.staker_of(key)) == office.share(key)
        world.refuses(office.claiming(job, key), "AlreadyClaimed", member=id_of(key).lower())
    shared = office.rewards.settlement(job, 0)
    assert shared is not None
    assert 0 <= shared.left_wei < len(world.members)  # Rounding leaves less than a wei each.
    staker = office.staker_of(world.members[3])
    before = world.client.balance_wei(staker)
    world.send(office.functions.collect(checksum(staker)), by=STRANGER)
    assert world.client.balance_wei(staker) == before + office.share(world.members[3])
    world.refuses(office.functions.collect(checksum(staker)), "NothingToCollect")


def test_a_share_needs_its_own_leaf(office: Office) -> None:
    world, job = office.world, office.open()
    office.settle(job)
    key = world.members[0]
    member, proof = id_of(key), contribution_proof(job, 0, office.weights, address(key.public_key))
    weight = office.weights[address(key.public_key)]
    claim = office.functions.claim
    for call in (
        claim(job, 0, member, weight + 1, proof),
        claim(job, 0, id_of(world.members[1]), weight, proof),
        claim(job, 0, member, weight, proof[:-1]),
        claim(job, 0, id_of(world.spare[0]), 1, ()),
    ):
        world.refuses(call, "NotInRoot", by=STRANGER)
    world.refuses(claim(job, 1, member, weight, proof), "NotSettled", epoch=1)


def test_weights_that_add_up_to_more_than_their_total_pay_no_more_than_the_price(office: Office) -> None:
    world, job = office.world, office.open()
    office.settle(job, total_weight=500)  # The leaves add up to 1,000.
    paid, refused = 0, 0
    for key in reversed(world.members):
        weight = office.weights[address(key.public_key)]
        amount = PRICE_WEI * weight // 500
        if paid + amount <= PRICE_WEI:
            world.send(office.claiming(job, key))
            paid += amount
        else:
            world.refuses(office.claiming(job, key), "MoreThanAll", amount=amount, left=PRICE_WEI - paid)
            refused += 1
    assert paid <= PRICE_WEI
    assert refused


def test_an_epoch_in_which_nobody_earned_anything_costs_the_client_nothing(office: Office) -> None:
    job = office.open()
    office.settle(job, total_weight=0, root=Digest(bytes(32)))
    assert office.rewards.credit_of(office.world.account(CLIENT)) == PRICE_WEI
    assert office.rewards.settlement(job, 0) is None


# ---------------------------------------------------------------------------
# Who is suspected, and who has left.


def test_while_a_verdict_is_pending_the_share_waits(office: Office) -> None:
    world, job = office.world, office.open()
    office.settle(job)
    accused = world.members[1]
    key = submit(world, a_verdict(accused))
    world.refuses(office.claiming(job, accused), "IsFrozen", member=id_of(accused).lower(), freezes=1)
    world.send(office.claiming(job, world.members[0]))
    world.send(world.manager.functions.cancelVerdict(key), by=VETO)
    world.send(office.claiming(job, accused))


def test_who_contradicted_itself_or_has_withdrawn_gets_nothing(office: Office) -> None:
    world, job = office.world, office.open()
    office.settle(job)
    world.send(evidence(world, *GUILTY["E3"][:2], world.members[1]), by=STRANGER)
    world.refuses(office.claiming(job, world.members[1]), "IsTombstoned")
    stranger = {address(world.spare[0].public_key): 7}
    second = office.open()
    office.settle(second, root=contribution_root(second, 0, stranger), total_weight=7)
    world.refuses(office.claiming(second, world.spare[0], stranger), "NotRegistered")


def test_many_claims_skip_the_bad_ones(office: Office) -> None:
    world, job = office.world, office.open()
    office.settle(job)
    submit(world, a_verdict(world.members[2]))
    world.send(office.claiming(job, world.members[0]))
    named = [id_of(key) for key in world.members]
    weights = [office.weights[address(key.public_key)] for key in world.members]
    proofs = [contribution_proof(job, 0, office.weights, address(key.public_key)) for key in world.members]
    call = office.functions.claimMany(job, 0, named, weights, proofs)
    mined = world.send(call, by=STRANGER)
    manager = office.rewards._manager.events
    skipped = {each["member"] for each in world.events(mined, manager.ClaimSkipped)}
    assert skipped == {named[0], named[2]}
    assert {each["member"] for each in world.events(mined, manager.Rewarded)} == {named[1], named[3]}
    uneven = office.functions.claimMany(job, 0, named, weights[:-1], proofs)
    world.refuses(uneven, "LengthsDiffer", members=4, weights=3, proofs=4)


# ---------------------------------------------------------------------------
# The end of a job.


def test_at_the_target_the_rest_is_the_clients(office: Office) -> None:
    job = office.open()
    office.settle(job, accuracy_micro=TARGET_MICRO - 1)
    assert office.rewards.job(job).state is JobState.OPEN
    second = office.open()
    office.settle(second, accuracy_micro=TARGET_MICRO)
    assert office.rewards.job(second).state is JobState.REACHED
    assert office.rewards.credit_of(office.world.account(CLIENT)) == (EPOCHS - 1) * PRICE_WEI
    told = office.told(second, epoch=1)
    call = office.settling(told, office.certify(told, office.world.seats[:3]))
    office.world.refuses(call, "JobNotOpen", state=JobState.REACHED)


def test_when_the_epochs_are_used_up_nothing_is_left(office: Office) -> None:
    job = office.open(epochs=1)
    office.settle(job)
    assert office.rewards.job(job).state is JobState.USED_UP
    assert office.rewards.credit_of(office.world.account(CLIENT)) == 0
    office.world.refuses(office.functions.expireJob(job), "JobNotOpen")


def test_a_network_that_falls_silent_gives_the_money_back(office: Office) -> None:
    world, job = office.world, office.open()
    world.refuses(office.functions.expireJob(job), "TooEarly", by=CLIENT)
    office.settle(job)
    due = office.rewards.job(job).settle_by_s
    world.refuses(office.functions.expireJob(job), "TooEarly", by=CLIENT, **{"from": due + 1})
    world.pass_time(SETTLE_S + 1)
    late = office.told(job, epoch=1)
    world.refuses(office.settling(late, office.certify(late, world.seats[:3])), "TooLate", until=due)
    world.send(office.functions.expireJob(job), by=STRANGER)
    assert office.rewards.job(job).state is JobState.EXPIRED
    assert office.rewards.credit_of(world.account(CLIENT)) == (EPOCHS - 1) * PRICE_WEI


def test_what_nobody_claims_in_time_is_the_treasurys(office: Office) -> None:
    world, job = office.world, office.open()
    office.settle(job)
    world.send(office.claiming(job, world.members[0]))
    world.refuses(office.functions.sweep(job, 0), "TooEarly")
    world.refuses(office.functions.sweep(job, 1), "NotSettled")
    world.pass_time(CLAIM_S + 1)
    world.refuses(office.claiming(job, world.members[1]), "TooLate")
    world.send(office.functions.sweep(job, 0), by=STRANGER)
    rest = PRICE_WEI - office.share(world.members[0])
    assert office.rewards.credit_of(world.account(TREASURY)) == FEE_WEI + rest
    world.refuses(office.functions.sweep(job, 0), "ZeroValue")


# ---------------------------------------------------------------------------
# Ether that behaves badly.


def test_a_client_that_refuses_ether_holds_up_nobody_else(office: Office) -> None:
    world = office.world
    hostile = a_hostile_account(world)
    opening = office.functions.openJob(TASK, PRICE_WEI, 2, TARGET_MICRO, 0)
    world.send(pass_on(hostile, opening), value=FEE_WEI + 2 * PRICE_WEI)
    job = office.rewards._read("jobs")
    office.settle(job, accuracy_micro=TARGET_MICRO)
    world.send(hostile.functions.setRefuses(True))
    world.refuses(office.functions.collect(hostile.address), "TransferFailed", amount=PRICE_WEI)
    world.send(office.claiming(job, world.members[0]))
    world.send(office.functions.collect(checksum(office.staker_of(world.members[0]))))
    world.send(hostile.functions.setRefuses(False))
    world.send(office.functions.collect(hostile.address))
    assert world.client.balance_wei(MemberId(bytes.fromhex(hostile.address[2:]))) == PRICE_WEI


def test_nobody_is_paid_twice_by_calling_back(office: Office) -> None:
    world = office.world
    hostile = a_hostile_account(world)
    opening = office.functions.openJob(TASK, PRICE_WEI, 2, TARGET_MICRO, 0)
    world.send(pass_on(hostile, opening), value=FEE_WEI + 2 * PRICE_WEI)
    job = office.rewards._read("jobs")
    office.open()  # There is more ether in the contract than the hostile account is owed.
    office.settle(job, accuracy_micro=TARGET_MICRO)
    again = office.functions.collect(hostile.address)
    world.send(hostile.functions.setCallback(again.address, encoded(again)))
    world.send(again, by=STRANGER)
    assert world.client.ask(hostile.functions.callbacks().call) == 1
    assert world.client.ask(hostile.functions.succeeded().call) == 0
    assert world.client.balance_wei(MemberId(bytes.fromhex(hostile.address[2:]))) == PRICE_WEI


def test_ether_that_was_forced_in_is_the_treasurys(office: Office) -> None:
    world = office.world
    world.refuses(office.functions.skim(), "ZeroValue")
    bomb = a_hostile_account(world, ether=STAKE_WEI)
    world.send(bomb.functions.explode(checksum(office.address)), by=OWNER)
    world.send(office.functions.skim(), by=STRANGER)
    assert office.rewards.credit_of(world.account(TREASURY)) == STAKE_WEI
