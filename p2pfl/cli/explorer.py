"""`p2pfl explorer DIR`: pages over a history that nobody runs any more, for a browser on this machine."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import trio

from p2pfl import genesis as genesis_file
from p2pfl.audit.view import FolderView
from p2pfl.errors import EXIT_OK

HOST = "127.0.0.1"


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser("explorer", help="look at a history in a browser", description=__doc__)
    parser.add_argument("dir", type=Path, metavar="DIR", help="a node's folder, or a testnet's run folder")
    parser.add_argument(
        "--genesis", type=Path, metavar="FILE", help="your own copy (default: the one in DIR)"
    )
    parser.add_argument("--host", default=HOST, help=f"address to listen at ({HOST}: this machine only)")
    parser.add_argument("--port", type=int, default=0, help="TCP port; 0: any that is free (0)")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    given = None if arguments.genesis is None else genesis_file.load(arguments.genesis)
    trio.run(_serve, FolderView(arguments.dir, given), arguments.host, arguments.port)
    return EXIT_OK


async def _serve(view: FolderView, host: str, port: int) -> None:
    from p2pfl.audit.explorer import serve_explorer  # Pages cost imports: not for --help.

    async with trio.open_nursery() as nursery:
        url = await nursery.start(serve_explorer, view, host, port)
        print(f"{url} (Ctrl-C ends it)", flush=True)
