"""`p2pfl keys`: the keys of a member and of a private network, each in its own file, and a guard."""

from __future__ import annotations

import argparse
import getpass
import sys
from pathlib import Path
from typing import Any

from p2pfl import genesis as genesis_file
from p2pfl import interchange, keys
from p2pfl.durable import write_whole
from p2pfl.errors import EXIT_CLAIM_FAILED, EXIT_OK, UserError
from p2pfl.net import pnet
from p2pfl.store import Folder


def add_parser(commands: Any) -> None:
    """Add the command and its verbs."""
    parser = commands.add_parser("keys", help="make keys, and move their guard", description=__doc__)
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    new = verbs.add_parser("new", help="make a new key file; refuses to overwrite one")
    new.add_argument(
        "kind",
        choices=("peer", "signing", "stake", "network"),
        help="who connects, who votes, who owns stake; who is in a private network at all",
    )
    new.add_argument("path", type=Path, metavar="FILE", help="the file to make, readable by you alone")
    new.add_argument("--password-file", type=Path, metavar="FILE", help="password of a stake key")
    new.set_defaults(run=_new)
    guard = verbs.add_parser(
        "guard",
        help="move what a signing key has signed to another machine",
        description="Move what a signing key has signed to another machine. The node must be stopped, and "
        "never run again where it was: two machines with one key contradict each other.",
    )
    _add_guard_verbs(guard.add_subparsers(title="verbs", metavar="VERB", required=True))


def _add_guard_verbs(verbs: Any) -> None:
    export = verbs.add_parser("export", help="write what the key of a node's folder has signed into a file")
    export.add_argument("dir", type=Path, metavar="DIR", help="the node's folder")
    export.add_argument("file", type=Path, metavar="FILE", help="the file to write (JSON, nothing secret)")
    export.add_argument(
        "--minimal", action="store_true", help="heights without signatures: nothing is signed up to there"
    )
    export.set_defaults(run=_export)
    take = verbs.add_parser(
        "import",
        help="add what such a file says to the guard of a node's folder",
        description="Add what such a file says to the guard of a node's folder; a missing guard is made. It "
        "never forgets what it had. Exit code 1 if the key has signed two things that contradict each other.",
    )
    take.add_argument("dir", type=Path, metavar="DIR", help="the node's folder, with the signing key in it")
    take.add_argument("file", type=Path, metavar="FILE", help="what `p2pfl keys guard export` wrote")
    take.set_defaults(run=_import)
    for each in (export, take):
        each.add_argument("--genesis", type=Path, metavar="FILE", help="default: DIR/genesis.json")


def _new(arguments: argparse.Namespace) -> None:
    if arguments.kind == "signing":
        key = keys.create_signing_key(arguments.path)
        print(f"signing key of member 0x{key.member_id.hex()} in {arguments.path}")
    elif arguments.kind == "peer":
        keys.create_peer_key(arguments.path)
        print(f"peer key in {arguments.path}")
    elif arguments.kind == "network":
        pnet.create_file(arguments.path)
        print(f"network key in {arguments.path}: give every member a copy, by a way that nobody else sees")
    else:
        keys.create_stake_key(arguments.path, _password(arguments.password_file))
        print(f"stake key in {arguments.path}, locked with your password")


def _password(file: Path | None) -> str:
    if file is not None or not sys.stdin.isatty():
        return keys.read_password(file)
    password = getpass.getpass("password of the new stake key: ")
    if not password or getpass.getpass("the same again: ") != password:
        raise UserError(
            "no stake key was made",
            because="the passwords are empty or differ",
            fix="type the same one twice",
        )
    return password


def _export(arguments: argparse.Namespace) -> int:
    folder = Folder(arguments.dir)
    genesis = genesis_file.load(arguments.genesis or folder.genesis)
    guard = keys.Guard(folder.guard, keys.load_signing_key(folder.signing_key))
    try:
        identity, signed = guard.content()
        text = interchange.export(genesis, identity, signed, minimal=arguments.minimal)
        write_whole(arguments.file, text.encode())
    finally:
        guard.close()
    print(f"{arguments.file} tells what the key of member 0x{identity.member.hex()} has signed")
    print("do not start this node here again: what it signs from now on is not in the file")
    return EXIT_OK


def _import(arguments: argparse.Namespace) -> int:
    folder = Folder(arguments.dir)
    genesis = genesis_file.load(arguments.genesis or folder.genesis)
    key = keys.load_signing_key(folder.signing_key)
    identity, signed = interchange.read(arguments.file, genesis, key.member_id)
    # The file speaks for the key's past, so a guard may be made.
    guard = keys.Guard(folder.guard, key, new_key=True)
    try:
        clashes = guard.absorb(identity, signed)
    finally:
        guard.close()
    told = f"{len(signed)} signatures and {len(identity.floors)} refused heights"
    print(f"{folder.guard} knows what {arguments.file} says: {told}")
    for clash in clashes:
        place = f"epoch {clash.epoch}, height {clash.height}, round {clash.round}"
        print(
            f"TWICE: the key has signed two {clash.kind} of {place}; whoever holds both can prove it. "
            "Nothing more is signed up to there."
        )
    return EXIT_CLAIM_FAILED if clashes else EXIT_OK
