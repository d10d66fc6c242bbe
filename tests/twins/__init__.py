"""Twins: liars are two honest processes with one key, and the schedules are tried one after the other.

After Bano et al., "Twins: BFT Systems Made Robust" (arXiv 2004.10617): no lie is invented, yet who hears
whom in each round, and who leads it, is chosen by the test. `python -m tests.twins --json` tries them all for
one pair of twins among four members and three rounds.
"""
