"""The body of a group's block: derived once, to propose it and to check it.

`Ci` derives a body and proposes it; every replica derives it again from what it holds itself, and votes only
if each field is the same. Knows nothing of clocks, deadlines and who was asked for what: whether this Close
and this base may be proposed now is judged in `rounds`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from consensus.committee import Committee
from consensus.justification import asks_for_round
from consensus.signing import BadSignature, Domain, keccak256, recover, signing_digest, struct_hash
from consensus.types import ZERO_DIGEST, Digest, MemberId
from consensus.votes import recoverer
from p2pfl.errors import PeerFault
from p2pfl.genesis import Genesis
from p2pfl.params import Base, Int16, Int64, Layout, Update, apply_update, blob_id, byte_length
from p2pfl.records import BaseRef, BloomFilter, GroupBody, Standing, TriageRow, WarningRow
from p2pfl.rules import ballots, filters
from p2pfl.rules.aggregate import aggregate, recorded_factors, zero_update
from p2pfl.rules.chunks import chunk_grams
from p2pfl.rules.gram import Gram, Triangle, add_up, view
from p2pfl.rules.pool import EMPTY, Pool
from p2pfl.rules.repeats import Sent, sent_now
from p2pfl.rules.rows import row_root
from p2pfl.rules.state import LEFT_OUT
from p2pfl.rules.triage import is_left_out, triage, warnings
from p2pfl.signed import ParamTx, SignedBallot, SignedClose, SignedParamTx

# Roles in the actors filter, besides the member as such.
ROLE_AGGREGATOR = "aggregator"
ROLE_UNREVEALED = "unrevealed"
ROLE_LEFT_OUT = "left_out"


@dataclass(frozen=True)
class GroupInputs:
    """All that a group's body follows from.

    txs: in committee order, those of the Close. close: None for an idle block, which has no txs: so ends a
    height that was split. updates: of every revealed member. exponents, root_update: of
    the council block that the base names; updates and root update share them. previous_aggregate: of this
    group's block before, with its own exponents. Both are None where there is none (a zero row). standings:
    of the group's members, as of that council block. base_values: the base that `base.base_id` names.
    salt: of this epoch's filters. pool: of that council block. earlier: the counted updates of this group's
    last `look_back` blocks, as far as they are of this epoch. leaves: hashes of the leaves of updates' bytes,
    one after another, as far as somebody has made them. ballots: on the block before. parent and its
    id: that block, if it is of this epoch. old_base: the own base without it (`taking_back.own_steps`), where
    the ballots reject it.
    """

    genesis: Genesis
    group: str
    committee: Committee
    epoch: int
    height: int
    txs: tuple[SignedParamTx, ...]
    close: SignedClose | None
    unrevealed: tuple[MemberId, ...]
    updates: Mapping[MemberId, Update]
    exponents: tuple[int, ...]
    previous_aggregate: Update | None
    root_update: Update | None
    standings: tuple[Standing, ...]
    base: BaseRef
    base_values: Base
    salt: bytes
    ballots: tuple[SignedBallot, ...] = ()
    parent: GroupBody | None = None
    parent_id: Digest = ZERO_DIGEST
    old_base: Base | None = None
    pool: Pool = EMPTY
    earlier: tuple[Sent, ...] = ()
    leaves: Mapping[MemberId, bytes] = field(default_factory=dict[MemberId, bytes])

    @property
    def layout(self) -> Layout:
        """Of the model that the genesis names."""
        return self.genesis.task.layout

    @property
    def revealed(self) -> tuple[MemberId, ...]:
        """Whose updates are shown, in committee order."""
        return tuple(s.tx.member for s in self.txs if s.tx.member not in self.unrevealed)


@dataclass(frozen=True)
class Derived:
    """The body, the aggregate whose id it holds, the base of this height and the own base for the next."""

    body: GroupBody
    aggregate: Update
    base: Base
    next_base: Base


def derive_group_body(inputs: GroupInputs) -> Derived:
    """The one body that follows from these inputs. Raises PeerFault when the inputs cannot be a round's."""
    check_txs(
        inputs.genesis,
        inputs.group,
        inputs.committee,
        epoch=inputs.epoch,
        height=inputs.height,
        base_id=inputs.base.base_id,
        exponents=inputs.exponents,
        txs=inputs.txs,
        close=inputs.close,
        unrevealed=inputs.unrevealed,
    )
    rejected = _rejects_parent(inputs)
    rules, f = inputs.genesis.rules, inputs.committee.faulty_max
    updates = _revealed_updates(inputs)
    chunks, triangles, whole = _gram(inputs, updates)
    sent = sent_now(inputs.txs, {each: inputs.updates[each] for each in inputs.revealed}, inputs.salt)
    rows = triage(inputs.revealed, whole, f, rules, inputs.pool, sent, inputs.earlier)
    weights = derive_weights(
        inputs.txs, inputs.unrevealed, rows, inputs.standings, rules.weight_cap, rejected=rejected
    )
    shown = [w for s, w in zip(inputs.txs, weights, strict=True) if s.tx.member not in inputs.unrevealed]
    vectors = [update.values for update in updates]
    total = zero_update(inputs.layout, inputs.exponents)
    if updates:
        values = aggregate(rules.aggregator, vectors, shown, whole, f)
        total = Update(inputs.layout, inputs.exponents, values)
    next_base = _next_base(inputs, total, rejected)
    with_root = [*range(len(updates)), len(updates) + 1]
    few, rooted = chunks[:, with_root][:, :, with_root], whole.pick(with_root)
    warned = warnings(inputs.revealed, few, rooted, inputs.layout, inputs.exponents)
    body = GroupBody(
        txs=inputs.txs,
        close=inputs.close,
        unrevealed=inputs.unrevealed,
        ballots=inputs.ballots,
        rule=rules.aggregator,
        weights=weights,
        factors=recorded_factors(rules.aggregator, shown, whole, f),
        exponents=inputs.exponents,
        aggregate_id=blob_id(total.to_bytes()),
        row_root=_row_root(inputs, vectors, shown, total),
        gram=triangles,
        sketches=tuple(each.sketch for each in sent),
        triage=rows,
        warnings=warned,
        standings=inputs.standings,
        pool_digest=inputs.pool.digest,
        filters=_filters(inputs, updates, sent, weights, warned),
        base=inputs.base,
        next_base_id=blob_id(next_base.to_bytes()),
    )
    return Derived(body, total, inputs.base_values, next_base)


