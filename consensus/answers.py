"""What other heights want from this member: early messages are kept, late ones answered, a little of each."""

from __future__ import annotations

from collections.abc import Callable

from consensus import types as t
from consensus.types import MemberId
from consensus.votes import subject

# R7: how often one peer is answered about one height at once (and once more after each own Resend: answers
# are lost in a partition too), and how far back height by height. Who asks about an older one is sent the
# tip, which tells him to sync.
ANSWERS_MAX = 4
ANSWERED_HEIGHTS = 8


class Answers:
    """Bounded by members, kinds of message and ANSWERED_HEIGHTS, whatever peers send."""

    def __init__(self, decided_at: Callable[[int], t.DecidedBlock | None]) -> None:
        self._decided_at = decided_at
        self._next: dict[tuple[MemberId, type], t.Received] = {}
        self._heard: set[tuple[int, MemberId, type]] = set()
        self._answered: dict[tuple[int, MemberId], int] = {}

    def begin(self, height: int) -> list[t.Received]:
        """A new height: forget what is old, hand out what was kept for it."""
        oldest = height - ANSWERED_HEIGHTS
        self._heard = {key for key in self._heard if key[0] >= oldest}
        self._answered = {key: count for key, count in self._answered.items() if key[0] >= oldest}
        events, self._next = list(self._next.values()), {}
        return events

    def keep(self, event: t.Received) -> bool:
        """Keep a message of the next height, one a sender and kind; False if another gave way to it."""
        slot = (event.sender, type(event.message))
        alone = self._next.get(slot, event) == event
        self._next[slot] = event
        return alone

    def first(self, height: int, sender: MemberId, message: t.Message) -> bool:
        """Note a message; whether it is the first of its sender, kind and height."""
        key = (height, sender, type(message))
        if key in self._heard:
            return False
        self._heard.add(key)
        return True

    def may(self, height: int, peer: MemberId) -> bool:
        """Whether this peer may be answered about this height once more; counts it."""
        count = self._answered.get((height, peer), 0)
        self._answered[height, peer] = min(count + 1, ANSWERS_MAX)
        return count < ANSWERS_MAX

    def refill(self) -> None:
        """Some time has passed: one more answer for everybody."""
        self._answered = {key: count - 1 for key, count in self._answered.items() if count > 1}

    def decided(self, sender: MemberId, message: t.Message, current: int) -> t.DecidedBlock | None:
        """R7: what to send to a member that still works on a height below `current`, or on it, if decided."""
        height = subject(message).height
        if isinstance(message, t.DecidedMessage | t.BlockMessage):
            return None
        if height < current - ANSWERED_HEIGHTS:
            height = current - 1
        elif isinstance(message, t.Proposal | t.PrepareMessage | t.CommitMessage):
            # The last votes of a height arrive after its decision: only one that is sent again asks for help.
            if self.first(height, sender, message):
                return None
        return self._decided_at(height) if self.may(height, sender) else None
