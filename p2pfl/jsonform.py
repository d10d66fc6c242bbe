"""Records as JSON, for people, files and pages: bytes are 0x hex, dataclasses are objects.

The canonical bytes are CBOR (`p2pfl.codec`); JSON is a view, and for the genesis also the file's form.
"""

from __future__ import annotations

import dataclasses
import json
import re
import types
import typing
from typing import Any, get_args, get_origin, get_type_hints

# The deepest of our own files, a proof with a whole block in it, nests less than twenty times.
DEPTH_MAX = 100
# A string that does not end is taken to the end: linear in the text, whatever it is.
_STRING = re.compile(r'"(?:[^"\\]++|\\.?)*+(?:"|\Z)', re.DOTALL)
_BRACKET = re.compile(r"[][{}]")


def to_json(value: Any) -> Any:
    """A JSON-ready value of a frozen dataclass, tuple, bytes or plain value."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, (tuple, list)):
        return [to_json(item) for item in typing.cast(list[Any], value)]
    if isinstance(value, (bytes, bytearray)):
        return "0x" + bytes(value).hex()
    if isinstance(value, dict):
        return {str(key): to_json(item) for key, item in typing.cast(dict[Any, Any], value).items()}
    return value


def loads(text: str | bytes) -> Any:
    """What a JSON text says. Raises ValueError, also for one that nests deeper than DEPTH_MAX.

    The depth is looked at before: a library that raises Python's recursion limit (py-evm does) would let the
    parser run through the end of the stack, and the process would be gone.
    """
    if not isinstance(text, str):
        text = text.decode(json.detect_encoding(text))
    depth = 0
    for bracket in _BRACKET.findall(_STRING.sub("", text)):
        depth += 1 if bracket in "[{" else -1
        if depth > DEPTH_MAX:
            raise ValueError(f"it nests deeper than {DEPTH_MAX} times")
    return json.loads(text)


def from_json(raw: Any, kind: Any, path: str = "$") -> Any:
    """The value of type `kind` that `raw` describes. Raises ValueError with the path of what is wrong."""
    while hasattr(kind, "__supertype__"):
        kind = kind.__supertype__
    if get_origin(kind) in (typing.Union, types.UnionType):
        if raw is None:
            return None
        return from_json(raw, next(k for k in get_args(kind) if k is not type(None)), path)
    if dataclasses.is_dataclass(kind):
        return _object(raw, typing.cast(type, kind), path)
    if get_origin(kind) is tuple:
        if not isinstance(raw, list):
            raise ValueError(f"{path}: a list was expected")
        items = typing.cast(list[Any], raw)
        arguments = get_args(kind)
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return tuple(from_json(item, arguments[0], f"{path}[{i}]") for i, item in enumerate(items))
        if len(items) != len(arguments):
            raise ValueError(f"{path}: {len(arguments)} items were expected, not {len(items)}")
        return tuple(
            from_json(x, k, f"{path}[{i}]") for i, (x, k) in enumerate(zip(items, arguments, strict=True))
        )
    if kind is bytes:
        if not isinstance(raw, str) or not raw.startswith("0x"):
            raise ValueError(f"{path}: hex that begins with 0x was expected")
        return bytes.fromhex(raw[2:])
    if type(raw) is not kind:
        raise ValueError(f"{path}: {kind.__name__} was expected, not {type(raw).__name__}")
    return raw


def _object(raw: Any, kind: type, path: str) -> Any:
    if not isinstance(raw, dict):
        raise ValueError(f"{path}: an object was expected")
    table = typing.cast(dict[str, Any], raw)
    hints = get_type_hints(kind)
    names = [field.name for field in dataclasses.fields(kind)]
    if set(table) != set(names):
        missing, extra = sorted(set(names) - set(table)), sorted(set(table) - set(names))
        raise ValueError(f"{path}: missing {missing or 'nothing'}, unknown {extra or 'nothing'}")
    return kind(*(from_json(table[name], hints[name], f"{path}.{name}") for name in names))
