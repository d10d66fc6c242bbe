"""Harmful updates that look central: no further from honest ones than those are from one another.

Each is a function of honest updates as far as colluders know them (`cabal`), so all send one vector, which
the duplicate rule sees at once when two sit in one group. With `jitter` each adds noise of its own, and
that rule is blind; then only their replay tells.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from p2pfl.errors import UserError
from testnet.attacks.cabal import Knowledge
from testnet.attacks.lying import Delta, Liar, Training, jittered
from testnet.attacks.table import attack

Updates = NDArray[np.float64]  # Shape (updates, coordinates).


def _collude(
    parts: Any, cabal: Sequence[str], vector: Callable[[Updates], Delta], jitter: float, honest_rounds: int
) -> None:
    """From now on the member sends `vector` of what its cabal knows, with noise of its own."""
    knowledge = Knowledge(parts, cabal)

    async def lie(training: Training) -> Delta:
        return jittered(vector(await knowledge.updates(training)), training, jitter)

    parts.trainer = Liar(parts.trainer, lie, honest_rounds=honest_rounds)


@attack("alie")
def alie(
    parts: Any, *, cabal: Sequence[str] = (), z: float = 1.5, jitter: float = 0.0, honest_rounds: int = 0
) -> None:
    """A Little Is Enough: mean - z * deviation, a coordinate each (Baruch et al., NeurIPS 2019, algorithm 3).

    z: 1.5, as field benchmarks use; the paper's `z_max` is 0 to 0.2 in groups of 4 to 16, which harms nobody.
    """
    _collude(parts, cabal, partial(alie_vector, z=z), jitter, honest_rounds)


@attack("ipm")
def ipm(
    parts: Any,
    *,
    cabal: Sequence[str] = (),
    epsilon: float = 0.5,
    jitter: float = 0.0,
    honest_rounds: int = 0,
) -> None:
    """Inner product manipulation: -epsilon * mean (Xie et al. 2020, Fall of Empires).

    epsilon: a small one passes distance rules, a large one (100) breaks plain means.
    """
    _collude(parts, cabal, partial(ipm_vector, epsilon=epsilon), jitter, honest_rounds)


@attack("min_max")
def min_max(
    parts: Any,
    *,
    cabal: Sequence[str] = (),
    direction: str = "deviation",
    jitter: float = 0.0,
    honest_rounds: int = 0,
) -> None:
    """As far against the mean as two honest updates are apart (Shejwalkar & Houmansadr, NDSS 2021).

    mean + gamma * p; p is minus the "deviation" (the paper's strongest), the "unit" mean or its "sign".
    """
    find_direction(direction)
    _collude(parts, cabal, partial(min_max_vector, direction=direction), jitter, honest_rounds)


@attack("min_sum")
def min_sum(
    parts: Any,
    *,
    cabal: Sequence[str] = (),
    direction: str = "deviation",
    jitter: float = 0.0,
    honest_rounds: int = 0,
) -> None:
    """The same, bounded by sums of squared distances (Shejwalkar & Houmansadr, NDSS 2021)."""
    find_direction(direction)
    _collude(parts, cabal, partial(min_sum_vector, direction=direction), jitter, honest_rounds)


@attack("colluders")
def colluders(
    parts: Any, *, cabal: Sequence[str] = (), of: str = "min_max", jitter: float = 0.2, honest_rounds: int = 0
) -> None:
    """One vector of a cabal (of: "alie", "ipm", "min_max" or "min_sum"), each with noise of its own.

    The noise is too much for the duplicate rule and too little to matter: only audits catch them.
    """
    if of not in VECTORS:
        raise UserError(
            f"colluders cannot send {of!r}", because="it is no shared vector", fix=f"of: {', '.join(VECTORS)}"
        )
    _collude(parts, cabal, VECTORS[of], jitter, honest_rounds)


# ---------------------------------------------------------------------------
# The vectors. updates: float64, shape (updates, coordinates), what is known of the honest ones.


def z_max(members: int, attackers: int) -> float:
    """Baruch et al., algorithm 3: the largest z at which enough honest members stand further out.

    s = floor(n/2 + 1) - m supporters are needed; z_max is the point below which (n - m - s) / (n - m) lies.
    0 where that is not above the middle.
    """
    supporters = members // 2 + 1 - attackers
    share = (members - attackers - supporters) / (members - attackers)
    return max(0.0, NormalDist().inv_cdf(share)) if 0 < share < 1 else 0.0


def alie_vector(updates: Updates, z: float = 1.5) -> Delta:
    """mean - z * deviation."""
    return updates.mean(0) - z * updates.std(0)


def ipm_vector(updates: Updates, epsilon: float = 0.5) -> Delta:
    """-epsilon * mean."""
    return -epsilon * updates.mean(0)


def min_max_vector(updates: Updates, direction: str = "deviation") -> Delta:
    """mean + gamma * p, gamma the largest with max_i |it - u_i| <= max_ij |u_i - u_j|.

    The paper halves its way to gamma; each bound is a quadratic in gamma, so the smallest root is exact.
    """
    mean = updates.mean(0)
    p = find_direction(direction)(updates)
    p_sq = float(p @ p)
    if p_sq == 0:
        return mean
    apart_sq = _distances_sq(updates).max()
    offsets = mean - updates
    along, offsets_sq = offsets @ p, np.einsum("ij,ij->i", offsets, offsets)
    roots = (-along + np.sqrt(np.maximum(0, along**2 + p_sq * (apart_sq - offsets_sq)))) / p_sq
    return mean + max(0.0, float(roots.min())) * p


def min_sum_vector(updates: Updates, direction: str = "deviation") -> Delta:
    """mean + gamma * p, gamma the largest with sum_i |it - u_i|^2 <= max_i sum_j |u_i - u_j|^2."""
    mean = updates.mean(0)
    p = find_direction(direction)(updates)
    p_sq = float(p @ p)
    if p_sq == 0:
        return mean
    most = _distances_sq(updates).sum(1).max()
    offsets = mean - updates  # They sum to zero, so gamma's linear term does too.
    left = most - float(np.einsum("ij,ij->", offsets, offsets))
    return mean + np.sqrt(max(0.0, left) / (len(updates) * p_sq)) * p


def _distances_sq(updates: Updates) -> NDArray[np.float64]:
    """Squared distances of all pairs, shape (updates, updates); one pair at a time, in little memory."""
    return np.array([[float(((a - b) ** 2).sum()) for b in updates] for a in updates])


def _against_deviation(updates: Updates) -> Delta:
    return -updates.std(0)


def _against_unit(updates: Updates) -> Delta:
    mean = updates.mean(0)
    norm = float(np.linalg.norm(mean))
    return -mean / norm if norm else mean


def _against_sign(updates: Updates) -> Delta:
    return -np.sign(updates.mean(0))


DIRECTIONS: dict[str, Callable[[Updates], Delta]] = {
    "deviation": _against_deviation,
    "unit": _against_unit,
    "sign": _against_sign,
}


def find_direction(name: str) -> Callable[[Updates], Delta]:
    """One of the paper's perturbations. Raises UserError."""
    if name not in DIRECTIONS:
        known = ", ".join(DIRECTIONS)
        raise UserError(
            f"there is no direction {name!r}", because=f"there are {known}", fix="name one of them"
        )
    return DIRECTIONS[name]


VECTORS: dict[str, Callable[[Updates], Delta]] = {
    "alie": alie_vector,
    "ipm": ipm_vector,
    "min_max": min_max_vector,
    "min_sum": min_sum_vector,
}
