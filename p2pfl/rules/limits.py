"""Whether a network's numbers fit: asked once, at start, so that no sum can leave its bounds in a round.

The sums themselves assert their bounds when they are made; whoever gets there has a bug. This says it in time
and in words for an operator.
"""

from __future__ import annotations

from p2pfl.errors import UserError
from p2pfl.genesis import Genesis, Task
from p2pfl.params import MODEL_BYTES_MAX, byte_length
from p2pfl.rules.aggregate import AGGREGATORS
from p2pfl.rules.pool import unpack
from p2pfl.rules.sums import NUMERATOR_MAX
from p2pfl.rules.weighted import FACTOR_BITS

# A group that was cut off trained under exponents that the council has left behind, one step a block. Beyond
# so many steps its old updates are no longer counted: shifted to a common scale they could leave int64.
EXPONENT_LAG_MAX = 8
_FIX = "make the network's genesis file again with other values"
_MICRO_ONE = 1_000_000


def check_genesis(genesis: Genesis) -> None:
    """Raises UserError for a network whose sums could leave their bounds, or whose rules mean nothing."""
    rules, layout = genesis.rules, genesis.task.layout
    if rules.aggregator not in AGGREGATORS:
        known = ", ".join(sorted(AGGREGATORS))
        raise UserError(
            f"there is no aggregator {rules.aggregator!r}", because=f"the known ones are {known}", fix=_FIX
        )
    size_bytes = byte_length("base", layout)
    if size_bytes > MODEL_BYTES_MAX:
        raise UserError(
            "the model is too large",
            because=f"its parameters have {size_bytes} bytes, the limit is {MODEL_BYTES_MAX}",
            fix="use a smaller model",
        )
    largest = _weight_cap_max(genesis)
    if not 0 < rules.weight_cap <= largest:
        raise UserError(
            f"the weight cap {rules.weight_cap} does not fit",
            because=f"with these groups weighted sums stay exact up to a cap of {largest}",
            fix=_FIX,
        )
    _in_range("group_cos_min_micro", rules.group_cos_min_micro, -_MICRO_ONE, _MICRO_ONE)
    _in_range("duplicate_max_micro", rules.duplicate_max_micro, 0, _MICRO_ONE)
    _in_range("norm_ratio_max_micro", rules.norm_ratio_max_micro, _MICRO_ONE, _MICRO_ONE * _MICRO_ONE)
    _in_range("replay_max_ppm", rules.replay_max_ppm, 1, 1 << 63)
    _in_range("alarm_rate_ppm", rules.alarm_rate_ppm, 0, _MICRO_ONE)
    _in_range("leave_out_rate_ppm", rules.leave_out_rate_ppm, rules.alarm_rate_ppm, _MICRO_ONE)
    _in_range("look_back", rules.look_back, 0, 16)
    try:
        unpack(genesis.pool)
    except ValueError as error:
        raise UserError("the pool of honest rounds is not valid", because=str(error), fix=_FIX) from error
    _in_range("ballots", rules.ballots, 0, 1)
    _in_range("case_blocks", rules.case_blocks, 1, 1 << 32)
    _in_range("epochs.blocks", genesis.epochs.blocks, 0, 1 << 32)
    _in_range("epochs.stall_ms", genesis.epochs.stall_ms, 1, 1 << 48)
    _in_range("row_root", rules.row_root, 0, 1 if AGGREGATORS[rules.aggregator].factors else 0)
    _in_range("filter_rate_ppb", rules.filter_rate_ppb, 1, 10**9 - 1)
    _in_range("audit_share_ppm", rules.audit_share_ppm, 0, _MICRO_ONE)
    _in_range("harmful_max_ppm", rules.harmful_max_ppm, 0, _MICRO_ONE)
    _in_range("harmful_error_max_ppm", rules.harmful_error_max_ppm, 0, _MICRO_ONE)
    _in_range("harmful_blocks", rules.harmful_blocks, 1, 1 << 32)
    _in_range("harmful_times", rules.harmful_times, 1, 1 << 32)
    _check_task(genesis.task)


def _check_task(task: Task) -> None:
    """What no training can be done with. Whether its names are known is asked by whoever trains."""
    largest = 1 << 32
    for name in ("batch_size", "trace_every", "learning_rate_micro", "gradient_norm_max_micro", "classes"):
        _in_range(f"task.{name}", getattr(task, name), 1, largest)
    # Seats learn from the root set: without one there is no root update, and no model that judges labels.
    _in_range("task.root_size", task.root_size, 1, largest)
    _in_range("task.local_steps", task.local_steps, 0, largest)
    _in_range("task.local_epochs", task.local_epochs, 0 if task.local_steps else 1, largest)
    _in_range("task.momentum_micro", task.momentum_micro, 0, _MICRO_ONE - 1)
    _in_range("task.second_moment_micro", task.second_moment_micro, 0, _MICRO_ONE - 1)
    _in_range("task.epsilon_nano", task.epsilon_nano, 1, largest)
    _in_range("task.proximal_micro", task.proximal_micro, 0, largest)
    _in_range("task.held_out_percent", task.held_out_percent, 0, 50)
    names = len(task.class_names)
    if names not in (0, task.classes) or len(set(task.class_names)) != names:
        raise UserError(
            f"the task names {names} classes",
            because=f"it has {task.classes}; either each has a name of its own or none has",
            fix=_FIX,
        )


def _weight_cap_max(genesis: Genesis) -> int:
    """The largest cap with which neither a group's nor the council's weighted sum can leave int64.

    In a group: members * cap * 2^20 * 2^15. In the council: all members * cap * 2^(2 * lag) * 2^15.
    """
    sizes = [len(group.members) for group in genesis.groups]
    in_group = (NUMERATOR_MAX - 1) >> (FACTOR_BITS + 15)
    in_council = (NUMERATOR_MAX - 1) >> (2 * EXPONENT_LAG_MAX + 15)
    return min(in_group // max(sizes, default=1), in_council // max(sum(sizes), 1))


def _in_range(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise UserError(f"the rule {name} is {value}", because=f"it lies between {low} and {high}", fix=_FIX)
