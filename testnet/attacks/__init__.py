"""How a peer turns bad: wrappers around an honest node, put on from outside. Nothing in `p2pfl/` knows them.

    table       the decorator, `put_on`, one's own attacks
    casting     who plays the villain in a grid
    lying       a trainer whose end is faked consistently
    updates     harmful updates of one member
    cabal       what colluders know
    colluders   harmful updates that look central
    riders      who has not trained: free riders, copycats
    data        harmful data, honestly trained on
    votes       votes that contradict each other
    messages    between a node and the others
    proposer    a `Ci` that lies, or leaves a member out
    refusals    who does not do its part

A new attack is one function with `@attack(name)`, in one of these rooms or in a module of one's own.
"""

from testnet.attacks import colluders, data, proposer, refusals, riders, updates, votes
from testnet.attacks.casting import PLACEMENTS, UNTARGETED, cast
from testnet.attacks.table import attack, check, options_of, put_on

__all__ = [
    "PLACEMENTS", "UNTARGETED", "attack", "cast", "check", "colluders", "data", "find", "names", "options_of",
    "proposer", "put_on", "refusals", "riders", "updates", "votes",
]  # fmt: skip

find = attack.find
names = attack.names
