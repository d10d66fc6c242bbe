"""What documents say is compared with what the code does: commands, settings, exit codes, numbers, links."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

import pytest

import p2pfl
from p2pfl import config, errors
from p2pfl.audit.report import REASONS
from p2pfl.cli import failures
from p2pfl.cli.main import parser_for
from p2pfl.telemetry import METRICS
from testnet import attacks, handbook, scenarios
from tests.test_layout import tracked

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
LINK = re.compile(r"\[[^\]]+\]\(([^)\s]+)\)")
# Words that stand for the reader's own.
PLACES = {"DIR": ".", "NAME": "honest", "SCENARIO": "honest", "FILE": "file", "HEIGHT": "0", "GROUP": "g0"}


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def shell_lines(page: Path) -> list[str]:
    """The commands of a page's bash blocks, each on one line."""
    blocks = re.findall(r"^```bash\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.strip() and line[0] != "#"]


def commands() -> list[tuple[str, str]]:
    """(page, one simple command) of every page."""
    return [
        (page.name, part.strip())
        for page in PAGES
        for line in shell_lines(page)
        for part in line.split(" && ")
    ]


def readme_command(section: str) -> list[str]:
    """The parts of the one command of a README section."""
    section_text = text_of("README.md").partition(f"## {section}\n")[2].partition("\n## ")[0]
    (line,) = re.findall(r"^```bash\n(.*)\n```", section_text, re.MULTILINE)
    return [part.strip() for part in line.split(" && ")]


def anchors(page: Path) -> set[str]:
    heads = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize(
    ("section", "extra", "last"),
    [
        ("See it run", "testnet", ".venv/bin/p2pfl testnet up sign_flip"),
        ("Run the tests", "test", ".venv/bin/pytest"),
    ],
)
def test_each_readme_command_checks_installs_and_runs(section: str, extra: str, last: str) -> None:
    check, make, install, run = readme_command(section)
    assert check == "python3 -m testnet.preflight"
    assert make == "python3 -m venv .venv"
    assert shlex.split(install) == [".venv/bin/pip", "install", "-c", "constraints.txt", "-e", f".[{extra}]"]
    assert run == last


def test_every_extra_that_a_page_installs_exists() -> None:
    extras = tomllib.loads(text_of("pyproject.toml"))["project"]["optional-dependencies"]
    named = {
        extra for page in PAGES for extra in re.findall(r"'\.\[(\w+)\]'", page.read_text(encoding="utf-8"))
    }
    assert named
    assert named <= set(extras)


@pytest.mark.parametrize(("page", "command"), [each for each in commands() if "p2pfl" in each[1].split()[0]])
def test_every_p2pfl_command_of_a_page_parses(page: str, command: str) -> None:
    words = [
        re.sub("|".join(PLACES), lambda found: PLACES[found[0]], each) for each in shlex.split(command)[1:]
    ]
    parser_for(words).parse_args(words)  # Leaves with code 2 where it does not parse.


def test_the_commands_of_all_pages_are_looked_at() -> None:
    assert sum("p2pfl" in command.split()[0] for _, command in commands()) >= 8


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path) if path else page
        assert target.exists(), f"{page.name} leads to {link}"
        assert not anchor or anchor in anchors(target), f"{page.name} leads to {link}"


def test_pages_that_the_code_names_exist() -> None:
    for name in tracked():
        if name.endswith((".py", ".sol", ".toml")):
            for page in re.findall(r"\bdocs/[a-z_]+\.md", text_of(name)):
                assert (ROOT / page).is_file(), f"{name} names {page}"


def test_the_page_of_settings_is_the_table() -> None:
    assert text_of("docs/settings.md") == config.reference(), "python -m p2pfl.config > docs/settings.md"


def test_exit_codes_are_all_in_the_handbook_and_no_others() -> None:
    table = text_of("docs/operators.md").partition("## Exit codes")[2]
    told = {int(code) for code in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)}
    codes = {value for name, value in vars(errors).items() if name.startswith("EXIT_")}
    codes |= {value for name, value in vars(failures).items() if name.startswith("EXIT_")}
    assert told == codes


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_every_metric_is_in_the_handbook(metric) -> None:
    assert f"| `{metric.name}` | {metric.kind} | {metric.help} |" in text_of("docs/operators.md")


@pytest.mark.parametrize("reason", REASONS)
def test_every_finding_of_an_audit_is_explained(reason: str) -> None:
    assert f"| `{reason}` | {REASONS[reason]} |" in text_of("docs/auditors.md")


def test_the_tables_of_attacks_and_scenarios_are_those_of_the_code() -> None:
    page = text_of("docs/testnet.md")
    assert handbook.fill(page) == page, "python -m testnet.handbook docs/testnet.md"
    assert all(f"\n| `{name}` |" in page for name in (*scenarios.known(), *attacks.UNTARGETED))


def test_the_changelog_speaks_of_this_version() -> None:
    assert f"\n## {p2pfl.__version__} " in text_of("CHANGELOG.md")


def test_pages_quote_only_figures_that_have_a_command() -> None:
    """Each table of docs/performance.md stands under the command that measured it."""
    for section in text_of("docs/performance.md").split("\n## ")[1:]:
        if "\n|" in section:
            assert re.search(r"^```bash\n", section, re.MULTILINE), section.splitlines()[0]


def test_the_handbook_names_what_a_run_prints_for_programs() -> None:
    table = text_of("docs/testnet.md").partition("## For programs")[2]
    told = set(re.findall(r"`(\w+)`", table)) - {"p50", "p95"}
    source = (ROOT / "testnet" / "result.py").read_text(encoding="utf-8").partition("def as_json")[2]
    printed = set(re.findall(r'^            "(\w+)":', source.partition("def save")[0], re.MULTILINE))
    assert told == printed
