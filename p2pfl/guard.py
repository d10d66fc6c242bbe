"""The signer that never contradicts itself (docs/consensus.md, Durability).

Before a guarded signature leaves, the record that makes it non-contradictable is on disk. The same bytes
again return the stored signature; anything that could be an offence E1 to E6 beside a stored one is
refused, restarts included. Knows the signed structs by their EIP-712 type string only; which of them makes
sense now is for the core and the rounds.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from coincurve import PrivateKey

from consensus import signing
from consensus.signing import Domain
from consensus.types import Digest, MemberId
from p2pfl import codec, telemetry
from p2pfl.durable import Journal
from p2pfl.errors import UserError
from p2pfl.guard_file import (
    DAMAGED,
    GUARD_VERSION,
    Floor,
    GuardRecord,
    Identity,
    decode_record,
    identity_of,
    kind_of,
    struct_of,
)

T = TypeVar("T")

log = telemetry.logger("guard")

# What may not be said twice in two ways. ParamTx has no round: one a height.
GUARDED = frozenset({"Propose", "Prepare", "Commit", "RoundChange", "ShareRequest", "ParamTx", "Close"})
# The votes whose round only grows in a height: an honest core leaves a round once and for all.
_IN_ORDER = frozenset({"Prepare", "Commit", "RoundChange"})
# About 2,000 votes of 400 bytes: a restart reads it in milliseconds.
JOURNAL_BYTES_MAX = 1024 * 1024
# The height that is voted on, and the one before it, for a peer that asks once more.
_HEIGHTS_KEPT = 2


class Refused(Exception):
    """The guard signs no such thing. A normal outcome: the vote is not sent, the node carries on."""

    def __init__(self, reason: str, kind: str, epoch: int, height: int, round_: int) -> None:
        super().__init__(f"{kind} of epoch {epoch}, height {height}, round {round_}: {reason}")
        self.reason = reason


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A secp256k1 key; its EVM address is the member id."""

    secret: PrivateKey

    @classmethod
    def from_secret(cls, secret: bytes) -> SigningKey:
        """The key of these 32 bytes. Raises ValueError when they are no key."""
        return cls(PrivateKey(secret))

    @property
    def member_id(self) -> MemberId:
        """20 bytes."""
        return signing.address(self.secret.public_key)

    def sign_plain(self, domain: Domain, struct: Any) -> bytes:
        """Sign what may be said twice (Ballot, Measurement, Verdict); guarded kinds raise ValueError."""
        if kind_of(type(struct)) in GUARDED:
            raise ValueError(f"a {kind_of(type(struct))} is signed through the guard only")
        return signing.sign(self.secret, signing.signing_digest(domain, struct))


@dataclass(slots=True)
class _Height:
    """What was signed in one (domain, epoch, height)."""

    slots: dict[tuple[str, int], GuardRecord]
    round: int = 0  # The highest round of a vote in order.
    committed: GuardRecord | None = None  # The Commit of the highest round.

    def add(self, record: GuardRecord) -> None:
        self.slots[record.kind, record.round] = record
        if record.kind in _IN_ORDER:
            self.round = max(self.round, record.round)
        if record.kind == "Commit" and (self.committed is None or record.round >= self.committed.round):
            self.committed = record


class _Memory:
    """What was signed, by (domain, epoch, height)."""

    def __init__(self, records: Iterable[GuardRecord] = ()) -> None:
        self.heights: dict[tuple[Digest, int, int], _Height] = {}
        self.newest: dict[Digest, tuple[int, int]] = {}
        for record in records:
            self.add(record)

    def add(self, record: GuardRecord) -> None:
        """Remember one signature."""
        place = (record.separator, record.epoch, record.height)
        self.heights.setdefault(place, _Height({})).add(record)
        newest = (record.epoch, record.height)
        self.newest[record.separator] = max(newest, self.newest.get(record.separator, newest))

    def records(self) -> list[GuardRecord]:
        """Everything."""
        return [record for height in self.heights.values() for record in height.slots.values()]

    def prune(self) -> None:
        """Forget heights that nothing can be signed in any more."""
        for separator in self.newest:
            own = sorted(place for place in self.heights if place[0] == separator)
            for place in own[:-_HEIGHTS_KEPT]:
                del self.heights[place]


