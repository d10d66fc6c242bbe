"""What is learnt: models as a list of tensors and a forward function, in one table.

A model here has parameters and nothing else: no buffers (batch statistics are not an update that can be
averaged, bounded and replayed like one). Its first parameters are drawn by formula from a seed, the same
bits on every machine. Knows nothing of data and training; torch is touched in `forward` only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from p2pfl.errors import UserError
from p2pfl.learn import chance
from p2pfl.learn.numerics import pinned_torch
from p2pfl.learn.tables import Table
from p2pfl.params import Layout, TensorSpec

Float32 = NDArray[np.float32]
Tensor = Any  # torch.Tensor; torch is not imported before the first computation.
Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Architecture:
    """The tensors of a model, and how they turn samples into logits.

    tensors: name and shape, in the order of the flat vector; the first dimension of a weight is what it
    yields, the product of the others its fan-in. forward(tensors, x): x has shape (batch, *input_shape),
    the logits have shape (batch, classes). ones: the tensors that start at one, such as the scales of a
    normalisation; others of one dimension start at zero.
    """

    tensors: tuple[tuple[str, Shape], ...]
    forward: Callable[[Sequence[Tensor], Tensor], Tensor]
    ones: frozenset[str] = frozenset()


model: Table[Callable[[Shape, int], Architecture]] = Table("model")


def architecture(name: str, input_shape: Shape, classes: int) -> Architecture:
    """The model `name` (or the user's own `module:function`) for this input. Raises UserError."""
    return model.find(name)(input_shape, classes)


def tensor_spec(name: str, input_shape: Shape, classes: int) -> tuple[tuple[str, Shape], ...]:
    """Name and shape of each tensor, in the order of the flat vector. Raises UserError."""
    return architecture(name, input_shape, classes).tensors


def layout(name: str, input_shape: Shape, classes: int) -> Layout:
    """The same as a `params.Layout`, which cuts and joins the flat vector."""
    return Layout(tuple(TensorSpec(*tensor) for tensor in tensor_spec(name, input_shape, classes)))


def initial_parameters(name: str, input_shape: Shape, classes: int, seed: int) -> Float32:
    """The parameters before the first round: float32, shape (layout.size,), the same bits everywhere.

    Weights are uniform within sqrt(6 / fan-in) (He et al. 2015, for ReLU), biases are zero, scales one. One
    exact draw and one correctly rounded product a coordinate: no library's generator is asked.
    """
    found = architecture(name, input_shape, classes)
    parts: list[Float32] = []
    for tensor, shape in found.tensors:
        size = math.prod(shape)
        if len(shape) == 1:
            parts.append(np.full(size, 1 if tensor in found.ones else 0, dtype=np.float32))
            continue
        bound = math.sqrt(6 / math.prod(shape[1:]))
        draws = chance.symmetric(size, chance.words("initial parameters", tensor.encode(), seed))
        parts.append((draws * bound).astype(np.float32))
    return np.concatenate(parts)


@model("logistic")
def logistic(input_shape: Shape, classes: int) -> Architecture:
    """Multinomial logistic regression: one linear layer."""

    def forward(tensors: Sequence[Tensor], x: Tensor) -> Tensor:
        weight, bias = tensors
        return pinned_torch().nn.functional.linear(x.flatten(1), weight, bias)

    return Architecture(_linear("linear", math.prod(input_shape), classes), forward)


@model("mlp")
def mlp(input_shape: Shape, classes: int) -> Architecture:
    """Two hidden layers of 1,060 ReLUs: 1,204,170 parameters on digits."""
    width = 1060

    def forward(tensors: Sequence[Tensor], x: Tensor) -> Tensor:
        functional = pinned_torch().nn.functional
        x = functional.relu(functional.linear(x.flatten(1), tensors[0], tensors[1]))
        x = functional.relu(functional.linear(x, tensors[2], tensors[3]))
        return functional.linear(x, tensors[4], tensors[5])

    tensors = (
        *_linear("hidden1", math.prod(input_shape), width),
        *_linear("hidden2", width, width),
        *_linear("output", width, classes),
    )
    return Architecture(tensors, forward)


@model("cnn")
def cnn(input_shape: Shape, classes: int) -> Architecture:
    """Two 3 x 3 convolutions, one max-pool, a hidden layer of 28: 19,454 parameters on digits."""
    channels, height, width = _picture("cnn", input_shape, 2)
    flat = 32 * (height // 2) * (width // 2)

    def forward(tensors: Sequence[Tensor], x: Tensor) -> Tensor:
        functional = pinned_torch().nn.functional
        x = functional.relu(functional.conv2d(x, tensors[0], tensors[1], padding=1))
        x = functional.relu(functional.conv2d(x, tensors[2], tensors[3], padding=1))
        x = functional.max_pool2d(x, 2).flatten(1)
        x = functional.relu(functional.linear(x, tensors[4], tensors[5]))
        return functional.linear(x, tensors[6], tensors[7])

    tensors = (
        *(("conv1.weight", (16, channels, 3, 3)), ("conv1.bias", (16,))),
        *(("conv2.weight", (32, 16, 3, 3)), ("conv2.bias", (32,))),
        *_linear("hidden", flat, 28),
        *_linear("output", 28, classes),
    )
    return Architecture(tensors, forward)


@model("resnet")
def resnet(input_shape: Shape, classes: int) -> Architecture:
    """ResNet-8 (He et al. 2016), 16 to 64 channels, with group normalisation: 77,754 parameters on digits.

    A 3 x 3 convolution, three residual blocks of which the second and third halve the picture, the mean over
    the picture, a linear layer. Group normalisation (Wu and He 2018, 8 groups) in the place of batch
    normalisation: it keeps no statistics, so parameters are all there is.
    """
    channels, _, _ = _picture("resnet", input_shape, 4)
    widths, groups = (16, 32, 64), 8

    def forward(tensors: Sequence[Tensor], x: Tensor) -> Tensor:
        functional, left = pinned_torch().nn.functional, iter(tensors)

        def convolve(x: Tensor, stride: int) -> Tensor:
            weight = next(left)
            x = functional.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)
            return functional.group_norm(x, groups, next(left), next(left))

        x = functional.relu(convolve(x, 1))
        for before, after in zip((widths[0], *widths), widths, strict=False):
            stride = 1 if before == after else 2
            inside = convolve(functional.relu(convolve(x, stride)), 1)
            x = functional.relu(inside + (x if before == after else convolve(x, stride)))
        return functional.linear(x.mean((2, 3)), next(left), next(left))

    tensors = [*_convolution("stem", channels, widths[0], 3)]
    for i, (before, after) in enumerate(zip((widths[0], *widths), widths, strict=False), 1):
        tensors += _convolution(f"block{i}.first", before, after, 3)
        tensors += _convolution(f"block{i}.second", after, after, 3)
        if before != after:
            tensors += _convolution(f"block{i}.shortcut", before, after, 1)
    tensors += _linear("output", widths[-1], classes)
    ones = frozenset(name for name, _ in tensors if name.endswith(".scale"))
    return Architecture(tuple(tensors), forward, ones)


def _picture(name: str, input_shape: Shape, side_min: int) -> tuple[int, int, int]:
    """Channels, height and width. Raises UserError for what is no picture of at least that size."""
    if len(input_shape) != 3 or min(input_shape[1:]) < side_min:
        size = f"{side_min} x {side_min}"
        raise UserError(
            f"the model {name!r} cannot take this data set",
            because=f"it needs pictures (channels, height, width) of at least {size}, not {input_shape}",
            fix="use the model 'mlp' or 'logistic', or another data set",
        )
    channels, height, width = input_shape
    return channels, height, width


def _convolution(name: str, inputs: int, outputs: int, side: int) -> tuple[tuple[str, Shape], ...]:
    """A convolution without bias, and the scale and shift of the normalisation after it."""
    weight = (f"{name}.weight", (outputs, inputs, side, side))
    return (weight, (f"{name}.scale", (outputs,)), (f"{name}.shift", (outputs,)))


def _linear(name: str, inputs: int, outputs: int) -> tuple[tuple[str, Shape], ...]:
    return ((f"{name}.weight", (outputs, inputs)), (f"{name}.bias", (outputs,)))
