"""What a hostile peer does to one node: each attack is a function that breaks one rule until its time is up.

Runs in a process of its own (`python -m tests.live.attacks SPEC`), so that its work is not the network's; it
says on stdout how often it got in and what it sent.
"""

from __future__ import annotations

import json
import os
import sys
from random import Random
from typing import Any

import trio

from tests.live.attacking import (
    BLOBS,
    CHUNK,
    GOSSIP,
    HALF_OPEN,
    IDENTIFY,
    MESSAGES,
    PING,
    PUSH,
    REQUESTS,
    STRANGER_AT,
    TABLE,
    Target,
    attack,
    framed,
    golden,
    hello,
    numbered,
)
from tests.net import raw
from tests.net.raw import DATA, RST, SYN, WINDOW_UPDATE, frame, line, opening, varint

__all__ = ["TABLE", "run"]

# ---------------------------------------------------------------------------
# By strangers.


@attack("bad_handshake")
async def garbage(target: Target) -> None:
    """Random bytes, other protocols, names without an end."""
    endless = varint(1 << 62) + b"/" * 20_000
    kinds = (os.urandom(500), b"GET / HTTP/1.1\r\n\r\n", endless, line("/multistream/1.0.0") + endless)
    for said in kinds:
        try:
            async with await raw.socket_to(target.port, STRANGER_AT) as tcp:
                await tcp.send_all(said)
                with trio.move_on_after(0.2):
                    while await tcp.receive_some():
                        pass
                target.told["bytes"] += len(said)
        except OSError:
            target.told["refused"] += 1
        except trio.BrokenResourceError:
            target.told["sent_away"] += 1


@attack("half_open", "bad_handshake")
async def half_open(target: Target) -> None:
    """A thousand connections that say nothing, or half of a handshake, and stay."""
    held: list[trio.SocketStream] = []
    begun = (
        b"",
        line("/multistream/1.0.0"),
        line("/multistream/1.0.0") + line("/noise") + b"\x00\x20" + b"x" * 9,
    )

    async def many(first: int) -> None:
        for number in range(first, HALF_OPEN, 50):
            try:
                tcp = await raw.socket_to(target.port, f"127.0.1.{number % 200 + 1}")
                held.append(tcp)
                await tcp.send_all(begun[number % len(begun)])
            except (OSError, trio.BrokenResourceError):
                target.told["refused"] += 1

    try:
        async with trio.open_nursery() as nursery:
            for first in range(50):
                nursery.start_soon(many, first)
        await trio.sleep(1.0)
    finally:
        target.told["held_at_once"] = max(target.told["held_at_once"], len(held))
        for tcp in held:
            tcp.socket.close()


@attack()
async def slow_loris(target: Target) -> None:
    """A byte now and then, on thirty connections."""

    async def one() -> None:
        try:
            async with await raw.socket_to(target.port, STRANGER_AT) as tcp:
                for byte in line("/multistream/1.0.0"):
                    await tcp.send_all(bytes((byte,)))
                    await trio.sleep(0.5)
        except (OSError, trio.BrokenResourceError):
            target.told["sent_away"] += 1

    async with trio.open_nursery() as nursery:
        for _ in range(30):
            nursery.start_soon(one)


@attack()
async def strangers(target: Target) -> None:
    """Whole handshakes, each with another key."""
    try:
        peer = await raw.shaken(target.port, target.peer_id, target.chance.randbytes(32), "127.0.0.68")
        target.told["let_in"] += 1
        await peer.open(MESSAGES, hello())
        await peer.close()
    except (*raw.GONE, trio.TooSlowError):
        target.told["refused"] += 1
        await trio.sleep(0.05)


# ---------------------------------------------------------------------------
# By a member, in its own protocols.


@attack("bad_hello", "bad_frame", "bad_ack")
async def broken_frames(target: Target) -> None:
    """Greetings that are none, frames of 4 GiB, acknowledgements of what was never sent."""
    have = golden()["Have"]
    for said in (
        b"\x00" * 60,
        hello() + b"\xff" * 40,
        hello() + numbered(1, have, ack=1 << 40),
        hello() + numbered(1 << 63, have),
    ):
        async with target.as_member() as peer:
            if peer is not None:
                await peer.open(MESSAGES, said)
                await trio.sleep(0.1)


