"""The story of a round: what a member does from the request to the block, what the council does with it.

Knows every room below (learn, net, store, evm, rules) through the parts a node is made of; decides nothing
that is voted on: that is in `rules/`.
"""
