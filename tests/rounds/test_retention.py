"""What is old and needed by nobody goes from the disk, and nothing else does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from consensus.types import Digest
from p2pfl.audit.verify import verify
from p2pfl.genesis import COUNCIL
from p2pfl.parts import Parts
from p2pfl.rounds import retention
from p2pfl.rounds.chain import Chain
from p2pfl.rounds.council_view import CouncilView
from p2pfl.rounds.retention import Retention, needed, written_before_ms
from p2pfl.rounds.shelf import Shelf
from p2pfl.rules.state import OPEN, REPLAYED, Measured
from p2pfl.signed import Measurement
from p2pfl.store import Store
from p2pfl.store.options import StoreOptions
from tests.audit.chain import COUNCIL_AFTER, GROUPS, HEIGHTS, LIAR, Built, build, member_of
from tests.rounds.small_network import small_network
from tests.rounds.test_epochs import MEMBERS, SHAPE, in_epoch

LAST = HEIGHTS - 1  # Of each group; not counted.


class Kept:
    """One node's folder with the whole history, and what lies in it."""

    def __init__(self, built: Built, path: Path, *, council_blocks: int = len(COUNCIL_AFTER)) -> None:
        short = Built(built.genesis, dict(built.chains), dict(built.blobs))
        short.chains[COUNCIL] = built.chains[COUNCIL][:council_blocks]
        self.built, self.path = short, short.write(path)
        self.store = Store(path, built.genesis)
        self.view = CouncilView(built.genesis, self.store.chain(COUNCIL))
        self.chains = {COUNCIL: self.view.chain}
        for name in GROUPS:
            self.chains[name] = Chain(
                built.genesis, name, self.store.chain(name), lambda: self.view.tip.roster
            )

    def named(self, name: str, *heights: int) -> set[Digest]:
        return {
            blob_id
            for height in heights
            for blob_id in retention._named(self.built.body(name, height))
            if blob_id in self.built.blobs
        }

    def retention(self, **more: Any) -> Retention:
        context = SimpleNamespace(
            council=self.view, shelf=Shelf(self.store.blobs, None), observe=lambda kind, fields: None
        )
        given: dict[str, Any] = {"keep_epochs": 1, **more}
        return Retention(context, self.chains.values, self.store, **given)  # type: ignore[arg-type]

    def here(self) -> set[Digest]:
        return set(self.store.blobs.ids())


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the newest blocks one is kept for others, not 32."""
    monkeypatch.setattr(retention, "BLOCKS", 1)


def test_all_that_blocks_of_kept_epochs_name_is_needed(tmp_path: Path) -> None:
    kept = Kept(build(), tmp_path)
    named = {
        each for name in (*GROUPS, COUNCIL) for each in kept.named(name, *range(len(kept.built.chains[name])))
    }
    assert named <= needed(kept.view.tip, kept.chains, 0)
    kept.store.close()


@pytest.mark.usefixtures("few")
def test_of_old_epochs_only_what_is_in_use_is_needed(tmp_path: Path) -> None:
    kept = Kept(build(), tmp_path)
    keep = needed(kept.view.tip, kept.chains, 1)
    state = kept.view.tip
    assert {state.base_id, state.root_update_id, kept.built.genesis.initial_base_id} <= keep
    for name in GROUPS:
        assert kept.named(name, LAST) <= keep
    old = kept.named("g1", 0) - kept.named("g1", *range(1, HEIGHTS))
    assert old
    assert not old & keep
    kept.store.close()


@pytest.mark.usefixtures("few")
def test_what_an_open_case_is_about_is_needed(tmp_path: Path) -> None:
    opened = Kept(build(), tmp_path / "opened", council_blocks=2)
    entry = next(entry for entry in opened.view.tip.cases.values() if entry.case.accused == member_of(LIAR))
    assert entry.outcome == OPEN
    about = opened.named("g2", entry.case.height)
    assert about
    assert about <= needed(opened.view.tip, opened.chains, 1)
    base = opened.built.body("g2", entry.case.height).base
    below = opened.built.body(COUNCIL, base.council_height).base_id
    assert below in needed(opened.view.tip, opened.chains, 1)
    opened.store.close()
    ended = Kept(build(), tmp_path / "ended")  # Certified, and of an old epoch by now.
    assert not about & needed(ended.view.tip, ended.chains, 1) - ended.named("g2", 4, 5)
    ended.store.close()


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("is_open", [True, False])
async def test_the_opening_of_an_open_case_stays_though_no_block_names_it(
    is_open: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was put before the kept epoch began, and nobody has measured it yet."""
    kept = Kept(build(), tmp_path, council_blocks=2 if is_open else len(COUNCIL_AFTER))
    case = next(entry.case for entry in kept.view.tip.cases.values() if entry.case.accused == member_of(LIAR))
    opening_id = kept.store.blobs.put(b"an opening")
    keeper = kept.retention()
    monkeypatch.setattr(retention, "written_before_ms", lambda *given: 2**62 // 10**6)
    monkeypatch.setattr(retention, "needed", lambda state, chains, oldest: needed(state, chains, 1))
    keeper._shelf.hold(case.case_id, case.accused, opening_id)
    await keeper.prune()
    assert (opening_id in kept.here()) == is_open
    kept.store.close()


@pytest.mark.usefixtures("few")
def test_what_was_measured_of_a_case_is_needed_as_long_as_the_case(tmp_path: Path) -> None:
    kept = Kept(build(), tmp_path, council_blocks=2)
    state, opening_id = kept.view.tip, Digest(b"o" * 32)
    entry = next(entry for entry in state.cases.values() if entry.case.accused == member_of(LIAR))
    measurement = Measurement(0, entry.case.case_id, entry.case.accused, REPLAYED, opening_id, 0, 0, 0)
    measured = replace(entry, measured=(Measured(member_of("seat0"), measurement, Digest(b"m" * 32)),))
    told = replace(state, cases={**state.cases, entry.case.case_id: measured})
    assert opening_id in needed(told, kept.chains, 1)
    kept.store.close()


@pytest.mark.usefixtures("few")
async def test_old_blobs_go_and_the_audit_says_which_are_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Kept(build(), tmp_path)
    before = kept.here()
    # There is one epoch in this history: it is taken for an old one.
    monkeypatch.setattr(retention, "written_before_ms", lambda *given: 2**62 // 10**6)
    keep = needed(kept.view.tip, kept.chains, 1)
    monkeypatch.setattr(retention, "needed", lambda state, chains, oldest: needed(state, chains, 1))
    dropped = await kept.retention().prune()
    assert kept.here() == before & keep
    assert dropped == len(before - keep) > 0
    assert kept.store.notes.read("retention") == [{"epochs_before": 0, "blobs": dropped}]
    assert await kept.retention().prune() == 0
    kept.store.close()
    report = verify(tmp_path, recompute=True)
    assert report.findings == []
    assert report.recomputed >= len(GROUPS)  # The blocks that are not counted yet.
    assert "those of epochs before 0 were deleted" in report.skipped[0]


async def test_what_is_newer_than_the_open_height_is_never_old(tmp_path: Path) -> None:
    """An update that no block names yet must not go, though an epoch began while its height was open."""
    kept = Kept(build(), tmp_path)
    tips_ms = min(chain.tip.time_ms for chain in kept.chains.values() if chain.tip is not None)
    assert written_before_ms(kept.view.tip, kept.chains.values(), 0) < tips_ms
    before = kept.here()
    assert await kept.retention().prune() == 0  # All was written just now.
    assert kept.here() == before
    kept.store.close()


@pytest.mark.usefixtures("few")
async def test_a_crash_in_the_middle_leaves_what_the_next_start_deletes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Kept(build(), tmp_path)
    keep, before = needed(kept.view.tip, kept.chains, 1), kept.here()
    unlink, left = Path.unlink, 5

    class PowerCut(BaseException): ...

    def dying(path: Path, **more: Any) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise PowerCut
        unlink(path, **more)

    with monkeypatch.context() as machine:
        machine.setattr(Path, "unlink", dying)
        with pytest.raises(PowerCut):
            kept.store.blobs.prune(keep, older_than_ms=2**40 * 10)
    assert len(before) - len(kept.here()) == 5
    kept.store.blobs.prune(keep, older_than_ms=2**40 * 10)
    assert kept.here() == before & keep
    kept.store.close()


async def test_what_may_be_seen_is_in_sight_after_a_restart_as_far_back_as_it_is_kept(
    tmp_path: Path,
) -> None:
    kept = Kept(build(), tmp_path)
    keeper = kept.retention()
    oldest = kept.built.body("g1", 0)
    gone = kept.built.body("g1", 1).aggregate_id
    kept.store.blobs.path(gone).unlink()
    keeper._show(kept.chains["g1"])
    shelf = keeper._shelf
    stranger = member_of("stranger")
    assert shelf.may_have(stranger, oldest.aggregate_id)
    # Its updates are for whoever was in the group then, and for the seats: a replay may need them.
    update = oldest.txs[0].tx.blob_id
    genesis = kept.built.genesis
    seats, others = genesis.committee(COUNCIL).members, set(genesis.committee("g2").members)
    for one in (*genesis.committee("g1").members, *seats):
        assert shelf.source(one, update) is not None
    for one in (stranger, None, *(others - set(seats))):
        assert not shelf.may_have(one, update)
    assert not shelf.may_have(stranger, gone)
    assert shelf.source(stranger, gone) is None  # Refused as not_held: the asker goes elsewhere.
    kept.store.close()


@pytest.mark.soak
async def test_a_network_that_keeps_one_epoch_learns_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, few: None
) -> None:
    def forgetful(parts: Parts) -> None:
        parts.settings = replace(parts.settings, store=StoreOptions(keep_blobs_epochs=1))

    how: dict[str, Any] = {"epochs": {"blocks": 2}, "times": {"clock_skew_ms": 300}, "wrap": forgetful}
    async with small_network(tmp_path / "run", rounds=40, **how, **SHAPE) as network:
        await network.until(lambda: in_epoch(network, [*MEMBERS, "seat0"], 4), timeout_s=300)
    assert sum(each["blobs"] for each in network.seen("pruned")) > 100
    report = verify(tmp_path / "run", recompute=True)
    assert report.findings == []
    assert any("those of epochs before 4 were deleted" in line for line in report.skipped)
