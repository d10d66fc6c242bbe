"""What a run has left, read from files after the end: is it one history, and did anybody contradict itself?

    chains     every copy of each chain verifies (p2pfl.audit), is the same as the others', and holds what
               anybody ever said was decided
    sent       what left each node, whatever it forgot later: no pair is an offence, and each signature that
               left was in the signer's guard first
    files      guards, WALs and certificates, of folders that were wiped too: no pair is an offence
    logs       each WAL is what an honest node writes (p2pfl wal verify)

Knows no process and no fault.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from consensus.signing import block_id, separator
from p2pfl.audit.verify import verify
from p2pfl.cli import main as p2pfl
from p2pfl.errors import EXIT_OK, UserError
from p2pfl.genesis import COUNCIL, Genesis, load
from p2pfl.store import BlockFile, Folder, node_folders
from testnet import signatures
from testnet.signatures import VOTES, guarded, vote_of
from tests.live import sent
from tests.live.sent import Sent


@dataclass
class Left:
    """What a run has left. folders: everybody's. copies: folders as they were before they were wiped.

    decided: block ids that were said to be decided, by chain and height. guard_lost: from which of its lives
    on a member has another guard.
    """

    directory: Path
    genesis: Genesis
    folders: dict[str, Folder]
    copies: list[tuple[str, Folder]] = field(default_factory=list)
    decided: dict[tuple[str, int], set[str]] = field(default_factory=lambda: defaultdict(set))
    guard_lost: dict[str, int] = field(default_factory=dict)

    def sent_by(self, name: str) -> list[Sent]:
        """What left this node."""
        return sent.read(self.directory / "sent" / f"{name}.jsonl")


def left_in(directory: Path) -> Left:
    """All that from the files of one network (see `network`)."""
    left = Left(directory, load(directory / "genesis.json"), node_folders(directory))
    copies = directory / "copies"
    for copy in sorted(copies.iterdir()) if copies.is_dir() else ():
        left.copies.append((copy.name.partition(".")[0], Folder(copy)))
    for line in (directory / "events.jsonl").read_text(encoding="utf-8").splitlines():
        told = json.loads(line)
        if told["kind"] == "decided":
            left.decided[told["group"], told["height"]].add(told["block_id"])
        elif told["kind"] == "guard_lost":
            left.guard_lost[told["by"]] = told["life"]
    return left


def judge(left: Left) -> list[str]:
    """A sentence for whatever does not hold."""
    return [
        *audited(left),
        *identical(left),
        *without_offence(left),
        *guarded_first(left),
        *logs_sound(left),
    ]


def audited(left: Left) -> list[str]:
    """An auditor who trusts nobody finds nothing."""
    return [finding.render() for finding in verify(left.directory).findings]


def identical(left: Left) -> list[str]:
    """The copies of a chain differ in their length at most, and nothing decided was lost or replaced."""
    found: list[str] = []
    for chain in sorted({COUNCIL, *(group for group, _ in left.decided)}):
        ids: dict[int, set[str]] = defaultdict(set)
        for name, folder in left.folders.items():
            try:
                for decided in BlockFile(folder.chain(chain)) if folder.chain(chain).exists() else ():
                    ids[decided.block.header.height].add("0x" + block_id(decided.block.header).hex())
            except UserError as error:
                found.append(f"{name} holds a damaged chain of {chain}: {error}")
        found += [f"{chain} has {len(ids[h])} blocks of height {h}" for h in sorted(ids) if len(ids[h]) > 1]
        for (group, height), said in sorted(left.decided.items()):
            if group == chain and not said <= ids[height]:
                found.append(f"{chain}: what was decided at height {height} is in nobody's files")
    return found


def without_offence(left: Left) -> list[str]:
    """No two signatures of one member contradict each other: of all that was sent and of all files."""
    said: signatures.Said = defaultdict(lambda: defaultdict(set))
    slots: signatures.Slots = defaultdict(set)
    for name, folder in (*left.folders.items(), *left.copies):
        for group, member, vote in signatures.votes_of(left.genesis, name, folder, slots):
            said[group, member][vote.height].add(vote)
    for name in left.folders:
        for one in left.sent_by(name):
            signer = left.genesis.member(one.signer).name
            place = separator(left.genesis.domain(one.group))
            slots[signer, one.kind, one.height, one.epoch, place, one.round].add(one.digest)
            if one.kind in VOTES:
                said[one.group, one.signer][one.height].add(vote_of(one.words, VOTES[one.kind]))
    return signatures.compared(left.genesis, said, slots)


def guarded_first(left: Left) -> list[str]:
    """Each own signature that left a node is in its guard's journal, as far back as that goes."""
    found: list[str] = []
    for name, folder in left.folders.items():
        records = guarded(folder.guard)
        kept = {record.digest for record in records}
        # The journal is rewritten when it has grown: what is older than its oldest record tells nothing.
        oldest: dict[bytes, int] = {}
        for record in records:
            oldest[record.separator] = min(record.height, oldest.get(record.separator, record.height))
        for one in left.sent_by(name):
            own = left.genesis.member(one.signer).name == name
            if one.life < left.guard_lost.get(name, 0):
                continue  # That guard was lost.
            place = separator(left.genesis.domain(one.group))
            if own and one.digest not in kept and one.height >= oldest.get(place, 0):
                found.append(f"{name} sent a {one.kind} of height {one.height} that its guard does not hold")
    return found


def logs_sound(left: Left) -> list[str]:
    """`p2pfl wal verify` finds nothing wrong with any log, of wiped folders too."""
    found: list[str] = []
    for name, folder in (*left.folders.items(), *left.copies):
        if not any((folder.path / "wal").glob("*.wal")):
            continue  # Wiped, and killed again before it had written anything.
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            code = p2pfl(["wal", "verify", str(folder.path), "--json"])
        if code != EXIT_OK:
            found.append(f"p2pfl wal verify of {name}, exit code {code}: {said.getvalue().strip()}")
    return found
