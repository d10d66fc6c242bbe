"""Who plays the villain: from an attack, a share of the members and a placement to attacks by member.

Grids of experiments and scenarios of one's own are cast here, the same on every machine. Knows no network.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, zip_longest
from typing import Any

from p2pfl.errors import UserError
from testnet.attacks.table import check, options_of

# The nine of the field that want the model to be worse, and no answer in particular.
UNTARGETED = (
    "sign_flip", "scaling", "gaussian", "label_flip", "alie", "ipm", "min_max", "min_sum", "free_rider",
)  # fmt: skip
PLACEMENTS = ("spread", "one_group", "majority", "random")


def cast(
    name: str,
    groups: Mapping[str, Sequence[str]],
    share: float,
    placement: str = "spread",
    *,
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
) -> dict[str, list[dict[str, Any]]]:
    """The attacks of each attacker, by member, as `put_on` takes them. Raises UserError.

    groups: the members of each group. share: of all members, rounded to the nearest; 0 casts nobody.
    placement: "spread", one in every group before a second one in any; "one_group", all of a group before
    one of the next; "majority", a majority in one group, then in the next; "random". Groups and members are
    drawn by the seed. Attacks of colluders are told who their cabal is: all of them, across groups.
    """
    wanted = dict(options or {})
    check(name, wanted)
    if not 0 <= share <= 1 or placement not in PLACEMENTS:
        raise UserError(
            f"nobody can be cast for {name!r}",
            because=f"the share is {share} and the placement {placement!r}",
            fix=f"a share from 0 to 1, and one of {', '.join(PLACEMENTS)}",
        )
    drawn = random.Random(f"cast {name} {placement} {seed}")
    shuffled = [drawn.sample(list(members), len(members)) for members in groups.values()]
    drawn.shuffle(shuffled)
    order = list(_ordered(shuffled, placement, drawn))
    villains = sorted(order[: round(share * len(order))])
    if "cabal" in options_of(name):
        wanted.setdefault("cabal", villains)
    return {member: [{"name": name, "options": dict(wanted)}] for member in villains}


def _ordered(groups: list[list[str]], placement: str, drawn: random.Random) -> Iterator[str]:
    """All members, in the order in which they are cast."""
    if placement == "one_group":
        yield from chain.from_iterable(groups)
    elif placement == "majority":
        for group in groups:
            yield from group[: len(group) // 2 + 1]
        for group in groups:
            yield from group[len(group) // 2 + 1 :]
    elif placement == "spread":
        for row in zip_longest(*groups):
            yield from (member for member in row if member is not None)
    else:
        everybody = sorted(chain.from_iterable(groups))
        yield from drawn.sample(everybody, len(everybody))
