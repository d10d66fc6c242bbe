"""The copies of each chain in a directory, and the one history that they agree on.

Headers, certificates and roots are checked here, against the genesis file alone; bodies are judged by
`group_check` and `council_check`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from consensus.chain import History
from consensus.signing import block_id
from consensus.types import Certificate, DecidedBlock, Digest, Header
from consensus.votes import BadCertificate, verify_certificate
from p2pfl import codec, params
from p2pfl import genesis as genesis_file
from p2pfl.audit.report import Report
from p2pfl.errors import PeerFault, UserError
from p2pfl.genesis import COUNCIL, Genesis
from p2pfl.params import Base, Update
from p2pfl.records import CouncilBody, GroupBody, body_root, decode_body
from p2pfl.roster import Roster, UnknownEpoch
from p2pfl.store import BlockFile, Folder, Notes, node_folders
from p2pfl.store.blocks import identity
from p2pfl.store.index import Blocks

# Parsed blobs kept for the blocks around: a round of 16 updates and what it is compared with.
_PARSED_MAX = 48
# How often, and how long apart, a file that ends within a record is read again.
LOOKS, LOOK_AGAIN_S = 3, 0.1


class MissingBlob(Exception):
    """No node's folder has it. Not a fault: blobs are kept for a while only."""


@dataclass
class Chain:
    """The agreed history of one chain: blocks whose headers and certificates hold, and their bodies.

    bodies: None where no copy has a body that matches the header. roster: the epochs that the council's chain
    tells of (of a group's chain: as it was judged by).
    """

    name: str
    blocks: list[DecidedBlock] = field(default_factory=list[DecidedBlock])
    ids: list[Digest] = field(default_factory=list[Digest])
    bodies: list[Any] = field(default_factory=list[Any])
    roster: Roster | None = None

    @property
    def height(self) -> int:
        """Of the newest good block, -1 when there is none."""
        return len(self.blocks) - 1


class Blobs:
    """The blobs of all nodes' folders, each checked against its id when it is read."""

    def __init__(self, folders: dict[str, Folder], report: Report) -> None:
        self._folders = folders
        self._report = report
        self._bad: set[Path] = set()
        self.update: Callable[[Digest, tuple[int, ...]], Update] = lru_cache(_PARSED_MAX)(self._update)
        self.base: Callable[[Digest], Base] = lru_cache(_PARSED_MAX)(self._base)
        self.layout = params.Layout(())

    def raw(self, blob_id: Digest) -> bytes:
        """The bytes. Raises MissingBlob."""
        name = blob_id.hex()
        for node, folder in self._folders.items():
            path = folder.blobs / name[:2] / name
            try:
                if path.stat().st_size > params.BLOB_BYTES_MAX:
                    raise ValueError("it is longer than any blob")
                data = path.read_bytes()
                if params.blob_id(data) != blob_id:
                    raise ValueError("its bytes have changed")
                return data
            except FileNotFoundError:
                continue
            except (OSError, ValueError) as error:
                if path not in self._bad:
                    self._bad.add(path)
                    self._report.add("bad_blob", "blobs", -1, f"{name}: {error}", node)
        raise MissingBlob(f"a blob is not kept here{self._deleted}")

    @cached_property
    def _deleted(self) -> str:
        """That nodes have deleted old blobs, where they say so."""
        notes = [note for each in self._folders.values() for note in Notes(each.notes).read("retention")]
        epochs = [note["epochs_before"] for note in notes if isinstance(note.get("epochs_before"), int)]
        return f": those of epochs before {max(epochs)} were deleted" if epochs else ""

    def _update(self, blob_id: Digest, exponents: tuple[int, ...]) -> Update:
        return params.parse_update(self.raw(blob_id), self.layout, exponents)

    def _base(self, blob_id: Digest) -> Base:
        return params.parse_base(self.raw(blob_id), self.layout)


