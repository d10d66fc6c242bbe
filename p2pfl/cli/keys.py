"""`p2pfl keys new`: the three keys of a member, each in its own file."""

from __future__ import annotations

import argparse
import getpass
import sys
from pathlib import Path
from typing import Any

from p2pfl import keys
from p2pfl.errors import UserError


def add_parser(commands: Any) -> None:
    """Add the command and its one verb."""
    parser = commands.add_parser("keys", help="make keys", description=__doc__)
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    new = verbs.add_parser("new", help="make a new key file; refuses to overwrite one")
    new.add_argument(
        "kind", choices=("peer", "signing", "stake"), help="who connects, who votes, who owns stake"
    )
    new.add_argument("path", type=Path, metavar="FILE", help="the file to make, readable by you alone")
    new.add_argument("--password-file", type=Path, metavar="FILE", help="password of a stake key")
    new.set_defaults(run=_new)


def _new(arguments: argparse.Namespace) -> None:
    if arguments.kind == "signing":
        key = keys.create_signing_key(arguments.path)
        print(f"signing key of member 0x{key.member_id.hex()} in {arguments.path}")
    elif arguments.kind == "peer":
        keys.create_peer_key(arguments.path)
        print(f"peer key in {arguments.path}")
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
