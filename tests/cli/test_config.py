"""Flags beat the environment, the environment beats the file, the file beats the default; typos are told."""

from __future__ import annotations

from pathlib import Path

import pytest

from p2pfl import config
from p2pfl.errors import UserError


def file_with(folder: Path, text: str) -> Path:
    path = folder / "node.toml"
    path.write_text(text)
    return path


def test_each_source_beats_the_one_behind_it(tmp_path: Path) -> None:
    file = file_with(tmp_path, '[explorer]\nport = 1001\n[log]\nlevel = "debug"\n[node]\nname = "g1m1"\n')
    environment = {"P2PFL_EXPLORER_PORT": "1002", "P2PFL_NODE_NAME": "g1m2", "HOME": "/nowhere"}
    read = config.load(file, ["explorer.port=1003"], environment)
    assert (read.number("explorer.port"), read.places["explorer.port"]) == (1003, "a flag")
    assert (read.text("node.name"), read.places["node.name"]) == ("g1m2", "the environment")
    assert (read.text("log.level"), read.places["log.level"]) == ("debug", f"the file {file}")
    assert (read.text("explorer.host"), read.places["explorer.host"]) == ("127.0.0.1", "default")


def test_defaults_pass_their_own_readers() -> None:
    for setting in config.SETTINGS:
        if setting.default is not None:
            text = str(setting.default).lower() if isinstance(setting.default, bool) else str(setting.default)
            assert config.load(None, [f"{setting.name}={text}"], {})._values[setting.name] == setting.default


def test_a_path_in_a_file_starts_at_the_file_and_in_a_flag_where_you_stand(tmp_path: Path) -> None:
    file = file_with(tmp_path, '[node]\ndir = "mine"\n[data]\ndir = "/srv/data"\n')
    read = config.load(file, [], {})
    assert read.path("node.dir") == tmp_path / "mine"
    assert read.path("data.dir") == Path("/srv/data")
    assert config.load(file, ["node.dir=other"], {}).path("node.dir") == Path("other")


@pytest.mark.parametrize(
    ("text", "flags", "environment", "near"),
    [
        ("[node]\nlisen = 'x'\n", [], {}, "node.listen"),
        ("nodes = 3\n", [], {}, "node"),
        ("[explorer]\nport = 1\n[explorer.more]\nport = 1\n", [], {}, "explorer.port"),
        ("", ["explorer.prot=1"], {}, "explorer.port"),
        ("", [], {"P2PFL_LOG_LEVELS": "info"}, "P2PFL_LOG_LEVEL"),
    ],
)
def test_an_unknown_name_is_an_error_that_names_the_nearest(
    tmp_path: Path, text: str, flags: list[str], environment: dict[str, str], near: str
) -> None:
    with pytest.raises(UserError) as told:
        config.load(file_with(tmp_path, text), flags, environment)
    assert near in told.value.fix


@pytest.mark.parametrize(
    ("flag", "because"),
    [
        ("explorer.port=70000", "0 to 65535"),
        ("explorer.port=-1", "0 to 65535"),
        ("explorer.port=١", "0 to 65535"),
        ("explorer.on=maybe", "neither true nor false"),
        ("log.level=loud", "none of debug"),
        ("node.name=", "empty"),
        ("node.name=a\x1b[31m", "do not print"),
        ("explorer.port", "no ="),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused_with_the_reason(flag: str, because: str) -> None:
    with pytest.raises(UserError) as told:
        config.load(None, [flag], {})
    assert because in told.value.because


@pytest.mark.parametrize("text", ["[node", "[node]\nname = [1]\n", "[node]\nname = 1.5\n", "\xff"])
def test_a_file_that_is_no_settings_file_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "node.toml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=r"node\.toml"):
        config.load(path, [], {})


def test_a_missing_and_an_endless_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        config.load(tmp_path / "none.toml", [], {})
    with pytest.raises(UserError, match="longer than"):
        config.load(Path("/dev/zero"), [], {})


def test_a_setting_without_a_default_is_asked_for_by_name() -> None:
    with pytest.raises(UserError) as told:
        config.load(None, [], {}).need("node.name")
    assert "P2PFL_NODE_NAME" in told.value.fix


def test_the_reference_shows_a_file_that_loads(tmp_path: Path) -> None:
    example = config.reference().partition("```toml\n")[2].partition("```")[0]
    read = config.load(file_with(tmp_path, example), [], {})
    for setting in config.SETTINGS:
        expected = "default" if setting.default is None else f"the file {tmp_path / 'node.toml'}"
        assert read.places[setting.name] == expected, setting.name
