"""What must be mended in py-libp2p 0.8.1 before it carries votes; each patch with its reason.

They reach into the library's insides, so the version is pinned and asserted. docs/libp2p.md tells the traps
at length; tests/net/test_traps.py has a test for each that fails without its patch. Knows no message.
"""

from __future__ import annotations

import struct
import warnings
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any
from weakref import WeakKeyDictionary

import trio

from p2pfl.errors import UserError
from p2pfl.net import calls, reading

LIBP2P_VERSION = "0.8.1"


def _assert_version() -> None:
    try:
        found = version("libp2p")
    except PackageNotFoundError:
        found = "none"
    if found != LIBP2P_VERSION:
        raise UserError(
            f"libp2p {LIBP2P_VERSION} is needed",
            because=f"{found} is installed, and the network room mends the insides of that one version",
            fix=f"pip install libp2p=={LIBP2P_VERSION}",
        )


_assert_version()

with warnings.catch_warnings():
    # libp2p still imports names that websockets gave up; not ours to mend, and tests make warnings errors.
    warnings.simplefilter("ignore", DeprecationWarning)
    from libp2p.abc import IMuxedConn
    from libp2p.io import trio as tcp_stream
    from libp2p.io.exceptions import ConnectionClosedError
    from libp2p.network import swarm
    from libp2p.network.connection.raw_connection import RawConnection
    from libp2p.network.stream import net_stream
    from libp2p.pubsub import pubsub
    from libp2p.stream_muxer.exceptions import MuxedStreamError
    from libp2p.stream_muxer.yamux import yamux

# A peer whose socket took nothing for this long is frozen; the heartbeat normally ends it sooner.
WRITE_STALL_S = 15.0
# 65,535 of a noise message, less its 16 of authentication and yamux's header of 12: with libp2p's own 65,524
# every frame would need a second noise message of a few bytes.
FRAME_BYTES_MAX = 65_507
# A stream's receive window grows to this. 4 MiB keep 100 MB/s going over 40 ms of round trip, and sixteen
# streams that nobody reads cost 64 MiB at most.
WINDOW_BYTES_MAX = 4 * 1024 * 1024

_installed = False


def install() -> None:
    """Apply every patch, once a process."""
    global _installed  # noqa: PLW0603 - patches are global by nature.
    if _installed:
        return
    _installed = True
    _shield_writes()
    _write_whole_frames()
    _credit_what_was_read()
    reading.install()
    _take_free_locks_at_once()
    _free_inbound_slots()
    calls.install()
    _welcome_back_in_gossip()
    _count_bytes()
    _name_who_calls_over_ip6()
    # `connect` waits this long for each address even when the first one answered at once.
    swarm._HAPPY_EYEBALLS_DELAY = 0.0


# ---------------------------------------------------------------------------
# Cancellation.


def _shield_writes() -> None:
    """A frame is encrypted before it is sent, so a write that is cancelled in between loses a nonce and with
    it the connection. `read` writes too (window updates). So a frame, once begun, is finished or the
    connection is over.
    """

    async def write_frame(self: Any, data: bytes) -> None:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + WRITE_STALL_S) as scope:
            async with self._write_lock:
                await self.secured_conn.write(data)
        if scope.cancelled_caught:
            self.event_shutting_down.set()
            abort(self)
            raise ConnectionClosedError("the peer took nothing")
        await trio.lowlevel.checkpoint_if_cancelled()

    yamux.Yamux._write_frame = write_frame


def tcp_of(muxed: IMuxedConn) -> tcp_stream.TrioTCPStream:
    """The TCP stream at the bottom of a connection, whatever the operator chose to put in between.

    Of a connection through a relay: the stream to the relay, whose bytes its own connection counts.
    """
    secured: Any = muxed.secured_conn  # type: ignore[attr-defined]
    cipher = secured.conn
    noise = getattr(cipher, "read_writer", None)
    return calls.below(noise.read_write_closer if noise is not None else cipher.stream_writer.raw_connection)


def abort(muxed: IMuxedConn) -> None:
    """Close the socket without a farewell: whoever is stuck in it wakes up with an error."""
    bottom: Any = tcp_of(muxed)
    if isinstance(bottom, net_stream.NetStream):
        muxed.event_shutting_down.set()  # type: ignore[attr-defined] - through a relay there is no socket.
    else:
        bottom.stream.socket.close()


