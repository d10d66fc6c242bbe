"""The rounds as claims about whole networks: the real nodes over the network in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import trio

from consensus.signing import block_id
from p2pfl.errors import PeerFault
from p2pfl.genesis import COUNCIL
from p2pfl.net import wire
from p2pfl.params import blob_id
from p2pfl.records import CouncilBody, GroupBody, decode_body
from p2pfl.store import BlockFile, Folder
from tests.rounds.small_network import SmallNetwork, small_network

GROUP = ["g0m0", "g0m1", "g0m2", "g0m3"]
# Short parts, so that a round that fails ends soon.
SHORT = {"council_ms": 1500, "open_ms": 1500, "train_ms": 3000, "collect_ms": 500, "reveal_ms": 2500}


def chain_of(network: SmallNetwork, name: str, chain: str) -> list[Any]:
    file = BlockFile(Folder(network.plan.ground.directory / "nodes" / name).chain(chain))
    assert file.damage is None
    return list(file)


def ids(blocks: list[Any]) -> list[bytes]:
    return [block_id(decided.block.header) for decided in blocks]


async def test_a_group_and_a_council_of_one_seat_learn_and_agree(tmp_path: Path) -> None:
    async with small_network(tmp_path / "run", groups=1, members=4, seats=1, rounds=3) as network:
        await network.until(lambda: network.heights(GROUP, 2))
        await network.until(
            lambda: any(["g0", 2] in each["counted"] for each in network.seen("decided", by="seat0"))
        )
    chains = [ids(chain_of(network, name, "g0")) for name in (*GROUP, "seat0")]
    assert len(chains[0]) == 3
    assert [len(chain) for chain in chains] == [3] * 5
    assert all(chain == chains[0] for chain in chains)
    proposers = [decided.block.header.proposer for decided in chain_of(network, "g0m0", "g0")]
    assert proposers == [network.id_of(name) for name in ("g0m0", "g0m1", "g0m2")]  # Ci rotates.
    bodies = [decode_body(each.block.body, GroupBody) for each in chain_of(network, "g0m0", "g0")]
    council = [decode_body(each.block.body, CouncilBody) for each in chain_of(network, "seat0", COUNCIL)]
    counting = [each.base_id for each in council if each.counted]
    assert [body.base.base_id for body in bodies][1:] == counting[:2]
    losses = [each["loss"] for each in network.seen("evaluated", group="g0")]
    assert losses[-1] < losses[0]


async def test_a_member_that_turns_its_updates_round_is_named_and_found_guilty(tmp_path: Path) -> None:
    befallen = {"g2m3": [{"name": "sign_flip", "options": {"scale": 3.0}}]}
    # Only the comparison of groups speaks: triage finds nothing rare enough, and nobody is drawn.
    rules = {"alarm_rate_ppm": 1, "leave_out_rate_ppm": 1, "audit_share_ppm": 0}
    async with small_network(tmp_path / "run", befallen=befallen, rounds=8, rules=rules) as network:
        await network.until(lambda: bool(network.seen("verdict", by="seat0")), timeout_s=100)
    assert {each["accused"] for each in network.seen("verdict")} == {"g2m3"}
    assert {each["accused"] for each in network.seen("outcome", outcome="guilty")} == {"g2m3"}
    # Only candidates' updates were fetched, and every seat measured far above the threshold.
    case_id = network.seen("verdict")[0]["case_id"]
    case = network.seen("case", by="seat0", case_id=case_id)[0]
    assert case["cause"] in ("group_apart", "member_apart")
    assert 1 <= len(case["candidates"]) < 4
    assert case["blobs_fetched"] <= len(case["candidates"])
    measured = {each["seat"]: each for each in network.seen("measured", case_id=case_id)}
    assert len(measured) >= 3
    assert all(each["status"] == 0 and each["worst_ppm"] > 1_000_000 for each in measured.values())
    # From the next council block on its updates do not count.
    guilty_height = chain_of(network, "seat0", COUNCIL)[-1].block.header.height
    assert guilty_height >= 1


async def test_a_dead_ci_costs_a_round_change_and_no_block(tmp_path: Path) -> None:
    shape = {"groups": 1, "members": 4, "seats": 1, "rounds": 2}
    async with small_network(tmp_path / "run", times=SHORT, absent=["g0m0"], **shape) as network:
        living = GROUP[1:]
        await network.until(lambda: network.heights(living, 1))
        first = network.seen("decided", by="g0m1", height=0)[0]
        assert first["round"] > 0
        assert first["proposer"] != "g0m0"
        # It comes late, and has the same history soon.
        await network.start("g0m0")
        await network.until(lambda: network.heights(["g0m0"], 1))
    assert ids(chain_of(network, "g0m0", "g0")) == ids(chain_of(network, "g0m1", "g0"))


async def test_a_member_that_was_stopped_goes_on_where_it_was(tmp_path: Path) -> None:
    shape = {"groups": 1, "members": 4, "seats": 1, "rounds": 4}
    async with small_network(tmp_path / "run", times=SHORT, **shape) as network:
        await network.until(lambda: bool(network.seen("step", by="g0m3", height=1, step="reveal")))
        await network.stop("g0m3")
        await network.start("g0m3", new=False)
        await network.until(lambda: network.heights(GROUP, 3))
    blocks = chain_of(network, "g0m3", "g0")
    assert ids(blocks) == ids(chain_of(network, "g0m0", "g0"))
    last = decode_body(blocks[-1].block.body, GroupBody)
    assert network.id_of("g0m3") in {signed.tx.member for signed in last.txs}
    assert not network.seen("evidence")


async def test_a_member_whose_log_is_lost_keeps_quiet_until_the_height_is_decided(tmp_path: Path) -> None:
    """Its guard remembers that it voted, its log does not say what for."""
    shape = {"groups": 1, "members": 4, "seats": 1, "rounds": 12}
    async with small_network(tmp_path / "run", times=SHORT, **shape) as network:
        # Not in every height: on a busy machine the others may decide one before it has prepared it.
        await network.until(lambda: any(each["height"] for each in prepared(network)))
        height = max(each["height"] for each in prepared(network))
        await network.stop("g0m3")
        folder = Folder(network.plan.ground.directory / "nodes" / "g0m3")
        folder.wal("g0").unlink()
        told = len(network.events)
        await network.start("g0m3", new=False)
        await network.until(lambda: any(each["height"] > height for each in prepared(network, told)))
    later = [fields for name, kind, fields in network.events[told:] if (name, kind) == ("g0m3", "step")]
    voted = {fields["height"] for fields in later if fields["step"] in ("prepare", "commit")}
    assert height not in voted
    assert not network.seen("evidence")


def prepared(network: SmallNetwork, after: int = 0) -> list[dict[str, Any]]:
    """Where g0m3 has prepared, after so many events."""
    said = [fields for name, kind, fields in network.events[after:] if (name, kind) == ("g0m3", "step")]
    return [fields for fields in said if fields["step"] == "prepare"]


async def test_nonsense_in_place_of_an_update_does_not_halt_the_group(tmp_path: Path) -> None:
    """The blob is served and has the promised id; it is just no update."""

    def wrap(parts: Any) -> None:
        if parts.name == "g0m2":
            parts.guard = Nonsense(parts)

    shape = {"groups": 1, "members": 4, "seats": 1, "rounds": 2}
    async with small_network(tmp_path / "run", wrap=wrap, times=SHORT, **shape) as network:
        await network.until(lambda: network.heights(["g0m0", "g0m1", "g0m3"], 1))
    for decided in chain_of(network, "g0m0", "g0"):
        body = decode_body(decided.block.body, GroupBody)
        assert body.unrevealed == (network.id_of("g0m2"),)


async def test_a_ci_that_lags_behind_the_council_costs_a_round_and_not_the_height(tmp_path: Path) -> None:
    """Nobody commits to a base older than the parent's: no block could follow on it."""

    def wrap(parts: Any) -> None:
        if parts.name == "g0m2":
            honest, council = parts.network.request, parts.genesis.group_id(COUNCIL)

            async def deaf(to: Any, request: Any, *, timeout_s: float) -> Any:
                if request.group_id == council:
                    raise PeerFault("unreachable", "to the council")
                return await honest(to, request, timeout_s=timeout_s)

            parts.network.request = deaf

    shape = {"groups": 1, "members": 4, "seats": 1, "rounds": 4}
    async with small_network(tmp_path / "run", wrap=wrap, times=SHORT, **shape) as network:
        await network.until(lambda: network.heights(["g0m0", "g0m1", "g0m3"], 3), timeout_s=120)
        led = network.seen("decided", by="g0m1", height=2)[0]
        assert led["round"] > 0
        assert led["proposer"] != "g0m2"


