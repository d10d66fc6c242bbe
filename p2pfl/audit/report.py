"""What an audit found, in words and as JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it must be.

    reason: one of REASONS. node: whose copy ("" for the history as such). height: -1 where none applies.
    """

    reason: str
    chain: str
    height: int
    detail: str
    node: str = ""

    def render(self) -> str:
        """One line."""
        where = f"{self.chain} {self.height}" if self.height >= 0 else self.chain
        whose = f" (copy of {self.node})" if self.node else ""
        return f"{self.reason}: {where}{whose}: {self.detail}"


# Every reason that a finding can have, and what it means. Pages and docs/auditors.md show the same.
REASONS = {
    "damaged_file": "a block file has a record that is not what was written",
    "truncated_file": "a block file ends in the middle of a record",
    "other_network": "a file or genesis of another network",
    "bad_block": "a block does not follow its parent: heights, parent ids, log root, proposer, time",
    "bad_certificate": "the signatures under a block are not a quorum of its committee",
    "bad_body": "a body does not match its header, or is not in canonical form",
    "fork": "two certified blocks at one height: more than f members signed twice",
    "bad_signature": "a record in a body is not signed by whom it names, or does not belong there",
    "wrong_field": "a field of a body is not what follows from the rest of it",
    "wrong_filter": "a Bloom filter has a wrong bit",
    "bad_council": "a council block counts, opens, measures or concludes what it must not",
    "bad_case": "a case does not follow from the blocks that it speaks of",
    "bad_blob": "a stored blob is not the bytes of its id",
    "wrong_recomputation": "a field of a body is not what follows from the blobs",
}


@dataclass(slots=True)
class Report:
    """What was checked and what was found.

    blocks, certificates: distinct ones that were checked. filters: Bloom filters recomputed. recomputed:
    blocks derived again from blobs. offences: what the nodes' evidence proves. unchecked: what could not be
    checked, and why; that is no fault.
    """

    path: str
    network: str = ""
    blocks: int = 0
    certificates: int = 0
    signatures: int = 0
    filters: int = 0
    recomputed: int = 0
    copies: int = 0
    cases: int = 0
    verdicts: int = 0
    findings: list[Finding] = field(default_factory=list[Finding])
    offences: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    unchecked: dict[tuple[str, str, str], list[int]] = field(
        default_factory=dict[tuple[str, str, str], list[int]]
    )
    chains: dict[str, int] = field(default_factory=dict[str, int])  # Name to height of the newest good block.

    def skip(self, what: str, chain: str, height: int, because: str) -> None:
        """Note what could not be checked."""
        self.unchecked.setdefault((what, chain, because), []).append(height)

    @property
    def skipped(self) -> list[str]:
        """What could not be checked, one line for all heights of a kind."""
        return [
            f"{what} of {chain}{_heights(heights)}: {because}"
            for (what, chain, because), heights in sorted(self.unchecked.items())
        ]

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return not self.findings

    def add(self, reason: str, chain: str, height: int, detail: str, node: str = "") -> None:
        """Note a finding."""
        assert reason in REASONS, reason
        self.findings.append(Finding(reason, chain, height, detail, node))

    def to_json(self) -> dict[str, Any]:
        """One JSON object: `ok, blocks, certificates, findings`, and what else was counted."""
        return {
            "ok": self.ok,
            "path": self.path,
            "network": self.network,
            "blocks": self.blocks,
            "certificates": self.certificates,
            "signatures": self.signatures,
            "filters": self.filters,
            "recomputed": self.recomputed,
            "copies": self.copies,
            "cases": self.cases,
            "verdicts": self.verdicts,
            "chains": self.chains,
            "offences": self.offences,
            "findings": [
                {
                    "reason": each.reason,
                    "chain": each.chain,
                    "height": each.height,
                    "node": each.node,
                    "detail": each.detail,
                }
                for each in self.findings
            ],
            "skipped": self.skipped,
        }

    def render(self) -> str:
        """Lines for a terminal."""
        counted = (
            f"{self.blocks} blocks, {self.certificates} certificates, {self.signatures} signatures in bodies",
            f"{self.filters} filters, {self.cases} cases, {self.verdicts} verdicts",
            f"{self.copies} files compared",
        )
        lines = [", ".join(counted)]
        lines += [f"  {name}: up to height {height}" for name, height in self.chains.items()]
        if self.recomputed:
            lines.append(f"{self.recomputed} blocks derived again from the blobs")
        lines += [
            f"evidence holds: {each['culprit']} at {each['chain']} {each['height']}: {each['offence']}"
            for each in self.offences
        ]
        lines += [f"not checked: {each}" for each in self.skipped]
        lines += [f"FOUND {each.render()}" for each in self.findings]
        lines.append("the history holds" if self.ok else f"{len(self.findings)} findings: it does not hold")
        return "\n".join(lines)


def _heights(heights: list[int]) -> str:
    if heights == [-1]:
        return ""
    if len(heights) == 1:
        return f" {heights[0]}"
    return f" {min(heights)} to {max(heights)} ({len(heights)} blocks)"
