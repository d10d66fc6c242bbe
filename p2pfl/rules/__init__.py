"""What a valid block of parameters is: exact arithmetic, no clock, no disk, no chance, no torch.

    gram        inner products of updates, exact
    aggregate   many updates become one, by a rule of the table
    table       the table of aggregators: `weighted` sums, and rules that sort `coordinates`
    triage      one member in its group: features, hard rules, warnings about single chunks
    compare     one group among the groups; which chunks deviate
    cases       from a group that stands apart to the member whose absence brings it back
    filters     the five Bloom filters of a block
    validate    the body of a group's block, derived once: to propose it and to check it
    council     the body of the council's block
    state       what the council's chain says so far
    limits      whether a network's numbers fit, asked at start
    verdicts    from measurements to outcomes to certified verdicts

Proposers, voters and auditors call the same functions, so whatever one derives the others find again.
Who fetches updates, and when, is in `rounds` and `audit`.
"""
