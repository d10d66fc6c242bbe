"""A run on paper: everybody's own folder, key and data; nobody has another's."""

from __future__ import annotations

import dataclasses
import json
import socket
from pathlib import Path

import numpy as np
import pytest

from consensus.types import ZERO_MEMBER
from p2pfl import config
from p2pfl import genesis as genesis_file
from p2pfl.cli.node import node_settings
from p2pfl.errors import UserError
from p2pfl.genesis import COUNCIL, ChainEntry
from p2pfl.keys import load_signing_key
from p2pfl.learn.datasets import load_dataset, root_set
from p2pfl.learn.model_files import Named, write_safetensors
from p2pfl.params import Base, blob_id, parse_base
from p2pfl.parts import assemble, check_training, first_base
from testnet import plan
from testnet.scenarios import load

NO_CHAIN = ChainEntry(0, ZERO_MEMBER, ZERO_MEMBER)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> plan.Plan:
    scenario = load("honest", groups=2, members=4, seats=1, rounds=3)
    directory = plan.new_directory(tmp_path_factory.mktemp("run") / "new", scenario)
    return plan.draw_plan(plan.break_ground(scenario, directory), NO_CHAIN)


def test_the_genesis_names_everybody_with_their_own_key(drawn: plan.Plan) -> None:
    genesis = genesis_file.load(drawn.genesis_path)
    assert genesis == drawn.genesis
    assert [len(genesis.entry(name).members) for name in ("g0", "g1", COUNCIL)] == [4, 4, 1]
    for seat in drawn.ground.seats:
        key = load_signing_key(seat.folder.signing_key)
        assert genesis.member(key.member_id).name == seat.name
        assert genesis.group_of(key.member_id) == seat.group
        assert genesis_file.load(seat.folder.genesis).network_id == genesis.network_id


def test_data_are_shared_out_whole_and_once(drawn: plan.Plan) -> None:
    task = drawn.genesis.task
    _, _, rest = root_set(load_dataset("digits"), task.root_size, task.root_seed)
    pieces = []
    for seat in drawn.ground.seats:
        path = seat.folder.path / "data.npz"
        assert path.exists() == (seat.group != COUNCIL)
        if path.exists():
            with np.load(path) as file:
                assert file["x"].dtype == np.float32
                assert file["y"].dtype == np.int64
                assert file["x"].shape == (len(file["y"]), *task.input_shape)
                pieces.append(file["x"])
    whole = np.concatenate(pieces)
    assert len(whole) == len(rest.train_x)
    assert sorted(map(bytes, whole)) == sorted(map(bytes, rest.train_x))


def test_the_same_seed_shares_out_alike_and_another_does_not(tmp_path: Path) -> None:
    def first_labels(folder: str, seed: int) -> bytes:
        scenario = load("honest", groups=1, seats=1, seed=seed)
        made = plan.draw_plan(
            plan.break_ground(scenario, plan.new_directory(tmp_path / folder, scenario)), NO_CHAIN
        )
        with np.load(made.ground.seats[0].folder.path / "data.npz") as file:
            return bytes(file["y"])

    assert first_labels("a", 7) == first_labels("b", 7)
    assert first_labels("c", 8) != first_labels("d", 7)


def test_what_was_asked_for_is_kept(drawn: plan.Plan) -> None:
    kept = json.loads((drawn.ground.directory / "scenario.json").read_text())
    assert kept["network"]["groups"] == 2


def test_a_larger_model_gets_more_time(tmp_path: Path) -> None:
    scenario = load("honest", groups=1, seats=1, model="mlp")
    made = plan.draw_plan(plan.break_ground(scenario, tmp_path), NO_CHAIN)
    assert made.genesis.times.train_ms == 3 * plan.TIMES.train_ms
    assert made.genesis.times.clock_skew_ms == plan.TIMES.clock_skew_ms


def test_more_data_get_more_time_to_train(tmp_path: Path) -> None:
    scenario = load("honest", dataset="mnist", model="logistic")
    task = dataclasses.replace(plan.task_of(scenario, load_dataset("digits")), input_shape=(1, 28, 28))
    times = plan.times_of(scenario, task, 5_000)
    # Two passes over 5,000 samples of 784 numbers: 7.8 million, and 160 thousand over the root set.
    assert times.train_ms == 8 * plan.TIMES.train_ms
    assert (times.council_ms, times.reveal_ms) == (plan.TIMES.council_ms, plan.TIMES.reveal_ms)


def test_a_folder_that_is_not_empty_is_refused(tmp_path: Path) -> None:
    (tmp_path / "old").write_text("history")
    with pytest.raises(UserError, match="not empty"):
        plan.new_directory(tmp_path, load("honest"))
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


def test_an_unknown_model_is_told_the_known_ones(tmp_path: Path) -> None:
    scenario = load("honest", model="transformer")
    ground = plan.break_ground(load("honest", groups=1, seats=1), tmp_path)
    with pytest.raises(UserError, match="cnn"):
        plan.draw_plan(plan.Ground(scenario, tmp_path, ground.seats), NO_CHAIN)


def test_ports_are_free_and_differ() -> None:
    ports = plan.free_ports(20)
    assert len(set(ports)) == 20
    for port in ports:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", port))


def test_ports_that_are_taken_are_not_given_out() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match="free ports"):
            plan.free_ports(1, among=range(port, port + 1))


