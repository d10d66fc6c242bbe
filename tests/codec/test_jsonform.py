"""JSON of strangers: how deep it may nest, whatever Python's own limit has become."""

from __future__ import annotations

import subprocess
import sys

import pytest

from p2pfl.jsonform import DEPTH_MAX, loads

# py-evm raises the limit as far; Python's parser then runs through the end of the stack and the process dies.
CHILD = """
import sys
sys.setrecursionlimit(10**7)
from p2pfl.jsonform import loads
try:
    loads(sys.argv[1] * 100_000)
except ValueError as error:
    print(error)
"""


@pytest.mark.parametrize("opening", ["[", '{"a":', '[{"]":'])
def test_what_nests_too_deep_is_refused_and_nobody_dies_of_it(opening: str) -> None:
    done = subprocess.run([sys.executable, "-c", CHILD, opening], capture_output=True, text=True, check=True)
    assert "nests deeper" in done.stdout


def test_brackets_in_strings_do_not_nest() -> None:
    quoted = "[" * 1000 + '\\"' + "{" * 1000
    assert loads(f'["{quoted}", [1]]') == [quoted.replace('\\"', '"'), [1]]
    assert loads(b'{"a": "}]["}') == {"a": "}]["}
    deepest = "[" * DEPTH_MAX + "]" * DEPTH_MAX
    assert loads(deepest) is not None
    with pytest.raises(ValueError, match="nests deeper"):
        loads(f"[{deepest}]")


@pytest.mark.parametrize("text", ['"', '"\\', '"\\"' * 10_000, '"' * 9_999, "", "[", b"\xff\xfe[", b"\xff"])
def test_what_is_no_json_is_a_value_error(text: str | bytes) -> None:
    with pytest.raises(ValueError):
        loads(text)
