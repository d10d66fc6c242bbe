"""Who sits where next: what a council block may hold of joins, leaves, proofs and closings, and what follows.

    entries - departed - guilty -> by location -> shuffled by the public seed -> dealt to the groups

A pure function of the council's chain, derived to propose it and again to check it. Whether a seat's operator
wants a newcomer, and whether a seat has itself heard nothing of a group, is judged in `rounds`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from ipaddress import ip_address

from consensus.committee import MEMBERS_MAX
from consensus.justification import well_formed
from consensus.signing import BadSignature, recover, signing_digest
from consensus.types import Digest, MemberId
from p2pfl.contradiction import Contradiction, proved
from p2pfl.errors import PeerFault
from p2pfl.genesis import COUNCIL, Genesis
from p2pfl.membership import AssignedGroup, Assignment, Closing, SignedJoin, SignedLeave, entry_hash
from p2pfl.records import CaseOutcome, CouncilBody
from p2pfl.roster import UnknownEpoch
from p2pfl.rules.state import GUILTY, NO_OPENING, CouncilState

# A group below four tolerates no liar. Where the genesis has smaller groups, those are enough.
GROUP_MIN = 4
# What one council block takes in; the rest comes with the next.
JOINS_MAX = CONTRADICTIONS_MAX = 16
TEXT_BYTES_MAX = 256
PORT_MAX = 65_535
_PORT, _HOST = re.compile(r"[1-9][0-9]{0,4}"), re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_PEER_ID = re.compile(rf"[{_BASE58}]{{52}}")


@dataclass(frozen=True)
class Turnover:
    """The records of one council block, and its header's time."""

    time_ms: int = 0
    joins: tuple[SignedJoin, ...] = ()
    leaves: tuple[SignedLeave, ...] = ()
    closings: tuple[Closing, ...] = ()
    contradictions: tuple[Contradiction, ...] = ()

    @classmethod
    def of(cls, time_ms: int, body: CouncilBody) -> Turnover:
        """What a block holds."""
        return cls(time_ms, body.joins, body.leaves, body.closings, body.contradictions)


def check_turnover(state: CouncilState, turnover: Turnover, counted: frozenset[Digest]) -> None:
    """Raises PeerFault for what may not stand in the next block. counted: groups with blocks in it."""
    members = [each.entry.member_id for each in turnover.joins]
    if members != sorted(set(members)) or len(members) > JOINS_MAX:
        raise PeerFault("bad_join", f"not distinct and ascending, or more than {JOINS_MAX}")
    for each in turnover.joins:
        check_join(state, each)
    for names in zip(*((each.entry.name, each.entry.peer_id) for each in turnover.joins), strict=True):
        if len(set(names)) < len(names):
            raise PeerFault("bad_join", "two newcomers of one name or peer id")
    leaving = [each.leave.member for each in turnover.leaves]
    if leaving != sorted(set(leaving)):
        raise PeerFault("bad_leave", "not distinct and ascending")
    for each in turnover.leaves:
        check_leave(state, each)
    expelled = [check_contradiction(state, each) for each in turnover.contradictions]
    if expelled != sorted(set(expelled)) or len(expelled) > CONTRADICTIONS_MAX:
        raise PeerFault("bad_contradiction", f"not of ascending members, or more than {CONTRADICTIONS_MAX}")
    order = list(state.counted)
    places = [order.index(each.group_id) if each.group_id in order else -1 for each in turnover.closings]
    if -1 in places or places != sorted(set(places)):
        raise PeerFault("bad_closing", "not distinct groups in the genesis' order")
    for each in turnover.closings:
        _check_closing(state, each, turnover.time_ms)
        if each.group_id in counted:
            raise PeerFault("bad_closing", "of a group that this very block counts")


def check_join(state: CouncilState, signed: SignedJoin) -> None:
    """Raises PeerFault unless this key may be given a seat in a later epoch."""
    join, entry, roster = signed.join, signed.entry, state.roster
    if (join.member, join.entry_hash) != (entry.member_id, entry_hash(entry, signed.location)):
        raise PeerFault("bad_join", "it is about another entry")
    if _signer(state.network, join, signed.signature) != entry.member_id:
        raise PeerFault("bad_join", "not signed by the newcomer")
    if join.council not in (0, 1):
        raise PeerFault("bad_join", "neither member nor seat")
    if any(
        len(text.encode()) > TEXT_BYTES_MAX
        for text in (entry.name, entry.peer_id, entry.address, signed.location)
    ):
        raise PeerFault("bad_join", "a name or address too long")
    if not is_peer_id(entry.peer_id) or not is_address(entry.address):
        raise PeerFault("bad_join", "a peer id or an address that nobody can call")
    if entry.member_id in roster.entries and entry.member_id not in state.departed:
        raise PeerFault("bad_join", "already a member")
    if state.stands(entry.member_id) == GUILTY or entry.member_id in state.expelled:
        raise PeerFault("bad_join", "found guilty before, or expelled")
    others = [each for each in roster.entries.values() if each.member_id != entry.member_id]
    if any(entry.name == each.name or entry.peer_id == each.peer_id for each in others):
        raise PeerFault("bad_join", "a name or peer id that another has")
    going_on = [group for group in state.network.groups if group.name in roster.now.committees]
    if not join.council and signed.location not in {group.location for group in going_on}:
        raise PeerFault("bad_join", f"no group at location {signed.location!r}")


