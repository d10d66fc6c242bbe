"""Aggregators that are weighted sums of the updates: their factors follow from the Gram matrix alone.

All in Python integers, so that every replica finds the same factors; the updates themselves are touched once,
by whoever adds them up. Distances, unlike those between floats, lose nothing to cancellation.
"""

from __future__ import annotations

from hashlib import sha256
from math import isqrt

from p2pfl.rules.gram import Gram, lower_median
from p2pfl.rules.table import Accepted, Factors, Root, weighted_sum

# Factors are whole numbers of this part of one: they are integers before they touch parameters.
FACTOR_BITS = 20
FACTOR_ONE = 1 << FACTOR_BITS
# Steps towards the geometric median. It moves by less than a thousandth of the updates' spread after a dozen.
WEISZFELD_STEPS = 24
# Whoever is nearer than the median distance over this pulls no harder than from there.
NEAREST_SHARE = 1 << 10
# Karimireddy et al. 2021 step from the last round's momentum; here each round starts at zero.
CLIPPING_STEPS = 3
BUCKET_SIZE = 2
# Trust is a cosine in these units; an update is lengthened 64 times at most. Both keep a sum within int64.
TRUST_BITS = 12
LENGTHENED_MAX = 64 * FACTOR_ONE


@weighted_sum("mean", tolerates="0")
def mean(accepted: Accepted) -> Factors:
    """The mean weighted by samples (McMahan et al. 2017, FedAvg): one liar moves it anywhere."""
    return tuple(accepted.weights), sum(accepted.weights)


@weighted_sum("clipped_mean", tolerates="f < n / 2, each within the median norm")
def clipped_mean(accepted: Accepted) -> Factors:
    """The weighted mean of updates shortened to their median norm (after Sun et al. 2019).

    The median is the lower one: at least one honest update is as long.
    """
    norms_sq = accepted.gram.norms_sq
    bound = lower_median(norms_sq)
    factors = tuple(w * _shortening(bound, n) for w, n in zip(accepted.weights, norms_sq, strict=True))
    return factors, sum(accepted.weights) << FACTOR_BITS


