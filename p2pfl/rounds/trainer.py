"""Training as the rounds see it: from a base to a result, by the genesis' task, on the member's own data.

The computing is in `learn`, in a process of its own. An attack of a testnet wraps an object of this class.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from consensus.types import Digest, MemberId
from p2pfl.genesis import Genesis, Task
from p2pfl.learn.datasets import Dataset, data_root, load_dataset, root_set
from p2pfl.learn.held_out import Samples, hold_out
from p2pfl.learn.labels import LabelsJudged, judge_labels
from p2pfl.learn.models import initial_parameters
from p2pfl.learn.optimizers import Rates, optimizer
from p2pfl.learn.states import state_bytes
from p2pfl.learn.tables import address
from p2pfl.learn.train import TrainJob, TrainResult, spread
from p2pfl.learn.worker import Worker
from p2pfl.params import Float32
from p2pfl.records import MICRO

Int64 = NDArray[np.int64]
NANO = 1_000_000_000

# More than that a round is not worth sending between processes and to the disk for the one round in many
# that is asked for.
STATES_KEPT_BYTES_MAX = 4 * 1024 * 1024

# A hundred digits are learnt by heart in half as many; a second's work for the small models, once a process.
REFERENCE_STEPS = 200
# Public samples by which that model's errors are known: of each of ten classes to three in a hundred.
PUBLIC_MAX = 2_000


def job_of(
    task: Task,
    parameters: Float32,
    x: Float32,
    y: Int64,
    *,
    seed: bytes,
    member: MemberId,
    keep_states: bool = True,
) -> TrainJob:
    """The training that the genesis names, as one job."""
    return TrainJob(
        model=task.model,
        input_shape=task.input_shape,
        classes=task.classes,
        parameters=parameters,
        x=x,
        y=y,
        seed=seed,
        member=member,
        epochs=max(1, task.local_epochs),
        steps=task.local_steps or None,
        optimizer=task.optimizer,
        second_moment=task.second_moment_micro / MICRO,
        epsilon=task.epsilon_nano / NANO,
        proximal=task.proximal_micro / MICRO,
        batch_size=task.batch_size,
        learning_rate=task.learning_rate_micro / MICRO,
        momentum=task.momentum_micro / MICRO,
        gradient_norm_max=task.gradient_norm_max_micro / MICRO,
        trace_every=task.trace_every,
        keep_states=keep_states,
    )


def reference_job(task: Task, x: Float32, y: Int64) -> TrainJob:
    """The training of the model that judges labels: from the public root set alone."""
    start = initial_parameters(task.model, task.input_shape, task.classes, task.root_seed)
    job = job_of(task, start, x, y, seed=bytes(32), member=MemberId(bytes(20)), keep_states=False)
    return replace(job, steps=REFERENCE_STEPS, proximal=0.0)


def judged_on(rest: Dataset) -> Samples:
    """Public samples that tell how good a reference model is, evenly spaced: data may be sorted by label."""
    picked = spread(len(rest.test_y), PUBLIC_MAX)
    return rest.test_x[picked], rest.test_y[picked]


def moments_of(task: Task) -> int:
    """How many vectors the task's optimiser remembers. Raises UserError for an unknown one."""
    return len(optimizer.find(task.optimizer)(Rates(0.0, 0.0, 0.0, 0.0)).moments)


