"""Each decoder against its corpus (what a fuzzer found lies there too), and against spoilt copies of it."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.__main__ import main
from tests.fuzz.seeds import CORPUS, FILE_BYTES_MAX, FILES_MAX
from tests.fuzz.targets import TARGETS

each_target = pytest.mark.parametrize("name", TARGETS)


def corpus(name: str) -> list[bytes]:
    return [path.read_bytes() for path in sorted((CORPUS / name).iterdir())]


@each_target
def test_what_is_in_the_corpus_breaks_nothing(name: str) -> None:
    files = corpus(name)
    assert 0 < len(files) <= FILES_MAX
    for data in files:
        assert len(data) <= FILE_BYTES_MAX
        TARGETS[name](data)


def test_the_corpus_has_no_targets_that_are_gone() -> None:
    assert {path.name for path in CORPUS.iterdir()} == set(TARGETS)


@each_target
@settings(max_examples=25)
@given(data=st.data())
def test_spoilt_copies_and_random_bytes_break_nothing(name: str, data: st.DataObject) -> None:
    spoilt = bytearray(data.draw(st.one_of(st.sampled_from(corpus(name)), st.binary(max_size=200))))
    for place, byte in data.draw(
        st.lists(st.tuples(st.integers(0, 1 << 12), st.integers(0, 255)), max_size=5)
    ):
        spoilt[place % max(1, len(spoilt)) : place % max(1, len(spoilt)) + byte % 2] = bytes((byte,))
    TARGETS[name](bytes(spoilt))


def test_whoever_lacks_the_fuzzer_is_told_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "atheris", None)
    assert main(["yamux"]) == 3
    assert "pip install -e .[fuzz]" in capsys.readouterr().err
