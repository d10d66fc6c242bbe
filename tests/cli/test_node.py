"""`p2pfl node init` prepares what `p2pfl node run` runs from; what is wrong is told before a socket opens."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from p2pfl import config, errors, keys
from p2pfl.cli import main
from p2pfl.cli.node import SETTINGS_FILE, node_settings
from p2pfl.errors import UserError
from p2pfl.genesis import MemberEntry
from p2pfl.jsonform import from_json
from p2pfl.store import Folder

LISTEN = "/ip4/127.0.0.1/tcp/9000"


def init(folder: Path, *, listen: str = LISTEN) -> int:
    return main(["node", "init", str(folder), "--name", "g0m1", "--listen", listen])


def test_init_prints_what_the_genesis_must_say_of_the_keys_it_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Folder(tmp_path / "node")
    assert init(folder.path) == errors.EXIT_OK
    entry = from_json(json.loads(capsys.readouterr().out), MemberEntry)
    assert entry.member_id == keys.load_signing_key(folder.signing_key).member_id
    assert (entry.name, entry.address) == ("g0m1", LISTEN)
    assert entry.peer_id.startswith("12D3KooW")
    for path in (folder.peer_key, folder.signing_key):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_init_writes_settings_that_run_reads(tmp_path: Path) -> None:
    folder = tmp_path / "node"
    init(folder)
    made = node_settings(config.load(folder / SETTINGS_FILE, [], {}))
    assert (made.dir, made.genesis, made.name) == (folder, folder / "genesis.json", "g0m1")
    assert (made.explorer, made.rpc, made.account_key, made.new_keys) == (None, None, None, False)


def test_a_lost_guard_is_a_setting_of_the_node(tmp_path: Path) -> None:
    init(tmp_path / "node")
    file = tmp_path / "node" / SETTINGS_FILE
    assert not node_settings(config.load(file, [], {})).guard_lost
    assert node_settings(config.load(file, ["node.guard_lost=true"], {})).guard_lost


def test_init_never_touches_a_folder_that_is_in_use(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    init(tmp_path / "node")
    before = Folder(tmp_path / "node").signing_key.read_bytes()
    assert init(tmp_path / "node") == errors.EXIT_USER
    assert "is not empty" in capsys.readouterr().err
    assert Folder(tmp_path / "node").signing_key.read_bytes() == before


@pytest.mark.parametrize("listen", ["9000", "/ip4/1.2.3.4/udp/9", "/ip4/1.2.3.4/tcp/0", "/ip4/1.2.3.4/tcp/x"])
def test_init_refuses_an_address_that_nobody_could_reach(tmp_path: Path, listen: str) -> None:
    assert init(tmp_path / "node", listen=listen) == errors.EXIT_USER
    assert not (tmp_path / "node").exists()


def test_the_stake_key_is_opened_where_chain_and_password_are_named(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "node")
    init(folder.path)
    (tmp_path / "password").write_text("correct horse")
    secret = keys.create_stake_key(folder.stake_key, "correct horse", iterations=1)
    flags = ["chain.rpc=http://127.0.0.1:8545", f"stake.password_file={tmp_path / 'password'}"]
    made = node_settings(config.load(folder.path / SETTINGS_FILE, flags, {}))
    assert (made.rpc, made.account_key) == ("http://127.0.0.1:8545", secret)
    assert node_settings(config.load(folder.path / SETTINGS_FILE, flags[:1], {})).account_key is None


def test_a_wrong_password_is_told(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "node")
    init(folder.path)
    (tmp_path / "password").write_text("wrong")
    keys.create_stake_key(folder.stake_key, "correct horse", iterations=1)
    flags = ["chain.rpc=http://127.0.0.1:8545", f"stake.password_file={tmp_path / 'password'}"]
    with pytest.raises(UserError, match="does not open"):
        node_settings(config.load(folder.path / SETTINGS_FILE, flags, {}))


@pytest.mark.parametrize(
    ("content", "told"),
    [(None, "cannot be read"), ("{", "is not valid"), ('{"version": 1}', "is not valid")],
)
def test_run_refuses_a_genesis_that_is_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None, told: str
) -> None:
    init(tmp_path / "node")
    if content is not None:
        (tmp_path / "node" / "genesis.json").write_text(content)
    assert main(["node", "run", "--config", str(tmp_path / "node" / SETTINGS_FILE)]) == errors.EXIT_USER
    assert told in capsys.readouterr().err


def test_run_without_a_name_says_how_to_give_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["node", "run"]) == errors.EXIT_USER
    assert "P2PFL_NODE_NAME" in capsys.readouterr().err
