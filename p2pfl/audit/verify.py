"""A whole history against the genesis file, offline and trusting nobody.

    files -> headers and certificates -> bodies under their roots -> signatures, triage, weights, filters
          -> the council's chain folded -> cases, measurements, outcomes, verdicts
          -> evidence of contradicting signatures
          -> with `recompute`: everything again from the blobs

Accepts the folder of one node or the run directory of a testnet; there the copies of each chain are compared
with one another too.
"""

from __future__ import annotations

from pathlib import Path

from p2pfl.audit import council_check, group_check, history, offences
from p2pfl.audit import recompute as again
from p2pfl.audit.council_check import Fold
from p2pfl.audit.group_check import GroupBlock
from p2pfl.audit.history import Blobs, Chain, MissingBlob
from p2pfl.audit.recompute import Recomputed
from p2pfl.audit.report import Finding, Report
from p2pfl.errors import UserError
from p2pfl.genesis import COUNCIL, Genesis
from p2pfl.store import node_folders

__all__ = ["Finding", "Report", "recompute_block", "verify"]


def verify(path: Path, *, recompute: bool = False, genesis: Genesis | None = None) -> Report:
    """Check everything below `path`. genesis: the auditor's own copy (default: the one in the directory).

    Raises UserError only when there is nothing to check; what is wrong with a history is a finding.
    """
    report = Report(str(path))
    trusted, chains, blobs = history.read(path, report, genesis)
    folded = council_check.fold(trusted, chains)
    groups = _groups(trusted, chains, folded)
    if COUNCIL not in chains:
        report.skip("bases, standings and cases", "all groups", -1, "the council's chain is not here")
    for block, _ in groups:
        _check_group(block, blobs, report, has_council=COUNCIL in chains)
    for each in folded.blocks:
        _check_council(each, report)
    offences.check(history.roster_of(trusted, chains), node_folders(path), report)
    if recompute:
        _recompute(groups, folded, blobs, report)
    report.findings.sort(key=lambda each: (each.chain, each.height, each.reason, each.node, each.detail))
    return report


def recompute_block(
    path: Path, chain: str, height: int, *, genesis: Genesis | None = None
) -> tuple[Recomputed, Report]:
    """One block derived again from the blobs, and what reading the directory found.

    Raises UserError when the block or a blob that it needs is not here.
    """
    report = Report(str(path))
    trusted, chains, blobs = history.read(path, report, genesis)
    folded = council_check.fold(trusted, chains)
    try:
        if chain == COUNCIL:
            for each in folded.blocks:
                if each.header.height == height:
                    return again.council(each, blobs), report
        for block, of in _groups(trusted, chains, folded):
            if (block.name, block.header.height) == (chain, height):
                return again.group(block, of, blobs), report
    except MissingBlob as missing:
        raise UserError(
            f"block {height} of {chain} cannot be derived again",
            because=str(missing),
            fix="take the directory of a node that still keeps the blobs of that height",
        ) from missing
    known = ", ".join(f"{name} up to {found.height}" for name, found in chains.items())
    raise UserError(
        f"there is no block {height} of {chain} in {path}",
        because=f"it holds {known}",
        fix="name another block",
    )


def _groups(genesis: Genesis, chains: dict[str, Chain], folded: Fold) -> list[tuple[GroupBlock, Chain]]:
    return [
        (block, chain)
        for name, chain in chains.items()
        if name != COUNCIL
        for _, block in group_check.blocks_of(genesis, chain, folded.states)
    ]


def _check_group(block: GroupBlock, blobs: Blobs, report: Report, *, has_council: bool) -> None:
    height = block.header.height
    body = block.body
    for reason, detail in group_check.check(block, has_council=has_council):
        report.add(reason, block.name, height, detail)
    report.signatures += len(body.txs) + len(body.ballots)
    report.signatures += 1 + len(body.close.justification) if body.close is not None else 0
    report.filters += 3
    try:
        for reason, detail in group_check.check_from_blobs(block, blobs):
            report.add(reason, block.name, height, detail)
        report.filters += 2
    except MissingBlob as missing:
        report.skip("chunks and bands", block.name, height, str(missing))


def _check_council(block: council_check.CouncilBlock, report: Report) -> None:
    body = block.body
    for reason, detail in council_check.check(block):
        report.add(reason, COUNCIL, block.header.height, detail)
    report.cases += len(body.cases)
    report.verdicts += len(body.certificates)
    report.filters += len(body.filters)
    report.signatures += len(body.measurements)
    report.signatures += sum(len(each.signatures) for each in body.certificates)


def _recompute(groups: list[tuple[GroupBlock, Chain]], folded: Fold, blobs: Blobs, report: Report) -> None:
    for outcome in again.whole(groups, folded, blobs):
        report.recomputed += outcome.done
        if outcome.problem is not None:
            report.add(outcome.problem[0], outcome.chain, outcome.height, outcome.problem[1])
        if outcome.missing:
            report.skip("recomputation", outcome.chain, outcome.height, outcome.missing)
