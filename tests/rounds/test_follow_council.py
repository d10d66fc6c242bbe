"""Many blocks of the council at once: folded as one by one, up to an epoch's end; none that cannot follow."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest
import trio
import trio.testing

from consensus.chain import FIRST_PARENT_ID, HEADER_VERSION, BadBlock, Log
from consensus.committee import Committee
from consensus.signing import block_id, sign, signing_digest
from consensus.types import ZERO_DIGEST, Block, Certificate, Commit, DecidedBlock, Digest, Header
from consensus.votes import BadCertificate
from p2pfl import codec
from p2pfl.genesis import COUNCIL
from p2pfl.records import CaseOutcome, CouncilBody, body_root, decode_body
from p2pfl.rounds.chain import Checked, Trial
from p2pfl.rounds.council_view import CouncilView
from p2pfl.rules.council import compare, derive_council
from p2pfl.rules.epochs import Turnover
from p2pfl.rules.state import GUILTY, CouncilState
from p2pfl.store import Store
from tests.rules.test_epochs import EPOCHS
from tests.rules.test_verdicts import RULES
from tests.rules.world import World, world

BLOCKS = 2 * EPOCHS.blocks + 2


def council_chain(there: World, spoilt: int | None = None) -> tuple[list[DecidedBlock], CouncilState]:
    """Two epochs and a bit, and the state after them. spoilt: ends a case that nobody opened."""
    state, log = CouncilState.genesis(there.genesis), Log()
    parent_id, blocks = FIRST_PARENT_ID, list[DecidedBlock]()
    for height in range(BLOCKS):
        epoch, time_ms = state.roster.epoch, 10_000 + height
        committee = state.roster.committee(COUNCIL, epoch)
        inputs = replace(there.council_inputs(state, ()), committee=committee, epoch=epoch)
        body = derive_council(
            inputs, compare(inputs), root_update_id=ZERO_DIGEST, turnover=Turnover(time_ms)
        ).body
        if height == spoilt:
            body = replace(body, outcomes=(CaseOutcome(Digest(bytes(32)), GUILTY, ()),))
        following = committee
        if body.assignment is not None:
            seats = next(each.members for each in body.assignment.groups if each.name == COUNCIL)
            following = Committee(epoch + 1, seats)
        header = Header(
            version=HEADER_VERSION,
            network_id=there.genesis.network_id,
            group_id=there.genesis.group_id(COUNCIL),
            epoch=epoch,
            height=height,
            parent_id=parent_id,
            proposer=committee.proposer(height, 0),
            time_ms=time_ms,
            app_root=body_root(body),
            log_root=log.root(),
            next_committee_root=following.root(),
        )
        parent_id = block_id(header)
        log.append(parent_id)
        digest = signing_digest(there.genesis.domain(COUNCIL), Commit(epoch, height, 0, parent_id))
        signers = sorted(committee.members)[: committee.quorum]
        certificate = Certificate(0, tuple(sign(there.secrets[each], digest) for each in signers))
        blocks.append(DecidedBlock(Block(header, codec.encode(body)), certificate))
        if height != spoilt:
            state = state.apply(header, decode_body(codec.encode(body), CouncilBody))
        else:
            break
    return blocks, state


@pytest.fixture(scope="module")
def there() -> World:
    return world(epochs=EPOCHS, rules=RULES)


async def test_they_are_folded_as_one_by_one_and_each_is_told(there: World, tmp_path: Path) -> None:
    blocks, state = council_chain(there)
    view = CouncilView(there.genesis, Store(tmp_path, there.genesis).chain(COUNCIL))
    told: list[int] = []

    async def on_block(body: CouncilBody) -> None:
        told.append(view.tip.height)

    view.on_block = on_block
    batches: list[int] = []
    while view.chain.height < BLOCKS - 1:
        checked = await view.chain.look(blocks[view.chain.height + 1 :])
        assert await view.extend(checked)
        batches.append(len(checked.blocks))
    assert batches == [
        EPOCHS.blocks,
        EPOCHS.blocks,
        2,
    ]  # What comes after an epoch is judged by the next seats.
    assert view.tip == state
    assert view.tip.roster.epoch == 2
    assert len(told) == BLOCKS
    one_by_one = CouncilView(there.genesis, Store(tmp_path / "again", there.genesis).chain(COUNCIL))
    for decided in blocks:
        await one_by_one.take(decided)
    assert one_by_one.newest_ids() == view.newest_ids()


async def test_blocks_that_were_looked_at_are_of_no_use_once_the_chain_has_moved(
    there: World, tmp_path: Path
) -> None:
    blocks, _ = council_chain(there)
    view = CouncilView(there.genesis, Store(tmp_path, there.genesis).chain(COUNCIL))
    checked = await view.chain.look(blocks[:2])
    await view.take(blocks[0])
    assert not await view.extend(checked)
    assert view.tip.height == view.chain.height == 0
    assert await view.extend(await view.chain.look(blocks[1:3]))
    assert view.tip.height == 2


async def test_a_block_that_cannot_be_folded_is_not_kept_whoever_certified_it(
    there: World, tmp_path: Path
) -> None:
    blocks, state = council_chain(there, spoilt=2)
    view = CouncilView(there.genesis, Store(tmp_path, there.genesis).chain(COUNCIL))
    checked = await view.chain.look(blocks)
    assert len(checked.blocks) == 2
    assert checked.bad is not None
    assert await view.extend(checked)
    assert view.tip == state
    with pytest.raises(BadBlock, match="cannot follow"):
        await view.chain.look(blocks[2:])
    assert view.tip == state


async def test_the_councils_own_chain_has_no_epoch_to_wait_for(there: World, tmp_path: Path) -> None:
    blocks, _ = council_chain(there)
    view = CouncilView(there.genesis, Store(tmp_path, there.genesis).chain(COUNCIL))
    assert await view.extend(await view.chain.look(blocks[:1]))
    second = blocks[1]
    header = replace(second.block.header, epoch=1)
    with pytest.raises(BadBlock, match="epoch 1"):
        await view.chain.look([replace(second, block=replace(second.block, header=header))])


async def test_blocks_are_looked_at_when_those_before_are_folded(there: World, tmp_path: Path) -> None:
    """The block that ends an epoch is still on its way to the disk when that of the next epoch comes."""
    blocks, _ = council_chain(there)
    store = Store(tmp_path, there.genesis).chain(COUNCIL)
    view = CouncilView(there.genesis, store)
    for decided in blocks[: EPOCHS.blocks - 1]:
        await view.take(decided)
    append, begun, go_on = store.append, trio.Event(), threading.Event()

    def slowly(decided: DecidedBlock) -> None:
        trio.from_thread.run_sync(begun.set)
        go_on.wait(10)
        append(decided)

    store.append = slowly
    async with trio.open_nursery() as nursery:
        nursery.start_soon(view.take, blocks[EPOCHS.blocks - 1])
        await begun.wait()
        looked = list[Checked]()

        async def look() -> None:
            looked.append(await view.chain.look(blocks[EPOCHS.blocks :]))

        nursery.start_soon(look)
        await trio.testing.wait_all_tasks_blocked(0.05)
        go_on.set()
    assert await view.extend(looked[0])


async def test_nothing_is_folded_that_no_quorum_has_signed(there: World, tmp_path: Path) -> None:
    blocks, _ = council_chain(there)
    view = CouncilView(there.genesis, Store(tmp_path, there.genesis).chain(COUNCIL))
    begin, folded = view.chain._trial, list[int]()

    def noted() -> Trial:
        fold = begin()
        return lambda decided, body: (folded.append(decided.block.header.height), fold(decided, body))[1]

    view.chain._trial = noted
    unsigned = replace(blocks[1], certificate=blocks[0].certificate)
    checked = await view.chain.look([blocks[0], unsigned])
    assert isinstance(checked.bad, BadCertificate)
    assert folded == [0]
    assert await view.extend(checked)
    with pytest.raises(BadCertificate):
        await view.chain.look([unsigned])
    assert folded == [0]
    assert await view.extend(await view.chain.look(blocks[1:3]))
