"""The only room that knows torch: data sets, models, training, and the process it runs in.

    datasets    what is learnt from: tables of data sets and partitioners, the data root
    held_out    what a member keeps out of its training, to judge by
    models      what is learnt: tables of models, their tensors, their first parameters
    train       how: pinned numerics, canonical training states, replay of a segment
    worker      where: a process of its own, so that training never delays a vote

Nothing here imports torch before the first computation. Knows nothing of peers, votes or blocks.
"""