# ---------------------------------------------------------------------------
# Throughput.


def _write_whole_frames() -> None:
    """libp2p's write takes four locks a frame, cuts frames that need two noise messages, polls every 10 ms
    for a window, and gives up on one after 5 seconds although the heartbeat knows better who is dead.
    """

    async def write(self: Any, data: bytes | bytearray | memoryview) -> None:
        view = memoryview(data)
        sent, total = 0, len(view)
        async with self.mps_turn:
            while sent < total:
                if self.send_closed or self.closed:
                    raise MuxedStreamError("the stream is closed")
                if self.send_window <= 0:
                    await _wait_for_window(self)
                    continue
                size = min(self.send_window, FRAME_BYTES_MAX, total - sent)
                self.send_window -= size
                head = struct.pack(yamux.YAMUX_HEADER_FORMAT, 0, yamux.TYPE_DATA, 0, self.stream_id, size)
                await self.conn._write_frame(b"".join((head, view[sent : sent + size])))
                sent += size

    async def _wait_for_window(self: Any) -> None:
        self.mps_opened = trio.Event()
        with trio.move_on_after(WRITE_STALL_S) as scope:
            while self.send_window <= 0 and not self.closed:
                # Closing does not touch the window, so look up now and then.
                with trio.move_on_after(1.0):
                    await self.mps_opened.wait()
        if scope.cancelled_caught:
            raise MuxedStreamError("the peer read nothing")

    def get_window(self: Any) -> int:
        return self.mps_window

    def set_window(self: Any, value: int) -> None:
        self.mps_window = value
        if value > 0 and self.mps_opened is not None:
            self.mps_opened.set()
            self.mps_opened = None

    yamux.YamuxStream.mps_opened = None
    yamux.YamuxStream.send_window = property(get_window, set_window)
    yamux.YamuxStream.write = write


def _credit_what_was_read() -> None:
    """libp2p sends an encrypted window update for every read, of whatever size, and grants some bytes twice.
    Here the sum of what was read is granted once it is a quarter of the window.
    """

    async def credit(self: Any, *, bytes_read: int = 0) -> None:
        self._pending_recv_release += bytes_read
        target = self.target_recv_window
        if self._pending_recv_release < target // 4:
            return
        grown = min(2 * target, WINDOW_BYTES_MAX)
        granted = self._pending_recv_release + grown - target
        self._pending_recv_release = 0
        self.target_recv_window = grown
        self.recv_window += granted
        await self.send_window_update(granted)

    yamux.YamuxStream._auto_tune_and_send_window_update = credit


class QuickLock:
    """A lock that costs a turn of the scheduler only when somebody holds it; handed over in order."""

    __slots__ = ("_held", "_waiting")

    def __init__(self) -> None:
        self._held = False
        self._waiting = trio.lowlevel.ParkingLot()

    @property
    def waited_for(self) -> bool:
        """Whether somebody else wants it."""
        return bool(self._waiting)

    async def acquire(self) -> None:
        """Wait for it."""
        if self._held:
            await self._waiting.park()  # Whoever releases it hands it to us.
        else:
            self._held = True

    def release(self) -> None:
        """Hand it to who waits longest."""
        if self._waiting:
            self._waiting.unpark()
        else:
            self._held = False

    async def __aenter__(self) -> None:
        await self.acquire()

    async def __aexit__(self, *_: object) -> None:
        self.release()


def _take_free_locks_at_once() -> None:
    """Each of the dozen locks on the way of one message costs a turn of trio's scheduler although nobody
    contends; half of a message's processor time went there.
    """

    def after_init(kind: Any, names: tuple[str, ...]) -> None:
        init: Callable[..., None] = kind.__init__

        def __init__(self: Any, *args: Any, **options: Any) -> None:  # noqa: N807 - it replaces one.
            init(self, *args, **options)
            for name in names:
                setattr(self, name, QuickLock())

        kind.__init__ = __init__

    after_init(yamux.YamuxStream, ("window_lock", "close_lock", "mps_turn"))
    after_init(yamux.Yamux, ("streams_lock", "_write_lock"))
    after_init(tcp_stream.TrioTCPStream, ("read_lock", "write_lock"))
    after_init(net_stream.NetStream, ("_state_lock",))