class Trainer:
    """One member's data and the process that learns from it.

    x: float32, shape (samples, *input_shape); y: int64. A council seat has no data of its own: None.
    held_out: samples to judge by, kept apart already; None: a part of x and y is kept out, as the task says.
    Afterwards x and y are what is trained on and lies under the data root, and held_out what does not (None
    where the member has too few samples, and in a seat). device: where this node computes, "cpu" or a GPU.
    """

    def __init__(
        self,
        genesis: Genesis,
        x: Float32 | None,
        y: Int64 | None,
        *,
        held_out: Samples | None = None,
        data_dir: Path | None = None,
        device: str = "cpu",
        worker: Worker | None = None,
    ) -> None:
        if x is not None and y is not None and held_out is None:
            (x, y), held_out = hold_out(x, y, genesis.task.held_out_percent)
        self.genesis = genesis
        self.x = x
        self.y = y
        self.held_out = held_out
        self.worker = worker or Worker()
        self.data_root, self.data_leaves = (
            data_root(x, y) if x is not None and y is not None else (Digest(b""), 0)
        )
        self.device = device
        self._data_dir = data_dir
        self._public: tuple[Float32, Int64, Dataset] | None = None
        self._reference: Float32 | None = None

    async def warm(self) -> None:
        """Have the process ready before the first round. Raises UserError when the device is not here.

        A seat, which learns from the public root set, reads that now, and says now if it is not there. A
        member needs the public set only to say how good a base is, and may do without.
        """
        if self.x is None:
            self.public()
        await self.worker.warm(self.device)

    async def train(
        self, base: Float32, seed: bytes, member: MemberId, *, keep_states: bool | None = None
    ) -> TrainResult:
        """Train on the own data from this base. base: float32, flat.

        keep_states: None keeps the training states where they are small; large ones are trained again when
        they have to be shown, which gives the same bits on the same machine.
        """
        assert self.x is not None and self.y is not None
        job = job_of(self.genesis.task, base, self.x, self.y, seed=seed, member=member, keep_states=False)
        if keep_states is None:
            each = state_bytes(len(base), job.moments)
            keep_states = (job.segments + 1) * each <= STATES_KEPT_BYTES_MAX
        return await self._train(replace(job, keep_states=keep_states))

    async def train_root(self, base: Float32, seed: bytes) -> Float32:
        """The parameters after training on the public root set from this base (float32, flat)."""
        x, y, _ = self.public()
        job = job_of(self.genesis.task, base, x, y, seed=seed, member=MemberId(bytes(20)), keep_states=False)
        return (await self._train(job)).parameters

    async def replay_segment(self, job: TrainJob, state: bytes, segment: int) -> bytes:
        """One segment of somebody's training, again."""
        return await self.worker.run("replay_segment", replace(job, device=self.device), state, segment)

    async def evaluate(self, parameters: Float32) -> tuple[float, float]:
        """(loss, accuracy) on the public test set."""
        _, _, rest = self.public()
        return await self._evaluate_on(parameters, (rest.test_x, rest.test_y))

    async def evaluate_held_out(self, parameters: Float32) -> tuple[float, float] | None:
        """(loss, accuracy) on the own samples that were kept out of training; None where there are none."""
        return None if self.held_out is None else await self._evaluate_on(parameters, self.held_out)

    async def _evaluate_on(self, parameters: Float32, samples: Samples) -> tuple[float, float]:
        task = self.genesis.task
        arguments: Sequence[Any] = (task.model, task.input_shape, task.classes, parameters, *samples)
        return await self.worker.run("evaluate", *arguments, self.device)

    async def _train(self, job: TrainJob) -> TrainResult:
        return await self.worker.run("train", replace(job, device=self.device))

    async def judge_labels(self, x: Float32, y: Int64) -> LabelsJudged:
        """How far the reference model disagrees with these labels, and with those of the public test set.

        It learns from the public root set and nothing else, so nobody's update can make it agree. One that
        errs on too much of the public test set (`harmful_error_max_ppm`) says nothing.
        """
        task = self.genesis.task
        root_x, root_y, rest = self.public()
        if self._reference is None:
            self._reference = (await self._train(reference_job(task, root_x, root_y))).parameters
        place = (task.model, task.input_shape, task.classes, self._reference)
        error_max_ppm = self.genesis.rules.harmful_error_max_ppm
        arguments = (*place, (x, y), judged_on(rest), error_max_ppm)
        return await self.worker.run(address(judge_labels), *arguments)

    def public(self) -> tuple[Float32, Int64, Dataset]:
        """The root set's x and y, and the data set of which the test part only is kept. Reads it once."""
        if self._public is None:
            task = self.genesis.task
            x, y, rest = root_set(load_dataset(task.dataset, self._data_dir), task.root_size, task.root_seed)
            # Nobody here learns from the training part: 200 MB of MNIST in each seat.
            none = (rest.train_x[:0].copy(), rest.train_y[:0].copy())
            self._public = x, y, replace(rest, train_x=none[0], train_y=none[1])
        return self._public

    def close(self) -> None:
        """End the training process."""
        self.worker.close()
