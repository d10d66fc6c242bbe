"""Key files: made once, read back the same, refused with a reason when something is wrong with them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from p2pfl.errors import UserError
from p2pfl.keys import (
    create_peer_key,
    create_signing_key,
    create_stake_key,
    load_peer_key,
    load_signing_key,
    load_stake_key,
    read_password,
)

KINDS: list[tuple[Callable[[Path], Any], Callable[[Path], Any]]] = [
    (create_peer_key, load_peer_key),
    (create_signing_key, load_signing_key),
    (
        lambda path: create_stake_key(path, "secret", iterations=1),
        lambda path: load_stake_key(path, "secret"),
    ),
]
each_kind = pytest.mark.parametrize(("create", "load"), KINDS, ids=["peer", "signing", "stake"])


def same(one: Any, two: Any) -> bool:
    return one.member_id == two.member_id if hasattr(one, "member_id") else one == two


@each_kind
def test_a_key_is_read_back_as_it_was_made(tmp_path: Path, create: Any, load: Any) -> None:
    path = tmp_path / "key"
    made = create(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert same(made, load(path))


@each_kind
def test_a_key_file_is_never_overwritten(tmp_path: Path, create: Any, load: Any) -> None:
    path = tmp_path / "key"
    made = create(path)
    with pytest.raises(UserError, match="exists already"):
        create(path)
    assert same(made, load(path))


@each_kind
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660])
def test_a_key_that_others_can_read_is_refused(tmp_path: Path, create: Any, load: Any, mode: int) -> None:
    path = tmp_path / "key"
    create(path)
    path.chmod(mode)
    with pytest.raises(UserError, match="open to others") as caught:
        load(path)
    assert caught.value.fix == f"chmod 600 {path}"


@each_kind
def test_a_missing_key_says_so(tmp_path: Path, create: Any, load: Any) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        load(tmp_path / "none")
    with pytest.raises(UserError, match="cannot be written"):
        create(tmp_path / "no folder" / "key")


@each_kind
def test_a_truncated_key_is_damaged_wherever_it_ends(tmp_path: Path, create: Any, load: Any) -> None:
    path = tmp_path / "key"
    create(path)
    whole = path.read_bytes()
    for end in range(0, len(whole) - 2, 3):  # Without its last brace it is no JSON any more.
        path.write_bytes(whole[:end])
        with pytest.raises(UserError):
            load(path)


@pytest.mark.parametrize(
    ("create", "load", "field"),
    [(create_peer_key, load_peer_key, "seed"), (create_signing_key, load_signing_key, "secret")],
)
def test_one_changed_digit_is_noticed(tmp_path: Path, create: Any, load: Any, field: str) -> None:
    path = tmp_path / "key"
    create(path)
    table = json.loads(path.read_text())
    for place in range(2, 66, 9):
        digits = list(table[field])
        digits[place] = "1" if digits[place] != "1" else "2"
        path.write_text(json.dumps({**table, field: "".join(digits)}))
        with pytest.raises(UserError, match="damaged"):
            load(path)


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"null", b'"text"', b"{}", b"\xff\xfe", b'{"kind": "p2pfl signing key", "version": 1}',
     b'{"kind": "p2pfl peer key", "version": 2, "seed": "0x00", "check": ""}',
     b'{"kind": "p2pfl signing key", "version": 1, "secret": 5, "member": null}',
     b"9" * 70_000],
)  # fmt: skip
def test_what_is_no_key_file_is_damaged(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "key"
    path.write_bytes(content)
    path.chmod(0o600)
    for load in (load_peer_key, load_signing_key, lambda p: load_stake_key(p, "secret")):
        with pytest.raises(UserError, match="damaged"):
            load(path)


def test_a_key_file_of_one_kind_is_not_read_as_another(tmp_path: Path) -> None:
    create_peer_key(tmp_path / "peer")
    create_signing_key(tmp_path / "signing")
    with pytest.raises(UserError, match="damaged"):
        load_peer_key(tmp_path / "signing")
    with pytest.raises(UserError, match="damaged"):
        load_signing_key(tmp_path / "peer")


def test_the_stake_key_opens_with_its_password_only(tmp_path: Path) -> None:
    secret = os.urandom(32)
    create_stake_key(tmp_path / "stake", "right", secret, iterations=1)
    assert load_stake_key(tmp_path / "stake", "right") == secret
    with pytest.raises(UserError, match="does not open"):
        load_stake_key(tmp_path / "stake", "wrong")


def test_the_password_comes_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_text("with spaces \n")
    assert read_password(path) == "with spaces "
    path.write_text("\n")
    for bad in (path, tmp_path / "none", None):
        with pytest.raises(UserError, match="locked"):
            read_password(bad)


def test_the_peer_key_file_needs_no_libp2p() -> None:
    import subprocess
    import sys

    heavy = "{'libp2p', 'web3', 'eth_keyfile', 'torch'}"
    code = f"import sys, p2pfl.keys; sys.exit(not {heavy}.isdisjoint(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
