"""What observers may have of a node's blobs: what is public, and updates where the operator says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from p2pfl.genesis import COUNCIL
from p2pfl.roster import Roster
from p2pfl.rounds.chain import Chain
from p2pfl.rounds.served import BLOCKS, reveal, serve_again
from p2pfl.rounds.shelf import Shelf
from p2pfl.store import Store
from tests.audit.chain import build, member_of


def opened(path: Path, name: str) -> tuple[Shelf, Chain, Store]:
    built = build()
    built.write(path)
    store = Store(path, built.genesis)
    roster = Roster.of(built.genesis)
    network: Any = None  # Nothing is fetched.
    chain = Chain(built.genesis, name, store.chain(name), lambda: roster)
    shelf = Shelf(store.blobs, network)
    serve_again(shelf, roster, chain)
    return shelf, chain, store


def test_observers_see_aggregates_and_no_update(tmp_path: Path) -> None:
    shelf, _, store = opened(tmp_path, "g1")
    for height in range(6):
        body = build().body("g1", height)
        assert shelf.source(None, body.aggregate_id) is not None
        for each in body.txs:
            assert shelf.source(None, each.tx.blob_id) is None
            assert shelf.source(member_of("g1-m0"), each.tx.blob_id) is not None
            assert shelf.source(member_of("g2-m0"), each.tx.blob_id) is None
    store.close()


def test_observers_see_the_councils_bases(tmp_path: Path) -> None:
    shelf, _, store = opened(tmp_path, COUNCIL)
    body = build().body(COUNCIL, 1)
    assert shelf.source(None, body.base_id) is not None
    store.close()


def test_an_operator_may_show_the_updates_of_decided_blocks_and_only_those(tmp_path: Path) -> None:
    shelf, chain, store = opened(tmp_path, "g1")
    reveal(shelf, chain)
    newest, before = build().body("g1", 5), build().body("g1", 4)
    assert all(shelf.source(None, each.tx.blob_id) is not None for each in newest.txs)
    assert all(shelf.source(None, each.tx.blob_id) is None for each in before.txs)
    reveal(shelf, chain, BLOCKS)
    assert all(shelf.source(None, each.tx.blob_id) is not None for each in before.txs)
    # To members of other groups it is shown no more than before.
    assert all(shelf.source(member_of("g2-m0"), each.tx.blob_id) is None for each in before.txs)
    store.close()
