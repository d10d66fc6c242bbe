"""Whatever people do in whatever order, the ether is where it should be."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from consensus.signing import address
from p2pfl.errors import UserError
from p2pfl.evm import Reverted, State, verdict_key
from tests.contracts.test_equivocation import GUILTY, evidence
from tests.contracts.world import FIRST_STAKER, STAKE_WEI, VETO, World, a_verdict, id_of, verdict_words

STEPS = 40


@pytest.mark.parametrize("seed", [1, 2])
def test_the_books_balance_after_every_step(world: World, seed: int) -> None:
    chance = Random(seed)
    functions, judging = world.registry.functions, world.manager.functions
    verdicts: list[Any] = []
    done: dict[str, int] = {}

    def attempt(name: str, call: Any, by: int, value: int = 0) -> None:
        try:
            mined = world.send(call, by=by, value=value)
        except Reverted:
            return
        done[name] = done.get(name, 0) + 1
        for told in world.events(mined, world.registry.events.Withdrawn):
            member = told["member"]
            # Nobody leaves with a verdict pending.
            assert not [
                verdict for verdict in verdicts
                if world.staking.judgement(verdict_key(verdict)).state is State.PENDING
                and "0x" + verdict.accused.hex() == member.lower()
            ]  # fmt: skip

    for step in range(STEPS):
        key = chance.choice(world.members)
        by = world.staker(key)
        match chance.choice(
            ["up", "leave", "out", "claim", "verdict", "end", "veto", "proof", "time", "back"]
        ):
            case "up":
                attempt("up", functions.topUp(id_of(key)), by, chance.randint(1, STAKE_WEI))
            case "leave":
                attempt("leave", functions.requestUnbonding(id_of(key)), by)
            case "out":
                attempt("out", functions.withdraw(id_of(key), world.accounts[50].address), by)
            case "claim":
                account = chance.choice([1, 3, FIRST_STAKER])
                attempt("claim", functions.claim(world.accounts[account].address), by)
            case "verdict":
                verdict = a_verdict(key, height=step, offence=chance.choice([16, 20, 32]))
                signatures = world.certify(verdict, world.seats[:3])
                attempt("verdict", judging.submitVerdict(verdict_words(verdict), 0, signatures), by)
                verdicts.append(verdict)
            case "end" if verdicts:
                chosen = verdict_key(chance.choice(verdicts))
                attempt("execute", judging.executeVerdict(chosen), by)
                attempt("expire", judging.expireVerdict(chosen), by)
            case "veto" if verdicts:
                attempt("veto", judging.cancelVerdict(verdict_key(chance.choice(verdicts))), VETO)
            case "proof" if step > STEPS // 2:
                attempt("proof", evidence(world, *GUILTY["E3"][:2], key), 3)
            case "time":
                world.pass_time(chance.choice([1, 60, 500]))
            case "back" if world.stake(key) == 0:
                try:
                    world.deposit(key, by)
                    done["back"] = done.get("back", 0) + 1
                except UserError:
                    pass
            case _:
                pass
        world.balance_is_kept()
        for member in [key] if step + 1 < STEPS else world.members:
            state = world.staking.member(address(member.public_key))
            pending = [
                verdict for verdict in verdicts
                if verdict.accused == address(member.public_key)
                and world.staking.judgement(verdict_key(verdict)).state is State.PENDING
            ]  # fmt: skip
            assert state.freezes == len(pending)
            assert not (state.tombstoned and state.stake_wei)
    world.stakes_add_up()
    # The walk went through the interesting doors.
    assert {"up", "leave", "verdict"} <= set(done), (seed, done)
