"""What a stretch of a live network came to, from the events that its nodes told: rounds, decisions, bytes.

Reads what `network` has written down. Judges nothing.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from p2pfl.records import GroupBody, decode_body
from p2pfl.store import BlockFile
from tests.live.judge import Left
from tests.live.shape import GROUP

Event = dict[str, Any]
# Of a round, in their order, as members tell them.
STEPS = ("wait", "train", "reveal", "propose", "prepare", "commit")


def events_in(directory: Path, begin_s: float = 0.0, end_s: float = float("inf")) -> list[Event]:
    """What was told in this stretch, seconds since the network began."""
    lines = (directory / "events.jsonl").read_text(encoding="utf-8").splitlines()
    told = [json.loads(line) for line in lines]
    return [each for each in told if begin_s <= each["at_s"] < end_s]


def rounds_of(events: Sequence[Event]) -> dict[str, Any]:
    """Of the group's heights that were decided in this stretch; seconds are medians and 95th percentiles.

    round_s: from the first decision of a height to that of the next. decision_s: from the first proposal to
    the first decision; votes_s: from the first PREPARE. Both of heights that needed one round; changed: those
    that needed more.
    steps_s: the middle of each step, from the first member that is there to the first in the next.
    """
    first: dict[int, float] = {}
    rounds: dict[int, int] = defaultdict(int)
    begun: dict[str, dict[int, float]] = {step: {} for step in STEPS}
    for each in events:
        if each.get("group") != GROUP:
            continue
        height = each.get("height", -1)
        if each["kind"] == "decided":
            first.setdefault(height, each["at_s"])
            rounds[height] = max(rounds[height], each["round"])
        elif each["kind"] == "step" and each["step"] in begun:
            begun[each["step"]].setdefault(height, each["at_s"])
    straight = {height for height in first if rounds[height] == 0}
    ways = [*begun.items(), ("decided", first)]
    return {
        "heights": len(first),
        "round_s": spread(first[h] - first[h - 1] for h in first if h - 1 in first),
        "decision_s": spread(first[h] - begun["propose"][h] for h in straight if h in begun["propose"]),
        "votes_s": spread(first[h] - begun["prepare"][h] for h in straight if h in begun["prepare"]),
        "steps_s": {
            step: round(median(there[h] - here[h] for h in straight & here.keys() & there.keys()), 3)
            for (step, here), (_, there) in pairwise(ways)
            if straight & here.keys() & there.keys()
        },
        "changed": sum(1 for height in rounds if rounds[height]),
        "round_changes": sum(rounds.values()),
    }


def spread(values: Iterable[float]) -> dict[str, float] | None:
    """The middle, the 95th percentile and the worst; None of nothing."""
    ascending = sorted(values)
    if not ascending:
        return None
    p95 = ascending[min(len(ascending) - 1, int(0.95 * len(ascending)))]
    return {"median": round(median(ascending), 3), "p95": round(p95, 3), "max": round(ascending[-1], 3)}


def idle_blocks(left: Left) -> int:
    """Heights of the group that ended without anybody's update, in the longest copy of its chain."""
    most = 0
    for folder in left.folders.values():
        if folder.chain(GROUP).exists():
            bodies = (decode_body(each.block.body, GroupBody) for each in BlockFile(folder.chain(GROUP)))
            most = max(most, sum(1 for body in bodies if body.close is None))
    return most
