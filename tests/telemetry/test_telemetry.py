"""Log lines are sentences with fields; nobody writes into a terminal from afar; numbers are of the table."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from p2pfl import telemetry
from p2pfl.errors import UserError
from p2pfl.telemetry import METRICS, Counters, configure, logger, render


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    opened = io.StringIO()
    configure(level="debug", stream=opened)
    yield opened
    configure()


def test_a_line_is_a_time_a_level_a_room_a_sentence_and_fields() -> None:
    fields = {"round": 17, "group": "g2", "distance": 2.87654321, "id": b"\x01\xff"}
    line = render("info", "rounds", "group stands apart", fields, 1_700_000_000.25)
    expected = "info    rounds: group stands apart round=17 group=g2 distance=2.87654 id=0x01ff"
    assert line == f"2023-11-14T22:13:20.250Z {expected}"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("plain", "plain"), ("two words", '"two words"'), ("a=b", '"a=b"'), ("", '""'), ('"', '"\\""'),
        (None, "None"), (True, "True"),
    ],
)  # fmt: skip
def test_a_field_can_be_read_back(value: object, shown: str) -> None:
    assert render("info", "x", "y", {"f": value}, 0).endswith(f" f={shown}")


@pytest.mark.parametrize("bad", ["\x1b[2J\x1b[31m", "line\nline", "\r", "\x00", "\u202e", "\x9b1m"])
def test_a_peers_words_neither_break_a_line_nor_steer_a_terminal(bad: str) -> None:
    line = render("info", "net", f"somebody said {bad}", {"name": bad, "other": f"x{bad}y"}, 0)
    assert line.isprintable()
    assert len(line.splitlines()) == 1


def test_a_long_field_is_cut() -> None:
    assert len(render("info", "x", "y", {"f": "z" * 100_000, "g": b"q" * 100_000}, 0)) < 1000


def test_levels_and_rooms(stream: io.StringIO) -> None:
    log = logger("room")
    log.debug("a step", n=1)
    log.info("an outcome")
    log.warning("handled")
    log.error("see to it")
    told = [line.split()[1] for line in stream.getvalue().splitlines()]
    assert told == ["debug", "info", "warning", "error"]
    configure(level="warning", stream=stream)
    log.info("not shown")
    log.error("shown")
    assert len(stream.getvalue().splitlines()) == 5


def test_a_file_is_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    for _ in range(2):
        configure(path=path)
        logger("room").info("an outcome")
        configure()
    assert len(path.read_text().splitlines()) == 2
    with pytest.raises(UserError, match="cannot be written"):
        configure(path=tmp_path / "none" / "log.txt")
    with pytest.raises(UserError, match="no log level"):
        configure(level="loud")


def test_a_closed_stream_does_not_stop_a_node(stream: io.StringIO) -> None:
    stream.close()
    logger("room").info("nobody hears")


def test_counters_count_by_labels() -> None:
    counters = Counters()
    for reason in ("late", "late", "bad"):
        counters.count("peer_faults", reason=reason)
    counters.gauge("height", 3, chain="g1")
    counters.gauge("height", 4, chain="g1")
    assert counters.rows() == [
        ("height", {"chain": "g1"}, 4),
        ("peer_faults", {"reason": "bad"}, 1),
        ("peer_faults", {"reason": "late"}, 2),
    ]


def test_only_what_is_in_the_table_is_counted() -> None:
    counters = Counters()
    with pytest.raises(KeyError):
        counters.count("unheard_of")
    with pytest.raises(KeyError):
        counters.gauge("peer_faults", 1)
    assert len({metric.name for metric in METRICS}) == len(METRICS)


def test_threads_lose_no_count() -> None:
    counters = Counters()

    def work() -> None:
        for _ in range(1000):
            counters.count("votes_signed")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counters.rows() == [("votes_signed", {}, 4000)]


def test_every_metric_is_counted_somewhere() -> None:
    """A number that nobody counts is a promise that is not kept."""
    package = Path(telemetry.__file__).parent
    source = "".join(
        path.read_text(encoding="utf-8") for path in package.rglob("*.py") if path.name != "telemetry.py"
    )
    for metric in METRICS:
        verb = "count" if metric.kind == "counter" else "gauge"
        assert f'{verb}("{metric.name}"' in source, metric.name
