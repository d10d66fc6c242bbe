"""A seat says that nothing was opened only when the accused brought nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio

from consensus.types import Digest, MemberId
from p2pfl.errors import PeerFault, UserError
from p2pfl.learn.labels import LabelsJudged
from p2pfl.learn.worker import TaskFailed, WorkerDied
from p2pfl.rounds import inquiry
from p2pfl.rounds.inquiry import FAILURES_MAX, Inquiry, Offer
from p2pfl.rounds.pulse import Pulse
from p2pfl.rules.state import REPLAYED, UNOPENED
from p2pfl.signed import SignedMeasurement

ACCUSED, SEAT = MemberId(b"a" * 20), MemberId(b"s" * 20)
GOOD, JUNK, BENT = Digest(b"g" * 32), Digest(b"j" * 32), Digest(b"b" * 32)
BASE_ID, UPDATE_ID = Digest(b"B" * 32), Digest(b"U" * 32)
DEADLINE, LONGEST = 5, 1000
FULL = UserError("the disk is full", because="nothing is left", fix="make room")


class Bench:
    """One inquiry with everything around it replaced. `signed`: the statuses, in their order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.served: dict[Digest, bytes] = {GOOD: b"opening", BENT: b"bent", UPDATE_ID: b"update"}
        self.labels: list[tuple[int, int]] = []
        self.judges = True
        self.offers: list[Offer] = []
        self.signed: list[int] = []
        self.height = 0
        self.passed_ms = 1_000_000  # Since the case's block, by header times.
        self.base_id, self.exponents = BASE_ID, (0,)
        self.replay: Callable[[], Awaitable[int]] = self._replayed
        tx = SimpleNamespace(member=ACCUSED, base_id=BASE_ID, blob_id=UPDATE_ID, byte_length=6)
        body = SimpleNamespace(
            txs=[SimpleNamespace(tx=tx)],
            base=SimpleNamespace(council_block_id=Digest(bytes(32))),
            exponents=(0,),
        )
        chain = SimpleNamespace(
            name="g0", height=3, get=lambda _: SimpleNamespace(block=SimpleNamespace(body=body))
        )

        async def aside(work: Any, *arguments: Any) -> Any:
            return work(*arguments)

        async def recall(_: Digest, *, least_height: int) -> Any:
            return SimpleNamespace(exponents=self.exponents)

        context: Any = SimpleNamespace(
            others=(SEAT,),
            seats=(SEAT,),
            aside=aside,
            name_of=lambda member: member.decode(),
            me=SEAT,
            domain=None,
            observe=lambda *_: None,
            council=SimpleNamespace(recall=recall, chain=self),
            guard=SimpleNamespace(sign_plain=lambda domain, struct: bytes(65)),
            network=SimpleNamespace(send=lambda *_: None, broadcast=lambda *_: None),
            shelf=SimpleNamespace(need=self._need, show=lambda *_: None),
            trainer=SimpleNamespace(replay_segment=None, judge_labels=self._judge),
            genesis=SimpleNamespace(
                task=SimpleNamespace(layout=None),
                times=SimpleNamespace(train_ms=30_000, collect_ms=2_000),
                group_names={b"": "g0"},
                rules=SimpleNamespace(case_blocks=8, replay_max_ppm=100),
            ),
            roster=SimpleNamespace(committee=lambda *_: SimpleNamespace(members=(ACCUSED,)), entries={}),
        )
        case: Any = SimpleNamespace(
            case_id=Digest(b"c" * 32),
            group_id=b"",
            epoch=0,
            height=3,
            accused=ACCUSED,
            deadline_height=DEADLINE,
        )
        monkeypatch.setattr(inquiry, "decode_body", lambda body, kind: body)
        monkeypatch.setattr(inquiry, "read_opening", self._read)
        job = SimpleNamespace(x=None, y=None)
        monkeypatch.setattr(inquiry, "job_of_opening", lambda *_: job)
        monkeypatch.setattr(inquiry, "opening_bytes_max", lambda *_: LONGEST)
        monkeypatch.setattr(inquiry, "parse_update", lambda *_: None)
        monkeypatch.setattr(inquiry, "base_of_block", self._base)
        monkeypatch.setattr(inquiry, "blob_id", lambda _: self.base_id)
        monkeypatch.setattr(inquiry, "measure", lambda *_, **__: self.replay())
        state = SimpleNamespace(cases={case.case_id: SimpleNamespace(opened_epoch=0, opened_height=0)})
        self._make = lambda: Inquiry(
            context,
            case,
            cast(Any, chain),
            pulse=Pulse(),
            offers=lambda: self.offers,
            state=lambda: cast(Any, SimpleNamespace(height=self.height, **vars(state))),
            keep=self._keep,
        )
        self.inquiry = self._make()

    @property
    def tip(self) -> Any:
        """Header of the council's newest block."""
        return SimpleNamespace(time_ms=self.passed_ms)

    def get(self, _: int) -> Any:
        """The council's block that opened the case."""
        return SimpleNamespace(block=SimpleNamespace(header=SimpleNamespace(time_ms=0)))

    def begin_again(self) -> None:
        """As a seat that was started anew."""
        self.inquiry = self._make()

    async def _need(self, blob_id: Digest, length: int, *_: Any, timeout_s: float = 60.0, **__: Any) -> bytes:
        if blob_id not in self.served or len(self.served[blob_id]) != length:
            await trio.sleep(timeout_s)
            raise PeerFault("blob_missing")
        return self.served[blob_id]

    async def _base(self, *_: Any) -> Any:
        return SimpleNamespace(to_bytes=lambda: b"")

    def _keep(self, signed: SignedMeasurement) -> None:
        measured = signed.measurement
        self.signed.append(measured.status)
        self.labels.append((measured.disagree_ppm, measured.expected_ppm))

    async def _judge(self, *_: Any) -> LabelsJudged:
        if not self.judges:
            raise TaskFailed("no test set")
        return LabelsJudged(700_000, 20_000)

    async def _replayed(self) -> int:
        return 0

    def _read(self, data: bytes, tx: Any) -> bytes:
        if data == b"bent":
            raise PeerFault("bad_opening")
        return data

    async def run(self, seconds: float) -> None:
        with trio.move_on_after(seconds):
            await self.inquiry.run()


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(monkeypatch)


