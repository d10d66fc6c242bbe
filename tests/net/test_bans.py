"""A ban does not end with the process, and the file that keeps it harms nobody."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from p2pfl.errors import PeerFault
from p2pfl.net import bans, peer
from p2pfl.net.bans import MEMBER, OBSERVER, Bans
from p2pfl.net.host import Network
from p2pfl.net.options import DEFAULTS
from p2pfl.net.peer import BAN_MAX_S, BAN_MIN_S, Standing
from tests.net.common import Memo, tip
from tests.net.hosts import Town, until
from tests.net.test_observers import stranger


def kept(path: Path) -> dict[str, str]:
    """Who is barred, and why, as the file says."""
    if not path.exists():
        return {}
    return {each["peer"]: each["reason"] for each in json.loads(path.read_bytes())["bans"]}


async def test_who_was_barred_is_barred_after_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer, "FAULTS_MAX", 1)
    monkeypatch.setattr(bans, "SAVE_S", 0.0)
    town, path = Town(2), tmp_path / "bans.json"
    me, other = town.members
    memo = Memo()

    def node() -> Network:
        options = replace(DEFAULTS, observers=4)
        return town.network(me, memo, gossip=False, bans_path=path, options=options)

    first = node()
    async with trio.open_nursery() as nursery:
        await nursery.start(first.run)
        member = town.network(other, gossip=False)
        await nursery.start(member.run)
        await member.wait_connected([me], 10)
        async with stranger(first) as looks:
            (one,) = first.observers._here.values()
            first._fault(first._peers[other], PeerFault("bad_frame", ""))
            first.observers._fault(one, PeerFault("bad_request", ""))
            await until(lambda: kept(path) == {member.peer_id: "bad_frame", looks.peer_id: "bad_request"})
            nursery.cancel_scope.cancel()
    second = node()
    async with trio.open_nursery() as nursery:
        await nursery.start(second.run)
        assert second._peers[other].is_banned() and not second._admits(member.peer_id)
        assert 0 < second._peers[other].standing.banned_for_s <= BAN_MIN_S
        assert not second._admits(looks.peer_id) and second._admits("12D3KooW")
        nursery.cancel_scope.cancel()
    path.write_bytes(b"{")  # What cannot be read is forgotten, and believed again.
    third = node()
    async with trio.open_nursery() as nursery:
        await nursery.start(third.run)
        member = town.network(other, gossip=False)
        await nursery.start(member.run)
        await member.wait_connected([me], 10)
        member.send(me, tip(1))
        await memo.until(lambda: memo.heights() == [1])
        nursery.cancel_scope.cancel()


async def test_time_goes_on_while_nobody_runs_and_forgives(tmp_path: Path, autojump_clock: Any) -> None:
    path, clock_ms = tmp_path / "bans.json", [1_000_000_000]
    before = Bans(path, lambda: clock_ms[0])
    standing = Standing()
    for _ in range(3):
        standing.ban()
    before.remember(MEMBER, "a", standing, "flood")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(before.run)
        while not path.exists():  # noqa: ASYNC110 - a file has no event.
            await trio.sleep(1)
        nursery.cancel_scope.cancel()

    def after(passed_s: float) -> Standing:
        clock = 1_000_000_000 + int(1000 * passed_s)
        return Bans(path, lambda: clock).standing("a")

    assert after(60).banned_for_s == pytest.approx(4 * BAN_MIN_S - 60)
    assert after(-10_000_000).banned_for_s <= BAN_MAX_S  # The clock was set back.
    over = after(3600)
    assert not over.is_banned()
    over.ban()  # The next one is longer, as if the process had gone on.
    assert over.banned_for_s == pytest.approx(8 * BAN_MIN_S)
    assert after(20 * 3600).bans == 0
    assert Bans(path).standing("b").bans == 0


async def test_observers_push_out_no_member(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bans, "BANS_MAX", 3)
    book, standing = Bans(), Standing()
    standing.ban()
    for whom, name in ((OBSERVER, "x"), (MEMBER, "a"), *((OBSERVER, f"y{number}") for number in range(9))):
        book.remember(whom, name, standing, "flood")
    assert list(book._known) == ["a", "y7", "y8"]
    for number in range(4):
        book.remember(MEMBER, f"m{number}", standing, "flood")
    assert list(book._known) == ["m1", "m2", "m3"]
