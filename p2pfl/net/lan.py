"""mDNS: members on the same LAN find each other although no address in the genesis is right.

libp2p's own form (specs/discovery/mdns): service `_p2p._udp.local`, a random instance name, and TXT strings
`dnsaddr=<multiaddr>/p2p/<peer id>`. What is heard is a hint: the handshake shows who is there. Not libp2p's
own MDNSDiscovery, which hands every address that it hears to the peerstore. Knows peer ids and addresses.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable
from typing import Any

import trio

from p2pfl.telemetry import logger

log = logger("net")

SERVICE = "_p2p._udp.local."
# A LAN's router may be slow to let multicast through; nobody waits for us, so we do not ask often.
QUERY_MS = 1500
AGAIN_S = 30.0
CLOSE_S = 4.0
NOWHERE = "127.0.0.1"
# TXT records of one service that are looked at; libp2p writes one for each address.
STRINGS_MAX = 16


class Lan:
    """Says where we are, and hears where others are. found: (peer id, addresses), called on trio's thread.

    interfaces: addresses of the interfaces to use; None: all that can do it.
    """

    def __init__(
        self,
        peer_id: str,
        addresses: Callable[[], Iterable[str]],
        found: Callable[[str, list[str]], None],
        interfaces: list[str] | None = None,
    ) -> None:
        self._peer_id = peer_id
        self._addresses = addresses
        self._found = found
        self._interfaces = interfaces
        self._name = ""

    async def run(self) -> None:
        """Until cancelled. Where there is no multicast (yet), it is tried again."""
        while True:
            # The name must say nothing about us, and be new each time: anybody on the LAN may say that it is
            # theirs, and then it is taken.
            self._name = f"{secrets.token_hex(20)}.{SERVICE}"
            try:
                await self._run()
            except Exception as error:  # noqa: BLE001 - of zeroconf, asyncio or a socket; what it says is a hint.
                log.warning("mDNS stopped, it is started again", why=repr(error), seconds=AGAIN_S)
            await trio.sleep(AGAIN_S)

    async def _run(self) -> None:
        from zeroconf import InterfaceChoice, ServiceBrowser, Zeroconf  # Threads and sockets: where wanted.

        token = trio.lowlevel.current_trio_token()
        choice: Any = self._interfaces or InterfaceChoice.All
        zeroconf = await trio.to_thread.run_sync(lambda: Zeroconf(interfaces=choice))
        browsers: list[Any] = []
        try:
            said = tuple(self._addresses())
            await trio.to_thread.run_sync(zeroconf.register_service, self._service(said))
            browser: Any = ServiceBrowser
            browsers.append(browser(zeroconf, SERVICE, handlers=[lambda **news: self._heard(token, **news)]))
            while True:
                await trio.sleep(AGAIN_S)
                now = tuple(self._addresses())
                if now != said:
                    said = now
                    await trio.to_thread.run_sync(zeroconf.update_service, self._service(said))
        finally:
            with trio.move_on_after(CLOSE_S, shield=True):
                await trio.to_thread.run_sync(_close, zeroconf, browsers, abandon_on_cancel=True)

    def _service(self, addresses: Iterable[str]) -> Any:
        from zeroconf import ServiceInfo

        strings = [f"dnsaddr={address}/p2p/{self._peer_id}".encode() for address in addresses]
        text = b"".join(bytes((len(one),)) + one for one in strings if len(one) < 256)
        # Port, host and address of the service itself mean nothing to libp2p, but whoever asks DNS-SD for a
        # service waits in vain for one without an address.
        host = self._name.split(".")[0] + ".local."
        return ServiceInfo(
            SERVICE, self._name, port=4001, properties=text, server=host, parsed_addresses=[NOWHERE]
        )

    def _heard(self, token: trio.lowlevel.TrioToken, *, zeroconf: Any, name: str, **_: Any) -> None:
        """On the browser's own thread, which may wait, and which an exception would end."""
        if name == self._name:
            return
        from zeroconf import ServiceInfo

        try:
            info = ServiceInfo(SERVICE, name)
            info.request(zeroconf, QUERY_MS)  # Others may have no address; the rest has come by then.
        except Exception as error:  # noqa: BLE001 - a name that is none, a loop that sleeps.
            log.debug("a service on the LAN that says nothing", name=name, why=repr(error))
            return
        for peer_id, addresses in spoken(info.text or b"").items():
            try:
                token.run_sync_soon(self._found, peer_id, addresses)
            except trio.RunFinishedError:
                return


def _close(zeroconf: Any, browsers: list[Any]) -> None:
    """First the browser's thread, which may wait for an answer of the network that is closed here."""
    try:
        for browser in browsers:
            browser.cancel()
    finally:
        zeroconf.close()  # The farewell is a packet that may be lost; nobody relies on it.


def spoken(text: bytes) -> dict[str, list[str]]:
    """The addresses in the TXT record of a service, by peer id; what is no address is passed over."""
    found: dict[str, list[str]] = {}
    place = 0
    for _ in range(STRINGS_MAX):
        if place >= len(text):
            break
        size = text[place]
        string = text[place + 1 : place + 1 + size].decode("ascii", "replace")
        place += 1 + size
        key, _, value = string.partition("=")
        address, _, peer_id = value.partition("/p2p/")
        if key == "dnsaddr" and address and peer_id:
            found.setdefault(peer_id, []).append(address)
    return found
