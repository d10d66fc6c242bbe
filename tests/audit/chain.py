"""A small history made with the real rules and real signatures; only the training is drawn from a generator.

Three groups of four and a council of four, six heights. g2-m1 sends its update backwards and large at
heights 1 and 2; g3-m2 copies g3-m0 at height 1. Heights 2 and 3 of the groups are counted by one council
block, height 5 by none.
"""

from __future__ import annotations

import dataclasses
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from consensus.chain import HEADER_VERSION, History
from consensus.signing import block_id, struct_hash
from consensus.types import (
    ZERO_DIGEST,
    Digest,
    Header,
    MemberId,
)
from p2pfl import codec
from p2pfl.audit.verify import Report, verify
from p2pfl.genesis import COUNCIL, ChainEntry, Genesis, GroupEntry, MemberEntry, Task, Times
from p2pfl.params import Base, Layout, TensorSpec, Update, apply_update, blob_id, quantize
from p2pfl.records import (
    BaseRef,
    Case,
    CountedBlock,
    GroupBody,
    VerdictCertificate,
    body_root,
)
from p2pfl.rules.audits import cases_without_updates
from p2pfl.rules.ballots import make as make_ballot
from p2pfl.rules.cases import derive_case
from p2pfl.rules.council import CouncilInputs, compare, derive_council, suspicions
from p2pfl.rules.counting import count_block
from p2pfl.rules.defaults import DEFAULT_RULES
from p2pfl.rules.filters import epoch_salt
from p2pfl.rules.repeats import counted_in
from p2pfl.rules.state import CouncilState
from p2pfl.rules.taking_back import own_steps, take
from p2pfl.rules.validate import GroupInputs, derive_group_body, list_root
from p2pfl.signed import (
    Close,
    Measurement,
    ParamTx,
    SignedBallot,
    SignedClose,
    SignedMeasurement,
    SignedParamTx,
    Verdict,
)

from .built import Built, decide, member_of, signed

GROUPS = ("g1", "g2", "g3")
# Whose members reject that block, with the next one.
REJECTED = ("g1", 4)
LIAR, COPIED, COPY = "g2-m1", "g3-m0", "g3-m2"
LAYOUT = Layout((TensorSpec("weight", (100, 60)), TensorSpec("bias", (30,))))
HEIGHTS = 6
# After which heights of the groups the council makes a block: 2 and 3 are counted together, 5 by none.
COUNCIL_AFTER = (0, 1, 3, 4)
REPLAY_PPM = {LIAR: 1_700_000}  # Everybody else's replay matches.


def _entry(name: str, first: str = "") -> GroupEntry:
    names = [first or f"{name}-m0", *(f"{name}-m{index}" for index in range(1, 4))]
    members = tuple(
        MemberEntry(each, member_of(each), "peer " + each, "/ip4/127.0.0.1/tcp/1") for each in names
    )
    return GroupEntry(name, members)


def make_genesis(initial: Base, hostile: str = "") -> Genesis:
    return Genesis(
        version=1,
        name=hostile or "test",
        seed=Digest(b"\x05" * 32),
        chain=ChainEntry(0, MemberId(bytes(20)), MemberId(bytes(20))),
        task=Task("mlp", "digits", (100,), 30, LAYOUT.tensors, 1, 32, 100_000, 900_000, 16, 64, 1),
        times=Times(1000, 1000, 1000, 1000, 1000, 1000, 1000, 3, 1000),
        rules=dataclasses.replace(DEFAULT_RULES, aggregator="mean"),
        groups=(_entry(GROUPS[0], hostile), *(_entry(name) for name in GROUPS[1:])),
        council=_entry(COUNCIL),
        rounds=HEIGHTS,
        initial_base_id=blob_id(initial.to_bytes()),
        initial_exponents=(-14, -14),
        start_time_ms=0,
    )


@lru_cache(maxsize=2)
def build(hostile: str = "", audit_share_ppm: int = 0) -> Built:
    """The history; the same object every time, so do not change it. hostile: names the first member."""
    chance = np.random.default_rng(7)
    initial = Base(LAYOUT, (chance.standard_normal(LAYOUT.size) * 0.1).astype(np.float32))
    genesis = make_genesis(initial, hostile)
    rules = dataclasses.replace(genesis.rules, audit_share_ppm=audit_share_ppm)
    return _Builder(dataclasses.replace(genesis, rules=rules), initial, chance).run()


