"""To whom a node serves what decided blocks name; once more after a restart, for it is in memory only."""

from __future__ import annotations

from collections.abc import Iterable

from consensus.types import MemberId
from p2pfl.genesis import COUNCIL
from p2pfl.records import CouncilBody, GroupBody, decode_body
from p2pfl.roster import Roster
from p2pfl.rounds.follow import Chain
from p2pfl.rounds.shelf import Shelf

# Of so many blocks of each chain: the council may not have counted them yet, nor its seats what they need.
BLOCKS = 32


def serve(shelf: Shelf, body: GroupBody, to: Iterable[MemberId]) -> None:
    """A group's block: its aggregate to all, its updates to these, who are its members and the seats."""
    shelf.show(body.aggregate_id)
    to = tuple(to)
    for signed in body.txs:
        shelf.show(signed.tx.blob_id, to)


def reveal(shelf: Shelf, chain: Chain, blocks: int = 1) -> None:
    """Show observers the updates that the newest decided blocks of a group name, but for the unrevealed."""
    for height in range(max(0, chain.height + 1 - blocks), chain.height + 1):
        decided = chain.get(height)
        if decided is not None and chain.name != COUNCIL:
            body: GroupBody = decode_body(decided.block.body, GroupBody)
            shelf.reveal(each.tx.blob_id for each in body.txs if each.tx.member not in body.unrevealed)


def serve_again(shelf: Shelf, roster: Roster, chain: Chain) -> None:
    """Show what the chain's newest blocks name: aggregates and bases to all, updates to group and seats."""
    for height in range(max(0, chain.height + 1 - BLOCKS), chain.height + 1):
        decided = chain.get(height)
        if decided is None:
            continue
        if chain.name == COUNCIL:
            told: CouncilBody = decode_body(decided.block.body, CouncilBody)
            shelf.show(told.base_id)
            shelf.show(told.root_update_id)
            continue
        body: GroupBody = decode_body(decided.block.body, GroupBody)
        members = roster.committee(chain.name, decided.block.header.epoch).members
        serve(shelf, body, (*members, *roster.newest(COUNCIL).members))
