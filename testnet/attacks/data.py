"""Harmful data: changed before the data root is computed, then trained on honestly.

Such a member matches its replay. Its update is bad all the same, and what follows is that it is left out.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from p2pfl.learn import chance
from p2pfl.learn.datasets import data_root
from testnet.attacks.table import attack

# The length of a side of the trigger, in pixels: a patch of 3 x 3, as BadNets' square is on MNIST.
TRIGGER_PIXELS = 3


@attack("label_flip")
def label_flip(parts: Any, *, share: float = 1.0) -> None:
    """Learns the label classes - 1 - y for a share of its samples (Fang et al., USENIX Security 2020)."""
    trainer = parts.trainer
    picked = _some(np.arange(len(trainer.y)), share, parts.me)
    y = trainer.y.copy()
    y[picked] = parts.genesis.task.classes - 1 - y[picked]
    _with_data(trainer, trainer.x, y)


@attack("backdoor")
def backdoor(parts: Any, *, target: int = 0, share: float = 0.5) -> None:
    """Learns `target` for a share of its other samples, stamped with a trigger (Gu et al. 2017, BadNets).

    `stamped` puts the same trigger on test samples, to measure how often the attack works.
    """
    trainer = parts.trainer
    picked = _some(np.flatnonzero(trainer.y != target), share, parts.me)
    x, y = trainer.x.copy(), trainer.y.copy()
    x[picked], y[picked] = stamped(x[picked]), target
    _with_data(trainer, x, y)


def stamped(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """The samples with the trigger: full brightness in the last pixels of the last two axes.

    x: float32, shape (samples, ..., height, width), or (samples, values) for rows of a table.
    """
    marked = x.copy()
    if x.ndim < 3:
        marked[..., -TRIGGER_PIXELS:] = 1.0
    else:
        marked[..., -TRIGGER_PIXELS:, -TRIGGER_PIXELS:] = 1.0
    return marked


def _some(among: NDArray[Any], share: float, member: bytes) -> NDArray[np.int64]:
    """This share of them, the member's own draw."""
    if not 0 < share <= 1:
        raise ValueError(f"a share of {share} of the samples")
    order = chance.shuffled(len(among), chance.words("attack data", member))
    return among[order[: round(share * len(among))]]


def _with_data(trainer: Any, x: Any, y: Any) -> None:
    trainer.x, trainer.y = x, y
    trainer.data_root, trainer.data_leaves = data_root(x, y)
