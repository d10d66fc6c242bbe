"""What tests share: one thread for torch and BLAS, examples from a fixed seed, one network at a time."""

from __future__ import annotations

import os

# Before anything imports numpy or torch: results must not depend on how many processors there are.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import pytest  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402

settings.register_profile(
    "quick", max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("thorough", max_examples=2_000, deadline=None)
# Examples are drawn from a fixed seed, so that a red test is red for everybody; `thorough` looks further.
settings.register_profile("ci", parent=settings.get_profile("quick"), derandomize=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


# They start processes by the dozen: two such networks at once would only wait for each other.
NETWORKS = ("tests/e2e/", "tests/live/", "tests/testnet/", "tests/bench/")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of whole networks follow one another in one worker, while the other has the rest."""
    for item in items:
        if item.nodeid.startswith(NETWORKS):
            item.add_marker(pytest.mark.xdist_group("networks"))
