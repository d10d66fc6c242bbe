"""The table of faults: a fault is one function with `@fault(..)`, and what the functions share.

A fault gets the network, a source of chance and the form (short or long), does its harm, waits for what must
follow, and raises NotHeld otherwise. What holds after every fault is in `after`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from random import Random

import trio

from tests.live.network import Network
from tests.live.shape import SEAT


@dataclass(frozen=True)
class Form:
    """How much of it. stop_s: how long a process is stopped, a network cut, a clock wrong."""

    times: int
    stop_s: float


SHORT = Form(times=2, stop_s=5.0)
LONG = Form(times=6, stop_s=30.0)

# A height that took longer than this was held up by a fault; its length says nothing.
HEIGHT_S_MAX = 10.0

Does = Callable[[Network, Random, Form], Awaitable[None]]


@dataclass(frozen=True)
class Fault:
    """One line of the table. holds: what must hold afterwards, besides what holds after all of them.

    needs: why this machine cannot do it, or None.
    """

    name: str
    does: str
    holds: str
    run: Does
    needs: Callable[[], str | None]


TABLE: dict[str, Fault] = {}


def fault(holds: str, *, needs: Callable[[], str | None] = lambda: None) -> Callable[[Does], Does]:
    """A decorator that adds a fault, by its function's name; the docstring's first line says what it does."""

    def add(function: Does) -> Does:
        assert function.__doc__ is not None
        name = function.__name__
        TABLE[name] = Fault(name, function.__doc__.partition("\n")[0], holds, function, needs)
        return function

    return add


async def after(network: Network) -> None:
    """After every fault: each member decides and votes again, at heights that began after the fault."""
    above = network.height + 1
    await network.progress(2)
    await network.everybody_votes(above)


# The steps of a round at which a fault is most likely to find something half done.
STEPS = ("train", "reveal", "propose", "prepare", "commit")


async def a_moment(network: Network, chance: Random) -> None:
    """Wait for a moment that the seed chooses: somewhere in a height, or when the first reaches some step."""
    step = chance.choice((*STEPS, None))
    if step is not None:
        wanted = network.height + 2  # The next that begins: of the open one the step may be over.
        await network.until(
            lambda: wanted in network.steps[step], f"somebody reaches {step} of height {wanted}"
        )
    else:
        await trio.sleep(chance.uniform(0, 2 * min(network.height_s, HEIGHT_S_MAX)))


def victims(network: Network, chance: Random, count: int, *, leader: bool) -> list[str]:
    """So many members; with the current Ci among them, or by chance alone."""
    chosen = [network.leader()] if leader else []
    others = [name for name in network.names if name not in chosen]
    return [*chosen, *chance.sample(others, count - len(chosen))]


def rest(network: Network, gone: list[str]) -> list[str]:
    """The members that are left."""
    return [name for name in network.names if name not in gone]


def everybody(network: Network) -> list[str]:
    """Members and seat."""
    return [*network.names, SEAT]
