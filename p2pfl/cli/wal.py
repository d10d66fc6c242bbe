"""`p2pfl wal`: what a stopped node wrote down before it signed, shown, checked, and lived through again.

Reads a node's folder and changes nothing. Knows words and files; what is read is in `p2pfl.store`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from consensus.committee import Committee
from consensus.types import DecidedBlock, Digest, Header, MemberId
from p2pfl import genesis as genesis_file
from p2pfl import keys
from p2pfl.audit.history import fold_roster
from p2pfl.codec import DecodeError
from p2pfl.errors import EXIT_CLAIM_FAILED, EXIT_OK, UserError
from p2pfl.genesis import COUNCIL, Genesis
from p2pfl.guard_file import member_of_guard
from p2pfl.roster import Roster
from p2pfl.store import BlockFile, Folder
from p2pfl.store.wal_check import check
from p2pfl.store.wal_file import Reading, held_still, read, segments
from p2pfl.store.wal_story import Story, facts, words


@dataclass(frozen=True, slots=True)
class _Log:
    """One chain's log in a node's folder. readings: its files, the oldest first."""

    genesis: Genesis
    roster: Roster
    chain: str
    folder: Folder
    me: MemberId
    readings: list[Reading]

    def named(self, member: MemberId) -> str:
        """A name for people."""
        try:
            return self.roster.entry(member).name
        except KeyError:
            return "0x" + member.hex()

    def committee(self, epoch: int) -> Committee | None:
        """The chain's committee of an epoch, where the council's chain in this folder tells of it."""
        return self.roster.committee(self.chain, epoch) if self.roster.goes_on(self.chain, epoch) else None

    def closed(self, epoch: int, parent: Header | None, parent_id: Digest) -> bool:
        """Whether the council closed the epoch before at this block."""
        return self.roster.closed_at(self.chain, epoch, parent, parent_id)

    def blocks(self) -> list[DecidedBlock]:
        """The chain as it is kept; what is damaged ends it."""
        path = self.folder.chain(self.chain)
        return list(BlockFile(path)) if path.exists() else []


def add_parser(commands: Any) -> None:
    """Add the command and its verbs."""
    parser = commands.add_parser(
        "wal", help="read what a stopped node wrote down before it signed", description=__doc__
    )
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    for name, run, help_, more in (
        ("dump", _dump, "print each entry", ""),
        (
            "verify",
            _verify,
            "check the files, the order of the entries, and that no two own votes contradict",
            " Exit code 1, with the file and the offset, if something is wrong.",
        ),
        ("replay", _replay, "run the core over the entries again and print the story", ""),
    ):
        verb = verbs.add_parser(
            name, help=help_, description=help_.capitalize() + "." + more + " Changes nothing."
        )
        verb.add_argument("dir", type=Path, metavar="DIR", help="the folder of a node that is stopped")
        verb.add_argument("--chain", metavar="NAME", help="one chain only: a group's name, or council")
        verb.add_argument(
            "--as", dest="member", metavar="NAME", help="whose folder it is (default: its key's)"
        )
        verb.add_argument("--genesis", type=Path, metavar="FILE", help="default: DIR/genesis.json")
        verb.add_argument("--json", action="store_true", help="for programs: a list or an object")
        verb.set_defaults(run=run)


def _dump(arguments: argparse.Namespace) -> int:
    listed: list[dict[str, Any]] = []
    with _logs(arguments) as logs:
        for log in logs:
            for reading in log.readings:
                for entry in reading.entries:
                    listed.append({"chain": log.chain, **facts(entry, log.named)})
                    if not arguments.json:
                        place = f"{log.chain} epoch {entry.epoch} height {entry.height}"
                        try:
                            told = words(entry.event, log.named)
                        except DecodeError as error:
                            told = f"unreadable: {error}"
                        print(f"{entry.path.name} {entry.offset:>10}  {place}  {told}")
                _print_wrong(reading, quiet=arguments.json)
    if arguments.json:
        print(json.dumps(listed))
    return EXIT_OK


def _print_wrong(reading: Reading, *, quiet: bool) -> None:
    if reading.damage is not None and not quiet:
        print(f"{reading.path.name} {reading.damage.offset:>10}  DAMAGED: {reading.damage.because}")
    if reading.cut is not None and not quiet:
        print(
            f"{reading.path.name} {reading.cut.offset:>10}  an interrupted write, {reading.cut.length} bytes"
        )


def _verify(arguments: argparse.Namespace) -> int:
    ok, told = True, []
    with _logs(arguments) as logs:
        for log in logs:
            found = check(
                log.readings, me=log.me, domain=log.genesis.domain(log.chain), committees=log.committee
            )
            ok = ok and not found.faults
            faults = [
                {"file": fault.path.name, "offset": fault.offset, "because": fault.because}
                for fault in found.faults
            ]
            counted = {"entries": found.entries, "heights": found.heights, "own_votes": found.own_votes}
            told.append({"chain": log.chain, **counted, "faults": faults, "notes": list(found.notes)})
    if arguments.json:
        print(json.dumps({"ok": ok, "logs": told}))
        return EXIT_OK if ok else EXIT_CLAIM_FAILED
    for each in told:
        own = f"{each['own_votes']} own votes"
        print(f"{each['chain']}: {each['entries']} entries of {each['heights']} heights, {own}")
        for fault in each["faults"]:
            print(f"  WRONG: {fault['file']} at byte {fault['offset']}: {fault['because']}")
        for note in each["notes"]:
            print(f"  note: {note}")
    print("sound" if ok else "not sound: keep these files, and read docs/operators.md before the next start")
    return EXIT_OK if ok else EXIT_CLAIM_FAILED


def _replay(arguments: argparse.Namespace) -> int:
    told: dict[str, list[str]] = {}
    with _logs(arguments) as logs:
        for log in logs:
            story = Story(
                log.blocks(),
                me=log.me,
                domain=log.genesis.domain(log.chain),
                committees=log.committee,
                named=log.named,
                closed=log.closed,
            )
            entries = tuple(entry for reading in log.readings for entry in reading.entries)
            told[log.chain] = []
            if not arguments.json:
                print(f"{log.chain}, as {log.named(log.me)}")
            for reading in log.readings:
                _print_wrong(reading, quiet=arguments.json)
            for line in story.tell(entries):
                told[log.chain].append(line.strip())
                if not arguments.json:
                    print(line)
    if arguments.json:
        print(json.dumps(told))
    return EXIT_OK


@contextlib.contextmanager
def _logs(arguments: argparse.Namespace) -> Iterator[list[_Log]]:
    """The logs of a folder, while no node runs in it. Raises UserError."""
    folder = Folder(arguments.dir)
    genesis = genesis_file.load(arguments.genesis or folder.genesis)
    council = folder.chain(COUNCIL)
    roster = fold_roster(genesis, BlockFile(council) if council.exists() else None)
    me = _member(roster, folder, arguments.member)
    names = [name for name in genesis.group_names.values() if folder.wal(name).exists()]
    chosen = [name for name in names if arguments.chain in (None, name)]
    if not chosen:
        raise UserError(
            f"there is no log to read in {folder.path}",
            because=f"it holds those of {', '.join(names)}" if names else "it has no file wal/*.wal",
            fix="name the folder of a node that has run, or another --chain",
        )
    with contextlib.ExitStack() as still:
        for name in chosen:
            still.enter_context(held_still(folder.wal(name)))
        yield [
            _Log(genesis, roster, name, folder, me, [read(path) for path in _files(folder.wal(name))])
            for name in chosen
        ]


def _files(path: Path) -> list[Path]:
    return [*(segment.path for segment in segments(path)), path]


def _member(roster: Roster, folder: Folder, name: str | None) -> MemberId:
    """Whose log it is."""
    if name is None:
        return member_of_guard(folder.guard) or keys.load_signing_key(folder.signing_key).member_id
    for entry in roster.entries.values():
        if entry.name == name:
            return entry.member_id
    raise UserError(
        f"there is nobody called {name}",
        because="neither the genesis nor the council's chain names such a member",
        fix="name one that they do: --as NAME",
    )
