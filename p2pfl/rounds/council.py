"""The council's round: gather the groups' blocks, compare, mint the base, open cases, certify verdicts.

The application of the council's consensus, the same core as a group's. What follows from what is computed
in `rules.council`; here is what is fetched, from whom, and what is waited for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import trio

from consensus import types as ct
from consensus.committee import Committee
from consensus.signing import block_id
from p2pfl import codec
from p2pfl.errors import PeerFault, UserError
from p2pfl.genesis import COUNCIL
from p2pfl.learn.worker import TaskFailed, WorkerDied
from p2pfl.net import wire
from p2pfl.params import (
    Base,
    Update,
    blob_id,
    byte_length,
    delta_of,
    parse_update,
    quantize,
)
from p2pfl.records import Case, CouncilBody, GroupBody, body_root, decode_body
from p2pfl.rounds.backtrack import Backtrack
from p2pfl.rounds.brought import Brought
from p2pfl.rounds.chain import Chain, Checked
from p2pfl.rounds.context import Context
from p2pfl.rounds.court import Court
from p2pfl.rounds.home import Home
from p2pfl.rounds.pace import Pace
from p2pfl.rounds.pulse import Pulse
from p2pfl.rounds.served import BLOCKS
from p2pfl.rounds.tell import tell_council_block
from p2pfl.rounds.turnover import Comings
from p2pfl.rules.council import (
    Comparison,
    CouncilDerived,
    check_council_body,
    compare,
    derive_council,
)
from p2pfl.rules.epochs import Turnover
from p2pfl.rules.state import OPEN, CouncilState
from p2pfl.telemetry import logger

log = logger("rounds.council")

HEADER_VERSION = 1
# While a case is open and nothing else happens, the council still mints, so that deadlines pass.
HEARTBEAT_S = 3.0
# How long a seat waits for its copy of a group's chain to reach what a proposal counts.
COPY_WAIT_S = 10.0
# And when it asks everybody for those blocks: as a rule they are on their way.
COPY_SOON_S = 0.5
# Distance between a proposed root update and the own one that a seat accepts, relative, in millionths.
ROOT_TOLERANCE_PPM = 250_000


class CouncilApp:
    """One seat's side of the council. The node sets `court` before the first round."""

    court: Court

    def __init__(
        self,
        context: Context,
        pace: Pace,
        groups: Mapping[ct.Digest, Chain],
        home: Home,
        certified: Callable[[CouncilBody], None],
        comings: Comings,
    ) -> None:
        self.context = context
        self.pace = pace
        self.groups = groups
        self.brought = Brought(context, groups, self._fetch_aggregate)
        self.backtrack = Backtrack(context, self.brought.miss)
        self.comings = comings
        self._home = home
        self._certified = certified
        self._pulse = Pulse()
        self._derived: dict[ct.Digest, CouncilDerived] = {}
        self._deltas: dict[ct.Digest, wire.BaseDelta] = {}  # Of proposals of this height, by their base.
        self._root: tuple[ct.Digest, Update] | None = None
        self._decided_s = trio.current_time()
        self._since_s: float | None = None
        home.start_soon(self._beat)

    # -- what consensus asks ----------------------------------------------------

    def context_digest(self) -> ct.Digest:
        """A council carries nothing across rounds."""
        return ct.ZERO_DIGEST

    def started(self) -> ct.Started:
        """Where the next height begins."""
        return self.context.chain.started(self.context.committee.epoch)

    def entered(self, effect: ct.EnteredRound) -> None:
        """A round began; its clock runs only while there is something to decide."""
        self.pace.enter(effect.height, effect.round)
        if self._has_work():
            self.pace.step("gather")
        else:
            self.pace.idle()

    async def build(self, effect: ct.Build) -> ct.Block | None:
        """As proposer: wait for something to decide, gather, compare, derive."""
        await self._pulse.until(self._has_work)
        await self._pulse.until(self._is_complete, timeout_s=self._patience_s())
        try:
            return await self._block(effect)
        except (PeerFault, UserError, WorkerDied, TaskFailed) as fault:
            log.warning("no council block could be built", height=effect.height, why=str(fault))
            return None

    async def validate(self, effect: ct.Validate) -> bool:
        """Recompute everything that the block says."""
        header = effect.block.header
        self.pace.step("propose")
        try:
            body: CouncilBody = decode_body(effect.block.body, CouncilBody)
            if body_root(body) != header.app_root:
                raise PeerFault("bad_body", "its root is not the header's")
            if effect.fresh:
                self.context.clocks.judge(header)
                self.comings.judge(Turnover.of(header.time_ms, body))
            await self._check(header, body, fresh=effect.fresh)
        except (PeerFault, codec.DecodeError, UserError, WorkerDied, TaskFailed) as fault:
            log.warning(
                "a council proposal was refused", height=header.height, round=effect.round, why=str(fault)
            )
            return False
        return True

    async def decided(self, decided: ct.DecidedBlock) -> bool:
        """Keep the block, show its blobs, tell the members, begin what it asks for. False: an epoch ends."""
        context, header = self.context, decided.block.header
        await context.council.take(decided)
        body: CouncilBody = decode_body(decided.block.body, CouncilBody)
        derived = self._derived.pop(block_id(header), None)
        mine = header.proposer == context.me or context.evaluates
        if derived is not None and mine and body.counted:
            self._home.start_soon(self._evaluate, header.height, derived.base)
        return self._goes_on(((decided, body),))

    async def caught_up(self, checked: Checked) -> bool | None:
        """Keep blocks that the other seats decided, and go on after them."""
        if not await self.context.council.extend(checked):
            return None
        return self._goes_on(tuple(zip(checked.blocks, checked.bodies, strict=True)))

    def _goes_on(self, blocks: Sequence[tuple[ct.DecidedBlock, CouncilBody]]) -> bool:
        """After these blocks, which are kept."""
        context, header = self.context, blocks[-1][0].block.header
        self._derived.clear()
        self._decided_s, self._since_s = trio.current_time(), None
        for decided, body in blocks:
            self.brought.forget(body.counted)
            tell_council_block(context, self.pace, decided, body, self.backtrack.fetched)
            self._certified(body)
        for _, body in blocks[-BLOCKS:]:
            context.shelf.show(body.base_id)
            context.shelf.show(body.root_update_id)
        tip = wire.Tip(context.group_id, header.height, block_id(header))
        if (delta := self._deltas.get(blocks[-1][1].base_id)) is not None:
            context.network.broadcast(self._listeners(), delta)
        self._deltas.clear()
        context.network.broadcast(self._listeners(), tip)
        context.network.announce(tip)
        self.court.update(context.council.tip)
        return blocks[-1][1].assignment is None

    # -- what grows outside -------------------------------------------------------

    def changed(self) -> None:
        """There is something new for the next block."""
        if self._since_s is None and self._has_work():
            self._since_s = trio.current_time()
            self.pace.step("gather")
        self._pulse.beat()

    async def take_group_blocks(self, checked: Checked) -> None:
        """The next decided blocks of a group: kept; the aggregates of those that come next are fetched."""
        if await self.brought.take(checked):
            self.changed()

    def _fetch_aggregate(self, header: ct.Header, body: GroupBody) -> None:
        self._home.start_soon(self._bring_aggregate, header, body)

    async def _bring_aggregate(self, header: ct.Header, body: GroupBody) -> None:
        await self.brought.fetch_aggregate(header, body)
        if header.height in self.brought.uncounted(self.context.council.tip, header.group_id):
            self.comings.moved(header.group_id)  # It can be counted.
        self.changed()

    # -- when there is something to decide ------------------------------------------

    def _has_work(self) -> bool:
        state = self.context.council.tip
        if self.context.chain.catching_up:
            return False  # What there is to decide next was decided long ago, and its blobs may be gone.
        if any(self.brought.uncounted(state, group_id) for group_id in self.groups):
            return True
        if self.court.measurements(state) or self.court.certificates(state):
            return True
        if self.comings.waits(state, self._time_ms()):
            return True
        waiting = any(entry.outcome == OPEN for entry in state.cases.values())
        return waiting and trio.current_time() - self._decided_s >= HEARTBEAT_S

    def _is_complete(self) -> bool:
        """Whether every group that still runs has brought a block."""
        state, rounds = self.context.council.tip, self.context.genesis.rounds
        return all(
            self.brought.uncounted(state, group_id)
            or (rounds and state.counted[group_id][0] + 1 >= rounds)
            or not state.roster.goes_on(chain.name, state.open_epochs[group_id])
            for group_id, chain in self.groups.items()
        )

    def _time_ms(self) -> int:
        """The header time of a block that is made now."""
        tip = self.context.chain.tip
        return max(self.context.clock_ms(), tip.time_ms + 1 if tip else 0)

    def _patience_s(self) -> float:
        return self.context.genesis.times.gather_ms / 1000

    async def _beat(self) -> None:
        while True:
            await trio.sleep(HEARTBEAT_S / 4)
            await self.comings.look()
            if self._since_s is None:
                self.changed()

    # -- proposing and checking --------------------------------------------------------

    async def _block(self, effect: ct.Build) -> ct.Block:
        context, state = self.context, self.context.council.tip
        await self._copies(state, ())
        counted = self.brought.counted(state)
        time_ms = self._time_ms()
        groups = frozenset(each.header.group_id for each in counted)
        inputs = await self.brought.inputs(state, effect.height, counted)
        comparison = await context.aside(compare, inputs)
        root_id = state.root_update_id
        if comparison.base_id != state.base_id or root_id == ct.ZERO_DIGEST:
            root = await self._train_root(comparison, effect.height)
            data = await context.aside(root.to_bytes)
            root_id = await context.aside(blob_id, data)
            await context.shelf.put(root_id, data)
            context.shelf.show(root_id)
        cases = await self.backtrack.cases(inputs, comparison)
        derived = await context.aside(
            derive_council,
            inputs,
            comparison,
            root_update_id=root_id,
            cases=cases,
            measurements=self.court.measurements(state),
            certificates=self.court.certificates(state),
            turnover=self.comings.propose(state, time_ms, groups),
        )
        await self._keep(derived)
        header = ct.Header(
            version=HEADER_VERSION,
            network_id=context.genesis.network_id,
            group_id=context.group_id,
            epoch=context.committee.epoch,
            height=effect.height,
            parent_id=effect.parent_id,
            proposer=context.me,
            time_ms=time_ms,
            app_root=body_root(derived.body),
            log_root=effect.log_root,
            next_committee_root=self._next_root(derived.body),
        )
        self._derived[block_id(header)] = derived
        self.pace.step("propose")
        return ct.Block(header, codec.encode(derived.body))

    async def _check(self, header: ct.Header, body: CouncilBody, *, fresh: bool) -> None:
        context, state = self.context, self.context.council.tip
        await self._copies(state, [each.header for each in body.counted])
        for each in body.counted:
            self.brought.check_copy(each)
        inputs = await self.brought.inputs(state, header.height, body.counted)
        comparison = await context.aside(compare, inputs)
        await self._judge_root(body, state, comparison, header.height, fresh=fresh)
        cases: tuple[Case, ...] = await self.backtrack.cases(inputs, comparison)
        derived = await context.aside(check_council_body, body, inputs, comparison, cases, header.time_ms)
        if header.next_committee_root != self._next_root(derived.body):
            raise PeerFault("wrong_committee", "its assignment says who decides the next height")
        await self._keep(derived)
        self._derived[block_id(header)] = derived

    async def _copies(self, state: CouncilState, wanted: Sequence[ct.Header]) -> None:
        """Wait for the groups' blocks that the last block counted, and those that this one is to count."""

        def are_here() -> bool:
            return self.brought.holds(state.latest) and self.brought.reaches(wanted)

        if not await self._pulse.until(are_here, timeout_s=COPY_SOON_S):
            self.brought.seek((*state.latest, *wanted))
            await self._pulse.until(are_here, timeout_s=COPY_WAIT_S)

    def _next_root(self, body: CouncilBody) -> ct.Digest:
        if body.assignment is None:
            return self.context.committee.root()
        seats = next(group.members for group in body.assignment.groups if group.name == COUNCIL)
        return Committee(body.assignment.epoch, seats).root()

    async def _judge_root(
        self, body: CouncilBody, state: CouncilState, comparison: Comparison, height: int, *, fresh: bool
    ) -> None:
        """Float training differs between machines: a root update close to the own one is accepted.

        How close is judged when it is fresh: later a quorum may stand by it whose machines are others.
        """
        if comparison.base_id == state.base_id and state.root_update_id != ct.ZERO_DIGEST:
            if body.root_update_id != state.root_update_id:
                raise PeerFault("bad_root_update", "another one for the same base")
            return
        layout = self.context.genesis.task.layout
        length = byte_length("update", layout, comparison.exponents)
        own = await self._train_root(comparison, height)
        shelf, own_bytes = self.context.shelf, await self.context.aside(own.to_bytes)
        if await self.context.aside(blob_id, own_bytes) == body.root_update_id:
            await shelf.put(body.root_update_id, own_bytes)
            shelf.show(body.root_update_id)
            return
        data = await shelf.need(body.root_update_id, length, self.context.others)
        # Who proposed it may serve it to some only, or be gone: the others have it from here.
        shelf.show(body.root_update_id)
        proposed = parse_update(data, layout, comparison.exponents)
        if not fresh:
            return
        distance_ppm = await self.context.aside(_distance_ppm, proposed, own)
        if distance_ppm > ROOT_TOLERANCE_PPM:
            raise PeerFault("bad_root_update", f"{distance_ppm} millionths from the own one")

    async def _train_root(self, comparison: Comparison, height: int) -> Update:
        """The update that training on the public root set gives from the new base. Kept for the height."""
        if self._root is not None and self._root[0] == comparison.base_id:
            return self._root[1]
        context = self.context
        seed = context.genesis.round_seed(context.group_id, context.committee.epoch, height)
        trained = await context.trainer.train_root(comparison.base.values, seed)
        delta = delta_of(comparison.base, trained)
        update, _ = quantize(delta, context.genesis.task.layout, comparison.exponents)
        self._root = (comparison.base_id, update)
        return update

    async def _keep(self, derived: CouncilDerived) -> None:
        shelf, base_id = self.context.shelf, derived.body.base_id
        if not await shelf.has(base_id):
            await shelf.put(base_id, await self.context.aside(derived.base.to_bytes))
        shelf.show(base_id)
        if base_id != self.context.council.tip.base_id and base_id not in self._deltas:
            data = await self.context.aside(derived.delta.to_bytes)
            delta_id = await self.context.aside(blob_id, data)
            await shelf.put(delta_id, data, durable=False)
            shelf.show(delta_id)
            self._deltas[base_id] = wire.BaseDelta(base_id, delta_id, derived.delta.exponents)

    # -- around ----------------------------------------------------------------------------

    def _listeners(self) -> list[ct.MemberId]:
        """Each seat tells a part of the members, so that everybody hears from two seats."""
        seats = self.context.committee
        mine = seats.members.index(self.context.me)
        everybody = sorted(member for member in self.context.roster.entries if member not in seats)
        near = {mine, (mine + 1) % seats.size}
        return [member for index, member in enumerate(everybody) if index % seats.size in near]

    async def _evaluate(self, height: int, base: Base) -> None:
        try:
            loss, accuracy = await self.context.trainer.evaluate(base.values)
        except (UserError, WorkerDied, TaskFailed) as error:
            log.warning("the new base could not be evaluated", height=height, why=str(error))
            return
        fields = {"group": self.context.name, "height": height, "loss": loss, "accuracy": accuracy}
        self.context.observe("evaluated", fields)


def _distance_ppm(proposed: Update, own: Update) -> int:
    """|proposed - own| / |own|, in millionths."""
    wide = own.values.astype("float64")
    length_sq = float((wide * wide).sum())
    apart = proposed.values.astype("float64") - wide
    apart_sq = float((apart * apart).sum())
    return round((apart_sq / length_sq) ** 0.5 * 1_000_000) if length_sq else 10**9
