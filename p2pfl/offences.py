"""What somebody can lose stake for, by number: 1 to 7 are proved to the contract, the others by a verdict."""

from __future__ import annotations

# The contract knows the same numbers (contracts/SlashingManager.sol).
OFFENCES = {
    1: "two PROPOSE of one round",
    2: "two PREPARE of one round",
    3: "two COMMIT of one round",
    4: "two ROUND-CHANGE of one round",
    5: "ROUND-CHANGE that denies an own COMMIT",
    6: "two ParamTx, ShareRequest or Close of one slot",
    7: "wrong number in a proposed aggregate",
    16: "replay mismatch",
    17: "wrong filter",
    18: "wrong Gram matrix",
    19: "wrong triage row",
    20: "wrong aggregate",
    32: "no opening",
}
AGGREGATE_FRAUD = 7
REPLAY_MISMATCH = 16
NO_OPENING = 32
