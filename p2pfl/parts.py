"""What a node is made of: keys, store, guard, network, trainer, chain, opened one after the other.

A testnet's attack replaces a part in between `assemble` and `node.run`, from outside.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from consensus.types import MemberId
from p2pfl import genesis as genesis_file
from p2pfl.errors import UserError
from p2pfl.genesis import COUNCIL, Genesis, MemberEntry, Task
from p2pfl.keys import Guard, SigningKey, load_peer_key, load_signing_key
from p2pfl.learn.model_files import INITIAL_BASE, read_model
from p2pfl.learn.models import initial_parameters, layout
from p2pfl.learn.own_data import read_own_data
from p2pfl.learn.sample_tables import LABEL
from p2pfl.net.interface import Handlers, NetworkLike, PeerAddress
from p2pfl.net.options import DEFAULTS, NetOptions
from p2pfl.params import BLOB_BYTES_MAX, Base, blob_id
from p2pfl.rounds.context import Observe, wall_clock_ms
from p2pfl.rounds.desk import Desk
from p2pfl.rounds.replay import opening_bytes
from p2pfl.rounds.trainer import Trainer
from p2pfl.rounds.turnover import read_join
from p2pfl.rules.limits import check_genesis
from p2pfl.store import Folder, Store
from p2pfl.store.options import DEFAULT_STORE, StoreOptions

# A newcomer's own request, in its folder.
OWN_JOIN = "join.json"

# Makes the node's network: of the genesis, the own id, the peer key and the handlers.
MakeNetwork = Callable[[Genesis, MemberId, bytes, Handlers], NetworkLike]


@dataclass(frozen=True)
class NodeSettings:
    """What an operator decides about one node.

    dir: the node's folder (see p2pfl.store). name: the member's or seat's in the genesis. listen: multiaddr,
    default the genesis entry's. explorer: host and port (0: any free), None for no pages. rpc: the chain's
    JSON-RPC. account_key: funded EVM account that submits evidence. data_dir: of the public data set.
    data_path, data_label: the own samples, if they are not in the folder, and the column of their labels.
    device: what trains, "cpu" or "cuda". new_keys: the signing key is new, so a guard may be made.
    guard_lost: there was a guard and it is gone; make one that signs nothing until the next epoch. net: how
    it speaks to others. store: what of the past it keeps. lasting: it watches its process and its disk;
    False for an experiment's, of which there are hundreds in one process.
    """

    dir: Path
    genesis: Path
    name: str
    listen: str | None = None
    explorer: tuple[str, int] | None = None
    rpc: str | None = None
    account_key: bytes | None = None
    data_dir: Path | None = None
    data_path: Path | None = None
    data_label: str = LABEL
    device: str = "cpu"
    new_keys: bool = False
    guard_lost: bool = False
    net: NetOptions = DEFAULTS
    store: StoreOptions = DEFAULT_STORE
    lasting: bool = True


@dataclass
class Parts:
    """What a node is made of. desk: the network's handlers. chain: opens the chain when it is needed.

    entry: the own one. group: where the genesis seats it, empty for a newcomer.
    """

    settings: NodeSettings
    genesis: Genesis
    me: MemberId
    name: str
    entry: MemberEntry
    group: str
    key: SigningKey
    store: Store
    guard: Guard
    network: Any
    desk: Desk
    trainer: Trainer
    chain: Callable[[], Any] | None
    observe: Observe
    clock_ms: Callable[[], int] = wall_clock_ms


def assemble(
    settings: NodeSettings,
    observe: Observe | None = None,
    *,
    network: MakeNetwork | None = None,
) -> Parts:
    """Open a node's parts. Raises UserError for what the operator must mend.

    network: makes another network than libp2p's, for tests and experiments.
    """
    genesis = genesis_file.load(settings.genesis)
    check_genesis(genesis)
    folder = Folder(settings.dir)
    key = load_signing_key(folder.signing_key)
    group, entry = _seat_of(genesis, key.member_id, settings)
    store = Store(settings.dir, genesis)
    guard = Guard(
        folder.guard,
        key,
        new_key=settings.new_keys,
        lost_at_ms=wall_clock_ms() if settings.guard_lost else None,
        clock_skew_ms=genesis.times.clock_skew_ms,
    )
    trainer = _trainer(settings, genesis, learns=group != COUNCIL)
    peer_key = load_peer_key(folder.peer_key)
    desk = Desk()
    made = (network or _libp2p(settings))(genesis, key.member_id, peer_key, desk)
    chain = partial(_open_chain, settings, genesis) if settings.rpc else None
    return Parts(
        settings=settings,
        genesis=genesis,
        me=key.member_id,
        name=settings.name,
        entry=entry,
        group=group,
        key=key,
        store=store,
        guard=guard,
        network=made,
        desk=desk,
        trainer=trainer,
        chain=chain,
        observe=observe or _nobody_watches,
    )


# ---------------------------------------------------------------------------


def initial_base(genesis: Genesis) -> Base:
    """Where learning starts: the model's parameters drawn from the genesis' seed."""
    task = genesis.task
    seed = int.from_bytes(genesis.seed[:7], "big")
    return Base(task.layout, initial_parameters(task.model, task.input_shape, task.classes, seed))


def first_base(genesis: Genesis, beside: Path) -> bytes:
    """The canonical bytes of the genesis' initial base: of the file beside the genesis file, or drawn.

    Raises UserError when neither has the id that the genesis names.
    """
    path = beside.with_name(INITIAL_BASE)
    named = path.is_file()
    base = read_model(path, genesis.task.layout) if named else initial_base(genesis)
    data = base.to_bytes()
    found = blob_id(data)
    if found != genesis.initial_base_id:
        source = (
            f"the file {path}" if named else f"{genesis.task.model} drawn here, since there is no {path},"
        )
        raise UserError(
            "the initial base is not the one that the genesis names",
            because=f"{source} has the id 0x{found.hex()}; named is 0x{genesis.initial_base_id.hex()}",
            fix=f"put the network's {INITIAL_BASE} beside the genesis file if it began with a model of its "
            "own, or use the release of p2pfl-mps that made the genesis",
        )
    return data


def _nobody_watches(kind: str, fields: dict[str, Any]) -> None:
    """Events go nowhere."""
    del kind, fields


def _seat_of(genesis: Genesis, me: MemberId, settings: NodeSettings) -> tuple[str, MemberEntry]:
    """The group in which this key sits under this name in epoch 0 (none: it asked to join), and its entry."""
    name, asked = settings.name, settings.dir / OWN_JOIN
    try:
        group, entry = genesis.group_of(me), genesis.member(me)
    except KeyError:
        if not asked.exists():
            raise UserError(
                f"the signing key of {name} has no seat in this network",
                because=f"the genesis names no member 0x{me.hex()}, and it has not asked to join",
                fix=f"p2pfl node join --dir {settings.dir}, or use the key that the genesis names",
            ) from None
        group, entry = "", _own_join(asked, me)
    if entry.name != name:
        raise UserError(
            f"the signing key is that of {entry.name}, not of {name}",
            because="the genesis file, or its request to join, says so",
            fix=f"start it as {entry.name}, or in the folder of {name}",
        )
    return group, entry


def _own_join(path: Path, me: MemberId) -> MemberEntry:
    try:
        entry = read_join(path).entry
    except (OSError, ValueError) as error:
        fix = "make it again: p2pfl node join"
        raise UserError(f"the request {path} cannot be read", because=str(error), fix=fix) from error
    if entry.member_id != me:
        raise UserError(
            f"the request {path} is another key's",
            because=f"it names 0x{entry.member_id.hex()}, the signing key is 0x{me.hex()}",
            fix="make it again: p2pfl node join",
        )
    return entry


def _trainer(settings: NodeSettings, genesis: Genesis, *, learns: bool) -> Trainer:
    x, y, held_out = None, None, None
    if learns:
        x, y, held_out = read_own_data(
            settings.dir, genesis.task, path=settings.data_path, label=settings.data_label
        )
    data_dir, device = settings.data_dir, settings.device
    trainer = Trainer(genesis, x, y, held_out=held_out, data_dir=data_dir, device=device)
    check_training(genesis.task, trainer.data_leaves)
    return trainer


def check_training(task: Task, samples: int) -> None:
    """Whether this node can train the task on so many samples, and open a round of it when it is accused.

    Raises UserError: nobody honest is to find out only when it is asked.
    """
    found = layout(task.model, task.input_shape, task.classes)
    if found != task.layout:
        raise UserError(
            f"the genesis' tensors are not those of its model {task.model!r}",
            because=f"the model here has {len(found.tensors)} of {found.size} coordinates, "
            f"the genesis {len(task.tensors)} of {task.layout.size}",
            fix="use the release of p2pfl-mps, and the module of the model, that made the genesis",
        )
    size_bytes = opening_bytes(samples, task)
    if size_bytes > BLOB_BYTES_MAX:
        raise UserError(
            "a round of this training could not be opened to the council",
            because=f"{samples} samples, and a training state for every {task.trace_every} of "
            f"{task.steps(samples)} steps, are {size_bytes} bytes; the limit is {BLOB_BYTES_MAX}",
            fix="bring fewer samples, or agree on fewer local_steps or a larger trace_every in the genesis",
        )


def _libp2p(settings: NodeSettings) -> MakeNetwork:
    def make(genesis: Genesis, me: MemberId, peer_key: bytes, handlers: Handlers) -> NetworkLike:
        from p2pfl.net.host import Network  # libp2p costs 80 MB: only where sockets are wanted.

        entries = [entry for group in (*genesis.groups, genesis.council) for entry in group.members]
        peers = {
            entry.member_id: PeerAddress(entry.peer_id, entry.address)
            for entry in entries
            if entry.member_id != me
        }
        _, own = _seat_of(genesis, me, settings)
        return Network(
            me=me,
            peer_key=peer_key,
            listen=settings.listen or own.address,
            peers=peers,
            handlers=handlers,
            network_id=genesis.network_id,
            neighbours=genesis.committee(COUNCIL).members,  # The node says more when it knows its seat.
            options=settings.net,
            book_path=Folder(settings.dir).peers,
            bans_path=Folder(settings.dir).bans,
        )

    return make


def _open_chain(settings: NodeSettings, genesis: Genesis) -> Any:
    """Blocking. Raises UserError: no answer, another chain, other contracts."""
    from p2pfl.evm import Addresses, Client, Staking, StakingWorker  # web3 is slow to import.

    assert settings.rpc is not None
    entry = genesis.chain
    client = Client.open(settings.rpc, key=settings.account_key, chain_id=entry.chain_id)
    return StakingWorker(Staking(client, Addresses(entry.chain_id, entry.registry, entry.slashing)))
