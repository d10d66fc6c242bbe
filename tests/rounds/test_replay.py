"""An opened round: honest states replay to the last bit, whatever was bent is measured or refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from consensus import merkle
from consensus.types import Digest
from p2pfl import codec
from p2pfl.errors import PeerFault
from p2pfl.learn import train as learn
from p2pfl.learn.datasets import data_root
from p2pfl.learn.states import State, decode_state, encode_state, trace_leaves
from p2pfl.learn.train import TrainJob, train
from p2pfl.node import initial_base
from p2pfl.params import BLOB_BYTES_MAX, Base, Update, delta_of, quantize
from p2pfl.rounds.replay import (
    WORST_PPM_MAX,
    Opening,
    job_of_opening,
    make_opening,
    measure,
    opening_bytes_max,
    read_opening,
)
from p2pfl.rounds.trainer import job_of
from p2pfl.signed import ParamTx
from testnet import plan, scenarios
from tests.rounds.small_network import NO_CHAIN

THRESHOLD_PPM = 100_000


def opening_of(data: bytes, tx: Any, base: Any, genesis: Any) -> Any:
    """As the council reads it, of the group in which the member sits."""
    opening = read_opening(data, tx)
    group_id = genesis.group_id(genesis.group_of(tx.member))
    return opening, job_of_opening(opening, tx, base, genesis, group_id)


def test_a_member_with_many_samples_can_open_its_round() -> None:
    """More samples than a message may have items: the reader knows from the commitment how many there are."""
    count = codec.ITEMS_MAX + 1000
    samples = tuple(n.to_bytes(4, "big") for n in range(count))
    states = (bytes(64), bytes(64))
    tx: Any = SimpleNamespace(
        data_leaves=count, data_root=merkle.root(samples), trace_root=merkle.root(trace_leaves(states))
    )
    assert read_opening(codec.encode(Opening(samples, states)), tx).samples == samples


async def test_no_opening_is_longer_than_its_commitment_allows(one: Round) -> None:
    data, tx = one.opened()
    most = opening_bytes_max(tx, one.genesis.task)  # type: ignore[attr-defined]
    assert len(data) <= most < 1.2 * len(data) + 1000
    assert opening_bytes_max(dataclasses.replace(tx, data_leaves=1 << 60), one.genesis.task) == BLOB_BYTES_MAX  # type: ignore[attr-defined]


@dataclasses.dataclass
class Round:
    """One member's honest round, and what it would open."""

    genesis: object
    base: Base
    x: np.ndarray
    y: np.ndarray
    states: list[bytes]
    update: Update
    tx: ParamTx

    def opened(
        self, states: list[bytes] | None = None, update: Update | None = None
    ) -> tuple[bytes, ParamTx]:
        """The opening's bytes and the commitment that goes with these states."""
        states = states or self.states
        root = merkle.root(trace_leaves(states))
        return make_opening(self.x, self.y, states), dataclasses.replace(self.tx, trace_root=root)

    async def worst_ppm(self, states: list[bytes] | None = None, update: Update | None = None) -> int:
        data, tx = self.opened(states)
        opening, job = opening_of(data, tx, self.base, self.genesis)
        return await measure(opening, job, self.base, update or self.update, replay_here)


async def replay_here(job: TrainJob, state: bytes, segment: int) -> bytes:
    return learn.replay_segment(job, state, segment)


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Round:
    directory = Path(tmp_path_factory.mktemp("replay"))
    (directory / "nodes").mkdir()
    scenario = scenarios.load("honest", groups=1, members=4, seats=1)
    drawn = plan.draw_plan(plan.break_ground(scenario, directory), NO_CHAIN)
    # Steps enough for several segments.
    genesis = dataclasses.replace(
        drawn.genesis,
        task=dataclasses.replace(drawn.genesis.task, local_epochs=2, trace_every=4, batch_size=64),
    )
    member = genesis.groups[0].members[0].member_id
    with np.load(directory / "nodes" / "g0m0" / "data.npz") as file:
        x, y = file["x"], file["y"]
    base = initial_base(genesis)
    group = genesis.group_id("g0")
    seed = genesis.round_seed(group, 0, 0)
    result = train(job_of(genesis.task, base.values, x, y, seed=seed, member=member))
    assert len(result.states) >= 3
    update, _ = quantize(delta_of(base, result.parameters), genesis.task.layout, genesis.initial_exponents)
    root, leaves = data_root(x, y)
    tx = ParamTx(
        0, 0, member, genesis.initial_base_id, Digest(bytes(32)), 0, len(y), 0, root, leaves,
        result.trace_root, 0, 0,
    )  # fmt: skip
    return Round(genesis, base, x, y, result.states, update, tx)


