"""Who is barred, on disk, so that a ban does not end with the process.

    bans = {"format": 1, "bans": [{"whom": "member" or "observer", "peer": peer id, "until_ms": unix ms,
                                   "bans": how many so far, "reason": the fault that was one too many}, ...]}

Members and observers, by their peer ids. Addresses are not among them: after a start nobody knows yet where
members live, and others behind an address would suffer. Knows no connection; what bars whom is in `peer`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path

import trio

from p2pfl.durable import write_whole
from p2pfl.errors import UserError
from p2pfl.jsonform import loads
from p2pfl.net.peer import BAN_FORGOTTEN_S, BAN_MAX_S, Standing
from p2pfl.telemetry import logger

log = logger("net")

FORMAT = 1
MEMBER, OBSERVER = "member", "observer"
# As many observers as are remembered while a node runs; a line has some 150 bytes.
BANS_MAX = 1000
BANS_BYTES_MAX = 1024 * 1024
# A peer id has 52 letters; a float counts milliseconds up to here.
TEXT_MAX, NUMBER_MAX = 64, 1 << 53
# Several bans of one moment go into one file.
SAVE_S = 0.5


@dataclass(frozen=True, slots=True)
class _Ban:
    whom: str
    peer: str
    until_ms: int
    bans: int
    reason: str


_FIELDS = tuple(field.name for field in fields(_Ban))


class Bans:
    """The bans of one node. path: where they are kept; None: nowhere."""

    def __init__(
        self, path: Path | None = None, clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000
    ) -> None:
        self._path = path
        self._clock_ms = clock_ms
        self._known: dict[str, _Ban] = {}
        self._news = trio.Event()
        if path is not None:
            self._read(path)

    def standing(self, peer_id: str) -> Standing:
        """How this peer stands after a start: barred for what is left of a ban, the next time for longer."""
        standing = Standing()
        if (ban := self._known.get(peer_id)) is not None:
            # A clock that was set back must not make a ban longer than any is.
            left_s = min(BAN_MAX_S, (ban.until_ms - self._clock_ms()) / 1000)
            standing.banned_until_s = trio.current_time() + left_s
            standing.bans = ban.bans
        return standing

    def remember(self, whom: str, peer_id: str, standing: Standing, reason: str) -> None:
        """It is barred from now on. whom: "member" or "observer"."""
        self._known.pop(peer_id, None)  # The newest comes last.
        until_ms = self._clock_ms() + int(1000 * standing.banned_for_s)
        self._known[peer_id] = _Ban(whom, peer_id, until_ms, standing.bans, reason)
        if len(self._known) > BANS_MAX:
            # Observers make themselves as many ids as they like, and must not push out members.
            strangers = (ban.peer for ban in self._known.values() if ban.whom == OBSERVER)
            del self._known[next(strangers, next(iter(self._known)))]
        self._news.set()

    def barred(self) -> list[str]:
        """Who was barred and is not forgotten."""
        return list(self._known)

    async def run(self) -> None:
        """Until cancelled: write what is new."""
        while self._path is not None:
            await self._news.wait()
            await trio.sleep(SAVE_S)
            self._news = trio.Event()
            for ban in [ban for ban in self._known.values() if self._is_forgotten(ban)]:
                del self._known[ban.peer]
            told = {"format": FORMAT, "bans": [asdict(ban) for ban in self._known.values()]}
            # Not durable: what a crash takes away is one ban.
            write = partial(write_whole, self._path, json.dumps(told, indent=1).encode(), durable=False)
            try:
                await trio.to_thread.run_sync(write)
            except UserError as error:
                log.warning("the bans cannot be written", why=str(error))

    def _is_forgotten(self, ban: _Ban) -> bool:
        """Each six hours without one forgive a ban (`peer.Standing`)."""
        return self._clock_ms() - ban.until_ms >= 1000 * BAN_FORGOTTEN_S * ban.bans

    def _read(self, path: Path) -> None:
        """What cannot be read is forgotten: whoever goes on as before is soon barred again."""
        try:
            if path.stat().st_size > BANS_BYTES_MAX:
                raise ValueError(f"more than {BANS_BYTES_MAX} bytes")
            told = loads(path.read_bytes())
            if told["format"] != FORMAT:
                raise ValueError(f"format {told['format']}")
            for each in told["bans"][:BANS_MAX]:
                ban = _Ban(*(each[name] for name in _FIELDS))
                texts, numbers = (ban.whom, ban.peer, ban.reason), (ban.until_ms, ban.bans)
                if any(type(text) is not str or len(text) > TEXT_MAX for text in texts):
                    raise ValueError("a name that is none")
                if any(type(number) is not int or not 0 < number < NUMBER_MAX for number in numbers):
                    raise ValueError("a number that no clock and no count has")
                if not self._is_forgotten(ban):
                    self._known[ban.peer] = ban
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warning("the bans cannot be read, all are forgotten", path=path, why=str(error))
