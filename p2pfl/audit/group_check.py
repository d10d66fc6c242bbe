"""A group's block from its own body: everything that needs no blob.

Signatures, the Close, the base against the council's chain, triage rows from the Gram matrix, weights, and
the filters. Which keys a filter holds is written down here a second time, beside `rules.validate`: a check
that shares its mistakes with the proposer would find none of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from consensus.committee import Committee
from consensus.types import ZERO_DIGEST, Digest, Header, MemberId
from p2pfl.audit.history import Blobs, Chain, MissingBlob
from p2pfl.errors import PeerFault
from p2pfl.genesis import Genesis
from p2pfl.params import Update
from p2pfl.records import BloomFilter, GroupBody
from p2pfl.roster import Roster
from p2pfl.rules import ballots, filters
from p2pfl.rules.aggregate import recorded_factors
from p2pfl.rules.gram import view
from p2pfl.rules.pool import EMPTY
from p2pfl.rules.repeats import Sent, counted_in, sent_in
from p2pfl.rules.state import CouncilState
from p2pfl.rules.triage import REASONS, triage, without_pool
from p2pfl.rules.validate import check_txs, derive_weights, first_idle_round

Problem = tuple[str, str]  # (reason of a finding, detail)
# What a body of a hostile quorum can make the rules raise. Anything else is a bug of ours.
BAD = (PeerFault, ValueError, LookupError, ArithmeticError, RuntimeError)


@dataclass(frozen=True)
class GroupBlock:
    """One block to judge, and what it stands on.

    states: the council's states by block id (the genesis' under the zero id). parent: the body before it.
    begins: it is the first block of its epoch. round: in which it was decided. earlier: the last `look_back`
    bodies before it that are of its epoch.
    """

    genesis: Genesis
    name: str
    header: Header
    body: GroupBody
    parent: GroupBody | None
    states: Mapping[Digest, CouncilState]
    salt: bytes
    committee: Committee
    begins: bool = False
    round: int = 0
    earlier: tuple[GroupBody, ...] = ()

    @property
    def previous(self) -> GroupBody | None:
        """The body whose aggregate this block's updates are compared with: the parent's, in one epoch."""
        return None if self.begins else self.parent

    @property
    def sent_before(self) -> tuple[Sent, ...]:
        """The counted updates of the bodies before."""
        return counted_in(self.earlier)

    @property
    def revealed(self) -> tuple[MemberId, ...]:
        """Whose updates are shown, in committee order."""
        hidden = set(self.body.unrevealed)
        return tuple(each.tx.member for each in self.body.txs if each.tx.member not in hidden)

    @property
    def state(self) -> CouncilState | None:
        """The council's state that the base names, if the council's chain is here."""
        return self.states.get(self.body.base.council_block_id)


def check(block: GroupBlock, *, has_council: bool) -> Iterator[Problem]:
    """Everything that is wrong with the block as far as its body tells.

    has_council: whether the council's chain is here, so that a base and standings can be judged.
    """
    try:
        yield from _checks(block, has_council=has_council)
    except BAD as error:
        yield "wrong_field", f"it cannot be checked: {error!r}"


def _checks(block: GroupBlock, *, has_council: bool) -> Iterator[Problem]:
    yield from _signatures(block)
    if block.body.rule != block.genesis.rules.aggregator:
        yield "wrong_field", f"rule: {block.body.rule}"
    if has_council:
        yield from _base(block)
    yield from _judgement(block)
    yield from _warnings(block)
    yield from _filters(block)


def _signatures(block: GroupBlock) -> Iterator[Problem]:
    body, header = block.body, block.header
    committee = block.committee
    try:
        check_txs(
            block.genesis,
            block.name,
            committee,
            epoch=header.epoch,
            height=header.height,
            base_id=body.base.base_id,
            exponents=body.exponents,
            txs=body.txs,
            close=body.close,
            unrevealed=body.unrevealed,
        )
    except (PeerFault, ValueError) as error:
        yield "bad_signature", str(error)
    if body.close is None and block.round < first_idle_round(committee):
        yield "wrong_field", f"close: an idle block in round {block.round}"
    due = body.close is not None and ballots.are_due(block.previous, block.genesis.rules)
    try:
        ballots.check(
            body.ballots,
            block.genesis.domain(block.name),
            committee,
            epoch=header.epoch,
            height=header.height - 1,
            block_id=header.parent_id,
            due=due,
        )
    except PeerFault as error:
        yield "bad_signature", str(error)
    if due and not body.ballots and block.round < first_idle_round(committee):
        yield "wrong_field", f"ballots: none on the block before, in round {block.round}"


def _base(block: GroupBlock) -> Iterator[Problem]:
    body, base, height = block.body, block.body.base, block.header.height
    if block.parent is not None and base.council_height < block.parent.base.council_height:
        yield "wrong_field", "base: an older council block than the parent's"
    state = block.state
    if state is None:
        yield "wrong_field", f"base: no council block 0x{base.council_block_id.hex()}"
        return
    counted = state.counted[block.header.group_id][0]
    if base.council_height != state.height or base.own_heights != tuple(range(counted + 1, height)):
        yield "wrong_field", "base: not what that council block and the own blocks since make"
    elif block.begins and base.own_heights:
        yield "wrong_field", "base: an epoch begins with a council block that counts all before it"
    elif not base.own_heights and base.base_id != state.base_id:
        yield "wrong_field", "base: not the council's"
    elif base.own_heights and block.parent is not None:
        # The parent stood on the same council block: then its next base is this block's base.
        same = block.parent.base.council_block_id == base.council_block_id
        if same and base.base_id != block.parent.next_base_id:
            yield "wrong_field", "base: not the parent's next base"
    if body.exponents != state.exponents:
        yield "wrong_field", "exponents: not those of the council block"
    if body.standings != state.standings(block.header.group_id, block.header.epoch):
        yield "wrong_field", "standings: not those of the council block"
    goes_on = state.roster.epoch == block.header.epoch
    root = block.committee.root() if goes_on else state.roster.next_root(block.name, block.header.epoch)
    if block.header.next_committee_root != root:
        yield "wrong_field", "next committee: not that of the council block"


def _judgement(block: GroupBlock) -> Iterator[Problem]:
    """Triage rows are functions of the Gram matrix, weights of rows, standings and sample counts."""
    body, genesis = block.body, block.genesis
    revealed = block.revealed
    rows = len(revealed) + 2
    if [len(each) for each in body.gram] != [rows * (rows + 1) // 2] * len(genesis.task.tensors):
        yield "wrong_field", "gram: another shape"
        return
    previous = block.previous.exponents if block.previous is not None else body.exponents
    committee = block.committee
    try:
        whole = view(body.gram, [*[body.exponents] * len(revealed), previous, body.exponents])
        state = block.state
        pool, f = state.pool if state else EMPTY, committee.faulty_max
        rows = triage(revealed, whole, f, genesis.rules, pool, sent_in(body), block.sent_before)
        if state is not None and body.pool_digest != state.pool.digest:
            yield "wrong_field", "pool_digest: not that of the council block"
        # Without the council's chain the pool is unknown, and the rest can be judged all the same.
        told = body.triage if state is not None else tuple(without_pool(row) for row in body.triage)
        if told != rows:
            yield "wrong_field", "triage: not what the Gram matrix and the pool say"
    except (ValueError, ArithmeticError) as error:
        yield "wrong_field", f"gram: {error}"
        return
    cap = genesis.rules.weight_cap
    rejected = ballots.rejects(body)
    if body.weights != derive_weights(
        body.txs, body.unrevealed, body.triage, body.standings, cap, rejected=rejected
    ):
        yield "wrong_field", "weights: not what triage and standings say"
    hidden = set(body.unrevealed)
    shown = [w for each, w in zip(body.txs, body.weights, strict=False) if each.tx.member not in hidden]
    if body.factors != recorded_factors(genesis.rules.aggregator, shown, whole, committee.faulty_max):
        yield "wrong_field", "factors: not what weights and the Gram matrix say"
    if not genesis.rules.row_root and body.row_root != ZERO_DIGEST:
        yield "wrong_field", "row root: the genesis asks for none"


def _warnings(block: GroupBlock) -> Iterator[Problem]:
    order = {member: place for place, member in enumerate(block.revealed)}
    places: list[tuple[int, int, int, str]] = []
    for row in block.body.warnings:
        if row.member not in order or row.reason not in REASONS:
            yield "wrong_field", "warnings: of no revealed member, or for no known reason"
            return
        places.append((order[row.member], row.tensor, row.chunk, row.reason))
    if places != sorted(set(places)):
        yield "wrong_field", "warnings: not distinct and in order"


# ---------------------------------------------------------------------------
# Filters.


def _filters(block: GroupBlock) -> Iterator[Problem]:
    if tuple(each.name for each in block.body.filters) != filters.NAMES:
        yield "wrong_filter", "not the five filters in their order"
        return
    for made in from_body(block):
        if made not in block.body.filters:
            yield "wrong_filter", f"{made.name}: not what the body says"


def from_body(block: GroupBlock) -> list[BloomFilter]:
    """Actors, warnings and accused: they follow from the body alone."""
    body, genesis = block.body, block.genesis
    actors: list[bytes] = []
    if body.close is not None:
        committee = block.committee
        ci = committee.proposer(block.header.height, body.close.close.round)
        actors.append(filters.actor_key(ci, "aggregator"))
    for signed, weight in zip(body.txs, body.weights, strict=False):
        member = signed.tx.member
        actors.append(filters.actor_key(member))
        if member in body.unrevealed:
            actors.append(filters.actor_key(member, "unrevealed"))
        elif weight == 0 and not ballots.rejects(body):
            actors.append(filters.actor_key(member, "left_out"))
    warned = [
        filters.warning_key(row.tensor, row.chunk, row.reason, member=member)
        for row in body.warnings
        for member in (None, row.member)
    ]
    accused = [filters.case_key(row.member, row.case_id) for row in body.standings]
    rate = genesis.rules.filter_rate_ppb
    return [
        filters.build(name, keys, block.salt, rate)
        for name, keys in ((filters.ACTORS, actors), (filters.WARNINGS, warned), (filters.ACCUSED, accused))
    ]


def check_from_blobs(block: GroupBlock, blobs: Blobs) -> Iterator[Problem]:
    """Chunks and bands: they follow from the revealed updates. Raises MissingBlob."""
    chunks: list[bytes] = []
    updates = updates_of(block, blobs).values()
    for update in updates:
        chunks += filters.chunk_keys(update)
    sketches = tuple(filters.simhashes(list(updates), block.salt))
    if sketches != block.body.sketches:
        yield "wrong_field", "sketches: not what the blobs say"
    bands = [key for sketch in sketches for key in filters.band_keys(sketch)]
    rate = block.genesis.rules.filter_rate_ppb
    for name, keys in ((filters.CHUNKS, chunks), (filters.BANDS, bands)):
        if filters.build(name, keys, block.salt, rate) not in block.body.filters:
            yield "wrong_filter", f"{name}: not what the blobs say"


def updates_of(block: GroupBlock, blobs: Blobs) -> dict[MemberId, Update]:
    """The revealed updates. Raises MissingBlob."""
    revealed = set(block.revealed)
    try:
        return {
            signed.tx.member: blobs.update(signed.tx.blob_id, block.body.exponents)
            for signed in block.body.txs
            if signed.tx.member in revealed
        }
    except PeerFault as fault:  # The bytes are those of the id, but no update: then nobody could vote for it.
        raise MissingBlob(f"height {block.header.height}: {fault}") from fault


def blocks_of(
    genesis: Genesis, chain: Chain, states: Mapping[Digest, CouncilState]
) -> Iterator[tuple[int, GroupBlock]]:
    """The blocks of a group's chain that have a body, each with what it stands on."""
    salts, roster = epoch_salts(genesis, chain), chain.roster or Roster.of(genesis)
    last, earlier = 0, list[GroupBody]()
    for height, (decided, body) in enumerate(zip(chain.blocks, chain.bodies, strict=True)):
        if body is not None:
            header = decided.block.header
            parent = chain.bodies[height - 1] if height else None
            salt = salts[header.epoch]
            committee = roster.committee(chain.name, header.epoch)
            begins, last = header.epoch != last, header.epoch
            earlier = [] if begins else earlier[-genesis.rules.look_back :] if genesis.rules.look_back else []
            yield (
                height,
                GroupBlock(
                    genesis,
                    chain.name,
                    header,
                    body,
                    parent,
                    states,
                    salt,
                    committee,
                    begins,
                    decided.certificate.round,
                    tuple(earlier),
                ),
            )
            earlier.append(body)


def epoch_salts(genesis: Genesis, chain: Chain) -> dict[int, bytes]:
    """The salt of this chain's filters in each epoch: of the last block before it (none: zeros)."""
    salts: dict[int, bytes] = {}
    for decided in chain.blocks:
        header = decided.block.header
        if header.epoch not in salts:
            salts[header.epoch] = filters.epoch_salt(genesis.network_id, header.epoch, header.parent_id)
    return salts
