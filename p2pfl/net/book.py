"""Where peers are: records that they signed themselves, kept on disk, and what others have said of it.

    record  = libp2p's signed envelope (RFC 0002) around a libp2p peer record (RFC 0003), Ed25519 keys only
    book    = {"format": 1, "records": [base64 of an envelope, ...]}

A record is bound to its key, its number grows, and the newest one holds. Knows peer ids; which of them are
members, and who is told what, is in `finding`.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from p2pfl.durable import write_whole
from p2pfl.errors import PeerFault
from p2pfl.jsonform import loads
from p2pfl.net import patches
from p2pfl.net.peer_records import ADDRESSES_MAX, CIRCUIT, RECORD_BYTES_MAX, can_be_called
from p2pfl.telemetry import logger

patches.install()

from libp2p.crypto.ed25519 import Ed25519PublicKey, create_new_key_pair  # noqa: E402 - once its version is known.
from libp2p.peer.envelope import PEER_RECORD_CODEC, seal_record, unmarshal_envelope  # noqa: E402
from libp2p.peer.id import ID  # noqa: E402
from libp2p.peer.peer_record import PEER_RECORD_ENVELOPE_DOMAIN, PeerRecord  # noqa: E402
from multiaddr import Multiaddr  # noqa: E402

log = logger("net")

FORMAT = 1
# Everybody who was ever admitted has a record; a network of a thousand members is beyond this software.
BOOK_RECORDS_MAX = 1024
BOOK_BYTES_MAX = 2 * BOOK_RECORDS_MAX * RECORD_BYTES_MAX
# Unix milliseconds of the year 287396: what is above is no clock's, and JavaScript cannot count so far.
SEQ_MAX = (1 << 53) - 1
# Beside a peer's own word: what the operator, the genesis, the LAN and the DHT said, this many each at most.
SOURCES = ("bootstrap", "genesis", "lan", "dht")
HINTS_MAX = 4


@dataclass(frozen=True, slots=True)
class Record:
    """Where a peer can be reached, in its own words. seq: unix milliseconds of the signature, ever larger."""

    peer_id: str
    seq: int
    addresses: tuple[str, ...]
    envelope: bytes


def sealed(peer_key: bytes, addresses: Iterable[str], seq: int) -> Record:
    """The record of the holder of this peer key (ed25519 seed): of as many addresses as it has room for.

    The last ones are left out first, of those that lead through a relay.
    """
    pair = create_new_key_pair(peer_key)
    peer_id = ID.from_pubkey(pair.public_key)
    kept = list(addresses)[:ADDRESSES_MAX]
    while True:
        record = PeerRecord(peer_id, [Multiaddr(address) for address in kept], seq)
        envelope = seal_record(record, pair.private_key).marshal_envelope()
        if len(envelope) <= RECORD_BYTES_MAX or not kept:
            return Record(str(peer_id), seq, tuple(kept), envelope)
        through = [place for place, address in enumerate(kept) if CIRCUIT in address]
        kept.pop(through[-1] if through else -1)


def opened(envelope: bytes) -> Record:
    """The record in an envelope, once its signature and its key are known to be right. Raises PeerFault."""
    if len(envelope) > RECORD_BYTES_MAX:
        raise PeerFault("bad_record", f"{len(envelope)} bytes")
    try:
        found = unmarshal_envelope(envelope)
        if found.payload_type != PEER_RECORD_CODEC:
            raise ValueError("not a peer record")
        if not isinstance(found.public_key, Ed25519PublicKey):
            raise ValueError("not an ed25519 key")
        found.validate(PEER_RECORD_ENVELOPE_DOMAIN)
        record = found.record()
        # libp2p leaves this to us: anybody could sign a record of anybody else.
        if record.peer_id != ID.from_pubkey(found.public_key):
            raise ValueError("signed by another key than the one it is of")
        if not 0 < record.seq <= SEQ_MAX or len(record.addrs) > ADDRESSES_MAX:
            raise ValueError("a number or a count that no clock and no host has")
        texts = [str(address) for address in record.addrs]
    except Exception as error:  # Of protobuf, multiaddr, nacl and libp2p; a dozen kinds.
        raise PeerFault("bad_record", f"{type(error).__name__}: {error}"[:200]) from error
    # What we cannot call (QUIC, a longer path) is no fault: others can.
    return Record(str(record.peer_id), record.seq, _callable(texts), bytes(envelope))


def _callable(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(text for text in texts if can_be_called(text)))


class Book:
    """Records and hints by peer id. path: where the records are kept; None: nowhere."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._records: dict[str, Record] = {}
        self._hints: dict[str, dict[str, tuple[str, ...]]] = {}
        self._worked: dict[str, str] = {}
        self.dirty = False
        if path is not None:
            self._read(path)

    def _read(self, path: Path) -> None:
        """What cannot be read is forgotten: the others tell it again, and the genesis has addresses too."""
        try:
            if path.stat().st_size > BOOK_BYTES_MAX:
                raise ValueError(f"more than {BOOK_BYTES_MAX} bytes")
            document = loads(path.read_bytes())
            if document["format"] != FORMAT:
                raise ValueError(f"format {document['format']}")
            for text in document["records"][:BOOK_RECORDS_MAX]:
                self.learn(opened(base64.b64decode(text, validate=True)))
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, TypeError, PeerFault) as error:
            log.warning("the book of addresses cannot be read, a new one is begun", path=path, why=str(error))
        self.dirty = False

    def save(self) -> None:
        """Write the records, whole or not at all. Blocking; call it in a thread. Raises UserError."""
        self.dirty = False
        if self._path is not None:
            texts = [base64.b64encode(record.envelope).decode() for record in self.records()]
            data = json.dumps({"format": FORMAT, "records": texts}, indent=1).encode()
            # Not durable: what a crash takes away is told again.
            write_whole(self._path, data, durable=False)

    def records(self) -> list[Record]:
        """All of them."""
        return list(self._records.values())

    def record(self, peer_id: str) -> Record | None:
        """The newest record of this peer."""
        return self._records.get(peer_id)

    def holds(self, envelope: bytes) -> Record | None:
        """This very record, if it is here: then its signature need not be checked again."""
        return next((record for record in self._records.values() if record.envelope == envelope), None)

    def learn(self, record: Record) -> None:
        """Take a record if it is newer. Raises PeerFault: "old_record", "foreign_record"."""
        known = self._records.get(record.peer_id)
        if known is not None and record.seq <= known.seq:
            raise PeerFault("old_record", f"number {record.seq}, {known.seq} is known")
        if known is None and len(self._records) >= BOOK_RECORDS_MAX:
            raise PeerFault("foreign_record", "the book is full")
        self._records[record.peer_id] = record
        self._worked.pop(record.peer_id, None)
        self.dirty = True

    def hint(self, peer_id: str, source: str, addresses: Iterable[str]) -> bool:
        """Remember what `source` says; True when it is new. Believed only in so far as it is tried."""
        assert source in SOURCES
        said = _callable(addresses)[:HINTS_MAX]
        hints = self._hints.get(peer_id, {})
        if hints.get(source, ()) == said or (not hints and len(self._hints) >= BOOK_RECORDS_MAX):
            return False
        self._hints[peer_id] = {**hints, source: said}
        return True

    def worked(self, peer_id: str, address: str) -> None:
        """A call to this address was answered: it comes first until there is a newer record."""
        self._worked[peer_id] = address

    def addresses(self, peer_id: str, sources: Iterable[str] = SOURCES) -> tuple[str, ...]:
        """Where to call, in this order: what worked, the newest record, then the hints of these sources."""
        record = self._records.get(peer_id)
        own = record.addresses if record is not None else ()
        hints = self._hints.get(peer_id, {})
        rest = (address for source in sources for address in hints.get(source, ()))
        known = tuple(dict.fromkeys((*own, *rest)))
        best = self._worked.get(peer_id)
        return known if best not in known else (best, *(one for one in known if one != best))
