"""Did anybody sign two things that contradict each other? Read from every file that a run left.

    guard     what each node signed itself
    wal       what each node received: the others' votes, as they came
    chain     the COMMITs in the certificates

Reads only; knows no running process. What a contradiction is, is known to `consensus.evidence`.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

from consensus import types as ct
from consensus.evidence import contradiction
from consensus.signing import BadSignature, Domain, block_id, recover, separator, signing_digest
from consensus.types import MemberId
from p2pfl import codec
from p2pfl.durable import scan
from p2pfl.errors import UserError
from p2pfl.genesis import Genesis
from p2pfl.keys import GuardRecord
from p2pfl.store import BlockFile, Folder, wal_file

VOTES: dict[str, type[Any]] = {
    "Propose": ct.Propose,
    "Prepare": ct.Prepare,
    "Commit": ct.Commit,
    "RoundChange": ct.RoundChange,
}
# Who, in which group: and what was signed there, by height.
Said = dict[tuple[str, MemberId], dict[int, set[Any]]]


# Who, what kind, in which place: and the digests that were signed there.
Slots = dict[tuple[Any, ...], set[bytes]]


def contradictions(genesis: Genesis, folders: dict[str, Folder], *, but: tuple[str, ...]) -> list[str]:
    """A sentence for each pair that no honest member signs both. but: names whose word does not count."""
    said: Said = defaultdict(lambda: defaultdict(set))
    slots: Slots = defaultdict(set)
    for name, folder in folders.items():
        for group, member, vote in votes_of(genesis, name, folder, slots):
            said[group, member][vote.height].add(vote)
    return compared(genesis, said, slots, but=but)


def compared(genesis: Genesis, said: Said, slots: Slots, *, but: tuple[str, ...] = ()) -> list[str]:
    """The sentences, of what was gathered from wherever."""
    found: list[str] = []
    for (group, member), heights in said.items():
        name = genesis.member(member).name
        for height, votes in sorted(heights.items()):
            for a, b in combinations(sorted(votes, key=repr), 2):
                kind = contradiction(a, b)
                if kind is not None and name not in but:
                    found.append(f"{name} signed against itself in {group} at height {height}: {kind.name}")
    for (name, kind, height, *_), digests in slots.items():
        if len(digests) > 1 and name not in but:
            found.append(f"{name} signed two {kind} of height {height}")
    return sorted(set(found))


def last_commit_height(folder: Folder) -> int:
    """The highest height of a COMMIT that this node's guard has let out; -1 without one."""
    return max((record.height for record in guarded(folder.guard) if record.kind == "Commit"), default=-1)


def votes_of(
    genesis: Genesis, name: str, folder: Folder, slots: Slots
) -> Iterator[tuple[str, MemberId, Any]]:
    """(group, signer, vote) of each signature in one folder; requests and the like go into the slots."""
    entry = next(e for g in (*genesis.groups, genesis.council) for e in g.members if e.name == name)
    groups = {separator(genesis.domain(group)): group for group in genesis.group_names.values()}
    for record in guarded(folder.guard):
        place = (record.epoch, record.separator, record.round)
        slots[name, record.kind, record.height, *place].add(record.digest)
        if record.kind in VOTES:
            yield groups[record.separator], entry.member_id, vote_of(record.words, VOTES[record.kind])
    for group in genesis.group_names.values():
        domain = genesis.domain(group)
        for signed in _received(folder.wal(group)):
            signer = _signer(genesis, domain, signed.vote, signed.signature)
            if signer is not None:
                yield group, signer, signed.vote
        yield from _certified(genesis, group, folder.chain(group))


def guarded(path: Path) -> list[GuardRecord]:
    """What a guard's journal holds, in the order in which it was signed."""
    found: list[GuardRecord] = []
    if path.exists():
        scan(path, lambda _, payload: found.append(codec.decode(payload, GuardRecord, size_max=len(payload))))
    return found


def _received(path: Path) -> Iterator[Any]:
    """The signed votes in a WAL and the files of decided heights beside it, those in justifications too."""
    for each in (*(segment.path for segment in wal_file.segments(path)), path):
        if each.exists():
            for entry in wal_file.read(each).entries:
                yield from _signed_votes(entry.event)


def _signed_votes(value: Any) -> Iterator[Any]:
    if isinstance(value, tuple):
        for each in value:
            yield from _signed_votes(each)
    elif dataclasses.is_dataclass(value):
        if hasattr(value, "vote") and hasattr(value, "signature"):
            yield value
            return
        for each in dataclasses.fields(value):
            yield from _signed_votes(getattr(value, each.name))


def _certified(genesis: Genesis, group: str, path: Path) -> Iterator[tuple[str, MemberId, ct.Commit]]:
    if not path.exists():
        return
    for decided in BlockFile(path):
        header = decided.block.header
        commit = ct.Commit(header.epoch, header.height, decided.certificate.round, block_id(header))
        for signature in decided.certificate.signatures:
            signer = _signer(genesis, genesis.domain(group), commit, signature)
            if signer is not None:
                yield group, signer, commit


def _signer(genesis: Genesis, domain: Domain, vote: Any, signature: bytes) -> MemberId | None:
    """Who signed this, if it is somebody of this network."""
    try:
        signer = recover(signing_digest(domain, vote), signature)
        genesis.member(signer)
    except (BadSignature, ValueError, KeyError):
        return None
    return signer


def vote_of(words: bytes, kind: type[Any]) -> Any:
    """A vote from its ABI words: every field is a number or a digest."""
    values: list[Any] = []
    for index, each in enumerate(dataclasses.fields(kind)):
        word = words[32 * index : 32 * index + 32]
        values.append(int.from_bytes(word, "big") if each.type == "int" else word)
    return kind(*values)


def tip_height(folder: Folder, group: str) -> int:
    """The height of the last block of this chain that the node keeps; -1 without one."""
    try:
        return BlockFile(folder.chain(group)).tip_height
    except UserError:
        return -1
