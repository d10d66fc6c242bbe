"""A run on paper: everybody's own folder, key and data; nobody has another's."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import numpy as np
import pytest

from consensus.types import ZERO_MEMBER
from p2pfl import genesis as genesis_file
from p2pfl.errors import UserError
from p2pfl.genesis import COUNCIL, ChainEntry
from p2pfl.keys import load_signing_key
from p2pfl.learn.datasets import load_dataset, root_set
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
