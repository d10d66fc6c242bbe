"""What a log tells people: each entry in words, and the story of the same core run over them again.

The core that is run here is the node's own (`consensus.replica`); nothing is signed, sent or written. What
was signed stands in the entries. Whether the log is sound says `wal_check`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from consensus import types as t
from consensus.chain import FIRST_HEIGHT, FIRST_PARENT_ID, Log
from consensus.replica import Replica
from consensus.signing import Domain, block_id
from consensus.types import DecidedBlock, Digest, MemberId
from consensus.votes import recoverer, signed_vote
from p2pfl.codec import DecodeError
from p2pfl.store.wal_check import Committees
from p2pfl.store.wal_file import Entry, by_height

Named = Callable[[MemberId], str]
# Whether the council closed the epoch before this one at this block.
Closed = Callable[[int, t.Header | None, Digest], bool]
_CALLED = {
    "Propose": "PROPOSE",
    "Prepare": "PREPARE",
    "Commit": "COMMIT",
    "RoundChange": "ROUND-CHANGE",
}


def short(digest: bytes) -> str:
    """Enough of a block id to tell it from another."""
    return "0x" + digest[:6].hex()


def called(vote: Any) -> str:
    """A vote in words: what, which round, which block."""
    told = f"{_CALLED[type(vote).__name__]} of round {vote.round}"
    if isinstance(vote, t.RoundChange):
        if not vote.prepared_round_plus_1:
            return f"{told}, nothing prepared"
        return f"{told}, prepared {short(vote.prepared_block_id)} in round {vote.prepared_round_plus_1 - 1}"
    return f"{told} for {short(vote.block_id)}"


def words(event: t.Event, named: Named) -> str:
    """An entry in one line."""
    match event:
        case t.Received(sender, message):
            signed = signed_vote(message)
            told = type(message).__name__ if signed is None else called(signed.vote)
            if isinstance(message, t.Proposal):
                told += f" of {named(message.block.header.proposer)}, {len(message.block.body)} bytes"
                if message.justification:
                    told += f", justified by {len(message.justification)} ROUND-CHANGEs"
                if message.prepared:
                    told += f" and {len(message.prepared)} PREPAREs"
            unsigned = ", to be signed" if signed is not None and not signed.signature else ""
            return f"{named(sender)}: {told}{unsigned}"
        case t.Elapsed(_, round_):
            return f"round {round_} is left"
        case t.Validated(_, round_, block, valid):
            return f"the application finds {short(block)} {'valid' if valid else 'invalid'} in round {round_}"
        case _:
            return type(event).__name__


def facts(entry: Entry, named: Named) -> dict[str, Any]:
    """An entry for programs."""
    found: dict[str, Any] = {
        "file": entry.path.name,
        "offset": entry.offset,
        "epoch": entry.epoch,
        "height": entry.height,
    }
    try:
        event = entry.event
    except DecodeError as error:
        return {**found, "kind": "unreadable", "because": str(error)}
    found["kind"] = type(event).__name__
    if isinstance(event, t.Received):
        signed = signed_vote(event.message)
        found |= {"by": named(event.sender), "kind": type(event.message).__name__}
        if signed is not None:
            found |= {"round": signed.vote.round, "signed": bool(signed.signature)}
            block = getattr(signed.vote, "block_id", None)
            found |= {} if block is None else {"block": "0x" + block.hex()}
    elif isinstance(event, t.Elapsed | t.Validated):
        found["round"] = event.round
    return found


class Story:
    """The same core, run again over the entries of a log.

    blocks: the chain as the node keeps it. committees, closed: what the council's chain says of epochs.
    """

    def __init__(
        self,
        blocks: Sequence[DecidedBlock],
        *,
        me: MemberId,
        domain: Domain,
        committees: Committees,
        named: Named,
        closed: Closed = lambda epoch, parent, parent_id: False,
    ) -> None:
        self._closed = closed
        self._blocks, self._me, self._domain = blocks, me, domain
        self._committees, self._named = committees, named
        self._recover = recoverer(domain)
        log = Log()
        self._log_roots = [log.root()]  # Before each block, and after the last.
        for decided in blocks:
            log.append(block_id(decided.block.header))
            self._log_roots.append(log.root())

    def tell(self, entries: tuple[Entry, ...]) -> Iterator[str]:
        """Line by line: every height that the entries speak of, and where the node stands in the end."""
        heights = list(by_height(entries))
        for own in heights:
            yield from self._height(own, last=own is heights[-1])
        if not heights:
            yield "the log holds no entry: the next start begins a height afresh"

    def _height(self, entries: tuple[Entry, ...], *, last: bool) -> Iterator[str]:
        epoch, height = entries[0].epoch, entries[0].height
        yield f"height {height}, epoch {epoch}: {len(entries)} entries"
        started, committee = self._started(epoch, height), self._committees(epoch)
        if committee is None or self._me not in committee:
            yield "  cannot be replayed: this node's committee of that epoch is not known here"
            return
        if started is None:
            yield f"  cannot be replayed: block {height - 1} is not in the chain's file"
            return
        try:
            events = [entry.event for entry in entries]
        except DecodeError as error:
            yield f"  cannot be replayed: {error}"
            return
        replica = self._replica(committee)
        yield from self._effects(replica.step(started))
        for event in events:
            yield from self._step(replica, event)
        decided = self._block(height)
        if decided is not None and decided.block.header.epoch != epoch:
            yield "  nothing came of it: the chain has a block of another epoch here"
        elif decided is not None:
            block = short(block_id(decided.block.header))
            yield f"  decided {block} in round {decided.certificate.round}, as the chain says"
        elif last:
            yield from self._stands(started, events, self._replica(committee))

    def _step(self, replica: Replica, event: t.Event) -> Iterator[str]:
        before = replica.prepared
        yield f"  {words(event, self._named)}"
        effects = replica.step(event)
        lock = replica.prepared
        if lock is not None and lock != before:
            yield f"    locked on {short(lock.block_id)} in round {lock.round}"
        yield from self._effects(effects)

    def _effects(self, effects: list[t.Effect]) -> Iterator[str]:
        for effect in effects:
            match effect:
                case t.EnteredRound(_, round_, proposer):
                    yield f"    round {round_} begins, {self._named(proposer)} leads"
                case t.Sign(message):
                    signed = signed_vote(message)
                    assert signed is not None
                    yield f"    asks for the signature of {called(signed.vote)}"
                case t.Fault(peer, reason):
                    yield f"    blames {self._named(peer)}: {reason}"
                case t.Decide(decided):
                    yield f"    decides {short(block_id(decided.block.header))}"
                case _:
                    pass

    def _stands(self, started: t.Started, events: list[t.Event], replica: Replica) -> Iterator[str]:
        """What a restart would do now."""
        effects = replica.restore(started, events)
        lock = replica.prepared
        held = "nothing" if lock is None else f"{short(lock.block_id)} of round {lock.round}"
        yield f"it stands at height {replica.height}, round {replica.round}, locked on {held}"
        for effect in effects:
            if isinstance(effect, t.Sign | t.Send):
                signed = signed_vote(effect.message)
                does = "sign" if isinstance(effect, t.Sign) else "send again"
                if signed is not None:
                    yield f"  a start would {does} {called(signed.vote)}"
            elif isinstance(effect, t.Build):
                yield f"  a start would build a block for round {effect.round}"
            elif isinstance(effect, t.Validate):
                yield f"  a start would ask whether {short(block_id(effect.block.header))} is valid"

    def _replica(self, committee: Any) -> Replica:
        return Replica(committee, self._me, self._domain, decided_at=self._block, recover=self._recover)

    def _block(self, height: int) -> DecidedBlock | None:
        index = height - FIRST_HEIGHT
        return self._blocks[index] if 0 <= index < len(self._blocks) else None

    def _started(self, epoch: int, height: int) -> t.Started | None:
        parent = self._block(height - 1)
        if parent is None and height != FIRST_HEIGHT:
            return None
        header = None if parent is None else parent.block.header
        known = FIRST_PARENT_ID if header is None else block_id(header)
        closed = self._closed(epoch, header, known)
        return t.Started(header, known, self._log_roots[height - FIRST_HEIGHT], closed)
