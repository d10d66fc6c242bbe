"""What every test shares: one thread for torch and BLAS, and examples that are drawn from a fixed seed."""

from __future__ import annotations

import os

# Before anything imports numpy or torch: results must not depend on how many processors there are.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

from hypothesis import HealthCheck, settings  # noqa: E402

settings.register_profile(
    "quick", max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("thorough", max_examples=2_000, deadline=None)
# Examples are drawn from a fixed seed, so that a red test is red for everybody; `thorough` looks further.
settings.register_profile("ci", parent=settings.get_profile("quick"), derandomize=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))
