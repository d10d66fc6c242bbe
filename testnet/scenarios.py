"""What is to happen in a run, and what must hold in the end: one TOML file a scenario.

Reads and checks them. Who carries them out is `launch`, who decides whether the claim holds is `judge`.
"""

from __future__ import annotations

import dataclasses
import tomllib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast, get_args, get_origin, get_type_hints

from p2pfl.errors import UserError
from p2pfl.genesis import Epochs, Rules, Task, Times
from testnet import attacks, judge

FOLDER = Path(__file__).with_name("scenarios")
# A committee's size (docs/protocol.md, Who is who). A council of one seat may exclude, never slash.
MEMBERS_MIN, MEMBERS_MAX = 4, 16
# More groups than one machine has use for; the processes are what limits them.
GROUPS_MAX = 64
# The steps of a round in which a kill may be placed: those that "step" events name.
STEPS = ("wait", "train", "reveal", "propose", "prepare", "commit")
# What a scenario may say of the training; the model and the data set are in [network].
TRAINING = {
    each.name: type(each.default) if each.default is not dataclasses.MISSING else int
    for each in dataclasses.fields(Task)
    if each.name
    not in ("model", "dataset", "input_shape", "classes", "class_names", "tensors", "root_size", "root_seed")
}


@dataclass(frozen=True)
class Shape:
    """How large the network is and what it learns. chain: whether there is an EVM chain with stakes.

    dataset, data_dir: see `p2pfl.learn.datasets`. partition and what follows it: `p2pfl.learn.partitions`.
    initial_model: a safetensors file to start from; empty: parameters drawn from the seed.
    """

    groups: int = 3
    groups_min: int = 1
    members: int = 4
    seats: int = 4
    rounds: int = 10
    model: str = "cnn"
    dataset: str = "digits"
    partition: str = "Dirichlet"
    alpha: float = 0.5
    classes_each: int = 2
    shards_each: int = 2
    sizes: tuple[int, ...] = ()
    data_dir: str = ""
    initial_model: str = ""
    seed: int = 1
    chain: bool = True


@dataclass(frozen=True)
class Attack:
    """A member that is wrapped in an attack (of `attacks`, or module:function), with its options."""

    member: str
    name: str
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Kill:
    """kill -9 of a group's Ci of round 0 when it reaches a step of a height, and its restart.

    votes: how many commitments, or votes, it must have in that step. restart_after_s: 0 is never.
    """

    group: str
    height: int
    step: str
    votes: int = 0
    restart_after_s: float = 0.0


@dataclass(frozen=True)
class Limits:
    """settle_s: how long the chain may take after the last round. run_s: the whole run, from the start."""

    settle_s: float = 60.0
    run_s: float = 400.0


@dataclass(frozen=True)
class Scenario:
    """A whole scenario. culprits: who is to be accused and slashed. holds: see `judge.CONDITIONS`.

    left_out: who is to be left out of the aggregates, and not to be slashed.
    """

    name: str
    title: str
    claim: str
    culprits: tuple[str, ...]
    holds: dict[str, Any]
    left_out: tuple[str, ...] = ()
    network: Shape = field(default_factory=Shape)
    attacks: tuple[Attack, ...] = ()
    kills: tuple[Kill, ...] = ()
    limits: Limits = field(default_factory=Limits)
    task: dict[str, Any] = field(default_factory=dict)
    times: dict[str, int] = field(default_factory=dict)
    rules: dict[str, Any] = field(default_factory=dict)
    epochs: dict[str, int] = field(default_factory=dict)
    challenge_window_s: int = 2

    @property
    def member_names(self) -> tuple[str, ...]:
        """g0m0, g0m1, .."""
        shape = self.network
        return tuple(f"g{g}m{m}" for g in range(shape.groups) for m in range(shape.members))

    @property
    def seat_names(self) -> tuple[str, ...]:
        """seat0, seat1, .."""
        return tuple(f"seat{i}" for i in range(self.network.seats))