def _rejects_parent(inputs: GroupInputs) -> bool:
    """Whether the block before is taken back. Raises PeerFault for ballots that may not stand here."""
    ballots.check(
        inputs.ballots,
        inputs.genesis.domain(inputs.group),
        inputs.committee,
        epoch=inputs.epoch,
        height=inputs.height - 1,
        block_id=inputs.parent_id,
        due=inputs.close is not None and ballots.are_due(inputs.parent, inputs.genesis.rules),
    )
    return ballots.rejected_by(inputs.ballots)


def _next_base(inputs: GroupInputs, total: Update, rejected: bool) -> Base:
    if not rejected:
        return apply_update(inputs.base_values, total)
    if inputs.old_base is None:
        raise ValueError("the base without the block before is missing")
    return inputs.old_base


def check_group_body(body: GroupBody, inputs: GroupInputs) -> Derived:
    """Derive the body again; PeerFault "wrong_<field>" names the first field that differs."""
    derived = derive_group_body(inputs)
    for each in dataclasses.fields(GroupBody):
        if getattr(body, each.name) != getattr(derived.body, each.name):
            raise PeerFault(f"wrong_{each.name}", f"of the body of height {inputs.height}")
    return derived


# ---------------------------------------------------------------------------
# What was committed.


def check_txs(
    genesis: Genesis,
    group: str,
    committee: Committee,
    *,
    epoch: int,
    height: int,
    base_id: Digest,
    exponents: tuple[int, ...],
    txs: Sequence[SignedParamTx],
    close: SignedClose | None,
    unrevealed: Sequence[MemberId],
) -> None:
    """Raises PeerFault unless these commitments, this Close and these unrevealed names make one round.

    Without a Close nothing may be committed: an idle block.
    """
    if close is None:
        if txs or unrevealed:
            raise PeerFault("bad_close", "commitments without a Close")
        return
    domain = genesis.domain(group)
    length = byte_length("update", genesis.task.layout, exponents)
    order = {member: index for index, member in enumerate(committee.members)}
    places: list[int] = []
    for signed in txs:
        # What is not revealed may have any length: one member's nonsense must not halt the group.
        own = signed.tx.byte_length if signed.tx.member in unrevealed else length
        check_param_tx(signed, domain, committee, epoch=epoch, height=height, base_id=base_id, length=own)
        places.append(order[signed.tx.member])
    if any(a >= b for a, b in zip(places, places[1:], strict=False)):
        raise PeerFault("bad_txs", "not distinct members in the committee's order")
    if len(txs) < committee.quorum:
        raise PeerFault("bad_txs", f"{len(txs)} commitments, {committee.quorum} are needed")
    check_close(close, domain, committee, epoch=epoch, height=height)
    if close.tx_ids != tuple(struct_hash(signed.tx) for signed in txs):
        raise PeerFault("bad_close", "it lists other commitments")
    committed = [signed.tx.member for signed in txs]
    if list(unrevealed) != [member for member in committed if member in set(unrevealed)]:
        raise PeerFault("bad_unrevealed", "not distinct committed members in the committee's order")
    if len(unrevealed) > committee.faulty_max:
        raise PeerFault("bad_unrevealed", f"{len(unrevealed)} names, the limit is {committee.faulty_max}")


