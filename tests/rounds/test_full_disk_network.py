"""One member's disk runs full in the middle of a round: the others go on, and it comes back to them."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import trio

from p2pfl.rounds import patience
from tests.rounds.small_network import small_network
from tests.rounds.test_network import GROUP, SHORT, chain_of, ids

pytestmark = pytest.mark.slow


async def test_a_member_whose_disk_is_full_waits_and_is_back_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run" / "nodes" / "g0m3"
    full, refused = False, 0
    write = os.write

    def written(handle: int, data: bytes) -> int:
        nonlocal refused
        if full and Path(f"/proc/self/fd/{handle}").resolve().is_relative_to(folder):
            refused += 1
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(handle, data)

    monkeypatch.setattr(os, "write", written)
    monkeypatch.setattr(patience, "RETRY_S", 0.1)
    shape = {"groups": 1, "members": 4, "seats": 1, "rounds": 4}
    async with small_network(tmp_path / "run", times=SHORT, **shape) as network:
        await network.until(lambda: bool(network.seen("decided", by="g0m3", height=0)))
        full = True
        # The others reach a height without it; it signs nothing, and it does not fall over.
        await network.until(lambda: network.heights(GROUP[:3], 1))
        await trio.sleep(0.5)
        assert refused > 2
        assert not network.seen("decided", by="g0m3", height=2)
        full = False
        await network.until(lambda: network.heights(GROUP, 3))
    chains = [ids(chain_of(network, name, "g0")) for name in GROUP]
    assert len(chains[0]) == 4
    assert all(chain == chains[0] for chain in chains)
    assert not network.seen("evidence")
