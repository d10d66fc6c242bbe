"""What a fuzzer begins with for each target: valid bytes of each kind. `python -m tests.fuzz.seeds`.

They and what a fuzzer found lie in `corpus/TARGET/`, few and small; the name is the hash of the bytes.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path

import numpy as np

from consensus.types import Block, Certificate, DecidedBlock, Digest
from p2pfl import codec
from p2pfl.jsonform import to_json
from p2pfl.membership import Join, SignedJoin
from p2pfl.net import wire
from p2pfl.net.book import FORMAT, sealed
from p2pfl.params import Base
from tests.audit.chain import LAYOUT, make_genesis
from tests.fuzz.targets import _STRUCTS
from tests.net.test_wire import HEADER, SIGNATURE, golden

CORPUS = Path(__file__).parent / "corpus"
# A corpus is read by every run of the tests.
FILE_BYTES_MAX, FILES_MAX = 4096, 48


def seeds() -> dict[str, list[bytes]]:
    """Of each target whose bytes a fuzzer would not find by itself."""
    packed = [wire.pack(each) for each in golden().values()]
    hello = struct.pack(">I4s16sQ16sQ", 52, b"MPS1", b"s" * 16, 1, b"o" * 16, 1)
    frames = [struct.pack(">IQQQ", 24 + len(each), n, 1, 1) + each for n, each in enumerate(packed, 1)]
    decided = DecidedBlock(Block(HEADER, b"body"), Certificate(1, (SIGNATURE,)))
    structs = _structs()
    record = sealed(b"k" * 32, ["/ip4/127.0.0.1/tcp/4001"], 7)
    genesis = make_genesis(Base(LAYOUT, np.zeros(LAYOUT.size, dtype=np.float32)))
    entry = genesis.council.members[0]
    join = SignedJoin(Join(entry.member_id, Digest(bytes(32)), 1), entry, "here", SIGNATURE)
    book = {"format": FORMAT, "records": []}
    ban = {"whom": "member", "peer": "a", "until_ms": 1 << 52, "bans": 3, "reason": "flood"}
    return {
        "message": packed,
        "link": [hello, *(hello + each for each in frames), hello + b"".join(frames[:12])],
        "request": [len(each).to_bytes(4, "big") + each for each in packed if 32 <= each[0] < 48],
        "answer": [len(each).to_bytes(4, "big") + each + bytes(99) for each in packed if each[0] >= 48],
        "piece": [wire.pack(golden()["PieceHead"]) + bytes(300)],
        "peer_record": [record.envelope],
        "yamux": [
            struct.pack(">BBHII", 0, kind, flags, 1, 9) for kind in range(4) for flags in (0, 1, 2, 4, 8)
        ],
        "protocol_name": [b"\x13/multistream/1.0.0\n", b"\x07/noise\n", b"\x03\xff\xfe\n"],
        "record": [bytes((place,)) + data for place, data in structs],
        "genesis_file": [json.dumps(to_json(genesis)).encode(), b"[" * 3000],
        "join_file": [json.dumps(to_json(join)).encode(), b'{"a":' * 700],
        "interchange_file": [b'{"metadata":{"interchange_format_version":"1"},"data":[]}', b"[" * 3000],
        "chain_file": [_records(b"MPS chain 1" + bytes(64), codec.encode(decided))],
        "log_file": [
            _records(b"wal" + bytes(32), b"\0" * 17, *(b"\x01" + data for n, data in structs if n == 4))
        ],
        "guard": [_records(b"\x85\x02T" + bytes(20) + b"\x00\xf6\x80")],
        "notes_file": [b'{"at_ms":1,"reason":"flood"}\n{"cut'],
        "address_book": [json.dumps(book).encode(), b"[" * 3000],
        "bans_file": [json.dumps({"format": 1, "bans": [ban]}).encode(), b'{"format":1,"bans":[1e400]}'],
    }


def _structs() -> list[tuple[int, bytes]]:
    found: list[tuple[int, bytes]] = []
    consensus = golden()["ConsensusMessage"].message
    decided = DecidedBlock(Block(HEADER, b"body"), Certificate(1, (SIGNATURE,)))
    for place, kind in enumerate(_STRUCTS):
        for each in (
            decided,
            consensus,
            golden()["CloseMessage"].close,
            golden()["ShareRequestMessage"].request,
        ):
            try:
                data = codec.encode(each, kind)
                codec.decode(data, kind, size_max=FILE_BYTES_MAX)
            except (KeyError, ValueError, AttributeError, TypeError):
                continue
            found.append((place, data))
    return found


def _records(*payloads: bytes) -> bytes:
    return b"".join(len(each).to_bytes(2, "big") + each for each in payloads)


def write(name: str, files: Iterable[bytes]) -> None:
    """Add these to the checked-in corpus of a target, as long as they are few and small."""
    folder = CORPUS / name
    folder.mkdir(parents=True, exist_ok=True)
    for data in files:
        if len(data) <= FILE_BYTES_MAX and len(list(folder.iterdir())) < FILES_MAX:
            (folder / sha256(data).hexdigest()[:16]).write_bytes(data)


if __name__ == "__main__":
    for target, files in seeds().items():
        write(target, files)
