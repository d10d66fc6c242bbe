"""Epochs as claims about whole networks: the real nodes over the network in memory."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from p2pfl.audit.fetch import Copy
from p2pfl.audit.verify import verify
from p2pfl.cli import main
from p2pfl.genesis import COUNCIL
from p2pfl.records import CouncilBody, decode_body
from p2pfl.store import Folder
from tests.rounds.small_network import SmallNetwork, small_network
from tests.rounds.test_network import SHORT, chain_of

MEMBERS = [f"g{g}m{m}" for g in range(2) for m in range(4)]
SHAPE = {"groups": 2, "members": 4, "seats": 1}


def in_epoch(network: SmallNetwork, names: list[str], epoch: int) -> bool:
    return all(network.seen("epoch", by=name, epoch=epoch) for name in names)


def assert_an_observer_gets_it(network: SmallNetwork, path: Path) -> None:
    """Whoever is given the seat's blocks believes them all, committees of later epochs included."""
    copy = Copy(path, network.parts["seat0"].genesis)
    try:
        for name in copy.chains:
            blocks = chain_of(network, "seat0", name)
            assert copy.take(name, blocks[:3]) == len(blocks[:3])
            assert copy.take(name, blocks[3:]) == len(blocks[3:])
        copy.cut_what_is_void()
        assert all(
            chain.height + 1 == len(chain_of(network, "seat0", chain.name)) for chain in copy.chains.values()
        )
    finally:
        copy.close()
    again = Copy(path, network.parts["seat0"].genesis)  # What lies there is checked again.
    again.close()
    assert verify(path).findings == []


async def test_members_are_shuffled_when_an_epoch_ends_and_learn_on(tmp_path: Path) -> None:
    async with small_network(tmp_path / "run", epochs={"blocks": 2}, rounds=40, **SHAPE) as network:
        await network.until(lambda: in_epoch(network, [*MEMBERS, "seat0"], 2), timeout_s=150)
        after = {name: network.seen("epoch", by=name, epoch=2)[0]["group"] for name in MEMBERS}
        await network.until(
            lambda: all(network.seen("decided", by=name, group=after[name]) for name in MEMBERS)
        )
        newest = max(each["height"] for each in network.seen("decided", by="g0m0"))
        await network.until(
            lambda: any(each["height"] > newest for each in network.seen("decided", by="g1m1"))
        )
    before = {name: network.seen("epoch", by=name, epoch=0)[0]["group"] for name in MEMBERS}
    assert before != after
    # Everybody's history holds, as a stranger sees it, the committees of all epochs included.
    report = verify(tmp_path / "run", recompute=True)
    assert report.findings == []
    assert_an_observer_gets_it(network, tmp_path / "copy")
    epochs = {each.block.header.epoch for each in chain_of(network, "seat0", "g0")}
    assert {0, 1, 2} <= epochs
    assignments = [
        body.assignment
        for each in chain_of(network, "seat0", COUNCIL)
        if (body := decode_body(each.block.body, CouncilBody)).assignment is not None
    ]
    assert [each.epoch for each in assignments][:2] == [1, 2]


async def test_a_group_without_a_quorum_is_closed_and_its_living_members_go_on(tmp_path: Path) -> None:
    epochs = {"blocks": 1000, "stall_ms": 20_000}
    async with small_network(tmp_path / "run", epochs=epochs, times=SHORT, rounds=30, **SHAPE) as network:
        await network.until(lambda: network.heights(["g0m0", "g1m0"], 1))
        await network.stop("g0m2")
        await network.stop("g0m3")
        living = [name for name in MEMBERS if name not in ("g0m2", "g0m3")]
        await network.until(lambda: in_epoch(network, living, 1), timeout_s=150)
        group = network.seen("epoch", by="g0m0", epoch=1)[0]
        assert group["group"] == "g1"
        assert set(group["members"]) == set(living)
        height = max(each["height"] for each in network.seen("decided", by="g1m0"))
        await network.until(lambda: network.heights(living, height + 2), timeout_s=120)
    assert verify(tmp_path / "run").findings == []
    assert_an_observer_gets_it(network, tmp_path / "copy")


def make_newcomer(network: SmallNetwork, name: str, like: str) -> None:
    """A folder as `node init` and `node join` make it, admitted by the one seat."""
    nodes = network.plan.ground.directory / "nodes"
    folder = Folder(nodes / name)
    address = "/ip4/127.0.0.1/tcp/9999"
    assert main(["node", "init", str(folder.path), "--name", name, "--listen", address]) == 0
    shutil.copy(network.plan.genesis_path, folder.genesis)
    shutil.copy(nodes / like / "data.npz", folder.path / "data.npz")
    assert main(["node", "join", str(folder.path), "--listen", address]) == 0
    assert main(["node", "admit", str(folder.path / "join.json"), "--dir", str(nodes / "seat0")]) == 0


def whole_epochs_without(network: SmallNetwork, name: str) -> list[int]:
    """The epochs that both groups have begun, and in which this member sits in neither."""
    found: dict[int, dict[str, list[str]]] = {}
    for each in network.seen("epoch"):
        found.setdefault(each["epoch"], {})[each["group"]] = each["members"]
    return [
        epoch
        for epoch, groups in found.items()
        if {"g0", "g1"} <= set(groups) and all(name not in members for members in groups.values())
    ]


async def test_a_newcomer_syncs_and_votes_and_who_gave_notice_is_gone(tmp_path: Path) -> None:
    async with small_network(tmp_path / "run", epochs={"blocks": 4}, rounds=40, **SHAPE) as network:
        shutil.copy(network.plan.genesis_path, tmp_path / "run" / "nodes" / "seat0" / "genesis.json")
        make_newcomer(network, "new", like="g0m0")
        (tmp_path / "run" / "nodes" / "g1m3" / "leave").write_bytes(b"")
        await network.start("new")
        await network.until(
            lambda: any("new" in each.get("members", ()) for each in network.seen("decided")), timeout_s=120
        )
        await network.until(lambda: bool(whole_epochs_without(network, "g1m3")), timeout_s=120)
    first = min(whole_epochs_without(network, "g1m3"))
    seated = {name for each in network.seen("epoch", epoch=first) for name in each["members"]}
    assert seated >= {"new", *MEMBERS} - {"g1m3"}
    assert verify(tmp_path / "run").findings == []


async def test_who_votes_twice_is_out_with_the_next_epoch(tmp_path: Path) -> None:
    befallen = {"g0m3": [{"name": "equivocate", "options": {"height": 1, "vote": "Prepare"}}]}
    shape: dict[str, Any] = {"groups": 1, "members": 5, "seats": 1, "rounds": 30}
    others = [f"g0m{m}" for m in (0, 1, 2, 4)]
    async with small_network(tmp_path / "run", befallen=befallen, epochs={"blocks": 3}, **shape) as network:
        await network.until(
            lambda: any(set(each["members"]) == set(others) for each in network.seen("epoch")), timeout_s=90
        )
        out = min(e["epoch"] for e in network.seen("epoch") if set(e["members"]) == set(others))
        await network.until(lambda: in_epoch(network, others, out + 1))
        culprit = network.id_of("g0m3")
        await network.until(lambda: all(culprit not in network.parts[o].network.peers for o in others))
    assert {each["accused"] for each in network.seen("evidence")} == {"g0m3"}
    report = verify(tmp_path / "run", recompute=True)
    assert report.findings == []
    blocks = [decode_body(each.block.body, CouncilBody) for each in chain_of(network, "seat0", COUNCIL)]
    assert sum(len(body.contradictions) for body in blocks) == 1
