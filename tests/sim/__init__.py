"""A deterministic simulator of one group: a bad network, crashes, one liar, and oracles that never sleep.

`python -m tests.sim --members 4 --seeds 0:2000 --json`. The same seed gives the same run, on any machine.
"""
