"""The only room that knows torch: data sets, models, training, and the process it runs in.

    datasets, sample_tables    what is learnt from: tables of data sets, files with samples, the data root
    partitions, own_data       whose it is: shares for an experiment; a member's own folder
    held_out                   what a member keeps out of its training, to judge by
    labels                     how far an accused's labels are from what a good model says
    models, model_files        what is learnt: models, their tensors, first parameters; safetensors
    optimizers, states, train  how: steps, canonical training states, pinned numerics, replay of a segment
    worker, task               where: a process of its own, so that training never delays a vote

Nothing here imports torch before the first computation. Knows nothing of peers, votes or blocks.
"""
