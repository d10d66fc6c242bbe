"""The table of messages: complete, bounded, one byte form each, and deaf to rubbish."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

import consensus.types as ct
from p2pfl import codec, records
from p2pfl import signed as structs
from p2pfl.errors import PeerFault
from p2pfl.membership import Leave, SignedLeave
from p2pfl.net import peer, wire
from p2pfl.net.queues import OUTBOX_MESSAGES_MAX
from p2pfl.runs import PIECE_BYTES_MAX

ROWS = {row.kind.__name__: row for row in wire.TABLE}
VECTORS = Path(__file__).parent.parent / "vectors" / "wire.json"
each_row = pytest.mark.parametrize("row", wire.TABLE, ids=ROWS.keys())

DIGEST = st.binary(min_size=32, max_size=32)
SIZES = {ct.Digest: DIGEST, ct.MemberId: st.binary(min_size=20, max_size=20)}
NAMES: dict[str, st.SearchStrategy[Any]] = {
    "height": st.integers(0, 1 << 40),
    "start": st.integers(0, 1 << 40),
    "count": st.integers(1, wire.BLOCKS_COUNT_MAX),
    "length": st.integers(0, 1000),
    "total_length": st.integers(1000, 10_000),
    "leaf_count": st.sampled_from([64, 128, 256, 512, 1024]),
    "reason": st.text(st.characters(codec="ascii", categories=["L", "N"]), max_size=64),
}


def values(kind: Any, name: str = "") -> st.SearchStrategy[Any]:
    """Values of a type, drawn field by field."""
    if kind in SIZES:
        return SIZES[kind]
    if name in NAMES and kind in (int, str):
        return NAMES[name]
    if kind is wire.GetPiece:
        runs = st.sampled_from([64, 128, 256, 512, 1024])
        return st.builds(
            lambda blob, run, index: wire.GetPiece(blob, run * index, run), DIGEST, runs, st.integers(0, 90)
        )
    if kind is wire.BaseDelta:
        exponents = st.lists(st.integers(-40, 10), min_size=1, max_size=9).map(tuple)
        return st.builds(wire.BaseDelta, DIGEST, DIGEST, exponents)
    if dataclasses.is_dataclass(kind):
        hints = get_type_hints(kind)
        return st.builds(kind, **{f.name: values(hints[f.name], f.name) for f in dataclasses.fields(kind)})
    if get_origin(kind) is tuple:
        arguments = get_args(kind)
        if arguments[-1] is Ellipsis:
            return st.lists(values(arguments[0]), max_size=3).map(tuple)
        return st.tuples(*(values(one) for one in arguments))
    if get_args(kind):
        return st.one_of([st.none() if one is type(None) else values(one) for one in get_args(kind)])
    plain = {
        int: st.integers(0, 1 << 31),
        bytes: st.binary(max_size=70),
        str: st.text(max_size=9),
        bool: st.booleans(),
    }
    return plain[kind]


def test_every_message_of_the_unions_has_a_line() -> None:
    said = {*get_args(wire.Message), *get_args(wire.Request), *get_args(wire.Response)}
    said |= {wire.GetPiece, wire.GetHeld, wire.PieceHead, wire.Held, wire.Refused}
    assert said == {row.kind for row in wire.TABLE}


@each_row
def test_a_burst_covers_what_an_outbox_holds_of_it(row: wire.Row) -> None:
    if row.kind in (wire.ConsensusMessage, wire.ParamTxMessage, wire.Have):
        assert row.burst >= OUTBOX_MESSAGES_MAX


@each_row
@given(data=st.data())
def test_what_is_packed_unpacks_to_the_same(row: wire.Row, data: st.DataObject) -> None:
    message = data.draw(values(row.kind))
    packed = wire.pack(message)
    assert packed[0] == row.tag
    assert wire.unpack(packed) == message
    assert wire.unpack(bytearray(packed)) == message


@each_row
@given(data=st.data())
def test_rubbish_is_refused_by_name_or_is_canonical(row: wire.Row, data: st.DataObject) -> None:
    """Random bytes, and valid messages with some bytes changed, cut or added."""
    body = data.draw(st.one_of(st.binary(max_size=200), values(row.kind).map(lambda one: wire.pack(one)[1:])))
    changes = st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=4)
    mutated = bytearray(body)
    for place, byte in data.draw(changes):
        if place < len(mutated):
            mutated[place] = byte
        else:
            mutated.append(byte)
    del mutated[data.draw(st.integers(0, len(mutated))) :]
    packed = bytes((row.tag,)) + bytes(mutated)
    found = unpacked_or_reason(packed)
    assert found == "bad_message" or wire.pack(found) == packed


def unpacked_or_reason(packed: bytes) -> Any:
    try:
        return wire.unpack(packed)
    except PeerFault as fault:
        return fault.reason


@each_row
def test_a_message_above_its_limit_is_neither_packed_nor_unpacked(row: wire.Row) -> None:
    with pytest.raises(PeerFault, match="bad_message"):
        wire.unpack(bytes((row.tag,)) + bytes(row.size_max + 1))


def test_what_is_too_large_is_our_own_bug() -> None:
    big = ct.BlockMessage(ct.Block(HEADER, bytes(records.BODY_BYTES_MAX + 70_000)))
    with pytest.raises(ValueError, match="limit"):
        wire.pack(wire.ConsensusMessage(bytes(32), big))


@given(st.binary(max_size=64))
def test_an_unknown_tag_is_refused_by_name(data: bytes) -> None:
    for tag in set(range(256)) - set(wire.BY_TAG):
        with pytest.raises(PeerFault, match="unknown_message"):
            wire.unpack(bytes((tag,)) + data)
        break
    with pytest.raises(PeerFault, match="unknown_message"):
        wire.unpack(b"")


HEADER = ct.Header(1, bytes(32), bytes(32), 0, 0, bytes(32), bytes(20), 0, bytes(32), bytes(32), bytes(32))
SIGNATURE = bytes(65)
LARGE = (1 << 63) - 1


def of_sixteen() -> list[Any]:
    """The largest honest messages of a group of sixteen, numbers at their largest."""
    change = ct.SignedRoundChange(
        ct.RoundChange(LARGE, LARGE, 2**32 - 1, 2**32 - 1, bytes(32), bytes(32)), SIGNATURE
    )
    prepare = ct.SignedPrepare(ct.Prepare(LARGE, LARGE, 2**32 - 1, bytes(32)), SIGNATURE)
    propose = ct.SignedPropose(ct.Propose(LARGE, LARGE, 2**32 - 1, bytes(32)), SIGNATURE)
    tx = structs.SignedParamTx(
        structs.ParamTx(
            LARGE,
            LARGE,
            bytes(20),
            bytes(32),
            bytes(32),
            *[LARGE] * 3,
            bytes(32),
            LARGE,
            bytes(32),
            *[LARGE] * 2,
        ),
        SIGNATURE,
    )
    block = ct.Block(HEADER, bytes(records.BODY_BYTES_MAX))
    close = structs.SignedClose(
        structs.Close(LARGE, LARGE, 9, bytes(32)), (bytes(32),) * 16, SIGNATURE, (change,) * 16
    )
    request = structs.SignedShareRequest(
        structs.ShareRequest(LARGE, LARGE, 9, bytes(32), bytes(32)), SIGNATURE, (change,) * 16
    )
    decided = ct.DecidedBlock(block, ct.Certificate(9, (SIGNATURE,) * 16))
    measured = structs.SignedMeasurement(
        structs.Measurement(LARGE, bytes(32), bytes(20), 1, bytes(32), LARGE, LARGE, LARGE), SIGNATURE
    )
    return [
        wire.ConsensusMessage(bytes(32), ct.Proposal(propose, block, (change,) * 16, (prepare,) * 16)),
        wire.ConsensusMessage(bytes(32), ct.DecidedMessage(decided)),
        wire.ConsensusMessage(
            bytes(32), ct.CommitMessage(ct.SignedCommit(propose.vote, SIGNATURE), bytes(500))
        ),
        wire.ShareRequestMessage(bytes(32), request),
        wire.ParamTxMessage(bytes(32), tx),
        wire.CloseMessage(bytes(32), close, (tx,) * 16),
        wire.BallotMessage(
            bytes(32),
            structs.SignedBallot(structs.Ballot(LARGE, LARGE, bytes(32), LARGE, LARGE, 1), SIGNATURE),
        ),
        wire.Blocks((decided,)),
        wire.MeasurementMessage(measured),
        wire.VerdictShare(structs.Verdict(bytes(32), LARGE, LARGE, bytes(20), 255, bytes(32)), SIGNATURE),
        wire.Tip(bytes(32), LARGE, bytes(32)),
        wire.OpeningOffer(bytes(32), bytes(32), 1000),
        wire.Held(1 << 26, bytes(wire.HELD_BYTES_MAX)),
        wire.PieceHead(1 << 26, (bytes(32),) * wire.PROOF_DIGESTS_MAX, PIECE_BYTES_MAX),
    ]


@pytest.mark.parametrize("message", of_sixteen(), ids=lambda one: type(one).__name__)
def test_the_largest_honest_message_fits(message: Any) -> None:
    assert len(wire.pack(message)) - 1 <= wire.BY_KIND[type(message)].size_max


def test_an_answer_holds_as_many_blocks_as_fit() -> None:
    small = ct.DecidedBlock(ct.Block(HEADER, bytes(1_000_000)), ct.Certificate(0, (SIGNATURE,) * 3))
    assert len(wire.fitting([small] * 9).blocks) == 4
    assert len(wire.fitting(iter([small] * 2)).blocks) == 2
    wire.pack(wire.fitting([small] * 9))
    tiny = ct.DecidedBlock(ct.Block(HEADER, b""), ct.Certificate(0, ()))
    assert len(wire.fitting([tiny] * 999).blocks) == wire.BLOCKS_COUNT_MAX


@pytest.mark.parametrize(
    "make",
    [
        lambda: wire.Have(bytes(31)),
        lambda: wire.Tip(bytes(32), -1, bytes(32)),
        lambda: wire.GetPiece(bytes(32), 64, 128),
        lambda: wire.GetPiece(bytes(32), 0, 96),
        lambda: wire.GetPiece(bytes(32), 0, 32),
        lambda: wire.GetPiece(bytes(32), 0, 2048),
        lambda: wire.GetPiece(bytes(32), 1 << 40, 64),
        lambda: wire.GetBlocks(bytes(32), 0, 0),
        lambda: wire.GetBlocks(bytes(32), 0, wire.BLOCKS_COUNT_MAX + 1),
        lambda: wire.OpeningOffer(bytes(32), bytes(32), 1 << 40),
        lambda: wire.GetHeld(bytes(32), 96),
        lambda: wire.Held(1 << 26, bytes(wire.HELD_BYTES_MAX + 1)),
        lambda: wire.PieceHead(100, (), 101),
        lambda: wire.PieceHead(1 << 26, (bytes(32),) * 40, 5),
        lambda: wire.BaseDelta(bytes(32), bytes(32), ()),
        lambda: wire.BaseDelta(bytes(32), bytes(32), (11,)),
        lambda: wire.BaseDelta(bytes(32), bytes(31), (-15,)),
        lambda: wire.Refused("x" * 65),
        lambda: wire.Refused("\x1b[2J"),
    ],
)
def test_values_out_of_range_cannot_be_made(make: Any) -> None:
    with pytest.raises(ValueError):
        make()


def golden() -> dict[str, Any]:
    """One message of each line of the table, with numbers that show where they are."""
    one, two = bytes(range(32)), bytes(range(32, 64))
    by_name: dict[str, Any] = {type(message).__name__: message for message in of_sixteen()}
    prepare = ct.PrepareMessage(ct.SignedPrepare(ct.Prepare(1, 2, 3, one), SIGNATURE))
    by_name |= {
        "ConsensusMessage": wire.ConsensusMessage(two, prepare),
        "Have": wire.Have(one),
        "Tip": wire.Tip(one, 5, two),
        "OpenRequest": wire.OpenRequest(one),
        "OpeningOffer": wire.OpeningOffer(one, two, 1000),
        "NoticeMessage": wire.NoticeMessage(SignedLeave(Leave(3, one[:20]), SIGNATURE)),
        "PeerRecords": wire.PeerRecords((one, two)),
        "BaseDelta": wire.BaseDelta(one, two, (-15, -20)),
        "Heartbeat": wire.Heartbeat(again=True),
        "GetStatus": wire.GetStatus(one),
        "GetBlocks": wire.GetBlocks(one, 6, 7),
        "GetPiece": wire.GetPiece(one, 128, 64),
        "GetHeld": wire.GetHeld(one, 1024),
        "Held": wire.Held(20_000_000, bytes.fromhex("ff8010")),
        "Status": wire.Status(one, -1, bytes(32)),
        "Blocks": wire.Blocks((ct.DecidedBlock(ct.Block(HEADER, b"body"), ct.Certificate(1, (SIGNATURE,))),)),
        "PieceHead": wire.PieceHead(70_000, (one, two), 65_536),
        "Refused": wire.Refused("not_held"),
    }
    return by_name


def test_packed_bytes_are_those_of_the_golden_vectors() -> None:
    """Whoever writes a node in another language reads the same file."""
    vectors = json.loads(VECTORS.read_text(encoding="utf-8"))
    assert {name: wire.pack(message).hex() for name, message in golden().items()} == vectors
    assert vectors.keys() == ROWS.keys()


def test_numbers_above_64_bits_are_refused() -> None:
    data = codec.encode([bytes(32), 1 << 70, bytes(32)], list)
    with pytest.raises(PeerFault, match="bad_message"):
        wire.unpack(bytes((wire.BY_KIND[wire.Tip].tag,)) + data)


def test_the_page_about_the_wire_has_the_table_and_the_faults_as_they_are() -> None:
    page = (Path(__file__).parent.parent.parent / "docs" / "wire.md").read_text(encoding="utf-8")
    for row in wire.TABLE:
        limits = f"{row.rate_per_s:g} | {row.burst:,}" if row.burst else " | "
        assert f"| {row.tag} | {row.kind.__name__} | {row.size_max:,} | {limits} |" in page
    for name, (bars, what) in peer.REASONS.items():
        assert f"| {name} | {'yes' if bars else ''} | {what} |" in page
