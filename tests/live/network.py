"""A network of real processes that faults befall: one group of N members and a council of one seat.

Starts, signals and watches them, and waits for conditions; never for a time that a busy machine may not
keep. Built from the testnet's plan and zygote. Knows no fault; whether what was left is sound is in `judge`.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import trio

from testnet import plan
from testnet.launch import IMPORTS
from testnet.zygote import GRACE_S, Child, Zygote, open_zygote
from tests.live.line import Line
from tests.live.lines import Lines
from tests.live.proxies import Proxies
from tests.live.shape import GROUP, SEAT, drawn, scenario_for
from tests.live.switch import Switch

# How long a condition is waited for. Nothing is measured by it: it is long for a machine that does ten
# other things, and only a network that is stuck needs all of it.
PATIENCE_S = 150.0
# A member more, and all wait longer: everybody shares the same processors.
PATIENCE_S_A_MEMBER = 15.0


class NotHeld(Exception):
    """Something did not happen, or what must not happen did: a finding, in a sentence."""


@dataclass
class Node:
    """One member or seat. wanted: whether it is supposed to run. What it told: of all its lives."""

    seat: plan.Seat
    life: int = -1
    child: Child | None = None
    wanted: bool = False
    stopped: bool = False
    started_life: int = -1
    height: int = -1  # The highest that it said it had decided.
    commit: int = -1  # The highest for which it said that its COMMIT went out.
    options: dict[str, Any] = field(default_factory=dict)
    words: list[str] = field(default_factory=list)  # What it said when it gave up.
    received: dict[str, int] = field(default_factory=dict)  # Bytes, by protocol, in its present life.
    counted: dict[str, int] = field(default_factory=dict)  # Faults of others by reason, and bans by whom.
    process: dict[str, int] = field(default_factory=dict)  # What its process held when it last said so.


@dataclass
class Network:
    """The processes of one run."""

    directory: Path
    members: int
    plan: plan.Plan
    cable: Proxies | Switch | Lines
    zygote: Zygote
    nursery: trio.Nursery
    nodes: dict[str, Node]
    decided: dict[tuple[str, int], set[str]] = field(default_factory=dict)
    rounds_changed: int = 0
    order: tuple[int, list[str]] = (
        -1,
        [],
    )  # The newest epoch of the group, and whose turn comes after whose.
    turn: tuple[int, int] = (0, 0)  # The newest (height, round) that somebody told of.
    steps: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))  # Heights, by step.
    height_s: float = 1.0  # How long the last height took.
    _height_at_s: float = 0.0
    _changed: trio.Event = field(default_factory=trio.Event)
    _begun_s: float = field(default_factory=time.monotonic)

    # -- who ----------------------------------------------------------------------

    @property
    def names(self) -> tuple[str, ...]:
        """The members, in the order of their turns."""
        return tuple(name for name in self.nodes if name != SEAT)

    @property
    def faulty_max(self) -> int:
        """f."""
        return (self.members - 1) // 3

    @property
    def height(self) -> int:
        """The highest height of the group that anybody has decided."""
        return max((height for group, height in self.decided if group == GROUP), default=-1)

    def leader(self) -> str:
        """Whose turn it is, as far as one hears."""
        height, round_ = self.turn
        return self.order[1][(height + round_) % self.members]

    @property
    def epoch(self) -> int:
        """The newest epoch that the group has begun."""
        return self.order[0]

    @property
    def patience_s(self) -> float:
        """How long a condition is waited for."""
        return PATIENCE_S + PATIENCE_S_A_MEMBER * self.members

    # -- processes ---------------------------------------------------------------------

    async def start(self, *names: str, **options: Any) -> None:
        """Start these; options stay with a node for its later lives (see `tests.live.member`)."""
        for name in names:
            node = self.nodes[name]
            if node.child is not None:
                await node.child.ended.wait()
            node.options |= options
            node.life += 1
            node.wanted, node.stopped, node.words = True, False, []
            node.child = await self.zygote.fork(name, "tests.live.member:main", self.spec_of(node))
            self.nursery.start_soon(self._follow, node, node.child, node.life)
        await self.until(
            lambda: all(self.nodes[name].started_life == self.nodes[name].life for name in names),
            f"{', '.join(names)} started",
        )

    def spec_of(self, node: Node) -> dict[str, Any]:
        """What `member.main` is told."""
        name = node.seat.name
        return {
            "name": name,
            "dir": str(node.seat.folder.path),
            "log": str(self.directory / "logs" / f"{name}.txt"),
            "sent": str(self.directory / "sent" / f"{name}.jsonl"),
            "clock": str(self.clock_file(name)),
            "space": self.cable.space(name),
            "calls": {
                self.nodes[called].seat.entry.member_id.hex(): address
                for called, address in self.cable.calls(name).items()
            },
            "life": node.life,
            "explorer": None,
            "rpc": None,
            "account_key": None,
            "listen": self.cable.listens(name),
            "new_keys": node.life == 0,
            "log_level": "info",
            **node.options,
        }

    def clock_file(self, name: str) -> Path:
        """How many milliseconds this node's clock is wrong; a SIGUSR1 makes it look."""
        return self.directory / "clocks" / f"{name}.txt"

    def signal(self, number: signal.Signals, *names: str) -> None:
        """Send a signal; who is killed or told to end is no longer expected to run."""
        for name in names:
            node = self.nodes[name]
            assert node.child is not None
            if number in (signal.SIGKILL, signal.SIGTERM):
                node.wanted = False
            self.zygote.kill(node.child, number)
            if number is signal.SIGSTOP:
                node.stopped = True
            elif number is signal.SIGCONT:
                node.stopped = False

    def signal_family(self, number: signal.Signals, name: str) -> None:
        """To a member and to its training process, as a machine that sleeps stops them both."""
        child = self.nodes[name].child
        assert child is not None
        for process in Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text("ascii").split():
            os.kill(int(process), number)
        self.signal(number, name)

    async def kill(self, *names: str) -> None:
        """kill -9, all of them before anybody is waited for."""
        self.signal(signal.SIGKILL, *names)
        for name in names:
            await self.ended(name)

    async def ended(self, name: str) -> None:
        """Wait until this process is gone."""
        child = self.nodes[name].child
        assert child is not None
        await child.ended.wait()

    # -- conditions -----------------------------------------------------------------------

    async def until(
        self,
        holds: Callable[[], bool],
        what: str,
        *,
        within_s: float | None = None,
        may_end: Iterable[str] = (),
    ) -> None:
        """Wait until this holds. Raises NotHeld when it does not in time, or when a node ends by itself."""
        excused = set(may_end)
        with trio.move_on_after(within_s or self.patience_s):
            while not holds():
                self._check_alive(excused)
                changed = self._changed
                with trio.move_on_after(0.5):
                    await changed.wait()
            return
        raise NotHeld(f"it did not come to this: {what} ({self.state()})")

    def _check_alive(self, excused: set[str]) -> None:
        for name, node in self.nodes.items():
            if node.wanted and name not in excused and node.child is not None and not node.child.alive:
                words = "; ".join(node.words) or _last_words(self.directory / "logs" / f"{name}.txt")
                raise NotHeld(f"{name} ended by itself with status {node.child.status}: {words}")

    async def progress(
        self, by: int, *, of: Sequence[str] | None = None, may_end: Iterable[str] = ()
    ) -> None:
        """Wait until so many further heights are decided by each of these (default: all members)."""
        names = self.names if of is None else of
        wanted = self.height + by
        await self.until(
            lambda: all(self.nodes[name].height >= wanted for name in names),
            f"{', '.join(names)} decide height {wanted}",
            may_end=may_end,
        )

    async def everybody_votes(
        self, above: int, *, of: Sequence[str] | None = None, within_s: float | None = None
    ) -> None:
        """Wait until each of these (default: all members) has sent a COMMIT of a height above this one."""
        names = self.names if of is None else of
        await self.until(
            lambda: all(self.nodes[name].commit > above for name in names),
            f"{', '.join(names)} vote above height {above}",
            within_s=within_s,
        )

    async def stands_still(self, for_s: float) -> None:
        """Nothing is decided for so long. Raises NotHeld when something is."""
        before = self.height
        await trio.sleep(for_s)
        if self.height > before:
            raise NotHeld(f"height {self.height} was decided by less than a quorum")

    def state(self) -> str:
        """Everybody's heights, for a finding."""
        told = [
            f"{name} {node.height}/{node.commit}"
            + ("" if node.wanted else " down")
            + (" stopped" if node.stopped else "")
            for name, node in self.nodes.items()
        ]
        return f"turn {self.turn}, decided/voted: {', '.join(told)}"

    # -- events ------------------------------------------------------------------------------

    async def _follow(self, node: Node, child: Child, life: int) -> None:
        buffer = bytearray()
        try:
            while data := await child.events.receive_some():
                buffer += data
                *lines, buffer = buffer.split(b"\n")
                for line in lines:
                    told = json.loads(line)
                    self._take(node, life, told["kind"], told["fields"], told["at"])
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        self._beat()

    def _take(self, node: Node, life: int, kind: str, fields: dict[str, Any], at_s: float) -> None:
        match kind:
            case "started":
                node.started_life = life
            case "decided":
                if fields["group"] == GROUP and fields["height"] > self.height:
                    self.height_s, self._height_at_s = at_s - (self._height_at_s or at_s), at_s
                self.decided.setdefault((fields["group"], fields["height"]), set()).add(fields["block_id"])
                if fields["group"] == node.seat.group:
                    node.height = max(node.height, fields["height"])
                if fields["group"] == GROUP and fields["round"]:
                    self.rounds_changed = max(self.rounds_changed, fields["round"])
            case "step" if fields["group"] == GROUP:
                self.steps[fields["step"]].add(fields["height"])
                self.turn = max(self.turn, (fields["height"], fields["round"]))
                if fields["step"] == "commit":
                    node.commit = max(node.commit, fields["height"])
            case "epoch" if fields["group"] == GROUP:
                self.order = max(self.order, (fields["epoch"], fields["members"]))
            case "said":
                node.words.append(fields["line"])
            case "wire":
                node.received = fields["received"]
                node.counted = fields["counted"]
                return
            case "process":
                node.process = fields
            case _:
                return
        self.record(node.seat.name, kind, at_s=at_s, life=life, **fields)
        self._beat()

    @property
    def passed_s(self) -> float:
        """Since the network began; events are written down by it."""
        return time.monotonic() - self._begun_s

    def record(self, by: str, kind: str, *, at_s: float | None = None, **fields: Any) -> None:
        """Write an event down: of a node, or of what was done to it."""
        passed_s = round(at_s - self._begun_s if at_s else self.passed_s, 3)
        with (self.directory / "events.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({**fields, "at_s": passed_s, "by": by, "kind": kind}) + "\n")

    def _beat(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    # -- the end ---------------------------------------------------------------------------------

    async def end(self) -> list[str]:
        """SIGTERM for everybody; a sentence for each that does not end well."""
        alive = [node for node in self.nodes.values() if node.child is not None and node.child.alive]
        for node in alive:
            self.signal(signal.SIGCONT, node.seat.name)
            self.signal(signal.SIGTERM, node.seat.name)
        with trio.move_on_after(GRACE_S * 6):
            for node in alive:
                await self.ended(node.seat.name)
        unclean: list[str] = []
        for node in alive:
            assert node.child is not None
            if node.child.alive:
                unclean.append(f"{node.seat.name} did not end within {GRACE_S * 6:.0f} s of SIGTERM")
                self.zygote.kill(node.child, signal.SIGKILL)
                await node.child.ended.wait()
            elif node.child.status:
                unclean.append(f"{node.seat.name} ended with status {node.child.status}")
        return unclean


@asynccontextmanager
async def open_network(
    directory: Path,
    members: int,
    seed: int,
    *,
    namespaces: bool,
    line: Line | None = None,
    model: str = "logistic",
    groups: int = 1,
) -> AsyncIterator[Network]:
    """The network with everybody up; in the end nobody is left. Of several groups the first is looked at.

    namespaces: or relays on loopback. line: how far the namespaces are from each other; None: on one bridge.
    """
    scenario = scenario_for(members, seed, model, groups)
    for each in ("nodes", "logs", "sent", "clocks"):
        (directory / each).mkdir(parents=True, exist_ok=True)
    names = [*scenario.member_names, *scenario.seat_names]
    cable = Lines(names, line) if line else Switch(names) if namespaces else Proxies(names)
    try:
        async with open_zygote((*IMPORTS, "tests.live.member"), directory / "zygote.txt") as zygote:
            made = await trio.to_thread.run_sync(partial(drawn, scenario, directory, cable.address))
            nodes = {seat.name: Node(seat) for seat in made.ground.seats}
            async with trio.open_nursery() as nursery:
                await cable.open(nursery)
                network = Network(directory, members, made, cable, zygote, nursery, nodes)
                await network.start(*nodes)
                yield network
                nursery.cancel_scope.cancel()
    finally:
        cable.close()


def _last_words(log: Path) -> str:
    """The last line of a node's log."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    except OSError:
        return ""
    return lines[-1].strip() if lines else ""
