"""One height in lockstep: a leader, a partition and who gets the COMMITs are chosen for each round.

What a partition stops is lost; nothing is sent again. All blocks are good.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from consensus import chain
from consensus import types as t
from consensus.committee import Committee
from consensus.evidence import contradiction
from consensus.replica import Replica
from consensus.signing import block_id
from consensus.votes import signed_vote, with_signature
from tests.sim.member import DOMAIN, NETWORK
from tests.sim.notary import Notary

STARTED = t.Started(None, chain.FIRST_PARENT_ID, chain.Log().root())
# The healed time: each of four members leads once, the twins too; and once more, since the first may be spent
# on meeting each other.
HEALED_ROUNDS = 5
# A round of the largest stage needs far fewer; a core that never comes to rest has a bug.
MESSAGES_MAX = 20_000


@dataclass(frozen=True, slots=True)
class Turns(Committee):
    """The leader of each round is chosen; afterwards it rotates."""

    turns: tuple[int, ...] = ()

    def proposer(self, height: int, round_: int) -> t.MemberId:
        """Whose turn it was said to be."""
        return self.members[self.turns[round_] if round_ < len(self.turns) else round_ % self.size]


class Act(NamedTuple):
    """One round. leader: a member. sides: of each process. commits: the processes that get COMMITs."""

    leader: int
    sides: tuple[int, ...]
    commits: frozenset[int]


class Broken(Exception):
    """What must never happen has happened: the oracle's name, and how."""

    def __init__(self, oracle: str, what: str) -> None:
        super().__init__(f"{oracle}: {what}")
        self.oracle = oracle


