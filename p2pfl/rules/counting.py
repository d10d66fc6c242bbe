"""Which decided blocks of the groups a council block counts, and how each stands in it.

    group     .. h  h+1        each once, in their order, at most 8 of a group at a time
    council      c: counts h, h+1

What becomes of their aggregates is in `council` and `taking_back`; whether a block is one that its group's
rules can make, in `sound`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from consensus.chain import FIRST_HEIGHT
from consensus.signing import block_id
from consensus.types import Certificate, Digest, Header
from consensus.votes import BadCertificate, verify_certificate
from p2pfl.errors import PeerFault
from p2pfl.records import CountedBlock, GroupBody, body_root, field_proof
from p2pfl.rules.ballots import rejects
from p2pfl.rules.sound import unsound
from p2pfl.rules.state import CouncilState

# A group that was cut off catches up with this many blocks at a time.
COUNTED_PER_GROUP_MAX = 8


def count_block(
    header: Header, certificate: Certificate, body: GroupBody, *, rejected: bool = False
) -> CountedBlock:
    """How a group's decided block enters a council block. rejected: by the next one, which is counted too."""
    return CountedBlock(
        header=header,
        certificate=certificate,
        aggregate_id=body.aggregate_id,
        weight=0 if rejected else sum(body.weights),
        exponents=body.exponents,
        app_proof=field_proof(body, "aggregate_id")[3],
    )


def count_blocks(blocks: Iterable[tuple[Header, Certificate, GroupBody]]) -> tuple[CountedBlock, ...]:
    """Consecutive blocks of one group, counted together: who is rejected by the next has no weight."""
    every = list(blocks)
    followers = [(header, body) for header, _, body in every[1:]]
    return tuple(
        count_block(*each, rejected=_rejects(follower, each[0]))
        for each, follower in zip(every, [*followers, None], strict=False)
    )


def uncountable(
    state: CouncilState, header: Header, body: GroupBody, epoch: int, *, looked_into: bool = False
) -> str | None:
    """Why this decided block of a group cannot be counted; None if it can. epoch: in which it has to be.

    looked_into: what needs no state was found in order before.

    A quorum of liars can decide anything in its group; it must neither stop nor mislead the council.
    """
    name = state.network.group_names[header.group_id]
    if header.epoch != epoch or not state.roster.goes_on(name, epoch):
        return f"it is of epoch {header.epoch}"
    root = header.next_committee_root
    ends = root != state.roster.committee(name, epoch).root()
    if ends and (epoch >= state.roster.epoch or root != state.roster.next_root(name, epoch)):
        return "it names a wrong committee"
    if looked_into:
        return None
    return unsound(state.network, name, state.roster.committee(name, epoch), header, body)


def check_counted(
    state: CouncilState, counted: Sequence[CountedBlock], bodies: Mapping[Digest, GroupBody]
) -> None:
    """Raises PeerFault unless each counted block is decided, comes next in its group, and is told truly.

    state: before this council block. The order is by group as in the genesis, then by height. bodies: of the
    counted blocks, by block id.
    """
    genesis = state.network
    place = {genesis.group_id(entry.name): index for index, entry in enumerate(genesis.groups)}
    seats = [(place.get(b.header.group_id, -1), b.header.height) for b in counted]
    if any(seat[0] < 0 for seat in seats) or seats != sorted(seats):
        raise PeerFault("bad_counted", "an unknown group, or not in order")
    last, epochs = dict(state.counted), dict(state.open_epochs)
    for group_id in last:
        if sum(b.header.group_id == group_id for b in counted) > COUNTED_PER_GROUP_MAX:
            raise PeerFault("bad_counted", f"more than {COUNTED_PER_GROUP_MAX} blocks of one group")
    followers = [*counted[1:], None]
    for block, follower in zip(counted, followers, strict=False):  # Of none, none follows.
        header = block.header
        height, parent_id = last[header.group_id]
        if header.height != height + 1 or (height >= FIRST_HEIGHT and header.parent_id != parent_id):
            raise PeerFault("bad_counted", f"block {header.height} does not follow the counted {height}")
        name, epoch = genesis.group_names[header.group_id], epochs[header.group_id]
        body = bodies[block_id(header)]
        after = follower and (follower.header, bodies[block_id(follower.header)])
        rejected = _rejects(after, header)
        told = count_block(header, block.certificate, body, rejected=rejected)
        if header.app_root != body_root(body) or block != told:
            raise PeerFault("bad_counted", f"block {header.height} of {name} says something else")
        why = uncountable(state, header, body, epoch)
        if why is not None:
            raise PeerFault("bad_counted", f"block {header.height} of {name}: {why}")
        committee = state.roster.committee(name, epoch)
        try:
            verify_certificate(genesis.domain(name), committee, header, block.certificate)
        except BadCertificate as error:
            raise PeerFault("bad_counted", str(error)) from error
        epochs[header.group_id] += header.next_committee_root != committee.root()
        last[header.group_id] = (header.height, block_id(header))


def taken_back_in(counted: Sequence[CountedBlock], bodies: Mapping[Digest, GroupBody]) -> frozenset[Digest]:
    """Ids of the counted blocks that the next one rejects, and of those that reject the one before them.

    bodies: of the counted blocks, by block id.
    """
    every = [(block.header, bodies[block_id(block.header)]) for block in counted]
    found = {block_id(header) for header, body in every if rejects(body)}
    found |= {
        block_id(header)
        for (header, _), follower in zip(every, [*every[1:], None], strict=False)
        if _rejects(follower, header)
    }
    return frozenset(found)


def _rejects(follower: tuple[Header, GroupBody] | None, header: Header) -> bool:
    """Whether the block that is counted next is of the same group and epoch and rejects this one."""
    if follower is None:
        return False
    same = (follower[0].group_id, follower[0].epoch) == (header.group_id, header.epoch)
    return same and rejects(follower[1])
