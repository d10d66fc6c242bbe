"""The thresholds a new network starts with. What they were measured on is in docs/detection.md."""

from __future__ import annotations

from p2pfl.genesis import Rules

DEFAULT_RULES = Rules(
    # A mean in which nobody counts more by being loud; digits are learnt as well as with the plain mean.
    aggregator="clipped_mean",
    # No member of the data sets we ship has more samples; a larger claim buys no more influence.
    weight_cap=10_000,
    # A group that points away from the others. Above zero, honest groups are left out late in training, when
    # their deltas are nearly orthogonal; members are found below it through their warnings all the same.
    group_cos_min_micro=0,
    # No honest pair was nearer in 27,360 client-rounds.
    duplicate_max_micro=100_000,
    norm_ratio_max_micro=4_000_000,
    # An honest replay on another instruction set differs by 0.7 % after an epoch, a flipped update by 200 %.
    replay_max_ppm=100_000,
    # Council blocks that an accused has to open its round. Evidence of guilt does not wait for the end, so
    # it may be generous; only who never opens gains by it, and is left out meanwhile.
    case_blocks=8,
    # Of 432 honest members of the digits the labels disagreed by at most 16 % more than is expected; of those
    # who flip all labels by 65 % at least, of a backdoor in half of the samples by 45 % in the median.
    harmful_max_ppm=300_000,
    filter_rate_ppb=100_000,
    council_every=1,
    # No node brings a row to the contract by itself yet, and it makes a check of sixteen updates of 1.2M
    # numbers a third longer.
    row_root=0,
)
