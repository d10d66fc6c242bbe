"""What came of a cell, read from the chains that it left: who was left out, accused, slashed, and when.

A row is plain values (`Row`), so that it can be written down. Nothing is believed that a node told: all is
in decided blocks, but for how many blobs a case cost its seat.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from consensus.types import ZERO_MEMBER, DecidedBlock, Digest, Header, MemberId
from p2pfl.genesis import COUNCIL
from p2pfl.learn import train
from p2pfl.offences import REPLAY_MISMATCH
from p2pfl.params import parse_base
from p2pfl.records import CouncilBody, GroupBody, decode_body
from testnet import attacks
from testnet.attacks.data import stamped
from testnet.experiments.cells import Cell
from testnet.experiments.world import World

# P-values are counted in bins of a quarter of a decade: bin k holds those up to 10^(k/4) millionths.
BINS_A_DECADE = 4
BINS = 6 * BINS_A_DECADE + 1


@dataclass
class Row:
    """One cell's result. Rounds count from the first harmful one, which is round 1.

    *_client_rounds: commitments in decided blocks. alarms, left_out: of those, p-value at most the alarm
    rate; weight zero. excluded, named, slashed_rounds: of each attacker, when it was first left out, accused,
    slashed (a verdict for a replay that does not match, certified by the council's quorum, or a proved
    contradiction); -1 if never. audits: members that were drawn, which accuses nobody. blobs: fetched by
    a seat for each case that names somebody whose group stood apart.

    curve: accuracy after each council block. p_honest, p_attackers: client-rounds by p-value. story: what
    happened when: (height, kind, member, word).
    """

    key: str
    cell: dict[str, Any]
    ended: bool = True
    rounds_done: int = 0
    honest: int = 0
    attackers: int = 0
    honest_client_rounds: int = 0
    attacker_client_rounds: int = 0
    honest_alarms: int = 0
    attacker_alarms: int = 0
    honest_left_out: int = 0
    attacker_left_out: int = 0
    honest_slashed: int = 0
    attackers_slashed: int = 0
    cases_against_honest: int = 0
    audits: int = 0
    cases: dict[str, int] = field(default_factory=dict)
    excluded: list[int] = field(default_factory=list)
    named: list[int] = field(default_factory=list)
    slashed_rounds: list[int] = field(default_factory=list)
    blobs: list[int] = field(default_factory=list)
    round_changes: int = 0
    accuracy: float = 0.0
    attack_success: float | None = None
    curve: list[float] = field(default_factory=list)
    p_honest: list[int] = field(default_factory=list)
    p_attackers: list[int] = field(default_factory=list)
    story: list[tuple[int, str, str, str]] = field(default_factory=list)
    cpu_s: float = 0.0
    wall_s: float = 0.0

    def stable(self) -> dict[str, Any]:
        """Everything but how long it took: the same each time."""
        return {k: v for k, v in dataclasses.asdict(self).items() if k not in ("cpu_s", "wall_s")}


def row_of(world: World) -> Row:
    """The result of a network that has lived."""
    return _Reading(world).row()


class _Reading:
    def __init__(self, world: World) -> None:
        self.world, self.cell = world, world.cell
        self.villains = {seat.entry.member_id for seat in world.seats if seat.name in world.cell.cast()}
        members = [seat for seat in world.seats if seat.group != COUNCIL]
        self.found = Row(
            world.cell.key, dataclasses.asdict(world.cell), ended=world.ended,
            honest=len(members) - len(self.villains), attackers=len(self.villains),
            p_honest=[0] * BINS, p_attackers=[0] * BINS,
        )  # fmt: skip
        self.first_harm = first_harmful(world.cell)
        self.excluded: dict[MemberId, int] = {}
        self.named: dict[MemberId, int] = {}
        self.slashed: dict[MemberId, int] = {}

    def row(self) -> Row:
        found = self.found
        for group in self.cell.names():
            for decided in self._longest(group):
                self._take_group(decided.block.header, decode_body(decided.block.body, GroupBody))
                found.round_changes += decided.certificate.round
        self._take_council()
        villains = sorted(self.villains)
        for name in ("excluded", "named", "slashed"):
            known = getattr(self, name)
            rounds = [known.get(each, -1) for each in villains]
            setattr(found, "slashed_rounds" if name == "slashed" else name, rounds)
        found.attackers_slashed = len(self.villains & self.slashed.keys())
        found.honest_slashed = len(self.slashed.keys() - self.villains)
        found.blobs = [
            fields["blobs_fetched"]
            for _, name, kind, fields in self.world.events
            if kind == "case" and name == "seat0" and fields["accused"] is not None
            and fields["cause"] in ("group_apart", "member_apart")
        ]  # fmt: skip
        found.story.sort()
        return found

    def _longest(self, group: str) -> Sequence[DecidedBlock]:
        stores = [self.world.parts[seat.name].store for seat in self.world.seats if seat.group == group]
        return list(max((store.chain(group) for store in stores), key=len))

    def _round(self, height: int) -> int:
        """Counted from the first harmful one, which is 1."""
        return height - self.first_harm + 1

    def _take_group(self, header: Header, body: GroupBody) -> None:
        found = self.found
        found.rounds_done = max(found.rounds_done, header.height + 1)
        rows = {row.member: row for row in body.triage}
        for signed, weight in zip(body.txs, body.weights, strict=True):
            member = signed.tx.member
            bad, row = member in self.villains, rows.get(member)
            of = "attacker" if bad else "honest"
            _add(found, f"{of}_client_rounds")
            if not weight:
                _add(found, f"{of}_left_out")
                if self._round(header.height) > 0:
                    self.excluded.setdefault(member, self._round(header.height))
            if row is not None:
                (found.p_attackers if bad else found.p_honest)[bin_of(row.p_ppm)] += 1
                if row.alarm:
                    _add(found, f"{of}_alarms")

    def _take_council(self) -> None:
        counted: dict[str, int] = {}
        names = self.world.genesis.group_names
        for decided in self._longest(COUNCIL):
            body: CouncilBody = decode_body(decided.block.body, CouncilBody)
            for each in body.counted:
                counted[names[each.header.group_id]] = each.header.height
            self._judge(body, counted)
            if body.counted:
                self.found.curve.append(self._accuracy(body))
        if self.found.curve:
            self.found.accuracy = self.found.curve[-1]

    def _judge(self, body: CouncilBody, counted: dict[str, int]) -> None:
        found, kinds = self.found, Counter(self.found.cases)
        for case in body.cases:
            kinds[case.cause] += 1
            if case.accused == ZERO_MEMBER:
                continue
            height = counted.get(self._group_of(case.accused), 0)
            self._tell(height, "case", case.accused, case.cause)
            if case.cause == "audit":
                found.audits += 1
            elif case.accused not in self.villains:
                found.cases_against_honest += 1
            self.named.setdefault(case.accused, self._round(height))
        for outcome in body.outcomes:
            accused = self._accused(outcome.case_id)
            self._tell(counted.get(self._group_of(accused), 0), "outcome", accused, outcome.outcome)
            kinds[outcome.outcome] += 1
        for member, word in _slashed(body):
            height = counted.get(self._group_of(member), 0)
            if member not in self.slashed:
                self._tell(height, "slashed", member, word)
            self.slashed.setdefault(member, self._round(height))
        found.cases = dict(kinds)

    def _accused(self, case_id: Digest) -> MemberId:
        for seat in self.world.seats:
            if seat.group == COUNCIL:
                state = self.world.parts[seat.name].desk.context.council.tip
                if case_id in state.cases:
                    return state.cases[case_id].case.accused
        return ZERO_MEMBER

    def _group_of(self, member: MemberId) -> str:
        return next((seat.group for seat in self.world.seats if seat.entry.member_id == member), COUNCIL)

    def _tell(self, height: int, kind: str, member: MemberId, word: str) -> None:
        name = self.world.name_of(member) if member != ZERO_MEMBER else "-"
        self.found.story.append((height, kind, name, word))

    def _accuracy(self, body: CouncilBody) -> float:
        data, genesis = self.world.data.data, self.world.genesis
        base = parse_base(self.world.pool[body.base_id], genesis.task.layout)
        if self.cell.attack == "backdoor":
            self.found.attack_success = attack_success(self.cell, data, base.values)
        return measure(self.cell, data, base.values)


def _slashed(body: CouncilBody) -> Iterator[tuple[MemberId, str]]:
    for certificate in body.certificates:
        if certificate.verdict.offence == REPLAY_MISMATCH:
            yield certificate.verdict.accused, "replay mismatch"
    for each in getattr(body, "contradictions", ()):
        yield each.signer, "contradiction"


def _add(row: Row, name: str) -> None:
    setattr(row, name, getattr(row, name) + 1)


def bin_of(p_ppm: int) -> int:
    """The bin of a p-value."""
    limits = _limits()
    return min(BINS - 1, int(np.searchsorted(limits, max(1, p_ppm) * (1 - 1e-12))))


def _limits() -> Any:
    return 10.0 ** (np.arange(BINS) / BINS_A_DECADE)


def first_harmful(cell: Cell) -> int:
    """The height at which attackers begin to do harm."""
    if not cell.attacked:
        return 0
    default = attacks.options_of(cell.attack).get("honest_rounds", 0)
    return int(cell.options.get("honest_rounds", default))


def measure(cell: Cell, data: Any, values: Any) -> float:
    """Accuracy of these parameters on the test samples."""
    return train.evaluate(cell.model, data.input_shape, data.classes, values, data.test_x, data.test_y)[1]


def attack_success(cell: Cell, data: Any, values: Any) -> float:
    """How often a backdoor's trigger makes the model answer the target."""
    target = int(cell.options.get("target", attacks.options_of("backdoor")["target"]))
    others = data.test_y != target
    x, y = stamped(data.test_x[others]), np.full(int(others.sum()), target, dtype=np.int64)
    return train.evaluate(cell.model, data.input_shape, data.classes, values, x, y)[1]