class _Builder:
    def __init__(self, genesis: Genesis, initial: Base, chance: np.random.Generator) -> None:
        self.genesis = genesis
        self.chance = chance
        self.built = Built(genesis, {name: [] for name in (*GROUPS, COUNCIL)})
        self.state = CouncilState.genesis(genesis)
        self.bases: dict[Digest, Base] = {}
        self.updates: dict[Digest, Update] = {}
        self.history = {
            name: History(genesis.domain(name), genesis.network_id, genesis.committee(name))
            for name in (*GROUPS, COUNCIL)
        }
        self.salt = epoch_salt(genesis.network_id, 0, ZERO_DIGEST)
        self.keep_base(initial)

    def run(self) -> Built:
        for height in range(HEIGHTS):
            for name in GROUPS:
                self.group_block(name, height)
            if height in COUNCIL_AFTER:
                self.council_block()
        return self.built

    def keep_base(self, base: Base) -> Digest:
        data = base.to_bytes()
        self.bases[blob_id(data)] = base
        self.built.blobs[blob_id(data)] = data
        return blob_id(data)

    def keep_update(self, update: Update) -> Digest:
        data = update.to_bytes()
        self.updates[blob_id(data)] = update
        self.built.blobs[blob_id(data)] = data
        return blob_id(data)

    def direction(self, height: int) -> np.ndarray[Any, np.dtype[np.float64]]:
        return np.random.default_rng(1000 + height).standard_normal(LAYOUT.size) * 0.05

    def decided(self, name: str, proposer: MemberId, body: Any, round_: int = 0) -> None:
        history = self.history[name]
        header = Header(
            version=HEADER_VERSION,
            network_id=self.genesis.network_id,
            group_id=self.genesis.group_id(name),
            epoch=0,
            height=len(self.built.chains[name]),
            parent_id=history.tip_id,
            proposer=proposer,
            time_ms=1_700_000_000_000 + 1500 * len(self.built.chains[name]),
            app_root=body_root(body),
            log_root=history.log.root(),
            next_committee_root=self.genesis.committee(name).root(),
        )
        block = decide(self.genesis, name, header, codec.encode(body), round_=round_)
        history.append(header, block.certificate)
        self.built.chains[name].append(block)

    # -- groups ---------------------------------------------------------------

    def group_block(self, name: str, height: int) -> None:
        genesis, state = self.genesis, self.state
        own = tuple(range(state.counted[genesis.group_id(name)][0] + 1, height))
        base = self.bases[state.base_id]
        for each in own:
            base = apply_update(base, self.updates[self.built.body(name, each).aggregate_id])
        base_id = self.keep_base(base)
        round_ = 1 if (name, height) == ("g1", 3) else 0
        updates = {each: self.train(each, height) for each in (m.name for m in genesis.entry(name).members)}
        if height == 1 and name == "g3":
            updates[COPY] = updates[COPIED]
        txs = tuple(self.tx(name, member, height, base_id, update) for member, update in updates.items())
        ids = tuple(struct_hash(signed.tx) for signed in txs)
        close = Close(0, height, 0, list_root(ids))
        committee = genesis.committee(name)
        ci = genesis.member(committee.proposer(height, 0)).name
        previous = self.updates[self.built.body(name, height - 1).aggregate_id] if height else None
        hidden = (member_of(f"{name}-m3"),) if (name, height) == ("g1", 2) else ()
        before = range(max(0, height - genesis.rules.look_back), height)
        inputs = GroupInputs(
            genesis=genesis,
            group=name,
            committee=committee,
            epoch=0,
            height=height,
            txs=txs,
            close=SignedClose(close, ids, signed(genesis, name, ci, close)),
            unrevealed=hidden,
            updates={
                member_of(each): update for each, update in updates.items() if member_of(each) not in hidden
            },
            exponents=state.exponents,
            previous_aggregate=previous,
            root_update=self.updates.get(state.root_update_id),
            standings=state.standings(genesis.group_id(name), 0),
            pool=state.pool,
            earlier=counted_in(self.built.body(name, each) for each in before),
            base=BaseRef(base_id, state.height, state.block_id, own),
            base_values=base,
            salt=self.salt,
            ballots=self.ballots(name, height - 1) if height else (),
            parent=self.built.body(name, height - 1) if height else None,
            parent_id=self.history[name].tip_id,
            old_base=self.without_last(name, base) if (name, height - 1) == REJECTED else None,
        )
        derived = derive_group_body(inputs)
        self.keep_update(derived.aggregate)
        self.keep_base(derived.next_base)
        self.decided(name, committee.proposer(height, round_), derived.body, round_)

    def ballots(self, name: str, height: int) -> tuple[SignedBallot, ...]:
        """On the group's last block: one abstains, and all others reject it or none does."""
        after = 9.0 if (name, height) == REJECTED else 1.5
        found: list[SignedBallot] = []
        for index, each in enumerate(self.genesis.entry(name).members):
            ballot = make_ballot(0, height, self.history[name].tip_id, (2.0, after) if index else None)
            found.append(SignedBallot(ballot, signed(self.genesis, name, each.name, ballot)))
        return tuple(found)

    def without_last(self, name: str, base: Base) -> Base:
        """The council's base without the group's last block, which it has counted."""
        (step,) = own_steps(
            self.state.added[self.genesis.group_id(name)], {}, REJECTED[1] + 1, without_last=True
        )
        old = take(base, step, self.updates[step.aggregate_id])
        self.keep_base(old)
        return old

    def train(self, name: str, height: int) -> Update:
        delta = self.direction(height) + self.chance.standard_normal(LAYOUT.size) * 0.03
        if name == LIAR and height in (1, 2):
            delta = -3.5 * self.direction(height)
        update, _ = quantize(delta.astype(np.float32), LAYOUT, self.state.exponents)
        return update

    def tx(self, group: str, name: str, height: int, base_id: Digest, update: Update) -> SignedParamTx:
        tx = ParamTx(
            epoch=0,
            height=height,
            member=member_of(name),
            base_id=base_id,
            blob_id=self.keep_update(update),
            byte_length=len(update.to_bytes()),
            samples=100,
            saturated=0,
            data_root=Digest(sha256(name.encode()).digest()),
            data_leaves=120,
            trace_root=Digest(sha256(f"{name} {height}".encode()).digest()),
            loss_before_micro=2_000_000 - 100_000 * height,
            loss_after_micro=1_900_000 - 100_000 * height,
        )
        return SignedParamTx(tx, signed(self.genesis, group, name, tx))

    # -- the council --------------------------------------------------------------

    def council_block(self) -> None:
        genesis, state = self.genesis, self.state
        height = len(self.built.chains[COUNCIL])
        committee = genesis.committee(COUNCIL)
        counted: list[CountedBlock] = []
        bodies: dict[Digest, GroupBody] = {}
        for name in GROUPS:
            for decided in self.built.chains[name][state.counted[genesis.group_id(name)][0] + 1 :]:
                header = decided.block.header
                body = self.built.body(name, header.height)
                bodies[block_id(header)] = body
                counted.append(count_block(header, decided.certificate, body))
        for header in state.latest:
            bodies[block_id(header)] = self.built.body(genesis.group_names[header.group_id], header.height)
        inputs = CouncilInputs(
            state=state,
            committee=committee,
            epoch=0,
            height=height,
            counted=tuple(counted),
            bodies=bodies,
            aggregates={each.aggregate_id: self.updates[each.aggregate_id] for each in counted},
            base_values=self.bases[state.base_id],
            root_update=self.updates.get(state.root_update_id),
            salt=self.salt,
            group_salts={genesis.group_id(name): self.salt for name in GROUPS},
        )
        comparison = compare(inputs)
        root_update, _ = quantize(
            self.direction(50 + height).astype(np.float32), LAYOUT, comparison.exponents
        )
        derived = derive_council(
            inputs,
            comparison,
            root_update_id=self.keep_update(root_update),
            cases=self.cases(inputs, comparison, bodies),
            measurements=self.measurements(),
            certificates=tuple(self.certificate(verdict) for verdict in state.due_verdicts()),
        )
        self.keep_base(derived.base)
        self.decided(COUNCIL, committee.proposer(height, 0), derived.body)
        self.state = state.apply(self.built.chains[COUNCIL][-1].block.header, derived.body)

    def cases(self, inputs: CouncilInputs, comparison: Any, bodies: dict[Digest, GroupBody]) -> list[Case]:
        deadline = inputs.height + self.genesis.rules.case_blocks
        found: list[Case] = []
        for suspicion in suspicions(inputs, comparison):
            blobs = {signed.tx.member: signed.tx.blob_id for signed in suspicion.block.body.txs}
            case = derive_case(suspicion, {m: self.updates[blobs[m]] for m, _ in suspicion.wanted()})
            found += [case] if case is not None else []
        return [*found, *cases_without_updates(inputs.state, inputs.counted, bodies, deadline)]

    def measurements(self) -> list[SignedMeasurement]:
        found: list[SignedMeasurement] = []
        for entry in self.state.open_cases():
            accused = self.genesis.member(entry.case.accused).name
            ppm = REPLAY_PPM.get(accused, 4_000)
            for seat in self.genesis.council.members[:3]:
                opening = Digest(sha256(accused.encode()).digest())
                measured = Measurement(0, entry.case.case_id, entry.case.accused, 0, opening, ppm, 0, 0)
                found.append(SignedMeasurement(measured, signed(self.genesis, COUNCIL, seat.name, measured)))
        return found

    def certificate(self, verdict: Verdict) -> VerdictCertificate:
        seats = sorted((each.name for each in self.genesis.council.members[1:]), key=member_of)
        return VerdictCertificate(
            verdict, tuple(signed(self.genesis, COUNCIL, each, verdict) for each in seats)
        )


def cases_of(built: Built) -> list[Case]:
    """All cases of the history, in order."""
    return [
        case for height in range(len(built.chains[COUNCIL])) for case in built.body(COUNCIL, height).cases
    ]


def found(report: Report) -> set[tuple[str, str, int]]:
    return {(each.reason, each.chain, each.height) for each in report.findings}


def verified(built: Built, path: Path, *, recompute: bool = False, blobs: bool = True) -> Report:
    return verify(built.write(path, blobs=blobs), recompute=recompute, genesis=built.genesis)
