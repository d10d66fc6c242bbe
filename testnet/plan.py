"""One run on paper, before any process of it: folders, throw-away keys, ports, everybody's data, the genesis.

    DIR/genesis.json              what all share (and initial.base, if they start from a model of the user's)
    DIR/scenario.json             what was asked for
    DIR/nodes/<name>/             one node's own folder (p2pfl.store), with data.npz, its own samples

Knows no process and no chain: who deployed the contracts hands their addresses in.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import random
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np

from consensus.types import Digest
from p2pfl import genesis as genesis_file
from p2pfl import keys
from p2pfl.durable import disk_error
from p2pfl.errors import UserError
from p2pfl.genesis import COUNCIL, ChainEntry, Epochs, Genesis, GroupEntry, MemberEntry, Rules, Task, Times
from p2pfl.learn import models
from p2pfl.learn.datasets import Dataset, load_dataset, root_set
from p2pfl.learn.model_files import INITIAL_BASE, read_model, write_base
from p2pfl.learn.optimizers import optimizer
from p2pfl.learn.partitions import partition
from p2pfl.net.identity import peer_id_of
from p2pfl.node import initial_base
from p2pfl.params import blob_id
from p2pfl.rules.defaults import DEFAULT_RULES
from p2pfl.rules.limits import check_genesis
from p2pfl.store import Folder
from testnet import honest_rounds
from testnet.scenarios import Scenario

HOST = "127.0.0.1"
# Ports below the range from which the system takes the near ends of outgoing connections: a port that was
# free a moment ago must not be somebody's near end when its node comes to listen.
PORTS = range(20_000, 32_000)
# The public samples on which the council trains its root update: ten of each digit, a tenth of a small table.
ROOT_SIZE = 100
# First updates of these models are below 1 in each coordinate; the council fits the exponents after that.
INITIAL_EXPONENT = -15

# What p2pfl.learn measured as good for digits shared out to twelve: 0.96 right after ten rounds.
TASK = {
    "local_epochs": 2,
    "batch_size": 16,
    "learning_rate_micro": 50_000,
    "momentum_micro": 900_000,
    "trace_every": 16,
}
# Two processors for sixteen nodes: a part of a round takes longer than on sixteen machines. What overruns
# its part costs a round change, so the parts are several times what they take on a busy machine.
TIMES = Times(
    council_ms=6_000,
    open_ms=3_000,
    train_ms=7_000,
    collect_ms=2_000,
    reveal_ms=5_000,
    propose_ms=10_000,
    gather_ms=5_000,
    double_max=3,
    clock_skew_ms=30_000,
)
# Each so many parameters take as long again as the smallest models: training, fetching, checking.
STRETCH_COORDINATES = 500_000
# And so many numbers (pixels, columns) that a training goes through: MNIST shared out to twelve is eight
# times as much, a minute of the cnn on one processor.
STRETCH_VALUES = 1_000_000


@dataclass(frozen=True)
class Seat:
    """One process to be: a member or a council seat. group: "council" for a seat."""

    name: str
    group: str
    folder: Folder
    entry: MemberEntry


@dataclass(frozen=True)
class Ground:
    """What is known before the contracts are: folders and keys, and who listens where."""

    scenario: Scenario
    directory: Path
    seats: tuple[Seat, ...]


@dataclass(frozen=True)
class Plan:
    """Everything that the launcher needs to start the processes."""

    ground: Ground
    genesis: Genesis
    genesis_path: Path


def new_directory(wanted: Path | None, scenario: Scenario) -> Path:
    """The run's folder: the wanted one, new or empty, or a new one in ./runs. Raises UserError."""
    directory = wanted or Path("runs") / f"{scenario.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    try:
        if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
            raise UserError(
                f"{directory} is not empty",
                because="a run writes a new history, and never over an old one",
                fix="name another folder with --dir, or remove this one",
            )
        (directory / "nodes").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise disk_error(directory, error) from error
    return directory.resolve()


def break_ground(scenario: Scenario, directory: Path) -> Ground:
    """Make everybody's folder and keys, and choose the ports."""
    names = [*scenario.member_names, *scenario.seat_names]
    seats: list[Seat] = []
    for name, port in zip(names, free_ports(len(names)), strict=True):
        folder = Folder(directory / "nodes" / name)
        folder.make()
        signing_key = keys.create_signing_key(folder.signing_key)
        peer_seed = keys.create_peer_key(folder.peer_key)
        entry = MemberEntry(name, signing_key.member_id, peer_id_of(peer_seed), f"/ip4/{HOST}/tcp/{port}")
        seats.append(Seat(name, name.partition("m")[0] if name[0] == "g" else COUNCIL, folder, entry))
    return Ground(scenario, directory, tuple(seats))


def draw_plan(ground: Ground, chain: ChainEntry) -> Plan:
    """The genesis, and everybody's data, written. Raises UserError: an unknown model, too few samples."""
    scenario, shape = ground.scenario, ground.scenario.network
    whole = load_dataset(shape.dataset, Path(shape.data_dir) if shape.data_dir else None)
    task = task_of(scenario, whole)
    optimizer.find(task.optimizer)
    _share_out(ground, task, whole)
    samples = len(whole.train_y) // len(scenario.member_names)
    genesis = genesis_of(ground, task, chain, samples=samples)
    check_genesis(genesis)
    path = ground.directory / "genesis.json"
    genesis_file.save(genesis, path)
    for seat in ground.seats:
        seat.folder.genesis.write_bytes(path.read_bytes())
    if shape.initial_model:
        base = read_model(Path(shape.initial_model), task.layout)
        for beside in (path, *(seat.folder.genesis for seat in ground.seats)):
            write_base(beside.with_name(INITIAL_BASE), base)
    asked = dataclasses.asdict(scenario)
    (ground.directory / "scenario.json").write_text(json.dumps(asked, indent=1) + "\n", encoding="utf-8")
    return Plan(ground, genesis, path)


