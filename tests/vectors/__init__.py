"""Golden vectors, read by the tests of Python and of the contracts; docs/vectors.md says how to read them.

One module makes each file. `python -m tests.consensus.vectors --record` writes them all.
"""
