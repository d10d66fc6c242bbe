"""`p2pfl audit fetch`: a copy of a running network's history, for `p2pfl audit verify` and the other verbs.

Knows words and how long to go on; what is believed is decided in `p2pfl.audit.fetch`. Needs libp2p, which an
auditor of files does not.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import trio

from p2pfl import genesis as genesis_file
from p2pfl import telemetry
from p2pfl.audit.fetch import Copy, Fetcher, Outcome
from p2pfl.errors import EXIT_CLAIM_FAILED, EXIT_OK, UserError
from p2pfl.net.options import NetOptions, named

# How often the tips are asked for while following, whatever is announced: announcements may be lost.
POLL_S = 5.0
# Announcements come from every chain; several within this time are worth one look.
PAUSE_S = 1.0
# More nodes than that say nothing new.
SOURCES_MAX = 16
_STOP = (signal.SIGTERM, signal.SIGINT)


def add_verb(verbs: Any) -> None:
    """Add it to those of `p2pfl audit`."""
    verb = verbs.add_parser(
        "fetch",
        help="copy a running network's history, checking every block as it comes",
        description=(
            "Fetch the chains of a running network as an observer. Every block is checked from the genesis"
            " on; a node that lies is named and left. Exit code 1 if two certified blocks of one height are"
            " found."
        ),
    )
    verb.add_argument("--genesis", type=Path, metavar="FILE", required=True, help="from somebody you trust")
    verb.add_argument(
        "--from",
        dest="sources",
        metavar="ADDR[,ADDR..]",
        required=True,
        help="nodes, such as /ip4/10.0.0.5/tcp/9000/p2p/12D3KooW..; with several, one that lies is found out",
    )
    verb.add_argument("--out", type=Path, metavar="DIR", required=True, help="new, or one to go on with")
    verb.add_argument(
        "--blobs", choices=("none", "public"), default="none", help="also the blobs that observers may see"
    )
    verb.add_argument("--psk-file", type=Path, metavar="FILE", help="the key of a private network")
    verb.add_argument("--security", choices=("noise", "tls"), default="noise", help="the network's handshake")
    verb.add_argument("--follow", action="store_true", help="go on until Ctrl-C")
    verb.add_argument(
        "--json", action="store_true", help="one JSON object: heights, blocks, blobs, lies, forks"
    )
    verb.set_defaults(run=_fetch)


def _fetch(arguments: argparse.Namespace) -> int:
    names = list(dict.fromkeys(part.strip() for part in arguments.sources.split(",") if part.strip()))
    if not 1 <= len(names) <= SOURCES_MAX:
        raise UserError(
            f"--from names {len(names)} nodes",
            because=f"1 to {SOURCES_MAX} can be asked",
            fix="give some, with commas between",
        )
    for name in names:
        named(name, "--from")  # Before a folder is made for what nobody will bring.
    telemetry.configure(level="error")
    copy = Copy(arguments.out, genesis_file.load(arguments.genesis))
    try:
        outcome = trio.run(run, arguments, names, copy)
    finally:
        copy.close()
    if arguments.json:
        print(json.dumps(asdict(outcome)))
    else:
        _print(outcome, arguments.out)
    return EXIT_CLAIM_FAILED if outcome.forks else EXIT_OK


def _print(outcome: Outcome, out: Path) -> None:
    for name, height in outcome.heights.items():
        print(f"{name:<16} {height + 1} blocks")
    for name, why in outcome.silent.items():
        print(f"not heard: {name}: {why}")
    print(f"{outcome.blocks} blocks and {outcome.blobs} blobs are new; {outcome.hidden} blobs nobody showed")
    print(f"next: p2pfl audit verify {out} --genesis FILE")


async def run(arguments: argparse.Namespace, names: list[str], copy: Copy) -> Outcome:
    """Fetch once, or until told to stop. Raises UserError."""
    try:
        from p2pfl.net.lookout import one_error, watching  # libp2p: an auditor of files needs none.
    except ImportError as error:
        raise UserError(
            "fetching from a network needs libp2p",
            because=f"the small installation of an auditor has none ({error})",
            fix="pip install 'p2pfl-mps[observer]'",
        ) from error
    changed = trio.Event()

    def on_tip() -> None:
        changed.set()  # The one of now: it is replaced before each look.

    tell = partial(print, file=sys.stderr)
    options = NetOptions(security=arguments.security, psk_file=arguments.psk_file)
    heard = on_tip if arguments.follow else None
    with one_error():
        async with watching(
            names, network_id=copy.genesis.network_id, options=options, on_tip=heard
        ) as sources:
            fetcher = Fetcher(copy, sources, blobs=arguments.blobs == "public", tell=tell)
            with trio.open_signal_receiver(*_STOP) as stop:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_until_told, stop, nursery.cancel_scope)
                    await fetcher.once()
                    while arguments.follow:
                        with trio.move_on_after(POLL_S):
                            await changed.wait()
                        await trio.sleep(PAUSE_S)
                        changed = trio.Event()
                        await _unless_silent(fetcher)
                    nursery.cancel_scope.cancel()
    return fetcher.outcome


async def _unless_silent(fetcher: Fetcher) -> None:
    """Who follows outlasts an outage of everybody; with nobody left to trust there is nothing to follow."""
    try:
        await fetcher.once()
    except UserError:
        if not fetcher.sources:
            raise


async def _until_told(stop: Any, scope: trio.CancelScope) -> None:
    async for _ in stop:
        scope.cancel()