def load_genesis(path: Path, folders: dict[str, Folder]) -> Genesis:
    """The genesis file of the run directory, or of the first node in it."""
    for candidate in (path / "genesis.json", *(folder.genesis for folder in folders.values())):
        if candidate.exists():
            return genesis_file.load(candidate)
    raise UserError(
        f"{path} has no genesis file",
        because="without it nobody can say whose signatures count",
        fix="name your own copy: p2pfl audit verify DIR --genesis FILE",
    )


def read(path: Path, report: Report, genesis: Genesis | None) -> tuple[Genesis, dict[str, Chain], Blobs]:
    """Read every copy below `path` and agree on one history; what is wrong with a copy goes to the report."""
    folders = node_folders(path)
    trusted = genesis or load_genesis(path, folders)
    report.network = "0x" + trusted.network_id.hex()
    for node, folder in folders.items():
        if folder.genesis.exists() and genesis_file.load(folder.genesis).network_id != trusted.network_id:
            report.add("other_network", "genesis", -1, "its genesis file names another network", node)
    chains: dict[str, Chain] = {}
    # The council's chain says who decides the others' blocks.
    for name in (COUNCIL, *(group.name for group in trusted.groups)):
        copies: dict[str, BlockFile] = {}
        for node, folder in folders.items():
            if folder.chain(name).exists():
                copies[node] = _open(trusted, name, node, folder, report)
        if copies:
            report.copies += len(copies)
            chains[name] = _agree(trusted, name, copies, report, roster_of(trusted, chains))
            report.chains[name] = chains[name].height
    blobs = Blobs(folders, report)
    blobs.layout = trusted.task.layout
    return trusted, chains, blobs


def roster_of(genesis: Genesis, chains: Mapping[str, Chain]) -> Roster:
    """The epochs as far as the council's chain is here."""
    council = chains.get(COUNCIL)
    return Roster.of(genesis) if council is None or council.roster is None else council.roster


def _open(genesis: Genesis, name: str, node: str, folder: Folder, report: Report) -> BlockFile:
    file = BlockFile(folder.chain(name))
    for _ in range(LOOKS):
        if file.cut is None:
            break
        time.sleep(LOOK_AGAIN_S)  # A node that runs may be in the middle of an append.
        file = BlockFile(folder.chain(name))
    if file.damage is not None:
        at = f"at byte {file.damage.offset}: {file.damage.because}"
        report.add("damaged_file", name, len(file), at, node)
    elif file.identity != identity(genesis.network_id, genesis.group_id(name)):
        report.add("other_network", name, -1, f"{file.path.name} says that it is another chain's", node)
    if file.cut is not None:
        cut = f"at byte {file.cut.offset}, {file.cut.length} bytes of a record"
        report.add("truncated_file", name, len(file), cut, node)
    return file


def _agree(
    genesis: Genesis, name: str, copies: dict[str, BlockFile], report: Report, roster: Roster
) -> Chain:
    """The longest copy whose headers and certificates hold, and every other copy against it."""
    agreed = Chain(name, roster=roster)
    for node in sorted(copies, key=lambda each: -len(copies[each])):
        ids = _ids(name, node, copies[node], report)
        same = len(ids) <= len(agreed.ids) and ids == agreed.ids[: len(ids)]
        if same:
            _other_certificates(agreed, node, copies[node], report)
            continue
        found = _verified(genesis, name, node, copies[node], ids, report, roster)
        for height, (one, two) in enumerate(zip(agreed.ids, found.ids, strict=False)):
            if one != two:
                detail = f"certified are 0x{one.hex()} and 0x{two.hex()}"
                report.add("fork", name, height, detail, node)
                break
        if len(found.ids) > len(agreed.ids):
            agreed = found
    report.blocks += len(agreed.blocks)
    agreed.bodies = [_body(agreed, height, copies, report) for height in range(len(agreed.blocks))]
    return agreed


