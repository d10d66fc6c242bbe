"""An archive fetches the blobs of the past in the background, the newest first; other nodes do not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from consensus.types import Digest, MemberId
from p2pfl.net.memory import MemoryHub
from p2pfl.records import CouncilBody, GroupBody
from p2pfl.rounds import archive
from p2pfl.rounds.archive import Archive
from p2pfl.rounds.shelf import Shelf
from p2pfl.store.options import StoreOptions
from tests.audit.chain import COUNCIL_AFTER, GROUPS, HEIGHTS, build, member_of
from tests.rounds.test_retention import Kept

QUICK = 1 << 20  # KiB a second.


class Keeper:
    """A member that keeps everything and shows it; notes what it was asked for, in order."""

    def __init__(self, kept: Kept, shows: set[Digest]) -> None:
        self.kept, self.shows = kept, shows
        self.asked: list[Digest] = []

    async def received(self, sender: MemberId, message: Any) -> None: ...

    async def answer(self, sender: Any, request: Any) -> Any: ...

    def blob(self, sender: Any, blob_id: Digest) -> Any:
        if blob_id not in self.asked:
            self.asked.append(blob_id)
        return self.kept.store.blobs.source(blob_id) if blob_id in self.shows else None


async def archived(
    tmp_path: Path, options: StoreOptions, shows: set[Digest], until: Digest | None
) -> tuple[set[Digest], list[Digest]]:
    """What a node without blobs has in the end (once it was asked for `until`), and what it asked for."""
    full, hub = Kept(build(), tmp_path / "full"), MemoryHub()
    bare = Kept(build(), tmp_path / "bare")
    for blob_id in bare.here():
        bare.store.blobs.path(blob_id).unlink()
    bare.store.blobs._cache.clear()
    me, other = member_of("g1-m0"), member_of("g1-m1")
    keeper = Keeper(full, shows)
    network = hub.network(me, [me, other], keeper)
    context = SimpleNamespace(
        genesis=build().genesis,
        roster=bare.view.tip.roster,
        seats=bare.view.tip.roster.now.committees["council"].members,
        me=me,
        shelf=Shelf(bare.store.blobs, network),
    )
    chains = [bare.chains[name] for name in ("council", "g1")]
    async with trio.open_nursery() as nursery:
        await nursery.start(hub.network(other, [me, other], keeper).run)
        await nursery.start(network.run)
        nursery.start_soon(Archive(context, lambda: chains, options).run)  # type: ignore[arg-type]
        with trio.move_on_after(20 if until else 0.3):
            while until not in keeper.asked or not bare.store.blobs.has(until):  # type: ignore[arg-type]
                await trio.lowlevel.checkpoint()
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    here = bare.here()
    full.store.close()
    bare.store.close()
    return here, keeper.asked


def public() -> set[Digest]:
    built = build()
    aggregates = {body(built, "g1", height).aggregate_id for height in range(HEIGHTS)}
    councils = [body(built, "council", height) for height in range(len(COUNCIL_AFTER))]
    return aggregates | {each.base_id for each in councils} | {each.root_update_id for each in councils}


def body(built: Any, name: str, height: int) -> Any:
    found: GroupBody | CouncilBody = built.body(name, height)
    return found


async def test_public_blobs_of_the_past_come_the_newest_first(tmp_path: Path) -> None:
    built = build()
    oldest = body(built, "g1", 0).aggregate_id
    here, asked = await archived(
        tmp_path, StoreOptions(history="public", history_kib_s=QUICK), public(), oldest
    )
    assert here == public()
    aggregates = [body(built, "g1", height).aggregate_id for height in reversed(range(HEIGHTS))]
    assert [each for each in asked if each in aggregates] == aggregates
    assert set(asked) == public()  # No member's update.


async def test_an_archive_of_everything_wants_the_updates_of_its_group_too(tmp_path: Path) -> None:
    built = build()
    oldest = body(built, "g1", 0)
    shows = set(built.blobs)
    last = oldest.txs[-1].tx.blob_id
    here, asked = await archived(tmp_path, StoreOptions(history="all", history_kib_s=QUICK), shows, last)
    bodies = [body(built, "g1", height) for height in range(HEIGHTS)]
    updates = {
        tx.blob_id for each in bodies for tx in (s.tx for s in each.txs) if tx.member not in each.unrevealed
    }
    assert here == (public() | updates) & shows
    others = {signed.tx.blob_id for name in GROUPS[1:] for signed in body(built, name, 0).txs}
    assert not others & set(asked)


def test_what_was_not_revealed_is_not_wanted_whatever_its_length(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Kept(build(), tmp_path)
    real, me = body(kept.built, "g1", 0), member_of("g1-m0")
    first, second, *others = real.txs
    huge = [
        replace(each, tx=replace(each.tx, byte_length=length))
        for each, length in ((first, 1 << 62), (second, 0))
    ]
    told = replace(real, txs=(*huge, *others), unrevealed=(first.tx.member,))
    monkeypatch.setattr(archive, "decode_body", lambda data, kind: told)
    context = SimpleNamespace(
        genesis=kept.built.genesis,
        roster=kept.view.tip.roster,
        seats=kept.view.tip.roster.now.committees["council"].members,
        me=me,
    )
    wanted = Archive(context, lambda: (), StoreOptions(history="all"))._wanted(kept.chains["g1"], 0)  # type: ignore[arg-type]
    updates = {each.blob_id for each in wanted} - {told.aggregate_id}
    assert updates == {signed.tx.blob_id for signed in others}
    kept.store.close()


async def test_a_node_that_is_no_archive_asks_for_nothing(tmp_path: Path) -> None:
    here, asked = await archived(tmp_path, StoreOptions(), public(), None)
    assert (here, asked) == (set(), [])


async def test_what_would_be_deleted_again_is_not_fetched(tmp_path: Path) -> None:
    options = StoreOptions(keep_blobs_epochs=1, history="public", history_kib_s=QUICK)
    oldest = body(build(), "g1", 0).aggregate_id
    here, _ = await archived(tmp_path, options, public(), oldest)
    assert here == public()  # All of it is of the newest epoch.
