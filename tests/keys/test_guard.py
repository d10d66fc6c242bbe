"""The guard signs nothing that contradicts what it signed before, whatever happens in between."""

from __future__ import annotations

import itertools
import os
import resource
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from consensus import signing
from consensus.signing import Domain
from consensus.types import Commit, Digest, MemberId, Prepare, Propose, RoundChange
from p2pfl.errors import UserError
from p2pfl.keys import GUARDED, Guard, Refused, SigningKey
from p2pfl.signed import Ballot, Close, Measurement, ParamTx, ShareRequest, Verdict

DOMAIN = Domain(1, MemberId(bytes(20)), Digest(b"g" * 32))
OTHER_GROUP = Domain(1, MemberId(bytes(20)), Digest(b"h" * 32))
A, B, NONE = Digest(b"a" * 32), Digest(b"b" * 32), Digest(bytes(32))
KEY = SigningKey.from_secret(b"\x07" * 32)

TX = ParamTx(0, 5, KEY.member_id, A, A, 10, 5, 0, A, 7, A, -3, 4)
# One of each guarded kind at (epoch 0, height 5), and what contradicts it in the same place.
PAIRS: list[tuple[Any, Any]] = [
    (Propose(0, 5, 1, A), Propose(0, 5, 1, B)),
    (Prepare(0, 5, 1, A), Prepare(0, 5, 1, B)),
    (Commit(0, 5, 1, A), Commit(0, 5, 1, B)),
    (RoundChange(0, 5, 1, 0, NONE, A), RoundChange(0, 5, 1, 1, A, A)),
    (ShareRequest(0, 5, 1, A, A), ShareRequest(0, 5, 1, B, A)),
    (TX, replace(TX, blob_id=B)),
    (Close(0, 5, 1, A), Close(0, 5, 1, B)),
]
KINDS = [type(first).__name__ for first, _ in PAIRS]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "guard"


@pytest.fixture
def guard(path: Path) -> Iterator[Guard]:
    opened = Guard(path, KEY, new_key=True)
    yield opened
    opened.close()


def restarted(guard: Guard, path: Path) -> Guard:
    guard.close()
    return Guard(path, KEY)


def test_every_guarded_kind_has_a_pair_here() -> None:
    assert set(KINDS) == GUARDED


@pytest.mark.parametrize(("said", "contradiction"), PAIRS, ids=KINDS)
@pytest.mark.parametrize("restart", [False, True], ids=["same process", "after a restart"])
def test_the_same_again_is_the_same_signature_and_anything_else_is_refused(
    guard: Guard, path: Path, said: Any, contradiction: Any, restart: bool
) -> None:
    signature = guard.sign(DOMAIN, said)
    if restart:
        guard = restarted(guard, path)
    size = path.stat().st_size
    assert signing.recover(signing.signing_digest(DOMAIN, said), signature) == KEY.member_id
    assert guard.sign(DOMAIN, said) == signature
    with pytest.raises(Refused):
        guard.sign(DOMAIN, contradiction)
    assert guard.signed(DOMAIN, type(said), 0, 5, getattr(said, "round", 0)) == (said, signature)
    assert path.stat().st_size == size, "a repeated or refused signature leaves nothing behind"
    guard.close()


@pytest.mark.parametrize("said", [said for said, _ in PAIRS], ids=KINDS)
def test_nothing_is_signed_below_the_newest_height(guard: Guard, said: Any) -> None:
    guard.sign(DOMAIN, Propose(0, 6, 0, A))
    with pytest.raises(Refused):
        guard.sign(DOMAIN, said)
    assert guard.newest(DOMAIN) == (0, 6)
    assert guard.sign(OTHER_GROUP, said), "another group's chain has heights of its own"


def test_a_newer_epoch_counts_more_than_a_height(guard: Guard) -> None:
    guard.sign(DOMAIN, Commit(1, 3, 0, A))
    with pytest.raises(Refused):
        guard.sign(DOMAIN, Commit(0, 9, 0, A))
    assert guard.newest(DOMAIN) == (1, 3)
    assert guard.newest(OTHER_GROUP) is None


@pytest.mark.parametrize("restart", [False, True])
def test_a_round_change_never_denies_the_highest_own_commit(guard: Guard, path: Path, restart: bool) -> None:
    guard.sign(DOMAIN, Commit(0, 5, 1, A))
    guard.sign(DOMAIN, Commit(0, 5, 3, B))
    if restart:
        guard = restarted(guard, path)
    for claim in (
        RoundChange(0, 5, 4, 0, NONE, A),
        RoundChange(0, 5, 4, 2, A, A),  # The Commit of round 1 was not the highest.
        RoundChange(0, 5, 4, 4, A, A),  # Round 3, another block.
    ):
        with pytest.raises(Refused, match="E5"):
            guard.sign(DOMAIN, claim)
    assert guard.sign(DOMAIN, RoundChange(0, 5, 4, 4, B, A))
    assert guard.sign(DOMAIN, RoundChange(0, 5, 5, 5, A, A)), "a higher prepared round may name another block"
    guard.close()


