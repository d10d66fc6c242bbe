"""What a guard knows moves to another machine whole, and is added to what is there."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from consensus.types import ZERO_MEMBER, Commit, Digest, Prepare, Propose, RoundChange
from p2pfl import interchange
from p2pfl.errors import UserError
from p2pfl.genesis import ChainEntry, Genesis
from p2pfl.keys import Guard, Refused, SigningKey
from p2pfl.signed import ParamTx, ShareRequest
from testnet import plan
from testnet.scenarios import load

A, B, NONE = Digest(b"a" * 32), Digest(b"b" * 32), Digest(bytes(32))
KEY = SigningKey.from_secret(b"\x07" * 32)
TX = ParamTx(0, 5, KEY.member_id, A, A, 10, 5, 0, A, 7, A, -3, 4)
SAID: tuple[Any, ...] = (
    Commit(0, 4, 0, B),
    ShareRequest(0, 5, 1, A, A),
    TX,
    Propose(0, 5, 1, A),
    Prepare(0, 5, 1, A),
    Commit(0, 5, 1, A),
)


@pytest.fixture(scope="module")
def genesis(tmp_path_factory: pytest.TempPathFactory) -> Genesis:
    scenario = load("honest", groups=2, seats=1)
    ground = plan.break_ground(scenario, tmp_path_factory.mktemp("network") / "run")
    return plan.draw_plan(ground, ChainEntry(0, ZERO_MEMBER, ZERO_MEMBER)).genesis


@pytest.fixture
def guard(tmp_path: Path) -> Guard:
    return Guard(tmp_path / "guard", KEY, new_key=True)


@pytest.fixture
def fresh(tmp_path: Path) -> Guard:
    return Guard(tmp_path / "moved", KEY, new_key=True)


def moved(genesis: Genesis, guard: Guard, to: Guard, tmp_path: Path, *, minimal: bool = False) -> Path:
    path = tmp_path / "export.json"
    path.write_text(interchange.export(genesis, *guard.content(), minimal=minimal))
    assert to.absorb(*interchange.read(path, genesis, KEY.member_id)) == []
    return path


def restarted(guard: Guard) -> Guard:
    guard.close()
    return Guard(guard._journal.path, KEY)


def test_a_complete_file_carries_every_signature(
    genesis: Genesis, guard: Guard, fresh: Guard, tmp_path: Path
) -> None:
    domain = genesis.domain("g0")
    signatures = [guard.sign(domain, struct) for struct in SAID]
    path = moved(genesis, guard, fresh, tmp_path)
    fresh = restarted(fresh)
    assert [fresh.sign(domain, struct) for struct in SAID] == signatures
    for contradiction in (
        Commit(0, 5, 1, B),
        replace(TX, blob_id=B),
        RoundChange(0, 5, 2, 0, NONE, A),  # E5: it denies the highest Commit.
        Prepare(0, 3, 0, A),
    ):
        with pytest.raises(Refused):
            fresh.sign(domain, contradiction)
    assert fresh.newest(domain) == (0, 5)
    assert fresh.sign(domain, RoundChange(0, 5, 2, 2, A, A)), "the open height goes on"
    # What was exported, imported and exported again is the same.
    guard.sign(domain, RoundChange(0, 5, 2, 2, A, A))
    again = interchange.export(genesis, *fresh.content())
    assert again == interchange.export(genesis, *guard.content()) != path.read_text()


def test_the_file_has_the_shape_of_eip_3076(genesis: Genesis, guard: Guard) -> None:
    guard.sign_many([(genesis.domain("g1"), struct) for struct in SAID])
    table = json.loads(interchange.export(genesis, *guard.content()))
    assert table["metadata"] == {
        "interchange_format_version": "1",
        "network_id": "0x" + genesis.network_id.hex(),
    }
    (key,) = table["data"]
    assert key["member"] == "0x" + KEY.member_id.hex()
    (group,) = key["groups"]
    assert group["group_id"] == "0x" + genesis.group_id("g1").hex()
    assert group["highest_commit"] == {"epoch": "0", "height": "5", "round": "1", "block_id": "0x" + A.hex()}
    assert [entry["kind"] for entry in group["signed"]] == [type(struct).__name__ for struct in SAID]
    assert all(isinstance(entry[name], str) for entry in group["signed"] for name in entry)


def test_a_minimal_file_refuses_everything_at_or_below(
    genesis: Genesis, guard: Guard, fresh: Guard, tmp_path: Path
) -> None:
    domain = genesis.domain("g0")
    for struct in SAID:
        guard.sign(domain, struct)
    moved(genesis, guard, fresh, tmp_path, minimal=True)
    fresh = restarted(fresh)
    assert fresh.content()[1] == ()
    for struct in (*SAID, Prepare(0, 5, 9, A), replace(TX, height=0)):
        with pytest.raises(Refused, match="up to epoch 0, height 5"):
            fresh.sign(domain, struct)
    assert fresh.newest(domain) == (0, 5)
    assert fresh.has_voted(domain, 0, 5)
    assert fresh.sign(domain, Prepare(0, 6, 0, A))
    assert fresh.sign(genesis.domain("g1"), Prepare(0, 1, 0, A)), "each group has heights of its own"


def test_an_import_forgets_nothing_that_the_guard_has(
    genesis: Genesis, guard: Guard, fresh: Guard, tmp_path: Path
) -> None:
    domain, other = genesis.domain("g0"), genesis.domain("g1")
    guard.sign(domain, Prepare(0, 5, 0, A))
    fresh.sign(domain, Prepare(0, 5, 1, B))
    fresh.sign(other, Commit(0, 9, 0, A))
    moved(genesis, guard, fresh, tmp_path)
    fresh = restarted(fresh)
    for contradiction in (Prepare(0, 5, 0, B), Prepare(0, 5, 1, A)):
        with pytest.raises(Refused):
            fresh.sign(domain, contradiction)
    with pytest.raises(Refused):
        fresh.sign(other, Commit(0, 9, 0, B))
    # A lower height of a file lowers nothing, a higher one counts.
    guard.sign(other, Prepare(0, 2, 0, A))
    guard.sign(domain, Prepare(0, 7, 0, A))
    moved(genesis, guard, fresh, tmp_path, minimal=True)
    assert (fresh.newest(domain), fresh.newest(other)) == ((0, 7), (0, 9))


def test_a_key_that_signed_twice_is_told_and_the_height_is_closed(
    genesis: Genesis, guard: Guard, fresh: Guard, tmp_path: Path
) -> None:
    domain = genesis.domain("g0")
    guard.sign(domain, Prepare(0, 5, 0, A))
    fresh.sign(domain, Prepare(0, 5, 0, B))
    path = tmp_path / "export.json"
    path.write_text(interchange.export(genesis, *guard.content()))
    clashes = fresh.absorb(*interchange.read(path, genesis, KEY.member_id))
    assert [(clash.kind, clash.height) for clash in clashes] == [("Prepare", 5)]
    with pytest.raises(Refused):
        fresh.sign(domain, Commit(0, 5, 0, B))
    assert fresh.sign(domain, Prepare(0, 6, 0, A))


def test_a_guard_that_was_lost_stays_so_elsewhere(genesis: Genesis, tmp_path: Path, fresh: Guard) -> None:
    lost = Guard(tmp_path / "lost", KEY, lost_at_ms=5_000)
    moved(genesis, lost, fresh, tmp_path)
    fresh = restarted(fresh)
    with pytest.raises(Refused, match="lost"):
        fresh.sign(genesis.domain("g0"), Prepare(0, 1, 0, A))
    fresh.begin_epoch(3, 5_001)
    assert fresh.sign(genesis.domain("g0"), Prepare(3, 1, 0, A))


def test_a_full_disk_leaves_the_guard_as_it_was(
    genesis: Genesis, guard: Guard, fresh: Guard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    domain = genesis.domain("g0")
    guard.sign(domain, Prepare(0, 5, 0, A))
    fresh.sign(domain, Prepare(0, 4, 0, A))
    before = fresh.content()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    path = tmp_path / "export.json"
    path.write_text(interchange.export(genesis, *guard.content()))
    with monkeypatch.context() as broken:
        broken.setattr("os.write", full)
        with pytest.raises(UserError, match="disk is full"):
            fresh.absorb(*interchange.read(path, genesis, KEY.member_id))
    assert fresh.content() == before
    assert restarted(fresh).content() == before


def _first(table: dict[str, Any]) -> dict[str, Any]:
    return table["data"][0]["groups"][0]["signed"][0]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda t: t["metadata"].update(network_id="0x" + "11" * 32), "another network"),
        (lambda t: t["data"][0].update(member="0x" + "22" * 20), "another key"),
        (lambda t: t.update(data=[]), "no key at all"),
        (lambda t: t["metadata"].update(interchange_format_version="5"), "version is 5"),
        (lambda t: t["data"][0]["groups"][0].update(group_id="0x" + "33" * 32), "no group"),
        (lambda t: t["data"][0]["groups"][0].update(highest_commit=None), "highest_commit"),
        (lambda t: _first(t).update(height="7"), "does not say"),
        (lambda t: _first(t).update(digest="0x" + "44" * 32), "does not say"),
        (lambda t: _first(t).update(signature="0x" + "55" * 65), "is no export"),
        (lambda t: _first(t).update(signature=_first(t)["signature"][:-2] + "1d"), "is no export"),
        (lambda t: _first(t).update(words=_first(t)["words"] + "00"), "words"),
        (lambda t: _first(t).update(kind="Ballot"), "Ballot"),
        (lambda t: _first(t).update(height="-1"), "no number"),
        (lambda t: _first(t).update(height=4), "str was expected"),
        (lambda t: t["data"][0]["groups"][0].update(refused_up_to={"epoch": "0"}), "missing"),
        (lambda t: t["data"][0].update(lost_at_ms=str(1 << 64)), "64 bits"),
        (lambda t: t.update(more=1), "unknown"),
    ],
)
def test_what_is_not_this_keys_past_is_refused(
    genesis: Genesis, guard: Guard, tmp_path: Path, change: Callable[[dict[str, Any]], None], told: str
) -> None:
    guard.sign_many([(genesis.domain("g0"), struct) for struct in SAID])
    table = json.loads(interchange.export(genesis, *guard.content()))
    change(table)
    path = tmp_path / "export.json"
    path.write_text(json.dumps(table))
    with pytest.raises(UserError) as caught:
        interchange.read(path, genesis, KEY.member_id)
    assert told in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 5_000])
def test_what_is_no_json_object_is_refused(genesis: Genesis, tmp_path: Path, text: str) -> None:
    path = tmp_path / "export.json"
    path.write_text(text)
    with pytest.raises(UserError, match="no export"):
        interchange.read(path, genesis, KEY.member_id)


def test_a_guard_of_another_network_is_not_exported(genesis: Genesis, guard: Guard) -> None:
    guard.sign(replace(genesis.domain("g0"), chain_id=9), Prepare(0, 1, 0, A))
    with pytest.raises(UserError, match="does not belong to this network"):
        interchange.export(genesis, *guard.content())
