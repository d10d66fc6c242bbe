"""The command line says whose fault it was, in one form, with the right exit code."""

from __future__ import annotations

import errno
import importlib.metadata
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from p2pfl import errors
from p2pfl.cli import failures, main
from p2pfl.cli.main import DOORS
from p2pfl.errors import UserError

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "libp2p", "web3", "sklearn", "eth", "scipy")


def python(*words: str, stdout: int = subprocess.PIPE) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words],
        cwd=ROOT,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )


def raising(error: BaseException):
    def run() -> int:
        raise error

    return run


@pytest.mark.parametrize("words", [["--help"], ["version"], ["audit", "--help"], ["keys", "--help"]])
def test_what_an_auditor_calls_loads_nothing_heavy(words: list[str]) -> None:
    code = (
        "import sys\nfrom p2pfl.cli import main\n"
        f"try: main({words!r})\nexcept SystemExit: pass\n"
        f"print('LOADED', [name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = python("-c", code)
    assert done.stdout.endswith("LOADED []\n"), done.stdout + done.stderr


def test_help_names_every_door_and_every_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["--help"])
    assert left.value.code == 0
    told = capsys.readouterr().out
    for door in DOORS:
        assert re.search(rf"\n    {door.name}\s", told), door.name
    codes = [value for name, value in vars(errors).items() if name.startswith("EXIT_")]
    for code in [*codes, failures.EXIT_INTERRUPTED]:
        assert f" {code} " in told.replace("\n", " "), code


def test_nothing_to_do_shows_the_help_and_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == errors.EXIT_USAGE
    assert capsys.readouterr().out.startswith("usage: p2pfl")


def test_a_mistyped_command_is_answered_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["tesnet", "up"])
    assert left.value.code == errors.EXIT_USAGE
    what, because, fix = capsys.readouterr().err.splitlines()
    assert what == "error: the command line does not parse"
    assert because.startswith("  because: ")
    assert "did you mean testnet?" in fix


@pytest.mark.parametrize(
    "error",
    [
        UserError("a", because="b", fix="c"),
        ExceptionGroup("nursery", [ExceptionGroup("inner", [UserError("a", because="b", fix="c")])]),
    ],
)
def test_an_operators_fault_is_three_lines_and_no_traceback(
    error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    assert failures.watch(raising(error), json_wanted=False) == errors.EXIT_USER
    out, err = capsys.readouterr()
    assert (out, err) == ("", "error: a\n  because: b\n  fix: c\n")


def test_with_json_the_error_is_the_last_line_of_stdout_too(capsys: pytest.CaptureFixture[str]) -> None:
    failures.watch(raising(UserError("a", because="b", fix="c")), json_wanted=True)
    out, err = capsys.readouterr()
    assert json.loads(out) == {
        "error": {"what": "a", "because": "b", "fix": "c"},
        "exit_code": errors.EXIT_USER,
    }
    assert err.startswith("error: a")


def test_a_bug_is_shown_whole_even_beside_an_operators_fault(capsys: pytest.CaptureFixture[str]) -> None:
    group = ExceptionGroup("nursery", [ZeroDivisionError("ours"), UserError("a", because="b", fix="c")])
    assert failures.watch(raising(group), json_wanted=False) == errors.EXIT_BUG
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert "error: this is a bug of p2pfl-mps" in err
    assert "ZeroDivisionError('ours')" in err


@pytest.mark.parametrize("extra", ["torch", "libp2p.host", "web3.types", "eth.vm", "cryptography.hazmat"])
def test_a_missing_extra_comes_with_the_command_that_mends_it(
    extra: str, capsys: pytest.CaptureFixture[str]
) -> None:
    error = ModuleNotFoundError(f"No module named {extra!r}", name=extra)
    assert failures.watch(raising(error), json_wanted=False) == errors.EXIT_USER
    fix = capsys.readouterr().err.splitlines()[2]
    assert "pip install -c constraints.txt -e '.[" in fix


def test_a_missing_module_of_our_own_is_a_bug(capsys: pytest.CaptureFixture[str]) -> None:
    error = ModuleNotFoundError("No module named 'p2pfl.gone'", name="p2pfl.gone")
    assert failures.watch(raising(error), json_wanted=False) == errors.EXIT_BUG
    assert "p2pfl.gone" in capsys.readouterr().err


def test_a_full_disk_is_an_operators_matter(capsys: pytest.CaptureFixture[str]) -> None:
    error = OSError(errno.ENOSPC, "No space left on device", "blocks")
    assert failures.watch(raising(error), json_wanted=False) == errors.EXIT_USER
    assert "error: the disk is full" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), BaseExceptionGroup("nursery", [KeyboardInterrupt(), ValueError("late")])]
)
def test_an_interrupted_command_ends_quietly(
    error: BaseException, capsys: pytest.CaptureFixture[str]
) -> None:
    assert failures.watch(raising(error), json_wanted=False) == failures.EXIT_INTERRUPTED
    assert capsys.readouterr() == ("", "")


def test_a_reader_that_has_gone_is_no_reason_to_complain() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = python("-m", "p2pfl", "version", stdout=writer)
    os.close(writer)
    assert (done.returncode, done.stderr) == (failures.EXIT_PIPE, "")


def test_the_other_p2pfl_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata, "version", lambda name: "0.4.4" if name == "p2pfl" else real(name)
    )
    assert main(["version"]) == errors.EXIT_OK
    out, err = capsys.readouterr()
    assert err.startswith("warning: p2pfl 0.4.4 is installed beside p2pfl-mps\n")
    assert "pip uninstall" in err
    assert out.startswith("p2pfl-mps 0.1.0")


def test_version_is_one_json_object_on_demand(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version", "--json"]) == errors.EXIT_OK
    assert json.loads(capsys.readouterr().out)["trio"]
