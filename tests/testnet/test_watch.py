"""What a run looks like: one sentence for each thing that happened, however many nodes tell of it."""

from __future__ import annotations

import io
from typing import Any

from testnet.facts import Event
from testnet.scenarios import load
from testnet.story import Story
from testnet.watch import Watch, cells

TX = "0x" + "ab" * 32
SEATS = [f"seat{i}" for i in range(4)]
CANDIDATE = {"member": "g2m3", "score": 12, "with": -0.12, "without": 0.81}


def recorded() -> list[Event]:
    """A sign-flipper's way, as twelve members and four seats tell it."""
    events: list[Event] = []

    def tell(name: str, kind: str, /, **fields: Any) -> None:
        events.append(Event(name, kind, fields, len(events) / 10))

    for name in (*load("sign_flip").member_names, *SEATS):
        tell(name, "started", name=name, explorer=None)
    for member in range(4):
        place = {"group": "g2", "height": 4, "round": 0, "quorum": 3}
        tell(f"g2m{member}", "step", **place, step="train", votes=member)
        tell(f"g2m{member}", "step", **place, step="commit", votes=3)
        block = {"block_id": "0x1", "proposer": "g2m0", "seconds": 1.0, "left_out": []}
        tell(f"g2m{member}", "decided", group="g2", height=4, round=0, **block)
    case = {"case_id": "0xc", "group": "g2", "height": 4, "accused": "g2m3", "cause": "group_apart"}
    for seat in SEATS:
        rows = {"members": ["g0", "g1", "g2"], "distance": [0.8, 0.7, -0.12], "left_out": ["g2"]}
        block = {"block_id": "0x2", "proposer": "seat0", "seconds": 1.0, "counted": [["g2", 4]]}
        tell(seat, "decided", group="council", height=4, round=0, **block, **rows)
        tell(seat, "case", **case, candidates=[CANDIDATE], blobs_fetched=1)
        tell(seat, "measured", case_id="0xc", seat=seat, worst_ppm=1_980_000, status=0)
    for seat in SEATS:
        tell(seat, "outcome", case_id="0xc", accused="g2m3", outcome="guilty")
        tell(seat, "verdict", case_id="0xc", accused="g2m3", offence=16, signatures=3)
        tell(seat, "submitted", what="verdict", accused="g2m3", tx=TX)
        tell(seat, "slashed", accused="g2m3", amount_wei=10**18, tx=TX, offence=16)
    return events


def lines_of(events: list[Event], *, replay_max_ppm: int = 250_000) -> list[str]:
    story = Story(load("sign_flip"), replay_max_ppm)
    return [line for event in events for line in story.take(event)]


def test_the_story_of_a_sign_flipper() -> None:
    assert lines_of(recorded()) == [
        "council block 4: leaves out g2",
        "round 4: group g2 stands apart (cosine -0.12)",
        "council: 1 candidate found through the warnings filter (g2m3), 1 blob fetched",
        "council: without g2m3 the cosine of g2 goes from -0.12 to 0.81; it must open its round",
        *[f"{seat} replayed g2m3's round: distance 1.98 (threshold 0.25)" for seat in SEATS],
        "council: g2m3 is guilty",
        "verdict certified by 3 of 4 seats: g2m3, replay mismatch",
        f"g2m3: the verdict waits on chain for objections, submitted by seat0 in tx {TX[:10]}..",
        f"slashed: 1 ETH of g2m3 by tx {TX}",
    ]


def test_rows_show_the_furthest_member_and_the_groups_cosine() -> None:
    story = Story(load("sign_flip"), 250_000)
    for event in recorded():
        story.take(event)
    story.take(Event("g2m1", "step", {"group": "g2", "height": 4, "round": 0, "step": "train"}, 9.0))
    assert cells(story.rows["g2"]) == ("g2", "4", "0", "decided", "", "", "-0.12")
    assert cells(story.rows["g0"])[-1] == "0.80"
    vote = {"group": "g2", "height": 5, "round": 0, "step": "prepare", "votes": 2, "quorum": 3}
    story.take(Event("g2m1", "step", vote, 9.0))
    story.take(Event("g2m1", "evaluated", {"group": "g2", "height": 4, "accuracy": 0.934}, 9.0))
    assert cells(story.rows["g2"]) == ("g2", "5", "0", "prepare", "2/3", "93.4%", "-0.12")


def test_a_round_change_names_who_gave_way_to_whom() -> None:
    change = {"group": "g1", "height": 6, "round": 1, "step": "wait", "votes": 0, "quorum": 3}
    events = [Event(f"g1m{i}", "step", change, 1.0) for i in range(4)]
    assert lines_of(events) == ["round 6: g1 goes on with g1m3 in the place of g1m2 (consensus round 1)"]


def test_without_a_terminal_there_are_plain_lines_only() -> None:
    out = io.StringIO()
    with Watch(Story(load("sign_flip"), 250_000), out=out) as watch:
        for event in recorded():
            watch.show(event)
            watch.draw(event.at_s)
        watch.say("the end")
    text = out.getvalue()
    assert all(char.isprintable() or char == "\n" for char in text)
    assert len(text.splitlines()) == len(lines_of(recorded())) + 1
    assert text.endswith("the end\n")


def test_on_a_terminal_the_table_has_a_row_for_each_group() -> None:
    out = io.StringIO()
    with Watch(Story(load("sign_flip"), 250_000), out=out, live=True) as watch:
        for event in recorded():
            watch.show(event)
        watch.draw(9.0)
    text = out.getvalue()
    assert "16 of 16 processes" in text
    for word in ("g0", "g1", "g2", "council", "-0.12", "slashed: 1 ETH of g2m3"):
        assert word in text


def test_what_a_peer_wrote_cannot_steer_the_terminal() -> None:
    fault = {"peer": "g0m0", "reason": "\x1b[2Jgone [bold]"}
    (line,) = lines_of([Event("g0m1", "fault", fault, 1.0)])
    assert line == "g0m1 refused something of g0m0: ?[2Jgone [bold]"
    out = io.StringIO()
    with Watch(Story(load("honest"), 1), out=out, live=True) as watch:
        watch.show(Event("g0m1", "fault", fault, 1.0))
    assert "[bold]" in out.getvalue()


def test_faults_do_not_flood_the_story() -> None:
    events = [Event("g0m1", "fault", {"peer": "g0m0", "reason": f"r{i % 50}"}, 1.0) for i in range(500)]
    assert len(lines_of(events)) == 20


def test_an_unknown_event_is_no_error() -> None:
    assert lines_of([Event("g0m1", "dreamt", {}, 1.0)]) == []