def _shortening(bound_sq: int, norm_sq: int) -> int:
    """min(1, bound / norm) in units of 2^-20, rounded down."""
    return FACTOR_ONE if norm_sq <= bound_sq else isqrt((bound_sq << 2 * FACTOR_BITS) // norm_sq)


@weighted_sum("krum", tolerates="2 f + 2 < n")
def krum(accepted: Accepted) -> Factors:
    """The update nearest to its n - f - 2 nearest (Blanchard et al. 2017); the mean of those that tie."""
    scores = krum_scores(accepted.gram, accepted.f)
    factors = tuple(int(score == min(scores)) for score in scores)
    return factors, sum(factors)


@weighted_sum("multi_krum", tolerates="2 f + 2 < n")
def multi_krum(accepted: Accepted) -> Factors:
    """The mean of the n - f updates with the smallest Krum scores, and of those that tie with the last."""
    scores = krum_scores(accepted.gram, accepted.f)
    bound = sorted(scores)[len(scores) - accepted.faulty - 1]
    factors = tuple(int(score <= bound) for score in scores)
    return factors, sum(factors)


def krum_scores(gram: Gram, f: int) -> list[int]:
    """The sum of the n - f - 2 smallest squared distances of each row (at least one; 0 for a lone row)."""
    n = gram.size
    scores: list[int] = []
    for i in range(n):
        distances = sorted(gram.distance_sq(i, j) for j in range(n) if j != i)
        scores.append(sum(distances[: max(1, n - f - 2)]))
    return scores


@weighted_sum("geometric_median", tolerates="f < n / 2")
def geometric_median(accepted: Accepted) -> Factors:
    """Where the weighted sum of distances is least (Pillutla et al. 2022), by smoothed Weiszfeld steps."""
    return _weiszfeld(accepted.gram, tuple(accepted.weights)), FACTOR_ONE


def _weiszfeld(gram: Gram, weights: tuple[int, ...]) -> tuple[int, ...]:
    """Factors in units of 2^-20 whose sum is at most one."""
    total = sum(weights)
    factors = tuple(FACTOR_ONE * weight // total for weight in weights)
    for _ in range(WEISZFELD_STEPS):
        distances = _distances(gram, factors)
        least = max(1, lower_median(distances) // NEAREST_SHARE)
        pulls = [(weight << 100) // max(least, d) for weight, d in zip(weights, distances, strict=True)]
        whole = sum(pulls)
        if whole == 0:
            break  # So far apart that none of them pulls: the mean is as good.
        factors = tuple(FACTOR_ONE * pull // whole for pull in pulls)
    return factors


def _distances(gram: Gram, factors: tuple[int, ...]) -> list[int]:
    """How far each row is from the sum of factor * row / 2^20, in units of 2^-20, rounded down."""
    towards = [sum(a * b for a, b in zip(factors, row, strict=True)) for row in gram.inner]
    centre_sq = sum(a * b for a, b in zip(factors, towards, strict=True))
    return [
        isqrt((norm_sq << 2 * FACTOR_BITS) - (dot << FACTOR_BITS + 1) + centre_sq)
        for norm_sq, dot in zip(gram.norms_sq, towards, strict=True)
    ]


@weighted_sum("centred_clipping", tolerates="f < n / 2, each within the median distance a step")
def centred_clipping(accepted: Accepted) -> Factors:
    """Steps by the mean difference, each shortened to their median (Karimireddy et al. 2021), from zero."""
    total = sum(accepted.weights)
    centre = (0,) * len(accepted.weights)
    for _ in range(CLIPPING_STEPS):
        distances = _distances(accepted.gram, centre)
        bound_sq = lower_median(distances) ** 2
        steps = [
            weight * _shortening(bound_sq, distance * distance) // total
            for weight, distance in zip(accepted.weights, distances, strict=True)
        ]
        kept = FACTOR_ONE - sum(steps)
        centre = tuple((old * kept >> FACTOR_BITS) + step for old, step in zip(centre, steps, strict=True))
    return centre, FACTOR_ONE


@weighted_sum("bucketing", tolerates="f < n / 4")
def bucketing(accepted: Accepted) -> Factors:
    """The geometric median of the means of random pairs (Karimireddy et al. 2022).

    Who is paired with whom is drawn from the norms of all updates, which nobody knows who commits to one.
    """
    gram, n = accepted.gram, accepted.gram.size
    drawn = sha256(repr(sorted(gram.norms_sq)).encode()).digest()
    keys = [sha256(drawn + repr(norm_sq).encode()).digest() for norm_sq in gram.norms_sq]
    order = sorted(range(n), key=lambda index: (keys[index], index))
    # Pairs only where that leaves the liars' buckets a minority.
    size = BUCKET_SIZE if n > 2 * BUCKET_SIZE * accepted.f else 1
    buckets = [order[start : start + size] for start in range(0, n, size)]
    shares = [tuple(size // len(each) * (index in each) for index in range(n)) for each in buckets]
    means = Gram(tuple(tuple(gram.dot(left, right) for right in shares) for left in shares))
    pulls = _weiszfeld(means, (1,) * len(buckets))
    factors = [0] * n
    for bucket, pull in zip(buckets, pulls, strict=True):
        for index in bucket:
            factors[index] = pull * (size // len(bucket))
    return tuple(factors), FACTOR_ONE * size


@weighted_sum("fltrust", tolerates="any f, as far as the root update can be trusted", saturates=True)
def fltrust(accepted: Accepted) -> Factors:
    """Each update as long as the root update, weighted by its cosine to it if positive (Cao et al. 2021).

    Without a root update (the first rounds have none): `clipped_mean`.
    """
    root = accepted.root
    if root is None or root.norm_sq <= 0:
        return clipped_mean(accepted)
    trust, factors = _trust(root, accepted.gram.norms_sq), list[int]()
    for own, norm_sq in zip(trust, accepted.gram.norms_sq, strict=True):
        longer = isqrt((root.norm_sq << 2 * FACTOR_BITS) // norm_sq) if own else 0
        factors.append(own * min(longer, LENGTHENED_MAX))
    return tuple(factors), max(sum(trust), 1) << FACTOR_BITS


@weighted_sum("clipped_mean_fltrust", tolerates="f < n / 2, any f as far as the root update can be trusted")
def clipped_mean_fltrust(accepted: Accepted) -> Factors:
    """`clipped_mean` with weights times FLTrust's trust: the cosine to the root update, if positive.

    Nobody is lengthened; where nobody is trusted, nothing moves. Without a root update: `clipped_mean`.
    """
    root, norms_sq = accepted.root, accepted.gram.norms_sq
    if root is None or root.norm_sq <= 0:
        return clipped_mean(accepted)
    bound = lower_median(norms_sq)
    weights = [w * own for w, own in zip(accepted.weights, _trust(root, norms_sq), strict=True)]
    # Back to factors of 2^-20 a sample: a sum has no more bits than that of `clipped_mean`.
    factors = tuple(w * _shortening(bound, n) >> TRUST_BITS for w, n in zip(weights, norms_sq, strict=True))
    return factors, max(sum(weights), 1) << FACTOR_BITS - TRUST_BITS


def _trust(root: Root, norms_sq: tuple[int, ...]) -> list[int]:
    """The cosine of each to the root update in units of 2^-12, rounded down; 0 for who points away."""
    return [
        isqrt((dot * dot << 2 * TRUST_BITS) // (norm_sq * root.norm_sq)) if dot > 0 else 0
        for dot, norm_sq in zip(root.dots, norms_sq, strict=True)
    ]
