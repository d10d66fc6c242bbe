"""Long lines for network namespaces, in user space: delay, loss and a rate for every packet, as netem does.

    node's namespace:  eth0 (tun) <--descriptor--> this process <--descriptor--> eth0 of another node

Many kernels, those of small virtual machines among them, are built without sch_netem. A packet of a node
waits for its uplink (`rate`), is lost by chance, travels for half a round trip, waits for the receiver's
downlink, and arrives. A queue that is full drops, as a router's does. TCP sees all this in real packets of
1,500 bytes. Runs as a process of its own (`main`), so that no node's work delays a packet; knows no node.
"""

from __future__ import annotations

import argparse
import heapq
import os
import select
import sys
import time
from dataclasses import dataclass
from random import Random

from testnet.zygote import die_with_parent

MTU_BYTES = 1500
# What one line may hold back before it drops: a tenth of a second of 20 Mbit/s, as home routers have.
QUEUE_S = 0.1
# Packets read of one device before the others' turn: a few milliseconds of one line's rate.
BURST_PACKETS = 64
_IPV4_SOURCE, _IPV4_DESTINATION = slice(12, 16), slice(16, 20)


@dataclass(frozen=True)
class Line:
    """What a line does. round_trip_s: of two nodes; loss: of packets, each way; rate: of each node, each way.

    rate_bits_s 0: as fast as it goes.
    """

    round_trip_s: float = 0.1
    loss: float = 0.01
    rate_bits_s: int = 20_000_000

    def arguments(self) -> list[str]:
        """As `main` reads them."""
        return [str(self.round_trip_s), str(self.loss), str(self.rate_bits_s)]


class Wire:
    """One direction of one node's line: packets leave one after the other, at its rate."""

    def __init__(self, rate_bits_s: int) -> None:
        self._byte_s = 8 / rate_bits_s if rate_bits_s else 0.0
        self._free_s = 0.0

    def leaves_s(self, now_s: float, size: int) -> float | None:
        """When the last bit of a packet that comes now has left; None: the queue is full."""
        begins_s = max(now_s, self._free_s)
        if begins_s - now_s > QUEUE_S:
            return None
        self._free_s = begins_s + size * self._byte_s
        return self._free_s


class Office:
    """Packets under way. `take` what a node sends, `due` gives what arrives by now, to which node."""

    def __init__(self, line: Line, chance: Random) -> None:
        self._line = line
        self._chance = chance
        self._up: dict[int, Wire] = {}
        self._down: dict[int, Wire] = {}
        self._where: dict[bytes, int] = {}
        self._way: list[tuple[float, int, bool, int, bytes]] = []
        self._count = 0
        self.lost = self.dropped = 0

    def take(self, node: int, packet: bytes, now_s: float) -> None:
        """A packet that this node sends; where its own address is, is learnt from it."""
        if packet[:1] < b"\x40" or packet[:1] >= b"\x50":
            return  # Not IPv4: nobody here speaks anything else.
        self._where[packet[_IPV4_SOURCE]] = node
        wire = self._up.setdefault(node, Wire(self._line.rate_bits_s))
        left_s = wire.leaves_s(now_s, len(packet))
        if left_s is None:
            self.dropped += 1
        elif self._chance.random() < self._line.loss:
            self.lost += 1
        elif (to := self._where.get(packet[_IPV4_DESTINATION])) is not None:
            self._push(left_s + self._line.round_trip_s / 2, False, to, packet)

    def know(self, address: bytes, node: int) -> None:
        """Who has this address before it has said anything."""
        self._where[address] = node

    def due(self, now_s: float) -> list[tuple[int, bytes]]:
        """What has arrived, in its order."""
        arrived: list[tuple[int, bytes]] = []
        while self._way and self._way[0][0] <= now_s:
            at_s, _, through, node, packet = heapq.heappop(self._way)
            if through:
                arrived.append((node, packet))
                continue
            wire = self._down.setdefault(node, Wire(self._line.rate_bits_s))
            out_s = wire.leaves_s(at_s, len(packet))
            if out_s is None:
                self.dropped += 1
            else:
                self._push(out_s, True, node, packet)
        return arrived

    def wait_s(self, now_s: float) -> float | None:
        """Until the next packet moves; None: none is under way."""
        return max(0.0, self._way[0][0] - now_s) if self._way else None

    def _push(self, at_s: float, through: bool, node: int, packet: bytes) -> None:
        self._count += 1
        heapq.heappush(self._way, (at_s, self._count, through, node, packet))


def serve(office: Office, devices: list[int]) -> None:
    """Until a device is gone with its launcher."""
    poll = select.epoll()
    for device in devices:
        poll.register(device, select.EPOLLIN)
    while True:
        wait_s = office.wait_s(time.monotonic())
        for device, event in poll.poll(-1 if wait_s is None else wait_s):
            if event & select.EPOLLIN:
                _read(office, device)
        for device, packet in office.due(time.monotonic()):
            try:
                os.write(device, packet)
            except OSError:  # The device is down: the packet is lost on a line that is cut.
                office.dropped += 1


def _read(office: Office, device: int) -> None:
    for _ in range(BURST_PACKETS):
        try:
            packet = os.read(device, MTU_BYTES + 64)
        except OSError:  # Nothing more, or the device is down.
            return
        office.take(device, packet, time.monotonic())


def main() -> int:
    """`python -m tests.live.line PARENT ROUND_TRIP_S LOSS RATE_BITS_S ADDRESS=DESCRIPTOR...`."""
    parser = argparse.ArgumentParser(prog="python -m tests.live.line")
    parser.add_argument("parent", type=int)
    parser.add_argument("round_trip_s", type=float)
    parser.add_argument("loss", type=float)
    parser.add_argument("rate_bits_s", type=int)
    parser.add_argument("devices", nargs="+", metavar="ADDRESS=DESCRIPTOR")
    told = parser.parse_args()
    die_with_parent(told.parent)
    os.nice(-15)  # A packet that is due must not wait for a node's training.
    office = Office(Line(told.round_trip_s, told.loss, told.rate_bits_s), Random(1))
    devices: list[int] = []
    for each in told.devices:
        address, _, descriptor = each.partition("=")
        os.set_blocking(int(descriptor), False)
        office.know(bytes(int(part) for part in address.split(".")), int(descriptor))
        devices.append(int(descriptor))
    serve(office, devices)
    return 0


if __name__ == "__main__":
    sys.exit(main())
