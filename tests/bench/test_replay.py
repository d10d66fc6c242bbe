"""`bench replay` measures what a seat measures: nothing on the same kind of machine, much for another job."""

from __future__ import annotations

from dataclasses import replace

from bench import replay
from p2pfl.learn.train import TrainJob, replay_segment, train


async def here(job: TrainJob, state: bytes, segment: int) -> bytes:
    return replay_segment(job, state, segment)


async def test_a_replay_in_the_same_place_is_exact_and_of_other_labels_is_far() -> None:
    job = replay.job_of("logistic", "adam", 40, 6)
    result = train(job)
    assert job.segments > 1
    assert await replay.worst(job, result, here) == 0
    assert await replay.worst(replace(job, y=(job.y + 1) % 10), result, here) > 100_000