class Stage:
    """Processes 0 to n-1 are the members; process n+i is the twin of member `twins[i]`."""

    def __init__(
        self, n: int, twins: tuple[int, ...], turns: Iterable[int], replica: type[Replica] = Replica
    ) -> None:
        members = tuple(t.MemberId(bytes([i + 1]) * 20) for i in range(n))
        self.committee = Turns(0, members, tuple(turns))
        self.notary = Notary()
        self.who = (*range(n), *twins)  # The member of each process.
        self.honest = [place for place, member in enumerate(self.who) if member not in twins]
        self.ids = [members[member] for member in self.who]
        self.replicas = [self._replica(replica, place) for place in range(len(self.ids))]
        self.decided: dict[int, t.DecidedBlock] = {}
        self.names: dict[
            t.Digest, tuple[int, int]
        ] = {}  # Each block: the round and the process it comes from.
        self.committed = False  # Somebody wanted to send a COMMIT in this round.
        self._said: dict[int, dict[t.Vote, None]] = {place: {} for place in self.honest}
        self._queue: deque[tuple[int, t.Event]] = deque()
        self._passes: Callable[[int, int, t.Message], bool] = lambda sender, to, message: True

    def _replica(self, replica: type[Replica], place: int) -> Replica:
        return replica(
            self.committee,
            self.ids[place],
            DOMAIN,
            decided_at=lambda height: self.decided.get(place) if height == 0 else None,
            recover=self.notary.recover,
        )

    # Rounds.

    def act(self, round_: int, act: Act) -> None:
        """Play one round until nothing moves."""
        self.committed = False

        def passes(sender: int, to: int, message: t.Message) -> bool:
            if isinstance(message, t.CommitMessage):
                self.committed = True
                return act.sides[sender] == act.sides[to] and to in act.commits
            return act.sides[sender] == act.sides[to]

        self._play(round_, passes)

    def heal(self, round_: int) -> None:
        """Everybody hears everybody, what was said last is said again; all honest ones have to decide."""
        for place in range(len(self.who)):
            self._queue.append((place, t.Resend()))
        self._passes = lambda sender, to, message: True
        self._run()
        for later in range(round_, round_ + HEALED_ROUNDS):
            if all(place in self.decided for place in self.honest):
                return
            self._play(later, lambda sender, to, message: True)
        late = [place for place in self.honest if place not in self.decided]
        if late:
            raise Broken("progress", f"members {late} have not decided")

    def _play(self, round_: int, passes: Callable[[int, int, t.Message], bool]) -> None:
        self._passes = passes
        for place in range(len(self.who)):
            self._queue.append((place, t.Elapsed(0, round_ - 1) if round_ else STARTED))
        self._run()

    def _run(self) -> None:
        steps = 0
        while self._queue:
            place, event = self._queue.popleft()
            self._perform(place, self.replicas[place].step(event))
            steps += 1
            if steps > MESSAGES_MAX:
                raise Broken("bounds", "the round does not come to rest")

    def _perform(self, place: int, effects: list[t.Effect]) -> None:
        for effect in effects:
            match effect:
                case t.Sign(message=message):
                    self._sign(place, message)
                case t.Send(to=to, message=message):
                    self._send(place, to, message)
                case t.Build():
                    block = self._block(place, effect)
                    self._queue.append((place, t.Built(0, effect.round, block)))
                case t.Validate(block=block):
                    known = block_id(block.header)
                    self._queue.append((place, t.Validated(0, effect.round, known, True)))
                case t.Decide(decided=decided):
                    self._decide(place, decided)
                case t.Fault(peer=peer, pair=pair) if pair is not None and peer in self._honest_ids():
                    raise Broken("blame", f"honest {peer[0] - 1} is accused: {pair}")
                case _:
                    pass

    def _sign(self, place: int, message: Any) -> None:
        signed = signed_vote(message)
        assert signed is not None
        if place in self._said:
            for other in self._said[place]:
                if contradiction(other, signed.vote) is not None:
                    raise Broken("offence", f"honest {place} signs {other} and {signed.vote}")
            self._said[place][signed.vote] = None
        filled = with_signature(message, self.notary.sign(self.ids[place], signed.vote))
        # Its own vote comes first: a driver hands it back before anything else.
        self._queue.appendleft((place, t.Received(self.ids[place], filled)))
        self._send(place, None, filled)

    def _send(self, place: int, to: t.MemberId | None, message: t.Message) -> None:
        for other, member in enumerate(self.ids):
            if member != self.ids[place] and to in (None, member) and self._passes(place, other, message):
                self._queue.append((other, t.Received(self.ids[place], message)))

    def _block(self, place: int, ask: t.Build) -> t.Block:
        header = t.Header(
            version=chain.HEADER_VERSION,
            network_id=NETWORK,
            group_id=DOMAIN.group_id,
            epoch=0,
            height=0,
            parent_id=ask.parent_id,
            proposer=self.ids[place],
            time_ms=1,
            app_root=t.Digest(bytes([place, ask.round]) * 16),
            log_root=ask.log_root,
            next_committee_root=self.committee.root(),
        )
        self.names[block_id(header)] = ask.round, place
        return t.Block(header, b"")

    def _decide(self, place: int, decided: t.DecidedBlock) -> None:
        self.decided[place] = decided
        if place in self._said:
            blocks = {
                block_id(self.decided[each].block.header) for each in self.honest if each in self.decided
            }
            if len(blocks) > 1:
                raise Broken("agreement", f"{[self.names.get(block) for block in blocks]} are decided")

    def _honest_ids(self) -> set[t.MemberId]:
        return {self.ids[place] for place in self.honest}

    # What later rounds can depend on.

    def print(self, names: tuple[int, ...]) -> tuple[Any, ...]:
        """Everything that the rest of the height can depend on, with process i called `names[i]`."""
        rows: list[Any] = [None] * len(self.who)
        for place, replica in enumerate(self.replicas):
            rows[names[place]] = tuple(self._row(place, replica, names))
        return tuple(rows)

    def _row(self, place: int, replica: Replica, names: tuple[int, ...]) -> Iterator[Any]:
        def block(known: t.Digest) -> tuple[int, int]:
            round_, process = self.names[known]
            return round_, names[process]

        decided = self.decided.get(place)
        if decided is not None:
            yield block(block_id(decided.block.header))
            return
        at, prepared = replica._at, replica.prepared
        yield prepared and (prepared.round, block(prepared.block_id))
        yield sorted(map(block, at.valid))
        # COMMITs that were heard may become a certificate later.
        commits: dict[tuple[int, tuple[int, int]], list[int]] = {}
        for round_ in range(replica.round + 1):
            for signer, signed in at.of(t.SignedCommit, round_).items():
                slot = commits.setdefault((round_, block(signed.vote.block_id)), [])
                slot.append(min(names[i] for i, member in enumerate(self.ids) if member == signer))
        yield sorted((key, sorted(signers)) for key, signers in commits.items())
