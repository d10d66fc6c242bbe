"""Harmful updates that one member makes alone: sign flip, scaling, Gaussian noise."""

from __future__ import annotations

from typing import Any

import numpy as np

from testnet.attacks.lying import Delta, Liar, Training, noise
from testnet.attacks.table import attack


@attack("sign_flip")
def sign_flip(parts: Any, *, scale: float = 3.0, honest_rounds: int = 0) -> None:
    """Sends -scale times what was learnt (Li et al., AAAI 2019).

    Below a norm ratio of 4 (the genesis' hard rule) it is neither too long nor too short. honest_rounds: so
    many trainings are honest before the first that is not.
    """

    async def flipped(training: Training) -> Delta:
        return -scale * training.delta

    parts.trainer = Liar(parts.trainer, flipped, honest_rounds=honest_rounds)


@attack("scaling")
def scaling(parts: Any, *, factor: float = 10.0, honest_rounds: int = 0) -> None:
    """Sends factor times what was learnt, to replace the model (Bagdasaryan et al., AISTATS 2020).

    Put it on after `backdoor` for the paper's attack; alone it makes the aggregate the member's own.
    """

    async def scaled(training: Training) -> Delta:
        return factor * training.delta

    parts.trainer = Liar(parts.trainer, scaled, honest_rounds=honest_rounds)


@attack("gaussian")
def gaussian(parts: Any, *, scale: float = 3.0, honest_rounds: int = 0) -> None:
    """Sends Gaussian noise, scale times as long as what was learnt (Blanchard et al., NeurIPS 2017).

    The paper's deviation is 200 a coordinate, which any bound on the norm stops; this one stays within ours.
    """

    async def drawn(training: Training) -> Delta:
        return noise(training, scale * float(np.linalg.norm(training.delta)))

    parts.trainer = Liar(parts.trainer, drawn, honest_rounds=honest_rounds)
