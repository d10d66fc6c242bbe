"""What the tests of files share."""

from __future__ import annotations

import os

import pytest


@pytest.fixture
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """No fsync: for tests that try hundreds of spoilt files and look at what is read from them."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)
