"""What happens around the processes: networks that are cut, clocks that are wrong, a disk that is full.

Each puts right what it did, and returns when the network has got over it.
"""

from __future__ import annotations

import errno
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import trio

from p2pfl.errors import EXIT_USER
from tests.live.network import Network, NotHeld
from tests.live.switch import Switch
from tests.live.table import Form, a_moment, after, fault, rest, victims

HOUR_MS = 3_600_000
# After a cut, messages that had arrived are still worked off: a block may be decided so long afterwards.
# For a group of four; more members have more to work off.
WORKED_OFF_S = 4.0
# Room for a node's folder in a short life; small enough to be filled at once.
DISK_MIB = 64
# What a node says of clocks (p2pfl/rounds/clocks.py) and of disks (p2pfl/durable.py).
CLOCK_WORDS = "the clocks of this group are too far apart"
DISK_WORDS = "the disk is full"


# ---------------------------------------------------------------------------
# Cables.


@fault("the larger side goes on, the others catch up")
async def cut_off(network: Network, chance: Random, form: Form) -> None:
    """f members, the current Ci among them, are cut off for 30 s (short: 5 s), then the network is whole."""
    await a_moment(network, chance)
    apart = victims(network, chance, network.faulty_max, leader=True)
    network.cable.cut_off(apart)
    until_s = trio.current_time() + form.stop_s
    await network.progress(2, of=rest(network, apart))
    await trio.sleep_until(until_s)
    network.cable.heal()


@fault("nothing is decided meanwhile, and the chain goes on afterwards")
async def cut_in_two(network: Network, chance: Random, form: Form) -> None:
    """Neither side has a quorum for 30 s (short: 5 s), then the network is whole."""
    await a_moment(network, chance)
    network.cable.cut_off(victims(network, chance, network.members // 2, leader=False))
    await trio.sleep(WORKED_OFF_S * network.members / 4)
    await network.stands_still(form.stop_s)
    network.cable.heal()


# ---------------------------------------------------------------------------
# Clocks.


@fault("the others go on; once the clocks are right, all vote")
async def clocks_of_f(network: Network, chance: Random, form: Form) -> None:
    """The clocks of f members are an hour wrong, ahead or behind, while they run."""
    wrong = victims(network, chance, network.faulty_max, leader=False)
    for name in wrong:
        set_clock(network, name, chance.choice((-HOUR_MS, HOUR_MS)))
    await network.progress(form.times, of=rest(network, wrong))
    for name in wrong:
        set_clock(network, name, 0)


@fault("nothing is decided, everybody's log says why, and the chain goes on once the clocks are right")
async def clocks_of_more(network: Network, chance: Random, form: Form) -> None:
    """The clocks of f + 1 members are an hour ahead while they run."""
    wrong = victims(network, chance, network.faulty_max + 1, leader=False)
    places = {name: log_of(network, name).stat().st_size for name in network.names}
    for name in wrong:
        set_clock(network, name, HOUR_MS)
    await trio.sleep(WORKED_OFF_S * network.members / 4)
    height = network.height
    await network.until(
        lambda: all(CLOCK_WORDS in said_since(network, name, places[name]) for name in network.names),
        f"everybody says that {CLOCK_WORDS!r}",
    )
    if network.height > height:
        raise NotHeld(f"height {network.height} was decided with {len(wrong)} clocks an hour wrong")
    for name in wrong:
        set_clock(network, name, 0)


def set_clock(network: Network, name: str, wrong_ms: int) -> None:
    """From now on this node's wall clock is wrong by so much."""
    network.clock_file(name).write_text(str(wrong_ms), encoding="ascii")
    network.signal(signal.SIGUSR1, name)


def log_of(network: Network, name: str) -> Path:
    """Where this node's log goes: not into its folder, which may be full."""
    return network.directory / "logs" / f"{name}.txt"


def said_since(network: Network, name: str, place: int) -> str:
    """What a node's log says from this byte on."""
    return log_of(network, name).read_bytes()[place:].decode("utf-8", errors="replace")


# ---------------------------------------------------------------------------
# Disks.


def no_mounts() -> str | None:
    """Why this machine cannot mount a small disk, or None."""
    return "a small disk to fill needs root" if Switch.why_not() else None


@fault(
    "it says why, the others go on; with room again, and started again if it ended, it votes", needs=no_mounts
)
async def full_disk(network: Network, chance: Random, form: Form) -> None:
    """The disk of one member is filled to the last byte while it runs; later there is room again."""
    (name,) = victims(network, chance, 1, leader=False)
    node = network.nodes[name]
    async with small_disk(network, name) as disk:
        await after(network)
        place = log_of(network, name).stat().st_size
        await a_moment(network, chance)
        junk = fill(disk)
        await network.until(
            lambda: DISK_WORDS in said_since(network, name, place) + "".join(node.words),
            f"{name} says that {DISK_WORDS!r}",
            may_end=[name],
        )
        await network.progress(1, of=rest(network, [name]), may_end=[name])
        junk.unlink()
        above = network.height + 1
        await network.until(
            lambda: not alive(network, name) or node.commit > above,
            f"{name} ends, or votes above height {above}",
            may_end=[name],
        )
        if not alive(network, name):
            status = node.child.status if node.child else None
            if status != EXIT_USER:
                raise NotHeld(f"{name} ended with status {status} on a full disk, not {EXIT_USER}")
            await network.start(name)
        await after(network)


def alive(network: Network, name: str) -> bool:
    """Whether its process still runs."""
    child = network.nodes[name].child
    return child is not None and child.alive


@asynccontextmanager
async def small_disk(network: Network, name: str) -> AsyncIterator[Path]:
    """This member, with its folder on a small disk of its own; afterwards it is where it was."""
    folder = network.nodes[name].seat.folder.path
    aside = network.directory / "aside" / name
    await network.kill(name)
    aside.parent.mkdir(exist_ok=True)
    folder.rename(aside)
    folder.mkdir()
    mount(folder)
    try:
        shutil.copytree(aside, folder, dirs_exist_ok=True)
        await network.start(name)
        yield folder
    finally:
        await network.kill(name)
        shutil.rmtree(aside)
        shutil.copytree(folder, aside)
        unmount(folder)
        folder.rmdir()
        aside.rename(folder)
    await network.start(name)


def mount(folder: Path) -> None:
    """A disk in memory."""
    options = f"size={DISK_MIB}m,mode=700"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "p2pfl-live", str(folder)], check=True)


def unmount(folder: Path) -> None:
    """Take it away, with whatever is on it."""
    subprocess.run(["umount", str(folder)], check=True)


def fill(disk: Path) -> Path:
    """Write junk until not one byte more is taken."""
    junk = disk / "junk"
    with junk.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
    return junk
