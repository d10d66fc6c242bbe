"""A name for everything that a computation depends on: SHA-256 over its whole content, by kind and in order.

What cannot be named so is refused: then nothing is remembered of it.
"""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Any

import numpy as np

from p2pfl.genesis import Genesis
from p2pfl.rules.pool import Pool
from p2pfl.rules.state import CouncilState

# What one look tells apart from everything else.
PLAIN = frozenset({int, bool, float, str, type(None)})
# Records are frozen, and the same one is met again and again: so many are named once.
ROOMS = frozenset({"p2pfl.records", "p2pfl.signed", "p2pfl.params", "consensus.types", "consensus.committee"})
NAMED_MAX = 20_000
_NAMED: OrderedDict[int, tuple[Any, bytes]] = OrderedDict()


def fingerprint(content: Any) -> bytes:
    """SHA-256 over the whole content: data classes, mappings, sequences, arrays, bytes and numbers.

    A genesis is named by its network id, a council's state by the id of the block that made it, a pool by its
    digest: each of these names everything in it.
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
    elif kind is type:
        put(content.__qualname__.encode())
    elif kind.__module__ in ROOMS:
        put(_named(content))
    elif dataclasses.is_dataclass(content):
        _fields_of(put, content)
    else:
        raise TypeError(f"a {kind.__name__} has no fingerprint: what depends on it must not be remembered")


def _named(record: Any) -> bytes:
    """Of a frozen record. It is held, so that no other one gets its place in memory."""
    found = _NAMED.get(id(record))
    if found is None:
        digest = sha256()
        _fields_of(digest.update, record)
        found = _NAMED[id(record)] = record, digest.digest()
        if len(_NAMED) > NAMED_MAX:
            _NAMED.popitem(last=False)
    return found[1]


def _fields_of(put: Callable[[Any], None], content: Any) -> None:
    put(type(content).__qualname__.encode())
    for name in _fields(type(content)):
        _feed(put, getattr(content, name))


_FIELDS: dict[type, tuple[str, ...]] = {}


def _fields(kind: Any) -> tuple[str, ...]:
    if kind not in _FIELDS:
        _FIELDS[kind] = tuple(each.name for each in dataclasses.fields(kind))
    return _FIELDS[kind]
