"""Who votes in an epoch, how many are enough, and whose turn it is."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from consensus.signing import keccak256
from consensus.types import Digest, MemberId

# All-to-all votes and one blob a member: beyond this a group costs more than it teaches.
MEMBERS_MAX = 16


@dataclass(frozen=True, slots=True)
class Committee:
    """The members of one group in one epoch, in the order of their turns.

    members: distinct ids, 1 to 16.
    """

    epoch: int
    members: tuple[MemberId, ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.members) <= MEMBERS_MAX:
            raise ValueError(f"a committee has 1 to {MEMBERS_MAX} members, not {len(self.members)}")
        if len(set(self.members)) != len(self.members):
            raise ValueError("a committee names each member once")
        if any(len(member) != 20 for member in self.members):
            raise ValueError("a member id is 20 bytes")

    @property
    def size(self) -> int:
        """n."""
        return len(self.members)

    @property
    def faulty_max(self) -> int:
        """f: how many Byzantine members are tolerated, (n - 1) // 3."""
        return (self.size - 1) // 3

    @property
    def quorum(self) -> int:
        """q = (2n - 1) // 3 + 1: any two quorums share more than f members.

        "2f + 1" does so only for n = 3f + 1 (Moniz, arXiv 2002.03613, section 2).
        """
        return (2 * self.size - 1) // 3 + 1

    def proposer(self, height: int, round_: int) -> MemberId:
        """Whose turn it is: it rotates with every height and every round."""
        return self.members[(height + round_) % len(self.members)]

    def root(self) -> Digest:
        """What a header commits to: keccak256 over the epoch and the ids, each as one 32-byte word.

        The epoch is in it so that one header shows where an epoch ends, even if the members stay the same.
        """
        return _root(self.epoch, self.members)

    def __contains__(self, member: MemberId) -> bool:
        return member in self.members


@lru_cache(maxsize=64)
def _root(epoch: int, members: tuple[MemberId, ...]) -> Digest:
    return keccak256(epoch.to_bytes(32, "big") + b"".join(member.rjust(32, b"\0") for member in members))
