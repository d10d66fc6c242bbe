"""The thresholds a new network starts with, each with what it was measured on (docs/detection.md)."""

from __future__ import annotations

from p2pfl.genesis import Rules

DEFAULT_RULES = Rules(
    aggregator="clipped_mean",
    weight_cap=10_000,
    group_cos_min_micro=0,
    duplicate_max_micro=100_000,
    norm_ratio_max_micro=4_000_000,
    replay_max_ppm=100_000,
    case_blocks=3,
    filter_rate_ppb=100_000,
    council_every=1,
)
