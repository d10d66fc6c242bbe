"""`p2pfl node run` as an operator calls it: one real process on a real socket."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from consensus.types import ZERO_MEMBER
from p2pfl import errors
from p2pfl.genesis import ChainEntry
from testnet import plan
from testnet.scenarios import Scenario, Shape

ROOT = Path(__file__).parents[2]
UP_S_MAX = 60
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> plan.Plan:
    """A network of one group and one seat on paper: keys, data, genesis."""
    shape = Shape(groups=1, members=4, seats=1, model="logistic", chain=False)
    scenario = Scenario(name="paper", title="", claim="", culprits=(), holds={}, network=shape)
    ground = plan.break_ground(scenario, tmp_path_factory.mktemp("network"))
    return plan.draw_plan(ground, ChainEntry(0, ZERO_MEMBER, ZERO_MEMBER))


def start(seat: plan.Seat, *flags: str) -> subprocess.Popen[str]:
    settings = [
        f"node.dir={seat.folder.path}",
        f"node.genesis={seat.folder.genesis}",
        f"node.name={seat.name}",
    ]
    words = [word for each in (*settings, *flags) for word in ("--set", each)]
    return subprocess.Popen(
        [sys.executable, "-m", "p2pfl", "node", "run", *words],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )


def test_a_node_comes_up_and_goes_down_when_told_and_comes_up_again(folders: plan.Plan) -> None:
    seat = folders.ground.seats[0]
    for flag in ("node.new_keys=true", "node.new_keys=false"):
        told: list[str] = []
        with start(seat, flag) as node:
            assert node.stderr is not None
            for line in node.stderr:
                told.append(line)
                if "the node is up" in line:
                    node.send_signal(signal.SIGTERM)
        assert node.returncode == errors.EXIT_OK, "".join(told)
        assert any("the node is up" in line for line in told), "".join(told)


def test_a_key_that_may_have_signed_before_does_not_start_without_its_guard(folders: plan.Plan) -> None:
    node = start(folders.ground.seats[1])
    _, told = node.communicate(timeout=UP_S_MAX)
    assert node.returncode == errors.EXIT_USER
    assert "guard" in told
    assert "node.new_keys=true" in told


def test_a_key_whose_guard_is_lost_starts_when_told_so_and_says_from_when_on_it_signs(
    folders: plan.Plan,
) -> None:
    seat = folders.ground.seats[3]
    for flag in ("node.guard_lost=true", "node.guard_lost=false"):  # The second time the guard remembers.
        told: list[str] = []
        with start(seat, flag) as node:
            assert node.stderr is not None
            for line in node.stderr:
                told.append(line)
                if "the node is up" in line:
                    node.send_signal(signal.SIGTERM)
        assert node.returncode == errors.EXIT_OK, "".join(told)
        (said,) = [line for line in told if "the guard of this key was lost" in line]
        assert "it signs from the first epoch on that begins after 2" in said
        assert any("the node is up" in line for line in told), "".join(told)


def test_a_port_in_use_is_told(folders: plan.Plan) -> None:
    seat = folders.ground.seats[2]
    port = int(seat.entry.address.rpartition("/")[2])
    with socket.socket() as taken:
        taken.bind((plan.HOST, port))
        taken.listen()
        node = start(seat, "node.new_keys=true")
        _, told = node.communicate(timeout=UP_S_MAX)
    assert node.returncode == errors.EXIT_USER, told
    assert str(port) in told
    assert "Traceback" not in told
