"""The one byte form of everything that is stored, sent, hashed or signed.

Deterministic CBOR (RFC 8949 section 4.2) of arrays: a frozen dataclass is the array of its fields, a
union member is `[tag, fields...]`. What does not encode again to the same bytes is refused. Headers and
votes are ABI-encoded where they are hashed (`signing`).
"""

from __future__ import annotations

import dataclasses
import io
import types
import typing
from functools import cache
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import cbor2

T = TypeVar("T")

# Deep enough for every type we have; a hostile nest of arrays ends here.
DEPTH_MAX = 16
INT_MIN, INT_MAX = -(1 << 63), (1 << 64) - 1


class DecodeError(ValueError):
    """Bytes that are not the canonical form of the expected type."""


def encode(value: Any, as_type: Any = None) -> bytes:
    """The canonical bytes of a frozen dataclass, of a union member (pass the union), or of a plain value."""
    return cbor2.dumps(_lower(value, as_type if as_type is not None else type(value)), canonical=True)


def decode(data: bytes, as_type: type[T] | Any, *, size_max: int) -> T:
    """The value of type `as_type` whose canonical form `data` is. Raises DecodeError."""
    if len(data) > size_max:
        raise DecodeError(f"{len(data)} bytes, the limit is {size_max}")
    reader = io.BytesIO(data)
    try:
        raw = cbor2.CBORDecoder(reader).decode()
    except Exception as error:  # cbor2 raises many kinds; all of them mean the bytes are bad.
        raise DecodeError(f"not CBOR: {error}") from error
    if reader.tell() != len(data):
        raise DecodeError("bytes after the end")
    value = _raise(raw, as_type, 0)
    if encode(value, as_type) != data:
        raise DecodeError("not in canonical form")
    return typing.cast(T, value)


@cache
def _fields(kind: type) -> tuple[tuple[str, Any], ...]:
    hints = get_type_hints(kind)
    return tuple((field.name, hints[field.name]) for field in dataclasses.fields(kind))


@cache
def _members(union: Any) -> tuple[Any, ...]:
    return get_args(union)


def _is_union(kind: Any) -> bool:
    return get_origin(kind) in (typing.Union, types.UnionType)


def _base(kind: Any) -> Any:
    """Look through NewType."""
    while hasattr(kind, "__supertype__"):
        kind = kind.__supertype__
    return kind


def _lower(value: Any, kind: Any) -> Any:
    kind = _base(kind)
    if _is_union(kind):
        members = _members(kind)
        if type(None) in members:
            return None if value is None else _lower(value, _optional(kind))
        return [members.index(type(value)), _lower(value, type(value))]
    if dataclasses.is_dataclass(kind):
        return [_lower(getattr(value, name), hint) for name, hint in _fields(typing.cast(type, kind))]
    if get_origin(kind) is tuple:
        arguments = get_args(kind)
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return [_lower(item, arguments[0]) for item in value]
        return [_lower(item, hint) for item, hint in zip(value, arguments, strict=True)]
    return value


def _optional(kind: Any) -> Any:
    rest = tuple(member for member in _members(kind) if member is not type(None))
    return rest[0] if len(rest) == 1 else typing.Union[rest]  # noqa: UP007 - of a tuple known at run time


def _raise(raw: Any, kind: Any, depth: int) -> Any:
    if depth > DEPTH_MAX:
        raise DecodeError("too deep")
    kind = _base(kind)
    if _is_union(kind):
        return _raise_union(raw, kind, depth)
    if dataclasses.is_dataclass(kind):
        return _raise_dataclass(_array(raw), typing.cast(type, kind), depth)
    if get_origin(kind) is tuple:
        return _raise_tuple(_array(raw), get_args(kind), depth)
    if kind is int:
        if type(raw) is not int or not INT_MIN <= raw <= INT_MAX:
            raise DecodeError(f"an integer of 64 bits was expected, not {type(raw).__name__}")
        return raw
    if kind in (bytes, str, bool) and type(raw) is kind:
        return raw
    raise DecodeError(f"{getattr(kind, '__name__', kind)} was expected, not {type(raw).__name__}")


def _raise_union(raw: Any, kind: Any, depth: int) -> Any:
    members = _members(kind)
    if type(None) in members:
        return None if raw is None else _raise(raw, _optional(kind), depth + 1)
    tagged = _array(raw)
    if len(tagged) != 2 or type(tagged[0]) is not int or not 0 <= tagged[0] < len(members):
        raise DecodeError("a tagged value [tag, fields] was expected")
    return _raise(tagged[1], members[tagged[0]], depth + 1)


def _array(raw: Any) -> list[Any]:
    if type(raw) is not list:
        raise DecodeError(f"an array was expected, not {type(raw).__name__}")
    return typing.cast("list[Any]", raw)


def _raise_dataclass(raw: list[Any], kind: type, depth: int) -> Any:
    fields = _fields(kind)
    if len(raw) != len(fields):
        raise DecodeError(f"{kind.__name__} is an array of {len(fields)} fields")
    values = [_raise(item, hint, depth + 1) for item, (_, hint) in zip(raw, fields, strict=True)]
    try:
        return kind(*values)
    except (ValueError, TypeError) as error:
        raise DecodeError(f"{kind.__name__}: {error}") from error


def _raise_tuple(raw: list[Any], arguments: tuple[Any, ...], depth: int) -> Any:
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return tuple(_raise(item, arguments[0], depth + 1) for item in raw)
    if len(raw) != len(arguments):
        raise DecodeError(f"an array of {len(arguments)} was expected")
    return tuple(_raise(item, hint, depth + 1) for item, hint in zip(raw, arguments, strict=True))
