"""What a guard knows, as a file that moves with the key to another machine (the shape of EIP-3076).

    {"metadata": {"interchange_format_version": "1", "network_id": "0x..."},
     "data": [{"member": "0x...", "lost_at_ms": "0", "signs_from_epoch": null,
               "groups": [{"group_id": "0x...", "refused_up_to": {"epoch": "0", "height": "41"},
                           "highest_commit": {...}, "signed": [{"kind": "Commit", ...}, ...]}]}]}

A complete file lists signatures: the same may be repeated, everything else in their places is refused. A
minimal one names heights only: nothing is signed up to there. Numbers are decimal strings, as there: readers
of JSON lose digits above 2^53. Nothing in the file is secret; what it lists counts with its signature only.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from consensus import signing
from consensus import types as ct
from consensus.types import Digest, MemberId
from p2pfl import signed as structs
from p2pfl.errors import UserError
from p2pfl.genesis import Genesis
from p2pfl.guard_file import GUARD_VERSION, Floor, GuardRecord, Identity, kind_of, struct_of
from p2pfl.jsonform import from_json, loads, to_json

FORMAT_VERSION = "1"
# A guard's journal is at most 1 MiB; in hex, with names, a few times that.
FILE_BYTES_MAX = 16 * 1024 * 1024
_STRUCTS: dict[str, Any] = {
    kind_of(each): each
    for each in (
        *(ct.Propose, ct.Prepare, ct.Commit, ct.RoundChange),
        *(structs.ShareRequest, structs.ParamTx, structs.Close),
    )
}


@dataclass(frozen=True, slots=True)
class Metadata:
    """network_id: what EIP-3076 calls genesis_validators_root."""

    interchange_format_version: str
    network_id: bytes


@dataclass(frozen=True, slots=True)
class Place:
    """A height of an epoch."""

    epoch: str
    height: str


@dataclass(frozen=True, slots=True)
class HighestCommit:
    """The Commit of the highest round at the newest height: no ROUND-CHANGE may claim less."""

    epoch: str
    height: str
    round: str
    block_id: bytes


@dataclass(frozen=True, slots=True)
class SignedEntry:
    """One signature. kind: the step; words: the struct's ABI words; digest: what was signed."""

    kind: str
    epoch: str
    height: str
    round: str
    digest: bytes
    words: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class GroupEntry:
    """What was signed in one group. refused_up_to: nothing is signed at or below, whatever is listed."""

    group_id: bytes
    refused_up_to: Place | None
    highest_commit: HighestCommit | None
    signed: tuple[SignedEntry, ...]


@dataclass(frozen=True, slots=True)
class KeyEntry:
    """One key. lost_at_ms, signs_from_epoch: of a guard that was lost and made anew (0 and null: never)."""

    member: bytes
    lost_at_ms: str
    signs_from_epoch: str | None
    groups: tuple[GroupEntry, ...]


@dataclass(frozen=True, slots=True)
class Interchange:
    """The whole file."""

    metadata: Metadata
    data: tuple[KeyEntry, ...]


def export(
    genesis: Genesis, identity: Identity, signed: tuple[GuardRecord, ...], *, minimal: bool = False
) -> str:
    """The file of one guard's content. minimal: heights instead of signatures.

    Raises UserError when the guard has signed for a group that this genesis does not name.
    """
    names = {signing.separator(genesis.domain(name)): name for name in genesis.group_names.values()}
    floors = {floor.separator: (floor.epoch, floor.height) for floor in identity.floors}
    of_group: dict[Digest, list[GuardRecord]] = {separator: [] for separator in floors}
    for record in signed:
        of_group.setdefault(record.separator, []).append(record)
    groups: list[GroupEntry] = []
    for separator, own in of_group.items():
        if separator not in names:
            raise UserError(
                "the guard does not belong to this network",
                because="it holds signatures for a group that the genesis file does not name",
                fix="name the genesis file that the node runs with: --genesis FILE",
            )
        group_id, floor = genesis.group_id(names[separator]), floors.get(separator)
        if minimal:
            tops = [(record.epoch, record.height) for record in own] + ([floor] if floor else [])
            groups.append(GroupEntry(group_id, _place(max(tops)), None, ()))
        else:
            groups.append(GroupEntry(group_id, _place(floor), _highest(own), tuple(map(_entry, own))))
    signs_from = None if identity.signs_from is None else str(identity.signs_from)
    key = KeyEntry(identity.member, str(identity.lost_at_ms), signs_from, tuple(groups))
    whole = Interchange(Metadata(FORMAT_VERSION, genesis.network_id), (key,))
    return json.dumps(to_json(whole), indent=1) + "\n"


