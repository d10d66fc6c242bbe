"""A whole network in which everybody is drawn: the honest are cleared, wrong labels found, nobody slashed."""

from __future__ import annotations

from pathlib import Path

from p2pfl.genesis import COUNCIL
from p2pfl.records import CouncilBody, decode_body
from tests.rounds.small_network import SmallNetwork, small_network
from tests.rounds.test_network import chain_of

FLIPPER = "g0m1"


def ended(network: SmallNetwork) -> dict[str, str]:
    """How the case of each accused ended."""
    return {each["accused"]: each["outcome"] for each in network.seen("outcome", by="seat0")}


async def test_drawn_members_open_their_round_and_labels_tell_who_is_harmful(tmp_path: Path) -> None:
    async with small_network(
        tmp_path / "run",
        befallen={FLIPPER: [{"name": "label_flip"}]},
        rules={"audit_share_ppm": 1_000_000},
        groups=1,
        members=4,
        seats=1,
        rounds=6,
    ) as network:
        await network.until(lambda: len(ended(network)) == 4)
    found = ended(network)
    assert found.pop(FLIPPER) == "harmful"
    assert set(found.values()) == {"cleared"}
    council = [decode_body(each.block.body, CouncilBody) for each in chain_of(network, "seat0", COUNCIL)]
    assert {case.cause for body in council for case in body.cases} >= {"audit"}
    assert not any(body.certificates for body in council)
    measured = [each for each in network.seen("measured", by="seat0") if each["status"] == 0]
    assert all(each["worst_ppm"] == 0 for each in measured)
