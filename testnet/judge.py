"""Does the scenario's claim hold? Every condition that a scenario may name is one function here.

A condition gets what the scenario wants and what the run showed, and returns a sentence for whatever does
not hold. Knows no process: what must be read from the chain or from files was read before.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from testnet.facts import COUNCIL, Block, Facts

if TYPE_CHECKING:
    from testnet.scenarios import Scenario


@dataclass
class Killed:
    """A node that was killed and started again.

    height_at_kill: the open height when it was killed; height_at_end: its own last block in the end;
    voted_height: the highest of its COMMITs; -1: there is none.
    """

    name: str
    group: str
    height_at_kill: int
    height_at_end: int = -1
    voted_height: int = -1


@dataclass
class Outcome:
    """What a run showed. tombstoned and slashed as the contracts say; contradictions as sentences."""

    facts: Facts
    slashed: list[str] = field(default_factory=list)
    tombstoned: list[str] = field(default_factory=list)
    contradictions: list[str] = field(default_factory=list)
    anchored: set[tuple[str, int]] = field(default_factory=set)  # (group, epoch), as the contract says.
    killed: list[Killed] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)  # Of an audit of the whole history.
    died: dict[str, int] = field(default_factory=dict)  # Nodes that ended by themselves, and their status.
    unclean: dict[str, int] = field(
        default_factory=dict
    )  # Nodes that did not end well when they were told to.

    @property
    def accuracy(self) -> float | None:
        """Of the newest base that was measured: the council's, where it measured one."""
        measured = self.facts.accuracy
        last = max((height for group, height in measured if group == COUNCIL), default=None)
        if last is not None:
            return measured[COUNCIL, last]
        found = self.facts.accuracies(len(self.facts.blocks))
        return found[-1] if found else None


@dataclass(frozen=True)
class Question:
    """What a condition is asked: does this hold? wanted: the scenario's value for it."""

    scenario: Scenario
    outcome: Outcome
    wanted: Any


Condition = Callable[[Question], list[str]]
CONDITIONS: dict[str, Condition] = {}


def condition(function: Condition) -> Condition:
    """Add a condition under its own name; scenarios name it in [holds]."""
    CONDITIONS[function.__name__] = function
    return function


def judge(scenario: Scenario, outcome: Outcome) -> list[str]:
    """Why the claim does not hold; empty when it does. A fork or a node that fell over always counts."""
    broken = [
        f"two blocks were decided in {group} at height {height}" for group, height in outcome.facts.forks()
    ]
    for status in sorted(set(outcome.died.values())):
        names = ", ".join(sorted(name for name, each in outcome.died.items() if each == status))
        broken.append(f"{names} ended by itself (status {status})")
    for name, wanted in scenario.holds.items():
        if wanted is not False:
            broken += CONDITIONS[name](Question(scenario, outcome, wanted))
    return broken


@condition
def all_rounds(asked: Question) -> list[str]:
    """Every group decided all its rounds."""
    rounds = asked.scenario.network.rounds
    made = {f"g{g}": asked.outcome.facts.heights(f"g{g}") for g in range(asked.scenario.network.groups)}
    return [f"{group} decided {count} of {rounds} rounds" for group, count in made.items() if count < rounds]


@condition
def accuracy_min(asked: Question) -> list[str]:
    """The last base gets at least this share of the public test set right."""
    reached = asked.outcome.accuracy
    if reached is None:
        return ["the accuracy was never measured"]
    return [] if reached >= asked.wanted else [f"the accuracy is {reached:.3f}, not {asked.wanted:g} or more"]


@condition
def accused_exactly_culprits(asked: Question) -> list[str]:
    """An accusation stands against the culprits and against nobody else."""
    return _exactly("accused", asked.outcome.facts.accused(), asked.scenario)


@condition
def slashed_exactly_culprits(asked: Question) -> list[str]:
    """The contract took stake from the culprits and from nobody else."""
    return _exactly("slashed", asked.outcome.slashed, asked.scenario)


@condition
def tombstoned_exactly_culprits(asked: Question) -> list[str]:
    """The contract lets the culprits, and nobody else, never return."""
    return _exactly("tombstoned", asked.outcome.tombstoned, asked.scenario)


@condition
def no_contradiction(asked: Question) -> list[str]:
    """No honest member signed two things that contradict each other, in any file that the run left."""
    return list(asked.outcome.contradictions)


@condition
def history_verifies(asked: Question) -> list[str]:
    """An audit of everybody's files finds nothing."""
    return list(asked.outcome.findings)


@condition
def ends_cleanly(asked: Question) -> list[str]:
    """Every node ends with status 0 when it is told to end."""
    return [f"{name} ended with status {status}" for name, status in sorted(asked.outcome.unclean.items())]


@condition
def chain_went_on(asked: Question) -> list[str]:
    """The group of who was killed decided the height of the kill and later ones."""
    facts = asked.outcome.facts
    return _of_killed(
        asked, "its group went no further", lambda k: facts.heights(k.group) > k.height_at_kill + 1
    )


@condition
def killed_catch_up(asked: Question) -> list[str]:
    """Who was killed holds the last block of its group in the end."""
    facts = asked.outcome.facts
    return _of_killed(asked, "it did not catch up", lambda k: k.height_at_end + 1 >= facts.heights(k.group))


@condition
def killed_vote_again(asked: Question) -> list[str]:
    """Who was killed signed a COMMIT of a later height than that of its kill."""
    return _of_killed(asked, "it did not vote again", lambda k: k.voted_height > k.height_at_kill)


