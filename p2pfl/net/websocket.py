"""libp2p over WebSocket (`/ip4/../tcp/../ws`): for members that only HTTP reaches, through a reverse proxy.

Frames of RFC 6455, by wsproto, around the TCP streams that `patches` has mended, so counting, closing and
cancelling are the same as without. libp2p 0.8.1 has such a transport too; it starts a task for each, takes
a proxy from the environment, holds a half-open handshake for a minute and up to 32 MiB a message and
1,024 messages a connection in memory. Inside is noise or TLS as everywhere. Knows neither peers nor streams.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import trio
import wsproto
from libp2p.abc import IListener, ITransport
from libp2p.io.abc import ReadWriteCloser
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.transport.exceptions import OpenConnectionError
from libp2p.transport.tcp.tcp import TCP, TCPListener
from multiaddr import Multiaddr
from wsproto import events
from wsproto.utilities import ProtocolError

# A stranger that connects must have asked for a WebSocket by then; two round trips are enough for it.
OPEN_S = 3.0
# So many may be at it at the same time; libp2p's own limit counts those that have gone through.
OPENING_MAX = 64
_WS = Multiaddr("/ws")


class WebSocket(ReadWriteCloser):
    """The bytes that a WebSocket's binary messages carry, in order; where a message ends means nothing."""

    def __init__(self, tcp: Any, ws: wsproto.WSConnection) -> None:
        self.tcp = tcp
        self._ws = ws
        self._rest = b""
        self._ended = False

    async def write(self, data: bytes) -> None:
        """One binary message. Not to be cancelled half-way (`patches` shields it)."""
        await self.tcp.write(self._ws.send(events.BytesMessage(data=bytes(data))))

    async def read(self, n: int | None = None) -> bytes:
        """What has arrived, at most n bytes; none at the end."""
        while not self._rest and not self._ended:
            # First what came with the handshake, or with a message before.
            await self._take()
            if not self._rest and not self._ended:
                data = await self.tcp.read(None)
                self._ws.receive_data(data or None)
        if n is None or n >= len(self._rest):
            data, self._rest = self._rest, b""
        else:
            data, self._rest = self._rest[:n], self._rest[n:]
        return data

    async def _take(self) -> None:
        parts: list[bytes] = []
        try:
            for event in self._ws.events():
                if isinstance(event, events.BytesMessage):
                    parts.append(bytes(event.data))
                elif isinstance(event, events.Ping):
                    await self.tcp.write(self._ws.send(event.response()))
                elif isinstance(event, events.CloseConnection | events.TextMessage):
                    self._ended = True
        except ProtocolError as error:
            raise _not_a_websocket(error) from error
        self._rest = b"".join(parts)

    async def close(self) -> None:
        """Close the socket; yamux has said farewell already."""
        await self.tcp.close()

    def get_remote_address(self) -> tuple[str, int] | None:
        """Of the socket; behind a proxy the proxy's."""
        return self.tcp.get_remote_address()


async def _opened(tcp: Any, ws: wsproto.WSConnection, awaited: type[events.Event]) -> None:
    """Read until the other side's part of the HTTP handshake has come. Raises ConnectionClosedError."""
    while True:
        data = await tcp.read(None)
        if not data:
            raise ConnectionClosedError("it ended in the handshake", transport="websocket")
        try:
            ws.receive_data(data)
            for event in ws.events():
                if isinstance(event, awaited):
                    return
                raise ConnectionClosedError(f"{type(event).__name__} in the handshake", transport="websocket")
        except ProtocolError as error:
            raise _not_a_websocket(error) from error


def _not_a_websocket(error: Exception) -> ConnectionClosedError:
    return ConnectionClosedError(f"not a WebSocket: {error}", transport="websocket")


class _Listener(TCPListener):
    """Listens as TCP does, and lets through who has asked for a WebSocket."""

    def get_addrs(self) -> tuple[Multiaddr, ...]:
        """Where it listens."""
        return tuple(address.encapsulate(_WS) for address in super().get_addrs())


class WebSocketTransport(ITransport):
    """Takes the place of libp2p's `WebsocketTransport`."""

    def __init__(self) -> None:
        self._tcp = TCP()
        self._opening = 0

    async def dial(self, maddr: Multiaddr) -> RawConnection:
        """Connect and shake hands. Raises OpenConnectionError."""
        where = maddr.decapsulate(_WS)
        raw: Any = await self._tcp.dial(where)
        ws = wsproto.WSConnection(wsproto.ConnectionType.CLIENT)
        try:
            with trio.fail_after(OPEN_S):
                host = f"{maddr.value_for_protocol(next(iter(maddr.protocols())).code)}"
                asked = events.Request(host=f"{host}:{maddr.value_for_protocol('tcp')}", target="/")
                await raw.stream.write(ws.send(asked))
                await _opened(raw.stream, ws, events.AcceptConnection)
        except (trio.TooSlowError, ConnectionClosedError) as error:
            await raw.close()
            raise OpenConnectionError(f"no WebSocket at {maddr}: {error}") from error
        except BaseException:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 1.0):
                await raw.close()
            raise
        return RawConnection(WebSocket(raw.stream, ws), True)

    def create_listener(self, handler_function: Callable[[Any], Awaitable[None]]) -> IListener:
        """A listener that hands on what has become a WebSocket."""
        return _Listener(partial(self._accept, handler_function))

    async def _accept(self, handler: Callable[[Any], Awaitable[None]], tcp: Any) -> None:
        if self._opening >= OPENING_MAX:
            await tcp.close()
            return
        ws = wsproto.WSConnection(wsproto.ConnectionType.SERVER)
        self._opening += 1
        try:
            with trio.fail_after(OPEN_S):
                await _opened(tcp, ws, events.Request)
                await tcp.write(ws.send(events.AcceptConnection()))
        except (trio.TooSlowError, ConnectionClosedError):
            await tcp.close()
            return
        finally:
            self._opening -= 1
        await handler(WebSocket(tcp, ws))

    def can_dial(self, maddr: Multiaddr) -> bool:
        """Whether this is an address of a WebSocket without TLS around it."""
        names = {protocol.name for protocol in maddr.protocols()}
        return "tcp" in names and "ws" in names and not names & {"tls", "wss"}

    def can_listen(self, maddr: Multiaddr) -> bool:
        """The same."""
        return self.can_dial(maddr)

    def protocols(self) -> list[str]:
        """Names of addresses."""
        return ["ws"]
