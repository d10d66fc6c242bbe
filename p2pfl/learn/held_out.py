"""What a member keeps out of its training, to judge a base by samples that nobody has learnt from.

Knows nothing of ballots. Which samples are kept out is a function of how many there are: a member that
restarts keeps out the same ones, and its data root stays.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from p2pfl.learn.datasets import Float32, Int64

# Below so many samples nothing is kept out: a member would rather learn from all of them, and a loss over
# three or four samples says nothing.
SAMPLES_MIN = 40
# A loss over fewer samples than these is mostly chance.
HELD_OUT_MIN = 8

Samples = tuple[Float32, Int64]


def hold_out(x: Float32, y: Int64, percent: int) -> tuple[Samples, Samples | None]:
    """(what is trained on, what is kept out) of one member's samples; None where nothing is kept out.

    x: float32, shape (samples, ...); y: int64. percent: of the samples, 0 to 50; at least HELD_OUT_MIN.
    Evenly spaced and not the last ones: a table that is sorted by its label would keep one class out.
    """
    picked = held_out_places(len(y), percent)
    if not len(picked):
        return (x, y), None
    rest = np.delete(np.arange(len(y)), picked)
    return (x[rest], y[rest]), (x[picked], y[picked])


def held_out_places(count: int, percent: int) -> NDArray[np.int64]:
    """Which of `count` samples are kept out: ascending, int64."""
    if not 0 <= percent <= 50:
        raise ValueError(f"{percent} percent cannot be kept out")
    wanted = max(HELD_OUT_MIN, count * percent // 100) if percent and count >= SAMPLES_MIN else 0
    # The middles of `wanted` equal parts.
    return (2 * np.arange(wanted, dtype=np.int64) + 1) * count // (2 * wanted) if wanted else np.arange(0)
