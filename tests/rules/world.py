"""A small network on paper: keys, genesis, signed commitments, decided blocks. No socket, no training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from coincurve import PrivateKey

from consensus.chain import FIRST_PARENT_ID, HEADER_VERSION, Log
from consensus.signing import address, block_id, sign, signing_digest, struct_hash
from consensus.types import ZERO_DIGEST, ZERO_MEMBER, Certificate, Commit, Digest, Header, MemberId
from p2pfl import codec
from p2pfl.genesis import COUNCIL, ChainEntry, Genesis, GroupEntry, MemberEntry, Rules, Task, Times
from p2pfl.params import Base, Layout, TensorSpec, Update, blob_id
from p2pfl.records import BaseRef, CouncilBody, GroupBody, VerdictCertificate, body_root
from p2pfl.rules.council import (
    CouncilDerived,
    CouncilInputs,
    CouncilState,
    compare,
    derive_council,
)
from p2pfl.rules.counting import count_block
from p2pfl.rules.defaults import DEFAULT_RULES
from p2pfl.rules.filters import epoch_salt
from p2pfl.rules.validate import Derived, GroupInputs, derive_group_body, list_root
from p2pfl.signed import Close, Measurement, ParamTx, SignedClose, SignedMeasurement, SignedParamTx, Verdict

# Three tensors; the first has five chunks, the last of them short.
LAYOUT = Layout((TensorSpec("w", (17, 256)), TensorSpec("b", (16,)), TensorSpec("out", (10, 170))))
EXPONENTS = (-14, -12, -13)


def keys(group: int, size: int) -> tuple[PrivateKey, ...]:
    """The signing keys of a committee: the same in every run."""
    return tuple(PrivateKey((1000 * (group + 1) + i).to_bytes(32, "big")) for i in range(size))


@dataclass
class World:
    """Groups g0, g1, .. and a council, all on their first block."""

    genesis: Genesis
    secrets: Mapping[MemberId, PrivateKey]
    base: Base
    tips: dict[str, Header] = field(default_factory=dict)
    logs: dict[str, Log] = field(default_factory=dict)
    bodies: dict[Digest, GroupBody] = field(default_factory=dict)

    @property
    def salt(self) -> bytes:
        """Of every filter in epoch 0."""
        return epoch_salt(self.genesis.network_id, 0, ZERO_DIGEST)

    def members(self, group: str) -> tuple[MemberId, ...]:
        """In committee order."""
        return self.genesis.committee(group).members

    def update(self, values: np.ndarray, exponents: Sequence[int] = EXPONENTS) -> Update:
        """Of this world's layout."""
        return Update(self.genesis.task.layout, tuple(exponents), np.asarray(values, dtype=np.int16))

    def signed_tx(self, group: str, tx: ParamTx) -> SignedParamTx:
        """Signed by its member."""
        digest = signing_digest(self.genesis.domain(group), tx)
        return SignedParamTx(tx, sign(self.secrets[tx.member], digest))

    def signed_close(self, group: str, height: int, txs: Sequence[SignedParamTx]) -> SignedClose:
        """Of round 0, by its Ci."""
        ids = tuple(struct_hash(signed.tx) for signed in txs)
        close = Close(0, height, 0, list_root(ids))
        ci = self.genesis.committee(group).proposer(height, 0)
        digest = signing_digest(self.genesis.domain(group), close)
        return SignedClose(close, ids, sign(self.secrets[ci], digest))

    def inputs(
        self,
        group: str,
        updates: Mapping[MemberId, Update],
        *,
        height: int = 0,
        samples: Mapping[MemberId, int] | None = None,
        unrevealed: Sequence[MemberId] = (),
        **more: object,
    ) -> GroupInputs:
        """A closed round in which the members of `updates` committed to theirs."""
        exponents = next(iter(updates.values())).exponents
        base_values: Base = more.pop("base_values", self.base)  # type: ignore[assignment]
        base_id = blob_id(base_values.to_bytes())
        txs: list[SignedParamTx] = []
        for index, member in enumerate(self.members(group)):
            if member not in updates:
                continue
            blob = updates[member].to_bytes()
            count = (samples or {}).get(member, 100 + index)
            tx = ParamTx(
                epoch=0,
                height=height,
                member=member,
                base_id=base_id,
                blob_id=blob_id(blob),
                byte_length=len(blob),
                samples=count,
                saturated=0,
                data_root=Digest(bytes([index]) * 32),
                data_leaves=count,
                trace_root=Digest(bytes([index + 100]) * 32),
                loss_before_micro=2_300_000,
                loss_after_micro=2_000_000,
            )
            txs.append(self.signed_tx(group, tx))
        given: dict[str, object] = {
            "previous_aggregate": None,
            "root_update": None,
            "standings": (),
            "base": BaseRef(base_id, -1, ZERO_DIGEST, ()),
            **more,
        }
        return GroupInputs(
            genesis=self.genesis,
            group=group,
            committee=self.genesis.committee(group),
            epoch=0,
            height=height,
            txs=tuple(txs),
            close=self.signed_close(group, height, txs),
            unrevealed=tuple(unrevealed),
            updates={m: u for m, u in updates.items() if m not in unrevealed},
            exponents=exponents,
            base_values=base_values,
            salt=self.salt,
            **given,  # type: ignore[arg-type]
        )

    def decide(self, name: str, body: GroupBody | CouncilBody) -> tuple[Header, Certificate]:
        """The next block of a chain with this body, certified by a quorum."""
        committee, parent = self.genesis.committee(name), self.tips.get(name)
        log = self.logs.setdefault(name, Log())
        height = 0 if parent is None else parent.height + 1
        header = Header(
            version=HEADER_VERSION,
            network_id=self.genesis.network_id,
            group_id=self.genesis.group_id(name),
            epoch=0,
            height=height,
            parent_id=FIRST_PARENT_ID if parent is None else block_id(parent),
            proposer=committee.proposer(height, 0),
            time_ms=1_000 + height,
            app_root=body_root(body),
            log_root=log.root(),
            next_committee_root=committee.root(),
        )
        self.tips[name] = header
        log.append(block_id(header))
        vote = Commit(0, height, 0, block_id(header))
        digest = signing_digest(self.genesis.domain(name), vote)
        signers = sorted(committee.members)[: committee.quorum]
        return header, Certificate(0, tuple(sign(self.secrets[signer], digest) for signer in signers))

    def measurement(
        self,
        seat: MemberId,
        case_id: Digest,
        accused: MemberId,
        worst_ppm: int,
        status: int = 0,
        *,
        disagree_ppm: int = 0,
        expected_ppm: int = 0,
    ) -> SignedMeasurement:
        """Signed by the seat."""
        measured = Measurement(
            0, case_id, accused, status, ZERO_DIGEST, worst_ppm, disagree_ppm, expected_ppm
        )
        digest = signing_digest(self.genesis.domain(COUNCIL), measured)
        return SignedMeasurement(measured, sign(self.secrets[seat], digest))

    def certified(self, verdict: Verdict, seats: int | None = None) -> VerdictCertificate:
        """Signed by a quorum of seats, or by so many."""
        committee = self.genesis.committee(COUNCIL)
        digest = signing_digest(self.genesis.domain(COUNCIL), verdict)
        signers = sorted(committee.members)[: committee.quorum if seats is None else seats]
        return VerdictCertificate(verdict, tuple(sign(self.secrets[signer], digest) for signer in signers))

    def council_inputs(
        self,
        state: CouncilState,
        rounds: Sequence[tuple[str, Derived]],
        *,
        base_values: Base | None = None,
        root_update: Update | None = None,
    ) -> CouncilInputs:
        """What the council has once these bodies were decided, in this order."""
        counted, bodies, aggregates = [], {}, {}
        for name, derived in rounds:
            header, certificate = self.decide(name, derived.body)
            counted.append(count_block(header, certificate, derived.body))
            bodies[block_id(header)] = self.bodies[block_id(header)] = derived.body
            aggregates[derived.body.aggregate_id] = derived.aggregate
        return CouncilInputs(
            state=state,
            committee=self.genesis.committee(COUNCIL),
            epoch=0,
            height=state.height + 1,
            counted=tuple(counted),
            bodies=bodies
            | {each: self.bodies[each] for each in map(block_id, state.latest) if each in self.bodies},
            aggregates=aggregates,
            base_values=base_values or self.base,
            root_update=root_update,
            salt=self.salt,
            group_salts={self.genesis.group_id(entry.name): self.salt for entry in self.genesis.groups},
        )

    def advance(
        self, state: CouncilState, *, root_update_id: Digest = ZERO_DIGEST, **parts: object
    ) -> tuple[CouncilState, CouncilDerived]:
        """A council block that counts nothing, with these cases, measurements or certificates."""
        inputs = self.council_inputs(state, ())
        derived = derive_council(inputs, compare(inputs), root_update_id=root_update_id, **parts)  # type: ignore[arg-type]
        header, _ = self.decide(COUNCIL, derived.body)
        decoded = codec.decode(codec.encode(derived.body), CouncilBody, size_max=1 << 20)
        return state.apply(header, decoded), derived


