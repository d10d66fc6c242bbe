"""Block files: every block that was kept is there after any crash, and damage is never guessed at."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from consensus.types import DecidedBlock, Digest
from p2pfl.errors import UserError
from p2pfl.store.blocks import BlockFile, BlockStore

from .builds import GROUP, NETWORK, blocks


def opened(path: Path) -> BlockStore:
    return BlockStore(path, NETWORK, GROUP)


@pytest.fixture
def chain() -> list[DecidedBlock]:
    return blocks(12)


@pytest.fixture
def path(tmp_path: Path, chain: list[DecidedBlock]) -> Path:
    path = tmp_path / "g1.mps"
    store = opened(path)
    assert store.tip is None
    assert store.tip_height == -1
    for decided in chain:
        store.append(decided)
    store.close()
    return path


def test_blocks_come_back_by_height_and_in_order(path: Path, chain: list[DecidedBlock]) -> None:
    store = opened(path)
    assert list(store) == chain
    assert [store.get(height) for height in (0, 11, 7)] == [chain[0], chain[11], chain[7]]
    assert store.get(-1) is None
    assert store.get(12) is None
    assert store.tip == chain[-1]
    assert store.tip_height == 11
    assert list(store.iterate(9)) == chain[9:]
    assert len(store) == len(store.ids) == 12
    store.close()


def test_a_block_that_does_not_follow_is_not_kept(path: Path, chain: list[DecidedBlock]) -> None:
    store = opened(path)
    size = path.stat().st_size
    stranger = blocks(14, seed=2)[12]
    for wrong in (chain[-1], chain[0], blocks(14)[13], dataclasses.replace(stranger, block=chain[3].block)):
        with pytest.raises(ValueError, match="does not follow"):
            store.append(wrong)
    assert path.stat().st_size == size
    store.append(blocks(13)[12])
    store.close()


@pytest.mark.usefixtures("quick_disk")
def test_a_truncated_tail_is_cut_with_a_warning_and_nothing_before_it_is_lost(
    path: Path, chain: list[DecidedBlock], capsys: pytest.CaptureFixture[str]
) -> None:
    store = opened(path)
    store.close()
    whole = path.read_bytes()
    last = BlockFile(path).offsets[-1]
    for end in range(last + 1, len(whole)):
        path.write_bytes(whole[:end])
        store = opened(path)
        assert store.tip == chain[-2]
        assert store.ids == tuple(opened_ids(chain[:-1]))
        store.close()
        assert f"offset={last}" in capsys.readouterr().err
    store = opened(path)
    store.append(chain[-1])
    assert list(store) == chain
    store.close()


def opened_ids(chain: list[DecidedBlock]) -> list[Digest]:
    from consensus.signing import block_id

    return [block_id(decided.block.header) for decided in chain]


@pytest.mark.usefixtures("quick_disk")
def test_a_damaged_middle_stops_with_the_offset(path: Path) -> None:
    whole = path.read_bytes()
    offsets = BlockFile(path).offsets
    for place in range(offsets[0], len(whole), 151):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 2]) + whole[place + 1 :])
        with pytest.raises(UserError) as caught:
            opened(path)
        assert caught.value.what.endswith(f"damaged at byte {max(o for o in offsets if o <= place)}")
        assert "any member's" in caught.value.fix


def test_a_file_of_another_chain_is_refused(path: Path) -> None:
    for network, group in ((NETWORK, Digest(b"x" * 32)), (Digest(b"x" * 32), GROUP)):
        with pytest.raises(UserError, match="belongs to something else"):
            BlockStore(path, network, group)


def test_an_auditor_reads_a_file_that_a_node_has_open(path: Path, chain: list[DecidedBlock]) -> None:
    store = opened(path)
    read = BlockFile(path)
    assert list(read) == chain
    assert read.tip_height == 11
    assert read.get(3) == chain[3]
    assert read.damage is None
    assert read.cut is None
    store.close()


def test_an_auditor_sees_what_is_wrong_and_changes_nothing(path: Path, chain: list[DecidedBlock]) -> None:
    whole = path.read_bytes()
    offsets = BlockFile(path).offsets
    path.write_bytes(whole[:-3])
    read = BlockFile(path)
    assert list(read) == chain[:-1]
    assert read.cut is not None
    assert read.cut.offset == offsets[-1]
    assert path.stat().st_size == len(whole) - 3
    path.write_bytes(whole[: offsets[5] + 40] + b"\xff" + whole[offsets[5] + 41 :])
    read = BlockFile(path)
    assert list(read) == chain[:5]
    assert read.damage is not None
    assert read.damage.offset == offsets[5]


def test_void_blocks_are_cut_off_for_good_and_others_take_their_place(
    path: Path, chain: list[DecidedBlock]
) -> None:
    store = opened(path)
    assert store.get(11) is not None
    store.cut(4)
    assert (store.tip_height, store.get(5), store.get(11)) == (4, None, None)
    header = dataclasses.replace(chain[5].block.header, time_ms=chain[5].block.header.time_ms + 1)
    other = dataclasses.replace(chain[5], block=dataclasses.replace(chain[5].block, header=header))
    store.append(other)
    store.close()
    again = opened(path)
    assert list(again) == [*chain[:5], other]
    again.close()


def test_a_chain_can_be_cut_to_nothing(path: Path, chain: list[DecidedBlock]) -> None:
    store = opened(path)
    store.cut(-1)
    assert (store.tip_height, store.tip) == (-1, None)
    store.append(chain[0])
    assert list(store) == chain[:1]
    store.close()


@pytest.mark.usefixtures("quick_disk")
def test_blocks_written_in_one_go_are_a_prefix_after_any_crash(
    path: Path, chain: list[DecidedBlock], capsys: pytest.CaptureFixture[str]
) -> None:
    """Sectors reach the disk in any order: a block of the batch may be there and the one before it not."""
    store = opened(path)
    store.cut(3)
    store.extend(chain[4:])
    store.close()
    assert list(BlockFile(path)) == chain
    whole, offsets = path.read_bytes(), BlockFile(path).offsets
    for hole in range(-(-offsets[4] // 512) * 512, len(whole) - 512, 512):
        path.write_bytes(whole[:hole] + bytes(512) + whole[hole + 512 :])
        store = opened(path)
        lost = max(index for index, offset in enumerate(offsets) if offset <= hole)
        assert list(store) == chain[:lost]
        store.extend(chain[lost:])
        assert list(store) == chain
        store.close()
    for end in range(offsets[4] + 1, len(whole), 97):
        path.write_bytes(whole[:end])
        store = opened(path)
        assert list(store) == chain[: sum(offset < end for offset in offsets) - 1]
        store.close()


def test_of_a_batch_that_does_not_follow_nothing_is_kept(path: Path, chain: list[DecidedBlock]) -> None:
    store = opened(path)
    store.cut(3)
    with pytest.raises(ValueError, match="does not follow"):
        store.extend([*chain[4:8], chain[9]])
    assert store.tip_height == 3
    store.close()
