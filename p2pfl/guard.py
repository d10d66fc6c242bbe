"""The signer that never contradicts itself (docs/protocol.md, Durability).

Before a guarded signature leaves, the record that makes it non-contradictable is on disk. The same bytes
again return the stored signature; anything that could be an offence E1 to E6 beside a stored one is
refused, restarts included. Knows the signed structs by their EIP-712 type string only; which of them makes
sense now is for the core and the rounds.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from coincurve import PrivateKey

from consensus import codec, signing
from consensus.signing import Domain
from consensus.types import Digest, MemberId
from p2pfl import telemetry
from p2pfl.durable import Journal
from p2pfl.errors import UserError

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
_RECORD_BYTES_MAX = 4096

_DAMAGED = (
    "restore the guard from a copy made after the last signature; without one this key must sign nothing "
    "more in this epoch"
)


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
        if _kind(struct) in GUARDED:
            raise ValueError(f"a {_kind(struct)} is signed through the guard only")
        return signing.sign(self.secret, signing.signing_digest(domain, struct))


@dataclass(frozen=True, slots=True)
class _Identity:
    """The first record of a guard's journal. Nothing before (floor_epoch, floor_height) is signed."""

    version: int
    member: MemberId
    floor_epoch: int
    floor_height: int


@dataclass(frozen=True, slots=True)
class GuardRecord:
    """One signature. separator: the domain's; words: the struct's ABI words; digest: what was signed."""

    separator: Digest
    kind: str
    epoch: int
    height: int
    round: int
    digest: Digest
    words: bytes
    signature: bytes


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


