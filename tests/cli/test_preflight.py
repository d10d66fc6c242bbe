"""What is missing is said before the installation, in three lines, also by Pythons that are too old."""

from __future__ import annotations

import ast
import os
import shutil
import sys
from pathlib import Path

import pytest

from testnet import preflight

SOURCE = Path(preflight.__file__)


def whats(folder: Path) -> list[str]:
    return [what for what, _, _ in preflight.problems(folder)]


def fake_compiler(folder: Path, body: str) -> str:
    path = folder / "cc"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


def test_here_is_everything(tmp_path: Path) -> None:
    assert preflight.problems(tmp_path) == []
    assert preflight.main() == 0


def test_an_old_python_can_read_it_and_hears_that_it_is_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in (SOURCE, SOURCE.with_name("__init__.py")):
        ast.parse(path.read_text(), feature_version=(3, 6))
    assert "from __future__" not in SOURCE.read_text()
    monkeypatch.setattr(sys, "version_info", (3, 9, 2))
    assert whats(tmp_path) == ["this is Python 3.9"]


def test_nothing_is_imported_that_is_not_in_the_library() -> None:
    roots = set()
    for node in ast.walk(ast.parse(SOURCE.read_text())):
        if isinstance(node, ast.Import):
            roots |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            roots.add((node.module or "").partition(".")[0])
    assert roots <= set(sys.stdlib_module_names)


def test_without_a_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.delenv("CC", raising=False)
    ((what, because, fix),) = preflight.problems(tmp_path)
    assert what == "there is no C compiler"
    assert "libp2p" in because
    assert "gmp.h" in fix


@pytest.mark.parametrize(
    ("header", "what"), [("gmp.h", "the headers of GMP"), ("Python.h", "the headers of Python")]
)
def test_without_headers_the_compilers_own_words_are_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, header: str, what: str
) -> None:
    finds = f'grep -q "{header}" "$each" && echo no {header} && exit 1'
    refuse = f'for each; do case "$each" in *.c) {finds};; esac; done'
    monkeypatch.setenv("CC", fake_compiler(tmp_path, refuse + "; exit 0"))
    ((told, because, fix),) = preflight.problems(tmp_path)
    assert told.startswith(what)
    assert because == f"no {header}"
    assert fix


def test_the_install_command_is_that_of_the_package_manager_that_is_here(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/dnf" if name == "dnf" else None)
    assert preflight._install_command().startswith("sudo dnf install")


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "DISK_BYTES_MIN", 10**18)
    ((what, because, _),) = preflight.problems(tmp_path)
    assert what == "the disk is too full"
    assert str(tmp_path) in because


def test_each_problem_is_three_lines_and_the_exit_code_is_that_of_an_operators_fault(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(preflight, "problems", lambda folder: [("a", "b", "c"), ("d", "e", "f")])
    assert preflight.main() == 3
    assert capsys.readouterr().err == "error: a\n  because: b\n  fix: c\nerror: d\n  because: e\n  fix: f\n"


def test_a_compiler_that_does_not_end_is_a_reason_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "_COMPILE_S_MAX", 0.1)
    monkeypatch.setenv("CC", fake_compiler(tmp_path, f"exec {shutil.which('sleep')} 5"))
    assert os.access(tmp_path / "cc", os.X_OK)
    assert "timed out" in preflight.problems(tmp_path)[0][1]
