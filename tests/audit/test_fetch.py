"""A copy of a running network's history: from real hosts, whole, resumed, and without what liars give."""

from __future__ import annotations

import argparse
import dataclasses
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from consensus.signing import block_id
from consensus.types import Certificate, DecidedBlock, Digest
from p2pfl import genesis as genesis_file
from p2pfl.audit.fetch import Copy, Fetcher, Outcome
from p2pfl.audit.verify import verify
from p2pfl.cli import fetch as command
from p2pfl.errors import EXIT_USER, PeerFault, UserError
from p2pfl.genesis import COUNCIL
from p2pfl.net import wire
from p2pfl.net.host import Network
from p2pfl.net.identity import peer_id_of
from p2pfl.net.interface import BytesBlob
from p2pfl.store import BlockFile, Folder
from tests.audit.chain import GROUPS, Built, build, decide
from tests.net.hosts import free_port, peer_key, until

CHAINS = (COUNCIL, *GROUPS)


@pytest.fixture(scope="module")
def built() -> Built:
    return build()


class Serves:
    """Handlers of a node that has this history, and shows observers every blob of it."""

    def __init__(self, built: Built, heights: int = 100) -> None:
        self.heights = heights
        self.refuses = False
        self.chains = {built.genesis.group_id(name): built.chains[name] for name in CHAINS}
        self.blobs = built.blobs

    async def received(self, sender: Any, message: Any) -> None:
        raise AssertionError("observers say nothing")

    async def answer(self, sender: Any, request: Any) -> Any:
        if self.refuses:
            return wire.Refused("busy_elsewhere")
        chain = self.chains[request.group_id][: self.heights]
        if isinstance(request, wire.GetStatus):
            tip = block_id(chain[-1].block.header) if chain else Digest(bytes(32))
            return wire.Status(request.group_id, len(chain) - 1, tip)
        return wire.fitting(chain[request.start : request.start + min(request.count, 2)])

    def blob(self, sender: Any, blob_id: Any) -> Any:
        data = self.blobs.get(blob_id)
        return None if data is None else BytesBlob(data)


@asynccontextmanager
async def serving(*handlers: Serves) -> AsyncIterator[list[str]]:
    """Real hosts, and how observers call them."""
    names: list[str] = []
    async with trio.open_nursery() as nursery:
        for number, each in enumerate(handlers):
            member: Any = bytes([number]) * 20
            at = f"/ip4/127.0.0.1/tcp/{free_port()}"
            network = Network(
                me=member, peer_key=peer_key(number), listen=at, peers={}, handlers=each, gossip=False
            )
            await nursery.start(network.run)
            names.append(f"{at}/p2p/{network.peer_id}")
        yield names
        nursery.cancel_scope.cancel()


async def fetch(path: Path, built: Built, names: Sequence[str], *, blobs: str = "none") -> Outcome:
    """As the command does it."""
    copy = Copy(path, built.genesis)
    try:
        wanted = argparse.Namespace(blobs=blobs, follow=False, security="noise", psk_file=None)
        return await command.run(wanted, list(names), copy)
    finally:
        copy.close()


def heights(folder: Path) -> dict[str, int]:
    return {name: BlockFile(Folder(folder).chain(name)).tip_height for name in CHAINS}


async def test_a_running_networks_history_is_fetched_and_goes_on_where_it_stopped(
    built: Built, tmp_path: Path
) -> None:
    node = Serves(built, heights=3)
    async with serving(node) as names:
        first = await fetch(tmp_path, built, names)
        assert heights(tmp_path) == dict.fromkeys(CHAINS, 2)
        node.heights = 100
        second = await fetch(tmp_path, built, names, blobs="public")
    whole = {name: len(built.chains[name]) - 1 for name in CHAINS}
    assert heights(tmp_path) == whole == second.heights
    assert first.blocks == 3 * len(CHAINS)
    assert second.blocks == sum(map(len, built.chains.values())) - first.blocks
    assert (second.hidden, second.lies, second.forks, second.silent) == (0, [], [], {})
    report = verify(tmp_path)  # From the blobs too.
    assert report.findings == []
    assert report.skipped == []
    assert report.blocks == sum(map(len, built.chains.values()))


