"""Every decoder of bytes of others, each as a function that raises only when the decoder is wrong.

A target takes any bytes. What a decoder may answer (PeerFault, UserError, its own error) is caught here and
nothing else, and what it lets in must have the one form that it says it has. Files are written to a folder of
the process. Knows no fuzzer.
"""

from __future__ import annotations

import atexit
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import trio

from consensus.types import DecidedBlock, Digest, Event, MemberId, Message
from p2pfl import codec, durable, genesis, guard_file, interchange
from p2pfl.errors import PeerFault, UserError
from p2pfl.jsonform import to_json
from p2pfl.membership import SignedJoin
from p2pfl.net import ask, blobs, frames, wire
from p2pfl.net.bans import Bans
from p2pfl.net.book import Book, opened
from p2pfl.net.fences import read_name
from p2pfl.net.peer import BAN_MAX_S
from p2pfl.net.stream import Link, StreamBroken
from p2pfl.records import BODY_BYTES_MAX, CouncilBody, GroupBody
from p2pfl.rounds.turnover import read_join
from p2pfl.signed import SignedClose, SignedParamTx, SignedShareRequest
from p2pfl.store import notes, wal_file
from p2pfl.store.blocks import BlockFile

Target = Callable[[bytes], None]
TARGETS: dict[str, Target] = {}
MEMBER = MemberId(bytes(20))
SALT = bytes(16)


def target(function: Target) -> Target:
    """A decorator: this is a target, by its name."""
    TARGETS[function.__name__] = function
    return function


_folder: list[Path] = []


def file_of(data: bytes, name: str = "file") -> Path:
    """The data in a file."""
    if not _folder:
        _folder.append(Path(tempfile.mkdtemp(prefix="p2pfl-fuzz-")))
        atexit.register(shutil.rmtree, _folder[0], ignore_errors=True)
    path = _folder[0] / name
    path.write_bytes(data)
    return path


def journal_of(data: bytes) -> Path:
    """The data as a journal's records, cut where a byte of it says: checksums would stop every mutation."""
    parts, offset = [b"MPSJRNL1", SALT], 8 + len(SALT)
    while True:
        size = int.from_bytes(data[:2], "big")
        payload, data = data[2 : 2 + size], data[2 + size :]
        head = durable._head(SALT, offset, payload)
        parts += [head, payload]
        offset += len(head) + size
        if not data:
            return file_of(b"".join(parts), "g0.wal")


