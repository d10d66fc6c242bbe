"""The three keys of a member, each with its own file, and where they are read from.

    peer key      ed25519 seed, JSON, mode 0600      who is on the other end of a connection (libp2p)
    signing key   secp256k1, JSON, mode 0600         votes and records; its address is the member id
    stake key     secp256k1, keystore V3, encrypted  an EVM account: deposit, withdraw, claim

The signer that uses the signing key is in `guard`. Knows no network and no contract.
"""

from __future__ import annotations

import json
import os
from hashlib import sha256
from pathlib import Path
from typing import Any

from p2pfl.durable import disk_error, fsync_folder
from p2pfl.errors import UserError
from p2pfl.guard import GUARDED, Guard, GuardRecord, Refused, SigningKey
from p2pfl.jsonform import loads

__all__ = [
    "GUARDED",
    "Guard",
    "GuardRecord",
    "Refused",
    "SigningKey",
    "create_peer_key",
    "create_signing_key",
    "create_stake_key",
    "load_peer_key",
    "load_signing_key",
    "load_stake_key",
    "read_password",
]

_VERSION = 1
# A key file is a few hundred bytes; whatever is longer is no key file.
_KEY_FILE_BYTES_MAX = 64 * 1024
# geth's default work for PBKDF2 (about a second); a testnet's throw-away keys ask for 1.
STAKE_KEY_ITERATIONS = 1_000_000


def create_signing_key(path: Path, secret: bytes | None = None) -> SigningKey:
    """Write a new signing key (32 random bytes unless `secret` is given). Refuses to overwrite."""
    key = SigningKey.from_secret(secret if secret is not None else os.urandom(32))
    _create(
        path, "signing key", {"secret": "0x" + key.secret.secret.hex(), "member": "0x" + key.member_id.hex()}
    )
    return key


def load_signing_key(path: Path) -> SigningKey:
    """Read a signing key file. Raises UserError: missing, readable by others, damaged."""
    table = _load(path, "signing key")
    try:
        key = SigningKey.from_secret(_hex(table["secret"], 32))
        whole = table["member"] == "0x" + key.member_id.hex()
    except (KeyError, ValueError, TypeError) as error:
        raise _damaged(path, "signing key", str(error)) from error
    if not whole:
        raise _damaged(path, "signing key", "the secret does not belong to the member that the file names")
    return key


def create_peer_key(path: Path, seed: bytes | None = None) -> bytes:
    """Write a new peer key; returns its 32-byte ed25519 seed. Refuses to overwrite."""
    seed = seed if seed is not None else os.urandom(32)
    if len(seed) != 32:
        raise ValueError("an ed25519 seed has 32 bytes")
    _create(path, "peer key", {"seed": "0x" + seed.hex(), "check": _check(seed)})
    return seed


def load_peer_key(path: Path) -> bytes:
    """The 32-byte ed25519 seed of a peer key file. Raises UserError: missing, readable by others, damaged."""
    table = _load(path, "peer key")
    try:
        seed = _hex(table["seed"], 32)
        whole = table["check"] == _check(seed)
    except (KeyError, ValueError, TypeError) as error:
        raise _damaged(path, "peer key", str(error)) from error
    if not whole:
        raise _damaged(path, "peer key", "the seed does not match its checksum")
    return seed


def create_stake_key(
    path: Path, password: str, secret: bytes | None = None, *, iterations: int = STAKE_KEY_ITERATIONS
) -> bytes:
    """Write a web3 keystore V3; returns the 32-byte secret. About a second at full work: use a thread."""
    from eth_keyfile.keyfile import create_keyfile_json  # Not needed by an auditor, and slow to import.

    secret = secret if secret is not None else os.urandom(32)
    table = create_keyfile_json(secret, password.encode(), kdf="pbkdf2", iterations=iterations)
    _write_new(path, "stake key", json.dumps(table, indent=1).encode() + b"\n")
    return secret


def load_stake_key(path: Path, password: str) -> bytes:
    """The 32-byte secret of a keystore V3. Takes about a second at full work: use a thread."""
    from eth_keyfile.keyfile import decode_keyfile_json  # Not needed by an auditor, and slow to import.

    table = _json(path, "stake key")
    try:
        return bytes(decode_keyfile_json(table, password.encode()))
    except ValueError as error:
        if "MAC" in str(error):
            raise UserError(
                f"the stake key {path} does not open",
                because="the password is wrong, or the file is damaged",
                fix="check the password file that stake.password_file names",
            ) from error
        raise _damaged(path, "stake key", str(error)) from error
    except (KeyError, TypeError, NotImplementedError) as error:
        raise _damaged(path, "stake key", f"not a keystore of version 3: {error!r}") from error


def read_password(path: Path | None) -> str:
    """The password in this file, without its line end. Raises UserError when none is named or it is empty."""
    if path is None:
        raise UserError(
            "the stake key is locked",
            because="no password file was named",
            fix="p2pfl node run --set stake.password_file=/run/secrets/stake",
        )
    try:
        password = path.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            "the stake key is locked",
            because=f"its password file {path} cannot be read: {error}",
            fix="name a readable text file as stake.password_file",
        ) from error
    if not password:
        raise UserError(
            "the stake key is locked",
            because=f"its password file {path} is empty",
            fix="write the password into it",
        )
    return password


# ---------------------------------------------------------------------------
# Files.


def _create(path: Path, kind: str, content: dict[str, Any]) -> None:
    table = {"kind": f"p2pfl {kind}", "version": _VERSION, **content}
    _write_new(path, kind, json.dumps(table, indent=1).encode() + b"\n")


def _write_new(path: Path, kind: str, data: bytes) -> None:
    """A new 0600 file, durable. O_EXCL: a key that is overwritten is a member that is lost."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError as error:
        raise UserError(
            f"the {kind} {path} exists already",
            because="a key file is never overwritten",
            fix="use it, or move it away first",
        ) from error
    except OSError as error:
        raise disk_error(path, error) from error
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        fsync_folder(path.parent)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise disk_error(path, error) from error


def _load(path: Path, kind: str) -> dict[str, Any]:
    table = _json(path, kind)
    if table.get("kind") != f"p2pfl {kind}" or table.get("version") != _VERSION:
        raise _damaged(path, kind, f"it does not say that it is a {kind} of version {_VERSION}")
    return table


def _json(path: Path, kind: str) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(_KEY_FILE_BYTES_MAX + 1)
    except OSError as error:
        raise UserError(
            f"the {kind} {path} cannot be read",
            because=str(error),
            fix="check the path, or make one: p2pfl keys new",
        ) from error
    if mode & 0o077:
        raise UserError(
            f"the {kind} {path} is open to others",
            because=f"its mode is {mode & 0o777:04o}; whoever reads it can act in your name",
            fix=f"chmod 600 {path}",
        )
    try:
        table = loads(data) if len(data) <= _KEY_FILE_BYTES_MAX else None
    except ValueError as error:
        raise _damaged(path, kind, str(error)) from error
    if not isinstance(table, dict):
        raise _damaged(path, kind, "a JSON object was expected")
    return table


def _damaged(path: Path, kind: str, because: str) -> UserError:
    return UserError(
        f"the {kind} {path} is damaged",
        because=because,
        fix="restore it from your copy; never edit a key file",
    )


def _hex(text: Any, size: int) -> bytes:
    data = bytes.fromhex(text.removeprefix("0x")) if isinstance(text, str) else b""
    if len(data) != size:
        raise ValueError(f"{size} bytes in hex were expected")
    return data


def _check(seed: bytes) -> str:
    return sha256(b"p2pfl peer key" + seed).hexdigest()[:16]
