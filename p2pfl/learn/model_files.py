"""Models as files: safetensors for people and other programs, canonical base bytes for a network.

A safetensors file names each tensor as the model's table does, in float32, and says in its metadata which
model it is of. Its bytes may vary between releases of the library; the id of a base is never taken from them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from p2pfl.durable import write_whole
from p2pfl.errors import PeerFault, UserError
from p2pfl.jsonform import loads
from p2pfl.params import MODEL_BYTES_MAX, Base, Float32, Layout, parse_base

# float64 tensors are read too; the header of a file has a line for each tensor.
FILE_BYTES_MAX = 2 * MODEL_BYTES_MAX + (1 << 20)
# The file of an initial base, beside the genesis file.
INITIAL_BASE = "initial.base"
_BLOB_MAGIC = b"MPSBLOB1"


@dataclass(frozen=True, slots=True)
class Named:
    """What a model is of: its name in the table, the shape and classes that it was made for, their names."""

    model: str
    input_shape: tuple[int, ...]
    classes: int
    class_names: tuple[str, ...] = ()


def write_safetensors(path: Path, base: Base, named: Named, **notes: str) -> None:
    """Write the tensors of a base, with their names. notes: further metadata. Raises UserError."""
    from safetensors.numpy import save  # Only those who move models need it.

    tensors = {
        spec.name: np.ascontiguousarray(part)
        for spec, part in zip(base.layout.tensors, base.layout.unflatten(base.values), strict=True)
    }
    shape = json.dumps(list(named.input_shape))
    told = {"model": named.model, "input_shape": shape, "classes": str(named.classes)}
    told |= {"class_names": json.dumps(list(named.class_names))} | notes
    write_whole(path, save(tensors, metadata=told))


def write_base(path: Path, base: Base) -> None:
    """Write the canonical bytes of a base, whose blob id a genesis names. Raises UserError."""
    write_whole(path, base.to_bytes())


def read_named(path: Path) -> Named | None:
    """What the metadata of a safetensors file say that it is of; None where they do not. Raises UserError."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            told: dict[str, str] = file.metadata() or {}
        shape = tuple(int(each) for each in loads(told["input_shape"]))
        names = tuple(str(each) for each in loads(told.get("class_names", "[]")))
        return Named(told["model"], shape, int(told["classes"]), names)
    except SafetensorError:
        return None  # It may be a base; `read_model` says what is wrong with it.
    except (KeyError, ValueError, TypeError, OverflowError):  # The last: JSON has an Infinity.
        return None
    except OSError as error:
        raise _bad(path, error.strerror or str(error)) from error


def read_model(path: Path, layout: Layout) -> Base:
    """The model in a safetensors file or in the bytes of a base, in this layout.

    Every tensor of the layout must be there, under its name, in its shape, finite, and no other. float16,
    float32 and float64 are read. Raises UserError.
    """
    try:
        if path.stat().st_size > FILE_BYTES_MAX:
            raise ValueError(f"it is longer than {FILE_BYTES_MAX} bytes")
        data = path.read_bytes()
        if data.startswith(_BLOB_MAGIC):
            return parse_base(data, layout)
        return Base(layout, _flat(_tensors(data), layout))
    except (OSError, ValueError, PeerFault) as error:
        because = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise _bad(path, because) from error


def _tensors(data: bytes) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        return load(data)
    except (SafetensorError, KeyError, TypeError) as error:  # The last two: a type that numpy has not.
        raise ValueError(f"it is no safetensors file of numbers: {error}") from error


def _flat(tensors: dict[str, Any], layout: Layout) -> Float32:
    names = [spec.name for spec in layout.tensors]
    missing, extra = sorted(set(names) - set(tensors)), sorted(set(tensors) - set(names))
    if missing or extra:
        lacks, has = ", ".join(missing) or "nothing", ", ".join(extra) or "nothing"
        raise ValueError(f"of the model's tensors it lacks {lacks}; unknown there: {has}")
    for spec in layout.tensors:
        found = tensors[spec.name]
        if found.dtype.kind != "f" or found.shape != spec.shape:
            raise ValueError(f"{spec.name} is {found.dtype} {found.shape}, not float {spec.shape}")
    with np.errstate(over="ignore"):  # What overflows is not finite below.
        flat = layout.flatten([tensors[name].astype(np.float32) for name in names])
    if not np.isfinite(flat).all():
        raise ValueError("it holds a number that is not finite")
    return flat


def _bad(path: Path, because: str) -> UserError:
    return UserError(
        f"the model {path} cannot be read",
        because=because,
        fix="name a .safetensors file of this model, or a base that `p2pfl model import` wrote",
    )