def known() -> tuple[str, ...]:
    """The names of the scenarios that come with the package."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.toml")))


def load(name: str, **overrides: Any) -> Scenario:
    """The scenario of this name, or in this .toml file; overrides of None are none. Raises UserError."""
    path = Path(name) if name.endswith(".toml") else FOLDER / f"{name}.toml"
    if not path.is_file():
        raise UserError(
            f"there is no scenario {name!r}",
            because=f"the known ones are {', '.join(known())}",
            fix="name one of them, or the path of a .toml file of your own",
        )
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
        scenario = _table(raw | {"name": path.stem}, Scenario, "")
    except (ValueError, OSError) as error:
        raise UserError(
            f"the scenario {path} is not valid",
            because=str(error),
            fix=f"compare it with {FOLDER}/sign_flip.toml",
        ) from error
    asked = {key: value for key, value in overrides.items() if value is not None}
    scenario = replace(scenario, network=replace(scenario.network, **asked))
    _check(scenario)
    return scenario


def from_json(raw: dict[str, Any]) -> Scenario:
    """The scenario that a run keeps as scenario.json. Raises ValueError."""
    return _table(raw, Scenario, "")


def _check(scenario: Scenario) -> None:
    """Raise UserError for a scenario that cannot be run."""
    shape = scenario.network
    faults: list[tuple[bool, str]] = [
        (
            not shape.groups_min <= shape.groups <= GROUPS_MAX,
            f"groups must be {shape.groups_min} to {GROUPS_MAX}",
        ),
        (
            not MEMBERS_MIN <= shape.members <= MEMBERS_MAX,
            f"members must be {MEMBERS_MIN} to {MEMBERS_MAX} a group",
        ),
        (
            shape.seats != 1 and not MEMBERS_MIN <= shape.seats <= MEMBERS_MAX,
            f"seats must be 1 or {MEMBERS_MIN} to {MEMBERS_MAX}",
        ),
        (shape.rounds < 1, "there must be at least one round"),
    ]
    names = {*scenario.member_names, *scenario.seat_names}
    groups = {f"g{g}" for g in range(shape.groups)}
    bad = (*scenario.culprits, *scenario.left_out)
    for name in (*bad, *(attack.member for attack in scenario.attacks)):
        faults.append((name not in names, f"it needs the member {name}, which a network of this size lacks"))
    for kill in scenario.kills:
        faults.append((kill.group not in groups, f"it needs the group {kill.group}"))
        faults.append(
            (not 0 < kill.height < shape.rounds, f"it kills at height {kill.height} of {shape.rounds}")
        )
        faults.append((kill.step not in STEPS, f"there is no step {kill.step!r} among {', '.join(STEPS)}"))
    for attack in scenario.attacks:
        attacks.check(attack.name, attack.options)
        when = attack.options.get("height", 0)
        faults.append((when >= shape.rounds, f"{attack.member} turns bad at height {when} of {shape.rounds}"))
    for because in (text for wrong, text in faults if wrong):
        raise UserError(
            f"the scenario {scenario.name!r} cannot be run like this",
            because=because,
            fix="change --groups, --members, --seats or --rounds, or leave them out",
        )
    _check_holds(scenario)


def _check_holds(scenario: Scenario) -> None:
    unknown = sorted(set(scenario.holds) - set(judge.CONDITIONS))
    if unknown or not scenario.holds:
        raise UserError(
            f"the claim of the scenario {scenario.name!r} cannot be checked",
            because=f"there is no condition {', '.join(unknown)}" if unknown else "it names no condition",
            fix=f"the conditions are {', '.join(sorted(judge.CONDITIONS))}",
        )
    tables = {
        "task": set(TRAINING),
        "times": _fields(Times),
        "rules": _fields(Rules),
        "epochs": _fields(Epochs),
    }
    for name, fields in tables.items():
        wrong = sorted(set(getattr(scenario, name)) - fields)
        if wrong:
            raise UserError(
                f"the scenario {scenario.name!r} is not valid",
                because=f"[{name}] has no {', '.join(wrong)}",
                fix=f"they are {', '.join(sorted(fields))}",
            )

    for name, value in scenario.task.items():
        if type(value) is not TRAINING[name]:
            raise UserError(
                f"the scenario {scenario.name!r} is not valid",
                because=f"task.{name} is {value!r}, and must be of type {TRAINING[name].__name__}",
                fix="rates are whole numbers: a millionth is 1",
            )


def _fields(kind: type[Any]) -> set[str]:
    return {each.name for each in dataclasses.fields(kind)}


def _table(raw: Any, kind: type[Any], where: str) -> Any:
    """The dataclass that a TOML table describes. Raises ValueError with the place of what is wrong."""
    if not isinstance(raw, dict):
        raise ValueError(f"{where or 'the file'} must be a table")
    hints = get_type_hints(kind)
    fields = {each.name: each for each in dataclasses.fields(kind)}
    for name in raw:
        if name not in fields:
            raise ValueError(f"{where}{name} is unknown; known here: {', '.join(sorted(fields))}")
    for name, each in fields.items():
        optional = each.default is not dataclasses.MISSING or each.default_factory is not dataclasses.MISSING
        if name not in raw and not optional:
            raise ValueError(f"{where}{name} is missing")
    return kind(**{name: _value(value, hints[name], f"{where}{name}") for name, value in raw.items()})


def _value(value: Any, kind: Any, where: str) -> Any:
    if dataclasses.is_dataclass(kind):
        return _table(value, cast(type, kind), f"{where}.")
    if get_origin(kind) is tuple:
        if not isinstance(value, list):
            raise ValueError(f"{where} must be a list")
        return tuple(_value(item, get_args(kind)[0], f"{where}[{i}]") for i, item in enumerate(value))
    plain: Any = get_origin(kind) or kind
    if plain is float and type(value) is int:
        return float(value)
    if type(value) is not plain:
        raise ValueError(f"{where} must be of type {plain.__name__}, not {type(value).__name__}")
    return value
