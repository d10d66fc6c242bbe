"""Bytes come in whole and in order, however the layers below cut them; an early end is told as one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from p2pfl.net import patches  # isort: skip - it pins libp2p before anything of it is imported.

from libp2p.io.exceptions import ConnectionClosedError, IncompleteReadError
from libp2p.security.secure_session import SecureSession
from libp2p.stream_muxer.yamux import yamux

patches.install()
read_exactly: Any = vars(yamux)["read_exactly"]


class Pieces:
    """Gives these pieces one after the other, then nothing: a socket, or a noise channel."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self.left = list(pieces)

    async def read(self, n: int) -> bytes:
        if not self.left:
            return b""
        piece = self.left.pop(0)
        if len(piece) > n:
            self.left.insert(0, piece[n:])
        return piece[:n]

    async def read_msg(self) -> bytes:
        return self.left.pop(0) if self.left else b""


def session(*messages: bytes) -> Any:
    made: Any = object.__new__(SecureSession)
    made.conn = Pieces(messages)
    return made


@pytest.mark.parametrize("pieces", [[b"abcdef"], [b"abc", b"def"], [b"a", b"b", b"cdefgh"]])
async def test_exactly_so_many_bytes_are_read(pieces: list[bytes]) -> None:
    reader = Pieces(pieces)
    assert await read_exactly(reader, 6) == b"abcdef"
    assert b"".join(reader.left) == b"".join(pieces)[6:]


@pytest.mark.parametrize("pieces", [[], [b"abc"], [b"a", b"b"]])
async def test_an_end_in_the_middle_tells_how_much_came(pieces: list[bytes]) -> None:
    with pytest.raises(IncompleteReadError) as caught:
        await read_exactly(Pieces(pieces), 6)
    assert (caught.value.expected_bytes, caught.value.received_bytes) == (6, len(b"".join(pieces)))
    assert caught.value.is_clean_close == (not pieces)


async def test_a_decrypted_message_is_served_in_parts_and_the_next_one_after_it() -> None:
    noise = session(b"head+body", b"head2+body2")
    assert [await noise.read(4), await noise.read(1), await noise.read(100)] == [b"head", b"+", b"body"]
    assert await read_exactly(noise, 5) == b"head2"
    assert await noise.read() == b"+body2"
    assert await noise.read(0) == b""
    with pytest.raises(ConnectionClosedError):
        await noise.read(1)


async def test_a_frame_may_lie_in_two_messages() -> None:
    noise = session(b"head+bo", b"dy", b"next")
    assert await read_exactly(noise, 9) == b"head+body"
    assert await noise.read(4) == b"next"