async def test_what_was_brought_in_time_is_measured_and_nothing_else_is_said(
    autojump_clock: object, bench: Bench
) -> None:
    bench.offers, bench.height = [(ACCUSED, GOOD, 7)], DEADLINE + 1
    await bench.run(100)
    assert bench.signed == [REPLAYED]


async def test_what_matches_its_replay_is_judged_by_its_labels_too(
    autojump_clock: object, bench: Bench
) -> None:
    bench.offers = [(ACCUSED, GOOD, 7)]
    await bench.run(30)
    assert (bench.signed, bench.labels) == ([REPLAYED], [(700_000, 20_000)])


async def test_a_seat_that_cannot_judge_labels_says_nothing_of_them(
    autojump_clock: object, bench: Bench
) -> None:
    bench.offers, bench.judges = [(ACCUSED, GOOD, 7)], False
    await bench.run(30)
    assert (bench.signed, bench.labels) == ([REPLAYED], [(0, 1_000_000)])


async def test_after_the_deadline_a_seat_says_that_nothing_was_brought(
    autojump_clock: object, bench: Bench
) -> None:
    await bench.run(100)
    assert bench.signed == []
    bench.height = DEADLINE
    await bench.run(100)
    assert bench.signed == [UNOPENED]


async def test_an_offer_that_nobody_serves_holds_up_no_other(autojump_clock: object, bench: Bench) -> None:
    bench.offers = [(SEAT, JUNK, 7), (ACCUSED, GOOD, 7)]
    await bench.run(2)
    assert bench.signed == [REPLAYED]


async def test_what_is_served_late_is_asked_for_again(autojump_clock: object, bench: Bench) -> None:
    bench.offers = [(ACCUSED, JUNK, 7)]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.run, 80)
        await trio.sleep(40)
        bench.served[JUNK] = b"opening"
    assert bench.signed == [REPLAYED]


async def test_bytes_that_are_no_opening_are_nothing(autojump_clock: object, bench: Bench) -> None:
    bench.offers, bench.height = [(ACCUSED, BENT, 4)], DEADLINE
    await bench.run(100)
    assert bench.signed == [UNOPENED]


@pytest.mark.parametrize("raised", [WorkerDied("x"), TaskFailed("x"), FULL])
async def test_a_failure_of_the_seat_is_tried_again_and_not_held_against_the_accused(
    autojump_clock: object, bench: Bench, raised: Exception
) -> None:
    fails = iter([raised] * (FAILURES_MAX - 1))

    async def replay() -> int:
        if (error := next(fails, None)) is not None:
            raise error
        return 0

    bench.replay, bench.offers, bench.height = replay, [(ACCUSED, GOOD, 7)], DEADLINE
    await bench.run(100)
    assert bench.signed == [REPLAYED]


