"""Experiments: the same groups and council in memory, under a virtual clock, over whole grids of attacks.

    grid -> cells -> runner -> journal -> results -> table, Parquet, CSV, report
                       |
                       world (a network in memory)   or   flat (one server, for comparison)

Nothing here is known to `p2pfl/`: a cell puts the node's parts together and wraps whom it wants to be bad.
"""
