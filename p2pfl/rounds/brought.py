"""What the groups brought to the council: copies of their chains, and the aggregates of their blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import trio

from consensus import types as ct
from consensus.signing import block_id
from consensus.votes import BadCertificate, verify_certificate
from p2pfl.errors import PeerFault
from p2pfl.genesis import COUNCIL
from p2pfl.params import Update, byte_length, parse_base, parse_update
from p2pfl.records import CountedBlock, GroupBody, decode_body
from p2pfl.roster import UnknownEpoch
from p2pfl.rounds.chain import Chain, Checked
from p2pfl.rounds.context import Context
from p2pfl.rules.council import CouncilInputs
from p2pfl.rules.counting import COUNTED_PER_GROUP_MAX, count_blocks, uncountable
from p2pfl.rules.filters import epoch_salt
from p2pfl.rules.state import CouncilState
from p2pfl.rules.taking_back import Added, rejected_before
from p2pfl.telemetry import logger

log = logger("rounds.brought")

# A block whose aggregate, or a candidate's update, nobody serves is left out of the council's blocks for so
# long, then tried again.
MISSING_S = 30.0


class Brought:
    """A seat's copies of the groups' chains, by group id."""

    def __init__(
        self,
        context: Context,
        groups: Mapping[ct.Digest, Chain],
        fetch: Callable[[ct.Header, GroupBody], None],
    ) -> None:
        """fetch: begins `fetch_aggregate` in the background."""
        self._context = context
        self._groups = groups
        self._fetch = fetch
        self._sound: set[ct.Digest] = set()  # Blocks that were looked into once.
        self._here: set[ct.Digest] = set()  # Blocks whose aggregate is on the shelf,
        self._coming: set[ct.Digest] = set()  # or on its way there.
        self._forked: set[ct.Digest] = set()  # Groups that have certified two blocks of one height.
        self._missing: dict[ct.Digest, float] = {}  # Blocks whose blobs nobody served, and until when.
        self._told: set[ct.Digest] = set()

    async def take(self, checked: Checked) -> bool:
        """The next blocks of a group, which were looked at: kept, and what is counted next is fetched.

        False: the copy has moved meanwhile.
        """
        group_id = checked.blocks[0].block.header.group_id
        if not await self._groups[group_id].extend(checked):
            return False
        if not self._context.chain.catching_up:  # Else most of these blocks were counted long ago.
            first = self._context.council.tip.counted[group_id][0] + 1
            for decided, body in zip(checked.blocks, checked.bodies, strict=True):
                if first <= decided.block.header.height < first + COUNTED_PER_GROUP_MAX:
                    self.want(decided.block.header, body)
        return True

    async def fetch_aggregate(self, header: ct.Header, body: GroupBody) -> None:
        """Bring a block's aggregate before the block is counted."""
        try:
            await self._aggregate(header, body)
            if header.height > self._context.council.tip.counted[header.group_id][0]:
                self._here.add(block_id(header))
        except PeerFault as fault:
            name = self._groups[header.group_id].name
            log.warning("a group's aggregate is not to be had", group=name, why=str(fault))
            self.miss(header)
        finally:
            self._coming.discard(block_id(header))

    def miss(self, header: ct.Header) -> None:
        """What this block names is not to be had now: the council goes on without it for a while."""
        self._missing[block_id(header)] = trio.current_time() + MISSING_S

    def forget(self, counted: Iterable[CountedBlock]) -> None:
        """These are counted now: what was noted of them on the way is of no use any more."""
        for each in counted:
            done = block_id(each.header)
            self._missing.pop(done, None)
            for noted in (self._sound, self._here, self._told):
                noted.discard(done)

    def uncounted(self, state: CouncilState, group_id: ct.Digest) -> range:
        """The heights of this group's blocks that the next council block may count.

        They end before the first that cannot be counted, or whose aggregate nobody has served yet.
        """
        chain, epoch = self._groups[group_id], state.open_epochs[group_id]
        first = state.counted[group_id][0] + 1
        if group_id in self._forked:
            return range(first, first)
        for height in range(first, min(chain.height + 1, first + COUNTED_PER_GROUP_MAX)):
            decided = chain.get(height)
            if decided is None or not self._is_countable(state, decided, epoch):
                return range(first, height)
            own = state.roster.committee(chain.name, epoch).root()
            epoch += decided.block.header.next_committee_root != own
        return range(first, max(first, min(chain.height + 1, first + COUNTED_PER_GROUP_MAX)))

    def _is_countable(self, state: CouncilState, decided: ct.DecidedBlock, epoch: int) -> bool:
        header = decided.block.header
        if self._missing.get(block_id(header), 0.0) > trio.current_time():
            return False
        looked_into = block_id(header) in self._sound
        body: GroupBody = decode_body(decided.block.body, GroupBody)
        why = uncountable(state, header, body, epoch, looked_into=looked_into)
        if why is None:
            self._sound.add(block_id(header))
        if why is not None and block_id(header) not in self._told:
            self._told.add(block_id(header))
            name = self._groups[header.group_id].name
            log.error("a group's block cannot be counted", group=name, height=header.height, why=why)
        if why is not None or block_id(header) in self._here:
            return why is None
        self.want(header, body)
        return False

    def want(self, header: ct.Header, body: GroupBody) -> None:
        """Begin to fetch this block's aggregate, if it is neither here nor on its way."""
        if block_id(header) not in self._here | self._coming:
            self._coming.add(block_id(header))
            self._fetch(header, body)

    def counted(self, state: CouncilState) -> tuple[CountedBlock, ...]:
        """All that can be counted now, by group as in the genesis, then by height."""
        found: list[CountedBlock] = []
        for group_id, chain in self._groups.items():
            blocks = [each for at in self.uncounted(state, group_id) if (each := chain.get(at)) is not None]
            found += count_blocks((each.block.header, each.certificate, _body_of(each)) for each in blocks)
        return tuple(found)

    def reaches(self, headers: Iterable[ct.Header]) -> bool:
        """Whether the copies of these groups' chains have got so far (or the group is unknown)."""
        chains = ((self._groups.get(header.group_id), header.height) for header in headers)
        return all(chain is None or chain.height >= height for chain, height in chains)

    def holds(self, headers: Iterable[ct.Header]) -> bool:
        """Whether these very blocks lie here: a copy may be on another side of a fork, and change it yet."""
        held = ((header, self._groups[header.group_id].get(header.height)) for header in headers)
        return all(found and block_id(found.block.header) == block_id(header) for header, found in held)

    def seek(self, headers: Iterable[ct.Header]) -> None:
        """Ask everybody for these groups' blocks: who gives us none may have given them to others."""
        for group_id in dict.fromkeys(header.group_id for header in headers):
            if group_id in self._groups:
                self._groups[group_id].seek()

    def check_copy(self, counted: CountedBlock) -> None:
        """Raises PeerFault unless this very block lies here."""
        chain = self._groups.get(counted.header.group_id)
        held = chain.get(counted.header.height) if chain is not None else None
        if held is None:
            raise PeerFault("bad_counted", f"block {counted.header.height} of a group is not to be had")
        if block_id(held.block.header) != block_id(counted.header):
            self._look_for_fork(counted)
            raise PeerFault("bad_counted", f"block {counted.header.height} of a group is another here")

    def _look_for_fork(self, counted: CountedBlock) -> None:
        """Two certified blocks of one height: more than f lie in that group. It counts no more here.

        Each seat would refuse the other's copy for ever, and the council has to go on with the other groups.
        """
        group_id, chain = counted.header.group_id, self._groups[counted.header.group_id]
        try:
            committee = self._context.roster.committee(chain.name, counted.header.epoch)
            domain = self._context.genesis.domain(chain.name)
            verify_certificate(domain, committee, counted.header, counted.certificate)
        except (BadCertificate, UnknownEpoch):
            return
        if group_id not in self._forked:
            self._forked.add(group_id)
            log.error("a group has certified two blocks of one height", group=chain.name)

    async def inputs(
        self, state: CouncilState, height: int, counted: tuple[CountedBlock, ...]
    ) -> CouncilInputs:
        """What these blocks bring, fetched where it is not here. Raises PeerFault when it cannot be had."""
        context, genesis = self._context, self._context.genesis
        layout, epoch = genesis.task.layout, self._context.committee.epoch
        bodies = {block_id(each.header): self._body(each.header) for each in counted}
        bodies |= {block_id(header): self._body(header) for header in state.latest}
        aggregates: dict[ct.Digest, Update] = {}
        for each in counted:
            try:
                found = await self._aggregate(each.header, bodies[block_id(each.header)])
            except PeerFault:
                self.miss(each.header)
                raise
            aggregates[each.aggregate_id] = found
        for added in rejected_before(state.added, counted, bodies):
            aggregates[added.aggregate_id] = await self._taken_back(added, counted)
        others = self._others()
        base = await context.shelf.need(state.base_id, byte_length("base", layout), context.others, others)
        root_update = None
        if state.root_update_id != ct.ZERO_DIGEST:
            length = byte_length("update", layout, state.exponents)
            data = await context.shelf.need(state.root_update_id, length, context.others, others)
            root_update = parse_update(data, layout, state.exponents)
        return CouncilInputs(
            state=state,
            committee=context.committee,
            epoch=epoch,
            height=height,
            counted=counted,
            bodies=bodies,
            aggregates=aggregates,
            base_values=await context.aside(parse_base, base, layout),
            root_update=root_update,
            salt=context.salt,
            group_salts={each.header.group_id: self._salt(each.header) for each in counted},
        )

    async def _taken_back(self, added: Added, counted: tuple[CountedBlock, ...]) -> Update:
        """The aggregate of a block that was counted before and is rejected now. Raises PeerFault."""
        after = next(
            each.header
            for each in counted
            if (each.header.epoch, each.header.height) == (added.epoch, added.height + 1)
            and added == self._context.council.tip.added.get(each.header.group_id)
        )
        decided = self._groups[after.group_id].get(added.height)
        assert decided is not None, "the copy was checked"
        try:
            return await self._aggregate(decided.block.header, _body_of(decided))
        except PeerFault:
            self.miss(after)
            raise

    def _others(self) -> tuple[ct.MemberId, ...]:
        """Who else holds the base and the root update: seats of the epoch before, and members."""
        before = self._context.roster.seatings[-2:-1]
        seats = tuple(member for each in before for member in each.committees[COUNCIL].members)
        members = tuple(self._context.roster.entries)
        return tuple(each for each in dict.fromkeys((*seats, *members)) if each != self._context.me)

    def _salt(self, header: ct.Header) -> bytes:
        before = self._groups[header.group_id].before(header.epoch)
        return epoch_salt(self._context.genesis.network_id, header.epoch, before)

    def _body(self, header: ct.Header) -> GroupBody:
        decided = self._groups[header.group_id].get(header.height)
        if decided is None or block_id(decided.block.header) != block_id(header):
            raise PeerFault("bad_counted", f"block {header.height} of a group is not to be had")
        return _body_of(decided)

    async def _aggregate(self, header: ct.Header, body: GroupBody) -> Update:
        context, layout = self._context, self._context.genesis.task.layout
        members = context.roster.committee(self._groups[header.group_id].name, header.epoch).members
        length = byte_length("update", layout, body.exponents)
        context.shelf.show(body.aggregate_id)  # Before it is here: those who fetch it share it.
        data = await context.shelf.need(body.aggregate_id, length, members, context.others)
        return parse_update(data, layout, body.exponents)


def _body_of(decided: ct.DecidedBlock) -> GroupBody:
    return decode_body(decided.block.body, GroupBody)
