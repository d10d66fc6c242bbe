"""How a gradient becomes a step, in one table; and all that an optimiser remembers, as flat vectors.

What it remembers is part of every training state (`states`), so that a segment can be repeated from the
middle: an optimiser that keeps anything elsewhere cannot be replayed. Knows nothing of models and data.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from p2pfl.learn.tables import Table

Tensor = Any  # torch.Tensor; torch is not imported before the first computation.
# Room for an optimiser of a user's own; each vector makes a state larger by a model.
MOMENTS_MAX = 8


@dataclass(frozen=True, slots=True)
class Rates:
    """What the genesis says of the optimiser, as plain numbers."""

    learning_rate: float
    momentum: float
    second_moment: float
    epsilon: float


@dataclass(frozen=True, slots=True)
class Optimizer:
    """One optimiser. moments: what each vector that it remembers is called; all are zero before step 1.

    step(parameters, gradient, moments, number): change parameters and moments in place; all are flat float32
    tensors of one length. number: which step this is, from 1. The gradient may be overwritten.
    squares: which of the moments hold squares of gradients. Steps are divided by their roots, so that the
    rounding noise of next to no gradient moves the parameters much farther (`rounds.replay` allows for it).
    """

    moments: tuple[str, ...]
    step: Callable[[Tensor, Tensor, Sequence[Tensor], int], None]
    squares: tuple[str, ...] = ()


optimizer: Table[Callable[[Rates], Optimizer]] = Table("optimizer")


@optimizer("sgd")
def sgd(rates: Rates) -> Optimizer:
    """Plain stochastic gradient descent; the momentum of the genesis is not used."""

    def step(parameters: Tensor, gradient: Tensor, _moments: Sequence[Tensor], _number: int) -> None:
        parameters.add_(gradient, alpha=-rates.learning_rate)

    return Optimizer((), step)


@optimizer("momentum")
def momentum(rates: Rates) -> Optimizer:
    """Gradient descent with a heavy ball (Polyak 1964): the default."""

    def step(parameters: Tensor, gradient: Tensor, moments: Sequence[Tensor], _number: int) -> None:
        moments[0].mul_(rates.momentum).add_(gradient)
        parameters.add_(moments[0], alpha=-rates.learning_rate)

    return Optimizer(("momentum",), step)


@optimizer("adam")
def adam(rates: Rates) -> Optimizer:
    """Adam (Kingma and Ba 2015, algorithm 1): beta1 is the momentum, beta2 the second moment's decay."""

    def step(parameters: Tensor, gradient: Tensor, moments: Sequence[Tensor], number: int) -> None:
        first, second = moments
        first.mul_(rates.momentum).add_(gradient, alpha=1 - rates.momentum)
        second.mul_(rates.second_moment).addcmul_(gradient, gradient, value=1 - rates.second_moment)
        below = (second / (1 - rates.second_moment**number)).sqrt_().add_(rates.epsilon)
        parameters.addcdiv_(first, below, value=-rates.learning_rate / (1 - rates.momentum**number))

    return Optimizer(("first", "second"), step, squares=("second",))
