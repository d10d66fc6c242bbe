"""`p2pfl version`: what is installed here, for a report of a bug."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
from typing import Any

import p2pfl

# Whatever decides bits or bytes, and what the extras bring.
_TOLD = ("numpy", "cbor2", "coincurve", "mmh3", "trio", "torch", "safetensors", "libp2p", "web3", "py-evm")


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser("version", help="what is installed here", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> None:
    parts = {name: _version(name) for name in _TOLD}
    if arguments.json:
        print(json.dumps({"p2pfl-mps": p2pfl.__version__, "python": platform.python_version(), **parts}))
        return
    print(f"p2pfl-mps {p2pfl.__version__}, Python {platform.python_version()}, {platform.platform()}")
    for name, version in parts.items():
        print(f"  {name} {version or 'is not installed'}")


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
