"""The long line does to packets what it says: in a fixed time of its own, no clock and no socket."""

from __future__ import annotations

from random import Random

from tests.live.line import QUEUE_S, Line, Office

HERE, THERE, NEW = bytes([10, 0, 0, 1]), bytes([10, 0, 0, 2]), bytes([10, 0, 0, 9])


def packet(source: bytes, to: bytes, size: int = 1500) -> bytes:
    return b"\x45" + bytes(11) + source + to + bytes(size - 20)


def office(line: Line) -> Office:
    made = Office(line, Random(1))
    made.know(HERE, 1)
    made.know(THERE, 2)
    return made


def test_a_packet_travels_half_a_round_trip_and_waits_at_both_ends() -> None:
    line = office(Line(round_trip_s=0.1, loss=0.0, rate_bits_s=1_200_000))  # 10 ms for 1,500 bytes.
    line.take(1, packet(HERE, THERE), 0.0)
    assert line.due(0.0599) == []  # 10 ms of the uplink and 50 ms of way.
    assert line.due(0.0601) == []  # Now it waits for the downlink.
    assert line.due(0.0701) == [(2, packet(HERE, THERE))]
    assert line.wait_s(1.0) is None


def test_packets_leave_one_after_the_other_and_a_full_queue_drops() -> None:
    line = office(Line(round_trip_s=0.0, loss=0.0, rate_bits_s=1_200_000))
    for _ in range(100):
        line.take(1, packet(HERE, THERE), 0.0)
    held = int(QUEUE_S / 0.01) + 1
    assert 100 - held - 1 <= line.dropped <= 100 - held
    assert len(line.due(0.05001)) + len(line.due(10.0)) + line.dropped == 100


def test_so_many_are_lost_as_it_says_and_the_others_keep_their_order() -> None:
    line = office(Line(round_trip_s=0.1, loss=0.01, rate_bits_s=0))
    for number in range(20_000):
        line.take(1, packet(HERE, THERE, 20 + number % 1000), 0.0)
    assert 120 < line.lost < 280  # Six standard deviations round 200.
    sizes = [len(data) - 20 for _, data in line.due(1.0)]
    assert len(sizes) == 20_000 - line.lost
    steps = [(after - before) % 1000 for before, after in zip(sizes, sizes[1:], strict=False)]
    assert set(steps) <= {1, 2, 3, 4}


def test_who_moves_is_found_again_by_what_it_sends_and_nobody_else_is() -> None:
    line = office(Line(round_trip_s=0.0, loss=0.0, rate_bits_s=0))
    line.take(1, packet(HERE, NEW), 0.0)
    line.take(1, b"\x60" + bytes(60), 0.0)  # IPv6: nobody here speaks it.
    line.take(1, b"", 0.0)
    assert line.due(1.0) == []
    line.take(2, packet(NEW, HERE), 1.0)
    line.take(1, packet(HERE, NEW), 1.0)
    assert [node for node, _ in line.due(1.0)] == [1, 2]