@condition
def epochs_turned(asked: Question) -> list[str]:
    """Every group and the council went through at least so many changes of epoch."""
    groups = [*(f"g{g}" for g in range(asked.scenario.network.groups)), COUNCIL]
    reached = {group: max(e for g, e in asked.outcome.facts.seated if g == group) for group in groups}
    return [
        f"{group} is in epoch {epoch}, not {asked.wanted}"
        for group, epoch in reached.items()
        if epoch < asked.wanted
    ]


@condition
def epochs_anchored(asked: Question) -> list[str]:
    """The contract has the last block of every epoch that ended."""
    missing = sorted(asked.outcome.facts.ended_epochs() - asked.outcome.anchored)
    return [f"the contract does not know how epoch {epoch} of {group} ended" for group, epoch in missing]


@condition
def culprits_lose_their_seats(asked: Question) -> list[str]:
    """No culprit sits in any group of the newest epoch."""
    seated = asked.outcome.facts.seated
    newest = max(epoch for _, epoch in seated)
    there = {name for (_, epoch), names in seated.items() if epoch == newest for name in names}
    return [f"{name} still has a seat" for name in asked.scenario.culprits if name in there]


# ---------------------------------------------------------------------------
# Members who do harm, and may not be slashed for it.


@condition
def nobody_else_accused(asked: Question) -> list[str]:
    """An accusation stands against nobody but culprits and those who are to be left out."""
    scenario = asked.scenario
    known = {*scenario.culprits, *scenario.left_out}
    return [f"{name} was accused" for name in asked.outcome.facts.accused() if name not in known]


@condition
def nobody_else_slashed(asked: Question) -> list[str]:
    """The contract took stake from nobody but the culprits."""
    known = asked.scenario.culprits
    return [f"{name} was slashed, and is no culprit" for name in asked.outcome.slashed if name not in known]


@condition
def named_within(asked: Question) -> list[str]:
    """Each culprit was found guilty of one of so many first rounds."""
    guilty = asked.outcome.facts.with_outcome("guilty")
    return [
        f"{name} was not found guilty of one of its first {asked.wanted} rounds"
        for name in asked.scenario.culprits
        if min(guilty.get(name, ()), default=asked.wanted) >= asked.wanted
    ]


@condition
def left_out_within(asked: Question) -> list[str]:
    """Who is to be left out weighed nothing in a block of the first so many rounds."""
    return [
        f"{name} was not left out of the first {asked.wanted} rounds"
        for name, blocks in _own_blocks(asked).items()
        if all(block.counts(name) for block in blocks[: asked.wanted])
    ]


@condition
def counts_at_most(asked: Question) -> list[str]:
    """Who is to be left out weighs something in at most this share of its group's blocks."""
    shares = {
        name: sum(block.counts(name) for block in blocks) / max(1, len(blocks))
        for name, blocks in _own_blocks(asked).items()
    }
    return [
        f"{name} counted in {share:.0%} of the blocks, more than {asked.wanted:.0%}"
        for name, share in shares.items()
        if share > asked.wanted
    ]


@condition
def cleared(asked: Question) -> list[str]:
    """A case against each of these was closed because their replay matched."""
    found = asked.outcome.facts.with_outcome("cleared")
    return [f"no case against {name} ended well" for name in asked.wanted if name not in found]


@condition
def count_in_the_end(asked: Question) -> list[str]:
    """Each of these weighs something in the last block of its group."""
    facts = asked.outcome.facts
    return [
        f"{name} does not count in the last block of {group}"
        for name in asked.wanted
        for group in [name.partition("m")[0]]
        if not (blocks := facts.blocks_of(group)) or not blocks[-1].counts(name)
    ]


@condition
def group_left_out(asked: Question) -> list[str]:
    """The delta of this group was left out of one of the council's bases."""
    council = asked.outcome.facts.blocks_of(COUNCIL)
    left_out = any(asked.wanted in block.left_out for block in council)
    return [] if left_out else [f"{asked.wanted} was never left out of the council's base"]


@condition
def no_lie_decided(asked: Question) -> list[str]:
    """False blocks were proposed, and none of them was decided."""
    facts = asked.outcome.facts
    decided = [
        f"the lie {block_id} was decided in {group} at height {height}"
        for group, height, block_id in sorted(facts.lies)
        if (block := facts.blocks.get((group, height))) is not None and block_id in block.ids
    ]
    return decided if facts.lies else ["nobody lied: the moment never came"]


def _own_blocks(asked: Question) -> dict[str, list[Block]]:
    facts = asked.outcome.facts
    return {name: facts.blocks_of(name.partition("m")[0]) for name in asked.scenario.left_out}


def _exactly(what: str, names: list[str], scenario: Scenario) -> list[str]:
    wrong = sorted(set(names) - set(scenario.culprits))
    missing = sorted(set(scenario.culprits) - set(names))
    return [f"{name} was {what}, and is no culprit" for name in wrong] + [
        f"{name} was not {what}" for name in missing
    ]


def _of_killed(asked: Question, otherwise: str, holds: Callable[[Killed], bool]) -> list[str]:
    if len(asked.outcome.killed) < len(asked.scenario.kills):
        return ["nobody was killed: the moment never came"]
    return [f"{killed.name}: {otherwise}" for killed in asked.outcome.killed if not holds(killed)]
