"""For whoever questions a history: verify it, ask it, prove parts of it to others, look at it.

    verify      a whole history against the genesis file, trusting nobody
    recompute   aggregates, Gram matrices and cases again, from the blobs
    proofs      one block or one field of a block, checkable alone
    queries     questions, each declared once: command line, JSON, page
    explorer    the pages

Needs no torch, libp2p or web3, and never imports `rounds`: what a node did is not asked of the node.
"""
