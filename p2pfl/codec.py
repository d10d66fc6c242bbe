"""The one byte form of everything that is stored, sent, hashed or signed.

Deterministic CBOR (RFC 8949 section 4.2) of arrays: a frozen dataclass is the array of its fields, a
union member is `[tag, fields...]`. What does not encode again to the same bytes is refused. Headers and
votes are ABI-encoded where they are hashed (`signing`).
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any, NoReturn, TypeVar, get_args, get_origin, get_type_hints

import cbor2

T = TypeVar("T")
# How a value of one type becomes plain CBOR, or comes from it; None: it is itself.
Lower = Callable[[Any], Any]
Raise = Callable[[Any], Any]

INT_MIN, INT_MAX = -(1 << 63), (1 << 64) - 1
# An item of one byte becomes 72 of memory. What is large is so by its byte strings: the largest body of
# sixteen members has a few thousand items, and 131,072 of them take 10 MB and 30 ms.
ITEMS_MAX = 1 << 17
# Below this size they cannot be enough to matter, and are not counted: a vote is decoded in 20 us.
UNCOUNTED_BYTES = 64 * 1024
# The deepest message has 12 arrays in one another.
DEPTH_MAX = 32


class DecodeError(ValueError):
    """Bytes that are not the canonical form of the expected type."""


def encode(value: Any, as_type: Any = None) -> bytes:
    """The canonical bytes of a frozen dataclass, of a union member (pass the union), or of a plain value."""
    lower = _lower(typing.cast(Any, type(value)) if as_type is None else as_type)
    return cbor2.dumps(value if lower is None else lower(value), canonical=True)


def decode(data: bytes, as_type: type[T] | Any, *, size_max: int, items_max: int = ITEMS_MAX) -> T:
    """The value of type `as_type` whose canonical form `data` is. Raises DecodeError.

    items_max: more only where the reader knows of so many beforehand.
    """
    if len(data) > size_max:
        raise DecodeError(f"{len(data)} bytes, the limit is {size_max}")
    try:
        if len(data) > UNCOUNTED_BYTES:
            _count_items(data, items_max)
        # Tags are read by this library before anybody says that one was expected, and some are bombs: a
        # decimal fraction of 200 KB takes ten seconds, of 4 MB an hour.
        raw = cbor2.loads(
            data,
            semantic_decoders=_NO_TAGS,
            tag_hook=_refuse,
            object_hook=_refuse,
            max_depth=DEPTH_MAX,
            allow_indefinite=False,
            strict_hashable_types=True,
        )
    except Exception as error:  # cbor2 raises many kinds; all of them mean the bytes are bad.
        raise DecodeError(f"not CBOR: {error}") from error
    value = _raise(as_type)(raw)
    # Every plain value stands for one typed value, so the plain one tells whether the form is canonical, and
    # whether there were bytes after its end.
    if cbor2.dumps(raw, canonical=True) != data:
        raise DecodeError("not in canonical form")
    return typing.cast(T, value)


def _refuse(*_: Any) -> NoReturn:
    raise DecodeError("a tag or a map")


class _NoTags(Mapping[int, Any]):
    """A decoder for every tag, which refuses it."""

    def __getitem__(self, key: int) -> Any:
        return _refuse

    def __iter__(self) -> Iterator[int]:
        return iter(())

    def __len__(self) -> int:
        return 0


_NO_TAGS = _NoTags()


def _count_items(data: bytes, items_max: int) -> None:
    """Every item has a head; what follows that of a byte string is skipped. Raises DecodeError."""
    place, items, end = 0, 0, len(data)
    while place < end:
        kind, value = data[place] >> 5, data[place] & 31
        place += 1
        if value >= 24:
            size = 1 << (value - 24)
            if size > 8:
                raise DecodeError("an item without a length")
            value = int.from_bytes(data[place : place + size], "big")
            place += size
        if kind in (2, 3):
            place += value
        items += 1
        if items > items_max:
            raise DecodeError(f"more than {items_max} items")


# ---------------------------------------------------------------------------
# A type is read once; what is left for each value is a chain of small functions.


@cache
def _fields(kind: type) -> tuple[tuple[str, Any], ...]:
    hints = get_type_hints(kind)
    return tuple((field.name, hints[field.name]) for field in dataclasses.fields(kind))


def _is_union(kind: Any) -> bool:
    return get_origin(kind) in (typing.Union, types.UnionType)


def _base(kind: Any) -> Any:
    """Look through NewType."""
    while hasattr(kind, "__supertype__"):
        kind = kind.__supertype__
    return kind


def _optional(kind: Any) -> Any:
    """What is left of `X | None`; None for a union without None."""
    members = get_args(kind)
    if type(None) not in members:
        return None
    rest = tuple(member for member in members if member is not type(None))
    return rest[0] if len(rest) == 1 else typing.Union[rest]  # noqa: UP007 - built at run time.


@cache
def _lower(kind: Any) -> Lower | None:
    kind = _base(kind)
    if _is_union(kind):
        return _lower_union(kind)
    if dataclasses.is_dataclass(kind):
        return _lower_each([(name, _lower(hint)) for name, hint in _fields(typing.cast(type, kind))])
    if get_origin(kind) is tuple:
        arguments = get_args(kind)
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            inner = _lower(arguments[0])
            return list if inner is None else lambda value: [inner(item) for item in value]
        inners = [_lower(hint) for hint in arguments]
        return lambda value: [
            item if inner is None else inner(item) for item, inner in zip(value, inners, strict=True)
        ]
    return None


def _lower_union(kind: Any) -> Lower:
    optional = _optional(kind)
    if optional is not None:
        inner = _lower(optional)
        return lambda value: value if value is None or inner is None else inner(value)
    table = {member: (tag, _lower(member)) for tag, member in enumerate(get_args(kind))}

    def lower(value: Any) -> Any:
        tag, inner = table[type(value)]
        return [tag, value if inner is None else inner(value)]

    return lower


def _lower_each(fields: list[tuple[str, Lower | None]]) -> Lower:
    return lambda value: [
        getattr(value, name) if inner is None else inner(getattr(value, name)) for name, inner in fields
    ]


@cache
def _raise(kind: Any) -> Raise:
    kind = _base(kind)
    if _is_union(kind):
        return _raise_union(kind)
    if dataclasses.is_dataclass(kind):
        return _raise_dataclass(typing.cast(type, kind))
    if get_origin(kind) is tuple:
        return _raise_tuple(get_args(kind))
    if kind is int:
        return _raise_int
    if kind not in (bytes, str, bool):
        raise TypeError(f"{kind} has no canonical form")

    def plain(raw: Any) -> Any:
        if type(raw) is not kind:
            raise DecodeError(f"{kind.__name__} was expected, not {type(raw).__name__}")
        return raw

    return plain


def _raise_int(raw: Any) -> int:
    if type(raw) is not int or not INT_MIN <= raw <= INT_MAX:
        raise DecodeError(f"an integer of 64 bits was expected, not {type(raw).__name__}")
    return raw


def _raise_union(kind: Any) -> Raise:
    optional = _optional(kind)
    if optional is not None:
        some = _raise(optional)
        return lambda raw: None if raw is None else some(raw)
    members = [_raise(member) for member in get_args(kind)]

    def tagged(raw: Any) -> Any:
        if type(raw) is list:
            parts = typing.cast(list[Any], raw)
            if len(parts) == 2 and type(parts[0]) is int and 0 <= parts[0] < len(members):
                return members[parts[0]](parts[1])
        raise DecodeError("a tagged value [tag, fields] was expected")

    return tagged


def _raise_dataclass(kind: type) -> Raise:
    inners = [_raise(hint) for _, hint in _fields(kind)]

    def build(raw: Any) -> Any:
        if type(raw) is not list or len(typing.cast(list[Any], raw)) != len(inners):
            raise DecodeError(f"{kind.__name__} is an array of {len(inners)} fields")
        values = [inner(item) for inner, item in zip(inners, typing.cast(list[Any], raw), strict=True)]
        try:
            return kind(*values)
        except (ValueError, TypeError) as error:
            raise DecodeError(f"{kind.__name__}: {error}") from error

    return build


def _raise_tuple(arguments: tuple[Any, ...]) -> Raise:
    many = len(arguments) == 2 and arguments[1] is Ellipsis
    inners = [_raise(hint) for hint in (arguments[:1] if many else arguments)]

    def build(raw: Any) -> tuple[Any, ...]:
        if type(raw) is not list:
            raise DecodeError("an array was expected")
        items = typing.cast(list[Any], raw)
        if many:
            return tuple([inners[0](item) for item in items])
        if len(items) != len(inners):
            raise DecodeError(f"an array of {len(inners)} was expected")
        return tuple([inner(item) for inner, item in zip(inners, items, strict=True)])

    return build