class Said:
    """A stream on which somebody has said this, and nothing more."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._place = 0

    async def read(self, n: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        # Pieces of uneven length: whoever parses them must not rely on where they were cut.
        end = min(len(self._data), self._place + min(n or 1 << 20, 1 + (self._place * 7 + 13) % 97))
        data, self._place = self._data[self._place : end], end
        return data

    async def write(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()

    async def reset(self) -> None:
        await trio.lowlevel.checkpoint()


def stream_of(data: bytes) -> Any:
    from p2pfl.net.stream import Stream

    return Stream(Said(data))


# ---------------------------------------------------------------------------
# From the wire.


@target
def message(data: bytes) -> None:
    """A packed message of any tag."""
    try:
        found = wire.unpack(data)
    except PeerFault:
        return
    assert wire.pack(found) == data


@target
def link(data: bytes) -> None:
    """All that is said on a held stream: greeting, frames, acknowledgements."""

    async def story() -> None:
        faults: list[PeerFault] = []
        one = Link(b"o" * 16, lambda: None, faults.append)
        one.send(wire.pack(wire.Have(Digest(bytes(32)))))
        try:
            await one.serve(stream_of(data))
        except (PeerFault, StreamBroken):
            pass
        assert one.inbox.expected >= 1
        assert one.outbox.oldest in (1, 2)

    trio.run(story)


@target
def request(data: bytes) -> None:
    """What somebody asks."""

    async def answer(packed: bytes) -> tuple[bytes, ...]:
        wire.unpack(packed)
        return (b"",)

    async def story() -> None:
        try:
            await ask.serve(stream_of(data), answer)
        except (PeerFault, StreamBroken):
            pass

    trio.run(story)


@target
def answer(data: bytes) -> None:
    """What somebody answers, pieces among it."""

    async def story() -> None:
        asker = ask.Asker(stream_of(data))
        try:
            while True:
                await asker.receive(silence_s=1)
        except (PeerFault, StreamBroken):
            pass

    trio.run(story)


@target
def piece(data: bytes) -> None:
    """A piece against the blob that it is said to be of."""
    blob, length = Digest(bytes(32)), 70_000
    try:
        head = wire.unpack(data[:200])
        if not isinstance(head, wire.PieceHead):
            return
        found = wire.Piece(head.total_length, head.proof, data[200:] + bytes(max(0, head.length - len(data))))
        blobs.check_piece(found, wire.GetPiece(blob, 0, 64), length)
    except PeerFault:
        return
    raise AssertionError("a blob of zeros for a name was found")


@target
def peer_record(data: bytes) -> None:
    """A signed record of addresses."""
    try:
        found = opened(data)
    except PeerFault:
        return
    assert opened(found.envelope) == found


@target
def yamux(data: bytes) -> None:
    """Headers of frames, twelve bytes each."""

    class Mux:
        def __init__(self) -> None:
            self.is_initiator_value = False
            self.streams: dict[int, Any] = {}

    async def story() -> None:
        looker = frames.Frames(Mux(), lambda fault: None)
        for place in range(0, len(data) - 11, 12):
            try:
                await looker.look(data[place : place + 12])
            except PeerFault:
                pass

    trio.run(story)


@target
def protocol_name(data: bytes) -> None:
    """The name of a protocol, before anybody is known."""

    async def story() -> None:
        from libp2p.exceptions import BaseLibp2pError, ParseError

        try:
            assert len(await read_name(Said(data))) < 1024
        except (BaseLibp2pError, ParseError):
            pass

    trio.run(story)


# ---------------------------------------------------------------------------
# Records.

_STRUCTS = (
    GroupBody,
    CouncilBody,
    DecidedBlock,
    Message,
    Event,
    SignedClose,
    SignedShareRequest,
    SignedParamTx,
)


@target
def record(data: bytes) -> None:
    """Bodies, blocks, events and signed structs: the first byte says which."""
    if data:
        kind: Any = _STRUCTS[data[0] % len(_STRUCTS)]
        try:
            found = codec.decode(data[1:], kind, size_max=BODY_BYTES_MAX)
        except codec.DecodeError:
            return
        assert codec.encode(found, kind if get_args(kind) else None) == data[1:]


# ---------------------------------------------------------------------------
# Files.


@target
def genesis_file(data: bytes) -> None:
    """A genesis file."""
    try:
        found = genesis.load(file_of(data))
    except UserError:
        return
    assert to_json(found) == to_json(genesis.load(file_of(json.dumps(to_json(found)).encode())))


@target
def join_file(data: bytes) -> None:
    """A newcomer's request to join."""
    try:
        assert isinstance(read_join(file_of(data)), SignedJoin)
    except ValueError:
        pass


@target
def interchange_file(data: bytes) -> None:
    """What a guard exported."""
    try:
        interchange._parse(file_of(data))
    except UserError:
        pass


@target
def chain_file(data: bytes) -> None:
    """A chain's file: whole as it is, or these records."""
    for path in (file_of(data), journal_of(data)):
        found = BlockFile(path)
        assert len(found) == len(found.offsets)


@target
def log_file(data: bytes) -> None:
    """A log of the core's inputs."""
    for path in (file_of(data, "g0.wal"), journal_of(data)):
        for entry in wal_file.read(path).entries:
            try:
                assert entry.event is not None
            except codec.DecodeError:
                pass


@target
def guard(data: bytes) -> None:
    """A guard's file, and one record of it."""
    guard_file.member_of_guard(file_of(data))
    guard_file.member_of_guard(journal_of(data))
    try:
        guard_file.decode_record(Path("guard"), 0, data)
    except UserError:
        pass


@target
def notes_file(data: bytes) -> None:
    """Notes, line by line."""
    path = file_of(data, f"{next(iter(notes.NOTES))}.jsonl")
    assert all(isinstance(each, dict) for each in notes.Notes(path.parent).read(path.stem))


@target
def address_book(data: bytes) -> None:
    """The file in which addresses of peers are kept."""
    Book(file_of(data, "peers.json"))


@target
def bans_file(data: bytes) -> None:
    """The file in which bans are kept: whatever it says, nobody is barred for longer than anybody is."""
    path = file_of(data, "bans.json")
    trio.run(_standings, Bans(path))


async def _standings(bans: Bans) -> None:
    for peer_id in ("a", *bans.barred()):
        assert bans.standing(peer_id).banned_for_s <= BAN_MAX_S
