"""What a node keeps, and where.

    DIR/genesis.json            what all members share
    DIR/keys/peer.json          ed25519 seed, 0600          (p2pfl.keys)
    DIR/keys/signing.json       secp256k1 key, 0600
    DIR/keys/stake.json         web3 keystore V3, encrypted
    DIR/guard                   what the signing key signed: never copy it to a second node
    DIR/wal/<group>.wal         inputs of the core: the open height, and decided ones of this epoch
    DIR/wal/<group>.*.kept      decided heights of this epoch and the last, set aside  (p2pfl.store.wal_file)
    DIR/chain/<group>.mps       decided blocks: of the own group, of the council, of whatever is followed
    DIR/blobs/ab/abcdef...      parameters by id
    DIR/blobs/coming/           what has come of large ones that are on their way  (p2pfl.store.coming)
    DIR/blobs/claimed/          the same of those of which only a peer says how long they are
    DIR/own/                    own commitments and training states (p2pfl.rounds.own)
    DIR/records/<name>.jsonl    notes: transactions, accuracies, faults, evidence
    DIR/index.sqlite            a view for questions; delete it, and it is built again

A testnet's run directory holds `nodes/<name>/`, one such folder for each member and seat.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

from p2pfl import genesis as genesis_file
from p2pfl.durable import disk_error, fsync_folder
from p2pfl.errors import UserError
from p2pfl.genesis import COUNCIL, Genesis
from p2pfl.store.blobs import BlobStore, StoredBlob
from p2pfl.store.blocks import SUFFIX, BlockFile, BlockStore
from p2pfl.store.notes import NOTES, Notes
from p2pfl.store.wal import Wal

__all__ = [
    "NOTES",
    "BlobStore",
    "BlockFile",
    "BlockStore",
    "Folder",
    "Notes",
    "Store",
    "StoredBlob",
    "Wal",
    "node_folders",
]


@dataclass(frozen=True, slots=True)
class Folder:
    """The paths of one node's folder. Makes nothing and opens nothing."""

    path: Path

    @property
    def genesis(self) -> Path:
        return self.path / "genesis.json"

    @property
    def keys(self) -> Path:
        return self.path / "keys"

    @property
    def peer_key(self) -> Path:
        return self.keys / "peer.json"

    @property
    def peers(self) -> Path:
        return self.path / "peers.json"

    @property
    def bans(self) -> Path:
        return self.path / "bans.json"

    @property
    def signing_key(self) -> Path:
        return self.keys / "signing.json"

    @property
    def stake_key(self) -> Path:
        return self.keys / "stake.json"

    @property
    def guard(self) -> Path:
        return self.path / "guard"

    @property
    def blobs(self) -> Path:
        return self.path / "blobs"

    @property
    def notes(self) -> Path:
        return self.path / "records"

    @property
    def index(self) -> Path:
        return self.path / "index.sqlite"

    def chain(self, name: str) -> Path:
        return self.path / "chain" / (name + SUFFIX)

    def wal(self, name: str) -> Path:
        return self.path / "wal" / f"{name}.wal"

    def make(self) -> None:
        """Make what is missing, durably: a file is as lasting as the folder it is in. Raises UserError."""
        try:
            new = not self.path.exists()
            for folder in (self.path / "chain", self.path / "wal", self.blobs, self.notes):
                folder.mkdir(parents=True, exist_ok=True)
            self.keys.mkdir(mode=0o700, exist_ok=True)
            fsync_folder(self.path)
            if new:
                fsync_folder(self.path.parent)
        except OSError as error:
            raise disk_error(self.path, error) from error


def node_folders(path: Path) -> dict[str, Folder]:
    """The nodes' folders in a run directory by name, or the one folder of a node itself (name "")."""
    nodes = path / "nodes"
    if nodes.is_dir():
        found = {each.name: Folder(each) for each in sorted(nodes.iterdir()) if each.is_dir()}
        if found:
            return found
    if (path / "chain").is_dir():
        return {"": Folder(path)}
    raise UserError(
        f"{path} holds no history",
        because="there is neither a folder `nodes` nor a folder `chain` in it",
        fix="name the directory of a node, or the run directory of a testnet",
    )


class Store:
    """Everything that one node keeps, open."""

    def __init__(self, path: Path, genesis: Genesis | None = None) -> None:
        """Open or create the folder of a node.

        genesis: of the network; without it the folder's own file is read. Raises UserError when the folder
        belongs to another network, cannot be written, or is damaged.
        """
        self.folder = Folder(path)
        self.folder.make()
        self.genesis = self._genesis(genesis)
        self.blobs = BlobStore(self.folder.blobs)
        self.notes = Notes(self.folder.notes)
        self._lock = threading.Lock()
        self._chains: dict[str, BlockStore] = {}
        self._wals: dict[str, Wal] = {}

    def _genesis(self, given: Genesis | None) -> Genesis:
        path = self.folder.genesis
        if given is None or path.exists():
            found = genesis_file.load(path)
            if given is not None and found.network_id != given.network_id:
                raise UserError(
                    f"{self.folder.path} belongs to another network",
                    because=f"its genesis file has the id 0x{found.network_id.hex()}",
                    fix="give the node of each network a folder of its own",
                )
            return found
        try:
            genesis_file.save(given, path)
        except OSError as error:
            raise disk_error(path, error) from error
        return given

    def chain(self, name: str) -> BlockStore:
        """The blocks of a group, or of the council; opened or created when first asked for."""
        with self._lock:
            if name not in self._chains:
                group_id = self.genesis.group_id(self.genesis.entry(name).name)
                self._chains[name] = BlockStore(self.folder.chain(name), self.genesis.network_id, group_id)
            return self._chains[name]

    @property
    def council(self) -> BlockStore:
        """The council's chain."""
        return self.chain(COUNCIL)

    def chains(self) -> dict[str, BlockStore]:
        """The chains that are open, by name; the groups in the genesis' order, the council last."""
        order = [*(group.name for group in self.genesis.groups), COUNCIL]
        with self._lock:
            return {name: self._chains[name] for name in order if name in self._chains}

    def wal(self, name: str) -> Wal:
        """The log of the core of this group; opened or created when first asked for."""
        with self._lock:
            if name not in self._wals:
                group_id = self.genesis.group_id(self.genesis.entry(name).name)
                self._wals[name] = Wal(self.folder.wal(name), group_id)
            return self._wals[name]

    def close(self) -> None:
        """Close every file and give up its lock."""
        with self._lock:
            for opened in (*self._chains.values(), *self._wals.values()):
                opened.close()
            self._chains.clear()
            self._wals.clear()
