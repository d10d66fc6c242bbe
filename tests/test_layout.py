"""The shape of the tree is a promise: who imports whom, how long things get, what a file opens with."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("consensus", "p2pfl", "contracts", "testnet", "bench")
TOP = {
    *PACKAGES, "tests", "docs",
    "pyproject.toml", "constraints.txt", "README.md", "CHANGELOG.md", "LICENSE", "SECURITY.md",
}  # fmt: skip
FILE_LINES_MAX = 400
FUNCTION_LINES_MAX = 60
# What each room that knows something alone may import from outside, and nobody else.
ALONE = {
    "torch": ("p2pfl/learn/", "bench/"),
    "libp2p": ("p2pfl/net/", "bench/"),
    "web3": ("p2pfl/evm/", "testnet/"),
    "eth": ("testnet/",),
}


@cache
def tracked() -> tuple[str, ...]:
    """The files of this tree that git knows, or would take."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        names = done.stdout.splitlines()
    else:  # A copy without its history.
        hidden = re.compile(r"(^|/)(\.|__pycache__|node_modules|runs/|build/lib|[^/]*\.egg-info)")
        names = [str(path.relative_to(ROOT)) for path in ROOT.rglob("*") if path.is_file()]
        names = [name for name in names if not hidden.search(name)]
    return tuple(sorted(name for name in names if (ROOT / name).is_file()))


def python_files(*roots: str) -> list[str]:
    return [
        name for name in tracked() if name.endswith(".py") and name.startswith(tuple(r + "/" for r in roots))
    ]


def tree(name: str) -> ast.Module:
    return ast.parse((ROOT / name).read_text(encoding="utf-8"), name)


def imported(name: str) -> set[str]:
    """The roots of what a file imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add((node.module or "").partition(".")[0])
    return found


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_the_top_level_holds_the_rooms_and_nothing_else() -> None:
    assert {name.partition("/")[0] for name in tracked() if not name.startswith(".")} <= TOP


@pytest.mark.parametrize("name", python_files(*PACKAGES, "tests"))
def test_a_file_says_what_it_is_for_and_fits_in_five_screens(name: str) -> None:
    lines = (ROOT / name).read_text(encoding="utf-8").count("\n")
    assert lines <= FILE_LINES_MAX, f"{name} has {lines} lines: what second thing hides in it?"
    assert not lines or ast.get_docstring(tree(name)), f"{name} does not say what it is for"


@pytest.mark.parametrize("name", python_files(*PACKAGES))
def test_a_function_fits_on_one_screen(name: str) -> None:
    for node in ast.walk(tree(name)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            assert lines <= FUNCTION_LINES_MAX, f"{name}:{node.lineno} {node.name} has {lines} lines"


@pytest.mark.parametrize("package", sorted(ALONE))
def test_one_room_alone_knows_each_heavy_package(package: str) -> None:
    knows = [name for name in python_files(*PACKAGES) if package in imported(name)]
    assert all(name.startswith(ALONE[package]) for name in knows), knows


@pytest.mark.parametrize("name", python_files("consensus"))
def test_consensus_knows_no_clock_socket_disk_log_or_chance(name: str) -> None:
    outside = {
        "time",
        "datetime",
        "socket",
        "select",
        "os",
        "pathlib",
        "logging",
        "random",
        "secrets",
        "trio",
    }
    outside |= {"asyncio", "threading", "subprocess", "numpy", "torch", "libp2p", "web3", "p2pfl", "testnet"}
    assert not imported(name) & outside


@pytest.mark.parametrize("name", python_files("p2pfl"))
def test_nothing_in_p2pfl_can_turn_a_peer_bad(name: str) -> None:
    assert "testnet" not in imported(name) or name.startswith("p2pfl/cli/")


def test_extras_for_old_pips_say_what_the_groups_say() -> None:
    groups, extras = project()["dependency-groups"], project()["project"]["optional-dependencies"]
    assert set(groups) <= set(extras)
    for name, group in groups.items():
        included = {f"p2pfl-mps[{entry['include-group']}]" for entry in group if isinstance(entry, dict)}
        assert {entry for entry in group if isinstance(entry, str)} | included == set(extras[name])


def test_every_requirement_has_one_tested_version() -> None:
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    pinned = {_normal(line.partition("==")[0]): line for line in text.splitlines() if line and line[0] != "#"}
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[^\s;]+", line) for line in pinned.values())
    table = project()["project"]
    wanted = [
        *table["dependencies"],
        *(word for words in table["optional-dependencies"].values() for word in words),
    ]
    names = {_normal(re.split(r"[\s\[<>=!~;]", word)[0]) for word in wanted} - {"p2pfl-mps"}
    assert names <= set(pinned)
    assert pinned["torch"] == "torch==2.13.0"


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_data_files_of_the_packages_are_shipped() -> None:
    table = project()["tool"]["setuptools"]["package-data"]
    for package, patterns in table.items():
        matched = {str(path) for pattern in patterns for path in (ROOT / package).glob(pattern)}
        data = [
            name for name in tracked() if name.startswith(package + "/") and not name.endswith((".py", ".md"))
        ]
        left_out = [name for name in data if str(ROOT / name) not in matched]
        assert not left_out, left_out


@pytest.mark.parametrize("name", [n for n in tracked() if not n.endswith((".npz", ".png", ".lock", ".json"))])
def test_no_file_names_a_machine(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8", errors="replace")
    found = re.search(r"/(home|root|work|farm|tmp/bash_jobs)/", text)
    assert found is None, f"{name} names {found}"
