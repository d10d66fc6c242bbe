"""How long each part of a round may take, and what a watcher is told of it.

    wait      until Ci's ShareRequest is here           council_ms + open_ms
    train     until the Close is here                   train_ms + collect_ms
    reveal    until every named blob is here            reveal_ms
    propose   until the block is decided                propose_ms (T0 of consensus)

Each part is doubled with each round, up to 2^double_max. A part that overruns ends the round at once, so a
dead Ci costs the first part and not a training.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import trio

from consensus.signing import block_id
from consensus.types import Header, MemberId
from p2pfl.genesis import Times


def group_parts(times: Times) -> dict[str, int]:
    """The parts of a group's round in their order, in milliseconds."""
    return {
        "wait": times.council_ms + times.open_ms,
        "train": times.train_ms + times.collect_ms,
        "reveal": times.reveal_ms,
        "propose": times.propose_ms,
    }


def council_parts(times: Times) -> dict[str, int]:
    """Those of a council's: gathering and fetching, then comparing, training the root update and voting."""
    return {"gather": times.gather_ms + times.reveal_ms, "propose": times.propose_ms}


class Pace:
    """The clock of one group's rounds. `set_deadline` is the driver's."""

    def __init__(
        self,
        parts_ms: dict[str, int],
        double_max: int,
        group: str,
        quorum: int,
        name_of: Callable[[MemberId], str],
        set_deadline: Callable[[float], None],
        observe: Callable[[str, dict[str, Any]], None],
    ) -> None:
        self._parts_ms = parts_ms
        self._order = tuple(parts_ms)
        self._double_max = double_max
        self._group = group
        self._quorum = quorum
        self._name_of = name_of
        self._set_deadline = set_deadline
        self._observe = observe
        self._begun_s: float | None = None
        self._step = ""
        self.height = 0
        self.round = 0

    def enter(self, height: int, round_: int) -> None:
        """A round began."""
        if height != self.height or self._begun_s is None:
            self._begun_s = trio.current_time()
        self.height, self.round, self._step = height, round_, ""

    def part_s(self, part: str) -> float:
        """How long this part may take in the current round, in seconds."""
        return self._parts_ms[part] / 1000 * 2 ** min(self.round, self._double_max)

    def step(self, part: str) -> None:
        """The round moved on to this part: the deadline is that of this part, from now. Never backwards."""
        if self._step and self._order.index(part) <= self._order.index(self._step):
            return
        self._step = part
        self._set_deadline(trio.current_time() + self.part_s(part))
        self._tell(part)

    def overrun(self) -> None:
        """This round can have no block: it ends now."""
        self._set_deadline(trio.current_time())

    def idle(self) -> None:
        """Nothing to decide: no deadline."""
        self._step = ""
        self._set_deadline(float("inf"))

    def votes(self, count: int) -> None:
        """So many have committed, prepared or voted in the current step."""
        self._tell(self._step, count)

    def voted(self, kind: str) -> None:
        """The own vote of this kind went out."""
        if kind in ("Prepare", "Commit"):
            self._tell(kind.lower())

    def stop(self, why: str) -> None:
        """No further height."""
        self._set_deadline(float("inf"))
        self._tell(why)

    def decided(self, header: Header, round_: int, **more: Any) -> None:
        """Tell of a decided block."""
        seconds = trio.current_time() - self._begun_s if self._begun_s is not None else 0.0
        self._begun_s = None
        self._observe(
            "decided",
            {
                "group": self._group,
                "height": header.height,
                "round": round_,
                "block_id": "0x" + block_id(header).hex(),
                "proposer": self._name_of(header.proposer),
                "seconds": seconds,
                **more,
            },
        )

    def _tell(self, step: str, votes: int = 0) -> None:
        self._observe(
            "step",
            {
                "group": self._group,
                "height": self.height,
                "round": self.round,
                "step": step,
                "votes": votes,
                "quorum": self._quorum,
            },
        )
