"""What must never happen, watched at every step.

agreement: two honest members decide different blocks at one height, or the votes of honest members would let
liars make them. validity: a block is voted for or decided that is not a good one, does not follow its parent,
or its certificate does not hold. progress: no new heights after healing.
offence: an honest member signed two votes that are an offence, restarts included. blame: an honest member
is accused with a pair, or a pair proves nothing. bounds: a world that does not come to rest.
accountability: with more than f liars agreement may break; then what the honest members kept names fewer than
f+1, or somebody honest.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable

from consensus import chain
from consensus.evidence import Offence, contradiction, culprits
from consensus.signing import Domain, block_id
from consensus.types import Commit, DecidedBlock, Digest, Fault, MemberId, Message, Prepare, Started, Vote
from consensus.votes import BadCertificate, Recover, check_certificate
from tests.sim.epochs import Epochs

Audit = Callable[[Recover, Iterable[Message]], list[Offence]]


class Oracles:
    """Listens to one world. `found` maps an oracle to what it saw first."""

    def __init__(
        self,
        epochs: Epochs,
        recover: Recover,
        domain: Domain,
        *,
        honest: frozenset[MemberId],
        audit: Audit = culprits,
    ) -> None:
        self._audit = audit
        self._epochs, self._recover, self._domain, self._honest = epochs, recover, domain, honest
        self.found: dict[str, str] = {}
        self.proved: set[MemberId] = set()  # Liars that some honest member can prove guilty.
        # More liars than the protocol bears: agreement may break, and is not reported.
        self.above = any(len(set(each.members) - honest) > each.faulty_max for each in epochs.committees)
        self.broken: dict[int, Counter[str]] = {}  # Heights with two blocks; the offences, once judged.
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
        if self.above:
            return
        rounds, prepared = self._committed[vote.height], self._prepared[vote.height]
        prepared.add((vote.round, vote.block_id))
        if isinstance(vote, Commit):
            rounds.setdefault((vote.round, vote.block_id), set()).add(member)
        committee = self._epochs.at(vote.height)
        liars = sum(each not in self._honest for each in committee.members)
        for (round_, block), members in rounds.items():
            if len(members) + liars >= committee.quorum:
                for later, other in prepared:
                    if later > round_ and other != block:
                        self.report("agreement", f"height {vote.height}: round {later} may undo {round_}")

    def decided(self, member: MemberId, height: int, decided: DecidedBlock, started: Started) -> None:
        """A member decided its next height."""
        if member not in self._honest:
            return
        header, committee = decided.block.header, self._epochs.at(height)
        known = block_id(header)
        if self._decided.setdefault(height, known) != known:
            if self.above:
                self.broken.setdefault(height, Counter())
            else:
                self.report("agreement", f"height {height} has two blocks")
        if known in self.bad_blocks:
            self.report("validity", f"height {height} has a bad block")
        reason = chain.objection(
            header,
            parent=started.parent,
            parent_id=started.parent_id,
            log_root=started.log_root,
            committee=committee,
            group_id=self._domain.group_id,
        )
        if reason is None and header.next_committee_root != self._epochs.next_root(height):
            reason = "another next committee"
        if reason is not None or header.height != height:
            self.report("validity", f"height {height}: {reason}")
        try:
            check_certificate(self._recover, committee, header, decided.certificate)
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

    def audited(self, records: Iterable[Message]) -> None:
        """What the honest members kept, at the end: enough are named where it broke, and nobody honest."""
        offences = self._audit(self._recover, records)
        for each in offences:
            if each.signer in self._honest:
                self.report("accountability", f"honest {each.signer[:1].hex()} is named: {each}")
        for height, kinds in self.broken.items():
            committee = self._epochs.at(height)
            named = [o for o in offences if o.first.vote.height == height and o.signer in committee]
            kinds.update(each.kind.name for each in named)
            if len(named) <= committee.faulty_max:
                self.report("accountability", f"height {height} broke, {len(named)} are named: {dict(kinds)}")