async def test_an_update_that_one_member_got_reaches_the_others_through_it(tmp_path: Path) -> None:
    """Its author serves it to one of them and is gone: that one refuses to call it unrevealed."""

    def wrap(parts: Any) -> None:
        if parts.name == "g0m3":
            whole = parts.desk.blob
            chosen = parts.genesis.committee("g0").members[2]
            parts.desk.blob = lambda sender, blob_id: whole(sender, blob_id) if sender == chosen else None

    shape = {"groups": 1, "members": 4, "seats": 1, "rounds": 2}
    async with small_network(tmp_path / "run", wrap=wrap, times=SHORT, **shape) as network:
        await network.until(lambda: network.heights(["g0m0", "g0m1", "g0m2"], 1))


class Nonsense:
    """A guard that commits to other bytes than its member meant."""

    def __init__(self, parts: Any) -> None:
        self._parts = parts
        self._honest = parts.guard

    def __getattr__(self, name: str) -> Any:
        return getattr(self._honest, name)

    def sign(self, domain: Any, struct: Any) -> bytes:
        if type(struct).__name__ == "ParamTx":
            data = b"nonsense".ljust(struct.byte_length, b"!")
            self._parts.store.blobs.put(data, blob_id(data))
            object.__setattr__(struct, "blob_id", blob_id(data))
        return self._honest.sign(domain, struct)


