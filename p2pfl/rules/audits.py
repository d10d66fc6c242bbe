"""Cases that follow from bodies alone: rules, alarms, copies, members drawn for audit, ended exclusions.

    council block c counts round h  ->  its id draws among the members of h  ->  block c + 1 opens the cases

Nobody knows who will be drawn before block c is decided, and every commitment of round h is older than that.
A draw is no suspicion: who is drawn counts on, unless it takes long to answer. The proposer of block c can
try several blocks for a draw that it likes: one liar of four seats can spare its friends every fourth round.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256

from consensus.signing import block_id
from consensus.types import Digest, Header, MemberId
from p2pfl.records import Case, CountedBlock, GroupBody
from p2pfl.rules.cases import (
    TRIAGE_ALARM,
    GroupBlock,
    breaks_a_hard_rule,
    case_about,
    copied_cases,
    hard_rule_cases,
)
from p2pfl.rules.state import AUDIT, LEFT_OUT, REVIEW, CouncilState
from p2pfl.rules.triage import most_unusual, rarity

PPM = 1_000_000
# A group's alarm is believed up to so many times the rate: it was judged by an older pool than the council's.
OLDER_POOL = 2


def is_drawn(seed: Digest, share_ppm: int, header: Header, member: MemberId) -> bool:
    """Whether this member of a group's block is drawn: each one by itself, share_ppm in a million.

    seed: id of the council's block that counted the group's.
    """
    said = sha256(b"MPS audit" + seed + header.group_id + header.height.to_bytes(8, "big") + member).digest()
    return int.from_bytes(said[:8], "big") * PPM < share_ppm << 64


def audit_cases(state: CouncilState, block: GroupBlock, deadline_height: int) -> tuple[Case, ...]:
    """A case for each member of a block counted last that is drawn, or whose exclusion has ended.

    All who revealed may be drawn, but whom a case leaves out. While the pool is too small for an alarm, the
    most unusual member of a block is drawn as often as all of its members together: most unusual by the
    council's pool and the block's Gram matrix, not by what the group says of it.
    """
    rules, body = state.network.rules, block.body
    accused = {each.member for each in body.standings if each.outcome in LEFT_OUT}
    small = (state.pool.size + 1) * rules.alarm_rate_ppm < PPM
    first = most_unusual(rarity(body, state.pool))[:1] if small else ()
    found: list[Case] = []
    for row in body.triage:
        share_ppm = rules.audit_share_ppm * (len(body.triage) if row.member in first else 1)
        if row.member in accused:
            continue
        if state.returned(row.member):
            found.append(case_about(block, REVIEW, row.member, deadline_height))
        elif is_drawn(state.block_id, share_ppm, block.header, row.member):
            found.append(case_about(block, AUDIT, row.member, deadline_height))
    return tuple(found)


def alarm_cases(state: CouncilState, block: GroupBlock, deadline_height: int) -> tuple[Case, ...]:
    """A case for each member whose scores are too rare to be honest, unless a hard rule names it already.

    Rare by the council's pool before it counts the block, and by the block's Gram matrix: a quorum that lies
    neither spares a friend with a row that says nothing, nor has somebody asked again and again with one
    that does.
    """
    rate_ppm, rows = state.network.rules.alarm_rate_ppm, block.body.triage
    p_ppm = rarity(block.body, state.pool)
    return tuple(
        case_about(block, TRIAGE_ALARM, row.member, deadline_height)
        for row in rows
        if p_ppm[row.member] <= (OLDER_POOL if row.alarm else 1) * rate_ppm and not breaks_a_hard_rule(row)
    )


def cases_without_updates(
    state: CouncilState,
    counted: Sequence[CountedBlock],
    bodies: Mapping[Digest, GroupBody],
    deadline_height: int,
) -> tuple[Case, ...]:
    """All cases of the next block that no update is needed for: of the rules, then reviews and draws.

    bodies: of the blocks counted now and in the block before, by id.
    """
    found: list[Case] = []
    blocks = [GroupBlock(each.header, bodies[block_id(each.header)]) for each in counted]
    for block in blocks:
        found += (*hard_rule_cases(block, deadline_height), *alarm_cases(state, block, deadline_height))
    found += copied_cases(blocks, deadline_height)
    for header in state.latest:
        found += audit_cases(state, GroupBlock(header, bodies[block_id(header)]), deadline_height)
    return tuple(found)
