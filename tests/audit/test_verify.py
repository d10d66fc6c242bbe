"""`verify` accepts a true history and finds each thing that can be wrong with another."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from consensus.signing import block_id
from consensus.types import ZERO_DIGEST, Block, Certificate, Commit, DecidedBlock, Digest, RoundChange
from p2pfl import codec
from p2pfl import genesis as genesis_file
from p2pfl.audit.verify import verify
from p2pfl.durable import Journal
from p2pfl.errors import UserError
from p2pfl.genesis import COUNCIL
from p2pfl.records import body_root, field_leaves
from p2pfl.signed import Close
from p2pfl.store import Notes
from p2pfl.store.blocks import BlockFile, identity

from .built import key_of
from .chain import COPIED, GROUPS, LIAR, Built, build, cases_of, decide, found, member_of, verified


@pytest.fixture(scope="module")
def built() -> Built:
    return build()


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory, built: Built) -> Path:
    """A testnet's run directory with a member of each group and two seats."""
    path = tmp_path_factory.mktemp("run")
    for name in GROUPS:
        built.write(path / "nodes" / f"{name}-m0", (name, COUNCIL))
    for seat in ("council-m0", "council-m1"):
        built.write(path / "nodes" / seat, blobs=False)
    genesis_file.save(built.genesis, path / "genesis.json")
    return path


@pytest.fixture
def run(tmp_path: Path, run_folder: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(run_folder, tmp_path / "run"))


def test_the_history_has_all_that_is_judged_here(built: Built) -> None:
    """Otherwise the tests below would pass for want of anything to find."""
    cases = cases_of(built)
    accused = [built.genesis.member(case.accused).name for case in cases]
    assert (cases[0].cause, accused[0]) == ("group_apart", LIAR)
    assert COPIED in accused
    outcomes = [each.outcome for each in built.body(COUNCIL, 2).outcomes]
    assert outcomes == ["guilty", "cleared", "cleared"]
    assert len(built.body(COUNCIL, 3).certificates) == 1
    assert built.body("g1", 3).base.own_heights == (2,)
    assert built.body("g1", 2).unrevealed
    assert built.body("g2", 2).standings


@pytest.mark.parametrize("recompute", [False, True])
def test_a_true_history_holds(run_folder: Path, recompute: bool) -> None:
    report = verify(run_folder, recompute=recompute)
    assert report.findings == []
    assert report.ok
    assert report.chains == {"g1": 5, "g2": 5, "g3": 5, "council": 3}
    assert (report.blocks, report.certificates, report.copies) == (22, 22, 3 * 2 + 2 * 4)
    assert (report.cases, report.verdicts) == (3, 1)
    assert report.recomputed == (22 if recompute else 0)
    assert report.skipped == []
    assert report.to_json()["ok"] is True


def test_one_node_can_be_verified_alone(run_folder: Path) -> None:
    report = verify(run_folder / "nodes" / "g2-m0", recompute=True)
    assert report.ok
    assert report.chains == {"g2": 5, "council": 3}
    assert report.recomputed == 6, "the council's blocks need the other groups' bodies"
    assert any("recomputation of council" in line for line in report.skipped)


def test_without_blobs_it_says_what_it_could_not_check(run_folder: Path) -> None:
    report = verify(run_folder / "nodes" / "council-m0", recompute=True)
    assert report.ok
    assert report.recomputed == 0
    assert any(line.startswith("chunks and bands of g1 0 to 5 (6 blocks)") for line in report.skipped)


# -- files -----------------------------------------------------------------------


def test_a_flipped_byte_in_a_block_file_is_found(run: Path) -> None:
    path = run / "nodes" / "g1-m0" / "chain" / "g1.mps"
    offset = BlockFile(path).offsets[3]
    data = bytearray(path.read_bytes())
    data[offset + 500] ^= 1
    path.write_bytes(data)
    report = verify(run)
    assert found(report) == {("damaged_file", "g1", 3)}
    assert report.findings[0].node == "g1-m0"
    assert str(offset) in report.findings[0].detail
    assert report.chains["g1"] == 5, "the seats' copies still tell the rest"


def test_a_truncated_file_is_found(run: Path) -> None:
    path = run / "nodes" / "council-m1" / "chain" / "g3.mps"
    path.write_bytes(path.read_bytes()[:-100])
    report = verify(run)
    assert found(report) == {("truncated_file", "g3", 5)}
    assert report.findings[0].node == "council-m1"