class Guard:
    """A signing key and the journal of what it signed. Calls may come from several threads."""

    def __init__(
        self,
        path: Path,
        key: SigningKey,
        *,
        new_key: bool = False,
        lost_at_ms: int | None = None,
        clock_skew_ms: int = 0,
    ) -> None:
        """Open the guard of `key` at `path`.

        new_key: the key has never signed anything, so a missing file is made. lost_at_ms: the guard was
        found lost at this Unix time; the new one signs only in an epoch that began after that, by more than
        clock_skew_ms (see `begin_epoch`). Where a guard is, neither changes anything; where none is and
        neither is given, UserError.
        """
        self.key = key
        self.member_id = key.member_id
        self._lock = threading.Lock()
        self._skew_ms = clock_skew_ms
        self._memory = _Memory()
        self._identity = Identity(GUARD_VERSION, self.member_id, lost_at_ms or 0)
        if path.exists():
            self._journal = self._open(path)
        elif new_key or lost_at_ms:
            self._journal = Journal.create(path, codec.encode(self._identity))
        else:
            raise UserError(
                f"the guard {path} is missing",
                because="without it this key could sign against its own earlier votes, and lose its stake",
                fix="restore it from a copy; if it is lost for good: p2pfl node run --guard-lost (it signs "
                "from the next epoch on); only if the key never signed anything: --set node.new_keys=true",
            )
        if self._identity.lost_at_ms and self._identity.signs_from is None:
            log.warning("the guard of this key was lost", then=self._until())

    def _open(self, path: Path) -> Journal:
        journal = Journal.open(
            path,
            lambda offset, payload: self._memory.add(decode_record(path, offset, payload)),
            identity=None,
            fix=DAMAGED,
        )
        try:
            self._identity = identity_of(journal, self.member_id)
        except UserError:
            journal.close()
            raise
        if journal.cut is not None:
            log.warning(
                "cut an interrupted record off the guard", offset=journal.cut.offset, bytes=journal.cut.length
            )
        return journal

    # -- a lost guard --------------------------------------------------------

    def begin_epoch(self, epoch: int, began_ms: int) -> None:
        """This epoch is known to have begun then: the header time of the council block that ended the epoch
        before, or the genesis' start. A lost guard signs from the first epoch on that began after the loss.
        """
        with self._lock:
            found = self._identity
            late = began_ms > found.lost_at_ms + self._skew_ms
            if not found.lost_at_ms or found.signs_from is not None or not late:
                return
            self._identity = dataclasses.replace(found, signs_from=epoch)
            log.info("the guard that was lost before signs again", epoch=epoch)
            try:
                self._rewrite(self._identity, self._memory)
            except UserError as error:  # A restart is told of the epoch again.
                log.warning("the guard could not write down that it signs again", error=str(error))

    def silence(self, epoch: int) -> str | None:
        """Why nothing of this epoch is signed; None when it may be."""
        found = self._identity
        if not found.lost_at_ms or (found.signs_from is not None and epoch >= found.signs_from):
            return None
        return f"the guard was lost: {self._until()}"

    def _until(self) -> str:
        found = self._identity
        if found.signs_from is not None:
            return f"it signs from epoch {found.signs_from} on"
        moment_s = (found.lost_at_ms + self._skew_ms) / 1000
        word = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(moment_s))
        return f"it signs from the first epoch on that begins after {word}"

    # -- what was signed ---------------------------------------------------

    def newest(self, domain: Domain) -> tuple[int, int] | None:
        """(epoch, height) of the newest guarded signature in this domain; None when there is none.

        A node whose WAL is gone signs nothing until its chain has reached beyond this height.
        """
        separator = signing.separator(domain)
        with self._lock:
            known = [self._memory.newest.get(separator), self._floor(separator)]
            return max((place for place in known if place is not None), default=None)

    def has_voted(self, domain: Domain, epoch: int, height: int) -> bool:
        """Whether a vote (not only a request or a commitment) was signed at this height, or may have been."""
        separator = signing.separator(domain)
        with self._lock:
            floor = self._floor(separator)
            kept = self._memory.heights.get((separator, epoch, height))
            voted = kept is not None and any(kind in _IN_ORDER for kind, _ in kept.slots)
            return voted or (floor is not None and (epoch, height) <= floor)

    def signed(
        self, domain: Domain, struct_type: type[T], epoch: int, height: int, round_: int = 0
    ) -> tuple[T, bytes] | None:
        """What was signed in this slot, with its signature: to send it again as it was. ParamTx: round 0."""
        with self._lock:
            kept = self._memory.heights.get((signing.separator(domain), epoch, height))
            record = kept.slots.get((kind_of(struct_type), round_)) if kept else None
        return None if record is None else (struct_of(record.words, struct_type), record.signature)

    def content(self) -> tuple[Identity, tuple[GuardRecord, ...]]:
        """Everything that this guard knows, for `interchange`."""
        with self._lock:
            return self._identity, tuple(self._memory.records())

    def absorb(self, other: Identity, records: Sequence[GuardRecord]) -> list[GuardRecord]:
        """Know from now on, durably, what another guard of this key knows, and never less than before.

        Returns the records that contradict this guard's: where a key has signed twice, the height is closed.
        """
        with self._lock:
            memory = _Memory(self._memory.records())
            floors = {floor.separator: (floor.epoch, floor.height) for floor in self._identity.floors}
            closed = [(floor.separator, floor.epoch, floor.height) for floor in other.floors]
            clashes: list[GuardRecord] = []
            for record in records:
                here = memory.heights.get((record.separator, record.epoch, record.height))
                stored = here.slots.get((record.kind, record.round)) if here else None
                if stored is None:
                    memory.add(record)
                elif stored.digest != record.digest:
                    clashes.append(record)
                    closed.append((record.separator, record.epoch, record.height))
            for separator, *place in closed:
                floors[separator] = max((place[0], place[1]), floors.get(separator, (place[0], place[1])))
            memory.prune()
            lost = max(self._identity, other, key=lambda each: (each.lost_at_ms, each.signs_from or 0))
            made = tuple(Floor(separator, *place) for separator, place in sorted(floors.items()))
            self._rewrite(
                Identity(GUARD_VERSION, self.member_id, lost.lost_at_ms, lost.signs_from, made), memory
            )
            return clashes

    def _rewrite(self, identity: Identity, memory: _Memory) -> None:
        """Replace the file as a whole; what is remembered changes with it, or not at all."""
        self._journal = self._journal.replace(
            codec.encode(identity), [codec.encode(record) for record in memory.records()]
        )
        self._identity, self._memory = identity, memory

    def _floor(self, separator: Digest) -> tuple[int, int] | None:
        floors = (floor for floor in self._identity.floors if floor.separator == separator)
        return next(((floor.epoch, floor.height) for floor in floors), None)

    # -- signing -----------------------------------------------------------

    def sign(self, domain: Domain, struct: Any) -> bytes:
        """The 65-byte signature of a guarded struct, after its record is durable (one fsync).

        Raises Refused for what contradicts, or could contradict, an earlier signature; UserError (DiskFull)
        when the record cannot be kept: then nothing was signed.
        """
        return self.sign_many([(domain, struct)])[0]

    def sign_many(self, wanted: Sequence[tuple[Domain, Any]]) -> list[bytes]:
        """Sign several structs with one fsync. All or none: the first refusal raises, nothing is recorded."""
        with self._lock:
            fresh: list[GuardRecord] = []
            signatures: list[bytes] = []
            try:
                for domain, struct in wanted:
                    stored, record = self._consider(domain, struct)
                    signatures.append(record.signature)
                    if not stored:
                        self._memory.add(record)  # So that the next of this call is checked against it.
                        fresh.append(record)
                if fresh:
                    self._journal.append(*(codec.encode(record) for record in fresh))
            except BaseException as error:
                lost = set(map(id, fresh))  # Not durable: take it back.
                self._memory = _Memory(each for each in self._memory.records() if id(each) not in lost)
                if isinstance(error, Refused):
                    telemetry.counters.count("votes_refused")
                    log.warning("refused to sign", reason=str(error))
                raise
            telemetry.counters.count("votes_signed", len(fresh))
            self._memory.prune()
            self._compact()
            return signatures

    def sign_plain(self, domain: Domain, struct: Any) -> bytes:
        """Sign what needs no guard: Ballot, Measurement, Verdict. A lost guard refuses them too."""
        epoch: int | None = getattr(struct, "epoch", None)
        silence = None if epoch is None else self.silence(epoch)
        if epoch is not None and silence is not None:
            raise Refused(silence, kind_of(type(struct)), epoch, getattr(struct, "height", 0), 0)
        return self.key.sign_plain(domain, struct)

    def close(self) -> None:
        """Close the journal; nothing can be signed afterwards."""
        with self._lock:
            self._journal.close()

    def _consider(self, domain: Domain, struct: Any) -> tuple[bool, GuardRecord]:
        """(already stored, record), or Refused."""
        kind = kind_of(type(struct))
        if kind not in GUARDED:
            raise ValueError(f"a {kind} is not guarded: use sign_plain")
        separator = signing.separator(domain)
        epoch, height, round_ = struct.epoch, struct.height, getattr(struct, "round", 0)

        def refuse(reason: str) -> Refused:
            return Refused(reason, kind, epoch, height, round_)

        silence = self.silence(epoch)
        if silence is not None:
            raise refuse(silence)
        digest = signing.signing_digest(domain, struct)
        here = self._memory.heights.get((separator, epoch, height))
        stored = here.slots.get((kind, round_)) if here else None
        if stored is not None and stored.digest == digest:
            return True, stored
        if stored is not None:
            raise refuse("something else was signed in this place")
        newest, floor = self._memory.newest.get(separator, (0, 0)), self._floor(separator)
        if floor is not None and (epoch, height) <= floor:
            raise refuse(f"all up to epoch {floor[0]}, height {floor[1]} may have been signed elsewhere")
        if (epoch, height) < newest:
            raise refuse(f"height {newest[1]} was already voted on")
        words = signing.words(struct)
        if here is not None:
            _check_order(here, kind, round_, words, refuse)
        signature = signing.sign(self.key.secret, digest)
        return False, GuardRecord(separator, kind, epoch, height, round_, digest, words, signature)

    def _compact(self) -> None:
        """Rewrite the journal when it has grown."""
        if self._journal.size_bytes > JOURNAL_BYTES_MAX:
            try:
                self._rewrite(self._identity, self._memory)
            except UserError as error:  # The old journal is whole and open: carry on.
                log.warning("the guard could not be compacted", error=str(error))


def _check_order(
    here: _Height, kind: str, round_: int, words: bytes, refuse: Callable[[str], Refused]
) -> None:
    """Votes of one height that would contradict one another, or come from a core that lost its way."""
    if kind in _IN_ORDER and round_ < here.round:
        raise refuse(f"that round was left; round {here.round} was already voted on")
    if kind == "RoundChange" and here.committed is not None:
        prepared = int.from_bytes(words[3 * 32 : 4 * 32], "big") - 1
        committed = here.committed
        same_block = words[4 * 32 : 5 * 32] == committed.words[3 * 32 : 4 * 32]
        if prepared < committed.round or (prepared == committed.round and not same_block):
            raise refuse(f"it claims less than the own Commit of round {committed.round} (E5)")