async def test_who_follows_gets_what_comes_and_outlasts_an_outage(
    built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "POLL_S", 0.1)
    monkeypatch.setattr(command, "PAUSE_S", 0.0)
    node = Serves(built, heights=2)
    copy = Copy(tmp_path, built.genesis)
    wanted = argparse.Namespace(blobs="none", follow=True, security="noise", psk_file=None)
    async with serving(node) as names, trio.open_nursery() as nursery:
        nursery.start_soon(command.run, wanted, names, copy)
        await until(lambda: heights(tmp_path) == dict.fromkeys(CHAINS, 1), 20)
        node.refuses = True
        await trio.sleep(0.5)
        node.refuses, node.heights = False, 4
        await until(lambda: heights(tmp_path) == dict.fromkeys(CHAINS, 3), 20)
        nursery.cancel_scope.cancel()
    copy.close()


def spoilt(built: Built, what: str) -> Built:
    """The history of a liar."""
    last = built.chains["g2"][3]
    if what == "certificate":
        signatures = (bytes(65), *last.certificate.signatures[1:])
        return built.with_block("g2", 3, DecidedBlock(last.block, Certificate(0, signatures)))
    if what == "body":
        block = dataclasses.replace(last.block, body=built.chains["g2"][2].block.body)
        return built.with_block("g2", 3, dataclasses.replace(last, block=block))
    header = dataclasses.replace(last.block.header, parent_id=Digest(b"\7" * 32))
    return built.with_block("g2", 3, decide(built.genesis, "g2", header, last.block.body))


@pytest.mark.parametrize(
    ("what", "reason"), [("certificate", "bad_certificate"), ("body", "bad_body"), ("parent", "bad_block")]
)
async def test_who_lies_is_named_and_left_and_the_others_give_the_rest(
    built: Built, tmp_path: Path, capsys: pytest.CaptureFixture[str], what: str, reason: str
) -> None:
    # The liar is asked first: it comes first where both have as much to offer.
    async with serving(Serves(spoilt(built, what)), Serves(built)) as names:
        said = await fetch(tmp_path / "copy", built, names)
        with pytest.raises(UserError, match=reason):
            await fetch(tmp_path / "alone", built, names[:1])
    assert heights(tmp_path / "copy") == said.heights == {n: len(built.chains[n]) - 1 for n in CHAINS}
    assert verify(tmp_path / "copy").findings == []
    assert [(lie["source"], lie["reason"]) for lie in said.lies] == [(names[0], reason)]
    assert f"LIED: {names[0]}: {reason}" in capsys.readouterr().err
    # A block with another parent is more than a lie: a quorum has signed it.
    assert [each["height"] for each in said.forks] == ([3] if what == "parent" else [])
    # With nobody else to ask, what came before the lie is kept.
    assert heights(tmp_path / "alone")["g2"] == 2