def test_a_file_that_is_being_appended_to_is_read_again(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`verify` may look at a node that runs: half a record is whole a moment later."""
    path = run / "nodes" / "g1-m0" / "chain" / "g1.mps"
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    monkeypatch.setattr("time.sleep", lambda seconds: path.write_bytes(whole))
    report = verify(run)
    assert report.ok
    assert report.chains["g1"] == 5


def rewritten(
    path: Path, built: Built, name: str, change: Callable[[int, DecidedBlock], DecidedBlock]
) -> None:
    """Write a block file anew with good checksums: what somebody does who wants to hide a change."""
    own = identity(built.genesis.network_id, built.genesis.group_id(name))
    records = [codec.encode(change(height, each)) for height, each in enumerate(BlockFile(path))]
    Journal.create(path, own, records).close()


def test_a_changed_body_is_found_though_its_file_is_whole(run: Path, built: Built) -> None:
    def change(height: int, decided: DecidedBlock) -> DecidedBlock:
        if height != 2:
            return decided
        body = dataclasses.replace(built.body("g1", 2), rule="median")
        return dataclasses.replace(decided, block=Block(decided.block.header, codec.encode(body)))

    for node in ("g1-m0", "council-m0"):
        rewritten(run / "nodes" / node / "chain" / "g1.mps", built, "g1", change)
    report = verify(run)
    assert found(report) == {("bad_body", "g1", 2)}
    assert {each.node for each in report.findings} == {"g1-m0", "council-m0"}


def test_bytes_that_are_no_body_are_found(run: Path, built: Built) -> None:
    def change(height: int, decided: DecidedBlock) -> DecidedBlock:
        body = decided.block.body + b"\0" if height == 1 else decided.block.body
        return dataclasses.replace(decided, block=Block(decided.block.header, body))

    for node in ("council-m0", "council-m1", "g1-m0", "g2-m0", "g3-m0"):
        rewritten(run / "nodes" / node / "chain" / "council.mps", built, COUNCIL, change)
    report = verify(run)
    assert ("bad_body", COUNCIL, 1) in found(report)


def test_a_swapped_certificate_is_found(run: Path, built: Built) -> None:
    other = built.chains["g1"][1].certificate

    def change(height: int, decided: DecidedBlock) -> DecidedBlock:
        return dataclasses.replace(decided, certificate=other) if height == 2 else decided

    rewritten(run / "nodes" / "council-m1" / "chain" / "g1.mps", built, "g1", change)
    report = verify(run)
    assert found(report) == {("bad_certificate", "g1", 2)}
    assert report.chains["g1"] == 5


def test_a_chain_of_another_network_is_found(run: Path, built: Built) -> None:
    path = run / "nodes" / "council-m1" / "chain" / "g1.mps"
    records = [codec.encode(each) for each in built.chains["g1"]]
    Journal.create(path, identity(Digest(b"x" * 32), built.genesis.group_id("g1")), records).close()
    assert ("other_network", "g1", -1) in found(verify(run))


def test_a_genesis_of_another_network_is_found(run: Path, built: Built) -> None:
    other = dataclasses.replace(built.genesis, name="other")
    genesis_file.save(other, run / "nodes" / "g1-m0" / "genesis.json")
    report = verify(run)
    assert found(report) == {("other_network", "genesis", -1)}
    with pytest.raises(UserError, match="no history"):
        verify(run / "nodes")


def test_against_another_genesis_nothing_holds(run: Path, built: Built) -> None:
    other = dataclasses.replace(built.genesis, name="other")
    report = verify(run, genesis=other)
    assert not report.ok
    assert report.blocks == 0


def test_a_fork_is_found_when_both_sides_are_certified(run: Path, built: Built) -> None:
    """More than f members signed twice: the copies show it."""
    header = dataclasses.replace(built.chains["g1"][5].block.header, time_ms=1_800_000_000_000)
    other = decide(built.genesis, "g1", header, built.chains["g1"][5].block.body)
    shutil.rmtree(run / "nodes" / "council-m1")
    built.with_block("g1", 5, other).write(run / "nodes" / "council-m1", blobs=False)
    assert found(verify(run)) == {("fork", "g1", 5)}


def test_a_copy_that_is_behind_is_no_fault(run: Path, built: Built) -> None:
    shutil.rmtree(run / "nodes" / "council-m1")
    short = {name: chain[:2] for name, chain in built.chains.items()}
    dataclasses.replace(built, chains=short).write(run / "nodes" / "council-m1", blobs=False)
    assert verify(run).ok


def test_a_rotten_blob_is_found(run: Path, built: Built) -> None:
    blob = built.body("g1", 0).txs[0].tx.blob_id.hex()
    path = run / "nodes" / "g1-m0" / "blobs" / blob[:2] / blob
    path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    report = verify(run)
    assert found(report) == {("bad_blob", "blobs", -1)}, "other nodes still have it"
    assert report.findings[0].node == "g1-m0"


def evidence(one: Any, two: Any, signer: str, group: str = "g1") -> dict[str, Any]:
    """A note as nodes write it."""
    from consensus import signing

    genesis = build().genesis
    digests = [signing.signing_digest(genesis.domain(group), each) for each in (one, two)]
    signatures = [signing.sign(key_of(signer).secret, digest) for digest in digests]
    return {
        "group": genesis.group_id(group),
        "kinds": [type(one).__name__, type(two).__name__],
        "first": one,
        "second": two,
        "first_signature": signatures[0],
        "second_signature": signatures[1],
    }


def test_evidence_of_contradicting_signatures_is_checked_again(run: Path) -> None:
    a, b = Digest(b"a" * 32), Digest(b"b" * 32)
    double = evidence(Commit(0, 3, 0, a), Commit(0, 3, 0, b), "g1-m2")
    denied = evidence(Commit(0, 4, 1, a), RoundChange(0, 4, 2, 0, ZERO_DIGEST, a), "g1-m1")
    closes = evidence(Close(0, 2, 0, a), Close(0, 2, 0, b), "g1-m0")
    nothing = [
        evidence(Commit(0, 3, 0, a), Commit(0, 3, 1, b), "g1-m2"),
        evidence(Commit(0, 3, 0, a), Commit(0, 3, 0, b), "stranger"),
        {**double, "second_signature": denied["second_signature"]},
        {**double, "group": Digest(b"x" * 32)},
        {"kinds": 5},
    ]
    for node in ("g1-m0", "council-m0"):
        for note in (double, denied, closes):
            Notes(run / "nodes" / node / "records").add("evidence", note)
    for note in nothing:
        Notes(run / "nodes" / "g2-m0" / "records").add("evidence", note)
    report = verify(run)
    assert report.ok, "what a member did wrong is no fault of the history"
    assert [(each["culprit"], each["height"], each["offence"]) for each in report.offences] == [
        ("g1-m2", 3, "two COMMIT of one round"),
        ("g1-m1", 4, "ROUND-CHANGE that denies an own COMMIT"),
        ("g1-m0", 2, "two ParamTx, ShareRequest or Close of one slot"),
    ]
    assert sum(len(heights) for heights in report.unchecked.values()) == len(nothing)


# -- headers and certificates --------------------------------------------------------


def header_changes() -> list[tuple[str, dict[str, Any]]]:
    x = Digest(b"x" * 32)
    return [
        ("bad_block", {"version": 2}),
        ("bad_block", {"network_id": x}),
        ("bad_block", {"group_id": x}),
        ("bad_block", {"epoch": 1}),
        ("bad_block", {"parent_id": x}),
        ("bad_block", {"log_root": x}),
        ("bad_block", {"proposer": member_of("stranger")}),
        ("bad_block", {"time_ms": 1}),
        ("bad_body", {"app_root": x}),
    ]


@pytest.mark.parametrize(("reason", "change"), header_changes(), ids=lambda each: str(each)[:30])
def test_a_certified_header_that_does_not_follow_is_found(
    tmp_path: Path, built: Built, reason: str, change: dict[str, Any]
) -> None:
    old = built.chains["g1"][5].block
    header = dataclasses.replace(old.header, **change)
    decided = decide(built.genesis, "g1", header, old.body)
    store = tmp_path / "node"
    short = dataclasses.replace(built, chains={**built.chains, "g1": built.chains["g1"][:5]})
    short.write(store)
    path = store / "chain" / "g1.mps"
    own = identity(built.genesis.network_id, built.genesis.group_id("g1"))
    Journal.create(path, own, [codec.encode(each) for each in (*short.chains["g1"], decided)]).close()
    assert (reason, "g1", 5) in found(verify(store))


def certificate_changes() -> list[Callable[[Certificate], Certificate]]:
    def stranger(old: Certificate) -> Certificate:
        header = build().chains["g1"][5].block.header
        return Certificate(0, (*old.signatures[:2], signed_commit("stranger", header)))

    return [
        lambda old: Certificate(1, old.signatures),
        lambda old: Certificate(0, old.signatures[:2]),
        lambda old: Certificate(0, (*old.signatures[:2], old.signatures[1])),
        lambda old: Certificate(0, old.signatures[::-1]),
        lambda old: Certificate(0, (bytes(65), *old.signatures[1:])),
        stranger,
    ]


def signed_commit(name: str, header: Any) -> bytes:
    from consensus import signing

    commit = Commit(header.epoch, header.height, 0, block_id(header))
    domain = build().genesis.domain("g1")
    return signing.sign(key_of(name).secret, signing.signing_digest(domain, commit))


@pytest.mark.parametrize("change", certificate_changes())
def test_a_certificate_that_is_no_quorum_is_found(
    tmp_path: Path, built: Built, change: Callable[[Certificate], Certificate]
) -> None:
    decided = built.chains["g1"][5]
    spoilt = dataclasses.replace(decided, certificate=change(decided.certificate))
    report = verified(built.with_block("g1", 5, spoilt), tmp_path, blobs=False)
    assert found(report) == {("bad_certificate", "g1", 5)}


def test_every_field_of_a_body_is_under_its_root(built: Built) -> None:
    for name, height in (("g1", 2), (COUNCIL, 2)):
        body = built.body(name, height)
        assert body_root(body) == built.chains[name][height].block.header.app_root
        assert len(field_leaves(body)) == len(dataclasses.fields(body))