@pytest.mark.parametrize("vote", [Prepare(0, 5, 1, A), Commit(0, 5, 1, A), RoundChange(0, 5, 1, 0, NONE, A)])
@pytest.mark.parametrize("restart", [False, True])
def test_a_round_that_was_left_is_left(guard: Guard, path: Path, vote: Any, restart: bool) -> None:
    guard.sign(DOMAIN, RoundChange(0, 5, 2, 0, NONE, A))
    if restart:
        guard = restarted(guard, path)
    with pytest.raises(Refused, match="left"):
        guard.sign(DOMAIN, vote)
    assert guard.sign(DOMAIN, Prepare(0, 5, 2, A)), "the round that was asked for is open"
    guard.close()


@pytest.mark.usefixtures("quick_disk")
def test_random_requests_never_yield_an_offence(tmp_path: Path) -> None:
    """Whatever is asked, in any order, with restarts: no pair of answers is E1 to E6."""
    import random

    for seed in range(40):
        chance = random.Random(seed)
        path = tmp_path / str(seed)
        guard = Guard(path, KEY, new_key=True)
        given: list[Any] = []
        for _ in range(60):
            block = chance.choice([A, B])
            round_, prepared = chance.randrange(4), chance.randrange(4)
            struct = chance.choice(
                [
                    Propose(0, 5, round_, block),
                    Prepare(0, 5, round_, block),
                    Commit(0, 5, round_, block),
                    RoundChange(0, 5, round_, prepared, block if prepared else NONE, chance.choice([A, B])),
                    ShareRequest(0, 5, round_, block, A),
                    Close(0, 5, round_, block),
                    replace(TX, blob_id=block),
                ]
            )
            try:
                guard.sign(DOMAIN, struct)
                given.append(struct)
            except Refused:
                pass
            if chance.random() < 0.1:
                guard = restarted(guard, path)
        guard.close()
        assert len({type(struct) for struct in given}) >= 3
        for one, two in itertools.combinations(set(given), 2):
            assert not is_offence(one, two) and not is_offence(two, one), f"seed {seed}: {one} and {two}"


def is_offence(one: Any, two: Any) -> bool:
    """The table of protocol section 5, written down a second time."""
    if type(one) is type(two) and getattr(one, "round", 0) == getattr(two, "round", 0):
        if isinstance(one, RoundChange):
            return (one.prepared_round_plus_1, one.prepared_block_id) != (
                two.prepared_round_plus_1,
                two.prepared_block_id,
            )
        return one != two
    if isinstance(one, Commit) and isinstance(two, RoundChange) and two.round > one.round:
        claimed = two.prepared_round_plus_1 - 1
        return claimed < one.round or (claimed == one.round and two.prepared_block_id != one.block_id)
    return False


def test_several_structs_share_one_fsync(guard: Guard, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (calls.append(handle), fsync(handle))[1])
    structs = [said for said, _ in PAIRS if not isinstance(said, RoundChange)]
    signatures = guard.sign_many([(DOMAIN, struct) for struct in structs])
    assert len(calls) == 1
    for struct, signature in zip(structs, signatures, strict=True):
        assert signing.recover(signing.signing_digest(DOMAIN, struct), signature) == KEY.member_id
    guard.sign_many([(DOMAIN, struct) for struct in structs])
    assert len(calls) == 1, "what is stored needs no fsync"


def test_a_batch_is_checked_against_itself_and_is_all_or_none(guard: Guard, path: Path) -> None:
    guard.sign(DOMAIN, Propose(0, 5, 0, A))
    size = path.stat().st_size
    with pytest.raises(Refused):
        guard.sign_many([(DOMAIN, Prepare(0, 7, 0, A)), (DOMAIN, Prepare(0, 7, 0, B))])
    assert path.stat().st_size == size
    assert guard.newest(DOMAIN) == (0, 5)
    assert guard.signed(DOMAIN, Propose, 0, 5) is not None
    assert guard.sign(DOMAIN, Prepare(0, 5, 0, B))


def test_kinds_are_told_apart_by_what_is_hashed(guard: Guard) -> None:
    class Innocent(Commit):
        pass

    guard.sign(DOMAIN, Commit(0, 5, 0, A))
    with pytest.raises(Refused):
        guard.sign(DOMAIN, Innocent(0, 5, 0, B))
    with pytest.raises(ValueError, match="through the guard"):
        guard.sign_plain(DOMAIN, Innocent(0, 5, 0, B))


def test_what_may_be_said_twice_needs_no_guard(guard: Guard, path: Path) -> None:
    size = path.stat().st_size
    for struct in (
        Ballot(0, 5, A, 1, 2, 1),
        Measurement(0, A, KEY.member_id, 0, A, 3, 0, 0),
        Verdict(A, 0, 5, KEY.member_id, 16, A),
    ):
        signature = guard.sign_plain(DOMAIN, struct)
        assert signing.recover(signing.signing_digest(DOMAIN, struct), signature) == KEY.member_id
        with pytest.raises(ValueError, match="not guarded"):
            guard.sign(DOMAIN, struct)
    assert path.stat().st_size == size


