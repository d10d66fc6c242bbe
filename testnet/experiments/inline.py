"""Work of many nodes in one process under a virtual clock: in the event loop, and once for all who need it.

A virtual clock jumps whenever every task waits, so nothing may run anywhere else: what a node does in a
thread or in its training process is done here and now. And as all replicas derive the same body from the
same bytes, that is done once: the key of what is remembered holds everything that the result depends on.
"""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache, partial
from hashlib import sha256
from typing import Any

import numpy as np
import trio
from coincurve import PublicKey
from trio._core import _run as trio_run

from consensus import signing
from consensus.types import ZERO_MEMBER
from p2pfl.genesis import Genesis
from p2pfl.learn.task import task
from p2pfl.params import apply_update
from p2pfl.rules.council import check_council_body, compare, derive_council, suspicions
from p2pfl.rules.pool import Pool
from p2pfl.rules.state import CouncilState
from p2pfl.rules.validate import check_group_body, derive_group_body

# What is remembered of each kind of work: a round of fifty groups.
REMEMBERED_MAX = 256
# Pure functions that all replicas call with the same arguments, and whose results nobody changes.
PURE: frozenset[Callable[..., Any]] = frozenset(
    {
        derive_group_body,
        check_group_body,
        compare,
        suspicions,
        derive_council,
        check_council_body,
        apply_update,
    }
)

# What one look tells apart from everything else.
PLAIN = frozenset({int, bool, float, str, type(None)})
# Signatures whose signer is remembered: a height's votes are met again in its certificate, by everybody.
RECOVERED_MAX = 1 << 15


class Memory:
    """Results of pure work, by function and content. hits, misses: how often it was of use, for profiles."""

    def __init__(self, most: int = REMEMBERED_MAX) -> None:
        self._kept: OrderedDict[tuple[Any, bytes], Any] = OrderedDict()
        self._most = most
        self.hits = self.misses = 0

    def call(self, work: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """What `work` returns. An exception is not remembered."""
        key = work, fingerprint((args, options))
        if key in self._kept:
            self._kept.move_to_end(key)
            self.hits += 1
            return self._kept[key]
        self.misses += 1
        found = self._kept[key] = work(*args, **options)
        if len(self._kept) > self._most:
            self._kept.popitem(last=False)
        return found


def fingerprint(content: Any) -> bytes:
    """SHA-256 over the whole content: data classes, mappings, sequences, arrays, bytes and numbers.

    A genesis stands for itself by its network id, a council's state by the id of the block that made it, a
    pool of honest rounds by its digest.
    """
    digest = sha256()
    _feed(digest.update, content)
    return digest.digest()


def _feed(put: Callable[[Any], None], content: Any) -> None:
    kind = type(content)
    if kind is bytes or isinstance(content, bytes):
        put(b"b%d:" % len(content))
        put(content)
    elif kind in PLAIN:
        put(repr(content).encode() + b";")
    elif isinstance(content, np.ndarray):
        put(f"a{content.dtype.str}{content.shape}".encode())
        put(np.ascontiguousarray(content).data)
    elif isinstance(content, Genesis):
        put(b"genesis")
        put(content.network_id)
    elif isinstance(content, CouncilState):
        put(b"state")
        put(content.network.network_id + content.block_id)
    elif isinstance(content, Pool):
        put(b"pool")
        put(content.digest)
    elif isinstance(content, Mapping):
        put(b"{%d" % len(content))
        for key, value in content.items():
            _feed(put, key)
            _feed(put, value)
    elif isinstance(content, (tuple, list)):
        if set(map(type, content)) <= PLAIN:
            put(repr(tuple(content)).encode())
            return
        put(b"(%d" % len(content))
        for each in content:
            _feed(put, each)
    elif isinstance(content, (frozenset, set)):
        _feed(put, sorted(content))
    elif dataclasses.is_dataclass(content):
        put(kind.__qualname__.encode())
        for name in _fields(kind):
            _feed(put, getattr(content, name))
    else:
        raise TypeError(f"a {kind.__name__} has no fingerprint: what depends on it must not be remembered")


_FIELDS: dict[type, tuple[str, ...]] = {}


def _fields(kind: Any) -> tuple[str, ...]:
    if kind not in _FIELDS:
        _FIELDS[kind] = tuple(each.name for each in dataclasses.fields(kind))
    return _FIELDS[kind]


class InlineWorker:
    """Training without a process (`learn.worker.Worker`): in the event loop, which has nothing else to do.

    What every seat trains, measures or repeats alike is done once.
    """

    pid: int | None = None

    def __init__(self, memory: Memory) -> None:
        self._memory = memory

    async def warm(self, *_: Any) -> None:
        """Nothing to start."""

    async def run(self, name: str, *args: Any) -> Any:
        """The result of the task `name`."""
        await trio.lowlevel.checkpoint()
        work = task.find(name)
        if name == "train" and args[0].member != ZERO_MEMBER:
            return work(*args)  # Each member's own.
        return self._memory.call(work, *args)

    def close(self) -> None:
        """Nothing to end."""


@contextmanager
def inline(memory: Memory, seed: int) -> Iterator[None]:
    """Until it ends, threads of this process are none: what is asked of one is done at once.

    Tasks that are ready together run in an order that the seed gives, so that a cell is the same each time.
    For a process that does nothing else. Patched at the one place through which all of `p2pfl` goes.
    """

    async def run_sync(work: Callable[..., Any], *args: Any, **_: Any) -> Any:
        await trio.lowlevel.checkpoint_if_cancelled()
        if isinstance(work, partial) and work.func in PURE and not args:
            return memory.call(work.func, *work.args, **work.keywords)
        return work(*args)

    before = trio.to_thread.run_sync, signing.PublicKey
    # What trio's own tests and Hypothesis use: without it the order is drawn anew each time.
    trio_run._ALLOW_DETERMINISTIC_SCHEDULING = True
    trio_run._r.seed(seed)
    trio.to_thread.run_sync = run_sync  # type: ignore[assignment]
    signing.PublicKey = _Recovered  # type: ignore[assignment,misc]
    try:
        yield
    finally:
        trio.to_thread.run_sync, signing.PublicKey = before  # type: ignore[misc]
        trio_run._ALLOW_DETERMINISTIC_SCHEDULING = False


class _Recovered:
    """The public key under a signature, found once though hundreds of nodes check it."""

    @staticmethod
    @lru_cache(maxsize=RECOVERED_MAX)
    def from_signature_and_message(signature: bytes, digest: bytes, hasher: None = None) -> PublicKey:
        """As coincurve's."""
        return PublicKey.from_signature_and_message(signature, digest, hasher=hasher)
