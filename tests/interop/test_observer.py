"""An observer in another language, written from docs/wire.md alone, reads a running node."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from consensus.signing import block_id, separator, signing_digest
from consensus.types import Commit, Digest
from p2pfl import genesis as genesis_file
from p2pfl.genesis import Genesis
from p2pfl.jsonform import from_json
from p2pfl.net import gossip, wire
from p2pfl.net.ask import framed
from p2pfl.net.host import Network
from tests.audit.chain import build
from tests.audit.test_fetch import Serves
from tests.net.hosts import free_port, peer_key

HERE = Path(__file__).parent
VECTORS = HERE.parent / "vectors" / "observer.json"
WIRE = HERE.parent.parent / "docs" / "wire.md"
PROGRAM = ("package.json", "package-lock.json", "node20.mjs", "proofs.mjs", "vectors.mjs", "observer.mjs")
# Fifty small packages from a registry; CI keeps npm's cache.
INSTALL_S = 120


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The observer with its libraries, as their lock file names them."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node and npm are not here")
    folder = tmp_path_factory.mktemp("observer")
    for name in PROGRAM:
        shutil.copy(HERE / name, folder / name)
    words = ["npm", "ci", "--no-audit", "--no-fund", "--prefer-offline"]
    try:
        done = subprocess.run(
            words, cwd=folder, capture_output=True, text=True, timeout=INSTALL_S, check=False
        )
    except subprocess.TimeoutExpired:
        pytest.skip(f"npm ci took more than {INSTALL_S} s")
    if done.returncode:
        # Without a registry there is nothing to run; where the contracts' packages came, these come too.
        end = pytest.fail if os.environ.get("CI") else pytest.skip
        end(f"npm ci: {done.stderr.strip()[-300:]}")
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def vectors() -> dict[str, Any]:
    return json.loads(VECTORS.read_text(encoding="utf-8"))


def worked() -> dict[str, str]:
    """What we make of the vectors, by what it is called there."""
    told = vectors()
    genesis: Genesis = from_json(told["genesis"], Genesis)
    group_id, domain = genesis.group_id(told["group"]), genesis.domain(told["group"])
    answer = wire.unpack(bytes.fromhex(told["blocks"]))
    assert isinstance(answer, wire.Blocks)
    header, certificate = answer.blocks[0].block.header, answer.blocks[0].certificate
    ids = [block_id(each.block.header) for each in answer.blocks]
    commit = Commit(header.epoch, header.height, certificate.round, ids[0])
    aggregate = Digest(bytes.fromhex(told["aggregate_id"][2:]))
    return {
        "network": genesis.network_id.hex(),
        "group": group_id.hex(),
        "topic": f"/mps/{genesis.network_id.hex()[:16]}/tips",
        "separator": separator(domain).hex(),
        "id": ids[0].hex(),
        "app_root": header.app_root.hex(),
        "digest": signing_digest(domain, commit).hex(),
        "signature": certificate.signatures[0].hex(),
        "get_status": framed(wire.pack(wire.GetStatus(group_id))).hex(),
        "status": framed(wire.pack(wire.Status(group_id, 0, ids[0]))).hex(),
        "get_blocks": framed(wire.pack(wire.GetBlocks(group_id, 0, 1))).hex(),
        "get_piece": framed(wire.pack(wire.GetPiece(aggregate, 0, 64))).hex(),
        "refused": framed(wire.pack(wire.Refused("not_held"))).hex(),
        "tip": wire.pack(wire.Tip(group_id, 0, ids[0])).hex(),
    }


def test_the_worked_example_of_the_page_is_right() -> None:
    page = "".join(WIRE.read_text(encoding="utf-8").split())
    for name, value in worked().items():
        # Of a root its beginning is shown, of the signature its first line.
        digits = {"app_root": 8, "signature": 64}.get(name, len(value))
        assert value[:digits] in page, name


@pytest.mark.slow
def test_another_language_makes_the_same_of_the_vectors(program: Path) -> None:
    done = subprocess.run(
        ["node", "vectors.mjs", str(VECTORS)], cwd=program, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    said, ours = json.loads(done.stdout), worked()
    same = ("network", "group", "topic", "separator", "digest", "get_status", "get_blocks", "get_piece")
    assert {name: said[name] for name in same} == {name: ours[name] for name in same}
    assert said["ids"][0] == ours["id"]
    assert len(said["signers"]) == 3
    assert said["refused"]  # A certificate with one bit changed.


@pytest.mark.slow
async def test_another_language_observes_a_running_node(
    program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Identify, ping, announcements over standard signed gossipsub, blocks, certificates, a blob."""
    monkeypatch.setattr(gossip, "QUIET_START_S", 0.0)
    built = build()
    genesis_file.save(built.genesis, tmp_path / "genesis.json")
    chain = built.chains["g1"]
    tip = wire.Tip(built.genesis.group_id("g1"), len(chain) - 1, block_id(chain[-1].block.header))
    at = f"/ip4/127.0.0.1/tcp/{free_port()}"
    network = Network(
        me=chain[0].block.header.proposer,
        peer_key=peer_key(0),
        listen=at,
        peers={},
        handlers=Serves(built),  # pyright: ignore[reportArgumentType]
        network_id=built.genesis.network_id,
    )

    async def announce() -> None:
        while True:
            network.announce(tip)
            await trio.sleep(0.2)

    async with trio.open_nursery() as nursery:
        await nursery.start(network.run)
        nursery.start_soon(announce)
        where = f"{at}/p2p/{network.peer_id}"
        done = await trio.run_process(
            ["node", str(program / "observer.mjs"), str(tmp_path / "genesis.json"), where, "g1"],
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )
        faults = dict(network.observers.faults)
        nursery.cancel_scope.cancel()
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    said = json.loads(done.stdout)
    assert {"/ipfs/id/1.0.0", "/ipfs/ping/1.0.0", "/mps/requests/1", "/meshsub/1.1.0"} <= set(
        said["protocols"]
    )
    assert (said["encryption"], said["muxer"]) == ("/noise", "/yamux/1.0.0")
    assert (said["height"], said["tip"]) == (tip.height, tip.block_id.hex())
    assert said["blob_bytes"] == len(built.blobs[built.body("g1", -1).aggregate_id])
    announced = {"group": tip.group_id.hex(), "height": tip.height, "block": tip.block_id.hex()}
    assert said["announced"] == {"author": network.peer_id, **announced}
    assert not faults
