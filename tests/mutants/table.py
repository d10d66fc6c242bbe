"""The planted bugs: many from a list that a prototype was tried with, some from real projects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tests.mutants.drivers import Deserter, Forgetful, Hasty, Hurried, Impatient, Obliging, Stale, Timeless
from tests.mutants.patch import Change, load
from tests.sim.member import Member


@dataclass(frozen=True)
class Mutant:
    """changes: in the core's source. member: a driver with a bug, instead. The rest: of the worlds."""

    name: str
    changes: tuple[Change, ...] = ()
    member: type[Member] = Member
    members: int = 4
    liars: int | None = None
    seeds: tuple[int, ...] = ()  # Tried first: those that are rare.


def parts_of(mutant: Mutant) -> dict[str, Any]:
    """What it puts into a simulated world."""
    core = load(mutant.changes)
    return {"replica": core["replica"].Replica, "member": mutant.member, "audit": core["evidence"].culprits}


def quorum_of(formula: str) -> Change:
    """Everywhere another quorum."""
    weak = f"type('Weak', (type(committee),), {{'quorum': property(lambda c: {formula})}})"
    check = "        if me not in committee:\n"
    same = "*(getattr(committee, field) for field in committee.__dataclass_fields__)"
    return ("replica", check, f"        committee = {weak}({same})\n{check}")


PREPARES_OF_ANY_ROUND = """max(
            (self._at.supporters(SignedPrepare, any_round, block) for any_round in range(self.round + 1)),
            key=len,
        )"""


def one(name: str, module: str, old: str, new: str, **where: Any) -> Mutant:
    """A mutant of one change."""
    return Mutant(name, ((module, old, new),), **where)


