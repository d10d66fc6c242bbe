"""What a run came to: a summary for people, one JSON object for programs.

The names in the JSON object are an interface (docs/testnet.md). Knows no process.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from testnet.facts import COUNCIL, percentile
from testnet.judge import Outcome
from testnet.memory import Memory
from testnet.scenarios import Scenario
from testnet.story import WEI_PER_ETH

MB = 1_000_000


@dataclass(frozen=True)
class Result:
    """A judged run. broken: why the claim does not hold; empty when it does."""

    scenario: Scenario
    directory: Path
    outcome: Outcome
    broken: list[str]
    start_seconds: float | None
    memory: Memory

    @property
    def held(self) -> bool:
        """Whether the scenario's claim holds."""
        return not self.broken

    @property
    def explorer(self) -> str | None:
        """Where a node of the run serves its pages while it runs."""
        return next(iter(self.outcome.facts.explorers.values()), None)

    def as_json(self) -> dict[str, Any]:
        """The object that `--json` prints."""
        facts = self.outcome.facts
        seconds = facts.round_seconds()
        return {
            "scenario": self.scenario.name,
            "claim": self.scenario.claim,
            "held": self.held,
            "rounds": self.scenario.network.rounds,
            "accuracy": [round(each, 4) for each in facts.accuracies(self.scenario.network.rounds)],
            "expected_culprits": list(self.scenario.culprits),
            "accused": facts.accused(),
            "slashed": self.outcome.slashed,
            "honest_slashed": len(set(self.outcome.slashed) - set(self.scenario.culprits)),
            "blocks": len(facts.blocks),
            "round_seconds": {
                "p50": _rounded(percentile(seconds, 0.5)),
                "p95": _rounded(percentile(seconds, 0.95)),
            },
            "start_seconds": _rounded(self.start_seconds),
            "peak_rss_mb": round(self.memory.peak_rss_bytes / MB),
            "peak_pss_mb": round(self.memory.peak_pss_bytes / MB),
            "wire_bytes": facts.wire_bytes(),
            "run_dir": str(self.directory),
        }

    def save(self) -> None:
        """Keep it beside the run, with the reasons and what else was measured."""
        facts = self.outcome.facts
        more = {
            "broken": self.broken,
            "summary": self.summary(),
            "unclean_ends": self.outcome.unclean,
            "lag_p99_ms_max": max(facts.lag_ms.values(), default=None),
            "processes": self.memory.processes,
            "faults": dict(facts.faults),
            "dropped_events": facts.dropped_events,
        }
        text = json.dumps({**self.as_json(), **more}, indent=1) + "\n"
        (self.directory / "result.json").write_text(text, encoding="utf-8")

    def summary(self) -> list[str]:
        """The end of the story, for people."""
        facts, shape = self.outcome.facts, self.scenario.network
        reached = self.outcome.accuracy
        council = facts.heights(COUNCIL)
        table = self.as_json()
        seconds = table["round_seconds"]
        sent = round(sum(table["wire_bytes"].values()) / MB, 1)
        pss = table["peak_pss_mb"]
        lines = [
            "",
            f"{self.scenario.title}: the claim {'holds' if self.held else 'DOES NOT HOLD'}",
            f"  accuracy  {'not measured' if reached is None else f'{reached:.1%} of the public test set'}",
            f"  blocks    {len(facts.blocks) - council} of {shape.groups} groups, {council} of the council",
            f"  accused   {_names(facts.accused())}",
            f"  slashed   {_names(self.outcome.slashed)}{self._amounts()}",
            f"  rounds    {seconds['p50']} s at the median, {seconds['p95']} s at the 95th percentile",
            f"  cost      up in {table['start_seconds']} s; {pss} MB at most, {sent} MB sent",
        ]
        lines += [f"  broken    {each}" for each in self.broken]
        return [
            *lines,
            f"  check it  p2pfl audit verify {as_typed(self.directory)}",
            f"  see it    p2pfl explorer {as_typed(self.directory)}",
        ]

    def _amounts(self) -> str:
        told = [
            f"{each['amount_wei'] / WEI_PER_ETH:g} ETH of {name} by tx {each['tx']}"
            for name, found in sorted(self.outcome.facts.slashed.items())
            for each in found
        ]
        return f" ({'; '.join(told)})" if told else ""


def as_typed(directory: Path) -> Path:
    """A folder as one would type it here: relative where it lies below."""
    try:
        return directory.relative_to(Path.cwd())
    except ValueError:
        return directory


def _names(names: list[str]) -> str:
    return ", ".join(names) or "nobody"


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
