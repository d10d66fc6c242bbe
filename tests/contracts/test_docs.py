"""docs/contracts.md says what is so."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from contracts import artifact
from p2pfl.evm.reverts import CONTRACTS
from p2pfl.offences import OFFENCES
from tests.contracts.gas import measure
from tests.contracts.world import STAKE_WEI, STRANGER, World

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "contracts.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", PAGE, flags=re.MULTILINE | re.DOTALL)
    assert found is not None, title
    return found[1]


def test_the_gas_table_is_what_the_contracts_use(world: World) -> None:
    told = {
        name: int(gas.replace(",", ""))
        for name, gas in re.findall(r"^\| ([^|]+) \| ([\d,]+) \|$", section("Gas"), flags=re.MULTILINE)
    }
    used = measure(world)
    assert set(told) == set(used)
    for name, gas in used.items():
        # Zero bytes of calldata are cheaper, and keys and addresses have them by chance.
        assert told[name] == pytest.approx(gas, rel=0.002), name


@pytest.mark.parametrize("contract", CONTRACTS)
@pytest.mark.parametrize("kind", ["event", "error", "function"])
def test_every_event_error_and_function_is_on_the_page(contract: str, kind: str) -> None:
    title = {"event": "Events", "error": "Errors", "function": "Functions"}[kind]
    inherited = {
        "transferOwnership", "acceptOwnership", "pendingOwner", "renounceOwnership", "OwnershipTransferred",
        "OwnershipTransferStarted", "ALL_BPS", "COMMITTEE_MAX", "PERIOD_MAX_SECONDS", "REPORTER_BPS",
        "CERTIFYING_COMMITTEE_MIN", "REPLAY_MISMATCH_BPS", "WRONG_FIELD_BPS", "NO_OPENING_BPS",
        "HEADER_VERSION", "EPOCHS_MAX", "DELAY_MAX_SECONDS",
    }  # fmt: skip
    names = {entry["name"] for entry in artifact(contract).abi if entry["type"] == kind}
    told = set(re.findall(r"[`\s(](\w+)", section(title)))
    assert names - inherited - told == set()


@pytest.mark.parametrize("name", re.findall(r"`(\w+\([\w, ]*\))`", section("Functions")))
def test_every_function_on_the_page_has_these_arguments(name: str) -> None:
    function, arguments = name.rstrip(")").split("(")
    wanted = [part for part in arguments.split(", ") if part]
    found = [
        [part["name"].rstrip("_") for part in entry["inputs"]]
        for contract in CONTRACTS
        for entry in artifact(contract).abi
        if entry["type"] == "function" and entry["name"] == function
    ]
    assert [one for one in found if len(one) == len(wanted)], (name, found)
    if any(all(one) for one in found):  # Getters of mappings have no names.
        assert wanted in found, (name, found)


def test_the_script_on_the_page_stakes(world: World) -> None:
    found = re.search(r"```python\n(.*?)```", section("From a script of your own"), flags=re.DOTALL)
    assert found is not None
    member = world.spare[0]
    given = {
        "REGISTRY": world.registry.address,
        "STAKE_KEY": world.accounts[STRANGER].key,
        "SIGNING_KEY": member.secret,
    }
    exec(found[1].replace("http://127.0.0.1:8545", world.url), given)  # the page's own words
    given["web3"].provider._request_session_manager.session_cache.clear()
    assert world.stake(member) == STAKE_WEI


def test_the_offences_are_those_of_the_records(world: World) -> None:
    read = world.staking._read
    penalties: dict[int, Any] = {16: "30 %", 17: "20 %", 18: "20 %", 19: "20 %", 20: "20 %", 32: "2 %"}
    assert set(penalties) | set(range(1, 8)) == set(OFFENCES)
    table = section("Who can lose what, and how")
    for code, part in penalties.items():
        assert part in table
        bps = read(world.manager.functions.penaltyOf(code, 1))
        assert f"{bps // 100} %" == part
