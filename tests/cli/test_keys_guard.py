"""`p2pfl keys guard`: what a key has signed moves with it, in words that an operator types."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from consensus.types import ZERO_MEMBER, Commit, Digest, Prepare
from p2pfl import errors, keys
from p2pfl.cli import main
from p2pfl.genesis import ChainEntry, Genesis
from p2pfl.store import Folder
from testnet import plan
from testnet.scenarios import load

A, B = Digest(b"a" * 32), Digest(b"b" * 32)


@pytest.fixture
def network(tmp_path: Path) -> tuple[Genesis, Folder, Folder]:
    """The genesis, a member's folder, and a copy of its key on another machine."""
    scenario = load("honest", groups=1, seats=1)
    ground = plan.break_ground(scenario, tmp_path / "run")
    drawn = plan.draw_plan(ground, ChainEntry(0, ZERO_MEMBER, ZERO_MEMBER))
    old, new = ground.seats[0].folder, Folder(tmp_path / "new")
    new.make()
    shutil.copy(old.signing_key, new.signing_key)
    shutil.copy(old.genesis, new.genesis)
    return drawn.genesis, old, new


def sign(genesis: Genesis, folder: Folder, *structs: object) -> None:
    guard = keys.Guard(folder.guard, keys.load_signing_key(folder.signing_key), new_key=True)
    try:
        for struct in structs:
            guard.sign(genesis.domain("g0"), struct)
    finally:
        guard.close()


@pytest.mark.parametrize("flags", [[], ["--minimal"]], ids=["complete", "minimal"])
def test_a_guard_moves_to_another_machine(
    network: tuple[Genesis, Folder, Folder], capsys: pytest.CaptureFixture[str], flags: list[str]
) -> None:
    genesis, old, new = network
    sign(genesis, old, Prepare(0, 5, 0, A), Commit(0, 5, 0, A))
    file = str(new.path / "export.json")
    assert main(["keys", "guard", "export", str(old.path), file, *flags]) == errors.EXIT_OK
    assert "do not start this node here again" in capsys.readouterr().out
    assert main(["keys", "guard", "import", str(new.path), file]) == errors.EXIT_OK
    with pytest.raises(keys.Refused):
        sign(genesis, new, Commit(0, 5, 0, B))
    sign(genesis, new, Prepare(0, 6, 0, A))


def test_importing_twice_changes_nothing(network: tuple[Genesis, Folder, Folder]) -> None:
    genesis, old, new = network
    sign(genesis, old, Prepare(0, 5, 0, A))
    file = str(new.path / "export.json")
    main(["keys", "guard", "export", str(old.path), file])
    for _ in range(2):
        assert main(["keys", "guard", "import", str(new.path), file]) == errors.EXIT_OK
    guard = keys.Guard(new.guard, keys.load_signing_key(new.signing_key))
    assert len(guard.content()[1]) == 1
    guard.close()


def test_a_running_node_is_not_exported(
    network: tuple[Genesis, Folder, Folder], capsys: pytest.CaptureFixture[str]
) -> None:
    _, old, new = network
    guard = keys.Guard(old.guard, keys.load_signing_key(old.signing_key), new_key=True)
    assert main(["keys", "guard", "export", str(old.path), str(new.path / "x")]) == errors.EXIT_USER
    assert "in use" in capsys.readouterr().err
    assert not (new.path / "x").exists()
    guard.close()


def test_a_key_that_signed_on_both_machines_is_told(
    network: tuple[Genesis, Folder, Folder], capsys: pytest.CaptureFixture[str]
) -> None:
    genesis, old, new = network
    sign(genesis, old, Prepare(0, 5, 0, A))
    sign(genesis, new, Prepare(0, 5, 0, B))
    file = str(new.path / "export.json")
    main(["keys", "guard", "export", str(old.path), file])
    assert main(["keys", "guard", "import", str(new.path), file]) == errors.EXIT_CLAIM_FAILED
    assert "TWICE: the key has signed two Prepare of epoch 0, height 5, round 0" in capsys.readouterr().out


def test_the_export_of_another_member_is_refused(
    network: tuple[Genesis, Folder, Folder], capsys: pytest.CaptureFixture[str]
) -> None:
    genesis, old, new = network
    sign(genesis, old, Prepare(0, 5, 0, A))
    file = str(new.path / "export.json")
    main(["keys", "guard", "export", str(old.path), file])
    stranger = old.path.parent / "g0m1"
    assert main(["keys", "guard", "import", str(stranger), file]) == errors.EXIT_USER
    assert "another key" in capsys.readouterr().err
    assert not Folder(stranger).guard.exists()


def test_without_a_guard_there_is_nothing_to_export(
    network: tuple[Genesis, Folder, Folder], capsys: pytest.CaptureFixture[str]
) -> None:
    _, old, new = network
    assert main(["keys", "guard", "export", str(old.path), str(new.path / "x")]) == errors.EXIT_USER
    assert "--guard-lost" in capsys.readouterr().err
