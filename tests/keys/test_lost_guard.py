"""A guard that was lost signs nothing until an epoch that is known to have begun after the loss."""

from __future__ import annotations

from pathlib import Path

import pytest

from consensus.types import Digest, Prepare
from p2pfl.errors import UserError
from p2pfl.guard_file import member_of_guard
from p2pfl.keys import Guard, Refused
from p2pfl.signed import Ballot, Measurement, Verdict
from tests.keys.test_guard import DOMAIN, KEY, PAIRS

A = Digest(b"a" * 32)
LOST_MS = 1_700_000_000_000
SKEW_MS = 500
PLAIN = (
    Ballot(0, 5, A, 1, 2, 1),
    Measurement(0, A, KEY.member_id, 0, A, 3, 0, 0),
    Verdict(A, 0, 5, KEY.member_id, 16, A),
)


def lost(path: Path) -> Guard:
    return Guard(path, KEY, lost_at_ms=LOST_MS, clock_skew_ms=SKEW_MS)


def again(guard: Guard, path: Path) -> Guard:
    guard.close()
    return Guard(path, KEY, clock_skew_ms=SKEW_MS)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "guard"


def test_every_struct_is_refused_and_the_reason_says_from_when_on_it_signs(path: Path) -> None:
    guard = lost(path)
    for _ in range(2):  # The second time the loss is read from the file.
        for struct, _ in PAIRS:
            with pytest.raises(Refused, match=r"begins after 2023-11-14 22:13:20 UTC"):
                guard.sign(DOMAIN, struct)
        for struct in PLAIN:
            with pytest.raises(Refused, match=r"begins after 2023-11-14 22:13:20 UTC"):
                guard.sign_plain(DOMAIN, struct)
        guard = again(guard, path)
    guard.close()


def test_an_epoch_that_began_before_the_loss_stays_silent(path: Path) -> None:
    guard = lost(path)
    for began_ms in (0, LOST_MS, LOST_MS + SKEW_MS):  # Clocks differ by so much: it may have begun before.
        guard.begin_epoch(4, began_ms)
        with pytest.raises(Refused):
            guard.sign(DOMAIN, Prepare(4, 80, 0, A))
    guard.close()


@pytest.mark.parametrize("restart", [False, True])
def test_it_signs_in_the_first_epoch_that_began_later_and_in_all_after_it(path: Path, restart: bool) -> None:
    guard = lost(path)
    guard.begin_epoch(4, LOST_MS - 1)
    guard.begin_epoch(5, LOST_MS + SKEW_MS + 1)
    if restart:
        guard = again(guard, path)
    for old in (Prepare(0, 5, 0, A), Prepare(4, 90, 0, A)):
        with pytest.raises(Refused, match="from epoch 5 on"):
            guard.sign(DOMAIN, old)
    with pytest.raises(Refused, match="from epoch 5 on"):
        guard.sign_plain(DOMAIN, PLAIN[0])
    assert guard.sign(DOMAIN, Prepare(5, 91, 0, A))
    assert guard.sign(DOMAIN, Prepare(6, 99, 0, A))
    guard.close()


def test_a_later_epoch_does_not_move_the_first_one_that_is_signed_in(path: Path) -> None:
    guard = lost(path)
    guard.begin_epoch(5, LOST_MS + SKEW_MS + 1)
    size = path.stat().st_size
    guard.begin_epoch(6, LOST_MS + 10_000)
    assert path.stat().st_size == size
    assert guard.sign(DOMAIN, Prepare(5, 91, 0, A))
    guard.close()


def test_a_full_disk_delays_no_epoch(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not written down is told again after a restart."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    guard = lost(path)
    with monkeypatch.context() as broken:
        broken.setattr("os.write", full)
        guard.begin_epoch(5, LOST_MS + SKEW_MS + 1)
    assert guard.sign(DOMAIN, Prepare(5, 91, 0, A))
    guard = again(guard, path)
    with pytest.raises(Refused):
        guard.sign(DOMAIN, Prepare(5, 91, 0, A))
    guard.begin_epoch(5, LOST_MS + SKEW_MS + 1)
    assert guard.sign(DOMAIN, Prepare(5, 91, 0, A))
    guard.close()


def test_a_guard_that_was_never_lost_signs_in_every_epoch_and_needs_no_word_of_it(path: Path) -> None:
    guard = Guard(path, KEY, new_key=True)
    size = path.stat().st_size
    guard.begin_epoch(0, 0)
    assert path.stat().st_size == size
    assert guard.sign(DOMAIN, Prepare(0, 5, 0, A))
    assert guard.sign_plain(DOMAIN, PLAIN[0])
    guard.close()


def test_a_guard_that_is_there_is_not_lost(path: Path) -> None:
    """The flag may stay in the settings: it changes nothing while there is a guard."""
    Guard(path, KEY, new_key=True).close()
    guard = lost(path)
    assert guard.sign(DOMAIN, Prepare(0, 5, 0, A))
    guard.close()
    path.unlink()
    lost(path).close()
    guard = Guard(path, KEY, lost_at_ms=LOST_MS + 9, clock_skew_ms=SKEW_MS)
    guard.begin_epoch(1, LOST_MS + SKEW_MS + 1)  # The first loss counts, not the last start.
    assert guard.sign(DOMAIN, Prepare(1, 50, 0, A))
    guard.close()


def test_a_new_key_whose_guard_was_lost_is_treated_as_lost(path: Path) -> None:
    guard = Guard(path, KEY, new_key=True, lost_at_ms=LOST_MS)
    with pytest.raises(Refused):
        guard.sign(DOMAIN, Prepare(0, 5, 0, A))
    guard.close()


def test_whose_guard_it_is_can_be_read_while_it_is_open(path: Path) -> None:
    assert member_of_guard(path) is None
    guard = lost(path)
    assert member_of_guard(path) == KEY.member_id
    guard.close()


def test_the_guard_of_another_release_is_refused_with_the_way_out(path: Path) -> None:
    from p2pfl import codec
    from p2pfl.durable import Journal
    from p2pfl.guard_file import Identity

    Journal.create(path, codec.encode(Identity(1, KEY.member_id))).close()
    with pytest.raises(UserError, match="version 1") as caught:
        Guard(path, KEY)
    assert "--guard-lost" in caught.value.fix