@attack("bad_message", "unknown_message")
async def rubbish(target: Target) -> None:
    """Messages with bytes changed, tags that are none, and trees of tags that are costly to read."""
    bombs = [
        b"\x01" + b"\xc4\x82\x00\xc2\x59\x9c\x40" + b"\xff" * 40_000,
        b"\x01" + b"\x81" * 50_000,
        b"\xee\x80",
    ]
    async with target.as_member() as peer:
        if peer is None:
            return
        stream = await peer.open(MESSAGES, hello())
        said = bytearray()
        messages = [*bombs, *golden().values()]
        for number, packed in enumerate(messages, 1):
            spoilt = bytearray(packed[:60_000])
            if packed not in bombs:
                spoilt[target.chance.randrange(1, len(spoilt))] ^= 0x41
            if packed[0] < 32 or packed in bombs:
                said += numbered(number, bytes(spoilt))
        await target.pieces(peer, stream, bytes(said[:200_000]))
        await trio.sleep(0.2)


@attack("flood")
async def message_flood(target: Target) -> None:
    """Every one-way message as fast as the window takes it."""
    for name, packed in golden().items():
        if packed[0] >= 32 or len(packed) > 4000:
            continue
        async with target.as_member() as peer:
            if peer is None:
                continue
            stream = await peer.open(MESSAGES, hello())
            count = 200_000 // (28 + len(packed))
            start = 0 if name == "Heartbeat" else 1
            said = b"".join(numbered(start and start + each, packed) for each in range(count))
            await target.pieces(peer, stream, said)
            target.told["messages"] += count
            await trio.sleep(0.1)


@attack("flood")
async def replays(target: Target) -> None:
    """The same frames again and again, and requests to have everything once more."""
    again = golden()["Heartbeat"]
    async with target.as_member() as peer:
        if peer is None:
            return
        stream = await peer.open(MESSAGES, hello())
        old = numbered(1, golden()["Tip"]) * 1200
        await target.pieces(peer, stream, old + numbered(0, again) * 1500)
        await trio.sleep(0.2)


@attack("flood", "bad_request", "bad_frame", "unknown_message")
async def request_flood(target: Target) -> None:
    """Requests of every kind, too many, too large, on the wrong protocol; and nobody takes the answers."""
    packed = golden()
    for protocol, asked in (
        (REQUESTS, framed(packed["GetStatus"]) * 3000),
        (REQUESTS, framed(packed["GetBlocks"]) * 3000),
        (BLOBS, framed(packed["GetPiece"]) * 3000),
        (BLOBS, framed(packed["GetStatus"])),
        (REQUESTS, b"\xff\xff\xff\xff" + bytes(1000)),
        (REQUESTS, framed(b"\xee" * 20)),
    ):
        async with target.as_member() as peer:
            if peer is not None:
                await target.pieces(peer, await peer.open(protocol), asked[:200_000])
                await trio.sleep(0.3)


@attack("too_many_streams", "stream_flood")
async def endless_streams(target: Target) -> None:
    """Sixty streams of all protocols that say a little and never end."""
    async with target.as_member() as peer:
        if peer is None:
            return
        for protocol in (REQUESTS, BLOBS, MESSAGES, PING, IDENTIFY, PUSH, GOSSIP, "/none"):
            for _ in range(30 if protocol in (REQUESTS, BLOBS) else 3):
                await peer.open(protocol, b"\x00\x00\x00")
        await trio.sleep(2.0)


# ---------------------------------------------------------------------------
# By a member, below its protocols.


