"""Live faults: a network of real processes that is killed, stopped, cut apart, filled up and wiped.

`python -m tests.live faults --members 7 --json` runs the table of `faults`; what must hold is in `judge`.
"""
