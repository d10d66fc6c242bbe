"""What a watcher is told of a decided block, in names and numbers that a person can read."""

from __future__ import annotations

from collections.abc import Mapping

from consensus import types as ct
from p2pfl.errors import UserError
from p2pfl.learn.worker import TaskFailed, WorkerDied
from p2pfl.records import MICRO, Case, CouncilBody, GroupBody
from p2pfl.rounds.context import Context
from p2pfl.rounds.pace import Pace
from p2pfl.rules.ballots import is_abstention, rejects, signer_of
from p2pfl.rules.validate import Derived
from p2pfl.telemetry import logger

log = logger("rounds.tell")


def tell_group_block(context: Context, pace: Pace, decided: ct.DecidedBlock, body: GroupBody) -> None:
    """A block of the own group."""
    weighted = zip(body.txs, body.weights, strict=True)
    pace.decided(
        decided.block.header,
        decided.certificate.round,
        members=[context.name_of(signed.tx.member) for signed in body.txs],
        # Where the block before is taken back, nobody counts: that is nobody's own doing.
        left_out=[context.name_of(s.tx.member) for s, weight in weighted if not weight and not rejects(body)],
        votes=len(decided.certificate.signatures),
        own_base=list(body.base.own_heights),
        council_height=body.base.council_height,
    )
    if body.ballots:
        _tell_ballots(context, body)


def _tell_ballots(context: Context, body: GroupBody) -> None:
    """What members said of the block before. Losses are None of who could not measure."""
    told = [
        {
            "member": context.name_of(member),
            "loss_old": None if is_abstention(signed.ballot) else signed.ballot.loss_old_micro / MICRO,
            "loss_new": None if is_abstention(signed.ballot) else signed.ballot.loss_new_micro / MICRO,
            "approves": bool(signed.ballot.approve),
        }
        for signed in body.ballots
        if (member := signer_of(context.domain, signed)) is not None
    ]
    height = body.ballots[0].ballot.height
    fields = {"group": context.name, "height": height, "taken_back": rejects(body), "ballots": told}
    context.observe("ballots", fields)


def tell_council_block(
    context: Context,
    pace: Pace,
    decided: ct.DecidedBlock,
    body: CouncilBody,
    fetched: Mapping[ct.Digest, int],
) -> None:
    """A block of the council, its cases, outcomes and verdicts. fetched: blobs fetched for each case."""
    names = context.genesis.group_names
    pace.decided(
        decided.block.header,
        decided.certificate.round,
        members=[names[row.group_id] for row in body.rows],
        left_out=[names[row.group_id] for row in body.rows if row.flagged],
        votes=len(decided.certificate.signatures),
        distance=[row.others_cos_micro / MICRO for row in body.rows],
        counted=[[names[each.header.group_id], each.header.height] for each in body.counted],
    )
    for case in body.cases:
        context.observe("case", _case(context, case, fetched.get(case.case_id, 0)))
    for outcome in body.outcomes:
        case = context.council.tip.cases[outcome.case_id].case
        fields = {"case_id": "0x" + outcome.case_id.hex(), "outcome": outcome.outcome}
        context.observe("outcome", {**fields, "accused": context.name_of(case.accused)})
    for certificate in body.certificates:
        verdict = certificate.verdict
        fields = {"case_id": "0x" + verdict.case_id.hex(), "accused": context.name_of(verdict.accused)}
        signatures = len(certificate.signatures)
        more = {"offence": verdict.offence, "signatures": signatures, "height": verdict.height}
        context.observe("verdict", {**fields, **more})


def _case(context: Context, case: Case, fetched: int) -> dict[str, object]:
    return {
        "case_id": "0x" + case.case_id.hex(),
        "group": context.genesis.group_names[case.group_id],
        "height": case.height,
        "accused": context.name_of(case.accused) if case.accused != ct.ZERO_MEMBER else None,
        "cause": case.cause,
        "candidates": [
            {
                "member": context.name_of(each.member),
                "score": each.score,
                "with": each.with_cos_micro / MICRO,
                "without": each.without_cos_micro / MICRO,
            }
            for each in case.candidates
        ],
        "blobs_fetched": fetched,
    }


async def evaluate(context: Context, height: int, derived: Derived) -> None:
    """How good the new base is on the public test set."""
    try:
        await context.aside(context.trainer.public)  # Once, it unpacks a whole data set.
        loss, accuracy = await context.trainer.evaluate(derived.next_base.values)
    except (UserError, WorkerDied, TaskFailed) as error:
        log.warning("the new base could not be evaluated", height=height, why=str(error))
        return
    context.observe(
        "evaluated", {"group": context.name, "height": height, "loss": loss, "accuracy": accuracy}
    )
