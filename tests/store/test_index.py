"""The index is a view: built again from the blocks it is the same, whatever became of the file."""

from __future__ import annotations

import dataclasses
import sqlite3
from pathlib import Path

import pytest

from p2pfl.errors import UserError
from p2pfl.genesis import COUNCIL
from p2pfl.store import BlockFile
from p2pfl.store.index import Index
from tests.audit.chain import Built, build


@pytest.fixture(scope="module")
def built() -> Built:
    return build()


@pytest.fixture(scope="module")
def chains(tmp_path_factory: pytest.TempPathFactory, built: Built) -> dict[str, BlockFile]:
    path = built.write(tmp_path_factory.mktemp("node"), blobs=False)
    return {name: BlockFile(path / "chain" / f"{name}.mps") for name in built.chains}


TABLES = (
    "meta", "members", "blocks", "rounds", "updates", "warnings", "standings", "filters", "counted",
    "compared", "cases", "candidates", "measurements", "outcomes", "verdicts",
)  # fmt: skip


def contents(index: Index) -> dict[str, list[dict[str, object]]]:
    return {name: index.query(f"select * from {name} order by 1, 2") for name in TABLES}


class Part:
    """The first blocks of a chain."""

    def __init__(self, file: BlockFile, count: int) -> None:
        self.blocks = list(file)[:count]
        self.tip_height = len(self.blocks) - 1

    def get(self, height: int) -> object:
        return self.blocks[height] if 0 <= height < len(self.blocks) else None

    def iterate(self, start: int = 0) -> object:
        return iter(self.blocks[start:])


def test_caught_up_block_by_block_is_the_same_as_built_at_once(
    tmp_path: Path, built: Built, chains: dict[str, BlockFile]
) -> None:
    at_once = Index(built.genesis)
    assert at_once.catch_up(chains) == 22
    assert at_once.catch_up(chains) == 0
    by_steps = Index(built.genesis, tmp_path / "index.sqlite")
    for count in range(1, 7):
        by_steps.catch_up({name: Part(file, count) for name, file in chains.items()})  # type: ignore[misc]
        by_steps.close()
        by_steps = Index(built.genesis, tmp_path / "index.sqlite")
    assert contents(by_steps) == contents(at_once)
    found = contents(at_once)
    assert all(found[name] for name in TABLES), "every table has rows in this history"
    at_once.close()
    by_steps.close()


def test_a_deleted_or_broken_file_is_built_again(
    tmp_path: Path, built: Built, chains: dict[str, BlockFile]
) -> None:
    path = tmp_path / "index.sqlite"
    index = Index(built.genesis, path)
    index.catch_up(chains)
    expected = contents(index)
    index.close()
    whole = path.read_bytes()
    for broken in (None, b"", b"not a database" * 100, whole[:5000], bytes(len(whole))):
        path.unlink()
        if broken is not None:
            path.write_bytes(broken)
        index = Index(built.genesis, path)
        index.catch_up(chains)
        assert contents(index) == expected
        index.close()


def test_an_index_of_another_network_or_version_is_built_again(
    tmp_path: Path, built: Built, chains: dict[str, BlockFile]
) -> None:
    path = tmp_path / "index.sqlite"
    other = Index(dataclasses.replace(built.genesis, name="other"), path)
    other.close()
    index = Index(built.genesis, path)
    assert index.query("select value from meta")[0]["value"] == "0x" + built.genesis.network_id.hex()
    index.catch_up(chains)
    index.close()
    db = sqlite3.connect(path)
    db.execute("pragma user_version = 99")
    db.close()
    index = Index(built.genesis, path)
    assert index.query("select * from blocks") == []
    index.close()


def test_a_chain_that_was_replaced_is_noticed(built: Built, chains: dict[str, BlockFile]) -> None:
    index = Index(built.genesis)
    index.catch_up(chains)
    shorter = {**chains, "g1": Part(chains["g1"], 3)}
    index.catch_up(shorter)  # type: ignore[arg-type]
    assert index.query("select max(height) as h from blocks where chain = 'g1'") == [{"h": 2}]
    assert index.query("select max(height) as h from updates where chain = 'g1'") == [{"h": 2}]
    index.close()


def test_statistics_are_kept_for_the_planner(built: Built, chains: dict[str, BlockFile]) -> None:
    index = Index(built.genesis)
    index.catch_up(chains)
    assert index.query("select count(*) as n from sqlite_stat1")[0]["n"]
    index.close()


def test_an_endless_question_is_stopped(
    built: Built, chains: dict[str, BlockFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("p2pfl.store.index.STEPS_MAX", 10_000)
    index = Index(built.genesis)
    index.catch_up(chains)
    endless = "with recursive n(i) as (select 1 union all select i + 1 from n) select max(i) from n"
    with pytest.raises(sqlite3.OperationalError, match="interrupted"):
        index.query(endless)
    assert len(index.query("select * from blocks where chain = ?", (COUNCIL,))) == 4
    index.close()


def test_a_folder_that_cannot_be_written_is_an_operators_error(
    tmp_path: Path, built: Built, chains: dict[str, BlockFile]
) -> None:
    index = Index(built.genesis, tmp_path / "index.sqlite")
    db = sqlite3.connect(tmp_path / "index.sqlite")
    db.execute("begin exclusive")
    with pytest.raises(UserError, match="cannot be written"):
        index.catch_up(chains)
    db.close()
    index.close()
