"""What left a node: each own signed message is written down before it goes out, outside of the node's folder.

A write reaches the kernel before the message does, so a kill -9 loses nothing of it; a wiped or full folder
is another one. Knows messages and signatures, and not what contradicts what.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from consensus.signing import recover, signing_digest, words
from consensus.types import Digest, MemberId
from consensus.votes import signed_vote
from p2pfl.genesis import Genesis
from p2pfl.net import wire
from p2pfl.parts import Parts


@dataclass(frozen=True)
class Sent:
    """One signed struct as it left. life: the node's process, counted from 0. at_s: monotonic time."""

    group: str
    kind: str
    epoch: int
    height: int
    round: int
    digest: Digest
    words: bytes
    signer: MemberId
    life: int
    at_s: float


def put_on(parts: Parts, path: Path, life: int) -> None:
    """From now on the node's network writes down what it is given to send."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    network, genesis = parts.network, parts.genesis
    seen: set[bytes] = set()

    def wrap(send: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
        def recorded(to: Any, message: Any) -> None:
            for line in _lines(genesis, message, seen, life):
                os.write(handle, line)
            send(to, message)

        return recorded

    network.send = wrap(network.send)
    network.broadcast = wrap(network.broadcast)


def _lines(genesis: Genesis, message: Any, seen: set[bytes], life: int) -> Iterator[bytes]:
    for struct, signature in _signed(message):
        name = genesis.group_names[message.group_id]
        digest = signing_digest(genesis.domain(name), struct)
        if digest + signature in seen:
            continue
        seen.add(digest + signature)
        told = {
            "group": name,
            "kind": type(struct).TYPE.partition("(")[0],
            "place": [struct.epoch, struct.height, getattr(struct, "round", 0)],
            "digest": digest.hex(),
            "words": words(struct).hex(),
            "signature": signature.hex(),
            "life": life,
            "at_s": time.monotonic(),
        }
        yield json.dumps(told).encode() + b"\n"


def _signed(message: Any) -> Iterable[tuple[Any, bytes]]:
    """The struct that the message is about, if it is one that must not be said twice in two ways."""
    match message:
        case wire.ConsensusMessage():
            signed = signed_vote(message.message)
            return [] if signed is None else [(signed.vote, signed.signature)]
        case wire.ShareRequestMessage(_, request):
            return [(request.request, request.signature)]
        case wire.ParamTxMessage(_, tx):
            return [(tx.tx, tx.signature)]
        case wire.CloseMessage(_, close):
            return [(close.close, close.signature)]
        case _:
            return []


def read(path: Path) -> list[Sent]:
    """What was written down, in its order. The last line of a process that was killed may be torn."""
    if not path.exists():
        return []
    found: list[Sent] = []
    for line in path.read_bytes().split(b"\n"):
        try:
            told = json.loads(line)
        except ValueError:
            continue
        digest, signature = Digest(bytes.fromhex(told["digest"])), bytes.fromhex(told["signature"])
        epoch, height, round_ = told["place"]
        found.append(
            Sent(
                told["group"],
                told["kind"],
                epoch,
                height,
                round_,
                digest,
                bytes.fromhex(told["words"]),
                recover(digest, signature),
                told["life"],
                told["at_s"],
            )
        )
    return found
