"""What a run has shown so far, gathered from the events of all its processes.

Pure: an event in, facts changed. What they mean for people is in `story`, for the claim in `judge`.
Every node tells its own view; the first word on a block, case or verdict counts, the others confirm it.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

COUNCIL = "council"


@dataclass(frozen=True, slots=True)
class Event:
    """Something that a node (or the launcher: name "") told. at_s: seconds since the start of the run.

    life: which of its processes told it, 0 unless the node was started again.
    """

    name: str
    kind: str
    fields: dict[str, Any]
    at_s: float
    life: int = 0


@dataclass
class Block:
    """A decided block, in the words of who told of it first.

    members: whose updates (or deltas) it names; left_out: those of them that weigh nothing.
    """

    group: str
    height: int
    round: int
    block_id: str
    proposer: str
    seconds: float
    by: set[str] = field(default_factory=set)
    ids: set[str] = field(default_factory=set)  # More than one: the chain has forked.
    members: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()

    def counts(self, member: str) -> bool:
        """Whether this member's update weighs something in it."""
        return member in self.members and member not in self.left_out


@dataclass
class Facts:
    """The facts of one run."""

    blocks: dict[tuple[str, int], Block] = field(default_factory=dict)
    accuracy: dict[tuple[str, int], float] = field(default_factory=dict)
    counted: dict[str, int] = field(
        default_factory=dict
    )  # The last height of each group that the council has.
    started: set[str] = field(default_factory=set)
    finished: set[str] = field(default_factory=set)
    explorers: dict[str, str] = field(default_factory=dict)
    cases: dict[str, dict[str, Any]] = field(default_factory=dict)
    outcomes: dict[str, str] = field(default_factory=dict)
    evidence: set[str] = field(default_factory=set)
    verdicts: dict[str, str] = field(default_factory=dict)  # Accused to case.
    slashed: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: defaultdict(list))
    faults: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    lag_ms: dict[str, float] = field(default_factory=dict)
    dropped_events: int = 0
    seated: dict[tuple[str, int], list[str]] = field(default_factory=dict)  # By group and epoch, in turn.
    anchored: set[tuple[str, int]] = field(default_factory=set)  # Epochs that some node took to the chain.
    lies: set[tuple[str, int, str]] = field(default_factory=set)  # (group, height, id) of false proposals.
    _wire: dict[tuple[str, int], dict[str, int]] = field(default_factory=dict)

    def take(self, event: Event) -> None:
        """Let one event change the facts. Unknown kinds change nothing."""
        fields = event.fields
        match event.kind:
            case "started":
                self.started.add(event.name)
                if fields.get("explorer"):
                    self.explorers[event.name] = fields["explorer"]
            case "decided":
                self._decided(event)
            case "evaluated":
                self._accuracy(fields)
            case "finished":
                self.finished.add(event.name)
            case "case":
                self.cases.setdefault(fields["case_id"], fields)
            case "outcome":
                self.outcomes[fields["case_id"]] = fields["outcome"]
            case "verdict":
                self.verdicts[fields["accused"]] = fields.get("case_id", "")
            case "evidence":
                self.evidence.add(fields["accused"])
            case "slashed":
                self._slashed(fields)
            case "epoch":
                self.seated[fields["group"], fields["epoch"]] = fields["members"]
            case "lied":
                self.lies.add((fields["group"], fields["height"], fields["block_id"]))
            case "anchored":
                self.anchored.add((fields["group"], fields["epoch"]))
            case "fault":
                self.faults[fields["reason"]] += 1
            case "wire":
                self._wire[event.name, event.life] = fields["sent"]
            case "lag":
                self.lag_ms[event.name] = max(self.lag_ms.get(event.name, 0.0), fields["p99_ms"])
            case "dropped":
                self.dropped_events += fields["count"]
            case _:
                pass

    def _decided(self, event: Event) -> None:
        fields = event.fields
        key = (fields["group"], fields["height"])
        if key not in self.blocks:
            names = ("group", "height", "round", "block_id", "proposer", "seconds")
            self.blocks[key] = Block(**{name: fields[name] for name in names})
            self.blocks[key].members = tuple(fields.get("members", ()))
            self.blocks[key].left_out = tuple(fields.get("left_out", ()))
        self.blocks[key].by.add(event.name)
        self.blocks[key].ids.add(fields["block_id"])
        self._accuracy(fields)
        for group, height in fields.get("counted", ()):
            self.counted[group] = max(height, self.counted.get(group, -1))

    def _accuracy(self, fields: dict[str, Any]) -> None:
        if fields.get("accuracy") is not None:
            self.accuracy.setdefault((fields["group"], fields["height"]), fields["accuracy"])

    def _slashed(self, fields: dict[str, Any]) -> None:
        known = self.slashed[fields["accused"]]
        if all(each["tx"] != fields["tx"] for each in known):
            known.append(fields)

    # -- questions -----------------------------------------------------------

    def heights(self, group: str) -> int:
        """How many blocks of this group were decided."""
        return sum(1 for name, _ in self.blocks if name == group)

    def blocks_of(self, group: str) -> list[Block]:
        """The decided blocks of this group, the lowest first."""
        return [block for (name, _), block in sorted(self.blocks.items()) if name == group]

    def with_outcome(self, outcome: str) -> dict[str, list[int]]:
        """The heights of the rounds about which cases ended so, by the accused."""
        found: dict[str, list[int]] = defaultdict(list)
        for case_id, each in self.outcomes.items():
            case = self.cases.get(case_id)
            if each == outcome and case is not None and case["accused"]:
                found[case["accused"]].append(case["height"])
        return dict(found)

    def forks(self) -> list[tuple[str, int]]:
        """Heights at which two blocks were decided: there must never be one."""
        return [key for key, block in self.blocks.items() if len(block.ids) > 1]

    def accuracies(self, rounds: int) -> list[float]:
        """One a decided round: the council's base, else the groups' mean, else what was measured last."""
        found: list[float] = []
        decided = max((height for group, height in self.blocks if group != COUNCIL), default=-1)
        for height in range(min(rounds, decided + 1)):
            here = {group: value for (group, at), value in self.accuracy.items() if at == height}
            if here:
                found.append(here[COUNCIL] if COUNCIL in here else sum(here.values()) / len(here))
            elif found:
                found.append(found[-1])
        return found

    def round_seconds(self) -> list[float]:
        """How long each decided height of a members' group took, ascending."""
        return sorted(block.seconds for (group, _), block in self.blocks.items() if group != COUNCIL)

    def accused(self) -> list[str]:
        """Members with a standing accusation: a verdict, a case that ended against them, or evidence."""
        against = {
            self.cases[case_id]["accused"]
            for case_id, outcome in self.outcomes.items()
            if outcome in ("guilty", "no_opening") and case_id in self.cases
        }
        return sorted({*against, *self.verdicts, *self.evidence} - {None})

    def open_cases(self) -> list[str]:
        """Cases that await an outcome: those that accuse somebody."""
        accusing = {case_id for case_id, case in self.cases.items() if case["accused"]}
        return sorted(accusing - set(self.outcomes))

    def ended_epochs(self) -> set[tuple[str, int]]:
        """The epochs of groups that have gone on to the next one."""
        return {key for key in self.seated if (key[0], key[1] + 1) in self.seated}

    def wire_bytes(self) -> dict[str, int]:
        """Bytes sent by all processes, by protocol."""
        total: dict[str, int] = defaultdict(int)
        for sent in self._wire.values():
            for protocol, count in sent.items():
                total[protocol] += count
        return dict(sorted(total.items()))


def percentile(ascending: list[float], share: float) -> float | None:
    """The value below which this share lies (nearest rank); None of nothing."""
    if not ascending:
        return None
    return ascending[min(len(ascending) - 1, int(share * len(ascending)))]
