"""What a run has left, asked of the contracts and of the files and not of the nodes' own words.

Synchronous. Changes nothing. What it means for the claim is in `judge`.
"""

from __future__ import annotations

from p2pfl.audit.verify import verify
from testnet import signatures
from testnet.judge import Outcome
from testnet.plan import Plan
from testnet.stakes import Stakes


def ask_the_chain(outcome: Outcome, plan: Plan, stakes: Stakes) -> None:
    """Who lost stake, who may never return."""
    ruled = stakes.ruled(plan.genesis)
    outcome.slashed, outcome.tombstoned = ruled.slashed, ruled.tombstoned
    outcome.anchored = ruled.anchored


def read_the_files(outcome: Outcome, plan: Plan) -> None:
    """Whether the history verifies, whether anybody contradicted itself, how far the killed have come."""
    scenario, directory = plan.ground.scenario, plan.ground.directory
    folders = {seat.name: seat.folder for seat in plan.ground.seats}
    outcome.contradictions = signatures.contradictions(plan.genesis, folders, but=scenario.culprits)
    for killed in outcome.killed:
        killed.height_at_end = signatures.tip_height(folders[killed.name], killed.group)
        killed.voted_height = signatures.last_commit_height(folders[killed.name])
    outcome.findings = [finding.render() for finding in verify(directory).findings]
