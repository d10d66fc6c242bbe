"""What a quorum certified although it is wrong: `verify` finds it in bodies, `--recompute` in the blobs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from consensus.types import Digest
from p2pfl.audit.verify import recompute_block, verify
from p2pfl.errors import UserError
from p2pfl.genesis import COUNCIL
from p2pfl.records import BloomFilter, CouncilBody, GroupBody, VerdictCertificate, WarningRow
from p2pfl.rules.cases import case_id_of
from p2pfl.signed import SignedMeasurement

from .built import key_of
from .chain import Built, build, found, member_of, verified


@pytest.fixture(scope="module")
def built() -> Built:
    return build()


def flipped(found: BloomFilter, bit: int) -> BloomFilter:
    bits = bytearray(found.bits)
    bits[bit // 8] ^= 1 << bit % 8
    return dataclasses.replace(found, bits=bytes(bits))


@pytest.mark.parametrize("name", ["actors", "chunks", "bands", "warnings", "accused"])
@pytest.mark.parametrize("bit", [0, 77, 511])
def test_a_wrong_filter_bit_is_found(tmp_path: Path, built: Built, name: str, bit: int) -> None:
    body: GroupBody = built.body("g2", 5)
    filters = tuple(flipped(each, bit) if each.name == name else each for each in body.filters)
    report = verified(built.with_last("g2", dataclasses.replace(body, filters=filters)), tmp_path)
    assert found(report) == {("wrong_filter", "g2", 5)}
    assert name in report.findings[0].detail


def turned(body: GroupBody) -> GroupBody:
    """Its first member is said to have seen its loss rise, and to have rejected the block."""
    first, *others = body.ballots
    ballot = dataclasses.replace(first.ballot, loss_old_micro=1, loss_new_micro=9_000_000, approve=0)
    return dataclasses.replace(body, ballots=(dataclasses.replace(first, ballot=ballot), *others))


def body_changes() -> list[tuple[str, str, Callable[[GroupBody], GroupBody]]]:
    replace = dataclasses.replace

    def first_tx(body: GroupBody, **change: Any) -> GroupBody:
        tx = body.txs[0]
        return replace(body, txs=(replace(tx, tx=replace(tx.tx, **change)), *body.txs[1:]))

    def resigned(body: GroupBody) -> GroupBody:
        """Signed by a stranger."""
        from consensus import signing

        tx = body.txs[0]
        digest = signing.signing_digest(build().genesis.domain("g2"), tx.tx)
        signature = signing.sign(key_of("stranger").secret, digest)
        return replace(body, txs=(replace(tx, signature=signature), *body.txs[1:]))

    def close(body: GroupBody, **change: Any) -> GroupBody:
        assert body.close is not None
        return replace(body, close=replace(body.close, **change))

    def idle(body: GroupBody) -> GroupBody:
        return replace(body, close=None, txs=(), unrevealed=())

    def row(body: GroupBody) -> GroupBody:
        rows = (replace(body.triage[0], krum_micro=body.triage[0].krum_micro + 1), *body.triage[1:])
        return replace(body, triage=rows)

    def gram(body: GroupBody) -> GroupBody:
        first = (body.gram[0][0] * 4, *body.gram[0][1:])
        return replace(body, gram=(first, *body.gram[1:]))

    def warned(body: GroupBody, reason: str) -> GroupBody:
        return replace(body, warnings=(*body.warnings, WarningRow(body.txs[-1].tx.member, 1, 0, reason)))

    x = Digest(b"x" * 32)
    return [
        ("stranger's ParamTx", "bad_signature", resigned),
        ("ParamTx changed", "bad_signature", lambda body: first_tx(body, samples=99)),
        ("ParamTx of another height", "bad_signature", lambda body: first_tx(body, height=4)),
        ("ParamTx left out", "bad_signature", lambda body: replace(body, txs=body.txs[1:])),
        ("Close changed", "bad_signature", lambda body: close(body, tx_ids=close(body).close.tx_ids[::-1])),
        ("Close unsigned", "bad_signature", lambda body: close(body, signature=bytes(65))),
        ("no Close", "bad_signature", lambda body: replace(body, close=None)),
        ("an idle block too early", "wrong_field", idle),
        ("a stranger unrevealed", "bad_signature", lambda body: replace(body, unrevealed=(member_of("x"),))),
        ("no ballots", "wrong_field", lambda body: replace(body, ballots=())),
        ("two ballots", "bad_signature", lambda body: replace(body, ballots=body.ballots[:2])),
        ("a ballot twice", "bad_signature", lambda body: replace(body, ballots=body.ballots[:1] * 4)),
        ("a ballot turned round", "bad_signature", turned),
        ("rule", "wrong_field", lambda body: replace(body, rule="median")),
        ("weights", "wrong_field", lambda body: replace(body, weights=(100, 100, 100, 100))),
        ("factors", "wrong_field", lambda body: replace(body, factors=(*body.factors[:-1], 1))),
        ("a row root that none asked for", "wrong_field", lambda body: replace(body, row_root=x)),
        ("exponents", "wrong_field", lambda body: replace(body, exponents=(-13, -14))),
        ("gram", "wrong_field", gram),
        ("gram's shape", "wrong_field", lambda body: replace(body, gram=body.gram[:1])),
        ("triage", "wrong_field", row),
        ("pool", "wrong_field", lambda body: replace(body, pool_digest=x)),
        ("warnings", "wrong_field", lambda body: warned(body, "disliked")),
        ("standings", "wrong_field", lambda body: replace(body, standings=())),
        ("base", "wrong_field", lambda body: replace(body, base=replace(body.base, base_id=x))),
        (
            "council block",
            "wrong_field",
            lambda body: replace(body, base=replace(body.base, council_block_id=x)),
        ),
        ("own blocks", "wrong_field", lambda body: replace(body, base=replace(body.base, own_heights=(4,)))),
        ("filters", "wrong_filter", lambda body: replace(body, filters=body.filters[:4])),
    ]


@pytest.mark.parametrize(
    ("what", "reason", "change"), body_changes(), ids=lambda each: getattr(each, "__name__", str(each)[:30])
)
def test_a_body_that_a_quorum_certified_wrongly_is_found(
    tmp_path: Path, built: Built, what: str, reason: str, change: Callable[[GroupBody], GroupBody]
) -> None:
    body = change(built.body("g2", 5))
    assert body != built.body("g2", 5)
    report = verified(built.with_last("g2", body), tmp_path, blobs=False)
    assert (reason, "g2", 5) in found(report), what
    assert {each.chain for each in report.findings} == {"g2"}


@pytest.mark.parametrize("field", ["aggregate_id", "next_base_id", "warnings"])
def test_what_needs_blobs_is_found_by_recomputing(tmp_path: Path, built: Built, field: str) -> None:
    body = built.body("g2", 5)
    invented = WarningRow(body.txs[-1].tx.member, 1, 0, "loud")
    other = (*body.warnings, invented) if field == "warnings" else Digest(b"x" * 32)
    changed = dataclasses.replace(body, **{field: other})
    spoilt = built.with_last("g2", changed)
    if field != "warnings":
        assert verified(spoilt, tmp_path / "plain").ok
    report = verified(spoilt, tmp_path / "again", recompute=True)
    assert ("wrong_recomputation", "g2", 5) in found(report)
    done, _ = recompute_block(tmp_path / "again", "g2", 5)
    assert not done.ok
    assert not done.fields[field]


def council_changes() -> list[tuple[str, int, Callable[[CouncilBody], CouncilBody]]]:
    replace = dataclasses.replace

    def counted(body: CouncilBody, **change: Any) -> CouncilBody:
        return replace(body, counted=(replace(body.counted[0], **change), *body.counted[1:]))

    def row(body: CouncilBody, **change: Any) -> CouncilBody:
        return replace(body, rows=(replace(body.rows[0], **change), *body.rows[1:]))

    def case(body: CouncilBody, index: int, **change: Any) -> CouncilBody:
        made = replace(body.cases[index], **change)
        made = replace(made, case_id=case_id_of(made))
        return replace(body, cases=(*body.cases[:index], made, *body.cases[index + 1 :]))

    def measured(body: CouncilBody, ppm: int) -> CouncilBody:
        first = body.measurements[0]
        changed = SignedMeasurement(replace(first.measurement, worst_ppm=ppm), first.signature)
        return replace(body, measurements=(changed, *body.measurements[1:]))

    def certificate(body: CouncilBody, change: Callable[[Any], Any]) -> CouncilBody:
        return replace(body, certificates=tuple(change(each) for each in body.certificates))

    x = Digest(b"x" * 32)
    return [
        ("counted weight", 1, lambda body: counted(body, weight=401)),
        ("counted aggregate", 1, lambda body: counted(body, aggregate_id=x)),
        ("counted certificate", 1, lambda body: counted(body, certificate=body.counted[1].certificate)),
        ("a group left out", 1, lambda body: replace(body, counted=body.counted[1:])),
        ("counted twice", 1, lambda body: replace(body, counted=(body.counted[0], *body.counted))),
        ("row's cosine", 1, lambda body: row(body, others_cos_micro=999_999)),
        ("row's flag", 1, lambda body: row(body, flagged=1)),
        ("row's weight", 1, lambda body: row(body, weight=1)),
        ("exponents", 1, lambda body: replace(body, exponents=tuple(e + 2 for e in body.exponents))),
        ("another accused", 1, lambda body: case(body, 0, accused=member_of("g2-m0"))),
        ("no candidates", 1, lambda body: case(body, 0, candidates=())),
        ("other cosines", 1, lambda body: case(body, 0, candidates=honest_cosines(body))),
        ("hard rule against somebody else", 1, lambda body: case(body, 1, accused=member_of("g3-m1"))),
        ("unknown cause", 1, lambda body: case(body, 0, cause="dislike")),
        ("deadline", 1, lambda body: case(body, 0, deadline_height=99)),
        ("case id", 1, lambda body: replace(body, cases=(replace(body.cases[0], case_id=x),))),
        ("measurement", 2, lambda body: measured(body, 1)),
        ("a measurement left out", 2, lambda body: replace(body, measurements=body.measurements[1:])),
        ("an outcome left out", 2, lambda body: replace(body, outcomes=body.outcomes[1:])),
        ("outcome", 2, lambda body: replace(body, outcomes=guilty(body))),
        (
            "verdict signatures",
            3,
            lambda body: certificate(body, lambda c: replace(c, signatures=c.signatures[1:])),
        ),
        ("verdict", 3, lambda body: certificate(body, another_accused)),
        (
            "council filter",
            3,
            lambda body: replace(body, filters=(flipped(body.filters[0], 5), body.filters[1])),
        ),
    ]


def honest_cosines(body: CouncilBody) -> Any:
    return tuple(dataclasses.replace(each, own_cos_micro=999_000) for each in body.cases[0].candidates)


def guilty(body: CouncilBody) -> Any:
    return tuple(dataclasses.replace(each, outcome="guilty") for each in body.outcomes)


def another_accused(certificate: VerdictCertificate) -> VerdictCertificate:
    verdict = dataclasses.replace(certificate.verdict, accused=member_of("g1-m0"))
    return dataclasses.replace(certificate, verdict=verdict)


@pytest.mark.parametrize(("what", "height", "change"), council_changes(), ids=lambda each: str(each)[:30])
def test_a_council_block_that_a_quorum_certified_wrongly_is_found(
    tmp_path: Path, built: Built, what: str, height: int, change: Callable[[CouncilBody], CouncilBody]
) -> None:
    upto = {**built.chains, COUNCIL: built.chains[COUNCIL][: height + 1]}
    body = change(built.body(COUNCIL, height))
    assert body != built.body(COUNCIL, height)
    report = verified(dataclasses.replace(built, chains=upto).with_last(COUNCIL, body), tmp_path, blobs=False)
    about = [each for each in report.findings if (each.chain, each.height) == (COUNCIL, height)]
    assert about, what
    assert all(each.chain == COUNCIL or "council block" in each.detail for each in report.findings)


@pytest.mark.parametrize("what", ["counted certificate", "counted aggregate", "a group left out"])
def test_a_member_alone_sees_what_the_council_counts_wrongly(tmp_path: Path, built: Built, what: str) -> None:
    """It holds its own group's chain only: certificates and proofs of the others' blocks must do."""
    change = next(change for name, _, change in council_changes() if name == what)
    upto = {**built.chains, COUNCIL: built.chains[COUNCIL][:2]}
    spoilt = dataclasses.replace(built, chains=upto).with_last(COUNCIL, change(built.body(COUNCIL, 1)))
    report = verify(spoilt.write(tmp_path, ("g3", COUNCIL), blobs=False))
    assert any((each.chain, each.height) == (COUNCIL, 1) for each in report.findings)


@pytest.mark.parametrize("field", ["base_id", "gram", "cases"])
def test_a_council_block_is_recomputed_from_the_blobs(tmp_path: Path, built: Built, field: str) -> None:
    upto = {**built.chains, COUNCIL: built.chains[COUNCIL][:2]}
    body = built.body(COUNCIL, 1)
    other: Any = Digest(b"x" * 32)
    if field == "gram":
        other = ((body.gram[0][0] * 4, *body.gram[0][1:]), *body.gram[1:])
    if field == "cases":
        other = tuple(
            dataclasses.replace(each, case_id=case_id_of(each))
            for each in (
                dataclasses.replace(body.cases[0], chunks=body.cases[0].chunks[::-1]),
                *body.cases[1:],
            )
        )
    spoilt = dataclasses.replace(built, chains=upto).with_last(
        COUNCIL, dataclasses.replace(body, **{field: other})
    )
    report = verified(spoilt, tmp_path, recompute=True)
    assert ("wrong_recomputation", COUNCIL, 1) in found(report)


def test_one_block_can_be_recomputed(tmp_path: Path, built: Built) -> None:
    run_folder = tmp_path
    built.write(tmp_path / "nodes" / "g1-m0")
    built.write(tmp_path / "nodes" / "council-m0", blobs=False)
    for chain, height in (("g1", 0), ("g1", 3), ("g2", 2), (COUNCIL, 1)):
        done, report = recompute_block(run_folder, chain, height)
        assert done.ok
        assert (done.chain, done.height) == (chain, height)
        assert report.ok
    with pytest.raises(UserError, match="no block 9 of g1"):
        recompute_block(run_folder, "g1", 9)
    with pytest.raises(UserError, match="cannot be derived again"):
        recompute_block(run_folder / "nodes" / "council-m0", "g1", 1)


def test_a_council_that_spares_whom_it_draws_is_found(tmp_path: Path) -> None:
    built = build(audit_share_ppm=1_000_000)
    body: CouncilBody = built.body(COUNCIL, 3)
    drawn = [case for case in body.cases if case.cause == "audit"]
    assert len(drawn) > 4
    assert not found(verified(built, tmp_path / "true"))
    spared = dataclasses.replace(body, cases=tuple(case for case in body.cases if case != drawn[0]))
    told = verified(built.with_last(COUNCIL, spared), tmp_path / "false").findings
    assert "cases: not all that follow from the blocks, or more" in {each.detail for each in told}
    meant = dataclasses.replace(drawn[0], cause="review")
    meant = dataclasses.replace(meant, case_id=case_id_of(meant))
    other = dataclasses.replace(body, cases=tuple(meant if case == drawn[0] else case for case in body.cases))
    told = verified(built.with_last(COUNCIL, other), tmp_path / "other").findings
    assert any("nobody was drawn so" in each.detail for each in told)
