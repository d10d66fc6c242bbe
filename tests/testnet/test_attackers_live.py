"""Attackers among real nodes: what they do reaches the others, and the group goes on without it."""

from __future__ import annotations

from pathlib import Path

from tests.rounds.small_network import small_network


async def test_a_lie_of_ci_and_a_member_that_never_reveals_cost_a_round(tmp_path: Path) -> None:
    befallen = {
        "g0m0": [{"name": "wrong_filter", "options": {}}],  # Ci of height 0.
        "g0m2": [{"name": "no_reveal", "options": {}}],
    }
    times = {"reveal_ms": 2_500}  # Which is what everybody waits in vain.
    shape = {"groups": 1, "members": 7, "seats": 1, "rounds": 1, "model": "logistic"}
    async with small_network(tmp_path / "run", befallen=befallen, times=times, **shape) as network:
        names = [f"g0m{m}" for m in range(7)]
        await network.until(lambda: network.heights(names, 0))
        lies = {each["block_id"] for each in network.seen("lied", by="g0m0")}
        blocks = network.seen("decided", by="g0m1", group="g0")
    assert lies
    assert not lies & {each["block_id"] for each in blocks}
    (block,) = blocks
    assert block["proposer"] != "g0m0"
    assert block["left_out"] == ["g0m2"]  # The liar's own update is honest.