@attack("stream_flood", "mux_flood")
async def thousands_of_streams(target: Target) -> None:
    """Streams that are opened, filled and reset, and others that are only opened."""
    async with target.as_member() as peer:
        if peer is not None:
            for _ in range(2000):
                number = peer.new_id()
                await peer.send(frame(DATA, SYN, number, bytes(20_000)), frame(WINDOW_UPDATE, RST, number))
    async with target.as_member() as peer:
        if peer is not None:
            for _ in range(200):
                await peer.send(frame(DATA, SYN, peer.new_id(), opening(REQUESTS)))
            await trio.sleep(0.5)


@attack("bad_mux", "window_overrun")
async def mux_abuse(target: Target) -> None:
    """Frames that no yamux sends, and more bytes than the window grants."""
    for said in (
        frame(9, 0, 1),
        frame(DATA, SYN, 2),
        frame(DATA, SYN, 1, length=1 << 31),
        frame(raw.PING, SYN, 4),
        frame(DATA, SYN, 1, opening(REQUESTS)) + frame(DATA, 0, 1, bytes(CHUNK)) * 8,
    ):
        async with target.as_member() as peer:
            if peer is not None:
                await peer.send(said)
                await trio.sleep(0.1)


@attack("mux_flood")
async def small_frames(target: Target) -> None:
    """Pings, window updates of streams that are none, and empty frames, without end."""
    async with target.as_member() as peer:
        if peer is not None:
            small = frame(WINDOW_UPDATE, 0, 77, length=1) * 2000 + frame(DATA, 0, 77) * 2000
            with trio.move_on_after(3):
                await peer.send(frame(raw.PING, SYN, 0, length=5) * 80)
                while not peer.gone:
                    await peer.send(small)
                    target.told["bytes"] += len(small)


@attack("ping_flood", "stream_flood")
async def ping_flood(target: Target) -> None:
    """Pings and questions who one is."""
    async with target.as_member() as peer:
        if peer is None:
            return
        number = await peer.open(PING)
        for _ in range(20):
            await peer.open(IDENTIFY)
        await target.pieces(peer, number, os.urandom(150_016))
        await trio.sleep(1.0)


@attack("gossip_flood", "bad_gossip")
async def gossip_flood(target: Target) -> None:
    """Announcements without a signature, RPCs of a megabyte and of rubbish, topics that nobody knows."""

    def rpc(rubbish: bool) -> bytes:
        said: Any = raw.rpc_pb2.RPC()
        for number in range(40):
            topic = target.topic if rubbish else f"/none/{target.chance.random()}"
            said.publish.add(
                from_id=b"me",
                data=b"\x06" * 60,
                seqno=number.to_bytes(8, "big"),
                topicIDs=[topic],
                signature=b"s" * 64,
                key=b"a key that is none",
            )
            said.subscriptions.add(subscribe=True, topicid=f"{topic}{number}")
            said.control.graft.add(topicID=f"{topic}{number}")
        data = said.SerializeToString()
        return varint(len(data)) + data

    async with target.as_member() as peer:
        if peer is not None:
            await target.pieces(
                peer, await peer.open(GOSSIP), b"".join(rpc(each % 2 > 0) for each in range(20))
            )
            await trio.sleep(0.5)
    for said in (varint(1 << 20) + bytes(100_000), varint(300) + os.urandom(300)):
        async with target.as_member() as peer:
            if peer is not None:
                await target.pieces(peer, await peer.open(GOSSIP), said)
                await trio.sleep(0.1)


# ---------------------------------------------------------------------------


async def run(spec: dict[str, Any]) -> None:
    """Each attack of the spec for its seconds, one after the other, and a line of JSON for each."""
    for name in spec["attacks"]:
        chance = Random(f"{spec['seed']} {name}")
        target = Target(spec["port"], spec["peer_id"], spec["topic"], bytes.fromhex(spec["key"]), chance)
        function, _ = TABLE[name]
        with trio.move_on_after(spec["seconds"]):
            while True:
                await function(target)
                target.told["turns"] += 1
                await trio.lowlevel.checkpoint()
        print(json.dumps({"attack": name, **target.told}), flush=True)


if __name__ == "__main__":
    os.nice(
        10
    )  # What is measured is the network's work under attack, not this process' share of a processor.
    trio.run(run, json.loads(sys.argv[1]))
