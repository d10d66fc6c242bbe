"""A history from its genesis: what follows what, epochs that change hands, and the log of all blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from consensus import merkle
from consensus import types as t
from consensus.chain import FIRST_PARENT_ID, BadBlock, History, Log, verify_chain
from consensus.committee import Committee
from consensus.signing import block_id
from consensus.votes import BadCertificate
from tests.consensus.lab import DOMAIN, IDS, NETWORK, certificate, committee_of


def history(
    length: int, *, committees: Sequence[Committee] = (committee_of(4),), epoch_length: int = 100
) -> list[t.DecidedBlock]:
    """A good chain; each committee has its epoch, the last one stays."""
    blocks: list[t.DecidedBlock] = []
    parent, log = FIRST_PARENT_ID, Log()
    for height in range(length):
        committee = committees[min(height // epoch_length, len(committees) - 1)]
        following = committees[min((height + 1) // epoch_length, len(committees) - 1)]
        header = t.Header(
            version=1,
            network_id=NETWORK,
            group_id=DOMAIN.group_id,
            epoch=committee.epoch,
            height=height,
            parent_id=parent,
            proposer=committee.proposer(height, 0),
            time_ms=height + 1,
            app_root=t.Digest(bytes(32)),
            log_root=log.root(),
            next_committee_root=following.root(),
        )
        places = [IDS.index(member) for member in committee.members][: committee.quorum]
        blocks.append(t.DecidedBlock(t.Block(header, b""), certificate(places, header)))
        parent = block_id(header)
        log.append(parent)
    return blocks


def test_a_good_history_is_verified_from_its_genesis() -> None:
    blocks = history(9)
    checked = verify_chain(DOMAIN, NETWORK, committee_of(4), blocks)
    assert checked.tip == blocks[-1].block.header
    assert checked.log.size == 9


def test_the_log_root_of_a_header_is_the_tree_of_all_earlier_ids() -> None:
    ids = [block_id(decided.block.header) for decided in history(20)]
    log = Log()
    for size in range(21):
        assert log.root() == merkle.root(ids[:size])
        assert Log(ids[:size]).root() == log.root()
        if size < 20:
            log.append(ids[size])


def test_one_header_proves_that_a_block_is_in_its_past() -> None:
    blocks = history(13)
    leaves = [merkle.leaf_hash(block_id(decided.block.header)) for decided in blocks]
    root = blocks[12].block.header.log_root
    for height in range(12):
        path = merkle.inclusion_proof(leaves[:12], height)
        assert merkle.verify_inclusion(leaves[height], height, 12, path, root)
        assert not merkle.verify_inclusion(leaves[12], height, 12, path, root)


def test_a_history_says_who_signed_and_stays_as_it_was_after_a_bad_block() -> None:
    blocks = history(3)
    chain = History(DOMAIN, NETWORK, committee_of(4))
    assert chain.append(blocks[0].block.header, blocks[0].certificate) == IDS[:3]
    before = (chain.tip, chain.tip_id, chain.log.root())
    with pytest.raises(BadBlock):
        chain.append(blocks[2].block.header, blocks[2].certificate)
    with pytest.raises(BadCertificate):
        chain.append(blocks[1].block.header, blocks[2].certificate)
    assert (chain.tip, chain.tip_id, chain.log.root()) == before
    chain.append(blocks[1].block.header, blocks[1].certificate)


def test_a_fork_checks_further_blocks_and_leaves_its_origin_as_it_was() -> None:
    blocks = history(7)
    chain = verify_chain(DOMAIN, NETWORK, committee_of(4), blocks[:3])
    before = (chain.tip, chain.tip_id, chain.log.root())
    trial = chain.fork()
    for decided in blocks[3:]:
        trial.append(decided.block.header, decided.certificate)
    assert trial.log.root() == verify_chain(DOMAIN, NETWORK, committee_of(4), blocks).log.root()
    assert (chain.tip, chain.tip_id, chain.log.root()) == before


@pytest.mark.parametrize("height", [0, 1, 4])
@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("version", 0, "header version 0"),
        ("network_id", t.Digest(b"X" * 32), "another network"),
        ("group_id", t.Digest(b"X" * 32), "another group"),
        ("epoch", 1, "epoch 1"),
        ("height", 9, "does not come next"),
        ("parent_id", t.Digest(b"X" * 32), "another parent"),
        ("proposer", IDS[9], "no member"),
        ("log_root", t.Digest(b"X" * 32), "another log"),
    ],
)
def test_a_block_that_does_not_follow_is_found_even_if_a_quorum_signed_it(
    height: int, field: str, value: object, reason: str
) -> None:
    blocks = history(6)
    header = replace(blocks[height].block.header, **{field: value})
    blocks[height] = t.DecidedBlock(t.Block(header, b""), certificate((0, 1, 2), header))
    with pytest.raises(BadBlock, match=rf"height \d: .*{reason}"):
        verify_chain(DOMAIN, NETWORK, committee_of(4), blocks)


def test_time_has_to_go_on() -> None:
    blocks = history(3)
    header = replace(blocks[2].block.header, time_ms=2)
    blocks[2] = t.DecidedBlock(t.Block(header, b""), certificate((0, 1, 2), header))
    with pytest.raises(BadBlock, match="height 2: not later than its parent"):
        verify_chain(DOMAIN, NETWORK, committee_of(4), blocks)


def test_a_missing_or_repeated_block_is_found() -> None:
    blocks = history(5)
    for wrong in (blocks[1:], blocks[:2] + blocks[3:], blocks[:2] + blocks[1:]):
        with pytest.raises(BadBlock):
            verify_chain(DOMAIN, NETWORK, committee_of(4), wrong)


def test_a_bad_certificate_is_found_with_its_height() -> None:
    blocks = history(5)
    blocks[3] = replace(blocks[3], certificate=certificate((0, 1), blocks[3].block.header))
    with pytest.raises(BadCertificate, match="height 3: 2 signatures"):
        verify_chain(DOMAIN, NETWORK, committee_of(4), blocks)


# Epochs

OLD = committee_of(4)
NEW = Committee(1, IDS[4:11])


def finder(epoch: int, root: t.Digest) -> Committee | None:
    return NEW if (epoch, root) == (1, NEW.root()) else None


def test_the_last_block_of_an_epoch_hands_over_to_the_next_committee() -> None:
    blocks = history(6, committees=(OLD, NEW), epoch_length=3)
    checked = verify_chain(DOMAIN, NETWORK, OLD, blocks, finder)
    assert checked.committee == NEW
    assert [decided.block.header.epoch for decided in blocks] == [0, 0, 0, 1, 1, 1]


def test_a_committee_that_nobody_named_decides_nothing() -> None:
    blocks = history(6, committees=(OLD, NEW), epoch_length=3)
    usurpers = Committee(1, IDS[11:15])
    with pytest.raises(BadBlock, match="height 3: the parent names another committee"):
        verify_chain(DOMAIN, NETWORK, OLD, blocks, lambda epoch, root: usurpers)


def test_the_old_committee_cannot_go_on_after_it_handed_over() -> None:
    blocks = history(6, committees=(OLD, NEW), epoch_length=3)
    header = replace(blocks[3].block.header, epoch=0, proposer=IDS[0])
    blocks[3] = t.DecidedBlock(t.Block(header, b""), certificate((0, 1, 2), header))
    with pytest.raises(BadBlock, match="height 3: the parent names another committee"):
        verify_chain(DOMAIN, NETWORK, OLD, blocks, finder)


def test_without_the_new_committee_the_history_ends_there() -> None:
    blocks = history(6, committees=(OLD, NEW), epoch_length=3)
    with pytest.raises(BadBlock, match="height 3: epoch 1"):
        verify_chain(DOMAIN, NETWORK, OLD, blocks)


def test_an_epoch_may_not_be_left_out() -> None:
    later = Committee(2, IDS[4:11])
    chain = History(DOMAIN, NETWORK, OLD)
    blocks = history(1)
    chain.append(blocks[0].block.header, blocks[0].certificate)
    with pytest.raises(BadBlock, match="at the end of its epoch"):
        chain.append(blocks[0].block.header, blocks[0].certificate, committee=later)


def test_nobody_takes_over_before_the_first_block() -> None:
    blocks = history(1, committees=(NEW,))
    with pytest.raises(BadBlock, match="at the end of its epoch"):
        History(DOMAIN, NETWORK, OLD).append(blocks[0].block.header, blocks[0].certificate, committee=NEW)


def begun_after_a_closing(history_: History, committee: Committee) -> t.DecidedBlock:
    """The first block of an epoch whose parent named no such committee."""
    tip = history_.tip
    header = t.Header(
        version=1,
        network_id=NETWORK,
        group_id=DOMAIN.group_id,
        epoch=committee.epoch,
        height=0 if tip is None else tip.height + 1,
        parent_id=history_.tip_id,
        proposer=committee.members[0],
        time_ms=1_000,
        app_root=t.Digest(bytes(32)),
        log_root=history_.log.root(),
        next_committee_root=committee.root(),
    )
    places = [IDS.index(member) for member in committee.members][: committee.quorum]
    return t.DecidedBlock(t.Block(header, b""), certificate(places, header))


@pytest.mark.parametrize("length", [0, 2])
@pytest.mark.parametrize("epoch", [1, 3])
def test_a_closed_epoch_is_followed_by_the_committee_that_the_caller_vouches_for(
    length: int, epoch: int
) -> None:
    chain, new = History(DOMAIN, NETWORK, OLD), Committee(epoch, IDS[4:11])
    for decided in history(length):
        chain.append(decided.block.header, decided.certificate)
    first = begun_after_a_closing(chain, new)
    with pytest.raises(BadBlock):
        chain.append(first.block.header, first.certificate, committee=new)
    chain.append(first.block.header, first.certificate, committee=new, closed=True)
    assert chain.committee == new
    # From here on the chain itself says who decides.
    usurpers = begun_after_a_closing(chain, Committee(epoch, IDS[11:15]))
    with pytest.raises(BadBlock):
        chain.append(usurpers.block.header, usurpers.certificate, committee=Committee(epoch, IDS[11:15]))


def test_a_closing_does_not_bring_an_old_committee_back() -> None:
    chain = History(DOMAIN, NETWORK, OLD)
    for decided in history(4, committees=(OLD, NEW), epoch_length=3):
        chain.append(
            decided.block.header, decided.certificate, committee=(OLD, NEW)[decided.block.header.epoch]
        )
    back = begun_after_a_closing(chain, OLD)
    with pytest.raises(BadBlock, match="at the end of its epoch"):
        chain.append(back.block.header, back.certificate, committee=OLD, closed=True)
