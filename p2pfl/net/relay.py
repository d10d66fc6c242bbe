"""Circuit relay v2: a member that nobody can call is reached through one that everybody can call.

    member behind a router --reserves--> member that serves <--connects-- another member behind a router

Standard protocol ids; the two ends shake hands with each other inside of the circuit, so the relay sees noise
and no more. Only members are served, and only members are reached. Knows peer ids and streams.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import trio

from p2pfl.net import patches
from p2pfl.net.interface import Unreachable
from p2pfl.net.peer_records import CIRCUIT
from p2pfl.net.pnet import ProtectedConn
from p2pfl.net.sockets import Sockets
from p2pfl.telemetry import logger

patches.install()

from libp2p.connection_types import ConnectionType  # noqa: E402 - once its version is known to be the right one.
from libp2p.network.connection.raw_connection import RawConnection  # noqa: E402
from libp2p.peer.id import ID  # noqa: E402
from libp2p.relay.circuit_v2.pb.circuit_pb2 import HopMessage, Status  # noqa: E402
from libp2p.relay.circuit_v2.protocol import PROTOCOL_ID, CircuitV2Protocol  # noqa: E402
from libp2p.relay.circuit_v2.resources import RelayLimits  # noqa: E402
from libp2p.relay.circuit_v2.utils import read_delimited_msg, write_delimited_msg  # noqa: E402
from libp2p.tools.anyio_service import background_trio_service  # noqa: E402
from multiaddr import Multiaddr  # noqa: E402

log = logger("net")

# Two ways in are enough when one of them goes away.
RELAYS_MAX = 2
# A reservation is good for an hour; whoever restarts its relay must not wait for so long.
RESERVE_S = 60.0
LOOK_S = 2.0
ANSWER_S = 5.0
# The other end of a circuit answers after two more round trips.
CONNECT_S = 8.0
# A member that does not serve may do so after its next start.
ASK_AGAIN_S = 60.0
# A relay that was lost is looked for at its place for so long, before the others are told of another.
LOST_S = 60.0
# Fifteen members in pairs, with as many again while old circuits end; each costs two windows of memory.
CIRCUITS_MAX = 128
CIRCUITS_PER_MEMBER_MAX = 32
# Of one pair, while an old circuit is replaced; and of one member that calls, so that nobody takes
# the places of all: most of fifteen others can be called, or call.
CIRCUITS_PER_PAIR_MAX = 2
CIRCUITS_PER_SOURCE_MAX = 8
RESERVATIONS_MAX = 64
PUMP_BYTES = 64 * 1024


class Relay:
    """One node's part in relaying. members: their peer ids. addresses: where a peer can be called.

    changed: called when the own addresses through relays have changed.
    """

    def __init__(
        self,
        role: str,
        sockets: Sockets,
        members: Callable[[], Iterable[str]],
        addresses: Callable[[str], Iterable[str]],
        changed: Callable[[], None],
    ) -> None:
        self._serves, self._uses = role == "serve", role == "use"
        self._sockets = sockets
        self._members = members
        self._addresses = addresses
        self._changed = changed
        self._held: dict[str, float] = {}  # By relay: when its reservation was made or renewed.
        self._asked: dict[str, float] = {}
        self._lost: dict[str, float] = {}
        self.own: tuple[str, ...] = ()

    async def run(self, host: Any) -> None:
        """Serve or use, with the libp2p host."""
        if not self._serves and not self._uses:
            return
        # No limits of time and bytes: whoever is served is a member, and rounds last for days.
        limits = RelayLimits(0, 0, CIRCUITS_PER_MEMBER_MAX, RESERVATIONS_MAX)
        protocol = _Circuits(host, limits, allow_hop=self._serves, members=self._members)
        async with background_trio_service(protocol):
            await protocol.event_started.wait()
            while self._uses:
                await self._look()
                await trio.sleep(LOOK_S)
            await trio.sleep_forever()

    async def _look(self) -> None:
        now = trio.current_time()
        for relay, since_s in list(self._held.items()):
            connected = self._sockets.is_connected(relay)
            if not connected or (now - since_s > RESERVE_S and not await self._reserve(relay)):
                del self._held[relay]
                self._asked.pop(relay, None)
                self._lost[relay] = now
        for relay in self._members():
            if len(self._held) >= RELAYS_MAX:
                break
            fresh = relay not in self._held and now - self._asked.get(relay, -ASK_AGAIN_S) >= ASK_AGAIN_S
            if fresh and self._sockets.is_connected(relay) and self._direct(relay) is not None:
                self._asked[relay] = now
                if await self._reserve(relay):
                    log.info("reachable through a member", relay=relay)
        self._lost = {
            relay: since_s
            for relay, since_s in self._lost.items()
            if relay not in self._held and now - since_s < LOST_S
        }
        named = [*self._held, *self._lost][:RELAYS_MAX]
        places = {relay: self._direct(relay) for relay in named}
        own = tuple(f"{place}/p2p/{relay}{CIRCUIT}" for relay, place in places.items() if place)
        if own != self.own:
            self.own = own
            self._changed()

    def _direct(self, relay: str) -> str | None:
        return next((one for one in self._addresses(relay) if CIRCUIT not in one), None)

    async def _reserve(self, relay: str) -> bool:
        answer = await self._ask(relay, HopMessage(type=HopMessage.RESERVE), keep=False)
        if answer is not None:
            self._held[relay] = trio.current_time()
            self._asked.pop(relay, None)
        return answer is not None

    async def _ask(self, relay: str, message: HopMessage, *, keep: bool) -> Any:
        """The stream on which the relay agreed; None when it did not."""
        stream: Any = None
        agreed = False
        try:
            with trio.move_on_after(ANSWER_S if not keep else CONNECT_S):
                stream = await self._sockets.host.new_stream(ID.from_string(relay), [PROTOCOL_ID])
                await write_delimited_msg(stream, message)
                answer = await read_delimited_msg(stream, HopMessage)
                agreed = answer.type == HopMessage.STATUS and answer.status == Status.OK
                if not agreed:
                    log.debug("a relay refused", relay=relay, status=Status.Name(answer.status))
        except Exception as error:  # noqa: BLE001 - of the library's; most members do not serve.
            log.debug("no relay", relay=relay, why=repr(error))
        finally:
            if stream is not None and not (agreed and keep):
                with trio.move_on_after(1.0, shield=True):
                    await stream.reset()
        return stream if agreed else None

    async def connect(self, peer_id: str, address: str) -> None:
        """Connect through the relay that the address names. Raises Unreachable."""
        where = address.partition(CIRCUIT)[0]
        relay = where.partition("/p2p/")[2]
        if not self._uses or not self._sockets.is_connected(relay):
            raise Unreachable(f"{address}: not connected to the relay")
        target = ID.from_string(peer_id)
        message = HopMessage(type=HopMessage.CONNECT)
        message.peer.id = target.to_bytes()
        stream = await self._ask(relay, message, keep=True)
        if stream is None:
            raise Unreachable(f"{address}: the relay has no way to it")
        path = Multiaddr(f"/p2p/{relay}{CIRCUIT}/p2p/{peer_id}")
        raw: Any = RawConnection(stream, True, connection_type=ConnectionType.RELAYED, addresses=[path])
        network = self._sockets.host.get_network()
        if network.psk is not None:
            # Who is called expects the network's key inside of a circuit too, as in go; libp2p puts it on all
            # connections that come in, and of those that go out on direct ones only.
            raw = ProtectedConn(raw, network.psk)
        connected = False
        try:
            with trio.move_on_after(CONNECT_S):
                try:
                    await self._sockets.host.upgrade_outbound_connection(raw, target)
                except Exception as error:
                    raise Unreachable(f"{address}: {error}") from error
                connected = True
        finally:
            if not connected:
                # Or the circuit takes a place at the relay for as long as we are connected to that.
                with trio.move_on_after(1.0, shield=True):
                    await stream.reset()
        if not connected:
            raise Unreachable(f"{address}: no handshake within {CONNECT_S:g} s")


class _Circuits(CircuitV2Protocol):
    """libp2p's relay for members only, which ends both ends of a circuit together."""

    def __init__(
        self, host: Any, limits: RelayLimits, *, allow_hop: bool, members: Callable[[], Iterable[str]]
    ) -> None:
        super().__init__(host, limits, allow_hop=allow_hop)
        self._members = members
        self._open: Counter[tuple[str, str]] = Counter()  # By who called and who was called.
        self._ended: dict[frozenset[int], trio.Event] = {}  # By the two streams of a circuit.

    async def _handle_hop_stream(self, stream: Any) -> None:
        if str(stream.muxed_conn.peer_id) in self._members():
            await super()._handle_hop_stream(stream)
        else:
            await stream.reset()

    async def _handle_stop_stream(self, stream: Any) -> None:
        if str(stream.muxed_conn.peer_id) in self._members():
            await super()._handle_stop_stream(stream)
        else:
            await stream.reset()

    async def _handle_reserve(self, stream: Any, msg: Any) -> None:
        # libp2p reserves for whomever the message names; a member could use up everybody's places.
        msg.ClearField("peer")
        await super()._handle_reserve(stream, msg)

    async def _handle_connect(self, stream: Any, msg: Any) -> None:
        source, target = str(stream.muxed_conn.peer_id), str(ID(msg.peer.id))
        mine = sum(count for (one, _), count in self._open.items() if one == source)
        full = (
            self._open.total() >= CIRCUITS_MAX
            or mine >= CIRCUITS_PER_SOURCE_MAX
            or self._open[source, target] >= CIRCUITS_PER_PAIR_MAX
        )
        if target not in self._members() or full:
            await stream.reset()
            return
        self._open[source, target] += 1
        try:
            await super()._handle_connect(stream, msg)
        finally:
            self._open[source, target] -= 1
            self._open += Counter()  # Without those that are at zero.

    async def _relay_data(self, src_stream: Any, dst_stream: Any, *_: Any, **__: Any) -> None:
        """In one direction. libp2p's own leaves the other end open for ever when one end is lost.

        And whoever reads a stream that we reset ourselves is not told: both directions end together.
        """
        pair = frozenset((id(src_stream), id(dst_stream)))
        ended = self._ended.setdefault(pair, trio.Event())
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_pump, src_stream, dst_stream, ended)
                await ended.wait()
                nursery.cancel_scope.cancel()
        finally:
            ended.set()
            self._ended.pop(pair, None)
            with trio.move_on_after(2.0, shield=True):
                for stream in (src_stream, dst_stream):
                    try:
                        await stream.reset()
                    except Exception:  # noqa: BLE001 - it is over either way.
                        log.debug("a circuit's stream was closed already")


async def _pump(source: Any, target: Any, ended: trio.Event) -> None:
    try:
        while data := await source.read(PUMP_BYTES):
            await target.write(data)
    except Exception as error:  # noqa: BLE001 - a dozen kinds of ends.
        log.debug("a circuit has ended", why=repr(error))
    finally:
        ended.set()
