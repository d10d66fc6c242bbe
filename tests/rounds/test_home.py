"""What comes in when an epoch is over starts nothing, and stops nobody."""

from __future__ import annotations

import trio
import trio.testing

from p2pfl.rounds.home import Home


async def test_tasks_live_until_the_epoch_ends_and_none_begins_afterwards() -> None:
    begun: list[str] = []

    async def work(name: str) -> None:
        begun.append(name)

    async with trio.open_nursery() as nursery:
        home = Home(nursery)
        home.start_soon(work, "during")
    home.start_soon(work, "after")
    await trio.testing.wait_all_tasks_blocked()
    assert begun == ["during"]