def drawn_from(tmp_path: Path, text: str, **overrides: object) -> plan.Plan:
    (tmp_path / "own.toml").write_text(text, encoding="utf-8")
    scenario = load(str(tmp_path / "own.toml"), **overrides)
    return plan.draw_plan(
        plan.break_ground(scenario, plan.new_directory(tmp_path / "run", scenario)), NO_CHAIN
    )


OWN = """title = "own"
claim = "own"
culprits = []
[holds]
all_rounds = true
[network]
groups = 1
seats = 1
rounds = 1
model = "logistic"
"""


def test_a_table_an_optimizer_and_a_partitioner_are_named_in_the_scenario(tmp_path: Path) -> None:
    kinds = ("oak", "rose", "tulip")
    lines = "".join(f"{i / 200},{i % 7 / 7},{kinds[i % 3]}\n" for i in range(200))
    (tmp_path / "flowers.csv").write_text("a,b,kind\n" + lines, encoding="utf-8")
    more = 'dataset = "flowers.csv#kind"\npartition = "Pathological"\nclasses_each = 2\n'
    task = '[task]\noptimizer = "adam"\nlocal_steps = 5\nproximal_micro = 10\nheld_out_percent = 20\n'
    made = drawn_from(tmp_path, OWN + more + task, data_dir=str(tmp_path)).genesis.task
    assert (made.classes, made.class_names, made.input_shape) == (3, kinds, (2,))
    assert (made.optimizer, made.local_steps, made.root_size) == ("adam", 5, 16)
    for number in range(4):
        with np.load(tmp_path / "run" / "nodes" / f"g0m{number}" / "data.npz") as file:
            assert len(np.unique(file["y"])) == 2


def test_a_users_own_data_set_and_model_work_by_module_and_function(tmp_path: Path) -> None:
    made = drawn_from(
        tmp_path, OWN + 'dataset = "tests.learn.own:own_larger"\n', model="tests.learn.own:own_model"
    )
    assert made.genesis.task.input_shape == (2,)
    assert genesis_file.load(made.genesis_path) == made.genesis


@pytest.mark.parametrize(
    ("task", "why"),
    [
        ("optimizer = 3", "must be of type str"),
        ('optimizer = "rmsprop"', "there is no optimizer 'rmsprop'"),
        ("momentum_micro = 1000000", "momentum_micro"),
        ("momentum_micro = 0.9", "must be of type int"),
        ("classes = 3", "has no classes"),
    ],
)
def test_a_training_that_cannot_be_is_refused(task: str, why: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as refused:
        drawn_from(tmp_path, OWN + "[task]\n" + task + "\n")
    assert why in str(refused.value)


def test_learning_starts_from_a_model_of_the_users(tmp_path: Path) -> None:
    task = plan.task_of(load("honest", model="logistic"), load_dataset("digits"))
    values = np.linspace(-1, 1, task.layout.size, dtype=np.float32)
    write_safetensors(tmp_path / "m.safetensors", Base(task.layout, values), Named("logistic", (1, 8, 8), 10))
    made = drawn_from(tmp_path, OWN, initial_model=str(tmp_path / "m.safetensors"))
    for beside in (made.genesis_path, made.ground.seats[0].folder.genesis):
        data = first_base(made.genesis, beside)
        assert blob_id(data) == made.genesis.initial_base_id
        assert np.array_equal(parse_base(data, task.layout).values, values)
        beside.with_name("initial.base").unlink()
        with pytest.raises(UserError, match="not the one that the genesis names"):
            first_base(made.genesis, beside)


def test_a_node_reads_its_own_folder_in_whatever_form(tmp_path: Path) -> None:
    made = drawn_from(tmp_path, OWN)
    folder = made.ground.seats[0].folder.path
    with np.load(folder / "data.npz") as file:
        x, y = file["x"], file["y"]
    (folder / "data.npz").unlink()
    head = ",".join(f"p{i}" for i in range(64))
    lines = [",".join(map(str, [*map(float, row), label])) for row, label in zip(x.reshape(-1, 64), y)]
    (folder / "data.csv").write_text("\n".join([head + ",label", *lines, ""]), encoding="utf-8")
    (folder / "node.toml").write_text('[node]\ndir = "."\nname = "g0m0"\nnew_keys = true\n', encoding="utf-8")
    settings = node_settings(config.load(folder / "node.toml", ["train.device=cuda:7"], {}))
    settings = dataclasses.replace(settings, genesis=made.genesis_path)
    parts = assemble(settings, network=lambda *_: None)
    try:
        held = parts.trainer.held_out
        assert held is not None
        assert (len(held[1]), parts.trainer.data_leaves) == (len(y) // 10, len(y) - len(y) // 10)
        assert sorted(map(bytes, np.concatenate((parts.trainer.x, held[0])))) == sorted(map(bytes, x))
        assert parts.trainer.device == "cuda:7"
    finally:
        parts.guard.close()
        parts.store.close()


def test_a_training_that_could_never_be_opened_is_refused_at_the_start(tmp_path: Path) -> None:
    """Who cannot open its round pays for it: an honest member must not get there."""
    task = plan.task_of(load("honest", model="mlp"), load_dataset("digits"))
    check_training(task, 400)
    with pytest.raises(UserError, match="could not be opened"):
        check_training(task, 15_000)
    check_training(dataclasses.replace(task, trace_every=64), 15_000)
    with pytest.raises(UserError, match="not those of its model"):
        check_training(dataclasses.replace(task, model="cnn"), 400)
    with pytest.raises(UserError, match="there is no optimizer"):
        check_training(dataclasses.replace(task, optimizer="rmsprop"), 400)
