"""`bench replay`: how far a round that was trained in one place is from its replay in another.

A place is a kind of machine: an instruction set of this processor, or a GPU. The distance is the one that a
council's seat signs (`p2pfl.rounds.replay.measure`), for each model and optimiser, after an honest training.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from hashlib import sha256
from typing import Any

import trio

from p2pfl.learn.datasets import data_leaves, load_dataset
from p2pfl.learn.models import initial_parameters, layout
from p2pfl.learn.train import TrainJob, TrainResult
from p2pfl.learn.worker import Worker
from p2pfl.params import Base, delta_of, quantize
from p2pfl.rounds.replay import Opening, ReplaySegment, measure
from p2pfl.rules.defaults import DEFAULT_RULES

# The environment and the device of a place. Without anything, processors are pinned to AVX2.
PLACES: dict[str, tuple[dict[str, str], str]] = {
    "avx2": ({}, "cpu"),
    "sse": (
        {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_CBWR": "COMPATIBLE"},
        "cpu",
    ),
    "avx512": (
        {"ATEN_CPU_CAPABILITY": "avx512", "ONEDNN_MAX_CPU_ISA": "AVX512_CORE", "MKL_CBWR": "AVX512"},
        "cpu",
    ),
    "cuda": ({}, "cuda"),
}
MODELS = ("logistic", "cnn", "mlp", "resnet")
# A learning rate at which each of them learns digits.
OPTIMIZERS = {"sgd": 0.05, "momentum": 0.05, "adam": 0.001}
EXPONENT = -15


def add_parser(commands: Any) -> None:
    """Add the command."""
    parser = commands.add_parser("replay", help="honest rounds, replayed elsewhere", description=__doc__)
    parser.add_argument("--trained-on", choices=PLACES, default="avx2")
    parser.add_argument("--replayed-on", choices=PLACES, default="sse")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--optimizers", nargs="+", choices=OPTIMIZERS, default=list(OPTIMIZERS))
    parser.add_argument("--samples", type=int, default=100, metavar="N", help="of the member (100)")
    parser.add_argument("--epochs", type=int, default=5, metavar="N", help="of its training (5)")
    parser.set_defaults(measure=lambda arguments: trio.run(_measure, arguments))


async def _measure(arguments: argparse.Namespace) -> dict[str, Any]:
    figures: dict[str, Any] = {
        "trained_on": arguments.trained_on,
        "replayed_on": arguments.replayed_on,
        "threshold_ppm": DEFAULT_RULES.replay_max_ppm,
    }
    with _worker(arguments.trained_on) as maker, _worker(arguments.replayed_on) as judge:

        async def replay_segment(job: TrainJob, state: bytes, segment: int) -> bytes:
            device = PLACES[arguments.replayed_on][1]
            return await judge.run("replay_segment", replace(job, device=device), state, segment)

        for model in arguments.models:
            for name in arguments.optimizers:
                job = job_of(model, name, arguments.samples, arguments.epochs)
                job = replace(job, device=PLACES[arguments.trained_on][1])
                started = time.perf_counter()
                result = await maker.run("train", job)
                train_s = time.perf_counter() - started
                worst_ppm = await worst(job, result, replay_segment)
                figures[f"{model} {name}"] = {"worst_ppm": worst_ppm, "train_s": round(train_s, 3)}
    return figures


def job_of(model: str, name: str, samples: int, epochs: int) -> TrainJob:
    """An honest member's training on its first digits."""
    data = load_dataset("digits")
    shape, classes = data.input_shape, data.classes
    return TrainJob(
        model, shape, classes, initial_parameters(model, shape, classes, seed=7),
        data.train_x[:samples], data.train_y[:samples], sha256(b"bench replay").digest(), bytes(range(20)),
        epochs=epochs, optimizer=name, learning_rate=OPTIMIZERS[name], keep_states=True,
    )  # fmt: skip


async def worst(job: TrainJob, result: TrainResult, replay_segment: ReplaySegment) -> int:
    """The largest distance of any segment, or of the update from the last state, in millionths."""
    tensors = layout(job.model, job.input_shape, job.classes)
    base = Base(tensors, job.parameters)
    update, _ = quantize(delta_of(base, result.parameters), tensors, (EXPONENT,) * len(tensors.tensors))
    opening = Opening(tuple(data_leaves(job.x, job.y)), tuple(result.states))
    return await measure(opening, job, base, update, replay_segment)


@contextmanager
def _worker(place: str) -> Iterator[Worker]:
    """A training process in this place: torch reads the environment once, when it is imported there."""
    before = dict(os.environ)
    os.environ.update(PLACES[place][0])
    try:
        worker = Worker()
        worker.start()
    finally:
        os.environ.clear()
        os.environ.update(before)
    with worker:
        yield worker
