"""Every setting of a node: its default, its unit, and one sentence. Flags > environment > file > default.

One table makes the file's keys, the environment's names, `--set` and docs/settings.md. Knows no room that a
setting is for; what all members must share is not here but in the genesis.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from p2pfl.errors import UserError

ENVIRONMENT_PREFIX = "P2PFL_"
# A settings file has a line or two for each setting; whatever is longer is not one.
FILE_BYTES_MAX = 256 * 1024


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting. name: section.key of the file; kind: what reads its text; default None: unset."""

    name: str
    kind: str
    default: str | int | bool | None
    help: str

    @property
    def environment(self) -> str:
        """The name of its environment variable."""
        return ENVIRONMENT_PREFIX + self.name.upper().replace(".", "_")


SETTINGS = (
    Setting("node.dir", "path", "node", "Folder of this node: its keys, its chain, its blobs."),
    Setting("node.genesis", "path", "genesis.json", "Genesis file of the network, the same for all members."),
    Setting("node.name", "text", None, "Name of this member or seat in the genesis; needed."),
    Setting("node.listen", "text", None, "Multiaddr to listen at; unset: the address in the genesis."),
    Setting(
        "node.new_keys", "switch", False, "Start the record of what this key has signed: once, for a new key."
    ),
    Setting(
        "node.guard_lost",
        "switch",
        False,
        "The guard is lost for good: make a new one, which signs nothing until the next epoch.",
    ),
    Setting("net.transport", "transport", "tcp", "What to listen with; the address must agree."),
    Setting("net.security", "security", "noise", "Handshake of connections, the same for all members."),
    Setting(
        "net.psk_file",
        "path",
        None,
        "Key file of a private network (libp2p's swarm.key), the same for all members; unset: none.",
    ),
    Setting(
        "net.announce",
        "text",
        None,
        "Multiaddrs that others reach this node at, with commas between; unset: those that it listens at.",
    ),
    Setting(
        "net.bootstrap",
        "text",
        None,
        "Where some members are, with commas between: multiaddrs that end in /p2p/ and a peer id.",
    ),
    Setting(
        "net.relay",
        "relay",
        "off",
        "serve: pass on between members that cannot call each other; use: be one of those, behind a router.",
    ),
    Setting("net.dht", "switch", False, "Ask members that are reached where the others are, by Kademlia."),
    Setting("net.mdns", "switch", False, "Find members on the same LAN by mDNS, and be found."),
    Setting(
        "net.observers",
        "count",
        8,
        "How many auditors and joiners, who are no members, may be connected to read blocks; 0: none.",
    ),
    Setting(
        "net.observers_kib_s", "count", 512, "KiB a second that all observers together are answered at most."
    ),
    Setting(
        "net.observers_updates",
        "switch",
        False,
        "Show the members' updates of decided blocks to observers too; bases and aggregates they see anyway.",
    ),
    Setting(
        "store.keep_blobs_epochs",
        "count",
        0,
        "Delete blobs that only blocks of earlier epochs than the last N name; 0: none. Blocks are kept.",
    ),
    Setting(
        "store.history",
        "history",
        "none",
        "Blobs of the past to fetch in the background: none, public (bases, aggregates) or all.",
    ),
    Setting("store.history_kib_s", "count", 256, "KiB a second at which they are fetched at most."),
    Setting("data.dir", "path", None, "Folder of a public data set that does not come with the package."),
    Setting(
        "data.path",
        "path",
        None,
        "File with the own samples (.npz, .csv or .parquet); unset: data.npz and so on in the node's folder.",
    ),
    Setting("data.label", "text", "label", "Column of the labels in a table."),
    Setting("train.device", "text", "cpu", "What trains and replays: cpu, cuda, or cuda:1 for another GPU."),
    Setting("explorer.on", "switch", False, "Serve the explorer's pages from this node."),
    Setting("explorer.host", "text", "127.0.0.1", "Address that the explorer listens at."),
    Setting("explorer.port", "port", 0, "TCP port of the explorer; 0: any that is free."),
    Setting("chain.rpc", "text", None, "URL of the EVM chain's JSON-RPC; unset: no chain."),
    Setting(
        "stake.key_file",
        "path",
        None,
        "Keystore V3 of the account that submits evidence; unset: the node's own.",
    ),
    Setting(
        "stake.password_file", "path", None, "File with that keystore's password; unset: submit nothing."
    ),
    Setting("log.level", "level", "info", "Least level written: debug, info, warning or error."),
    Setting("log.file", "path", None, "File that log lines are appended to; unset: standard error."),
)
_TABLE = {setting.name: setting for setting in SETTINGS}