class Guard:
    """A signing key and the journal of what it signed. Calls may come from several threads."""

    def __init__(
        self, path: Path, key: SigningKey, *, new_key: bool = False, lost_before_epoch: int = 0
    ) -> None:
        """Open the guard of `key` at `path`.

        new_key: the key has never signed anything, so a missing file is made. lost_before_epoch: the guard
        was lost; make a new one that signs nothing of an earlier epoch. Otherwise a missing file is refused.
        """
        self.key = key
        self.member_id = key.member_id
        self._lock = threading.Lock()
        self._heights: dict[tuple[Digest, int, int], _Height] = {}
        self._newest: dict[Digest, tuple[int, int]] = {}
        self._identity = _Identity(1, self.member_id, lost_before_epoch, 0)
        if path.exists():
            self._journal = self._open(path)
        elif new_key or lost_before_epoch:
            self._journal = Journal.create(path, codec.encode(self._identity))
        else:
            raise UserError(
                f"the guard {path} is missing",
                because="without it this key could sign against its own earlier votes, and lose its stake",
                fix="restore it from a copy; only if the key never signed anything: --set node.new_keys=true",
            )

    def _open(self, path: Path) -> Journal:
        def take(offset: int, payload: bytes) -> None:
            try:
                self._remember(codec.decode(payload, GuardRecord, size_max=_RECORD_BYTES_MAX))
            except codec.DecodeError as error:
                raise UserError(
                    f"{path} is damaged at byte {offset}",
                    because=f"not a record of a guard: {error}",
                    fix=_DAMAGED,
                ) from error

        journal = Journal.open(path, take, identity=None, fix=_DAMAGED)
        try:
            self._identity = _identity_of(journal, self.member_id)
        except UserError:
            journal.close()
            raise
        if journal.cut is not None:
            log.warning(
                "cut an interrupted record off the guard", offset=journal.cut.offset, bytes=journal.cut.length
            )
        return journal

    # -- what was signed ---------------------------------------------------

    def newest(self, domain: Domain) -> tuple[int, int] | None:
        """(epoch, height) of the newest guarded signature in this domain; None when there is none.

        A node whose WAL is gone signs nothing until its chain has reached beyond this height.
        """
        with self._lock:
            return self._newest.get(signing.separator(domain))

    def has_voted(self, domain: Domain, epoch: int, height: int) -> bool:
        """Whether a vote (not only a request or a commitment) was signed at this height."""
        with self._lock:
            kept = self._heights.get((signing.separator(domain), epoch, height))
            return kept is not None and any(kind in _IN_ORDER for kind, _ in kept.slots)

    def signed(
        self, domain: Domain, struct_type: type[T], epoch: int, height: int, round_: int = 0
    ) -> tuple[T, bytes] | None:
        """What was signed in this slot, with its signature: to send it again as it was. ParamTx: round 0."""
        with self._lock:
            kept = self._heights.get((signing.separator(domain), epoch, height))
            record = kept.slots.get((_kind_of_type(struct_type), round_)) if kept else None
        return None if record is None else (_struct_of(record.words, struct_type), record.signature)

    # -- signing -----------------------------------------------------------

    def sign(self, domain: Domain, struct: Any) -> bytes:
        """The 65-byte signature of a guarded struct, after its record is durable (one fsync).

        Raises Refused for what contradicts, or could contradict, an earlier signature.
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
                        self._remember(record)  # So that the next of this call is checked against it.
                        fresh.append(record)
                if fresh:
                    self._journal.append(*(codec.encode(record) for record in fresh))
            except BaseException as error:
                self._forget(fresh)
                if isinstance(error, Refused):
                    telemetry.counters.count("votes_refused")
                    log.warning("refused to sign", reason=str(error))
                raise
            telemetry.counters.count("votes_signed", len(fresh))
            self._prune()
            return signatures

    def sign_plain(self, domain: Domain, struct: Any) -> bytes:
        """Sign what needs no guard: Ballot, Measurement, Verdict and the like."""
        return self.key.sign_plain(domain, struct)

    def close(self) -> None:
        """Close the journal; nothing can be signed afterwards."""
        with self._lock:
            self._journal.close()

    def _consider(self, domain: Domain, struct: Any) -> tuple[bool, GuardRecord]:
        """(already stored, record), or Refused."""
        kind = _kind(struct)
        if kind not in GUARDED:
            raise ValueError(f"a {kind} is not guarded: use sign_plain")
        separator = signing.separator(domain)
        epoch, height, round_ = struct.epoch, struct.height, getattr(struct, "round", 0)
        digest = signing.signing_digest(domain, struct)
        here = self._heights.get((separator, epoch, height))
        stored = here.slots.get((kind, round_)) if here else None
        if stored is not None and stored.digest == digest:
            return True, stored

        def refuse(reason: str) -> Refused:
            return Refused(reason, kind, epoch, height, round_)

        if stored is not None:
            raise refuse("something else was signed in this place")
        if (epoch, height) < (self._identity.floor_epoch, self._identity.floor_height):
            raise refuse(f"the guard was lost; nothing is signed before epoch {self._identity.floor_epoch}")
        if (epoch, height) < self._newest.get(separator, (0, 0)):
            raise refuse(f"height {self._newest[separator][1]} was already voted on")
        words = signing.words(struct)
        if here is not None:
            _check_order(here, kind, round_, words, refuse)
        signature = signing.sign(self.key.secret, digest)
        return False, GuardRecord(separator, kind, epoch, height, round_, digest, words, signature)

    def _remember(self, record: GuardRecord) -> None:
        place = (record.separator, record.epoch, record.height)
        self._heights.setdefault(place, _Height({})).add(record)
        newest = (record.epoch, record.height)
        self._newest[record.separator] = max(newest, self._newest.get(record.separator, newest))

    def _forget(self, records: Sequence[GuardRecord]) -> None:
        """Take back what was not made durable: build the touched heights again without it."""
        lost = set(map(id, records))
        for separator in {record.separator for record in records}:
            kept = [
                record
                for (of, _, _), height in self._heights.items()
                if of == separator
                for record in height.slots.values()
                if id(record) not in lost
            ]
            self._heights = {
                place: height for place, height in self._heights.items() if place[0] != separator
            }
            self._newest.pop(separator, None)
            for record in kept:
                self._remember(record)

    def _prune(self) -> None:
        """Forget heights that nothing can be signed in any more; rewrite the journal when it has grown."""
        for separator in self._newest:
            own = sorted(place for place in self._heights if place[0] == separator)
            for place in own[:-_HEIGHTS_KEPT]:
                del self._heights[place]
        if self._journal.size_bytes > JOURNAL_BYTES_MAX:
            kept = [record for height in self._heights.values() for record in height.slots.values()]
            try:
                self._journal = self._journal.replace(
                    codec.encode(self._identity), [codec.encode(record) for record in kept]
                )
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


def _identity_of(journal: Journal, member: MemberId) -> _Identity:
    try:
        found: _Identity = codec.decode(journal.identity, _Identity, size_max=_RECORD_BYTES_MAX)
    except codec.DecodeError as error:
        raise UserError(f"{journal.path} is not a guard", because=str(error), fix=_DAMAGED) from error
    if found.member != member:
        raise UserError(
            f"{journal.path} guards another key",
            because=f"it belongs to 0x{found.member.hex()}, the signing key is 0x{member.hex()}",
            fix="put the guard beside the key that it was made with",
        )
    return found


def _kind(struct: Any) -> str:
    return _kind_of_type(type(struct))


def _kind_of_type(struct_type: Any) -> str:
    """The name that is hashed, not the class's: two classes of one type string are one kind."""
    return str(struct_type.TYPE).partition("(")[0]


def _struct_of(words: bytes, struct_type: type[T]) -> T:
    """The struct of these ABI words."""
    declared = str(struct_type.TYPE)  # type: ignore[attr-defined]
    kinds = [part.split(" ")[0] for part in declared[declared.index("(") + 1 : -1].split(",")]
    values: list[Any] = []
    for index, kind in enumerate(kinds):
        word = words[32 * index : 32 * index + 32]
        if kind.startswith(("uint", "int")):
            values.append(int.from_bytes(word, "big", signed=kind.startswith("int")))
        else:
            values.append(word if kind == "bytes32" else word[12:])
    assert len(values) == len(fields(struct_type))  # type: ignore[arg-type]
    return struct_type(*values)
