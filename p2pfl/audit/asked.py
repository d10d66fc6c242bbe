"""The table of pages: each is one function with its path above it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from p2pfl.audit.page import Page
from p2pfl.audit.view import View


class NotFound(Exception):
    """There is no such thing; the message says what, for the page that says so."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a page is asked for. parts: of its path. given: the query."""

    view: View
    parts: Mapping[str, str]
    given: Mapping[str, str]

    def number(self, name: str, default: int) -> int:
        """A whole number of the query, or the default when it is none."""
        text = self.given.get(name, "")
        return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else default


PageMaker = Callable[[Asked], Page]
PAGES: dict[str, PageMaker] = {}


def page_at(path: str) -> Callable[[PageMaker], PageMaker]:
    """Add a page to the table. It reads files: it is called in a thread."""

    def add(maker: PageMaker) -> PageMaker:
        if path in PAGES:
            raise ValueError(f"there is a page at {path} already")
        PAGES[path] = maker
        return maker

    return add
