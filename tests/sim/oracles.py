"""What must never happen, watched at every step.

agreement: two honest members decide different blocks at one height, or the votes of honest members would let
liars make them. validity: a block is voted for or decided that is not a good one, does not follow its parent,
or its certificate does not hold. progress: no new heights after healing.
offence: an honest member signed two votes that are an offence, restarts included. blame: an honest member
is accused with a pair, or a pair proves nothing. bounds: a world that does not come to rest.
"""

from __future__ import annotations

from collections import defaultdict

from consensus import chain
from consensus.committee import Committee
from consensus.evidence import contradiction
from consensus.signing import Domain, block_id
from consensus.types import Commit, DecidedBlock, Digest, Fault, MemberId, Prepare, Started, Vote
from consensus.votes import BadCertificate, Recover, check_certificate


class Oracles:
    """Listens to one world. `found` maps an oracle to what it saw first."""

    def __init__(
        self, committee: Committee, recover: Recover, domain: Domain, *, honest: frozenset[MemberId]
    ) -> None:
        self._committee, self._recover, self._domain, self._honest = committee, recover, domain, honest
        self.found: dict[str, str] = {}
        self.proved: set[MemberId] = set()  # Liars that some honest member can prove guilty.
        self._liars = committee.size - len(honest)
        self._committed: dict[int, dict[tuple[int, Digest], set[MemberId]]] = defaultdict(dict)
        self._prepared: dict[int, set[tuple[int, Digest]]] = defaultdict(set)
        self.bad_blocks: set[Digest] = set()
        self._decided: dict[int, Digest] = {}
        self._votes: dict[tuple[MemberId, int], dict[Vote, bytes]] = defaultdict(dict)

    def report(self, oracle: str, what: str) -> None:
        """Keep the first of each kind."""
        self.found.setdefault(oracle, what)

    def signed(self, member: MemberId, vote: Vote, signature: bytes) -> None:
        """A member signed; compare with all that it ever signed at this height."""
        if member not in self._honest:
            return
        votes = self._votes[member, vote.height]
        if vote not in votes:
            for other in votes:
                kind = contradiction(other, vote)
                if kind is not None:
                    self.report("offence", f"{kind.name} by honest {member[:1].hex()}: {other} and {vote}")
            votes[vote] = signature
            if isinstance(vote, Prepare | Commit):
                self._voted(member, vote)

    def _voted(self, member: MemberId, vote: Prepare | Commit) -> None:
        """Once q members, all liars among them, can COMMIT a block, nothing else may be voted for later.

        Both orders are looked at: who votes in a later round has left the earlier one without a COMMIT.
        """
        if vote.block_id in self.bad_blocks:
            self.report("validity", f"honest {member[:1].hex()} votes for a bad block: {vote}")
        rounds, prepared = self._committed[vote.height], self._prepared[vote.height]
        prepared.add((vote.round, vote.block_id))
        if isinstance(vote, Commit):
            rounds.setdefault((vote.round, vote.block_id), set()).add(member)
        for (round_, block), members in rounds.items():
            if len(members) + self._liars >= self._committee.quorum:
                for later, other in prepared:
                    if later > round_ and other != block:
                        self.report("agreement", f"height {vote.height}: round {later} may undo {round_}")

    def decided(self, member: MemberId, height: int, decided: DecidedBlock, started: Started) -> None:
        """A member decided its next height."""
        if member not in self._honest:
            return
        header = decided.block.header
        known = block_id(header)
        if self._decided.setdefault(height, known) != known:
            self.report("agreement", f"height {height} has two blocks")
        if known in self.bad_blocks:
            self.report("validity", f"height {height} has a bad block")
        reason = chain.objection(
            header,
            parent=started.parent,
            parent_id=started.parent_id,
            log_root=started.log_root,
            committee=self._committee,
            group_id=self._domain.group_id,
        )
        if reason is not None or header.height != height:
            self.report("validity", f"height {height}: {reason}")
        try:
            check_certificate(self._recover, self._committee, header, decided.certificate)
        except BadCertificate as error:
            self.report("validity", f"height {height}: {error}")

    def blamed(self, fault: Fault) -> None:
        """Somebody was accused."""
        if fault.pair is None:
            return
        a, b = fault.pair
        signers = {self._recover(signed.vote, signed.signature) for signed in fault.pair}
        if contradiction(a.vote, b.vote) is None or signers != {fault.peer}:
            self.report("blame", f"a pair that proves nothing: {a.vote} and {b.vote}")
        elif fault.peer in self._honest:
            self.report("blame", f"honest {fault.peer[:1].hex()} is proved guilty: {a.vote} and {b.vote}")
        else:
            self.proved.add(fault.peer)