def flipped(one: Round, scale: float = 1.0) -> Update:
    values = np.clip(-scale * one.update.values.astype(np.int64), -32767, 32767).astype(np.int16)
    return dataclasses.replace(one.update, values=values)


async def test_an_honest_round_replays_to_the_last_bit(one: Round) -> None:
    assert await one.worst_ppm() == 0


async def test_an_update_that_is_not_the_last_states_is_measured(one: Round) -> None:
    assert await one.worst_ppm(update=flipped(one)) > 10 * THRESHOLD_PPM


async def test_a_faked_last_state_is_measured(one: Round) -> None:
    last = decode_state(one.states[-1], len(one.base.values))
    turned = (2 * one.base.values - last.parameters).astype(np.float32)
    states = [*one.states[:-1], encode_state(State(last.step, turned, last.moments))]
    assert await one.worst_ppm(states, flipped(one)) > 10 * THRESHOLD_PPM


async def test_a_lie_that_was_found_ends_the_replay(one: Round) -> None:
    data, tx = one.opened(None)
    opening, job = opening_of(data, tx, one.base, one.genesis)
    replayed: list[int] = []

    async def counted(job: TrainJob, state: bytes, segment: int) -> bytes:
        replayed.append(segment)
        return await replay_here(job, state, segment)

    worst = await measure(opening, job, one.base, flipped(one), counted, enough_ppm=THRESHOLD_PPM)
    assert worst > 10 * THRESHOLD_PPM and not replayed
    assert await measure(opening, job, one.base, one.update, counted, enough_ppm=THRESHOLD_PPM) == 0
    assert replayed == list(range(job.segments))


async def test_a_faked_middle_state_is_measured(one: Round) -> None:
    middle = decode_state(one.states[1], len(one.base.values))
    bent = encode_state(State(middle.step, middle.parameters * np.float32(1.5), middle.moments))
    assert await one.worst_ppm([one.states[0], bent, *one.states[2:]]) > THRESHOLD_PPM


async def test_every_vector_that_the_optimiser_remembers_is_compared(one: Round) -> None:
    """Adam's second moment steers all later steps: whoever bends it alone bends where training goes."""
    genesis = dataclasses.replace(
        one.genesis,  # type: ignore[type-var]
        task=dataclasses.replace(one.genesis.task, optimizer="adam", learning_rate_micro=1_000),  # type: ignore[attr-defined]
    )
    seed = genesis.round_seed(genesis.group_id("g0"), 0, 0)  # type: ignore[attr-defined]
    job = job_of(genesis.task, one.base.values, one.x, one.y, seed=seed, member=one.tx.member)  # type: ignore[attr-defined]
    result = train(job)
    update, _ = quantize(delta_of(one.base, result.parameters), one.update.layout, one.update.exponents)
    adam = dataclasses.replace(one, genesis=genesis, states=result.states, update=update)
    assert await adam.worst_ppm() == 0
    middle = decode_state(result.states[1], len(one.base.values))
    bent = encode_state(dataclasses.replace(middle, moments=(middle.moments[0], middle.moments[1] * 4)))
    assert await adam.worst_ppm([result.states[0], bent, *result.states[2:]]) > 10 * THRESHOLD_PPM
    fewer = encode_state(dataclasses.replace(middle, moments=middle.moments[:1]))
    assert await adam.worst_ppm([result.states[0], fewer, *result.states[2:]]) == WORST_PPM_MAX
    data, tx = adam.opened()
    assert len(data) <= opening_bytes_max(tx, genesis.task) < 1.2 * len(data) + 1000  # type: ignore[attr-defined]


