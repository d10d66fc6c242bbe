"""One kind, one table: a data set, a model or a task is a function with a decorator.

Knows nothing of what the functions do. A user's own function is named `module:function`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from p2pfl.errors import UserError

Made = TypeVar("Made", bound=Callable[..., Any])


class Table(Generic[Made]):
    """Functions of one kind by name: `@table("name")` adds one, `table.find("name")` gives it back."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._by_name: dict[str, Made] = {}

    def __call__(self, name: str) -> Callable[[Made], Made]:
        """A decorator that adds the function under `name`. A name taken twice is a ValueError."""

        def add(function: Made) -> Made:
            taken = self._by_name.get(name)
            if taken is not None and address(taken) != address(function):
                raise ValueError(f"the {self.kind} {name!r} is there already: {address(taken)}")
            self._by_name[name] = function
            return function

        return add

    def names(self) -> tuple[str, ...]:
        """The known names, sorted."""
        return tuple(sorted(self._by_name))

    def find(self, name: str) -> Made:
        """The function called `name`, or at the address `module:function`. Raises UserError.

        The function at an address must carry the decorator too: a genesis file comes from somebody
        else, and a name in it must not reach any function that happens to be installed.
        """
        if name in self._by_name:
            return self._by_name[name]
        if ":" in name:
            return self._import(name)
        raise UserError(
            f"there is no {self.kind} {name!r}",
            because=f"the known ones are {', '.join(self.names())}",
            fix=f"name one of them, or your own as module:function, a function with @{self.kind}(...)",
        )

    def _import(self, where: str) -> Made:
        module_name, _, function_name = where.partition(":")
        try:
            found = getattr(importlib.import_module(module_name), function_name)
        except (ImportError, AttributeError, ValueError) as error:
            raise UserError(
                f"cannot load the {self.kind} {where!r}",
                because=str(error),
                fix="check the spelling, and that the module's folder is on PYTHONPATH",
            ) from error
        for function in self._by_name.values():
            if function is found:
                return function
        raise UserError(
            f"{where!r} is not a {self.kind}",
            because=f"the function does not carry the decorator @{self.kind}(...)",
            fix=f"write @{self.kind}({function_name!r}) above it, or name one of {', '.join(self.names())}",
        )


def address(function: Callable[..., Any]) -> str:
    """`module:function`, by which another process finds the same function."""
    return f"{function.__module__}:{function.__qualname__}"
