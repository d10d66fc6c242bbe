"""What a council can do to a member, and what keeps it from doing more."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from consensus.committee import Committee
from consensus.signing import Domain, address, sign, signing_digest
from consensus.types import Digest, MemberId
from p2pfl.evm import State, verdict_key
from p2pfl.signed import Verdict
from tests.contracts.world import (
    COUNCIL,
    GROUP,
    LIFE_S,
    STAKE_WEI,
    STRANGER,
    TERMS,
    TREASURY,
    VETO,
    WINDOW_S,
    World,
    a_verdict,
    high_s,
    id_of,
    ids,
    verdict_words,
)


def submission(world: World, verdict: Verdict, signatures: list[bytes], epoch: int = 0) -> Any:
    return world.manager.functions.submitVerdict(verdict_words(verdict), epoch, signatures)


def submit(world: World, verdict: Verdict) -> Digest:
    world.send(submission(world, verdict, world.certify(verdict, world.seats[:3])), by=STRANGER)
    return verdict_key(verdict)


def execute(world: World, key: Digest) -> int:
    """What it took."""
    mined = world.send(world.manager.functions.executeVerdict(key), by=STRANGER)
    return world.events(mined, world.manager.events.VerdictExecuted)[0]["amount"]


# ---------------------------------------------------------------------------
# Certificates.


def test_a_quorum_of_the_council_is_believed_whoever_brings_it(world: World) -> None:
    accused = world.members[1]
    verdict = a_verdict(accused)
    mined = world.send(submission(world, verdict, world.certify(verdict, world.seats[1:])), by=STRANGER)
    judgement = world.staking.judgement(verdict_key(verdict))
    told = world.events(mined, world.manager.events.VerdictSubmitted)[0]
    assert (told["key"], told["caseId"], told["accused"]) == (
        verdict_key(verdict), verdict.case_id, id_of(accused)
    )  # fmt: skip
    assert (told["executableAt"], told["expiresAt"]) == (judgement.executable_at_s, judgement.expires_at_s)
    assert judgement.state is State.PENDING
    assert (judgement.accused, judgement.offence) == (address(accused.public_key), 16)
    assert judgement.executable_at_s == judgement.submitted_at_s + WINDOW_S
    assert judgement.expires_at_s == judgement.executable_at_s + LIFE_S
    assert world.stake(accused) == STAKE_WEI


def test_one_signature_less_than_a_quorum_is_nothing(world: World) -> None:
    verdict = a_verdict(world.members[1])
    for count in (0, 1, 2):
        call = submission(world, verdict, world.certify(verdict, world.seats[:count]))
        world.refuses(call, "NoQuorum", signatures=count, required=3)


def test_the_quorum_is_the_consensus_quorum(world: World) -> None:
    for size in range(1, 17):
        expected = Committee(0, tuple(MemberId(bytes([index] * 20)) for index in range(size))).quorum
        assert world.staking._read(world.manager.functions.quorum(size)) == expected


def test_a_signature_counts_once(world: World) -> None:
    verdict = a_verdict(world.members[1])
    first, second = world.certify(verdict, world.seats[:2])
    world.refuses(submission(world, verdict, [first, second, second]), "NotAscending")
    world.refuses(submission(world, verdict, [first, first, second]), "NotAscending")


def test_signatures_ascend(world: World) -> None:
    verdict = a_verdict(world.members[1])
    world.refuses(submission(world, verdict, world.certify(verdict, world.seats[::-1])), "NotAscending")


def test_strangers_and_members_of_other_groups_do_not_count(world: World) -> None:
    verdict = a_verdict(world.members[1])
    for outsider in (world.spare[0], world.members[0]):
        signers = sorted([*world.seats[:2], outsider], key=lambda key: address(key.public_key))
        world.refuses(
            submission(world, verdict, world.certify(verdict, signers)), "NotASeat",
            account=id_of(outsider).lower(), group=COUNCIL, epoch=0,
        )  # fmt: skip


def test_signatures_count_in_the_councils_domain_only(world: World) -> None:
    verdict = a_verdict(world.members[1])
    own = world.domain(COUNCIL)
    for domain in (
        replace(own, group_id=GROUP),
        replace(own, chain_id=own.chain_id + 1),
        replace(own, verifying_contract=world.staking.addresses.registry),
    ):
        assert isinstance(domain, Domain)
        foreign = [sign(key, signing_digest(domain, verdict)) for key in world.seats[:3]]
        with pytest.raises(Exception) as caught:
            world.client.ask(submission(world, verdict, foreign).call)
        # Recovered from another digest, they are strangers' signatures.
        assert getattr(caught.value, "name", "") in {"NotASeat", "NotAscending", "BadSignature"}, caught.value


@pytest.mark.parametrize("changes", [
    {"height": 8}, {"offence": 17}, {"case_id": bytes(32)}, {"group": COUNCIL}, {"epoch": 1}
])  # fmt: skip
def test_a_certificate_is_of_one_verdict(world: World, changes: dict[str, Any]) -> None:
    verdict = a_verdict(world.members[1])
    other = replace(verdict, **changes)
    if "group" in changes or "epoch" in changes:  # Make sure that the accused sits there too.
        key = world.seats[3] if "group" in changes else world.members[1]
        verdict, other = a_verdict(key), replace(a_verdict(key), **changes)
        if "epoch" in changes:
            world.staking.register_committee(GROUP, 1, ids(world.members))
    signatures = world.certify(verdict, world.seats[:3])
    with pytest.raises(Exception) as caught:
        world.client.ask(submission(world, other, signatures).call)
    assert getattr(caught.value, "name", "") in {"NotASeat", "NotAscending", "BadSignature"}, caught.value


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (high_s, 3),
        (lambda s: s[:64], 2),
        (lambda s: s + b"\0", 2),
        (lambda s: s[:64] + bytes([s[64] - 27]), 1),
    ],
)
def test_only_canonical_signatures_count(world: World, damage: Any, reason: int) -> None:
    verdict = a_verdict(world.members[1])
    first, second, third = world.certify(verdict, world.seats[:3])
    call = submission(world, verdict, [first, damage(second), third])
    world.refuses(call, "BadSignature", index=1, reason=reason)


def test_the_accused_does_not_sign_and_the_others_suffice(world: World) -> None:
    seat = world.seats[2]
    verdict = a_verdict(seat, group=COUNCIL)
    call = submission(world, verdict, world.certify(verdict, world.seats[:3]))
    world.refuses(call, "AccusedSigned", accused=id_of(seat).lower())
    others = [world.seats[0], world.seats[1], world.seats[3]]
    world.send(submission(world, verdict, world.certify(verdict, others)))
    assert world.staking.judgement(verdict_key(verdict)).state is State.PENDING


def test_a_council_of_three_certifies_nothing(world: World) -> None:
    world.staking.register_committee(COUNCIL, 1, ids(world.seats[:3]))
    verdict = a_verdict(world.members[1])
    call = submission(world, verdict, world.certify(verdict, world.seats[:3]), epoch=1)
    world.refuses(call, "CommitteeTooSmall", size=3, required=4)


def test_a_group_that_is_not_the_council_certifies_nothing(world: World) -> None:
    verdict = a_verdict(world.seats[0], group=COUNCIL)
    signatures = world.certify(verdict, world.members[:3], group=GROUP)
    with pytest.raises(Exception) as caught:
        world.client.ask(submission(world, verdict, signatures).call)
    assert getattr(caught.value, "name", "") in {"NotASeat", "NotAscending"}, caught.value


def test_an_epoch_of_the_council_without_a_committee_certifies_nothing(world: World) -> None:
    verdict = a_verdict(world.members[1])
    call = submission(world, verdict, world.certify(verdict, world.seats[:3]), epoch=5)
    world.refuses(call, "NoCommittee", group=COUNCIL, epoch=5)


def test_more_signatures_than_a_committee_can_have_are_not_even_read(world: World) -> None:
    verdict = a_verdict(world.members[1])
    call = submission(world, verdict, world.certify(verdict, [world.seats[0]] * 17))
    world.refuses(call, "TooManySignatures", count=17, most=16)


def test_who_has_nothing_at_stake_certifies_nothing(world: World) -> None:
    seat = world.seats[0]
    staker = world.staker(seat)
    world.send(world.registry.functions.requestUnbonding(id_of(seat)), by=staker)
    verdict = a_verdict(world.members[1])
    call = submission(world, verdict, world.certify(verdict, world.seats[:3]))
    world.client.ask(call.call)  # Leaving, it can still be slashed, so it still counts.
    world.pass_time(TERMS.unbonding_s + 1)
    world.send(world.registry.functions.withdraw(id_of(seat), world.accounts[staker].address), by=staker)
    world.refuses(call, "NotBonded", member=id_of(seat).lower())
    world.send(submission(world, verdict, world.certify(verdict, world.seats[1:])))


@pytest.mark.parametrize("offence", [0, 1, 2, 3, 4, 5, 6, 15, 21, 31, 33, 255])
def test_a_council_judges_only_its_own_offences(world: World, offence: int) -> None:
    verdict = a_verdict(world.members[1], offence=offence)
    call = submission(world, verdict, world.certify(verdict, world.seats[:3]))
    world.refuses(call, "UnknownOffence", offence=offence)


def test_the_accused_sat_in_that_group_in_that_epoch(world: World) -> None:
    for accused in (world.spare[0], world.seats[3]):
        verdict = a_verdict(accused)
        call = submission(world, verdict, world.certify(verdict, world.seats[:3]))
        world.refuses(call, "NotASeat", group=GROUP, epoch=0, account=id_of(accused).lower())
    verdict = a_verdict(world.members[1], epoch=1)
    call = submission(world, verdict, world.certify(verdict, world.seats[:3]))
    world.refuses(call, "NoCommittee", group=GROUP, epoch=1)


def test_without_a_council_there_are_no_verdicts(world: World) -> None:
    from p2pfl.evm import Staking, deploy

    addresses = deploy(world.client, TERMS, treasury=world.account(TREASURY), veto=world.account(VETO))
    manager: Any = Staking(world.client, addresses)._manager
    verdict = a_verdict(world.members[1])
    call = manager.functions.submitVerdict(verdict_words(verdict), 0, [])
    world.refuses(call, "CouncilNotSet", registry="0x" + addresses.registry.hex())