# ---------------------------------------------------------------------------
# Leaks, and counting.


def _free_inbound_slots() -> None:
    """libp2p holds one of 250 inbound slots (and a task) for every connection that was ever accepted until
    the host stops: a node with churn accepts nobody after a while. Here the slot ends with the connection.
    """

    async def handle(self: Any, stream: Any, maddr: Any, _failure: Any) -> None:
        raw = RawConnection(stream, False)
        try:
            muxed = await self.upgrade_inbound_raw_conn(raw, maddr)
            await muxed.event_closed.wait()
        except Exception as error:  # noqa: BLE001 - whatever a stranger does to the handshake ends with him.
            swarm.logger.debug("an inbound connection failed: %s", error)
        finally:
            with trio.move_on_after(1.0, shield=True):
                await raw.close()

    swarm.Swarm._do_handle_inbound_connection = handle


def _welcome_back_in_gossip() -> None:
    """libp2p tells of a lost connection 0.2 seconds late. Whoever is back by then keeps a dead gossip stream
    (a stream is there, so none is opened), or loses its subscription (it was told to the new connection, and
    is forgotten with the old one); the two never form a mesh again. And two welcomes of one peer at the same
    time leave a task behind that waits for ever at a queue that nobody knows.
    """
    plain_new, plain_forget = pubsub.Pubsub._handle_new_peer, pubsub.Pubsub._forget_all_subscriptions
    turns: WeakKeyDictionary[Any, dict[Any, QuickLock]] = WeakKeyDictionary()

    async def new_peer(self: Any, peer_id: Any) -> None:
        waiting = turns.setdefault(self, {})
        turn = waiting.setdefault(peer_id, QuickLock())
        async with turn:
            stream = self.peers.get(peer_id)
            if stream is not None and stream.muxed_conn.event_shutting_down.is_set():
                del self.peers[peer_id]
                self.peer_queues.pop(peer_id).close()
                self.router.remove_peer(peer_id)
            try:
                await plain_new(self, peer_id)
            finally:
                if not turn.waited_for:
                    del waiting[peer_id]

    def forget(self: Any, peer_id: Any) -> None:
        if not self._peer_is_connected(peer_id):
            plain_forget(self, peer_id)

    pubsub.Pubsub._handle_new_peer = new_peer
    pubsub.Pubsub._forget_all_subscriptions = forget


def _count_bytes() -> None:
    """Count what is written and read by protocol, in `mps_bytes` of the swarm: (sent, received)."""

    def count(self: Any, place: int, size: int) -> None:
        counts = getattr(self.swarm_conn.swarm, "mps_bytes", None) if self.swarm_conn else None
        if counts is not None:
            counts[place][self.protocol_id] = counts[place].get(self.protocol_id, 0) + size

    plain_write, plain_read = net_stream.NetStream.write, net_stream.NetStream.read

    async def write(self: Any, data: bytes) -> None:
        await plain_write(self, data)
        count(self, 0, len(data))

    async def read(self: Any, n: int | None = None) -> bytes:
        # With quick locks, what is buffered is read without a turn of the scheduler: give one now and then,
        # so that a loop of short reads can be cancelled and does not keep the others waiting.
        self.mps_reads += 1
        if self.mps_reads % 16 == 0:
            await trio.lowlevel.checkpoint()
        data = await plain_read(self, n)
        count(self, 1, len(data))
        return data

    net_stream.NetStream.mps_reads = 0
    net_stream.NetStream.mps_sent = net_stream.NetStream.mps_received = 0
    net_stream.NetStream.write = write
    net_stream.NetStream.read = read


def _name_who_calls_over_ip6() -> None:
    """libp2p takes a remote address of IPv6, which has four parts, for a broken one: whoever calls over it is
    nobody to limits for each host.
    """

    def get_remote_address(self: Any) -> tuple[str, int] | None:
        if self._cached_remote_address is None:
            try:
                host, port = self.stream.socket.getpeername()[:2]
            except OSError:
                return None  # Closed meanwhile.
            self._cached_remote_address = (host, port)
        return self._cached_remote_address

    tcp_stream.TrioTCPStream.get_remote_address = get_remote_address