def first_idle_round(committee: Committee) -> int:
    """From here on Ci may end the height with an idle block: at least one honest Ci has tried before."""
    return committee.faulty_max + 1


def check_param_tx(
    signed: SignedParamTx,
    domain: Domain,
    committee: Committee,
    *,
    epoch: int,
    height: int,
    base_id: Digest,
    length: int,
) -> None:
    """Raises PeerFault unless this is its member's commitment to an update of this round on this base."""
    tx = signed.tx
    if tx.member not in committee:
        raise PeerFault("bad_tx", "not a member")
    if (tx.epoch, tx.height) != (epoch, height):
        raise PeerFault("bad_tx", f"epoch {tx.epoch}, height {tx.height}")
    if tx.base_id != base_id:
        raise PeerFault("bad_tx", "trained from another base")
    if tx.byte_length != length:
        raise PeerFault("bad_tx", f"{tx.byte_length} bytes, an update has {length}")
    if tx.samples < 1 or tx.data_leaves < 1:
        raise PeerFault("bad_tx", "trained on nothing")
    if signer_of(domain, tx, signed.signature) != tx.member:
        raise PeerFault("bad_tx", "signed by somebody else")


def check_close(
    signed: SignedClose, domain: Domain, committee: Committee, *, epoch: int, height: int
) -> None:
    """Raises PeerFault unless this Close is of this height and of the Ci of its round."""
    close = signed.close
    if (close.epoch, close.height) != (epoch, height):
        raise PeerFault("bad_close", f"epoch {close.epoch}, height {close.height}")
    if not committee.quorum <= len(signed.tx_ids) <= committee.size:
        raise PeerFault("bad_close", f"{len(signed.tx_ids)} commitments, {committee.quorum} are needed")
    if close.list_root != list_root(signed.tx_ids):
        raise PeerFault("bad_close", "its list is another")
    if signer_of(domain, close, signed.signature) != committee.proposer(height, close.round):
        raise PeerFault("bad_close", f"not signed by the Ci of round {close.round}")
    changes = signed.justification
    if close.round == 0 and changes:
        raise PeerFault("bad_close", "round 0 needs no justification")
    if close.round and not asks_for_round(recoverer(domain), committee, height, close.round, changes):
        raise PeerFault("bad_close", f"no quorum asked for round {close.round}")


def list_root(tx_ids: Sequence[Digest]) -> Digest:
    """What a Close signs: keccak256 over the commitments' struct hashes in committee order."""
    return keccak256(b"".join(tx_ids))


def signer_of(domain: Domain, struct: object, signature: bytes) -> MemberId | None:
    """Who signed this struct; None for what is nobody's canonical signature or fits no ABI word."""
    try:
        return recover(signing_digest(domain, struct), signature)
    except (BadSignature, ValueError):
        return None


# ---------------------------------------------------------------------------
# What follows.


