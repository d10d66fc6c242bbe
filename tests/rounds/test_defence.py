"""An accused that cannot open its round says why, and lives on."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from p2pfl.rounds import defence, replay
from p2pfl.rounds.defence import Defence


async def test_an_opening_larger_than_a_blob_is_told_and_ends_nothing(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    async def aside(work: Any, *arguments: Any) -> Any:
        return work(*arguments)

    async def states(_: Any) -> list[bytes]:
        return [bytes(1000)]

    trainer = SimpleNamespace(x=(), y=())
    accused = Defence(cast(Any, SimpleNamespace(trainer=trainer, aside=aside)), cast(Any, None))
    monkeypatch.setattr(accused, "_states", states)
    monkeypatch.setattr(replay, "BLOB_BYTES_MAX", 999)
    monkeypatch.setattr(replay, "data_leaves", lambda x, y: ())
    assert defence.make_opening is replay.make_opening
    assert await accused._open(cast(Any, SimpleNamespace(height=7))) is None
    assert "the round cannot be opened" in capfd.readouterr().err