MUTANTS = (
    Mutant("quorum minus one", (quorum_of("(2 * c.size - 1) // 3"),)),
    Mutant("quorum of 2f+1", (quorum_of("2 * c.faulty_max + 1"),), members=6),
    one(
        "signatures counted, not signers",
        "votes",
        "if signer is None or signer not in committee or signer in found:",
        "if signer is None or signer not in committee:",
    ),
    one(
        "strangers counted",
        "votes",
        "if signer is None or signer not in committee or signer in found:",
        "if signer is None or signer in found:",
    ),
    one(
        "certificate by strangers",
        "votes",
        "        if signer is None or signer not in committee:\n            raise",
        "        if signer is None:\n            raise",
    ),
    one(
        "certificate counts signatures",
        "votes",
        "        if signers and signer <= signers[-1]:\n",
        "        if signers and signer < signers[-1]:\n",
    ),
    Mutant(
        "second proposal of a round also prepared",
        (
            (
                "replica",
                "        if vote.round == self.round and self.accepted is not None:\n",
                """        self._voted = False
        if vote.round == self.round and self.accepted is not None and sender == self.me:
""",
            ),
        ),
    ),
    one(
        "ROUND-CHANGE omits the prepared block",
        "replica",
        "        proof = self.prepared.proof if self.prepared else ()\n",
        "        proof = ()\n",
    ),
    Mutant(
        "any prepared block instead of the highest",
        (
            (
                "justification",
                "key=lambda vote: vote.prepared_round_plus_1)",
                "key=lambda vote: vote.prepared_round_plus_1 > 0)",
            ),
            (
                "justification",
                "key=lambda pair: (-pair[1].vote.prepared_round_plus_1, pair[0]))",
                "key=lambda pair: (pair[1].vote.prepared_round_plus_1 == 0, pair[0]))",
            ),
        ),
    ),
    one(
        "justification unchecked",
        "height",
        "        reason = justification.objection(self._recover, self._committee, proposal)\n",
        "        reason = None\n",
    ),
    one(
        "f+1 ROUND-CHANGEs are a justification",
        "justification",
        "    if not committee.quorum <= len(changes) <= committee.size:\n",
        "    if not committee.faulty_max + 1 <= len(changes) <= committee.size:\n",
    ),
    one(
        "ROUND-CHANGEs of other rounds are a justification",
        "justification",
        "(c.vote.epoch, c.vote.height, c.vote.round) != seat or not well_formed(c.vote)",
        "not well_formed(c.vote)",
    ),
    one(
        "prepared certificate unverified",
        "justification",
        "    return distinct_signers(recover, committee, prepares) is not None\n",
        "    return True\n",
    ),
    one(
        "prepared certificate of another round",
        "justification",
        "(v.epoch, v.height, v.round, v.block_id) != seat for v in",
        "v.block_id != block for v in",
    ),
    one(
        "claims without proof believed",
        "height",
        '            return "a prepared claim without proof"\n',
        "            pass\n",
    ),
    Mutant(
        "COMMIT in a round that was left",
        (
            (
                "replica",
                "        self.accepted: t.Proposal | None = None  #",
                """        self.accepted = getattr(self, 'accepted', None) if round_ else None
        self._left = self.accepted  #""",
            ),
            (
                "replica",
                "self._at.supporters(SignedPrepare, self.round, block)",
                PREPARES_OF_ANY_ROUND,
            ),
            (
                "replica",
                "        if vote.round == self.round and self.accepted is not None:\n",
                "        if vote.round == self.round and self.accepted is not self._left:\n",
            ),
        ),
    ),
    one(
        "PREPARE for a proposal of an older round",
        "replica",
        "        if vote.round < self.round:\n            return None\n",
        "",
    ),
    one(
        "PREPAREs of other rounds counted",
        "replica",
        "self._at.supporters(SignedPrepare, self.round, block)",
        PREPARES_OF_ANY_ROUND,
    ),
    one(
        "COMMITs of mixed rounds counted",
        "height",
        "commits = self.supporters(SignedCommit, round_, signed.vote.block_id)",
        """commits = {}
            for any_round in range(32):
                commits.update(self.supporters(SignedCommit, any_round, signed.vote.block_id))""",
    ),
    one(
        "prepared not updated when prepared again",
        "replica",
        "(self.prepared is not None and self.prepared.round == self.round)",
        "self.prepared is not None",
    ),
    Mutant("restart from nothing", member=Forgetful),
    Mutant("send before persist", member=Hasty),
    one(
        "WAL without the round",
        "replica",
        "        self._out.append(t.Persist(t.Elapsed(self.height, round_ - 1)))\n",
        "",
    ),
    one(
        "WAL without the own proposal",
        "replica",
        "        self._out.append(t.Persist(t.Received(self.me, self.accepted)))\n",
        "",
    ),
    one(
        "WAL without the accepted proposal",
        "replica",
        "            self._out.append(t.Persist(t.Received(self._proposer(), accepted)))\n",
        "            pass\n",
    ),
    one(
        "WAL without the prepared certificate",
        "replica",
        "                self._out.append(t.Persist(t.Received(signer, t.PrepareMessage(votes[signer]))))\n",
        "                pass\n",
    ),
    one(
        "WAL without the application's answer",
        "replica",
        "        self._out.append(t.Persist(t.Validated(self.height, self.round, block, True)))\n",
        "",
    ),
    one(
        "no domain separation",
        "votes",
        "partial(signing_digest, domain)",
        "partial(signing_digest, Domain(31337, MemberId(b'\\x11' * 20), Digest(b'G' * 32)))",
    ),
    one("high s accepted", "signing", '        raise BadSignature("high s")\n', "        pass\n"),
    one(
        "v of 0 and 1 accepted",
        "signing",
        "    if len(signature) != SIGNATURE_BYTES or signature[64] not in (27, 28):\n",
        "    if len(signature) == 65 and signature[64] < 2:\n"
        "        signature = signature[:64] + bytes([signature[64] + 27])\n"
        "    if len(signature) != SIGNATURE_BYTES or signature[64] not in (27, 28):\n",
    ),
    one(
        "epoch ignored",
        "replica",
        "        elif about.epoch != self.committee.epoch:\n",
        "        elif False:\n",
    ),
    one(
        "anybody votes for anybody",
        "replica",
        "            if self._recover(signed.vote, signed.signature) != sender:\n",
        "            if False:\n",
    ),
    one(
        "anybody proposes",
        "replica",
        "        if self.committee.proposer(self.height, vote.round) != sender:\n",
        "        if False:\n",
    ),
    one(
        "no f+1 jump",
        "replica",
        "        if len(self._at.asked) <= self._faulty_max:\n",
        "        if True:\n",
    ),
    one(
        "jump to the highest",
        "replica",
        "        target = sorted(self._at.asked.values(), reverse=True)[self._faulty_max]\n",
        "        target = max(self._at.asked.values())\n",
    ),
    one(
        "decided members stay silent",
        "replica",
        "sender != self.me and (found := self._answers.decided(sender, message, self.height))",
        "False",
    ),
    one("answers without limit", "answers", "        return count < ANSWERS_MAX\n", "        return True\n"),
    one(
        "nothing is sent again",
        "replica",
        "                self._resend(to)  # R8\n",
        "                pass\n",
    ),
    one(
        "validation skipped",
        "height",
        "        self.blocks[known] = block\n",
        "        self.blocks[known] = block\n        self.valid.add(known)\n",
    ),
    one(
        "prepared block proposed again unvalidated",
        "replica",
        "        elif prepared.block_id in self._at.valid:\n            self._propose",
        "        elif True:\n            self._propose",
    ),
    one(
        "clock checked when proposed again",
        "replica",
        "            fresh = not proposal.prepared\n",
        "            fresh = True\n",
    ),
    one(
        "parent unchecked",
        "height",
        "        return self.block_objection(proposal.block) if reason is None else reason\n",
        "        return reason\n",
    ),
    one("votes without limit", "height", "ROUNDS_MAX = 8\n", "ROUNDS_MAX = 1 << 30\n"),
    one("blocks without limit", "height", "BLOCKS_MAX = 8\n", "BLOCKS_MAX = 1 << 30\n"),
    one(
        "early messages without limit",
        "answers",
        "        slot = (event.sender, type(event.message))\n",
        "        slot = (event.sender, event.message)\n",
    ),
    one(
        "unknown block never fetched",
        "replica",
        "        if holder is not None:\n",
        "        if False:\n",
    ),
    one(
        "denied COMMIT not seen",
        "evidence",
        "isinstance(a, Commit) and b.round > a.round and _denies(b, a)",
        "False",
    ),
    one(
        "answers never come back",
        "answers",
        "        self._answered = {key: count - 1 for key, count in self._answered.items() if count > 1}\n",
        "        pass\n",
    ),
    one(
        "who is kept silent asks nobody",
        "replica",
        "        if not said and self.round > 0:\n",
        "        if False:\n",
    ),
    one(
        "late votes not compared",
        "replica",
        "book.late(sender, message) if about.height == book.number else ()",
        "()",
    ),
    one(
        "a height's votes forgotten with its decision",
        "replica",
        "        self.started, self._before = started, self._at  #",
        "        self.started, self._before = started, Height(None, self.committee, self.domain.group_id, "
        "self._recover)  #",
    ),
    one(
        "auditors skip justifications",
        "votes",
        "            yield from (propose, *justification, *prepared)\n",
        "            yield propose\n",
        liars=2,
    ),
    one(
        "auditors skip certificates",
        "votes",
        "            yield from (SignedCommit(vote, signature) for signature in certificate.signatures)\n",
        "            yield from ()\n",
        liars=2,
    ),
    one(
        "auditors take two rounds for one",
        "evidence",
        "if type(a) is type(b) and a.round == b.round and a.block_id != b.block_id:",
        "if type(a) is type(b) and a.block_id != b.block_id:",
    ),
    one(
        "WAL forgets why a proposal was accepted",
        "replica",
        "            self._out.append(t.Persist(t.Received(self._proposer(), accepted)))\n",
        "            bare = t.Proposal(accepted.propose, accepted.block)\n"
        "            self._out.append(t.Persist(t.Received(self._proposer(), bare)))\n",
        liars=2,
    ),
    Mutant("who leaves answers nobody", member=Deserter, members=2),
    Mutant("the committee of the epoch before goes on", member=Stale),
    Mutant("any next committee will do", member=Obliging),
    Mutant("no clock is looked at", member=Timeless),
    Mutant("timers wait for nobody", member=Hurried, seeds=(22539,)),
    Mutant("a round has no time left when it begins", member=Impatient, seeds=(30111,)),
    one(
        "context taken for the claim",
        "evidence",
        "    return change.prepared_round_plus_1, change.prepared_block_id\n",
        "    return change.prepared_round_plus_1, change.prepared_block_id + change.context\n",
    ),
)