def is_address(text: str) -> bool:
    """Whether this is a multiaddr of a host and a TCP port, or a WebSocket there, that a node can call."""
    parts = text.removesuffix("/ws").split("/")
    if len(parts) != 5 or parts[0] or parts[3] != "tcp" or not _PORT.fullmatch(parts[4]):
        return False
    if int(parts[4]) > PORT_MAX:
        return False
    if parts[1] in ("ip4", "ip6"):
        try:
            return ip_address(parts[2]).version == int(parts[1][2])
        except ValueError:
            return False
    return parts[1] in ("dns", "dns4", "dns6") and bool(_HOST.fullmatch(parts[2]))


def is_peer_id(text: str) -> bool:
    """Whether this is the libp2p id of an ed25519 key: 00 24 08 01 12 20 and the key, in base58."""
    if not _PEER_ID.fullmatch(text):
        return False
    number = 0
    for letter in text:
        number = number * 58 + _BASE58.index(letter)
    return number.bit_length() <= 8 * 38 and number.to_bytes(38, "big")[:6] == b"\x00\x24\x08\x01\x12\x20"


def check_leave(state: CouncilState, signed: SignedLeave) -> None:
    """Raises PeerFault unless this member may give notice now."""
    leave = signed.leave
    if leave.epoch != state.roster.epoch:
        raise PeerFault("bad_leave", f"of epoch {leave.epoch}, now is {state.roster.epoch}")
    if leave.member not in state.roster.entries or leave.member in state.departed | state.leaving:
        raise PeerFault("bad_leave", "not a member, or gone already")
    if _signer(state.network, leave, signed.signature) != leave.member:
        raise PeerFault("bad_leave", "signed by somebody else")


def check_contradiction(state: CouncilState, both: Contradiction) -> MemberId:
    """Who is to lose its seat for it. Raises PeerFault when it proves nothing against a member."""
    name = state.network.group_names.get(both.group_id)
    found = proved(state.network.domain(name), both) if name is not None else None
    if name is None or found is None:
        raise PeerFault("bad_contradiction", "it proves nothing")
    try:
        committee = state.roster.committee(name, both.first.epoch)
    except UnknownEpoch as error:
        raise PeerFault("bad_contradiction", f"no {error}") from error
    if found[0] not in committee:
        raise PeerFault("bad_contradiction", "signed by no member")
    if found[0] in state.expelled:
        raise PeerFault("bad_contradiction", "expelled already")
    return found[0]


def stalled(state: CouncilState, time_ms: int) -> list[Digest]:
    """The groups of which no block was counted for longer than the genesis allows, as of this header time."""
    epochs, rounds = state.network.epochs, state.network.rounds
    if not epochs.blocks:
        return []
    return [
        group_id
        for group_id, since_ms in state.moved_ms.items()
        if time_ms - since_ms > epochs.stall_ms
        and not state.waited_for(group_id)
        and state.roster.goes_on(state.network.group_names[group_id], state.open_epochs[group_id])
        and not (rounds and state.counted[group_id][0] + 1 >= rounds)
    ]


def _check_closing(state: CouncilState, closing: Closing, time_ms: int) -> None:
    if closing.group_id not in stalled(state, time_ms):
        raise PeerFault("bad_closing", "of a group that does not stand still, or has ended")
    epoch, counted = state.open_epochs[closing.group_id], state.counted[closing.group_id]
    if closing.epoch != epoch or (closing.height, closing.block_id) != counted:
        raise PeerFault("bad_closing", "not at the last counted block")
    name = state.network.group_names[closing.group_id]
    committee, domain = state.roster.committee(name, epoch), state.network.domain(name)
    places: list[int] = []
    for signed in closing.alive:
        vote = signed.vote
        if (vote.epoch, vote.height) != (epoch, closing.height + 1) or not well_formed(vote):
            raise PeerFault("bad_closing", "a ROUND-CHANGE of another height")
        try:
            signer = recover(signing_digest(domain, vote), signed.signature)
        except ValueError as error:  # BadSignature, or a field that its ABI type cannot hold.
            raise PeerFault("bad_closing", str(error)) from error
        if signer not in committee:
            raise PeerFault("bad_closing", "a ROUND-CHANGE of no member")
        places.append(committee.members.index(signer))
    if places != sorted(set(places)):
        raise PeerFault("bad_closing", "not distinct members in the committee's order")