def task_of(scenario: Scenario, whole: Dataset) -> Task:
    """What is learnt."""
    shape = scenario.network
    tensors = models.layout(shape.model, whole.input_shape, whole.classes).tensors
    return Task(
        model=shape.model,
        dataset=shape.dataset,
        input_shape=whole.input_shape,
        classes=whole.classes,
        class_names=whole.class_names,
        tensors=tensors,
        root_size=min(ROOT_SIZE, len(whole.train_y) // 10),
        root_seed=shape.seed,
        **{**TASK, **scenario.task},
    )


def times_of(scenario: Scenario, task: Task, samples: int = 0) -> Times:
    """How long the parts of a round may take: longer for larger models, unless the scenario says it.

    samples: of a member; training on many takes longer, for members and (on the root set) for the council.
    """
    stretch = 1 + task.layout.size // STRETCH_COORDINATES
    parts = {
        each.name: getattr(TIMES, each.name) * stretch
        for each in dataclasses.fields(Times)
        if each.name.endswith("_ms") and each.name != "clock_skew_ms"
    }
    for name, learnt in (("train_ms", samples), ("council_ms", task.root_size), ("gather_ms", samples)):
        values = task.steps(learnt) * task.batch_size * math.prod(task.input_shape)
        parts[name] += getattr(TIMES, name) * (values // STRETCH_VALUES)
    return dataclasses.replace(TIMES, **{**parts, **scenario.times})


def rules_of(scenario: Scenario) -> Rules:
    """The thresholds everybody judges by."""
    return dataclasses.replace(DEFAULT_RULES, **scenario.rules)


def genesis_of(ground: Ground, task: Task, chain: ChainEntry, *, samples: int = 0) -> Genesis:
    """What all members share, from whatever is known. Public chance comes from the scenario's seed.

    samples: see `times_of`.
    """
    scenario, shape = ground.scenario, ground.scenario.network
    groups = [f"g{g}" for g in range(shape.groups)]
    made = Genesis(
        version=genesis_file.GENESIS_VERSION,
        name=f"testnet {scenario.name}",
        seed=Digest(sha256(b"testnet" + shape.seed.to_bytes(8, "big", signed=True)).digest()),
        chain=chain,
        task=task,
        times=times_of(scenario, task, samples),
        rules=rules_of(scenario),
        groups=tuple(GroupEntry(name, _entries(ground, name)) for name in groups),
        council=GroupEntry(COUNCIL, _entries(ground, COUNCIL)),
        rounds=shape.rounds,
        initial_base_id=Digest(bytes(32)),
        initial_exponents=(INITIAL_EXPONENT,) * len(task.tensors),
        start_time_ms=time.time_ns() // 1_000_000,
        epochs=Epochs(**scenario.epochs),
        pool=honest_rounds.shipped(),
    )
    given = shape.initial_model
    base = read_model(Path(given), task.layout) if given else initial_base(made)
    return dataclasses.replace(made, initial_base_id=blob_id(base.to_bytes()))


def _entries(ground: Ground, group: str) -> tuple[MemberEntry, ...]:
    return tuple(seat.entry for seat in ground.seats if seat.group == group)


def _share_out(ground: Ground, task: Task, whole: Dataset) -> None:
    """Give each member its own samples: nobody has another's, nobody the public root set."""
    shape = ground.scenario.network
    _, _, rest = root_set(whole, task.root_size, task.root_seed)
    members = [seat for seat in ground.seats if seat.group != COUNCIL]
    shares = partition(
        rest.train_y,
        shape.partition,
        len(members),
        seed=shape.seed,
        alpha=shape.alpha,
        classes_each=shape.classes_each,
        shards_each=shape.shards_each,
        sizes=shape.sizes,
    )
    for seat, share in zip(members, shares, strict=True):
        np.savez(seat.folder.path / "data.npz", x=rest.train_x[share], y=rest.train_y[share])


# ---------------------------------------------------------------------------
# Ports.


def free_ports(count: int, *, among: range = PORTS) -> list[int]:
    """So many ports of this machine that nobody listens at now, in random order. Raises UserError."""
    found: list[int] = []
    for port in _shuffled(_below_ephemeral(among)):
        if len(found) == count:
            break
        if _is_free(port):
            found.append(port)
    if len(found) < count:
        raise UserError(
            f"there are no {count} free ports on {HOST}",
            because=f"only {len(found)} of {among.start} to {among.stop - 1} can be bound",
            fix="end what listens there, or use fewer groups and members",
        )
    return found


def _below_ephemeral(among: range) -> range:
    try:
        lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="ascii").split()[0])
    except (OSError, ValueError, IndexError):
        return among
    return range(among.start, min(among.stop, lowest)) if lowest > among.start else among


def _shuffled(ports: range) -> Iterator[int]:
    yield from random.Random(os.urandom(16)).sample(ports, len(ports))


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True
