"""What the council says of the groups' chains: which side of a fork it counted, where it closed an epoch.

A quorum of liars can certify two blocks of one height. Once the council has counted one of them, its seats
work with that one only: whoever copied the other cuts its copy below it and fetches the counted side, which a
quorum of seats holds. Knows ids and heights; who is asked for blocks is in `follow`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from consensus.chain import FIRST_HEIGHT, BadBlock
from consensus.signing import block_id
from consensus.types import DecidedBlock, Digest, Header
from p2pfl.roster import Roster
from p2pfl.rounds.chain import Chain, Trial
from p2pfl.telemetry import logger

log = logger("rounds.sides")


class CountedIds:
    """The ids of all blocks that the council has counted, by group and height: 200 bytes a block."""

    def __init__(self) -> None:
        self._ids: defaultdict[Digest, dict[int, Digest]] = defaultdict(dict)

    def add(self, headers: Iterable[Header]) -> None:
        """A council block counted these."""
        for header in headers:
            self._ids[header.group_id][header.height] = block_id(header)

    def trial(self, group_id: Digest) -> Trial:
        """Raises BadBlock for a block of this group at whose height the council counted another."""
        counted = self._ids[group_id]

        def is_counted_side(decided: DecidedBlock, body: Any) -> None:
            del body
            header = decided.block.header
            if counted.get(header.height, block_id(header)) != block_id(header):
                raise BadBlock(f"the council counted another block {header.height}")

        return is_counted_side

    async def heal(self, chain: Chain) -> None:
        """Cut a copy of a group's chain below its first block that is not the counted one."""
        counted = self._ids[chain.group_id]
        height = common = min(chain.height, next(reversed(counted), FIRST_HEIGHT - 1))
        while self._is_other(chain, counted, common):
            common -= 1
        if common < height:
            log.error("the council counted the other side of a fork", group=chain.name, kept=common)
            await chain.cut(common)

    @staticmethod
    def _is_other(chain: Chain, counted: dict[int, Digest], height: int) -> bool:
        held = chain.get(height) if height in counted else None
        return held is not None and block_id(held.block.header) != counted[height]


async def cut_what_is_void(roster: Roster, chains: Mapping[Digest, Chain]) -> None:
    """Cut each chain where the council closed an epoch of it. chains: by group id."""
    for (name, epoch), closing in roster.closings.items():
        chain = chains.get(closing.group_id)
        if chain is None or chain.height <= closing.height:
            continue
        above = chain.get(closing.height + 1)
        if above is not None and above.block.header.epoch == epoch:
            log.warning("the council closed an epoch below the own tip", group=name, height=closing.height)
            await chain.cut(closing.height)