def _ids(name: str, node: str, file: BlockFile, report: Report) -> list[Digest]:
    """The ids of a copy's blocks, up to the first header that no contract could read."""
    ids: list[Digest] = []
    for decided in file:
        try:
            ids.append(block_id(decided.block.header))
        except ValueError as error:
            report.add("bad_block", name, len(ids), str(error), node)
            break
    return ids


def _verified(
    genesis: Genesis,
    name: str,
    node: str,
    file: BlockFile,
    ids: list[Digest],
    report: Report,
    roster: Roster,
) -> Chain:
    """The part of a copy whose headers and certificates hold, from the genesis committee on."""
    history = History(genesis.domain(name), genesis.network_id, genesis.committee(name))
    found = Chain(name, roster=roster)
    for decided, each in zip(file, ids, strict=False):
        header = decided.block.header
        try:
            committee, closed = roster.decides(name, header, tip=history.tip, tip_id=history.tip_id)
            history.append(header, decided.certificate, committee=committee, closed=closed)
        except (ValueError, UnknownEpoch) as error:
            reason = "bad_certificate" if isinstance(error, BadCertificate) else "bad_block"
            report.add(reason, name, header.height, str(error), node)
            break
        report.certificates += 1
        found.blocks.append(decided)
        found.ids.append(each)
        if name == COUNCIL:
            roster = found.roster = told(roster, decided)
    return found


def fold_roster(genesis: Genesis, council: Blocks | None) -> Roster:
    """The epochs that these blocks of the council tell of, taken as they are."""
    roster = Roster.of(genesis)
    for decided in council.iterate() if council is not None else ():
        roster = told(roster, decided)
    return roster


def told(roster: Roster, decided: DecidedBlock) -> Roster:
    """What this council block says of the epochs, if its body is the header's."""
    try:
        body: CouncilBody = decode_body(decided.block.body, CouncilBody)
        if body_root(body) != decided.block.header.app_root:
            return roster
        return roster.after(body.joins, body.closings, body.assignment, decided.block.header.time_ms)
    except (codec.DecodeError, ValueError, KeyError):
        return roster  # `_body` and `council_check` say what is wrong with it.


def _other_certificates(agreed: Chain, node: str, file: BlockFile, report: Report) -> None:
    """A copy of the same blocks: its certificates may be others, and must hold too."""
    for mine, theirs in zip(agreed.blocks, file, strict=False):
        if mine.certificate != theirs.certificate:
            header = theirs.block.header
            assert agreed.roster is not None
            why = certificate_objection(agreed.roster, agreed.name, header, theirs.certificate)
            report.certificates += 1
            if why is not None:
                report.add("bad_certificate", agreed.name, header.height, why, node)


def certificate_objection(roster: Roster, name: str, header: Header, certificate: Certificate) -> str | None:
    """Why this certificate does not decide this header; None if it does."""
    try:
        committee = roster.committee(name, header.epoch)
        verify_certificate(roster.genesis.domain(name), committee, header, certificate)
    except (ValueError, UnknownEpoch) as error:  # BadCertificate, or a field that no header can have.
        return str(error)
    return None


def _body(agreed: Chain, height: int, copies: dict[str, BlockFile], report: Report) -> Any:
    """The body under the header's root, from whichever copy has it; a copy that has another is reported."""
    good: bytes | None = None
    parsed: Any = None
    known_bad: set[bytes] = set()
    for node, file in copies.items():
        decided = file.get(height)
        if decided is None or decided.block.header != agreed.blocks[height].block.header:
            continue
        data = decided.block.body
        if data == good:
            continue
        why = None
        if data not in known_bad:
            kind = CouncilBody if agreed.name == COUNCIL else GroupBody
            try:
                found = decode_body(data, kind)
                if body_root(found) == decided.block.header.app_root:
                    good, parsed = data, found
                    continue
                why = "its root is not the header's"
            except (codec.DecodeError, PeerFault) as error:
                why = str(error)
            known_bad.add(data)
        report.add("bad_body", agreed.name, height, why or "as in another copy", node)
    return parsed
