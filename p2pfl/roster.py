"""Who sits where in each epoch, as the genesis and the council's blocks say: an immutable fold.

    epoch 0: the genesis -- Assignment in the council's last block of epoch 0 --> epoch 1 -- ... --> epoch 2

Answers questions by (group, epoch) for as far back as anybody may ask: an auditor starts at epoch 0. Who
ought to be given a seat is in `rules.epochs`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from consensus.chain import FIRST_HEIGHT, BadBlock
from consensus.committee import Committee
from consensus.types import ZERO_DIGEST, Digest, Header, MemberId
from p2pfl.genesis import COUNCIL, Genesis, MemberEntry
from p2pfl.membership import Assignment, Closing, SignedJoin


class UnknownEpoch(KeyError):
    """The council's chain, as far as it is known here, has not assigned this group in this epoch (yet)."""


@dataclass(frozen=True)
class Seating:
    """One epoch. began_ms: header time of the council block that ended the epoch before (0: the genesis').

    committees: by group name, the council's too.
    """

    epoch: int
    began_ms: int
    committees: Mapping[str, Committee]

    def group_of(self, member: MemberId) -> str | None:
        """The name of the group (or "council") in which this member sits."""
        return next((name for name, each in self.committees.items() if member in each), None)


@dataclass(frozen=True)
class Roster:
    """All epochs so far. entries: everybody who ever had a seat or was admitted, by id.

    locations: of the members. closings: by group name and epoch.
    """

    genesis: Genesis
    seatings: tuple[Seating, ...]
    entries: Mapping[MemberId, MemberEntry]
    locations: Mapping[MemberId, str]
    closings: Mapping[tuple[str, int], Closing]

    @classmethod
    def of(cls, genesis: Genesis) -> Roster:
        """Epoch 0."""
        groups = (*genesis.groups, genesis.council)
        first = {group.name: genesis.committee(group.name) for group in groups}
        return cls(
            genesis=genesis,
            seatings=(Seating(0, genesis.start_time_ms, MappingProxyType(first)),),
            entries=MappingProxyType({each.member_id: each for group in groups for each in group.members}),
            locations=MappingProxyType(
                {each.member_id: group.location for group in groups for each in group.members}
            ),
            closings=MappingProxyType({}),
        )

    @property
    def epoch(self) -> int:
        """The newest epoch."""
        return self.seatings[-1].epoch

    @property
    def now(self) -> Seating:
        """The newest seating."""
        return self.seatings[-1]

    def committee(self, name: str, epoch: int) -> Committee:
        """The committee of a group (or the council). Raises UnknownEpoch."""
        if 0 <= epoch < len(self.seatings) and name in self.seatings[epoch].committees:
            return self.seatings[epoch].committees[name]
        raise UnknownEpoch(f"{name} in epoch {epoch}")

    def newest(self, name: str) -> Committee:
        """The last committee that this group has or had: who keeps its chain. Raises UnknownEpoch."""
        for seating in reversed(self.seatings):
            if name in seating.committees:
                return seating.committees[name]
        raise UnknownEpoch(name)

    def goes_on(self, name: str, epoch: int) -> bool:
        """Whether this group has a committee in this epoch."""
        return 0 <= epoch < len(self.seatings) and name in self.seatings[epoch].committees

    def group_of(self, member: MemberId, epoch: int) -> str | None:
        """Where this member sits in this epoch, if anywhere."""
        return self.seatings[epoch].group_of(member) if 0 <= epoch < len(self.seatings) else None

    def decides(
        self, name: str, header: Header, *, tip: Header | None, tip_id: Digest
    ) -> tuple[Committee, bool]:
        """Whose certificate decides the block after `tip`, and whether the tip's epoch was closed there.

        Raises UnknownEpoch; BadBlock for a block that a closing made void.
        """
        closing = self.closings.get((name, header.epoch))
        if closing is not None and header.height > closing.height:
            raise BadBlock(f"void: the council closed epoch {header.epoch} at height {closing.height}")
        return self.committee(name, header.epoch), self.closed_at(name, header.epoch, tip, tip_id)

    def closed_at(self, name: str, epoch: int, tip: Header | None, tip_id: Digest) -> bool:
        """Whether the council closed the epoch before `epoch` at this tip."""
        closing = self.closings.get((name, epoch - 1))
        before = FIRST_HEIGHT - 1 if tip is None else tip.height
        return closing is not None and (closing.height, closing.block_id) == (before, tip_id)

    def entry(self, member: MemberId) -> MemberEntry:
        """Name, keys and address of a member. KeyError for a stranger."""
        return self.entries[member]

    def next_root(self, name: str, epoch: int) -> Digest:
        """What the last block of this epoch names: the next committee's root; zeros if the group ends."""
        return self.committee(name, epoch + 1).root() if self.goes_on(name, epoch + 1) else ZERO_DIGEST

    def after(
        self,
        joins: Iterable[SignedJoin],
        closings: Iterable[Closing],
        assignment: Assignment | None,
        time_ms: int,
    ) -> Roster:
        """After a council block with these records and this header time.

        Raises ValueError for an assignment of another epoch, of unknown groups, or without a council.
        """
        entries, locations = dict(self.entries), dict(self.locations)
        for each in joins:
            entries[each.entry.member_id] = each.entry
            locations[each.entry.member_id] = each.location
        closed = dict(self.closings)
        for each in closings:
            closed[self.genesis.group_names[each.group_id], each.epoch] = each
        seatings = self.seatings
        if assignment is not None:
            names = [group.name for group in assignment.groups]
            known = {*self.genesis.group_names.values()}
            if assignment.epoch != self.epoch + 1 or len(set(names)) < len(names) or not set(names) <= known:
                raise ValueError(f"an assignment of epoch {assignment.epoch} to {', '.join(names)}")
            if COUNCIL not in names:
                raise ValueError("an assignment without a council")
            committees = {
                group.name: Committee(assignment.epoch, group.members) for group in assignment.groups
            }
            seatings = (*seatings, Seating(assignment.epoch, time_ms, MappingProxyType(committees)))
        return replace(
            self,
            seatings=seatings,
            entries=MappingProxyType(entries),
            locations=MappingProxyType(locations),
            closings=MappingProxyType(closed),
        )
