"""An epoch's last block on the chain: anybody brings it, a quorum's word decides, nobody changes it later."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Any

import pytest
from coincurve import PrivateKey

from consensus.committee import Committee
from consensus.signing import block_id, signing_digest
from consensus.types import Commit, Digest, Header, Prepare
from contracts import artifact
from p2pfl.evm.client import checksum
from tests.contracts.test_equivocation import GUILTY, evidence
from tests.contracts.world import (
    COUNCIL,
    GROUP,
    OWNER,
    STRANGER,
    WINDOW_S,
    World,
    a_verdict,
    high_s,
    id_of,
    ids,
    verdict_words,
)

ZERO = "0x" + "00" * 20


def last_block(world: World, successors: Sequence[PrivateKey], **changes: Any) -> Header:
    """The last header of an epoch (0 of GROUP) that these members follow."""
    values: dict[str, Any] = {
        "version": 1, "network_id": digest_of("network"), "group_id": GROUP, "epoch": 0, "height": 9,
        "parent_id": digest_of("parent"), "proposer": ids(world.members)[1], "time_ms": 1_700_000_000_000,
        "app_root": digest_of("body"), "log_root": digest_of("log"),
    }  # fmt: skip
    values |= changes
    root = Committee(values["epoch"] + 1, tuple(ids(successors))).root()
    return Header(**{"next_committee_root": root, **values})


def digest_of(name: str) -> Digest:
    return Digest(sha256(name.encode()).digest())


def commits(world: World, header: Header, keys: Sequence[PrivateKey], round_: int = 0) -> list[bytes]:
    """A certificate by these keys, ascending."""
    vote = Commit(header.epoch, header.height, round_, block_id(header))
    return [world.sign(key, header.group_id, vote) for key in sorted(keys, key=lambda one: ids([one]))]


def header_words(header: Header) -> tuple[Any, ...]:
    fields = [getattr(header, name) for name in Header.__slots__]
    return tuple(checksum(one) if one is header.proposer else one for one in fields)


def anchor(world: World, header: Header, signatures: Sequence[bytes], successors: Sequence[Any],
           round_: int = 0) -> Any:  # fmt: skip
    """The call. successors: keys, or addresses as they are."""
    members = [one if isinstance(one, str) else id_of(one) for one in successors]
    return world.anchors.functions.anchor(header_words(header), round_, list(signatures), members)


def anchor_of(world: World, group: Digest, epoch: int) -> tuple[bytes, int, int]:
    return world.staking._read(world.anchors.functions.anchorOf(group, epoch))


# ---------------------------------------------------------------------------
# What it does.


def test_a_stranger_ends_an_epoch_and_seats_the_next_committee(world: World) -> None:
    header = last_block(world, world.seats)
    call = anchor(world, header, commits(world, header, world.members[:3], 2), world.seats, 2)
    mined = world.send(call, by=STRANGER)
    found = anchor_of(world, GROUP, 0)
    assert found[:2] == (block_id(header), 9)
    assert found[2] == world.client.time_s()
    assert world.staking.committee(GROUP, 1) == tuple(ids(world.seats))
    successors = [id_of(key) for key in world.seats]
    assert world.events(mined, world.anchors.events.EpochAnchored) == [
        {"group": GROUP, "epoch": 0, "blockId": block_id(header), "height": 9, "nextMembers": successors}
    ]
    assert world.events(mined, world.registry.events.CommitteeRegistered) == [
        {"group": GROUP, "epoch": 1, "members": successors}
    ]
    # Another group, another epoch: untouched.
    assert anchor_of(world, COUNCIL, 0) == anchor_of(world, GROUP, 1) == (bytes(32), 0, 0)
    assert world.staking.committee(GROUP, 2) == world.staking.committee(COUNCIL, 1) == ()


def test_every_epoch_is_ended_by_its_own_committee(world: World) -> None:
    second = last_block(world, world.members, epoch=1, height=20)
    by_seats = anchor(world, second, commits(world, second, world.seats[1:]), world.members)
    world.refuses(by_seats, "NoCommittee", group=GROUP, epoch=1)
    first = last_block(world, world.seats)
    world.send(anchor(world, first, commits(world, first, world.members), world.seats))
    old = anchor(world, second, commits(world, second, world.members), world.members)
    world.refuses(old, "NotASeat", group=GROUP, epoch=1)
    world.send(by_seats)
    assert anchor_of(world, GROUP, 1)[:2] == (block_id(second), 20)
    assert world.staking.committee(GROUP, 2) == tuple(ids(world.members))


def test_a_committee_may_follow_itself(world: World) -> None:
    header = last_block(world, world.members)
    world.send(anchor(world, header, commits(world, header, world.members[1:]), world.members))
    assert world.staking.committee(GROUP, 1) == world.staking.committee(GROUP, 0)


@pytest.mark.parametrize("size", [1, 16])
def test_successors_are_one_to_sixteen(world: World, size: int) -> None:
    keys = sorted((PrivateKey(sha256(b"new %d" % index).digest()) for index in range(size)),
                  key=lambda key: ids([key]))  # fmt: skip
    header = last_block(world, keys)
    world.send(anchor(world, header, commits(world, header, world.members[:3]), keys))
    assert world.staking.committee(GROUP, 1) == tuple(ids(keys))


def test_a_council_that_was_seated_so_certifies_verdicts(world: World) -> None:
    """Two of its old seats go, two members of the group come."""
    council = sorted([*world.seats[:2], *world.members[:2]], key=lambda key: ids([key]))
    header = last_block(world, council, group_id=COUNCIL)
    world.send(anchor(world, header, commits(world, header, world.seats[1:]), council))
    verdict = a_verdict(world.members[3])
    signed = world.certify(verdict, [key for key in council if key is not council[1]])
    world.send(world.manager.functions.submitVerdict(verdict_words(verdict), 1, signed))
    world.pass_time(WINDOW_S + 1)
    key = world.manager.functions.keyOf(*verdict_words(verdict)[:5]).call()
    world.send(world.manager.functions.executeVerdict(key))
    # And whoever sits there answers for what it signs there.
    first, second, _ = GUILTY["E3"]
    first, second = replace(first, epoch=1), replace(second, epoch=1)
    culprit = world.members[0]
    pair = [world.sign(culprit, COUNCIL, one) for one in (first, second)]
    world.staking.submit_equivocation(COUNCIL, first, pair[0], second, pair[1])
    assert world.stake(culprit) == 0


# ---------------------------------------------------------------------------
# Once.


def test_an_epoch_ends_once(world: World) -> None:
    header = last_block(world, world.seats)
    call = anchor(world, header, commits(world, header, world.members[:3]), world.seats)
    world.send(call)
    world.refuses(call, "AlreadyAnchored", group=GROUP, epoch=0, blockId=block_id(header))
    other = last_block(world, world.seats, height=10)
    again = anchor(world, other, commits(world, other, world.members[:3]), world.seats)
    world.refuses(again, "AlreadyAnchored", blockId=block_id(header))


def test_what_the_owner_has_seated_stays_seated(world: World) -> None:
    world.staking.register_committee(GROUP, 1, ids(world.seats))
    world.staking.register_committee(COUNCIL, 1, ids(world.seats))
    header = last_block(world, world.seats)
    mined = world.send(anchor(world, header, commits(world, header, world.members[:3]), world.seats))
    assert anchor_of(world, GROUP, 0)[0] == block_id(header)
    assert world.events(mined, world.registry.events.CommitteeRegistered) == []
    # The council's quorum names others than the owner did: somebody has to look at that.
    header = last_block(world, world.members, group_id=COUNCIL)
    call = anchor(world, header, commits(world, header, world.seats[:3]), world.members)
    world.refuses(call, "CommitteeExists", group=COUNCIL, epoch=1)


# ---------------------------------------------------------------------------
# Only the last block, only with the members that it names.


def test_a_block_that_is_not_the_last_of_its_epoch_ends_nothing(world: World) -> None:
    own, late = Committee(0, tuple(ids(world.members))).root(), Committee(2, tuple(ids(world.members))).root()
    for root in (own, late, bytes(32)):
        header = last_block(world, world.members, next_committee_root=root)
        call = anchor(world, header, commits(world, header, world.members[:3]), world.members)
        world.refuses(call, "NotTheLastBlock", named=root,
                      required=Committee(1, tuple(ids(world.members))).root())  # fmt: skip


def test_only_the_members_that_the_block_names_follow(world: World) -> None:
    header = last_block(world, world.seats)
    signed = commits(world, header, world.members[:3])
    others = sorted([*world.seats, world.spare[0]], key=lambda key: ids([key]))
    for wrong in (world.members, world.seats[:3], others, world.seats[::-1], [], [ZERO, *world.seats]):
        world.refuses(anchor(world, header, signed, wrong), "NotTheLastBlock")


def test_successors_are_named_once_each_in_ascending_order_and_are_few(world: World) -> None:
    """Even if the block says otherwise: the contract finds seats by walking both lists."""
    one = world.seats[0]
    many = sorted((PrivateKey(sha256(b"%d" % index).digest()) for index in range(17)),
                  key=lambda key: ids([key]))  # fmt: skip
    for wrong, error in (
        ([id_of(key) for key in world.seats[::-1]], "NotAscending"),
        ([id_of(one), id_of(one)], "NotAscending"),
        ([ZERO, id_of(one)], "NotAscending"),
        ([], "CommitteeSize"),
        ([id_of(key) for key in many], "CommitteeSize"),
    ):
        root = world.staking._read(world.anchors.functions.rootOf(1, wrong))
        header = last_block(world, world.seats, next_committee_root=root)
        world.refuses(anchor(world, header, commits(world, header, world.members[:3]), wrong), error)


def test_a_header_of_another_version_is_not_understood(world: World) -> None:
    for version in (0, 2):
        header = last_block(world, world.seats, version=version)
        call = anchor(world, header, commits(world, header, world.members[:3]), world.seats)
        world.refuses(call, "UnknownVersion", version=version, known=1)


# ---------------------------------------------------------------------------
# The certificate.


def spoilt(world: World, header: Header) -> dict[str, tuple[list[bytes], str]]:
    """Certificates that are none, by what is wrong with them, and the error."""
    good = commits(world, header, world.members[:3])
    vote = Commit(header.epoch, header.height, 0, block_id(header))
    swapped = commits(world, header, [*world.members[:2], world.seats[3]])
    prepare = Prepare(header.epoch, header.height, 0, block_id(header))
    return {
        "nothing": ([], "NoQuorum"),
        "one too few": (good[:2], "NoQuorum"),
        "one signer twice": ([good[0], good[1], good[1]], "NotAscending"),
        "not in order": ([good[1], good[0], good[2]], "NotAscending"),
        "a stranger": (swapped, "NotASeat"),
        "a stranger besides a quorum": (commits(world, header, [*world.members, world.seats[3]]), "NotASeat"),
        "another round": (commits(world, header, world.members[:3], 1), ""),
        "another block": (commits(world, replace(header, height=10), world.members[:3]), ""),
        "another group": ([world.sign(key, COUNCIL, vote) for key in world.members[:3]], ""),
        "another kind of vote": ([world.sign(key, GROUP, prepare) for key in world.members[:3]], ""),
        "a high s": ([*good[:2], high_s(good[2])], "BadSignature"),
        "v of 0 or 1": ([*good[:2], good[2][:64] + bytes([good[2][64] - 27])], "BadSignature"),
        "64 bytes": ([*good[:2], good[2][:64]], "BadSignature"),
    }


CASES = [
    "nothing", "one too few", "one signer twice", "not in order", "a stranger", "a stranger besides a quorum",
    "another round", "another block", "another group", "another kind of vote", "a high s", "v of 0 or 1",
    "64 bytes",
]  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_what_is_no_certificate_ends_nothing(world: World, name: str) -> None:
    header = last_block(world, world.seats)
    signatures, error = spoilt(world, header)[name]
    assert set(spoilt(world, header)) == set(CASES)
    call = anchor(world, header, signatures, world.seats)
    check = world.anchors.functions.requireCertificate(header_words(header), 0, signatures)
    if error:
        world.refuses(call, error)
        world.refuses(check, error)
        return
    # Other signers are recovered from what was signed otherwise: nobody's, and in any order.
    for each in (call, check):
        with pytest.raises(Exception, match=r"NotASeat|NotAscending"):
            world.client.ask(lambda each=each: each.call({"from": world.accounts[STRANGER].address}))


def test_a_certificate_names_its_signers(world: World) -> None:
    header = last_block(world, world.seats, next_committee_root=bytes(32))  # Of any block.
    for keys in (world.members[:3], world.members[1:], world.members):
        signed = commits(world, header, keys, 7)
        found = world.staking._read(
            world.anchors.functions.requireCertificate(header_words(header), 7, signed)
        )
        assert list(found) == [block_id(header), [id_of(key) for key in keys]]


def test_what_is_hashed_and_signed_is_what_python_says(world: World) -> None:
    header = last_block(world, world.seats, epoch=2**64 - 2, height=2**64 - 1, time_ms=2**64 - 1)
    found, digest = world.staking._read(world.anchors.functions.commitDigest(header_words(header), 2**32 - 1))
    vote = Commit(header.epoch, header.height, 2**32 - 1, block_id(header))
    assert (found, digest) == (block_id(header), signing_digest(world.domain(GROUP), vote))
    for epoch, members in ((0, world.seats), (2**64 - 1, world.members[:1])):
        root = world.staking._read(world.anchors.functions.rootOf(epoch, [id_of(key) for key in members]))
        assert root == Committee(epoch, tuple(ids(members))).root()


# ---------------------------------------------------------------------------
# Stakes.


def punish(world: World, culprit: PrivateKey) -> None:
    world.send(evidence(world, *GUILTY["E3"][:2], culprit))


def test_the_slashed_of_this_epoch_hold_up_nothing_and_fix_nothing(world: World) -> None:
    """f = 1 of 4: with one slashed signer a block is final all the same; two seats of three are too many."""
    header = last_block(world, world.seats)
    call = anchor(world, header, commits(world, header, world.members[:3]), world.seats)
    punish(world, world.members[0])
    world.send(call)
    council = last_block(world, world.members, group_id=COUNCIL)
    for seat in world.seats[:2]:
        first, second, _ = GUILTY["E3"]
        pair = [world.sign(seat, COUNCIL, one) for one in (first, second)]
        world.staking.submit_equivocation(COUNCIL, first, pair[0], second, pair[1])
    signed = commits(world, council, world.seats[:3])
    world.refuses(anchor(world, council, signed, world.members), "TooFewBonded", bonded=1, required=2)
    world.send(anchor(world, council, commits(world, council, world.seats), world.members))


def test_of_three_members_none_may_be_faulty_so_one_bonded_signer_is_more(world: World) -> None:
    """f = 0 for n = 3: two sign, one of them was slashed."""
    world.staking.register_committee(GROUP, 1, ids(world.members[:3]))
    first, second, _ = GUILTY["E3"]
    first, second = replace(first, epoch=1), replace(second, epoch=1)
    pair = [world.sign(world.members[0], GROUP, one) for one in (first, second)]
    world.staking.submit_equivocation(GROUP, first, pair[0], second, pair[1])
    header = last_block(world, world.seats, epoch=1)
    world.send(anchor(world, header, commits(world, header, world.members[:2]), world.seats))


def test_successors_need_no_stake_and_then_certify_nothing(world: World) -> None:
    header = last_block(world, world.spare)
    world.send(anchor(world, header, commits(world, header, world.members[:3]), world.spare))
    following = last_block(world, world.members, epoch=1)
    call = anchor(world, following, commits(world, following, world.spare), world.members)
    world.refuses(call, "TooFewBonded", bonded=0, required=2)
    world.deposit(world.spare[1], 50)
    world.deposit(world.spare[2], 51)
    world.send(call)


# ---------------------------------------------------------------------------
# Set up.


def test_the_registry_trusts_one_registrar_that_its_owner_names(world: World) -> None:
    functions = world.registry.functions
    seat = functions.seatCommittee(GROUP, 1, [id_of(key) for key in world.seats])
    for by in (OWNER, STRANGER):
        world.refuses(seat, "NotTheRegistrar", by=by, caller=world.accounts[by].address.lower())
    world.refuses(functions.setRegistrar(world.manager.address), "AlreadySet", what="registrar")
    world.refuses(functions.setRegistrar(world.manager.address), "OwnableUnauthorizedAccount", by=STRANGER)
    assert world.staking._read(functions.registrar()) == world.anchors.address
    read = world.staking._read
    assert read(world.anchors.functions.REGISTRY()) == world.registry.address
    assert read(world.anchors.functions.SIGNED_FOR()) == world.manager.address


def test_a_registrar_is_a_contract_and_is_told(world: World) -> None:
    registry = a_registry(world)
    call = registry.functions.setRegistrar
    world.refuses(call(world.accounts[STRANGER].address), "NotAContract")
    mined = world.send(call(world.manager.address))
    assert world.events(mined, registry.events.RegistrarSet) == [{"registrar": world.manager.address}]


def test_anchors_need_a_registry_that_has_a_slasher(world: World) -> None:
    compiled = artifact("EpochAnchors")
    factory = world.client.web3.eth.contract(abi=compiled.abi, bytecode=compiled.bytecode)
    for registry, error in ((ZERO, "ZeroAddress"), (a_registry(world).address, "NotSet")):
        call = factory.constructor(registry)
        with world.refused(error):
            world.client.ask(lambda call=call: call.estimate_gas({"from": world.accounts[OWNER].address}))


def a_registry(world: World) -> Any:
    from tests.contracts.test_registry import TERMS, constructor

    made = world.client.transact(constructor(world, TERMS), "make a registry")
    assert made.contract is not None
    return world.client.web3.eth.contract(
        address=checksum(made.contract), abi=artifact("StakingRegistry").abi
    )
