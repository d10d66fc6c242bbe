"""Protocol bugs, planted one at a time, to see whether the tests and the simulator would have found them.

`python -m tests.mutants --json` prints a row for each: killed by which sentence, and by which oracle after
how many seeds.
"""
