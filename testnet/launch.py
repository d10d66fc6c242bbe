"""The story of a run: folders, chain, genesis, processes, rounds, the end, the judgement.

    folders and keys ---+
    zygote imports -----+--> genesis --> everybody is forked --> rounds --> settled --> judged --> ended
    chain, contracts ---+        +--> committees and deposits, meanwhile

Knows who starts what and when a run is over. What is shown is in `watch`, what holds in `judge`.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import trio

from consensus.types import ZERO_MEMBER
from p2pfl.genesis import ChainEntry
from testnet import devchain, plan
from testnet.afterwards import ask_the_chain, read_the_files
from testnet.facts import Event, Facts
from testnet.judge import Killed, Outcome, judge
from testnet.memory import Memory
from testnet.result import Result
from testnet.scenarios import Kill, Scenario
from testnet.stakes import EXTRA_ACCOUNTS, Stakes
from testnet.zygote import GRACE_S, Child, Zygote, open_zygote

T = TypeVar("T")

# Imported once, before the first fork. torch is pinned to one thread, so that the zygote stays forkable.
IMPORTS = (
    "p2pfl.learn.numerics:pinned_torch",
    "p2pfl.learn.train",
    "p2pfl.learn.datasets",
    "p2pfl.net.host",
    "p2pfl.audit.explorer",
    "testnet.member",
)
CHAIN_IMPORTS = ("p2pfl.evm.staking",)
# How often memory is sampled and the table drawn.
SAMPLE_S = 1.0
DRAW_S = 0.25
# After the last thing that was waited for: the other nodes' word on it, and the last count of bytes.
AFTERGLOW_S = 2.5
# A network in which nothing is decided for so long will not decide anything.
STALLED_S = 120.0
EVENTS_FILE = "events.jsonl"


@dataclass(frozen=True)
class Options:
    """What does not belong to the scenario.

    log_level: of the nodes' own logs. explorer: whether a seat serves its pages. stay: the network is judged
    while it is up, and ended when the caller has finished with the result.
    """

    log_level: str = "info"
    explorer: bool = True
    stay: bool = False


@dataclass
class Run:
    """One run of a scenario, and everything that is known of it while it lasts."""

    scenario: Scenario
    directory: Path
    options: Options
    show: Callable[[Event], None]
    draw: Callable[[float], None]
    facts: Facts = field(default_factory=Facts)
    died: dict[str, int] = field(default_factory=dict)
    killed: list[Killed] = field(default_factory=list)
    unclean: dict[str, int] = field(default_factory=dict)
    started_s: float | None = None
    _begun: float = field(default_factory=time.monotonic)
    _lives: dict[str, int] = field(default_factory=dict)
    _children: dict[str, Child] = field(default_factory=dict)
    _expected: set[int] = field(default_factory=set)  # Process ids whose end is no surprise.
    _kills_left: list[Kill] = field(default_factory=list)
    _restarts: int = 0
    _gone: set[str] = field(default_factory=set)  # Killed for good.
    _last_block_s: float = 0.0
    _changed: trio.Event = field(default_factory=trio.Event)

    def __post_init__(self) -> None:
        self._kills_left = list(self.scenario.kills)
        self.memory = Memory(os.getpid())

    @property
    def now_s(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self._begun

    # -- the whole ----------------------------------------------------------------

    async def run(self, finish: Callable[[Result], Awaitable[None]]) -> Result:
        """From nothing to the judgement, and from there, when `finish` is done with it, to the end."""
        async with AsyncExitStack() as stack:
            self._nursery = await stack.enter_async_context(trio.open_nursery())
            stack.callback(self._nursery.cancel_scope.cancel)
            self._record = stack.enter_context((self.directory / EVENTS_FILE).open("w", encoding="utf-8"))
            self._nursery.start_soon(self._sample)
            self._nursery.start_soon(self._draw)
            imports = IMPORTS + (CHAIN_IMPORTS if self.scenario.network.chain else ())
            log = self.directory / "zygote.txt"
            self._zygote: Zygote = await stack.enter_async_context(open_zygote(imports, log))
            self._stakes = await stack.enter_async_context(self._open_chain())
            ground = await _aside(plan.break_ground, self.scenario, self.directory)
            entry = (
                await _aside(self._stakes.deploy) if self._stakes else ChainEntry(0, ZERO_MEMBER, ZERO_MEMBER)
            )
            self._plan = await _aside(plan.draw_plan, ground, entry)
            await self._start_everybody()
            await self._until_over()
            result = await self._judge()
            await finish(result)
            await self._end_everybody()
            return result

    @asynccontextmanager
    async def _open_chain(self) -> AsyncIterator[Stakes | None]:
        """The dev chain, and the accounts on it; None in a network without one."""
        if not self.scenario.network.chain:
            yield None
            return
        shape = self.scenario.network
        count = shape.groups * shape.members + shape.seats + EXTRA_ACCOUNTS
        start = partial(devchain.start, count=count, log=self.directory / "chain.txt")
        chain = await _aside(start)
        try:
            self._say(f"a development chain ({chain.backend}) answers at {chain.url}")
            yield Stakes(chain.url, self.scenario)
        finally:
            with trio.move_on_after(devchain.STOP_SECONDS_MAX * 2, shield=True):
                await _aside(chain.stop)

    # -- processes ---------------------------------------------------------------------

    async def _start_everybody(self) -> None:
        genesis = self._plan.genesis
        self._say(f"the genesis is made: network 0x{genesis.network_id.hex()[:16]}..")
        async with trio.open_nursery() as meanwhile:
            if self._stakes is not None:
                meanwhile.start_soon(_aside, self._stakes.register, genesis, self._plan.ground)
            await self._zygote.ready()
            for seat in self._plan.ground.seats:
                await self._start(seat)
        wanted = {seat.name for seat in self._plan.ground.seats}
        with trio.move_on_after(self.scenario.limits.run_s):
            await self._until(lambda: self.facts.started >= wanted or bool(self.died))
        self.started_s = self.now_s
        self._say(f"{len(self.facts.started)} processes are up after {self.started_s:.1f} s")

    async def _start(self, seat: plan.Seat) -> None:
        life = self._lives.get(seat.name, -1) + 1
        self._lives[seat.name] = life
        child = await self._zygote.fork(seat.name, "testnet.member:main", self._spec_of(seat, life))
        self._children[seat.name] = child
        self._nursery.start_soon(self._follow, child, life)
        self._nursery.start_soon(self._mourn, child)

    def _spec_of(self, seat: plan.Seat, life: int) -> dict[str, Any]:
        """What `member.main` is told."""
        # One seat shows the pages: the council keeps every group's chain.
        shows = self.options.explorer and seat.name == "seat0"
        return {
            "name": seat.name,
            "dir": str(seat.folder.path),
            "explorer": [plan.HOST, 0] if shows else None,
            "rpc": self._stakes.url if self._stakes else None,
            "account_key": self._stakes.account_key(seat.name).hex() if self._stakes else None,
            "new_keys": life == 0,
            "data_dir": self.scenario.network.data_dir or None,
            "log_level": self.options.log_level,
            "attacks": [
                {"name": attack.name, "options": attack.options}
                for attack in self.scenario.attacks
                if attack.member == seat.name
            ],
        }

    async def _follow(self, child: Child, life: int) -> None:
        """Take a node's events until it is gone."""
        buffer = bytearray()
        try:
            while data := await child.events.receive_some():
                buffer += data
                *lines, buffer = buffer.split(b"\n")
                for line in lines:
                    told = json.loads(line)
                    self._take(
                        Event(child.name, told["kind"], told["fields"], told["at"] - self._begun, life)
                    )
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass

    async def _mourn(self, child: Child) -> None:
        await child.ended.wait()
        if child.pid in self._expected:
            return
        assert child.status is not None
        self.died[child.name] = child.status
        log = self.directory / "nodes" / child.name / "log.txt"
        self._tell("died", name=child.name, status=child.status, log=str(log), words=_last_words(log))

    # -- events -------------------------------------------------------------------------

    def _take(self, event: Event) -> None:
        told = {"name": event.name, "kind": event.kind, "fields": event.fields}
        self._record.write(json.dumps({**told, "at_s": round(event.at_s, 3), "life": event.life}) + "\n")
        self.facts.take(event)
        self.show(event)
        if event.kind == "decided":
            self._last_block_s = max(self._last_block_s, event.at_s)
        if event.kind == "step":
            self._kill_on(event)
        self._changed.set()
        self._changed = trio.Event()

    def _tell(self, kind: str, **fields: Any) -> None:
        """The launcher's own events."""
        self._take(Event("", kind, fields, self.now_s))

    def _say(self, line: str) -> None:
        self._tell("said", line=line)

    async def _until(self, predicate: Callable[[], bool]) -> None:
        while not predicate():
            await self._changed.wait()

    # -- kills ----------------------------------------------------------------------------

    def _kill_on(self, event: Event) -> None:
        """kill -9, the moment that the member whose turn it is says that it has reached the step."""
        for kill in self._kills_left:
            turn = f"{kill.group}m{kill.height % self.scenario.network.members}"
            here = (event.name, event.fields["height"], event.fields["step"]) == (
                turn,
                kill.height,
                kill.step,
            )
            if here and event.fields["round"] == 0 and event.fields["votes"] >= kill.votes:
                self._kills_left.remove(kill)
                child = self._children[turn]
                self._expected.add(child.pid)
                self._zygote.kill(child, signal.SIGKILL)
                self.killed.append(Killed(turn, kill.group, kill.height))
                self._tell("killed", name=turn, group=kill.group, height=kill.height, step=kill.step)
                if kill.restart_after_s:
                    self._restarts += 1
                    self._nursery.start_soon(self._restart, child, kill.restart_after_s)
                else:
                    self._gone.add(turn)
                return

    async def _restart(self, child: Child, after_s: float) -> None:
        await child.ended.wait()
        await trio.sleep(after_s)
        self.facts.finished.discard(child.name)
        await self._start(next(seat for seat in self._plan.ground.seats if seat.name == child.name))
        self._restarts -= 1

    # -- the end ---------------------------------------------------------------------------

    async def _until_over(self) -> None:
        """Wait for the last round, then for what follows from it; not for ever."""
        limits = self.scenario.limits
        with trio.move_on_after(limits.run_s - self.now_s) as all_time:
            await self._first(self._until_finished, self._until_hopeless)
            with trio.move_on_after(limits.settle_s):
                await self._first(partial(self._until, self._settled), self._until_hopeless)
            await trio.sleep(AFTERGLOW_S)
        if all_time.cancelled_caught:
            self._say(f"time is up: {limits.run_s:.0f} s have passed")

    async def _first(self, *waits: Callable[[], Any]) -> None:
        """Whichever of these is over first."""
        async with trio.open_nursery() as nursery:

            async def wait(one: Callable[[], Any]) -> None:
                await one()
                nursery.cancel_scope.cancel()

            for one in waits:
                nursery.start_soon(wait, one)

    async def _until_finished(self) -> None:
        members = set(self.scenario.member_names)
        await self._until(lambda: self.facts.finished >= members - self._gone and not self._restarts)

    async def _until_hopeless(self) -> None:
        """A node ended by itself, or nothing has been decided for long: the claim cannot hold any more."""
        while not self.died:
            since_s = self.now_s - max(self._last_block_s, self.started_s or 0.0)
            if since_s > STALLED_S:
                self._say(f"nothing was decided for {since_s:.0f} s")
                return
            with trio.move_on_after(STALLED_S - since_s + 0.1):
                await self._until(lambda: bool(self.died))

    def _settled(self) -> bool:
        """Nothing more is to come: every block counted, case closed, culprit slashed, epoch anchored."""
        last = self.scenario.network.rounds - 1
        groups = [f"g{g}" for g in range(self.scenario.network.groups)]
        counted = all(self.facts.counted.get(group, -1) >= last for group in groups)
        due = set(self.scenario.culprits) if self._stakes else set()
        told = not self._stakes or self.facts.ended_epochs() <= self.facts.anchored
        return counted and told and not self.facts.open_cases() and due <= set(self.facts.slashed)

    async def _judge(self) -> Result:
        """Ask the chain while it is there, end the network unless it stays, and read what it has left."""
        outcome = Outcome(self.facts, killed=self.killed, died=self.died)
        if self._stakes is not None:
            await _aside(ask_the_chain, outcome, self._plan, self._stakes)
        if not self.options.stay:
            await self._end_everybody()
            outcome.unclean = self.unclean
        await _aside(read_the_files, outcome, self._plan)
        broken = judge(self.scenario, outcome)
        return Result(self.scenario, self.directory, outcome, broken, self.started_s, self.memory)

    async def _end_everybody(self) -> None:
        """SIGTERM, and SIGKILL for whom that does not move."""
        alive = [child for child in self._children.values() if child.alive]
        self._expected.update(child.pid for child in alive)
        for number in (signal.SIGTERM, signal.SIGKILL):
            for child in alive:
                self._zygote.kill(child, number)
            with trio.move_on_after(GRACE_S):
                for child in alive:
                    await child.ended.wait()
        self.unclean = {child.name: child.status for child in alive if child.status}

    # -- around ------------------------------------------------------------------------------

    async def _sample(self) -> None:
        while True:
            self.memory.sample()
            await trio.sleep(SAMPLE_S)

    async def _draw(self) -> None:
        while True:
            self.draw(self.now_s)
            await trio.sleep(DRAW_S)


def _last_words(log: Path) -> str:
    """The last line of a log: what a node said before it ended."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


async def _aside(work: Callable[..., T], *args: Any) -> T:
    """Disk, chain and numpy work in a thread: the processes' events are taken meanwhile."""
    return await trio.to_thread.run_sync(partial(work, *args))
