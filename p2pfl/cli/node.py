"""`p2pfl node init` and `p2pfl node run`: one peer of a network, from its keys to its last round.

How it joins a running network and leaves it again is in `membership`.

Knows settings and folders; what a node does is in `p2pfl.node`, which is imported when it runs.
"""

from __future__ import annotations

import argparse
import json
import signal
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from p2pfl import config, keys, telemetry
from p2pfl.cli import membership
from p2pfl.config import Config
from p2pfl.durable import disk_error
from p2pfl.errors import EXIT_OK, UserError
from p2pfl.net.options import NetOptions, announced, bootstrapped
from p2pfl.store import Folder
from p2pfl.store.options import StoreOptions

if TYPE_CHECKING:  # torch and libp2p come with it.
    from p2pfl.node import NodeSettings

SETTINGS_FILE = "node.toml"


def add_parser(commands: Any) -> None:
    """Add the command and its verbs."""
    parser = commands.add_parser("node", help="prepare and run one peer of a network", description=__doc__)
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    init = verbs.add_parser(
        "init",
        help="make a node's folder, its keys and its settings file",
        description="Make a node's folder, keys and settings; print its entry for the genesis.",
    )
    init.add_argument("dir", type=Path, metavar="DIR", help="the node's folder, new or empty")
    init.add_argument("--name", required=True, help="what people call this member, such as g1m2")
    init.add_argument("--listen", required=True, metavar="ADDR", help="such as /ip4/10.0.0.5/tcp/9000")
    init.set_defaults(run=_init)
    run = verbs.add_parser(
        "run",
        help="run the node until it is told to stop",
        description="Run the node until SIGTERM or Ctrl-C; it takes up where it stopped.",
    )
    run.add_argument("--config", type=Path, metavar="FILE", help="settings file, as `node init` writes it")
    run.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="one setting; see docs/settings.md"
    )
    run.add_argument(
        "--guard-lost",
        action="store_true",
        help="the guard is lost for good: make a new one, which signs nothing until the next epoch",
    )
    run.set_defaults(run=_run)
    membership.add_verbs(verbs)


def _init(arguments: argparse.Namespace) -> int:
    from p2pfl.net.identity import peer_id_of  # Not needed by an auditor.

    membership.check_address(arguments.listen)
    folder = Folder(arguments.dir)
    try:
        if folder.path.exists() and any(folder.path.iterdir()):
            raise UserError(
                f"{folder.path} is not empty",
                because="a new node gets a folder of its own, and no key is ever overwritten",
                fix="name another folder",
            )
        folder.path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise disk_error(folder.path, error) from error
    folder.make()
    signing = keys.create_signing_key(folder.signing_key)
    peer_id = peer_id_of(keys.create_peer_key(folder.peer_key))
    settings = folder.path / SETTINGS_FILE
    try:
        settings.write_text(_settings_text(arguments.name), encoding="utf-8")
    except OSError as error:
        raise disk_error(settings, error) from error
    entry = {
        "name": arguments.name,
        "member_id": "0x" + signing.member_id.hex(),
        "peer_id": peer_id,
        "address": arguments.listen,
    }
    print(json.dumps(entry, indent=1))
    return EXIT_OK


def _settings_text(name: str) -> str:
    return (
        "# Every setting: docs/settings.md. Paths start at this file's folder.\n"
        f'[node]\ndir = "."\ngenesis = "genesis.json"\nname = {json.dumps(name)}\n'
    )


def _run(arguments: argparse.Namespace) -> int:
    flags = [*arguments.set, *(["node.guard_lost=true"] if arguments.guard_lost else [])]
    settings = config.load(arguments.config, flags)
    telemetry.configure(level=settings.text("log.level") or "info", path=settings.path("log.file"))
    import trio

    from p2pfl.node import assemble

    trio.run(_until_told, assemble(node_settings(settings)))
    return EXIT_OK


def node_settings(settings: Config) -> NodeSettings:
    """What a node is told, from the settings. Raises UserError: a missing setting, a locked key."""
    from p2pfl.node import NodeSettings

    folder = settings.path("node.dir") or Path("node")
    host = settings.text("explorer.host") or "127.0.0.1"
    return NodeSettings(
        dir=folder,
        genesis=settings.path("node.genesis") or Path("genesis.json"),
        name=settings.need("node.name"),
        listen=settings.text("node.listen"),
        explorer=(host, settings.number("explorer.port")) if settings.switch("explorer.on") else None,
        rpc=settings.text("chain.rpc"),
        account_key=_account_key(settings, Folder(folder)),
        data_dir=settings.path("data.dir"),
        data_path=settings.path("data.path"),
        data_label=settings.need("data.label"),
        device=settings.need("train.device"),
        new_keys=settings.switch("node.new_keys"),
        guard_lost=settings.switch("node.guard_lost"),
        net=_net_options(settings),
        store=StoreOptions(
            keep_blobs_epochs=settings.number("store.keep_blobs_epochs"),
            history=settings.text("store.history") or "none",
            history_kib_s=max(1, settings.number("store.history_kib_s")),
        ),
    )


def _net_options(settings: Config) -> NetOptions:
    """The settings of section `net`."""
    return NetOptions(
        transport=settings.need("net.transport"),
        security=settings.need("net.security"),
        psk_file=settings.path("net.psk_file"),
        observers=settings.number("net.observers"),
        observers_kib_s=max(1, settings.number("net.observers_kib_s")),
        observers_updates=settings.switch("net.observers_updates"),
        announce=announced(settings.text("net.announce")),
        bootstrap=bootstrapped(settings.text("net.bootstrap")),
        mdns=settings.switch("net.mdns"),
        dht=settings.switch("net.dht"),
        relay=settings.need("net.relay"),
    )


def _account_key(settings: Config, folder: Folder) -> bytes | None:
    """The stake key's secret, where a chain and the key's password are named."""
    password = settings.path("stake.password_file")
    if settings.text("chain.rpc") is None or password is None:
        return None
    return keys.load_stake_key(
        settings.path("stake.key_file") or folder.stake_key, keys.read_password(password)
    )


async def _until_told(parts: Any) -> None:
    """Run until SIGTERM or Ctrl-C, then close everything in order."""
    import trio

    from p2pfl import node

    async with trio.open_nursery() as nursery:

        async def on_signal(signals: Iterable[signal.Signals]) -> None:
            with trio.open_signal_receiver(*signals) as received:
                async for _ in received:
                    nursery.cancel_scope.cancel()

        nursery.start_soon(on_signal, (signal.SIGTERM, signal.SIGINT))
        await node.run(parts)