@pytest.mark.parametrize(("optimizer", "noise"), [("momentum", 1.0), ("adam", 200.0)])
async def test_who_has_nothing_left_to_learn_is_not_measured_by_its_rounding_noise(
    one: Round, optimizer: str, noise: float
) -> None:
    """Another machine is stood in for by noise: of a rounding a parameter, and by Adam's division of it."""
    genesis: Any = one.genesis
    task = dataclasses.replace(genesis.task, optimizer=optimizer, learning_rate_micro=1_000)
    # Of one class, and sure of it: what is left of a gradient is below float32's rounding.
    base = Base(one.base.layout, one.base.values.copy())
    base.values[base.layout.slices()[-1]] = [40] + [0] * (task.classes - 1)
    job = job_of(task, base.values, one.x, np.zeros_like(one.y), seed=bytes(32), member=one.tx.member)
    result = train(dataclasses.replace(job, keep_states=True))
    update, _ = quantize(delta_of(base, result.parameters), one.update.layout, one.update.exponents)
    chance = np.random.RandomState(0)
    unit = np.spacing(np.abs(base.values)) * np.float32(noise)

    async def elsewhere(job: TrainJob, state: bytes, segment: int) -> bytes:
        here = decode_state(await replay_here(job, state, segment), len(base.values))
        nudged = here.parameters + unit * chance.choice([-1, 1], len(unit)).astype(np.float32)
        moments = tuple(m * np.float32(2) + np.float32(1e-12) for m in here.moments)
        return encode_state(State(here.step, nudged.astype(np.float32), moments))

    honest = Opening((), tuple(result.states))
    assert await measure(honest, job, base, update, elsewhere) < THRESHOLD_PPM
    # A lie of the length of any update worth the name is seen as before.
    last = decode_state(result.states[-1], len(base.values))
    for away in (1.0, 0.01):
        lie = chance.normal(size=len(unit))
        lie *= away * np.linalg.norm(base.values) / np.linalg.norm(lie)
        bent = encode_state(State(last.step, (last.parameters + lie).astype(np.float32), last.moments))
        lying = Opening((), (*result.states[:-1], bent))
        told, _ = quantize(delta_of(base, last.parameters + lie), update.layout, update.exponents)
        assert await measure(lying, job, base, told, elsewhere) > 2 * THRESHOLD_PPM


@pytest.mark.parametrize("scale", [-1.0, 2.0])
async def test_a_last_segment_turned_round_or_doubled_is_measured(one: Round, scale: float) -> None:
    before, last = (decode_state(state, len(one.base.values)) for state in one.states[-2:])
    moved = before.parameters + np.float32(scale) * (last.parameters - before.parameters)
    bent = encode_state(State(last.step, moved, last.moments))
    update, _ = quantize(delta_of(one.base, moved), one.update.layout, one.update.exponents)
    lying = dataclasses.replace(one, update=update)
    assert await lying.worst_ppm([*one.states[:-1], bent]) > 9 * THRESHOLD_PPM


async def test_another_start_than_the_base_is_guilt_at_once(one: Round) -> None:
    first = decode_state(one.states[0], len(one.base.values))
    moved = encode_state(State(0, first.parameters + np.float32(1), first.moments))
    assert await one.worst_ppm([moved, *one.states[1:]]) == WORST_PPM_MAX


async def test_states_that_are_none_are_guilt(one: Round) -> None:
    assert await one.worst_ppm([one.states[0], b"rubbish", *one.states[2:]]) == WORST_PPM_MAX


def test_an_opening_must_match_what_was_committed(one: Round) -> None:
    data, tx = one.opened()
    opening_of(data, tx, one.base, one.genesis)
    other_root = dataclasses.replace(tx, data_root=Digest(b"x" * 32))
    with pytest.raises(PeerFault, match="data root"):
        opening_of(data, other_root, one.base, one.genesis)
    with pytest.raises(PeerFault, match="trace root"):
        opening_of(data, dataclasses.replace(tx, trace_root=Digest(bytes(32))), one.base, one.genesis)
    fewer, tx_of_fewer = one.opened(one.states[:-1])
    with pytest.raises(PeerFault, match="were to be committed"):
        opening_of(fewer, tx_of_fewer, one.base, one.genesis)
    with pytest.raises(PeerFault, match="bad_opening"):
        opening_of(data[:-1], tx, one.base, one.genesis)
