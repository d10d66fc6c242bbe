"""What a member may be asked for stays on its disk, however far its group runs ahead of the council."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from p2pfl.rounds import own
from p2pfl.rounds.own import KEEP_EPOCHS, KEEP_ROUNDS, OwnRounds
from p2pfl.rules.state import CouncilState
from p2pfl.signed import SignedParamTx
from tests.audit.chain import LIAR, build, member_of
from tests.rounds.test_retention import Kept

ROUNDS = KEEP_ROUNDS + 10


def signed(height: int) -> SignedParamTx:
    from dataclasses import replace

    first = build().body("g1", 0).txs[0]
    return replace(first, tx=replace(first.tx, height=height))


def kept(rounds: OwnRounds) -> tuple[list[int], list[int]]:
    """Heights with a commitment, and with states."""
    heights = range(ROUNDS)
    return (
        [height for height in heights if rounds.commitment(height)],
        [height for height in heights if rounds.states(height)],
    )


def test_only_what_the_council_has_counted_is_forgotten_and_no_round_of_an_open_case(tmp_path: Path) -> None:
    rounds = OwnRounds(tmp_path)
    for height in range(ROUNDS):
        rounds.save(signed(height), [b"state"])
        rounds.forget(height, counted=4, asked=[2])
    newest = list(range(ROUNDS - KEEP_ROUNDS, ROUNDS))
    assert kept(rounds) == ([2, *range(5, ROUNDS)], [2, *newest])
    rounds.forget(ROUNDS - 1, counted=ROUNDS - 1, asked=[])
    assert kept(rounds) == (newest, newest)


def test_the_rounds_of_an_epoch_of_an_open_case_stay(tmp_path: Path) -> None:
    history = Kept(build(), tmp_path / "node", council_blocks=2)
    state: CouncilState = history.view.tip
    context = SimpleNamespace(
        genesis=build().genesis,
        council=SimpleNamespace(tip=state),
        me=member_of(LIAR),
        directory=tmp_path,
        name="g1",
        committee=SimpleNamespace(epoch=KEEP_EPOCHS),
    )
    (asked,) = own.rounds_asked(context)  # type: ignore[arg-type]
    assert asked[:2] == ("g2", 0)
    for name in ("g1", "g2"):
        OwnRounds.of(tmp_path, name, 0)
    OwnRounds.begin(context)  # type: ignore[arg-type]
    assert sorted(path.name for path in (tmp_path / "own").iterdir()) == [f"g1.{KEEP_EPOCHS}", "g2.0"]
    history.store.close()
