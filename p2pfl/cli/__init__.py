"""The command line: `p2pfl testnet | node | audit | explorer | keys | version`.

Each command is a door: a module with `add_parser(commands)` that is imported when its command is called, so
that an auditor's commands load neither torch, libp2p nor web3. Knows no protocol; says whose fault it was.
"""

from __future__ import annotations

from p2pfl.cli.main import main

__all__ = ["main"]