def read(path: Path, genesis: Genesis, member: MemberId) -> tuple[Identity, list[GuardRecord]]:
    """What the file says of this member's key in this network, every signature checked. Raises UserError."""
    whole = _parse(path)
    if whole.metadata.interchange_format_version != FORMAT_VERSION:
        raise _unusable(path, f"its version is {whole.metadata.interchange_format_version}")
    if whole.metadata.network_id != genesis.network_id:
        raise UserError(
            f"{path} is of another network",
            because=f"it says 0x{whole.metadata.network_id.hex()}, the genesis 0x{genesis.network_id.hex()}",
            fix="import the file of this network, or name its genesis file: --genesis FILE",
        )
    keys = [key for key in whole.data if key.member == member]
    if not keys:
        held = ", ".join("0x" + key.member.hex() for key in whole.data) or "no key at all"
        raise UserError(
            f"{path} is of another key",
            because=f"the signing key is 0x{member.hex()}; the file tells of {held}",
            fix="import the file that was exported beside this key",
        )
    try:
        return _content(genesis, member, keys)
    except ValueError as error:
        raise _unusable(path, str(error)) from error


# ---------------------------------------------------------------------------


def _parse(path: Path) -> Interchange:
    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise UserError(f"{path} cannot be read", because=str(error), fix="check the path") from error
    try:
        if len(data) > FILE_BYTES_MAX:
            raise ValueError(f"it is longer than {FILE_BYTES_MAX} bytes")
        return from_json(loads(data), Interchange)
    except ValueError as error:
        raise _unusable(path, str(error)) from error


def _unusable(path: Path, because: str) -> UserError:
    return UserError(
        f"{path} is no export of a guard that this release can use",
        because=because,
        fix="export it again: p2pfl keys guard export DIR FILE",
    )


def _content(genesis: Genesis, member: MemberId, keys: list[KeyEntry]) -> tuple[Identity, list[GuardRecord]]:
    floors: list[Floor] = []
    found: list[GuardRecord] = []
    for group in (group for key in keys for group in key.groups):
        if group.group_id not in genesis.group_names:
            raise ValueError(f"there is no group 0x{group.group_id.hex()} in this network")
        domain = genesis.domain(genesis.group_names[Digest(group.group_id)])
        separator = signing.separator(domain)
        if group.refused_up_to is not None:
            place = group.refused_up_to
            floors.append(Floor(separator, _number(place.epoch), _number(place.height)))
        own = [_record(domain, member, entry) for entry in group.signed]
        if group.highest_commit != _highest(own):
            raise ValueError("highest_commit is not the highest of those that are listed")
        found += own
    lost = max(keys, key=lambda key: _number(key.lost_at_ms))
    signs_from = None if lost.signs_from_epoch is None else _number(lost.signs_from_epoch)
    return Identity(GUARD_VERSION, member, _number(lost.lost_at_ms), signs_from, tuple(floors)), found


def _record(domain: signing.Domain, member: MemberId, entry: SignedEntry) -> GuardRecord:
    kind = _STRUCTS.get(entry.kind)
    if kind is None:
        raise ValueError(f"nothing that a guard signs is called {entry.kind!r}")
    if len(entry.words) != 32 * len(dataclasses.fields(kind)):
        raise ValueError(f"a {entry.kind} has {len(dataclasses.fields(kind))} words")
    struct = struct_of(entry.words, kind)
    place = (struct.epoch, struct.height, getattr(struct, "round", 0))
    said = tuple(map(_number, (entry.epoch, entry.height, entry.round)))
    digest = signing.signing_digest(domain, struct)
    if signing.words(struct) != entry.words or digest != entry.digest or place != said:
        raise ValueError(f"a {entry.kind} of height {entry.height} does not say what its words say")
    if signing.recover(digest, entry.signature) != member:
        raise ValueError(f"a {entry.kind} of height {entry.height} is not signed by this key")
    return GuardRecord(
        signing.separator(domain), entry.kind, *place, digest, bytes(entry.words), entry.signature
    )


def _entry(record: GuardRecord) -> SignedEntry:
    place = (str(record.epoch), str(record.height), str(record.round))
    return SignedEntry(record.kind, *place, record.digest, record.words, record.signature)


def _highest(own: list[GuardRecord]) -> HighestCommit | None:
    commits = [record for record in own if record.kind == "Commit"]
    if not commits:
        return None
    top = max(commits, key=lambda record: (record.epoch, record.height, record.round))
    return HighestCommit(str(top.epoch), str(top.height), str(top.round), top.words[3 * 32 : 4 * 32])


def _place(place: tuple[int, int] | None) -> Place | None:
    return None if place is None else Place(str(place[0]), str(place[1]))


def _number(text: str) -> int:
    """A uint64: what is longer could not be stored, and nobody could sign above it."""
    if not text.isascii() or not text.isdigit() or len(text) > 20 or int(text) >= 1 << 64:
        raise ValueError(f"{text!r} is no number of 64 bits")
    return int(text)
