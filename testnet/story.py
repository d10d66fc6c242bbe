"""What a run looks like: rows of a table, and the story as sentences. Pure: events in, words out.

Every node tells its own view of the same things; a thing is told once, when the first node says so.
How the words reach a terminal is in `watch`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from p2pfl.offences import OFFENCES
from testnet.facts import COUNCIL, Event
from testnet.scenarios import Scenario

# The order of a round's steps; a row shows the furthest of its members.
STEPS = ("wait", "train", "reveal", "propose", "prepare", "commit", "decided", "finished")
WEI_PER_ETH = 10**18
# The same fault of the same peer, told by twelve others, is one line; a bad peer may commit many kinds.
FAULT_LINES_MAX = 20


@dataclass
class Row:
    """One group's line of the table, the council's too."""

    group: str
    height: int = -1
    round: int = 0
    step: str = "starts"
    votes: int = 0
    quorum: int = 0
    accuracy: float | None = None
    distance: float | None = None
    left_out: tuple[str, ...] = ()
    _place: tuple[int, int, int] = (-1, 0, 0)

    def moved(self, fields: dict[str, Any]) -> None:
        """A member of the group is at this step; the row shows the furthest."""
        step = fields.get("step") or ""
        rank = STEPS.index(step) if step in STEPS else 0
        place = (fields["height"], fields["round"], rank)
        if not step or place < self._place:
            return
        if place > self._place:
            self.votes = 0
        self._place = place
        self.height, self.round, self.step = fields["height"], fields["round"], step
        self.votes = max(self.votes, fields.get("votes", 0))
        self.quorum = fields.get("quorum", self.quorum)


@dataclass
class Story:
    """Rows and sentences of one run."""

    scenario: Scenario
    replay_max_ppm: int
    rows: dict[str, Row] = field(default_factory=dict)
    started: set[str] = field(default_factory=set)
    _told: set[Any] = field(default_factory=set)
    _cases: dict[str, dict[str, Any]] = field(default_factory=dict)
    _fault_lines: int = 0
    _turns: dict[str, list[str]] = field(default_factory=dict)  # Who sits in a group, since its last change.

    def __post_init__(self) -> None:
        for group in (*(f"g{g}" for g in range(self.scenario.network.groups)), COUNCIL):
            self.rows[group] = Row(group)

    def take(self, event: Event) -> list[str]:
        """Let one event change the rows; the sentences that it adds to the story."""
        tell = getattr(self, f"_on_{event.kind}", None)
        return [] if tell is None else [_plain(line) for line in tell(event)]

    def _once(self, *what: Any) -> bool:
        """True the first time."""
        if what in self._told:
            return False
        self._told.add(what)
        return True

    # -- the network -----------------------------------------------------------

    def _on_said(self, event: Event) -> list[str]:
        """The launcher's own words."""
        return [event.fields["line"]]

    def _on_started(self, event: Event) -> list[str]:
        self.started.add(event.name)
        lines = [f"{event.name} was started again"] if event.life else []
        return lines + ([f"explorer: {event.fields['explorer']}"] if event.fields.get("explorer") else [])

    def _on_killed(self, event: Event) -> list[str]:
        fields = event.fields
        where = f"round {fields['height']}, step {fields['step']}"
        return [f"{where}: {fields['name']}, whose turn it is, gets kill -9"]

    def _on_died(self, event: Event) -> list[str]:
        fields = event.fields
        return [f"{fields['name']} ended by itself (status {fields['status']}): {fields['words']}"]

    def _on_fault(self, event: Event) -> list[str]:
        fields = event.fields
        if fields["reason"] == "unreachable":
            return []  # Nobody's fault: it is being started, or it is dead, which has lines of its own.
        if not self._once("fault", fields["peer"], fields["reason"]) or self._fault_lines >= FAULT_LINES_MAX:
            return []
        self._fault_lines += 1
        return [f"{event.name} refused something of {fields['peer']}: {fields['reason']}"]

    # -- rounds ------------------------------------------------------------------

    def _on_step(self, event: Event) -> list[str]:
        fields = event.fields
        group, height, round_ = fields["group"], fields["height"], fields["round"]
        self.rows[group].moved(fields)
        if event.life and fields["step"] in ("prepare", "commit") and self._once("back", event.name):
            return [f"round {height}: {event.name} has caught up, and votes again"]
        if not round_ or not self._once("round", group, height, round_):
            return []
        before, now = self._turn(group, height + round_ - 1), self._turn(group, height + round_)
        where = _where(group, height)
        return [f"{where} goes on with {now} in the place of {before} (consensus round {round_})"]

    def _on_epoch(self, event: Event) -> list[str]:
        group, epoch, names = (event.fields[key] for key in ("group", "epoch", "members"))
        if not epoch or not self._once("epoch", group, epoch):
            return []
        changed = sorted(names) != sorted(self._turns.get(group, []))
        self._turns[group] = names
        where = "the council" if group == COUNCIL else group
        return [f"epoch {epoch} of {where}: {', '.join(sorted(names))}"] if changed else []

    def _on_anchored(self, event: Event) -> list[str]:
        group, epoch = event.fields["group"], event.fields["epoch"]
        if not self._once("anchored", group, epoch):
            return []
        where = "the council" if group == COUNCIL else group
        return [f"the chain knows how epoch {epoch} of {where} ended: block {event.fields['height']}"]

    def _turn(self, group: str, slot: int) -> str:
        shape = self.scenario.network
        if group in self._turns:
            return self._turns[group][slot % len(self._turns[group])]
        if group == COUNCIL:
            return f"seat{slot % shape.seats}"
        return f"{group}m{slot % shape.members}"

    def _on_decided(self, event: Event) -> list[str]:
        fields = event.fields
        group, height = fields["group"], fields["height"]
        row = self.rows[group]
        row.moved({**fields, "step": "decided"})
        self._measured(row, fields)
        for other, cosine in zip(fields.get("members", ()), fields.get("distance") or (), strict=False):
            if group == COUNCIL:
                self.rows[other].distance = cosine
        if not self._once("decided", group, height):
            return []
        before, row.left_out = row.left_out, tuple(fields.get("left_out") or ())
        if row.left_out == before:
            return []
        who = ", ".join(row.left_out)
        return [f"{_where(group, height)} {f'leaves out {who}' if who else 'counts everybody again'}"]

    def _on_evaluated(self, event: Event) -> list[str]:
        fields = event.fields
        row = self.rows[fields["group"]]
        self._measured(row, fields)
        if fields["group"] != COUNCIL or not self._once("accuracy", fields["height"]):
            return []
        return [f"council block {fields['height']}: its parameters get {fields['accuracy']:.1%} right"]

    def _on_ballots(self, event: Event) -> list[str]:
        fields = event.fields
        group, height = fields["group"], fields["height"]
        if not fields["taken_back"] or not self._once("ballots", group, height):
            return []
        against, of = sum(not each["approves"] for each in fields["ballots"]), len(fields["ballots"])
        told = f"{against} of {of} lose more by it on held-out data"
        return [f"{_where(group, height)} is taken back: {told}"]

    @staticmethod
    def _measured(row: Row, fields: dict[str, Any]) -> None:
        if fields.get("accuracy") is not None:
            row.accuracy = fields["accuracy"]
        if isinstance(fields.get("distance"), (int, float)):
            row.distance = float(fields["distance"])

    def _on_finished(self, event: Event) -> list[str]:
        fields = event.fields
        group = fields["group"]
        self.rows[group].moved({"height": fields["height"], "round": 0, "step": "finished"})
        if not self._once("finished", group) or group == COUNCIL:
            return []
        return [f"{group} has finished its {fields['height'] + 1} rounds"]

    # -- justice -------------------------------------------------------------------

    def _on_case(self, event: Event) -> list[str]:
        fields = event.fields
        if not self._once("case", fields["case_id"]):
            return []
        self._cases[fields["case_id"]] = fields
        group, accused = fields["group"], fields["accused"]
        candidates = fields.get("candidates") or []
        here = f"round {fields['height']}:"
        match fields["cause"]:
            case "group_apart":
                cosine = f" (cosine {candidates[0]['with']:.2f})" if candidates else ""
                lines = [f"{here} group {group} stands apart{cosine}"]
            case "member_apart":
                lines = [
                    f"{here} the warnings of {group} name a member that stands apart from the other groups"
                ]
            case cause:
                told = CAUSES.get(cause, "broke a hard rule")
                return [f"{here} {accused} of {group} {told}; it must open its round"]
        if candidates:
            names = ", ".join(each["member"] for each in candidates)
            found = _count(len(candidates), "candidate")
            fetched = _count(fields["blobs_fetched"], "blob")
            lines.append(f"council: {found} found through the warnings filter ({names}), {fetched} fetched")
        chosen = next((each for each in candidates if each["member"] == accused), None)
        if chosen is not None:
            lines.append(
                f"council: without {accused} the cosine of {group} goes from {chosen['with']:.2f} to "
                f"{chosen['without']:.2f}; it must open its round"
            )
        elif accused is None:
            lines.append(f"council: nobody's absence brings {group} back; nobody is accused")
        return lines

    def _on_measured(self, event: Event) -> list[str]:
        fields = event.fields
        if not self._once("measured", fields["case_id"], fields["seat"]):
            return []
        accused = self._accused(fields["case_id"])
        if fields["status"]:
            return [f"{fields['seat']} got no valid opening of {accused}'s round"]
        measured, limit = fields["worst_ppm"] / 1e6, self.replay_max_ppm / 1e6
        return [
            f"{fields['seat']} replayed {accused}'s round: distance {measured:.2f} (threshold {limit:.2f})"
        ]

    def _on_outcome(self, event: Event) -> list[str]:
        fields = event.fields
        if not self._once("outcome", fields["case_id"]):
            return []
        words = {
            "guilty": "is guilty",
            "cleared": "is cleared",
            "harmful": "trained as it said, on labels that nobody else gives: it is left out",
            "no_opening": "did not open its round",
        }
        return [f"council: {fields['accused']} {words.get(fields['outcome'], fields['outcome'])}"]

    def _on_verdict(self, event: Event) -> list[str]:
        fields = event.fields
        if not self._once("verdict", fields["accused"], fields["offence"]):
            return []
        seats = self.scenario.network.seats
        offence = OFFENCES.get(fields["offence"], str(fields["offence"]))
        return [
            f"verdict certified by {fields['signatures']} of {seats} seats: {fields['accused']}, {offence}"
        ]

    def _on_evidence(self, event: Event) -> list[str]:
        fields = event.fields
        if not self._once("evidence", fields["accused"], fields["offence"]):
            return []
        offence = OFFENCES.get(fields["offence"], str(fields["offence"]))
        return [f"round {fields['height']}: {event.name} holds proof against {fields['accused']}: {offence}"]

    def _on_submitted(self, event: Event) -> list[str]:
        fields = event.fields
        if not self._once("submitted", fields["what"], fields["accused"]):
            return []
        words = {
            "verdict": "the verdict waits on chain for objections",
            "equivocation": "the two signatures are on chain",
            "execute": "the verdict is executed",
        }
        what = words.get(fields["what"], fields["what"])
        return [f"{fields['accused']}: {what}, submitted by {event.name} in tx {_short(fields['tx'])}"]

    def _on_slashed(self, event: Event) -> list[str]:
        fields = event.fields
        if not self._once("slashed", fields["accused"], fields["tx"]):
            return []
        amount = fields["amount_wei"] / WEI_PER_ETH
        return [f"slashed: {amount:g} ETH of {fields['accused']} by tx {fields['tx']}"]

    def _accused(self, case_id: str) -> str:
        case = self._cases.get(case_id)
        return (case["accused"] if case else None) or "the accused"


# Cases that no comparison of groups led to.
CAUSES = {
    "audit": "is drawn for audit",
    "review": "was left out for its labels and is looked into again",
    "copied": "sent what a member of another group sent",
    "triage_alarm": "sent an update too rare to be honest",
}


def _where(group: str, height: int) -> str:
    """A group's height is a round of learning; the council's blocks count several groups' rounds."""
    return f"council block {height}:" if group == COUNCIL else f"round {height}: {group}"


def _short(digest: str) -> str:
    return digest[:10] + ".." if len(digest) > 12 else digest


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def _plain(line: str) -> str:
    """A peer may have chosen a word of it: nothing but printable characters reaches a terminal."""
    return "".join(char if char.isprintable() else "?" for char in line)[:500]