async def test_two_certified_blocks_of_one_height_are_told(
    built: Built, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = built.chains["g1"][-1]
    header = dataclasses.replace(other.block.header, time_ms=other.block.header.time_ms + 1)
    forked = built.with_block("g1", -1, decide(built.genesis, "g1", header, other.block.body))
    async with serving(Serves(built), Serves(forked)) as names:
        said = await fetch(tmp_path, built, names)
    assert [(each["chain"], each["height"]) for each in said.forks] == [("g1", header.height)]
    assert "FORK" in capsys.readouterr().err


class Tells:
    """A source without sockets. ids: what it says its tips are."""

    def __init__(self, handlers: Serves, ids: Any = None) -> None:
        self.name, self.left = "it", False
        self._handlers, self._ids = handlers, ids or {}

    async def status(self, group_id: Digest) -> Any:
        chain = self._handlers.chains[group_id]
        return len(chain) - 1, self._ids.get(group_id) or block_id(chain[-1].block.header)

    async def blocks(self, group_id: Digest, start: int, count: int) -> Any:
        return (await self._handlers.answer(None, wire.GetBlocks(group_id, start, count))).blocks

    async def blob(self, blob_id: Digest, length: int) -> bytes:
        raise PeerFault("refused", "not_held")

    def leave(self) -> None:
        self.left = True


async def test_who_makes_up_its_tip_is_left(built: Built, tmp_path: Path) -> None:
    liar = Tells(Serves(built), {built.genesis.group_id("g1"): Digest(b"\1" * 32)})
    copy = Copy(tmp_path / "copy", built.genesis)
    try:
        fetcher = Fetcher(copy, [liar, Tells(Serves(built))], blobs=True, tell=lambda _: None)
        await fetcher.once()
    finally:
        copy.close()
    assert liar.left
    assert [each["reason"] for each in fetcher.outcome.lies] == ["bad_block"]
    assert fetcher.outcome.hidden > 20


def before_time(decided: DecidedBlock) -> DecidedBlock:
    """With a header that has no id."""
    header = dataclasses.replace(decided.block.header, time_ms=-1)
    return dataclasses.replace(decided, block=dataclasses.replace(decided.block, header=header))


@pytest.mark.parametrize("height", [0, 3, -1])  # What comes next, or what the tip is compared with.
async def test_who_gives_a_header_that_cannot_be_is_left(built: Built, tmp_path: Path, height: int) -> None:
    lies = built.with_block("g1", height, before_time(built.chains["g1"][height]))
    group_id = built.genesis.group_id("g1")
    liar = Tells(Serves(lies), {group_id: Digest(b"\1" * 32)})
    sources = [Tells(Serves(built)), liar] if height == -1 else [liar, Tells(Serves(built))]
    copy = Copy(tmp_path / "copy", built.genesis)
    try:
        fetcher = Fetcher(copy, sources, blobs=False, tell=lambda _: None)
        await fetcher.once()
    finally:
        copy.close()
    assert liar.left
    assert [each["reason"] for each in fetcher.outcome.lies] == ["bad_block"]
    assert fetcher.outcome.forks == []
    assert heights(tmp_path / "copy") == {name: len(built.chains[name]) - 1 for name in CHAINS}


@pytest.mark.parametrize("is_tip", [True, False])
async def test_a_block_of_another_height_is_a_lie_and_no_fork(
    built: Built, tmp_path: Path, is_tip: bool
) -> None:
    """A quorum has signed it, but nothing else of that height."""
    genuine = built.chains["g1"][1]
    at = -1 if is_tip else 3
    lies = built.with_block("g1", at, genuine)
    liar = Tells(Serves(lies), {built.genesis.group_id("g1"): block_id(genuine.block.header)})
    honest = Tells(Serves(built))
    copy = Copy(tmp_path / "copy", built.genesis)
    try:
        fetcher = Fetcher(copy, [honest, liar] if is_tip else [liar, honest], blobs=False, tell=print)
        await fetcher.once()
    finally:
        copy.close()
    assert liar.left
    assert fetcher.outcome.forks == []


def test_a_copy_that_somebody_changed_is_not_gone_on_with(built: Built, tmp_path: Path) -> None:
    spoilt(built, "certificate").write(tmp_path / "copy", blobs=False)
    with pytest.raises(UserError, match="is not what was fetched"):
        Copy(tmp_path / "copy", built.genesis)


def test_without_libp2p_the_command_says_what_is_missing(built: Built, tmp_path: Path) -> None:
    genesis_file.save(built.genesis, tmp_path / "genesis.json")
    words = ["audit", "fetch", "--genesis", str(tmp_path / "genesis.json"), "--out", str(tmp_path / "copy")]
    program = (
        "import sys\n"
        "class Without:\n"
        "    def find_spec(self, name, *rest):\n"
        "        if name.split('.')[0] in ('libp2p', 'multiaddr'):\n"
        "            raise ModuleNotFoundError(f'No module named {name}')\n"
        "sys.meta_path.insert(0, Without())\n"
        "from p2pfl.cli import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    where = "/ip4/127.0.0.1/tcp/1/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"
    done = subprocess.run(
        [sys.executable, "-c", program, *words, "--from", where], capture_output=True, text=True, check=False
    )
    assert done.returncode == EXIT_USER
    assert "needs libp2p" in done.stderr
    assert "p2pfl-mps[observer]" in done.stderr


@pytest.mark.parametrize(
    "where",
    [
        "",
        "10.0.0.5:9000",
        "/ip4/10.0.0.5/tcp/9000",
        "/ip4/10.0.0.5/tcp/9000/p2p/nobody",
        "/ip4/10.0.0.5/tcp/90000/p2p/{}",
        "/ip4/10.0.0.500/tcp/9000/p2p/{}",
        "/ip4/10.0.0.5/udp/9000/quic-v1/p2p/{}",
        "/nonsense/p2p/{}",
    ],
)
def test_a_node_that_nobody_could_call_is_refused_before_anything_is_made(tmp_path: Path, where: str) -> None:
    """It was handed to libp2p as it was, and nobody was heard."""
    good = f"/ip4/10.0.0.5/tcp/9000/p2p/{peer_id_of(peer_key(1))}"
    parser = argparse.ArgumentParser()
    command.add_verb(parser.add_subparsers())
    names = f"{good},{where.format(peer_id_of(peer_key(2)))}" if where else ""
    out = tmp_path / "copy"
    told = parser.parse_args(["fetch", "--genesis", "none.json", "--from", names, "--out", str(out)])
    with pytest.raises(UserError, match=r"--from"):
        told.run(told)
    assert not out.exists()
