"""Bytes that a member receives in a round, at its interface, against the least that it must receive.

    least = (n - 1) x update + aggregate + headers

update      the others' updates, int16, as whole blobs: nobody can check a block without each of them
aggregate   what the other groups learnt, as one more update: nobody can compute it from its own group
headers     the group's block and the council's, as they are kept: header, body, certificate

Not in it, and told apart: the council's root update (one update), by which the rules judge; `least_with_root`
has it. With one group the council's mean is the group's own aggregate and is not received again; with more
(--groups) it is, by the members of the first, who are looked at. A group that does not wait for the council
receives nothing of its in that round: `council_bases_a_round` says how often it did. Members and a council of
one seat are in network namespaces without offloads, so that each packet counts with its headers of TCP and
IP, acknowledgements too. Rounds are counted between two heights that all members have decided.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from p2pfl.errors import UserError
from p2pfl.genesis import COUNCIL, load
from p2pfl.params import byte_length
from p2pfl.records import GroupBody, decode_body
from p2pfl.store import BlockFile, node_folders
from tests.live.line import Line
from tests.live.lines import Lines
from tests.live.network import Network, open_network
from tests.live.shape import GROUP

# A network begins with handshakes and the initial base, which are no part of a round.
WARM_HEIGHTS = 3
# Bytes by protocol are told every two seconds; the interface's counters are read at once.
TOLD_S = 2.5


@dataclass
class Counted:
    """What members received until now: at the interface, and by protocol."""

    height: int
    interface: int
    protocols: Counter[str]


def add_parser(commands: Any) -> None:
    """Add `wire`."""
    parser = commands.add_parser(
        "wire", help="bytes a round and member, beside the least", description=__doc__
    )
    parser.add_argument("--members", type=int, default=4, metavar="N", help="of each group (4)")
    parser.add_argument(
        "--groups", type=int, default=1, metavar="N", help="what the first receives counts (1)"
    )
    parser.add_argument("--model", choices=("cnn", "mlp"), default="mlp")
    parser.add_argument("--rounds", type=int, default=10, metavar="N")
    parser.add_argument("--seed", type=int, default=1, metavar="N")
    parser.add_argument("--dir", type=Path, metavar="DIR", help="keep the run there")
    parser.set_defaults(measure=wire)


def wire(arguments: argparse.Namespace) -> dict[str, Any]:
    """The figures of `bench wire`."""
    because = Lines.why_not()
    if because is not None:
        raise UserError(
            "bytes cannot be counted at the interface here",
            because=because,
            fix="run it as root on a Linux machine with iproute2 and /dev/net/tun",
        )
    with tempfile.TemporaryDirectory() as folder:
        directory = (arguments.dir or Path(folder)).resolve()
        begun, ended = trio.run(_run, arguments, directory)
        return _figures(arguments, directory, begun, ended)


async def _run(arguments: argparse.Namespace, directory: Path) -> tuple[Counted, Counted]:
    async with open_network(
        directory,
        arguments.members,
        arguments.seed,
        namespaces=True,
        line=Line(round_trip_s=0.0, loss=0.0, rate_bits_s=0),
        model=arguments.model,
        groups=arguments.groups,
    ) as network:
        names = _first_group(network)
        await network.progress(WARM_HEIGHTS, of=names)
        begun = await _count(network)
        await network.progress(arguments.rounds, of=names)
        ended = await _count(network)
        await network.end()
    return begun, ended


async def _count(network: Network) -> Counted:
    """Right after everybody has decided a height."""
    cable = network.cable
    assert isinstance(cable, Lines)
    height = network.height
    names = _first_group(network)
    interface = sum(cable.bytes_of(name)[0] for name in names)
    await trio.sleep(TOLD_S)
    protocols: Counter[str] = Counter()
    for name in names:
        protocols.update(network.nodes[name].received)
    return Counted(height, interface, protocols)


def _first_group(network: Network) -> list[str]:
    return [name for name in network.names if name.startswith(f"{GROUP}m")]


def _figures(
    arguments: argparse.Namespace, directory: Path, begun: Counted, ended: Counted
) -> dict[str, Any]:
    members, rounds = arguments.members, ended.height - begun.height
    update, headers = _kept(directory)
    used = _council_heights(directory, range(begun.height + 1, ended.height + 1))
    least = (members - 1) * update + update + headers
    measured = (ended.interface - begun.interface) // (members * rounds)
    protocols = {
        name: (ended.protocols[name] - begun.protocols[name]) // (members * rounds)
        for name in sorted(ended.protocols)
    }
    return {
        "bytes_per_round_member": measured,
        "least_bytes": least,
        "ratio": round(measured / least, 3),
        "least_with_root_bytes": least + update,
        "ratio_with_root": round(measured / (least + update), 3),
        "update_bytes": update,
        "headers_bytes": headers,
        "by_protocol": protocols,
        "tcp_ip_bytes": measured - sum(protocols.values()),
        "council_bases_a_round": round(len(used) / rounds, 2),
        "members": members,
        "groups": arguments.groups,
        "model": arguments.model,
        "rounds": rounds,
    }


def _council_heights(directory: Path, heights: range) -> set[int]:
    """The council's blocks on whose bases these heights of the group rest."""
    folders = node_folders(directory)
    path = next(each for name, each in folders.items() if name.startswith(GROUP)).chain(GROUP)
    blocks = [each.block for each in BlockFile(path).blocks if each.block.header.height in heights]
    bodies: list[GroupBody] = [decode_body(block.body, GroupBody) for block in blocks]
    return {body.base.council_height for body in bodies}


def _kept(directory: Path) -> tuple[int, int]:
    """The size of an update, and of a round's two blocks."""
    genesis = load(directory / "genesis.json")
    update = byte_length("update", genesis.task.layout, genesis.initial_exponents)
    folder = next(each for name, each in node_folders(directory).items() if name.startswith(GROUP))
    sizes: list[float] = []
    for name in (GROUP, COUNCIL):
        path = folder.chain(name)
        sizes.append(path.stat().st_size / len(BlockFile(path).blocks))
    return update, round(sum(sizes))
