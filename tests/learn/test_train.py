"""Training: the same bits twice, honest traces that replay exactly, and states from hostile hands."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus import merkle
from p2pfl.errors import PeerFault, UserError
from p2pfl.learn.datasets import load_dataset
from p2pfl.learn.models import initial_parameters
from p2pfl.learn.states import (
    State,
    decode_state,
    encode_state,
    start_state,
    state_bytes,
    trace_leaves,
)
from p2pfl.learn.train import TrainJob, batches, evaluate, replay_segment, train

DIGITS = load_dataset("digits")
SHAPE = (1, 8, 8)
INF = float("inf")


def job(model: str = "cnn", samples: int = 100, **changes: object) -> TrainJob:
    base = initial_parameters(model, SHAPE, 10, seed=7)
    plain = TrainJob(
        model, SHAPE, 10, base, DIGITS.train_x[:samples], DIGITS.train_y[:samples],
        seed=sha256(b"round 1").digest(), member=bytes(range(20)), keep_states=True,
    )  # fmt: skip
    return replace(plain, **changes)


# ---------------------------------------------------------------------------
# Training.


@pytest.mark.parametrize("model", ["cnn", "mlp", "logistic", "resnet"])
def test_the_same_job_gives_the_same_bytes(model: str) -> None:
    one, other = train(job(model)), train(job(model))
    assert one.parameters.tobytes() == other.parameters.tobytes()
    assert one.states == other.states
    assert one.trace_root == other.trace_root


def test_training_learns() -> None:
    result = train(job(samples=1437, epochs=2))
    assert result.loss_after_micro < result.loss_before_micro / 4
    _, before = evaluate("cnn", SHAPE, 10, job().parameters, DIGITS.test_x, DIGITS.test_y)
    loss, after = evaluate("cnn", SHAPE, 10, result.parameters, DIGITS.test_x, DIGITS.test_y)
    assert before < 0.3
    assert after > 0.9
    assert 0 < loss < 0.5


def test_it_is_stochastic_gradient_descent_with_momentum_and_bounded_gradients() -> None:
    """The same steps written with plain numpy for logistic regression."""
    asked = job("logistic", samples=20, steps=5, batch_size=8, learning_rate=0.3, gradient_norm_max=0.7)
    flat = asked.parameters.astype(np.float64)
    momentum = np.zeros_like(flat)
    for picked in batches(asked, 0, 5):
        x, y = asked.x[picked].reshape(len(picked), -1).astype(np.float64), asked.y[picked]
        logits = x @ flat[:640].reshape(10, 64).T + flat[640:]
        share = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        share[np.arange(len(y)), y] -= 1
        gradient = np.concatenate(((share.T @ x).reshape(-1), share.sum(axis=0))) / len(y)
        gradient *= min(1.0, asked.gradient_norm_max / np.linalg.norm(gradient))
        momentum = asked.momentum * momentum + gradient
        flat = flat - asked.learning_rate * momentum
    assert np.allclose(train(asked).parameters, flat, rtol=0, atol=1e-5)


def logistic_gradient(asked: TrainJob, flat: np.ndarray, picked: np.ndarray) -> np.ndarray:
    """Of the mean cross-entropy of these samples, with plain numpy."""
    x, y = asked.x[picked].reshape(len(picked), -1).astype(np.float64), asked.y[picked]
    logits = x @ flat[:640].reshape(10, 64).T + flat[640:]
    share = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    share[np.arange(len(y)), y] -= 1
    return np.concatenate(((share.T @ x).reshape(-1), share.sum(axis=0))) / len(y)


def test_plain_descent_remembers_nothing() -> None:
    asked = job(
        "logistic",
        samples=20,
        steps=5,
        batch_size=8,
        learning_rate=0.3,
        optimizer="sgd",
        gradient_norm_max=INF,
    )
    flat = asked.parameters.astype(np.float64)
    for picked in batches(asked, 0, 5):
        flat = flat - 0.3 * logistic_gradient(asked, flat, picked)
    result = train(asked)
    assert np.allclose(result.parameters, flat, rtol=0, atol=1e-5)
    assert decode_state(result.states[-1], 650).moments == ()


def test_adam_is_the_algorithm_of_the_paper() -> None:
    asked = job(
        "logistic",
        samples=20,
        steps=7,
        batch_size=8,
        learning_rate=0.01,
        optimizer="adam",
        gradient_norm_max=INF,
    )
    flat = asked.parameters.astype(np.float64)
    first, second = np.zeros_like(flat), np.zeros_like(flat)
    for number, picked in enumerate(batches(asked, 0, 7), 1):
        gradient = logistic_gradient(asked, flat, picked)
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        flat = flat - 0.01 * (first / (1 - 0.9**number)) / (np.sqrt(second / (1 - 0.999**number)) + 1e-8)
    result = train(asked)
    # Coordinates of pixels that are always zero have a gradient of the size of epsilon: rounding shows there.
    assert np.allclose(result.parameters, flat, rtol=0, atol=1e-4)
    last = decode_state(result.states[-1], 650)
    assert np.allclose(last.moments[0], first, rtol=0, atol=1e-6)
    assert np.allclose(last.moments[1], second, rtol=0, atol=1e-6)


def test_the_proximal_term_pulls_towards_the_base() -> None:
    asked = job(
        "logistic", samples=20, steps=5, batch_size=8, optimizer="sgd", proximal=0.5, gradient_norm_max=INF
    )
    base = asked.parameters.astype(np.float64)
    flat = base
    for picked in batches(asked, 0, 5):
        gradient = logistic_gradient(asked, flat, picked) + 0.5 * (flat - base)
        flat = flat - asked.learning_rate * gradient
    assert np.allclose(train(asked).parameters, flat, rtol=0, atol=1e-5)
    free = train(replace(asked, proximal=0.0, steps=200))
    held = train(replace(asked, proximal=5.0, steps=200))
    assert np.linalg.norm(held.parameters - base) < 0.5 * np.linalg.norm(free.parameters - base)


def test_a_users_own_optimizer_is_found_by_module_and_function() -> None:
    asked = job("logistic", samples=20, steps=3, optimizer="tests.learn.own:own_optimizer")
    result = train(asked)
    signs = np.abs((result.parameters - asked.parameters) / np.float32(asked.learning_rate))
    assert np.allclose(signs[640:], 1, atol=1e-3)
    with pytest.raises(UserError, match="adam, momentum, sgd"):
        train(replace(asked, optimizer="rmsprop"))


def test_a_device_that_is_not_here_is_named() -> None:
    for name in ("cuda:99", "tpu", "cuda:", "cpu:1"):
        with pytest.raises(UserError, match="there is no device"):
            train(job("logistic", steps=1, device=name))


def test_the_result_counts_samples_steps_and_losses() -> None:
    result = train(job(samples=100, batch_size=32, epochs=2))
    assert (result.samples, result.steps) == (100, 8)
    loss, _ = evaluate("cnn", SHAPE, 10, job().parameters, DIGITS.train_x[:100], DIGITS.train_y[:100])
    assert result.loss_before_micro == pytest.approx(loss * 1e6, abs=2)
    loss, _ = evaluate("cnn", SHAPE, 10, result.parameters, DIGITS.train_x[:100], DIGITS.train_y[:100])
    assert result.loss_after_micro == pytest.approx(loss * 1e6, abs=2)


@pytest.mark.parametrize("change", [{"seed": bytes(32)}, {"member": bytes(20)}], ids=["seed", "member"])
def test_seed_and_member_draw_the_order_of_the_batches(change: dict[str, bytes]) -> None:
    mine, other = (np.concatenate(list(batches(each, 0, 7))) for each in (job(), job(**change)))
    assert sorted(mine.tolist()) == sorted(other.tolist()) == list(range(100))
    assert not np.array_equal(mine, other)
    assert train(job(**change)).trace_root != train(job()).trace_root


def test_the_order_of_the_batches_is_the_same_on_every_machine() -> None:
    assert next(batches(job(), 0, 1))[:8].tolist() == [11, 74, 2, 70, 77, 78, 9, 84]


@given(samples=st.integers(1, 70), batch_size=st.integers(1, 40), epochs=st.integers(1, 3))
def test_an_epoch_goes_once_over_all_samples(samples: int, batch_size: int, epochs: int) -> None:
    asked = job("logistic", samples, batch_size=batch_size, epochs=epochs)
    picked = list(batches(asked, 0, asked.steps_total))
    assert len(picked) == asked.steps_total
    assert np.bincount(np.concatenate(picked), minlength=samples).tolist() == [epochs] * samples
    cut = asked.steps_total // 2
    again = [*batches(asked, 0, cut), *batches(asked, cut, asked.steps_total)]
    assert all(np.array_equal(one, other) for one, other in zip(picked, again, strict=True))


def test_a_step_count_takes_the_place_of_epochs() -> None:
    asked = job(samples=10, batch_size=4, steps=7)
    assert [len(picked) for picked in batches(asked, 0, 7)] == [4, 4, 2, 4, 4, 2, 4]
    assert train(asked).steps == 7


def test_training_that_diverges_is_an_error_and_no_update() -> None:
    with pytest.raises(UserError, match="training diverged"):
        train(job("mlp", learning_rate=1e30, gradient_norm_max=float("inf")))


@pytest.mark.parametrize(
    "change",
    [
        {"x": DIGITS.train_x[:99]}, {"x": DIGITS.train_x[:100].astype(np.float64)},
        {"y": np.full(100, 10)}, {"y": np.full(100, -1)}, {"x": DIGITS.train_x[:0], "y": DIGITS.train_y[:0]},
        {"seed": bytes(31)}, {"member": bytes(21)}, {"epochs": 0}, {"steps": 0}, {"batch_size": 0},
        {"trace_every": 0}, {"parameters": np.zeros((2, 2), dtype=np.float32)},
    ],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_a_job_that_makes_no_sense_cannot_be_made(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"must be|has 32 bytes"):
        job(**change)


# ---------------------------------------------------------------------------
# The trace, and its replay.


@pytest.mark.parametrize(("steps", "states"), [(16, 2), (17, 3), (35, 4), (3, 2)])
def test_a_state_is_kept_every_16_steps_and_at_the_end(steps: int, states: int) -> None:
    asked = job("logistic", steps=steps)
    result = train(asked)
    assert len(result.states) == states == asked.segments + 1
    marks = [decode_state(state, 650).step for state in result.states]
    assert marks == [*range(0, steps, 16), steps]
    assert result.states[0] == start_state(asked.parameters)
    assert decode_state(result.states[-1], 650).parameters.tobytes() == result.parameters.tobytes()
    assert list(result.trace) == trace_leaves(result.states)
    assert result.trace_root == merkle.root(trace_leaves(result.states))


def test_states_that_are_not_kept_come_again_when_they_are_asked_for() -> None:
    frugal = train(job("cnn", steps=20, keep_states=False))
    full = train(job("cnn", steps=20))
    assert frugal.states == []
    assert list(frugal.trace) == trace_leaves(full.states)


@pytest.mark.parametrize("model", ["cnn", "logistic"])
@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam"])
def test_an_honest_trace_replays_exactly(model: str, optimizer: str) -> None:
    asked = job(model, steps=40, optimizer=optimizer, learning_rate=0.01, proximal=0.1)
    result = train(asked)
    for segment in range(asked.segments):
        assert replay_segment(asked, result.states[segment], segment) == result.states[segment + 1]


def test_the_replay_needs_the_samples_and_the_state_but_not_the_base() -> None:
    asked = job(steps=20)
    states = train(asked).states
    without = replace(asked, parameters=np.zeros_like(asked.parameters))
    assert replay_segment(without, states[1], 1) == states[2]
    other = replace(asked, y=(asked.y + 1) % 10)
    assert replay_segment(other, states[1], 1) != states[2]


def test_a_flipped_update_does_not_replay() -> None:
    asked = job(steps=16)
    result = train(asked)
    start, honest = (decode_state(state, 19_454) for state in result.states)
    flipped = replace(honest, parameters=2 * start.parameters - honest.parameters)
    replayed = decode_state(replay_segment(asked, result.states[0], 0), 19_454)
    moved = np.linalg.norm(honest.parameters - start.parameters)
    assert np.linalg.norm(replayed.parameters - honest.parameters) == 0
    assert np.linalg.norm(replayed.parameters - flipped.parameters) > 1.9 * moved


# ---------------------------------------------------------------------------
# Hostile bytes.


def numbers(count: int) -> st.SearchStrategy[np.ndarray]:
    one = st.floats(allow_nan=False, allow_infinity=False, width=32)
    return st.lists(one, min_size=count, max_size=count).map(lambda each: np.array(each, dtype=np.float32))


@given(step=st.integers(0, 2**64 - 1), vectors=st.lists(numbers(5), min_size=1, max_size=4))
def test_a_state_has_one_byte_form(step: int, vectors: list[np.ndarray]) -> None:
    data = encode_state(State(step, vectors[0], tuple(vectors[1:])))
    found = decode_state(data, 5)
    assert (found.step, encode_state(found)) == (step, data)
    assert [each.tobytes() for each in (found.parameters, *found.moments)] == [e.tobytes() for e in vectors]
    assert len(data) == state_bytes(5, len(vectors) - 1)


@given(data=st.data())
def test_changed_bytes_are_another_state_or_refused(data: st.DataObject) -> None:
    whole = encode_state(State(3, np.ones(4, dtype=np.float32), (np.ones(4, dtype=np.float32),)))
    changed = bytearray(whole)
    where = data.draw(st.integers(0, len(whole) - 1))
    changed[where] ^= data.draw(st.integers(1, 255))
    damaged = data.draw(st.sampled_from([bytes(changed), whole[:where], whole + bytes(where + 1)]))
    try:
        found = decode_state(damaged, 4)
    except PeerFault:
        return
    assert len(damaged) == len(whole)
    assert encode_state(found) == damaged
    assert np.isfinite(found.parameters).all()
    assert all(np.isfinite(each).all() for each in found.moments)


@given(st.binary(max_size=200))
def test_rubbish_is_no_state(rubbish: bytes) -> None:
    with pytest.raises(PeerFault):
        decode_state(rubbish, 4)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", [0, 1, 2])
def test_a_state_with_a_number_that_is_not_finite_is_refused(where: int, value: float) -> None:
    vectors = [np.zeros(4, dtype=np.float32) for _ in range(3)]
    vectors[where][2] = value
    with pytest.raises(PeerFault, match="not finite"):
        decode_state(encode_state(State(0, vectors[0], tuple(vectors[1:]))), 4)


def test_a_state_of_another_place_or_model_is_not_replayed() -> None:
    asked = job("logistic", steps=40)
    states = train(asked).states
    adams = train(replace(asked, optimizer="adam")).states
    for state, segment in (
        (adams[0], 0),
        (states[0], 1),
        (states[1], 0),
        (states[3], 3),
        (states[0], -1),
        (states[0][:-4], 0),
    ):
        with pytest.raises(PeerFault) as caught:
            replay_segment(asked, state, segment)
        assert caught.value.reason == "bad_state"


def test_a_state_that_explodes_is_its_makers_fault() -> None:
    asked = job("mlp", steps=16, gradient_norm_max=float("inf"))
    huge = np.full(1_204_170, 3e38, dtype=np.float32)
    with pytest.raises(PeerFault, match="not finite"):
        replay_segment(asked, encode_state(State(0, huge, (huge,))), 0)