def world(
    *,
    groups: int = 3,
    members: int = 4,
    rules: Rules = DEFAULT_RULES,
    layout: Layout = LAYOUT,
    **more: object,
) -> World:
    """A network of `groups` groups and four seats, whose base is zero."""
    base = Base(layout, np.zeros(layout.size, dtype=np.float32))
    secrets: dict[MemberId, PrivateKey] = {}

    def entry(name: str, index: int, size: int, prefix: str) -> GroupEntry:
        found: list[MemberEntry] = []
        for i, key in enumerate(keys(index, size)):
            member = address(key.public_key)
            secrets[member] = key
            found.append(MemberEntry(f"{prefix}{i}", member, f"peer-{prefix}{i}", "/ip4/127.0.0.1/tcp/0"))
        return GroupEntry(name, tuple(found))

    genesis = Genesis(
        version=1,
        name="on paper",
        seed=Digest(b"\x07" * 32),
        chain=ChainEntry(0, ZERO_MEMBER, ZERO_MEMBER),
        task=Task("cnn", "digits", (1, 8, 8), 10, layout.tensors, 1, 32, 100_000, 900_000, 16, 100, 1),
        times=Times(*[1_000] * 9),
        rules=rules,
        groups=tuple(entry(f"g{g}", g, members, f"g{g}m") for g in range(groups)),
        council=entry(COUNCIL, 99, 4, "seat"),
        rounds=10,
        initial_base_id=blob_id(base.to_bytes()),
        initial_exponents=EXPONENTS if layout is LAYOUT else (-14,) * len(layout.tensors),
        start_time_ms=0,
    )
    return World(replace(genesis, **more), secrets, base)  # type: ignore[arg-type]


def honest_updates(
    there: World, group: str, seed: int, *, signal: int = 300, noise: int = 400, height: int = 0
) -> dict[MemberId, Update]:
    """Updates that share a direction (the same in all groups of a height) and differ by noise."""
    size = there.genesis.task.layout.size
    common = np.random.default_rng([seed, height]).normal(0, signal, size)
    found: dict[MemberId, Update] = {}
    for index, member in enumerate(there.members(group)):
        own = np.random.default_rng([seed, height, int(group[1:]), index]).normal(0, noise, size)
        values = np.clip(np.rint(common + own), -32767, 32767).astype(np.int16)
        found[member] = there.update(values, there.genesis.initial_exponents)
    return found


def derive_all(there: World, height: int, updates: Mapping[str, Mapping[MemberId, Update]], **more: object):
    """The derived bodies of one height, group by group."""
    return [
        (name, derive_group_body(there.inputs(name, of_group, height=height, **more)))
        for name, of_group in updates.items()
    ]
