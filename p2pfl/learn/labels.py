"""How far the labels of somebody's samples are from what a good model says of them.

A member that trains honestly on wrong labels matches its replay: only its labels tell. Knows no member, and
not what is too much (`rules.verdicts`). A model that errs disagrees with right labels too: by how much is
told. Whether it is good enough to judge is asked of the public samples alone: whoever had a say in that by
its choice of labels would choose those on which the model is poor.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from p2pfl.learn.datasets import Float32, Int64
from p2pfl.learn.models import architecture, layout
from p2pfl.learn.numerics import pinned_torch
from p2pfl.learn.task import task

PPM = 1_000_000
# Samples at a time: a batch of the largest inputs that we ship stays below 100 MB.
AT_ONCE = 512
# Fewer labels say nothing: of 10 samples an honest member's disagree by 30 % more than is expected of a model
# that errs on a quarter once in 50 rounds, of 40 once in 80,000.
LABELS_MIN = 40


@dataclass(frozen=True, slots=True)
class LabelsJudged:
    """disagree_ppm: share of the samples that the model calls something else than their labels do.

    expected_ppm: the same share if the labels were right: the model's errors on public samples of each class,
    weighted by how often the class is among the labels. A class without a public sample counts as all wrong.
    """

    disagree_ppm: int
    expected_ppm: int


# Nothing can be said: no labels disagree by more than a model that is expected to be always wrong.
NOTHING_SAID = LabelsJudged(0, PPM)


@task("judge_labels")
def judge_labels(
    model: str,
    input_shape: tuple[int, ...],
    classes: int,
    parameters: Float32,
    samples: tuple[Float32, Int64],
    public: tuple[Float32, Int64],
    error_max_ppm: int,
) -> LabelsJudged:
    """What this model says of the labels of `samples`, and how good it is on `public`: (x, y) each.

    x: float32, shape (samples, *input_shape); y: int64. error_max_ppm: a model that errs on more of the
    public samples says nothing. One thread on the processor, like a replay.
    """
    wrong = called(model, input_shape, classes, parameters, samples[0]) != samples[1]
    errors = called(model, input_shape, classes, parameters, public[0]) != public[1]
    return judged(wrong, samples[1], errors, public[1], classes, error_max_ppm)


def judged(
    wrong: NDArray[np.bool_],
    labels: Int64,
    errors: NDArray[np.bool_],
    public: Int64,
    classes: int,
    error_max_ppm: int,
) -> LabelsJudged:
    """From which samples are called otherwise, and which public ones: shapes (samples,), (public,)."""
    if len(labels) < LABELS_MIN or not len(public):
        return NOTHING_SAID
    if PPM * np.count_nonzero(errors) > error_max_ppm * len(public):
        return NOTHING_SAID
    expected = 0.0
    for each in range(classes):
        share = np.count_nonzero(labels == each) / len(labels)
        known = errors[public == each]
        expected += share * (float(np.count_nonzero(known)) / len(known) if len(known) else 1.0)
    return LabelsJudged(round(PPM * np.count_nonzero(wrong) / len(labels)), round(PPM * expected))


def called(model: str, input_shape: tuple[int, ...], classes: int, parameters: Float32, x: Float32) -> Int64:
    """The class that the model gives each sample: int64, shape (samples,)."""
    torch = pinned_torch()
    forward = architecture(model, input_shape, classes).forward
    tensors = [torch.tensor(part) for part in layout(model, input_shape, classes).unflatten(parameters)]
    found = [np.zeros(0, dtype=np.int64)]
    with torch.no_grad():
        for start in range(0, len(x), AT_ONCE):
            found.append(forward(tensors, torch.tensor(x[start : start + AT_ONCE])).argmax(1).numpy())
    return np.concatenate(found)