def derive_weights(
    txs: Sequence[SignedParamTx],
    unrevealed: Sequence[MemberId],
    rows: Sequence[TriageRow],
    standings: Sequence[Standing],
    weight_cap: int,
    *,
    rejected: bool = False,
) -> tuple[int, ...]:
    """One weight a commitment: checked, not believed, and 0 for who is left out of this round.

    rejected: the base from which they trained is taken back, so none of them counts.
    """
    if rejected:
        return (0,) * len(txs)
    out = set(unrevealed)
    out |= {row.member for row in rows if is_left_out(row)}
    out |= {standing.member for standing in standings if standing.outcome in LEFT_OUT}
    return tuple(0 if signed.tx.member in out else checked_weight(signed.tx, weight_cap) for signed in txs)


def checked_weight(tx: ParamTx, weight_cap: int) -> int:
    """The samples that a member claims count as far as its data root and the genesis allow."""
    return min(tx.samples, tx.data_leaves, weight_cap)


def _row_root(inputs: GroupInputs, vectors: Sequence[Int16], shown: Sequence[int], total: Update) -> Digest:
    if not inputs.genesis.rules.row_root:
        return ZERO_DIGEST
    return row_root([row for row, weight in zip(vectors, shown, strict=True) if weight], total.values)


def _revealed_updates(inputs: GroupInputs) -> list[Update]:
    if set(inputs.updates) < set(inputs.revealed):
        raise ValueError("the update of a revealed member is missing")
    updates = [inputs.updates[member] for member in inputs.revealed]
    judged = updates if inputs.root_update is None else [*updates, inputs.root_update]
    if any(u.layout != inputs.layout or u.exponents != inputs.exponents for u in judged):
        raise ValueError("an update has another layout or other exponents than the round")
    return updates


def _gram(inputs: GroupInputs, updates: Sequence[Update]) -> tuple[Int64, tuple[Triangle, ...], Gram]:
    """Of the updates, the previous aggregate and the root update: by chunk, by tensor, and over the whole.

    The last two rows are zero where there is none.
    """
    nothing = np.zeros(inputs.layout.size, dtype=np.int16)
    vectors = [update.values for update in updates]
    exponents = [update.exponents for update in updates]
    for extra in (inputs.previous_aggregate, inputs.root_update):
        vectors.append(nothing if extra is None else extra.values)
        exponents.append(inputs.exponents if extra is None else extra.exponents)
    chunks = chunk_grams(vectors, inputs.layout)
    triangles = add_up(chunks, inputs.layout)
    return chunks, triangles, view(triangles, exponents)


def _filters(
    inputs: GroupInputs,
    updates: Sequence[Update],
    sent: Sequence[Sent],
    weights: Sequence[int],
    warned: Sequence[WarningRow],
) -> tuple[BloomFilter, ...]:
    keys: dict[str, list[bytes]] = {name: [] for name in filters.NAMES}
    if inputs.close is not None:
        ci = inputs.committee.proposer(inputs.height, inputs.close.close.round)
        keys[filters.ACTORS] = [filters.actor_key(ci, ROLE_AGGREGATOR)]
    for signed, weight in zip(inputs.txs, weights, strict=True):
        member = signed.tx.member
        keys[filters.ACTORS].append(filters.actor_key(member))
        if member in inputs.unrevealed:
            keys[filters.ACTORS].append(filters.actor_key(member, ROLE_UNREVEALED))
        elif weight == 0 and not ballots.rejected_by(inputs.ballots):  # Then it is nobody's own doing.
            keys[filters.ACTORS].append(filters.actor_key(member, ROLE_LEFT_OUT))
    for member, update in zip(inputs.revealed, updates, strict=True):
        keys[filters.CHUNKS] += filters.chunk_keys(update, inputs.leaves.get(member, b""))
    for each in sent:
        keys[filters.BANDS] += filters.band_keys(each.sketch)
    for row in warned:
        keys[filters.WARNINGS].append(filters.warning_key(row.tensor, row.chunk, row.reason))
        keys[filters.WARNINGS].append(
            filters.warning_key(row.tensor, row.chunk, row.reason, member=row.member)
        )
    for standing in inputs.standings:
        keys[filters.ACCUSED].append(filters.case_key(standing.member, standing.case_id))
    rate = inputs.genesis.rules.filter_rate_ppb
    return tuple(filters.build(name, keys[name], inputs.salt, rate) for name in filters.NAMES)
