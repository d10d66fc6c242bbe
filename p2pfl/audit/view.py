"""What pages and questions are about: a live node's store, or a directory that nobody runs any more.

One shape for both, so that no page knows the difference. Reads block files, notes and counters; decides
nothing and verifies nothing (that is `verify`).
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from p2pfl import telemetry
from p2pfl.audit.history import load_genesis
from p2pfl.errors import UserError
from p2pfl.genesis import COUNCIL, Genesis
from p2pfl.store import BlockFile, Notes, Store, node_folders
from p2pfl.store.blocks import identity
from p2pfl.store.index import Blocks, Index

log = telemetry.logger("view")


class View(Protocol):
    """A history to look at. Methods read files: call them in a thread."""

    @property
    def genesis(self) -> Genesis: ...

    @property
    def source(self) -> str:
        """What the pages say they show: a live node, or a directory."""
        ...

    def chains(self) -> Mapping[str, Blocks]:
        """The chains that are here, by name; the groups in the genesis' order, the council last."""
        ...

    def index(self) -> Index:
        """The index, caught up with the chains."""
        ...

    def notes(self, name: str) -> list[dict[str, Any]]:
        """The notes of this name, the newest last."""
        ...

    def counters(self) -> list[tuple[str, dict[str, str], float]]:
        """What is counted: (name, labels, value). Nothing where no node runs."""
        ...


class StoreView:
    """A live node's store. The index is a file in the node's folder."""

    def __init__(self, store: Store, *, counters: telemetry.Counters | None = None) -> None:
        self._store = store
        self._counters = counters if counters is not None else telemetry.counters
        self._lock = threading.Lock()
        self._index: Index | None = None

    @property
    def genesis(self) -> Genesis:
        """Of the store's network."""
        return self._store.genesis

    @property
    def source(self) -> str:
        """Names the node by its folder."""
        return f"a live node, {self._store.folder.path.name}"

    def chains(self) -> Mapping[str, Blocks]:
        """The chains that the node has open."""
        return self._store.chains()

    def index(self) -> Index:
        """Opened when first asked for: most nodes are never looked at."""
        with self._lock:
            if self._index is None:
                self._index = Index(self.genesis, self._store.folder.index)
        self._index.catch_up(self.chains())
        return self._index

    def notes(self, name: str) -> list[dict[str, Any]]:
        """The node's own."""
        return self._store.notes.read(name)

    def counters(self) -> list[tuple[str, dict[str, str], float]]:
        """The process's."""
        return self._counters.rows()


class FolderView:
    """A node's folder or a testnet's run directory, read only: of each chain the longest copy."""

    def __init__(self, path: Path, genesis: Genesis | None = None) -> None:
        """Raises UserError when there is no history in it."""
        self._path = path
        self._folders = node_folders(path)
        self._genesis = genesis or load_genesis(path, self._folders)
        self._chains: dict[str, BlockFile] = {}
        for name in (*(group.name for group in self._genesis.groups), COUNCIL):
            copies = [self._open(name, folder.chain(name)) for folder in self._folders.values()]
            whole = [copy for copy in copies if copy is not None]
            if whole:
                self._chains[name] = max(whole, key=len)
        if not self._chains:
            raise UserError(
                f"{path} holds no blocks",
                because="none of its nodes has a block file",
                fix="name another directory",
            )
        self._index = Index(self._genesis)
        self._caught_up = False
        self._lock = threading.Lock()

    def _open(self, name: str, path: Path) -> BlockFile | None:
        if not path.exists():
            return None
        copy = BlockFile(path)
        if copy.damage is not None or copy.cut is not None:
            log.warning("a block file is not whole; run `p2pfl audit verify`", path=path)
        if copy.identity != identity(self._genesis.network_id, self._genesis.group_id(name)):
            log.warning("a block file of another network is not shown", path=path)
            return None
        return copy

    @property
    def genesis(self) -> Genesis:
        """The directory's, or the one that was given."""
        return self._genesis

    @property
    def source(self) -> str:
        """Names the directory."""
        return f"the directory {self._path.name}"

    def chains(self) -> Mapping[str, Blocks]:
        """Read once, when the view was opened."""
        return self._chains

    def index(self) -> Index:
        """In memory: the directory may be somebody else's."""
        with self._lock:
            if not self._caught_up:
                self._index.catch_up(self._chains)
                self._caught_up = True
        return self._index

    def notes(self, name: str) -> list[dict[str, Any]]:
        """Of all nodes, each with its node's name."""
        return [
            {**note, "node": node} if node else note
            for node, folder in self._folders.items()
            for note in Notes(folder.notes).read(name)
        ]

    def counters(self) -> list[tuple[str, dict[str, str], float]]:
        """Nobody runs."""
        return []