async def test_a_seat_whose_disk_is_full_says_nothing(autojump_clock: object, bench: Bench) -> None:
    async def replay() -> int:
        raise FULL

    bench.replay, bench.offers, bench.height = replay, [(ACCUSED, GOOD, 7)], DEADLINE
    await bench.run(100)
    assert bench.signed == []


async def test_an_opening_that_ends_every_replay_opens_nothing(autojump_clock: object, bench: Bench) -> None:
    async def replay() -> int:
        raise TaskFailed("killed")

    bench.replay, bench.offers, bench.height = replay, [(ACCUSED, GOOD, 7)], DEADLINE
    await bench.run(100)
    assert bench.signed == [UNOPENED]


async def test_who_keeps_its_own_update_to_itself_has_opened_nothing(
    autojump_clock: object, bench: Bench
) -> None:
    del bench.served[UPDATE_ID]
    bench.offers, bench.height = [(ACCUSED, GOOD, 7)], DEADLINE
    await bench.run(100)
    assert bench.signed == [UNOPENED]


@pytest.mark.parametrize("offered", [True, False])
@pytest.mark.parametrize("what", ["base", "exponents"])
async def test_a_block_that_its_quorum_falsified_accuses_nobody(
    autojump_clock: object, bench: Bench, what: str, offered: bool
) -> None:
    if what == "base":
        bench.base_id = Digest(b"X" * 32)
    else:
        bench.exponents = (8,)
    bench.offers, bench.height = [(ACCUSED, GOOD, 7)] if offered else [], DEADLINE + 3
    await bench.run(100)
    assert bench.signed == []


async def test_a_base_that_is_not_to_be_had_accuses_nobody(
    autojump_clock: object, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def missing(*_: Any) -> Any:
        raise PeerFault("blob_missing")

    monkeypatch.setattr(inquiry, "base_of_block", missing)
    bench.offers, bench.height = [(ACCUSED, GOOD, 7)], DEADLINE + 3
    await bench.run(100)
    assert bench.signed == []


async def test_an_accused_that_offers_and_serves_nothing_has_opened_nothing(
    autojump_clock: object, bench: Bench
) -> None:
    """However many blocks pass: its offer is fetched for as long as a slow link may need."""
    bench.offers, bench.height = [(ACCUSED, JUNK, 7)], DEADLINE + 9
    await bench.run(29)
    assert bench.signed == []
    bench.begin_again()
    await bench.run(40)
    assert bench.signed == [UNOPENED]


async def test_quick_blocks_leave_the_accused_its_time(autojump_clock: object, bench: Bench) -> None:
    """4 rounds of 32 s and an outage of 20 trainings of 30 s: 728 s, and 8 ms for the bytes."""
    bench.height, bench.passed_ms = DEADLINE + 5, 728_000
    await bench.run(100)
    assert bench.signed == []
    bench.passed_ms = 728_008
    await bench.run(100)
    assert bench.signed == [UNOPENED]


async def test_what_is_not_answered_is_said_before_the_case_lapses(
    autojump_clock: object, bench: Bench
) -> None:
    bench.height, bench.passed_ms = DEADLINE + 6, 0
    await bench.run(100)
    assert bench.signed == [UNOPENED]


async def test_an_offer_longer_than_any_opening_of_the_round_is_none(
    autojump_clock: object, bench: Bench
) -> None:
    bench.offers, bench.height = [(ACCUSED, JUNK, LONGEST + 1)], DEADLINE
    await bench.run(20)
    assert bench.signed == [UNOPENED]


async def test_a_seat_that_tells_a_wrong_length_is_in_nobodys_way(
    autojump_clock: object, bench: Bench
) -> None:
    bench.offers = [(SEAT, GOOD, 8)]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.run, 10)
        await trio.sleep(3)
        bench.offers.append((ACCUSED, GOOD, 7))
    assert bench.signed == [REPLAYED]


async def test_a_worker_that_dies_again_and_again_proves_nothing(
    autojump_clock: object, bench: Bench
) -> None:
    async def replay() -> int:
        raise WorkerDied("out of memory")

    bench.replay, bench.offers, bench.height = replay, [(ACCUSED, GOOD, 7)], DEADLINE + 9
    await bench.run(100)
    assert bench.signed == []


async def test_a_bug_of_ours_is_not_held_against_the_accused(autojump_clock: object, bench: Bench) -> None:
    async def replay() -> int:
        raise RuntimeError("ours")

    bench.replay, bench.offers, bench.height = replay, [(ACCUSED, GOOD, 7)], DEADLINE + 9
    await bench.run(100)
    assert bench.signed == []