# -- the file -----------------------------------------------------------------


def test_a_key_without_its_guard_does_not_start(path: Path) -> None:
    with pytest.raises(UserError, match="missing") as caught:
        Guard(path, KEY)
    assert "node.new_keys" in caught.value.fix
    assert "--guard-lost" in caught.value.fix
    Guard(path, KEY, new_key=True).close()
    Guard(path, KEY).close()


def test_a_guard_of_another_key_is_refused(guard: Guard, path: Path) -> None:
    guard.close()
    with pytest.raises(UserError, match="another key"):
        Guard(path, SigningKey.from_secret(b"\x08" * 32))


def test_two_processes_cannot_share_a_guard(guard: Guard, path: Path) -> None:
    with pytest.raises(UserError, match="in use"):
        Guard(path, KEY)


@pytest.mark.usefixtures("quick_disk")
def test_a_torn_tail_is_cut_at_every_offset_and_nothing_before_it_is_lost(guard: Guard, path: Path) -> None:
    guard.sign(DOMAIN, Prepare(0, 5, 0, A))
    kept = path.stat().st_size
    guard.sign(DOMAIN, Commit(0, 5, 0, A))
    guard.close()
    whole = path.read_bytes()
    for end in range(kept, len(whole)):
        path.write_bytes(whole[:end])
        again = Guard(path, KEY)
        assert again.signed(DOMAIN, Prepare, 0, 5) is not None
        assert again.signed(DOMAIN, Commit, 0, 5) is None
        assert path.stat().st_size == kept
        again.close()


@pytest.mark.usefixtures("quick_disk")
def test_a_damaged_byte_anywhere_stops_the_guard_with_its_offset(guard: Guard, path: Path) -> None:
    """The last record too: it was durable, so a signature may have left."""
    for round_ in range(3):
        guard.sign(DOMAIN, Commit(0, 5, round_, A))
    guard.close()
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        with pytest.raises(UserError, match=r"damaged at byte \d+|another key") as caught:
            Guard(path, KEY)
        assert "restore the guard" in caught.value.fix
    path.write_bytes(whole)
    Guard(path, KEY).close()


def test_a_full_disk_refuses_the_signature_and_leaves_the_guard_whole(guard: Guard, path: Path) -> None:
    guard.sign(DOMAIN, Prepare(0, 5, 0, A))
    size = path.stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, hard))  # A record is longer: a partial write.
    try:
        with pytest.raises(UserError, match="disk is full"):
            guard.sign(DOMAIN, Commit(0, 5, 0, A))
        assert path.stat().st_size == size
        assert guard.signed(DOMAIN, Commit, 0, 5) is None
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert guard.sign(DOMAIN, Commit(0, 5, 0, B)), "it can sign again once there is room"
    guard = restarted(guard, path)
    assert guard.signed(DOMAIN, Commit, 0, 5) is not None
    guard.close()


def test_after_a_failed_fsync_nothing_is_signed_until_a_restart(
    guard: Guard, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(handle: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", fails)
        with pytest.raises(UserError):
            guard.sign(DOMAIN, Commit(0, 5, 0, A))
    with pytest.raises(UserError, match="no more records"):
        guard.sign(DOMAIN, Commit(0, 5, 0, B))
    guard = restarted(guard, path)
    with pytest.raises(Refused):  # The record may have reached the disk: here it did, and it counts.
        guard.sign(DOMAIN, Commit(0, 5, 0, B))
    guard.close()


def test_the_journal_compacts_itself_and_forgets_no_height_that_counts(
    guard: Guard, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("p2pfl.guard.JOURNAL_BYTES_MAX", 20_000)
    for height in range(200):
        guard.sign(DOMAIN, Commit(0, height, 0, A))
    assert path.stat().st_size <= 20_000 + 400
    guard.sign(OTHER_GROUP, Commit(0, 1, 0, A))
    for height in range(200, 300):
        guard.sign(DOMAIN, Commit(0, height, 0, A))
    guard = restarted(guard, path)
    assert guard.newest(DOMAIN) == (0, 299)
    assert guard.newest(OTHER_GROUP) == (0, 1)
    with pytest.raises(Refused):
        guard.sign(DOMAIN, Commit(0, 299, 0, B))
    with pytest.raises(Refused):
        guard.sign(OTHER_GROUP, Commit(0, 1, 0, B))
    guard.close()


def test_a_copy_of_the_guard_serves_on_another_machine(guard: Guard, path: Path, tmp_path: Path) -> None:
    guard.sign(DOMAIN, Commit(0, 5, 0, A))
    moved = tmp_path / "elsewhere"
    shutil.copy(path, moved)
    copy = Guard(moved, KEY)
    with pytest.raises(Refused):
        copy.sign(DOMAIN, Commit(0, 5, 0, B))
    copy.close()