async def test_two_votes_in_one_round_become_evidence(tmp_path: Path) -> None:
    befallen = {"g0m1": [{"name": "equivocate", "options": {"height": 1}}]}
    shape = {"groups": 1, "members": 4, "seats": 1, "rounds": 3}
    async with small_network(tmp_path / "run", befallen=befallen, **shape) as network:
        await network.until(lambda: network.heights(GROUP, 2) and bool(network.seen("evidence")))
    assert {each["accused"] for each in network.seen("evidence")} == {"g0m1"}
    lines = [line for name in GROUP for line in network.parts[name].store.notes.read("evidence")]
    assert lines
    assert {line["offence"] for line in lines} == {2}
    assert all(line["first"]["block_id"] != line["second"]["block_id"] for line in lines)


async def test_two_commitments_of_one_height_become_evidence(tmp_path: Path) -> None:
    """E6, from what the members heard."""
    shape = {"groups": 1, "members": 4, "seats": 1, "rounds": 2}

    def wrap(parts: Any) -> None:
        if parts.name == "g0m3":
            parts.network = Twice(parts)

    async with small_network(tmp_path / "run", wrap=wrap, **shape) as network:
        await network.until(lambda: bool(network.seen("evidence", offence=6)))
    assert {each["accused"] for each in network.seen("evidence")} == {"g0m3"}


class Twice:
    """A network that commits twice, behind the guard's back."""

    def __init__(self, parts: Any) -> None:
        self._parts = parts
        self._honest = parts.network

    def __getattr__(self, name: str) -> Any:
        return getattr(self._honest, name)

    def broadcast(self, to: Any, message: Any) -> None:
        import dataclasses

        from consensus import signing

        self._honest.broadcast(to, message)
        if isinstance(message, wire.ParamTxMessage):
            tx = dataclasses.replace(message.tx.tx, samples=message.tx.tx.samples + 1)
            domain = self._parts.genesis.domain(self._parts.group)
            signature = signing.sign(self._parts.key.secret, signing.signing_digest(domain, tx))
            second = dataclasses.replace(message.tx, tx=tx, signature=signature)
            self._honest.broadcast(to, dataclasses.replace(message, tx=second))


async def test_blobs_are_shown_after_the_close_and_to_the_group_and_council_only(tmp_path: Path) -> None:
    async with small_network(tmp_path / "run", groups=2, members=4, seats=1, rounds=1) as network:
        await network.until(lambda: network.heights(GROUP, 0))
        blocks = chain_of(network, "g0m0", "g0")
        body = decode_body(blocks[0].block.body, GroupBody)
        mine = next(s.tx for s in body.txs if s.tx.member == network.id_of("g0m0"))
        handlers = network.parts["g0m0"].desk
        assert handlers.blob(network.id_of("g0m1"), mine.blob_id) is not None
        assert handlers.blob(network.id_of("seat0"), mine.blob_id) is not None
        assert handlers.blob(network.id_of("g1m0"), mine.blob_id) is None  # Another group's member.
        assert handlers.blob(network.id_of("g1m0"), body.aggregate_id) is not None
        await trio.lowlevel.checkpoint()
