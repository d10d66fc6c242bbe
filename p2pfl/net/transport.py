"""The stack of protocols below the streams, as the operator chose it.

TCP, noise and yamux unless told otherwise; WebSocket around the TCP stream, TLS in the place of noise, a key
of the network below everything. What a choice costs and what was left out: docs/libp2p.md. Knows no peers.
"""

from __future__ import annotations

import ctypes
import ssl
from functools import cache
from typing import Any

from libp2p.abc import IRawConnection, ISecureTransport, ITransport
from libp2p.crypto.keys import KeyPair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key
from libp2p.network import swarm
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.security.tls import openssl_verify
from libp2p.security.tls.transport import PROTOCOL_ID as TLS
from libp2p.security.tls.transport import TLSTransport
from libp2p.transport.tcp.tcp import TCP

from p2pfl.errors import UserError
from p2pfl.net import pnet
from p2pfl.net.options import NetOptions
from p2pfl.net.websocket import WebSocketTransport


def transports() -> list[ITransport]:
    """Both, whatever we listen with: the address of a member says how it wants to be called."""
    return [TCP(), WebSocketTransport()]


def secured(options: NetOptions, keys: KeyPair) -> dict[Any, ISecureTransport]:
    """The one kind of handshake that is offered: whatever else a caller wants ends the connection."""
    if options.security == "noise":
        return {NOISE: NoiseTransport(keys, noise_privkey=create_noise_key().private_key)}
    _assert_one_openssl()
    return {TLS: _Tls(keys)}


class _Tls(TLSTransport):
    """libp2p makes an SSL context for each connection, and for it writes the certificate's key to a temporary
    file; whoever reads that key can pass for us. Here once for each side, when the node starts.
    """

    def __init__(self, keys: KeyPair) -> None:
        super().__init__(keys)
        make = super().create_ssl_context
        self._contexts = {side: make(server_side=side) for side in (False, True)}

    def create_ssl_context(self, server_side: bool = False) -> ssl.SSLContext:
        return self._contexts[server_side]


def _assert_one_openssl() -> None:
    """libp2p hands Python's SSL context to the libssl that it finds on the system. Raises UserError.

    Where Python brings its own OpenSSL, that is another library, which would write into foreign memory.
    """
    openssl_verify._ensure_libssl()
    version = getattr(openssl_verify._libssl, "OpenSSL_version", None)
    found = ""
    if version is not None:
        version.restype = ctypes.c_char_p
        found = (version(0) or b"").decode("ascii", "replace")
    if found != ssl.OPENSSL_VERSION:
        raise UserError(
            "net.security = tls does not work with this Python",
            because=f"it uses {ssl.OPENSSL_VERSION}, and libp2p found {found or 'another library'}",
            fix="use noise, or a Python that is linked with the system's OpenSSL",
        )


def protect(network: Any, options: NetOptions) -> None:
    """Put the network's key below everything, where there is one. Raises UserError."""
    if options.psk_file is not None:
        _own_pnet()
        network.psk = pnet.read_file(options.psk_file)


@cache
def _own_pnet() -> None:
    """Ours in the place of libp2p's, which is not what the specification says."""
    IRawConnection.register(pnet.ProtectedConn)  # `pnet` is used without libp2p too, to make keys.
    swarm.new_protected_conn = pnet.ProtectedConn  # type: ignore[assignment] - a class in a function's place.