def derive_assignment(
    state: CouncilState, height: int, turnover: Turnover, outcomes: Sequence[CaseOutcome]
) -> Assignment | None:
    """The next epoch's committees, if this block is its epoch's last: as planned, or as a group fell."""
    length, epoch = state.network.epochs.blocks, state.roster.epoch
    fell = any(closing.epoch == epoch for closing in turnover.closings)
    if not length or (height - state.epoch_height + 1 < length and not fell):
        return None
    after = state.roster.after(turnover.joins, (), None, 0)
    gone = state.departed | state.leaving | {each.leave.member for each in turnover.leaves}
    gone = (gone - {each.entry.member_id for each in turnover.joins}) | frozenset(
        member for closing in turnover.closings for member in state.silent(closing)
    )
    gone |= state.expelled.union(state.signer_of(each) for each in turnover.contradictions)
    latest = {each.case_id: each.outcome for each in outcomes}
    gone |= {member for member in after.entries if state.stands(member, latest) in (GUILTY, NO_OPENING)}
    gone |= state.too_often_harmful(outcomes)
    seats = _seats(state, turnover, gone)
    wanted = state.wants_seats(turnover.joins)
    free = [member for member in after.entries if member not in gone | wanted.union(seats)]
    seed = epoch_seed(state.network, epoch + 1)
    fallen = frozenset(state.network.group_names[closing.group_id] for closing in turnover.closings)
    groups = _dealt(state, free, after.locations, seed, fallen)
    return Assignment(epoch + 1, seed, (*groups, AssignedGroup(COUNCIL, seats)))


def _seats(state: CouncilState, turnover: Turnover, gone: frozenset[MemberId]) -> tuple[MemberId, ...]:
    """The old seats that stay, then newcomers while there is room; the old ones if nobody is left."""
    old = state.roster.now.committees[COUNCIL].members
    stay = [member for member in old if member not in gone]
    wanted = state.wants_seats(turnover.joins)
    new = sorted(wanted - gone - set(stay))
    return tuple(sorted((stay + new)[:MEMBERS_MAX] or old))


def epoch_seed(genesis: Genesis, epoch: int) -> Digest:
    """The public seed of an epoch in a network without an EVM chain: from the genesis."""
    return Digest(sha256(b"MPS epoch" + genesis.seed + epoch.to_bytes(8, "big")).digest())


def _dealt(
    state: CouncilState,
    members: Iterable[MemberId],
    locations: Mapping[MemberId, str],
    seed: Digest,
    fallen: frozenset[str],
) -> list[AssignedGroup]:
    """Each location's members, shuffled, dealt one by one to as many of its groups as they can fill.

    fallen: groups that lost their quorum just now; they are filled last. A group that gets nobody ends. Whom
    the groups cannot hold waits for the next epoch.
    """
    genesis = state.network
    least = min([GROUP_MIN, *(len(group.members) for group in genesis.groups)])
    there: dict[str, list[MemberId]] = {}
    for member in sorted(members):
        there.setdefault(locations[member], []).append(member)
    dealt: dict[str, list[MemberId]] = {}
    for location, found in sorted(there.items()):
        open_groups = [
            group.name
            for group in genesis.groups
            if group.location == location and state.roster.goes_on(group.name, state.roster.epoch)
        ]
        open_groups.sort(key=lambda name: name in fallen)
        names = open_groups[: max(1, len(found) // least)]
        shuffled = _shuffled(found, seed + location.encode())[: MEMBERS_MAX * len(names)]
        for turn, member in enumerate(shuffled if names else ()):
            dealt.setdefault(names[turn % len(names)], []).append(member)
    return [
        AssignedGroup(group.name, tuple(sorted(dealt[group.name])))
        for group in genesis.groups
        if group.name in dealt
    ]


def _shuffled(members: Sequence[MemberId], seed: bytes) -> list[MemberId]:
    """Ordered by the hash of seed and id: anybody can do it again, in any language."""
    return sorted(members, key=lambda member: sha256(b"MPS shuffle" + seed + member).digest())


def _signer(genesis: Genesis, struct: object, signature: bytes) -> MemberId | None:
    try:
        return recover(signing_digest(genesis.domain(COUNCIL), struct), signature)
    except (BadSignature, ValueError):
        return None
