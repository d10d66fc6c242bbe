"""A whole network on one machine: every member and seat its own process, over real sockets, with a claim.

    cli         `p2pfl testnet up SCENARIO`
    scenarios   what is to happen and what must hold, from scenarios/*.toml
    plan        folders, keys, ports, data and the genesis of one run
    launch      the story of a run, from the first process to the judgement
    zygote      one warmed process that forks the others
    member      what runs in a forked process: one node
    attacks     wrappers around an honest node: the only place where a peer can turn bad
    devchain    an EVM chain for the time of a run
    story       events as rows of a table and as sentences
    watch       the table and the sentences on a terminal
    afterwards  what the contracts and the files say in the end
    signatures  did anybody sign two things that contradict each other?
    stakes      the contracts of a run
    result      the summary, and the JSON object
    picture     the terminal of a run that is over, as SVG
    judge       does the claim hold?
    handbook    the tables of docs/testnet.md

Nothing in `p2pfl/` imports this.
"""
