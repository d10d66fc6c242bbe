"""The council's chain as this node knows it, folded into the state that its last blocks left."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence

import trio

from consensus.chain import BadBlock
from consensus.signing import block_id
from consensus.types import ZERO_DIGEST, DecidedBlock, Digest, MemberId
from p2pfl.genesis import COUNCIL, Genesis
from p2pfl.net import wire
from p2pfl.records import CouncilBody, decode_body
from p2pfl.rounds.chain import Chain, Checked, Trial
from p2pfl.rounds.pulse import Pulse
from p2pfl.rounds.sides import CountedIds
from p2pfl.rules.state import CouncilState
from p2pfl.store.blocks import BlockStore

# A group names a council block that is at most a few old; each state is some kilobytes.
STATES_MAX = 64
# Older ones that a group still stands on after a long outage; each is folded again from the chain's start.
RECALLED_MAX = 8
# Deltas of bases that seats told of: a base that is older is fetched whole.
DELTAS_MAX = 8


class CouncilView:
    """Council states by block id, the newest last. `pulse` beats when a block was added."""

    def __init__(self, genesis: Genesis, blocks: BlockStore) -> None:
        self.pulse = Pulse()
        self.on_block: Callable[[CouncilBody], Awaitable[None]] | None = None  # What the node does with each.
        self.counted = CountedIds()
        self._states: OrderedDict[Digest, CouncilState] = OrderedDict()
        self._recalled: OrderedDict[Digest, CouncilState] = OrderedDict()
        self._blocks = blocks
        self._genesis = genesis
        self._deltas: OrderedDict[Digest, tuple[MemberId, wire.BaseDelta]] = OrderedDict()
        self._liars: set[MemberId] = set()
        self._tip = CouncilState.genesis(genesis)
        self._states[self._tip.block_id] = self._tip
        # Each block is folded before the next is checked: it may name the committee that decides the next.
        self._foreseen: dict[Digest, CouncilState] = {}  # After blocks that are looked at.
        self.chain = Chain(genesis, COUNCIL, blocks, lambda: self._tip.roster, self._fold, self._trial)

    @property
    def tip(self) -> CouncilState:
        """The newest state."""
        return self._tip

    def at(self, council_block_id: Digest) -> CouncilState | None:
        """The state after this council block, if it is known and not too old."""
        return self._states.get(council_block_id) or self._recalled.get(council_block_id)

    async def recall(self, council_block_id: Digest, *, least_height: int) -> CouncilState | None:
        """`at`, also for a block whose state is no longer held, unless it is below this height.

        A group may have stood still while the council went on.
        """
        if (held := self.at(council_block_id)) is not None:
            return held
        ids, height = self._blocks.ids, -1
        if council_block_id in ids[max(0, least_height) :]:
            height = ids.index(council_block_id)
        elif council_block_id != ZERO_DIGEST or least_height >= 0:  # Zeros: the genesis.
            return None
        state = await trio.to_thread.run_sync(self._fold_until, height)
        self._recalled[council_block_id] = state
        while len(self._recalled) > RECALLED_MAX:
            self._recalled.popitem(last=False)
        return state

    def _fold_until(self, height: int) -> CouncilState:
        state = CouncilState.genesis(self._genesis)
        for decided in itertools.islice(self._blocks, height + 1):
            state = state.apply(decided.block.header, decode_body(decided.block.body, CouncilBody))
        return state

    def before(self, state: CouncilState) -> CouncilState | None:
        """The state on which this one follows, if it is known."""
        return next((each for each in self._states.values() if each.height == state.height - 1), None)

    def told_delta(self, seat: MemberId, delta: wire.BaseDelta) -> None:
        """A seat says how a base follows from the one before: the first that says it is believed for now."""
        if seat not in self._liars:
            self._deltas.setdefault(delta.base_id, (seat, delta))
        while len(self._deltas) > DELTAS_MAX:
            self._deltas.popitem(last=False)

    def delta_of(self, base_id: Digest) -> tuple[MemberId, wire.BaseDelta] | None:
        """Who said how this base follows from the one before, and what."""
        return self._deltas.get(base_id)

    def no_delta(self, seat: MemberId) -> None:
        """What this seat said was wrong, or nobody served it: it is not believed any more."""
        self._liars.add(seat)
        for base_id in [base_id for base_id, (by, _) in self._deltas.items() if by == seat]:
            del self._deltas[base_id]

    def newest_ids(self) -> tuple[Digest, ...]:
        """The ids of the council blocks that are still known, the newest first."""
        return tuple(reversed(self._states))

    async def take(self, decided: DecidedBlock) -> None:
        """The next council block: checked, kept, folded. Raises BadBlock, BadCertificate, DecodeError."""
        body: CouncilBody = decode_body(decided.block.body, CouncilBody)
        try:
            self._tip.apply(
                decided.block.header, body
            )  # Before it is kept: what cannot be folded is no block.
        except (ValueError, KeyError) as error:
            raise BadBlock(f"it cannot follow the council's chain: {error!r}") from error
        await self.chain.append(decided)
        await self._tell((body,))

    async def extend(self, checked: Checked) -> bool:
        """The next council blocks, which were looked at: kept and folded. False: the chain has moved."""
        taken = await self.chain.extend(checked)
        if taken:
            await self._tell(checked.bodies)
        return taken

    async def _tell(self, bodies: Sequence[CouncilBody]) -> None:
        for body in bodies:
            if self.on_block is not None:
                await self.on_block(body)
        self.pulse.beat()

    def _trial(self) -> Trial:
        """Folds blocks that are looked at, in a thread, and notes what comes of it."""
        state, foreseen = self._tip, dict[Digest, CouncilState]()
        self._foreseen = foreseen

        def fold(decided: DecidedBlock, body: CouncilBody) -> None:
            nonlocal state
            state = state.apply(decided.block.header, body)
            foreseen[state.block_id] = state

        return fold

    def _fold(self, decided: DecidedBlock) -> None:
        header = decided.block.header
        tip = self._foreseen.pop(block_id(header), None)  # The same wherever it was folded.
        if tip is None:
            tip = self._tip.apply(header, decode_body(decided.block.body, CouncilBody))
        self._tip = self._states[tip.block_id] = tip
        self.counted.add(tip.latest)
        while len(self._states) > STATES_MAX:
            self._states.popitem(last=False)
