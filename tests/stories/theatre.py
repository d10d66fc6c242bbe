"""A few replicas on a stage, real signatures, and a stage manager who does what a transcript says.

    cast 4                    four members begin the first height; member i has the turn in round i
    deliver [WHICH]           hand over what is on its way, and what follows from it, first come first served
    lose [WHICH]              forget what is on its way
    elapse 1 2 | all          timers run out
    resend 1 2 | all          R8
    next 1 2 | all            who has decided begins the next height
    answer 2 yes|no|late      what its application will say of blocks; `late`: nothing
    judge 2 A yes|no          it says so now
    refuse 2 prepare|...      the guard of its signer refuses this kind from now on
    crash 2 [keep=N]          it dies; of its WAL, N entries are on the disk (default: all)
    restart 2                 from its WAL
    block X by=1 [height=0]   a block that somebody made up
    say 3 KIND ...            a liar signs and sends: propose, prepare, commit, round-change, decided, fetch
    audit 0 2                 who is proved guilty by what these members kept

WHICH: from=1,2 to=0 kind=prepare,commit, each of which may be left out; only: nothing that follows from it.
Knows nothing of the rules.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from consensus import chain
from consensus import types as t
from consensus.evidence import culprits
from consensus.replica import Replica
from consensus.signing import ORDER, block_id, keccak256
from consensus.votes import check_certificate, recoverer, signed_vote, with_signature
from tests.consensus.lab import DOMAIN, IDS, NETWORK, certificate, committee_of, sign, signed

KINDS: dict[str, type] = {
    "propose": t.Proposal,
    "prepare": t.PrepareMessage,
    "commit": t.CommitMessage,
    "round-change": t.RoundChangeMessage,
    "decided": t.DecidedMessage,
    "fetch": t.FetchBlock,
    "block": t.BlockMessage,
}
NAMES = {kind: name for name, kind in KINDS.items()}
# A story is read by a person.
MESSAGES_MAX = 2000


@dataclass
class Actor:
    """One process and its disk."""

    replica: Replica
    wal: list[t.Event] = field(default_factory=list)
    kept: list[t.Message] = field(default_factory=list)
    store: list[t.DecidedBlock] = field(default_factory=list)
    alive: bool = True
    answer: str = "yes"
    refused: set[str] = field(default_factory=set)

    def started(self) -> t.Started:
        """After the tip of its store."""
        ids = [block_id(each.block.header) for each in self.store]
        tip = self.store[-1].block.header if self.store else None
        return t.Started(tip, ids[-1] if ids else chain.FIRST_PARENT_ID, chain.Log(ids).root())


class Theatre:
    """Commands in, lines out."""

    def __init__(self, replica: type[Replica] = Replica, audit: Callable[..., Any] = culprits) -> None:
        self._replica, self._culprits = replica, audit
        self.actors: list[Actor] = []
        self._road: list[tuple[int, int, t.Message]] = []
        self._blocks: dict[str, t.Block] = {}
        self._lines: list[str] = []

    def do(self, command: str) -> list[str]:
        """Carry out one line; returns what came out."""
        self._lines = []
        verb, *words = command.split()
        plain = [word for word in words if "=" not in word]
        named = dict(word.split("=", 1) for word in words if "=" in word)
        getattr(self, f"_{verb}")(*plain, **named)
        return self._lines

    # Commands.

    def _cast(self, n: str) -> None:
        self.committee = committee_of(int(n))
        for place in range(int(n)):
            self.actors.append(Actor(self._new(place)))
        for place, actor in enumerate(self.actors):
            self._step(place, actor.started())

    def _new(self, place: int) -> Replica:
        def decided_at(height: int) -> t.DecidedBlock | None:
            store = self.actors[place].store
            return store[height] if 0 <= height < len(store) else None

        return self._replica(self.committee, IDS[place], DOMAIN, decided_at=decided_at)

    def _deliver(self, *how: str, **which: str) -> None:
        waiting = self._road
        chosen = [each for each in waiting if self._is(each, **which)]
        self._road = [each for each in waiting if not self._is(each, **which)]
        for count, (sender, to, message) in enumerate(chosen):
            self._step(to, t.Received(IDS[sender], message))
            if "only" not in how:
                more = [each for each in self._road if self._is(each, **which)]
                self._road = [each for each in self._road if not self._is(each, **which)]
                chosen += more  # The loop goes on with them.
            assert count < MESSAGES_MAX, "the story does not end"

    def _lose(self, *_: str, **which: str) -> None:
        self._road = [each for each in self._road if not self._is(each, **which)]

    def _is(self, each: tuple[int, int, t.Message], **which: str) -> bool:
        sender, to, message = each
        wanted = {"from": str(sender), "to": str(to), "kind": NAMES[type(message)]}
        return all(wanted[name] in values.split(",") for name, values in which.items())

    def _elapse(self, *who: str) -> None:
        for place in self._places(who):
            replica = self.actors[place].replica
            self._step(place, t.Elapsed(replica.height, replica.round))

    def _resend(self, *who: str) -> None:
        for place in self._places(who):
            self._step(place, t.Resend())

    def _next(self, *who: str) -> None:
        for place in self._places(who):
            assert self.actors[place].replica.decided, f"member {place} has not decided"
            self._step(place, self.actors[place].started())

    def _answer(self, who: str, answer: str) -> None:
        self.actors[int(who)].answer = answer

    def _judge(self, who: str, name: str, answer: str) -> None:
        replica, known = self.actors[int(who)].replica, block_id(self._blocks[name].header)
        self._step(int(who), t.Validated(replica.height, replica.round, known, answer == "yes"))

    def _refuse(self, who: str, kind: str) -> None:
        self.actors[int(who)].refused.add(kind)

    def _crash(self, who: str, keep: str = "") -> None:
        actor = self.actors[int(who)]
        actor.alive = False
        del actor.wal[int(keep) if keep else len(actor.wal) :]

    def _restart(self, who: str) -> None:
        actor = self.actors[int(who)]
        actor.alive, actor.replica = True, self._new(int(who))
        self._perform(int(who), actor.replica.restore(actor.started(), actor.wal))

    def _block(self, name: str, *, by: str, height: str = "0") -> None:
        tip = self.actors[int(by)].started()
        self._blocks[name] = self._made(int(by), int(height), tip.parent_id, tip.log_root, f"{name}{by}")

    def _say(self, who: str, kind: str, *, to: str = "", **words: str) -> None:
        """A liar's words: block, round, epoch, height, context; prepared: ROUND:BLOCK.

        why: whose ROUND-CHANGEs, each with what it claims: 1,2/0:A; asked: for which round, if not this one.
        proof: whose PREPAREs, or COMMITs; proved: of which round. as: who hands it over, if not the signer.
        signature: how it is spoilt.
        """
        me, block = int(who), self._blocks.get(words.get("block", ""))
        height = int(words.get("height", block.header.height if block else 0))
        epoch, round_ = int(words.get("epoch", 0)), int(words.get("round", 0))
        known = block_id(block.header) if block else t.ZERO_DIGEST
        claim, proved = self._claim(words, height)
        context = t.Digest(words.get("context", "").encode().rjust(32, b"\0"))
        message: t.Message
        match kind:
            case "propose":
                assert block is not None
                changes = tuple(self._changes(words, epoch, height, round_))
                message = t.Proposal(
                    signed(me, t.Propose(epoch, height, round_, known)), block, changes, proved
                )
            case "prepare":
                message = t.PrepareMessage(signed(me, t.Prepare(epoch, height, round_, known)))
            case "commit":
                message = t.CommitMessage(signed(me, t.Commit(epoch, height, round_, known)))
            case "round-change":
                change = t.RoundChange(epoch, height, round_, *claim, context)
                message = t.RoundChangeMessage(signed(me, change), proved)
            case "fetch":
                message = t.FetchBlock(epoch, height, known)
            case _:
                assert block is not None
                by = [int(each) for each in words["proof"].split(",")]
                message = t.DecidedMessage(t.DecidedBlock(block, certificate(by, block.header, round_)))
        if "signature" in words:
            message = _spoilt(message, me, words["signature"])
        sender = int(words.get("as", me))
        for place in self._places(tuple(to.split(",")) if to else ("all",)):
            if place != sender:
                self._step(place, t.Received(IDS[sender], message))

    def _changes(
        self, words: dict[str, str], epoch: int, height: int, round_: int
    ) -> Iterable[t.SignedRoundChange]:
        for each in words.get("why", "").split(","):
            by, _, said = each.partition("/")
            if by:
                claim, _ = self._claim({"prepared": said}, height)
                asked = int(words.get("asked", round_))
                yield signed(int(by), t.RoundChange(epoch, height, asked, *claim, t.ZERO_DIGEST))

    def _claim(self, words: dict[str, str], height: int) -> tuple[tuple[int, t.Digest], Any]:
        said, proof = words.get("prepared", ""), words.get("proof", "")
        if not said:
            return (0, t.ZERO_DIGEST), ()
        round_, name = said.split(":")
        known = block_id(self._blocks[name].header)
        prepare = t.Prepare(0, height, int(words.get("proved", round_)), known)
        return (int(round_) + 1, known), tuple(signed(int(by), prepare) for by in proof.split(",") if by)

    def _audit(self, *who: str) -> None:
        records: list[t.Message] = []
        for place in self._places(who):
            actor = self.actors[place]
            entries = (event.message for event in actor.wal if isinstance(event, t.Received))
            records += [*actor.kept, *entries, *map(t.DecidedMessage, actor.store)]
        for each in self._culprits(recoverer(DOMAIN), records):
            self._tell(f"named: member {IDS.index(each.signer)}, {each.kind.name}")
        if not self._lines:
            self._tell("nobody is named")

    def _places(self, who: Iterable[str]) -> list[int]:
        who = list(who)
        return list(range(len(self.actors))) if who in (["all"], []) else [int(each) for each in who]

    # What follows.

    def _tell(self, line: str) -> None:
        self._lines.append(line)

    def _step(self, place: int, event: t.Event) -> None:
        actor = self.actors[place]
        if actor.alive:
            self._perform(place, actor.replica.step(event))

    def _perform(self, place: int, effects: list[t.Effect]) -> None:
        """Effects in their order; the application's answers and the own votes after them."""
        actor = self.actors[place]
        after: list[t.Event] = []
        for effect in effects:
            match effect:
                case t.Persist(event=event):
                    actor.wal.append(event)
                case t.Sign(message=message):
                    after += self._sign(place, message)
                case t.Send(to=to, message=message):
                    if isinstance(message, t.FetchBlock | t.DecidedMessage | t.BlockMessage):
                        self._tell(f"member {place} to {self._peer(to)}: {self._brief(message)}")
                    self._send(place, to, message)
                case t.EnteredRound(height=height, round=round_):
                    self._tell(f"member {place} enters height {height} round {round_}")
                case t.Build(height, round_, _, parent_id, log_root):
                    block = self._made(place, height, parent_id, log_root, f"{place} {round_}")
                    self._blocks[self._fresh_name()] = block
                    after.append(t.Built(height, round_, block))
                case t.Validate(height, round_, block, fresh):
                    how = "fresh" if fresh else "again"
                    self._tell(f"member {place} asks about {self._name(block)}, {how}: {actor.answer}")
                    if actor.answer != "late":
                        valid = actor.answer == "yes"
                        after.append(t.Validated(height, round_, block_id(block.header), valid))
                case t.Decide(decided=decided):
                    self._decide(place, decided)
                case t.Behind(peer=peer, height=height):
                    self._tell(f"member {place} is behind {IDS.index(peer)}, who is at height {height}")
                case t.Fault(peer=peer, reason=reason, pair=pair):
                    proof = (
                        "" if pair is None else f" ({' and '.join(self._vote(each.vote) for each in pair)})"
                    )
                    self._tell(f"member {place} blames {IDS.index(peer)}: {reason}{proof}")
        for event in after:
            self._step(place, event)

    def _sign(self, place: int, message: Any) -> list[t.Event]:
        unsigned = signed_vote(message)
        assert unsigned is not None
        if NAMES[type(message)] in self.actors[place].refused:
            self._tell(f"member {place} may not sign {self._vote(unsigned.vote)}")
            return []
        filled = with_signature(message, sign(place, unsigned.vote), b"ballot")
        self._tell(f"member {place}: {self._brief(filled)}")
        self._send(place, None, filled)
        return [t.Received(IDS[place], filled)]

    def _send(self, place: int, to: t.MemberId | None, message: t.Message) -> None:
        peers = [peer for peer in range(len(self.actors)) if peer != place and to in (None, IDS[peer])]
        self._road += ((place, peer, message) for peer in peers)

    def _decide(self, place: int, decided: t.DecidedBlock) -> None:
        count, round_ = len(decided.certificate.signatures), decided.certificate.round
        name = self._name(decided.block)
        self._tell(f"member {place} decides {name}: {count} COMMITs of round {round_}")
        signing_ids = check_certificate(
            recoverer(DOMAIN), self.committee, decided.block.header, decided.certificate
        )
        assert len(signing_ids) == count
        actor = self.actors[place]
        actor.kept += (event.message for event in actor.wal if isinstance(event, t.Received))
        actor.wal.clear()
        actor.store.append(decided)

    def _made(self, by: int, height: int, parent_id: t.Digest, log_root: t.Digest, body: str) -> t.Block:
        header = t.Header(
            version=chain.HEADER_VERSION,
            network_id=NETWORK,
            group_id=DOMAIN.group_id,
            epoch=0,
            height=height,
            parent_id=parent_id,
            proposer=IDS[by],
            time_ms=1000 * (height + 1),
            app_root=keccak256(body.encode()),
            log_root=log_root,
            next_committee_root=self.committee.root(),
        )
        return t.Block(header, body.encode())

    # Names.

    def _fresh_name(self) -> str:
        return next(letter for letter in string.ascii_uppercase if letter not in self._blocks)

    def _name(self, block: t.Block) -> str:
        return self._name_of(block_id(block.header))

    def _name_of(self, known: t.Digest) -> str:
        return next((n for n, each in self._blocks.items() if block_id(each.header) == known), "?")

    def _vote(self, vote: t.Vote) -> str:
        match vote:
            case t.RoundChange(round=round_, prepared_round_plus_1=0):
                return f"ROUND-CHANGE to {round_}, nothing prepared"
            case t.RoundChange(round=round_, prepared_round_plus_1=plus_1, prepared_block_id=known):
                return f"ROUND-CHANGE to {round_}, {self._name_of(known)} prepared in {plus_1 - 1}"
            case _:
                return f"{type(vote).__name__.upper()} {self._name_of(vote.block_id)} in round {vote.round}"

    def _brief(self, message: t.Message) -> str:
        vote = signed_vote(message)
        match message:
            case t.Proposal(justification=changes, prepared=prepared) if vote and changes:
                return (
                    f"{self._vote(vote.vote)}, by {len(changes)} ROUND-CHANGEs and {len(prepared)} PREPAREs"
                )
            case t.RoundChangeMessage(prepared=prepared) if vote and prepared:
                return f"{self._vote(vote.vote)}, by {len(prepared)} PREPAREs"
            case t.DecidedMessage(decided=decided):
                return f"{self._name(decided.block)} is decided"
            case t.FetchBlock(block_id=known):
                return (
                    "is this height decided?" if known == t.ZERO_DIGEST else f"give me {self._name_of(known)}"
                )
            case t.BlockMessage(block=block):
                return f"here is {self._name(block)}"
            case _:
                assert vote is not None
                return self._vote(vote.vote)

    def _peer(self, to: t.MemberId | None) -> str:
        return "all" if to is None else f"member {IDS.index(to)}"


def _spoilt(message: Any, me: int, how: str) -> t.Message:
    """The same vote with a signature that nobody may accept."""
    unsigned = signed_vote(message)
    assert unsigned is not None
    signature = unsigned.signature
    match how:
        case "high-s":  # Also a solution of the equation, hence a second signature of the same vote.
            high = ORDER - int.from_bytes(signature[32:64], "big")
            signature = signature[:32] + high.to_bytes(32, "big") + bytes([55 - signature[64]])
        case "v-of-0":
            signature = signature[:64] + bytes([signature[64] - 27])
        case _:
            signature = sign(
                me, unsigned.vote, replace(DOMAIN, group_id=t.Digest(b"another group".rjust(32)))
            )
    return with_signature(message, signature)
