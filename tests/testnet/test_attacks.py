"""Attacks do what they say: consistent commitments to a lie, two votes that prove an offence."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import trio

from consensus import merkle, signing
from consensus.evidence import OffenceKind, offence
from consensus.types import Digest, MemberId, Prepare, PrepareMessage, SignedPrepare
from p2pfl.errors import UserError
from p2pfl.genesis import Task
from p2pfl.keys import SigningKey
from p2pfl.learn.datasets import data_root
from p2pfl.learn.models import layout
from p2pfl.learn.states import decode_state, start_state, trace_leaves
from p2pfl.learn.train import TrainJob, replay_segment, train
from p2pfl.net.wire import ConsensusMessage, OpenRequest, Tip
from p2pfl.rounds.trainer import job_of
from testnet import attacks
from testnet.attacks import data, riders

BASE = np.linspace(-0.1, 0.1, 650, dtype=np.float32)


class HonestTrainer:
    """The real training of a small model, in this process."""

    samples = 40
    x: Any = None
    y: Any = None

    async def train(self, base: Any, seed: bytes, member: MemberId, *, keep_states: bool = False) -> Any:
        rng = np.random.default_rng(3)
        x = rng.random((self.samples, 1, 8, 8), dtype=np.float32)
        y = rng.integers(0, 10, self.samples)
        return train(
            TrainJob(
                "logistic",
                (1, 8, 8),
                10,
                base,
                x,
                y,
                seed=seed,
                member=member,
                trace_every=1,
                keep_states=keep_states,
            )
        )


async def test_a_flipped_update_has_commitments_that_agree() -> None:
    parts = SimpleNamespace(trainer=HonestTrainer())
    honest = await parts.trainer.train(BASE, bytes(32), MemberId(bytes(20)), keep_states=True)
    attacks.put_on(parts, [{"name": "sign_flip", "options": {"scale": 3.0}}])
    lie = await parts.trainer.train(BASE, bytes(32), MemberId(bytes(20)))
    np.testing.assert_allclose(lie.parameters - BASE, -3 * (honest.parameters - BASE), atol=1e-6)
    assert merkle.root(trace_leaves(lie.states)) == lie.trace_root == merkle.root(lie.trace)
    np.testing.assert_array_equal(decode_state(lie.states[-1], len(BASE)).parameters, lie.parameters)
    assert lie.states[:-1] == honest.states[:-1]
    assert parts.trainer.samples == 40  # The rest is the honest trainer's.


async def test_the_first_rounds_may_be_honest() -> None:
    parts = SimpleNamespace(trainer=HonestTrainer())
    attacks.find("sign_flip")(parts, honest_rounds=1)
    seeds = [bytes(32), b"\x01" * 32, bytes(32)]
    first, second, again = [await parts.trainer.train(BASE, seed, MemberId(bytes(20))) for seed in seeds]
    honest = [await HonestTrainer().train(BASE, seed, MemberId(bytes(20))) for seed in seeds]
    assert first.trace_root == honest[0].trace_root == again.trace_root  # The same round, asked again.
    assert second.trace_root != honest[1].trace_root


class Sent:
    """A network that keeps what is sent."""

    connected = frozenset({b"x"})

    def __init__(self) -> None:
        self.sent: list[tuple[tuple[MemberId, ...], Any]] = []

    def broadcast(self, to: Any, message: Any) -> None:
        self.sent.append((tuple(to), message))


@pytest.mark.parametrize(("height", "messages"), [(3, 2), (4, 1)])
def test_two_votes_prove_the_offence_at_the_chosen_height_only(height: int, messages: int) -> None:
    key = SigningKey.from_secret(b"\x01" * 32)
    domain = signing.Domain(1, MemberId(bytes(20)), Digest(b"\x02" * 32))
    parts = SimpleNamespace(
        network=Sent(),
        guard=SimpleNamespace(key=key),
        genesis=SimpleNamespace(domain=lambda group: domain),
        group="g1",
    )
    network = parts.network
    attacks.put_on(parts, [{"name": "equivocate", "options": {"height": 3}}])
    vote = Prepare(0, height, 0, Digest(b"\x05" * 32))
    true = SignedPrepare(vote, signing.sign(key.secret, signing.signing_digest(domain, vote)))
    others = [MemberId(bytes([i]) * 20) for i in range(3)]
    parts.network.broadcast(others, ConsensusMessage(domain.group_id, PrepareMessage(true)))
    assert len(network.sent) == messages
    assert network.sent[-1] == (tuple(others), ConsensusMessage(domain.group_id, PrepareMessage(true)))
    if messages == 2:
        to, lie = network.sent[0]
        assert set(to) < set(others)
        proof = offence(domain, true, lie.message.prepare)
        assert proof is not None
        assert (proof.kind, proof.signer) == (OffenceKind.TWO_PREPARE, key.member_id)
    assert parts.network.connected is Sent.connected


def test_an_unknown_attack_is_told_the_known_ones() -> None:
    with pytest.raises(UserError, match="equivocate, free_rider"):
        attacks.find("hypnosis")


# -- data, riders, refusals -----------------------------------------------------------

TASK = Task(
    model="logistic",
    dataset="digits",
    input_shape=(1, 8, 8),
    classes=10,
    tensors=layout("logistic", (1, 8, 8), 10).tensors,
    local_epochs=2,
    batch_size=16,
    learning_rate_micro=50_000,
    momentum_micro=900_000,
    trace_every=4,
    root_size=0,
    root_seed=0,
)
ME = MemberId(b"\x07" * 20)


def parts_with_data() -> Any:
    rng = np.random.default_rng(4)
    trainer = HonestTrainer()
    trainer.x, trainer.y = rng.random((40, 1, 8, 8), dtype=np.float32), rng.integers(0, 10, 40)
    return SimpleNamespace(trainer=trainer, me=ME, name="g0m0", genesis=SimpleNamespace(task=TASK))


def test_flipped_labels_are_under_the_data_root() -> None:
    parts, before = parts_with_data(), parts_with_data()
    attacks.put_on(parts, [{"name": "label_flip", "options": {"share": 0.5}}])
    changed = np.flatnonzero(parts.trainer.y != before.trainer.y)
    assert len(changed) == 20  # 9 - y is never y.
    np.testing.assert_array_equal(parts.trainer.y[changed], 9 - before.trainer.y[changed])
    assert (parts.trainer.data_root, 40) == data_root(parts.trainer.x, parts.trainer.y)
    assert parts.trainer.data_root != data_root(before.trainer.x, before.trainer.y)[0]


def test_a_trigger_is_under_the_data_root_and_means_the_target() -> None:
    parts, before = parts_with_data(), parts_with_data()
    attacks.put_on(parts, [{"name": "backdoor", "options": {"target": 3, "share": 0.5}}])
    x, y = parts.trainer.x, parts.trainer.y
    marked = np.flatnonzero((x != before.trainer.x).any(axis=(1, 2, 3)))
    assert len(marked) == round(0.5 * np.count_nonzero(before.trainer.y != 3))
    assert (y[marked] == 3).all()
    assert (x[marked, :, -3:, -3:] == 1).all()
    np.testing.assert_array_equal(x[marked, :, :5], before.trainer.x[marked, :, :5])
    np.testing.assert_array_equal(data.stamped(x[marked]), x[marked])
    assert (parts.trainer.data_root, 40) == data_root(x, y)


@pytest.mark.parametrize("kind", riders.KINDS)
async def test_a_free_rider_makes_up_a_trace_of_the_right_shape(kind: str) -> None:
    parts = parts_with_data()
    parts.desk = SimpleNamespace()
    attacks.put_on(parts, [{"name": "free_rider", "options": {"kind": kind, "honest_rounds": 1}}])
    first = await parts.trainer.train(BASE + 0.25, bytes(32), ME)
    claimed = await parts.trainer.train(BASE, b"\x01" * 32, ME)
    job = job_of(TASK, BASE, parts.trainer.x, parts.trainer.y, seed=bytes(32), member=ME)
    assert len(claimed.trace) == len(claimed.states) == job.segments + 1
    assert claimed.states[0] == start_state(BASE, job.moments)
    assert [decode_state(each, 650).step for each in claimed.states] == [0, 4, 6]
    assert merkle.root(trace_leaves(claimed.states)) == claimed.trace_root
    np.testing.assert_array_equal(decode_state(claimed.states[-1], 650).parameters, claimed.parameters)
    honest, lie = first.parameters - (BASE + 0.25), claimed.parameters - BASE
    if kind == "base":
        assert not lie.any()
    elif kind == "aggregate":
        np.testing.assert_allclose(lie, -0.25, atol=1e-6)
    elif kind == "stale":
        np.testing.assert_allclose(lie, honest, atol=1e-6)
    else:
        assert np.linalg.norm(lie) == pytest.approx(np.linalg.norm(honest), rel=1e-4)
        assert abs(lie @ honest) < 0.3 * float(honest @ honest)
    replayed = replay_segment(replace(job, seed=b"\x01" * 32), claimed.states[0], 0)
    assert replayed != claimed.states[1]  # Which is how it is found.


@pytest.mark.parametrize(("noise_share", "apart"), [(0.0, 0.0), (0.05, 0.05)])
async def test_a_copycat_sends_what_it_spied_in_this_round(
    tmp_path: Path, noise_share: float, apart: float
) -> None:
    honest, thief = parts_with_data(), parts_with_data()
    for each, name in ((honest, "g0m0"), (thief, "g0m1")):
        each.name, each.settings = name, SimpleNamespace(dir=tmp_path / "nodes" / name)
        each.genesis.times = SimpleNamespace(train_ms=1000)
    attacks.put_on(honest, [{"name": "spied_on", "options": {"by": ["g0m1"]}}])
    options = {"of": "g0m0", "spied": ["g0m0"], "noise_share": noise_share}
    attacks.put_on(thief, [{"name": "copycat", "options": options}])
    true = await honest.trainer.train(BASE, bytes(32), ME)
    copy = await thief.trainer.train(BASE, bytes(32), MemberId(b"\x08" * 20))
    alone = await HonestTrainer().train(BASE, bytes(32), ME)
    assert true.trace_root == alone.trace_root  # Who is spied on trains as ever.
    delta = true.parameters - BASE
    assert np.linalg.norm(copy.parameters - true.parameters) == pytest.approx(
        apart * np.linalg.norm(delta), rel=1e-3, abs=1e-6
    )
    assert merkle.root(trace_leaves(copy.states)) == copy.trace_root


async def test_who_is_slow_takes_longer_for_so_many_rounds(autojump_clock: Any) -> None:
    parts = parts_with_data()
    attacks.put_on(parts, [{"name": "slow", "options": {"delay_s": 30.0, "rounds": 1}}])
    for took_s in (30.0, 0.0):
        begun = trio.current_time()
        await parts.trainer.train(BASE, bytes(32), ME)
        assert trio.current_time() - begun == took_s


async def test_who_refuses_hears_everything_but_the_councils_question() -> None:
    heard: list[Any] = []

    async def received(sender: MemberId, message: Any) -> None:
        heard.append(message)

    parts = SimpleNamespace(desk=SimpleNamespace(received=received))
    attacks.put_on(parts, [{"name": "refuse_audit"}])
    tip = Tip(Digest(bytes(32)), 3, Digest(bytes(32)))
    for message in (OpenRequest(Digest(bytes(32))), tip):
        await parts.desk.received(ME, message)
    assert heard == [tip]


def test_ones_own_attack_is_found_by_its_address() -> None:
    parts = SimpleNamespace()
    attacks.put_on(parts, [{"name": f"{__name__}:sulk", "options": {"how": "quietly"}}])
    assert parts.mood == "quietly"
    with pytest.raises(UserError, match="does not carry the decorator"):
        attacks.find(f"{__name__}:parts_with_data")
    with pytest.raises(UserError, match="its options are: how"):
        attacks.put_on(parts, [{"name": "sulk", "options": {"loudly": True}}])


@attacks.attack("sulk")
def sulk(parts: Any, *, how: str) -> None:
    """A user's own."""
    parts.mood = how


def test_every_attack_says_what_it_does() -> None:
    for name in attacks.names():
        assert (attacks.find(name).__doc__ or "").partition("\n")[0].endswith("."), name
