"""What a node tells its operator: log lines that are sentences with fields, and a small table of numbers.

One person can follow one node's whole log: `info` is for outcomes, `debug` for steps. Knows no room of the
node; peers' words are escaped here, so that nobody writes into a terminal from afar.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from p2pfl.errors import UserError

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
# A peer may name things; nobody needs more of a value than this to find it again.
FIELD_CHARS_MAX = 300


@dataclass(frozen=True, slots=True)
class Metric:
    """A number that every node keeps. kind: "counter" only grows, "gauge" is the last value."""

    name: str
    kind: str
    help: str


# The whole table: a name that is not here cannot be counted (docs/operators.md lists the same).
METRICS = (
    Metric("blocks_decided", "counter", "heights of the own chain that this node decided"),
    Metric("height", "gauge", "height of the newest stored block, by chain"),
    Metric("votes_signed", "counter", "guarded signatures that left the signer"),
    Metric("votes_refused", "counter", "signatures that the guard refused"),
    Metric("peer_faults", "counter", "messages refused because a peer broke the protocol, by reason"),
    Metric("stranger_faults", "counter", "what addresses nobody knows did to the node, by reason"),
    Metric("bans", "counter", "members, observers and addresses that were barred for a time, by whom"),
    Metric("observers", "gauge", "strangers that are connected to look"),
    Metric("observer_bytes", "counter", "bytes that observers were answered with"),
    Metric("observer_faults", "counter", "what observers did wrong, by reason"),
    Metric("blobs_stored", "counter", "blobs written to the store"),
    Metric("blobs_dropped", "counter", "blobs deleted because nothing needs them any more"),
    Metric("blobs_bytes", "gauge", "bytes of the stored blobs on the disk"),
)
_KNOWN = {metric.name: metric for metric in METRICS}


class Counters:
    """The numbers of one node, by metric name and labels. Safe to use from threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}

    def count(self, name: str, by: int = 1, **labels: str) -> None:
        """Add to a counter of the table."""
        key = self._key(name, "counter", labels)
        with self._lock:
            self._values[key] = self._values.get(key, 0) + by

    def gauge(self, name: str, value: float, **labels: str) -> None:
        """Set a gauge of the table."""
        key = self._key(name, "gauge", labels)
        with self._lock:
            self._values[key] = value

    def rows(self) -> list[tuple[str, dict[str, str], float]]:
        """(name, labels, value) of everything counted so far, sorted."""
        with self._lock:
            items = sorted(self._values.items())
        return [(name, dict(labels), value) for (name, labels), value in items]

    @staticmethod
    def _key(name: str, kind: str, labels: dict[str, str]) -> tuple[str, tuple[tuple[str, str], ...]]:
        if name not in _KNOWN or _KNOWN[name].kind != kind:
            raise KeyError(f"{name} is no {kind} of the table METRICS")
        return name, tuple(sorted((label, str(value)[:FIELD_CHARS_MAX]) for label, value in labels.items()))


counters = Counters()  # A node is one process; tests that need their own make their own.


class Log:
    """The lines of one room: `log.info("group stands apart", round=17, group="g2")`."""

    def __init__(self, room: str) -> None:
        self._room = room

    def debug(self, sentence: str, **fields: Any) -> None:
        """A step, for somebody who looks for a cause."""
        _SINK.write("debug", self._room, sentence, fields)

    def info(self, sentence: str, **fields: Any) -> None:
        """An outcome."""
        _SINK.write("info", self._room, sentence, fields)

    def warning(self, sentence: str, **fields: Any) -> None:
        """Something that went wrong and was handled."""
        _SINK.write("warning", self._room, sentence, fields)

    def error(self, sentence: str, **fields: Any) -> None:
        """Something that the operator must see to."""
        _SINK.write("error", self._room, sentence, fields)


def logger(room: str) -> Log:
    """The log of a room, named after its folder or file."""
    return Log(room)


def configure(*, level: str = "info", path: Path | None = None, stream: TextIO | None = None) -> None:
    """Where lines go from now on: appended to a file, or to a stream (stderr); and from which level on."""
    if level not in LEVELS:
        raise UserError(
            f"there is no log level {level!r}",
            because="it is not in the table",
            fix=f"one of {', '.join(LEVELS)}",
        )
    if path is not None:
        try:
            opened: TextIO | None = path.open("a", encoding="utf-8", buffering=1)
        except OSError as error:
            raise UserError(
                f"the log file {path} cannot be written",
                because=str(error),
                fix="name another with --log-file",
            ) from error
        _SINK.turn(opened, level, owned=True)
    else:
        _SINK.turn(stream, level, owned=False)


def render(level: str, room: str, sentence: str, fields: dict[str, Any], now_s: float) -> str:
    """One line: time, level, room, the sentence, then `name=value` for each field."""
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now_s)) + f".{int(now_s * 1000) % 1000:03d}Z"
    told = "".join(f" {name}={_value(value)}" for name, value in fields.items())
    return f"{stamp} {level:<7} {room}: {_plain(sentence)}{told}"


def _value(value: Any) -> str:
    if isinstance(value, (bytes, bytearray)):
        return "0x" + bytes(value).hex()[:FIELD_CHARS_MAX]
    if isinstance(value, float):
        return f"{value:.6g}"
    text = str(value)[:FIELD_CHARS_MAX]
    return text if text and text.isprintable() and not set(text) & set(' "=') else json.dumps(text)


def _plain(text: str) -> str:
    return text if text.isprintable() else json.dumps(text)[1:-1]


class _Sink:
    """Where all logs of this process end. None: the stderr of the moment."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stream: TextIO | None = None
        self._owned = False
        self._level = LEVELS["info"]

    def turn(self, stream: TextIO | None, level: str, *, owned: bool) -> None:
        with self._lock:
            if self._owned and self._stream is not None:
                self._stream.close()
            self._stream, self._owned, self._level = stream, owned, LEVELS[level]

    def write(self, level: str, room: str, sentence: str, fields: dict[str, Any]) -> None:
        if LEVELS[level] < self._level:
            return
        line = render(level, room, sentence, fields, time.time())
        with self._lock:
            try:
                print(line, file=self._stream if self._stream is not None else sys.stderr, flush=True)
            except (OSError, ValueError):
                pass  # A full disk or a closed terminal must not stop a node that can still vote.


_SINK = _Sink()

log = Log("node")  # For rooms that need no name of their own.
