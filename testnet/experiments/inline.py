"""Work of many nodes in one process under a virtual clock: in the event loop, and once for all who need it.

A virtual clock jumps whenever every task waits, so nothing may run anywhere else: what a node does in a
thread or in its training process is done here and now. And as all replicas derive the same body from the
same bytes, that is done once: the key of what is remembered holds everything that the result depends on.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache, partial
from typing import Any

import trio
from coincurve import PublicKey
from trio._core import _run as trio_run

from consensus import signing
from consensus.types import ZERO_MEMBER, Header
from p2pfl.learn.task import task
from p2pfl.params import apply_update, blob_id, parse_base, parse_update
from p2pfl.records import CouncilBody, body_root, decode_body
from p2pfl.rules.council import check_council_body, compare, derive_council, suspicions
from p2pfl.rules.state import CouncilState
from p2pfl.rules.validate import check_group_body, derive_group_body
from testnet.experiments.fingerprint import fingerprint

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

# Pure functions of bytes and records, called by name all over the node: each result is one object for all.
OF_BYTES = (blob_id, body_root, decode_body, parse_base, parse_update)
PARSED_MAX = 2048
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

    def applied(state: CouncilState, header: Header, body: CouncilBody) -> CouncilState:
        return memory.call(apply, state, header, body)

    apply, threads, keys = CouncilState.apply, trio.to_thread.run_sync, signing.PublicKey
    parsed = Memory(PARSED_MAX)
    once = {work: partial(parsed.call, work) for work in OF_BYTES}
    CouncilState.apply = applied  # type: ignore[method-assign]
    trio.to_thread.run_sync = run_sync  # type: ignore[assignment]
    signing.PublicKey = _Recovered  # type: ignore[assignment,misc]
    _put_in_place(once)
    # What trio's own tests and Hypothesis use: without it the order is drawn anew each time.
    trio_run._ALLOW_DETERMINISTIC_SCHEDULING = True
    trio_run._r.seed(seed)
    try:
        yield
    finally:
        trio_run._ALLOW_DETERMINISTIC_SCHEDULING = False
        _put_in_place({made: work for work, made in once.items()})
        CouncilState.apply = apply  # type: ignore[method-assign]
        trio.to_thread.run_sync, signing.PublicKey = threads, keys  # type: ignore[misc]


def _put_in_place(of: Mapping[Any, Any]) -> None:
    """Wherever the node's modules know one of these functions by name, they know the other from now on."""
    for name, module in list(sys.modules.items()):
        if name.startswith(("p2pfl.", "testnet.")) and name != __name__:
            for known, function in list(vars(module).items()):
                if callable(function) and (other := of.get(function)) is not None:
                    setattr(module, known, other)


class _Recovered:
    """The public key under a signature, found once though hundreds of nodes check it."""

    @staticmethod
    @lru_cache(maxsize=RECOVERED_MAX)
    def from_signature_and_message(signature: bytes, digest: bytes, hasher: None = None) -> PublicKey:
        """As coincurve's."""
        return PublicKey.from_signature_and_message(signature, digest, hasher=hasher)
