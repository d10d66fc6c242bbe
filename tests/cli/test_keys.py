"""`p2pfl keys new` makes each kind once, for the owner's eyes only."""

from __future__ import annotations

from pathlib import Path

import pytest

from p2pfl import errors, keys
from p2pfl.cli import main


def test_a_new_signing_key_names_its_member(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "signing.json"
    assert main(["keys", "new", "signing", str(path)]) == errors.EXIT_OK
    assert "0x" + keys.load_signing_key(path).member_id.hex() in capsys.readouterr().out


def test_a_new_peer_key_can_be_read_again(tmp_path: Path) -> None:
    path = tmp_path / "peer.json"
    assert main(["keys", "new", "peer", str(path)]) == errors.EXIT_OK
    assert len(keys.load_peer_key(path)) == 32


def test_a_key_is_never_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "peer.json"
    assert main(["keys", "new", "peer", str(path)]) == errors.EXIT_OK
    before = path.read_bytes()
    assert main(["keys", "new", "peer", str(path)]) == errors.EXIT_USER
    assert path.read_bytes() == before
    assert "exists already" in capsys.readouterr().err


def test_a_stake_key_opens_with_its_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    password, path = tmp_path / "password", tmp_path / "stake.json"
    password.write_text("correct horse\n")
    words = ["keys", "new", "stake", str(path), "--password-file", str(password)]
    cheap = keys.create_stake_key
    monkeypatch.setattr(keys, "create_stake_key", lambda path, password: cheap(path, password, iterations=1))
    assert main(words) == errors.EXIT_OK
    assert len(keys.load_stake_key(path, "correct horse")) == 32


def test_a_stake_key_without_a_password_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["keys", "new", "stake", str(tmp_path / "stake.json")]) == errors.EXIT_USER
    assert "the stake key is locked" in capsys.readouterr().err
