"""A mutant is the same source with a small change, loaded beside the real one.

The types stay shared, so a mutant's messages are everybody's messages. Nothing on disk is touched.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import consensus

# In the order of their imports: all are loaded again, so that each uses the changed one.
MODULES = ("signing", "votes", "evidence", "chain", "justification", "height", "answers", "replica")

# (module, what it says, what it says now)
Change = tuple[str, str, str]


def load(changes: Sequence[Change]) -> dict[str, ModuleType]:
    """The modules of the core, with each change made where its text is found, exactly once."""
    sources = {name: _path(name).read_text(encoding="utf-8") for name in MODULES}
    for module, old, new in changes:
        if sources[module].count(old) != 1:
            raise LookupError(f"{module}.py holds this {sources[module].count(old)} times: {old!r}")
        sources[module] = sources[module].replace(old, new)
    changed = {module for module, _, _ in changes}
    kept = {name: importlib.import_module(f"consensus.{name}") for name in MODULES}
    try:
        for name in MODULES:
            del sys.modules[f"consensus.{name}"]
        return {name: _load(name, sources[name] if name in changed else None) for name in MODULES}
    finally:
        for name, module in kept.items():
            sys.modules[f"consensus.{name}"] = module
            setattr(consensus, name, module)


@contextmanager
def using(mutant: dict[str, ModuleType], *users: ModuleType) -> Iterator[None]:
    """Let these test modules use the mutant's functions and classes wherever they use the core's."""
    kept: list[tuple[ModuleType, str, Any]] = []
    for user in users:
        for name, value in list(vars(user).items()):
            home = str(getattr(value, "__module__", "")).removeprefix("consensus.")
            if home in mutant and hasattr(mutant[home], name):
                kept.append((user, name, value))
                setattr(user, name, getattr(mutant[home], name))
    try:
        yield
    finally:
        for user, name, value in kept:
            setattr(user, name, value)


def _path(name: str) -> Path:
    return Path(str(consensus.__file__)).parent / f"{name}.py"


def _load(name: str, source: str | None) -> ModuleType:
    full = f"consensus.{name}"
    if source is None:
        return importlib.import_module(full)
    module = ModuleType(full)
    module.__file__, module.__package__ = str(_path(name)), "consensus"
    sys.modules[full] = module
    exec(compile(source, str(_path(name)), "exec"), module.__dict__)
    setattr(consensus, name, module)
    return module
