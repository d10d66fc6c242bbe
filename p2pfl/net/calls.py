"""A call that is given up ends with its socket, so that libp2p gives back what it counted.

Part of the patches of 0.8.1 (see `patches`). Knows handshakes; who is called and for how long: `dialer`.
"""

from __future__ import annotations

import warnings
from collections.abc import Awaitable, Callable
from typing import Any

import trio

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    from libp2p.network import swarm
    from libp2p.network.exceptions import SwarmException
    from libp2p.network.stream.net_stream import NetStream

# A handshake whose socket was closed has nothing to wait for; this is for what nobody has thought of.
END_S = 1.0


def install() -> None:
    """A call that is cancelled in its handshake is cancelled again as it cleans up, and never gives back what
    the resource manager has counted: 128 of them, and the node neither calls nor is called. And only half of
    a handshake has a limit. Here its socket is closed, with which it fails by itself.
    """
    plain: Callable[..., Awaitable[Any]] = swarm.Swarm.upgrade_outbound_raw_conn

    async def upgrade(self: Any, raw: Any, peer_id: Any, pre_scope: Any = None) -> Any:
        conn: Any = None
        failed: Exception = SwarmException("a handshake did not end with its socket")
        ended = False

        async def watch(handshake: trio.CancelScope) -> None:
            try:
                await trio.sleep(2 * self.connection_config.outbound_upgrade_timeout)
            finally:
                if not ended:
                    handshake.deadline = trio.current_time() + END_S
                    await _cut(raw)

        async with trio.open_nursery() as nursery:
            with trio.CancelScope(shield=True) as handshake:
                nursery.start_soon(watch, handshake)
                try:
                    conn = await plain(self, raw, peer_id, pre_scope)
                except Exception as error:  # noqa: BLE001 - a nursery would make a group of it.
                    failed = error
                finally:
                    ended = True
                    if conn is None and pre_scope is not None:
                        pre_scope.close()  # Twice is once.
            nursery.cancel_scope.cancel()
        if conn is None:
            raise failed
        return conn

    swarm.Swarm.upgrade_outbound_raw_conn = upgrade  # type: ignore[method-assign]


async def _cut(raw: Any) -> None:
    """End a connection that has not shaken hands yet."""
    bottom = below(raw)
    if isinstance(bottom, NetStream):  # Through a relay.
        with trio.move_on_after(END_S, shield=True):
            await bottom.reset()
    else:
        bottom.stream.socket.close()


def below(raw: Any) -> Any:
    """The stream at the bottom of a raw connection: of TCP, or of a connection to a relay."""
    raw = getattr(raw, "conn", raw)  # Below the key of a private network.
    return getattr(raw.stream, "tcp", raw.stream)  # Below a WebSocket.
