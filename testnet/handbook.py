"""The tables of docs/testnet.md, from those of the code: `python -m testnet.handbook docs/testnet.md`."""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path

from p2pfl.errors import EXIT_OK
from testnet import attacks, scenarios


def attack_rows() -> list[str]:
    """A row for each attack that comes with the package: its name, what it does, its options."""
    rows = ["| attack | what it does | options |", "|---|---|---|"]
    for name in attacks.names():
        function = attacks.find(name)
        if not function.__module__.startswith("testnet.attacks."):
            continue  # Somebody's own.
        what = inspect.getdoc(function) or ""
        options = ", ".join(_option(*each) for each in attacks.options_of(name).items())
        rows.append(f"| `{name}` | {what.partition(chr(10))[0]} | {options} |")
    return rows


def scenario_rows() -> list[str]:
    """A row for each scenario: its name and what is claimed, who attacks how."""
    rows = ["| scenario | attacks | claim |", "|---|---|---|"]
    for name in scenarios.known():
        scenario = scenarios.load(name)
        put_on = dict.fromkeys(f"`{attack.name}`" for attack in scenario.attacks)
        rows.append(f"| `{name}` | {', '.join(put_on)} | {scenario.claim} |")
    return rows


TABLES = {"attacks": attack_rows, "scenarios": scenario_rows}


def fill(page: str) -> str:
    """The page with its tables written anew, each between <!-- NAME --> and <!-- end of NAME -->."""
    for name, rows in TABLES.items():
        begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
        table = "\n".join([begin, *rows(), end])
        page = re.sub(f"{begin}.*?{end}", lambda _, table=table: table, page, flags=re.DOTALL)
    return page


def _option(name: str, default: object) -> str:
    if default is inspect.Parameter.empty:
        return f"`{name}`"
    return f"`{name}` {list(default) if isinstance(default, tuple) else repr(default)}"


def main(words: list[str]) -> int:
    """Write the tables into this page."""
    page = Path(words[0])
    page.write_text(fill(page.read_text(encoding="utf-8")), encoding="utf-8")
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
