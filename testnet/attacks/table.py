"""The table of attacks, and how a scenario or a grid puts them on a node.

An attack is one function with `@attack(name)`: it gets the parts of a node between `assemble` and `run`,
and its options, and replaces a part by one that lies. A user's own is named `module:function` and carries the
decorator too. Knows no attack.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any

from p2pfl.errors import UserError
from p2pfl.learn.tables import Table

Wrap = Callable[..., None]
# Functions of (parts, **options) that change the parts in place.
attack: Table[Wrap] = Table("attack")


def options_of(name: str) -> dict[str, Any]:
    """The options of an attack and what each is by default (no default: `inspect.Parameter.empty`)."""
    own = list(inspect.signature(attack.find(name)).parameters.values())[1:]
    return {each.name: each.default for each in own}


def check(name: str, options: dict[str, Any]) -> None:
    """Raise UserError when there is no such attack, or it has no such options."""
    function = attack.find(name)
    try:
        inspect.signature(function).bind(None, **options)
    except TypeError as error:
        known = ", ".join(options_of(name)) or "none"
        raise UserError(
            f"the attack {name!r} cannot be made like this",
            because=str(error),
            fix=f"its options are: {known}",
        ) from error


def put_on(parts: Any, attacks: Iterable[dict[str, Any]]) -> None:
    """Wrap a node in these attacks ({"name": .., "options": {..}}), one after the other. Raises UserError."""
    for each in attacks:
        options = each.get("options", {})
        check(each["name"], options)
        attack.find(each["name"])(parts, **options)
