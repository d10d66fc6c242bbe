"""A whole network in one process: real nodes on a network in memory, under a virtual clock.

Everything is what `p2pfl node run` runs, but for what surrounds it: keys come from the cell's seed, time
from the clock, training happens in the event loop, and what is kept is kept in memory.
"""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import trio
import trio.testing

from consensus.types import MemberId
from p2pfl import keys, node
from p2pfl.genesis import COUNCIL, ChainEntry, Genesis, MemberEntry
from p2pfl.net.memory import MemoryHub, MemoryNetwork
from p2pfl.parts import Parts
from p2pfl.rounds.desk import Desk
from p2pfl.rounds.trainer import Trainer
from p2pfl.store import Folder
from p2pfl.store.options import StoreOptions
from testnet import attacks, plan
from testnet.experiments.cells import Cell, Material, material
from testnet.experiments.inline import InlineWorker, Memory, inline
from testnet.experiments.rooms import MemoryStore, Pool

NO_CHAIN = ChainEntry(0, MemberId(bytes(20)), MemberId(bytes(20)))
# Time stands still at the beginning of a cell: the same headers each time it is run.
START_MS = 1_767_225_600_000
# One way of a message. All have the same: who comes first is decided by what was sent first.
DELAY_S = 0.02
# After its last round a network has so long (of its own time) to end the cases that are open.
SETTLE_S = 600.0
# A network that does not end by itself is a finding, not something to wait for.
ROUND_S_MAX = 300.0


@dataclass
class World:
    """One network. events: what nodes told, with the virtual second."""

    cell: Cell
    data: Material
    genesis: Genesis
    seats: list[plan.Seat]
    secrets: dict[str, bytes]
    directory: Path
    memory: Memory = field(default_factory=Memory)
    pool: Pool = field(default_factory=Pool)
    parts: dict[str, Parts] = field(default_factory=dict)
    events: list[tuple[float, str, str, dict[str, Any]]] = field(default_factory=list)
    finished: set[str] = field(default_factory=set)
    ended: bool = False

    def name_of(self, member: MemberId) -> str:
        """Of a member, for people."""
        return self.genesis.member(member).name


def make(cell: Cell, data_dir: Path | None, directory: Path) -> World:
    """Draw everybody's keys and data and the genesis. Raises UserError."""
    data = material(cell, data_dir)
    scenario = cell.scenario()
    secrets: dict[str, bytes] = {}
    seats: list[plan.Seat] = []
    for name in (*scenario.member_names, *scenario.seat_names):
        secrets[name] = sha256(f"experiment {cell.seed} {name}".encode()).digest()
        member = keys.SigningKey.from_secret(secrets[name]).member_id
        # Nobody dials: the peer id is a name that is as unique as a true one.
        entry = MemberEntry(name, member, f"12D3KooW{member.hex()}", "/memory/0")
        group = name.partition("m")[0] if name[0] == "g" else COUNCIL
        seats.append(plan.Seat(name, group, Folder(directory / "nodes" / name), entry))
    ground = plan.Ground(scenario, directory, tuple(seats))
    genesis = plan.genesis_of(ground, plan.task_of(scenario, data.whole), NO_CHAIN)
    genesis = dataclasses.replace(genesis, start_time_ms=START_MS)
    return World(cell, data, genesis, seats, secrets, directory)


def assemble(world: World, hub: MemoryHub, seat: plan.Seat) -> Parts:
    """A node's parts, in memory; wrapped by nobody yet."""
    folder, genesis = seat.folder.path, world.genesis
    folder.mkdir(parents=True)
    key = keys.SigningKey.from_secret(world.secrets[seat.name])
    settings = node.NodeSettings(
        folder, world.directory / "genesis.json", seat.name, lasting=False, store=StoreOptions(history="none")
    )
    x, y = samples_of(world, seat)
    trainer = Trainer(genesis, x, y, worker=InlineWorker(world.memory))  # type: ignore[arg-type]
    trainer._public = (world.data.root_x, world.data.root_y, world.data.data)
    trainer.evaluate = _unmeasured  # type: ignore[method-assign]
    desk = Desk()

    def observe(kind: str, fields: dict[str, Any]) -> None:
        world.events.append((trio.current_time(), seat.name, kind, fields))
        if kind == "finished":
            world.finished.add(seat.name)

    everybody = [each.entry.member_id for each in world.seats]
    network: MemoryNetwork = hub.network(key.member_id, everybody, desk)
    return Parts(
        settings=settings, genesis=genesis, me=key.member_id, name=seat.name, entry=seat.entry,
        group=seat.group, key=key, store=MemoryStore(folder, genesis, world.pool),  # type: ignore[arg-type]
        guard=keys.Guard(folder / "guard", key, new_key=True), network=network, desk=desk, trainer=trainer,
        chain=None, observe=observe, clock_ms=lambda: START_MS + round(trio.current_time() * 1000),
    )  # fmt: skip


def samples_of(world: World, seat: plan.Seat) -> tuple[Any, Any]:
    """A member's own samples; a seat of the council has none."""
    if seat.group == COUNCIL:
        return None, None
    share = world.data.shares[world.seats.index(seat)]
    return world.data.data.train_x[share], world.data.data.train_y[share]


async def _unmeasured(_: Any) -> tuple[float, float]:
    """What a base is worth is measured once, after the run (`facts`)."""
    return 0.0, 0.0


async def live(world: World) -> None:
    """Let it learn until every group has done its rounds and the council's cases are over."""
    cell, hub = world.cell, MemoryHub(seed=world.cell.seed, delay_s=(DELAY_S, DELAY_S), whole=True)
    befallen = cell.cast()
    with trio.move_on_after(ROUND_S_MAX * cell.rounds):
        async with trio.open_nursery() as nursery:
            for seat in world.seats:
                parts = world.parts[seat.name] = assemble(world, hub, seat)
                attacks.put_on(parts, befallen.get(seat.name, []))
                await nursery.start(node.run, parts)
            await _until_finished(world)
            world.ended = True
            nursery.cancel_scope.cancel()


async def _until_finished(world: World) -> None:
    """Looks once a second of the virtual clock, which costs nothing."""
    members = [seat.name for seat in world.seats if seat.group != COUNCIL]
    await _until(lambda: world.finished.issuperset(members))
    desk = next(world.parts[seat.name] for seat in world.seats if seat.group == COUNCIL).desk
    with trio.move_on_after(SETTLE_S):
        await _until(lambda: _settled(world, desk.context.council.tip))


async def _until(holds: Callable[[], bool]) -> None:
    while not holds():  # noqa: ASYNC110 (nodes know nothing of whoever looks at them)
        await trio.sleep(1.0)


def _settled(world: World, state: Any) -> bool:
    last = world.cell.rounds - 1
    if any(height < last for height, _ in state.counted.values()):
        return False
    return not any(each.awaits_measurements or each.due_verdict() for each in state.cases.values())


@contextmanager
def temporary() -> Iterator[Path]:
    """A folder in memory where there is one: what is written there need not survive anything."""
    parent = Path("/dev/shm")  # noqa: S108 (the folder in it has a name of its own)
    made = Path(tempfile.mkdtemp(prefix="p2pfl-cell-", dir=parent if parent.is_dir() else None))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def run(cell: Cell, data_dir: Path | None = None) -> World:
    """The whole life of a network, in this thread. Deterministic where hashes are (PYTHONHASHSEED)."""
    with temporary() as directory:
        world = make(cell, data_dir, directory)
        with inline(world.memory, cell.seed):
            trio.run(live, world, clock=trio.testing.MockClock(autojump_threshold=0))
        return world
