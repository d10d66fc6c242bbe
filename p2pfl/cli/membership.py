"""`p2pfl node join`, `admit` and `leave`: how a member comes into a running network, and out of it.

newcomer: join   -> join.json -> by mail or what you like -> operators of seats: admit
the next epoch begins with the newcomer in a group, once a quorum of seats has admitted it
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from consensus.signing import BadSignature, recover, signing_digest
from p2pfl import config, keys
from p2pfl import genesis as genesis_file
from p2pfl.durable import disk_error, write_whole
from p2pfl.errors import EXIT_OK, UserError
from p2pfl.genesis import COUNCIL, Genesis, MemberEntry
from p2pfl.jsonform import to_json
from p2pfl.membership import Join, SignedJoin, entry_hash
from p2pfl.rules.epochs import is_address, is_peer_id
from p2pfl.store import Folder


def add_verbs(verbs: Any) -> None:
    """Add the three to those of `p2pfl node`."""
    join = verbs.add_parser(
        "join",
        help="ask for a seat in a running network",
        description="Sign a request to join: DIR/join.json. Give it to the operators of the council's seats.",
    )
    join.add_argument("dir", type=Path, metavar="DIR", help="the node's folder, with keys and genesis.json")
    join.add_argument("--listen", required=True, metavar="ADDR", help="such as /ip4/10.0.0.5/tcp/9000")
    join.add_argument("--location", default="", help="one of the genesis' locations, empty if it has none")
    join.add_argument("--council", action="store_true", help="ask for a seat in the council, not in a group")
    join.set_defaults(run=_join)
    admit = verbs.add_parser(
        "admit",
        help="let a newcomer in, as the operator of a seat",
        description="Let the newcomer of this request in. A quorum of seats has to.",
    )
    admit.add_argument("file", type=Path, metavar="JOIN.JSON", help="the newcomer's request")
    admit.add_argument("--dir", type=Path, required=True, metavar="DIR", help="the seat's folder")
    admit.set_defaults(run=_admit)
    leave = verbs.add_parser(
        "leave",
        help="give the seat back at the end of the epoch",
        description="Tell the node to give notice. Leave it running until its epoch is over.",
    )
    leave.add_argument("dir", type=Path, metavar="DIR", help="the node's folder")
    leave.set_defaults(run=_leave)


def check_address(address: str) -> None:
    """Raises UserError unless others can call this address."""
    if not is_address(address):
        raise UserError(
            f"{address} is no address to listen at",
            because="it should name an interface and a TCP port, as others reach them",
            fix="give something like --listen /ip4/10.0.0.5/tcp/9000",
        )


def _join(arguments: argparse.Namespace) -> int:
    from p2pfl.net.identity import peer_id_of  # Not needed by an auditor.
    from p2pfl.parts import OWN_JOIN

    folder = Folder(arguments.dir)
    genesis = genesis_file.load(folder.genesis)
    settings = config.load(folder.path / "node.toml", [])
    signing = keys.load_signing_key(folder.signing_key)
    peer_id = peer_id_of(keys.load_peer_key(folder.peer_key))
    locations = sorted({group.location for group in genesis.groups})
    check_address(arguments.listen)
    if not arguments.council and arguments.location not in locations:
        raise UserError(
            f"there is no group at location {arguments.location!r}",
            because=f"the genesis has {', '.join(map(repr, locations))}",
            fix="name one of these with --location",
        )
    entry = MemberEntry(settings.need("node.name"), signing.member_id, peer_id, arguments.listen)
    join = Join(entry.member_id, entry_hash(entry, arguments.location), int(arguments.council))
    signed = SignedJoin(join, entry, arguments.location, signing.sign_plain(genesis.domain(COUNCIL), join))
    text = json.dumps(to_json(signed), indent=1) + "\n"
    write_whole(folder.path / OWN_JOIN, text.encode())
    print(text, end="")
    return EXIT_OK


def _admit(arguments: argparse.Namespace) -> int:
    from p2pfl.rounds.turnover import JOINS, read_join

    folder = Folder(arguments.dir)
    genesis = genesis_file.load(folder.genesis)
    again = "ask the newcomer for the file that `p2pfl node join` wrote with this network's genesis"
    try:
        signed = read_join(arguments.file)
    except OSError as error:
        raise disk_error(arguments.file, error) from error
    except ValueError as error:
        raise UserError(f"{arguments.file} is no request to join", because=str(error), fix=again) from error
    if not is_address(signed.entry.address) or not is_peer_id(signed.entry.peer_id):
        raise UserError(
            f"{arguments.file} names a peer that nobody can call",
            because=f"peer id {signed.entry.peer_id!r}, address {signed.entry.address!r}",
            fix=again,
        )
    if not _is_signed(genesis, signed):
        raise UserError(
            f"{arguments.file} is not signed by the member that it names",
            because="the signature is another key's, or was made for another network",
            fix=again,
        )
    target = folder.path / JOINS
    try:
        target.mkdir(exist_ok=True)
    except OSError as error:
        raise disk_error(target, error) from error
    name = "0x" + signed.entry.member_id.hex()
    write_whole(target / f"{name}.json", (json.dumps(to_json(signed), indent=1) + "\n").encode())
    print(f"{signed.entry.name} ({name}) is let in by this seat; the others of a quorum have to as well")
    return EXIT_OK


def _is_signed(genesis: Genesis, signed: SignedJoin) -> bool:
    if signed.join.entry_hash != entry_hash(signed.entry, signed.location):
        return False
    try:
        signer = recover(signing_digest(genesis.domain(COUNCIL), signed.join), signed.signature)
    except (BadSignature, ValueError):
        return False
    return signer == signed.join.member == signed.entry.member_id


def _leave(arguments: argparse.Namespace) -> int:
    from p2pfl.rounds.turnover import LEAVE

    folder = Folder(arguments.dir)
    keys.load_signing_key(folder.signing_key)  # Says what is wrong if this is no node's folder.
    write_whole(folder.path / LEAVE, b"")
    print(
        "the node gives notice as soon as it runs; its seat ends with the epoch, its stake is unlocked later"
    )
    return EXIT_OK