def _switch(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError("it is neither true nor false")
    return text.lower() == "true"


def _port(text: str) -> int:
    port = int(text) if text.isascii() and text.isdigit() else -1
    if not 0 <= port <= 65535:
        raise ValueError("a port is a whole number from 0 to 65535")
    return port


def _count(text: str) -> int:
    count = int(text) if text.isascii() and text.isdigit() and len(text) <= 9 else -1
    if count < 0:
        raise ValueError("a count is a whole number from 0 to 999999999")
    return count


def _one_of(*names: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in names:
            raise ValueError(f"it is none of {', '.join(names)}")
        return text

    return read


def _text(text: str) -> str:
    if not text.strip() or not text.isprintable():
        raise ValueError("it is empty or has characters that do not print")
    return text


# What a kind is called for people, and what reads it. Paths stay relative to where the setting was given.
_KINDS: dict[str, tuple[str, Callable[[str], str | int | bool]]] = {
    "text": ("text", _text),
    "path": ("path", _text),
    "switch": ("true or false", _switch),
    "port": ("port", _port),
    "count": ("whole number", _count),
    "level": ("log level", _one_of("debug", "info", "warning", "error")),
    "history": ("none, public or all", _one_of("none", "public", "all")),
    "transport": ("tcp or websocket", _one_of("tcp", "websocket")),
    "relay": ("off, serve or use", _one_of("off", "serve", "use")),
    "security": ("noise or tls", _one_of("noise", "tls")),
}


class Config:
    """The values of all settings, each with the place it came from."""

    def __init__(self, values: Mapping[str, str | int | bool | None], places: Mapping[str, str]) -> None:
        self._values = dict(values)
        self.places = dict(places)

    def text(self, name: str) -> str | None:
        """A setting of words; None where it is unset."""
        value = self._values[name]
        return None if value is None else str(value)

    def path(self, name: str) -> Path | None:
        """A path; None where it is unset."""
        value = self._values[name]
        return None if value is None else Path(str(value)).expanduser()

    def number(self, name: str) -> int:
        """A whole number."""
        value = self._values[name]
        assert isinstance(value, int), name
        return value

    def switch(self, name: str) -> bool:
        """True or false."""
        return bool(self._values[name])

    def need(self, name: str) -> str:
        """A setting that has no default. Raises UserError that shows the three ways to give it."""
        value = self.text(name)
        if value is None:
            raise UserError(
                f"the setting {name} is missing",
                because="it has no default: " + _TABLE[name].help,
                fix=f"--set {name}=..., {_TABLE[name].environment}=... or a line in the settings file",
            )
        return value


def load(
    file: Path | None = None, flags: Iterable[str] = (), environment: Mapping[str, str] | None = None
) -> Config:
    """Read the settings. flags: words of the form section.key=value. Raises UserError."""
    values: dict[str, str | int | bool | None] = {setting.name: setting.default for setting in SETTINGS}
    places = dict.fromkeys(values, "default")
    sources = [
        *([] if file is None else [(f"the file {file}", _from_file(file))]),
        ("the environment", _from_environment(os.environ if environment is None else environment)),
        ("a flag", _from_flags(flags)),
    ]
    for place, given in sources:
        for name, text in given.items():
            values[name] = _read(name, text, place)
            places[name] = place
    return Config(values, places)


def _from_file(file: Path) -> dict[str, str]:
    try:
        with file.open("rb") as handle:
            raw = handle.read(FILE_BYTES_MAX + 1)
        if len(raw) > FILE_BYTES_MAX:
            raise ValueError(f"it is longer than {FILE_BYTES_MAX} bytes")
        table = tomllib.loads(raw.decode())
    except OSError as error:
        raise UserError(
            f"the settings file {file} cannot be read",
            because=error.strerror or str(error),
            fix="name another",
        ) from error
    except ValueError as error:
        raise UserError(
            f"the settings file {file} is not TOML",
            because=str(error),
            fix="docs/settings.md shows a whole one",
        ) from error
    found: dict[str, str] = {}
    for name, value in _flat("", table):
        _known(name, f"the file {file}", _TABLE)
        found[name] = _from_toml(name, value, file)
    return found


def _from_toml(name: str, value: Any, file: Path) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, (str, int)):
        raise UserError(
            f"{name} in {file} is a {type(value).__name__}",
            because=f"it should be a {_KINDS[_TABLE[name].kind][0]}",
            fix="docs/settings.md shows each setting with its unit",
        )
    # In a file, a path is relative to the file: that way the file can be used from any folder.
    if _TABLE[name].kind == "path" and isinstance(value, str) and value.strip():
        return str(file.parent / Path(value).expanduser())
    return str(value)


def _flat(prefix: str, table: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, dict) and not prefix:
            yield from _flat(f"{key}.", value)
        else:
            yield prefix + key, value


def _from_environment(environment: Mapping[str, str]) -> dict[str, str]:
    names = {setting.environment: setting.name for setting in SETTINGS}
    found: dict[str, str] = {}
    for variable, text in environment.items():
        if variable.startswith(ENVIRONMENT_PREFIX):
            _known(variable, "the environment", names)
            found[names[variable]] = text
    return found


def _from_flags(flags: Iterable[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for flag in flags:
        name, equals, text = flag.partition("=")
        if not equals:
            raise UserError(
                f"--set {flag} names no value", because="there is no = in it", fix="--set section.key=value"
            )
        _known(name, "--set", _TABLE)
        found[name] = text
    return found


def _known(name: str, place: str, names: Iterable[str]) -> None:
    known = list(names)
    if name in known:
        return
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
    raise UserError(
        f"there is no setting {name}", because=f"{place} names it", fix=f"did you mean {near[0]}?"
    )


def _read(name: str, text: str, place: str) -> str | int | bool:
    label, read = _KINDS[_TABLE[name].kind]
    try:
        return read(text)
    except ValueError as error:
        raise UserError(
            f"{name} = {text!r} is no {label}", because=f"{error} ({place})", fix=_TABLE[name].help
        ) from error


def reference() -> str:
    """docs/settings.md: the table, and a whole settings file with all defaults."""
    lines = [
        "# Settings",
        "",
        "Written by `python -m p2pfl.config > docs/settings.md`; `p2pfl/config.py` is the place to change.",
        "",
        "A setting is taken from the first of these that names it: `--set section.key=value`, the",
        "environment, the settings file (`--config FILE`, TOML), the default. Relative paths in a file",
        "start at the file's folder. A name that is not in this table is an error wherever it stands.",
        "",
        "What all members of a network must share is not set here: it is in the genesis.",
        "",
        "| setting | environment | is | default | what it is |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| `{s.name}` | `{s.environment}` | {_KINDS[s.kind][0]} | {_shown(s)} | {s.help} |" for s in SETTINGS
    ]
    lines += ["", "A whole settings file; lines that start with `#` show what is unset:", "", "```toml"]
    section = ""
    for setting in SETTINGS:
        head, key = setting.name.split(".")
        if head != section:
            lines += ([""] if section else []) + [f"[{head}]"]
            section = head
        unset = setting.default is None
        lines.append(f'# {key} = "..."' if unset else f"{key} = {_toml(setting.default)}")
    return "\n".join([*lines, "```", ""])


def _shown(setting: Setting) -> str:
    return "unset" if setting.default is None else f"`{_toml(setting.default)}`"


def _toml(value: str | int | bool | None) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return f'"{value}"' if isinstance(value, str) else str(value)


if __name__ == "__main__":
    print(reference(), end="")
