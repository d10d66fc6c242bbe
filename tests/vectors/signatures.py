"""Signatures that are canonical and those that are not, and canonical ones of something else."""

from __future__ import annotations

import dataclasses
from typing import Any

from coincurve import PrivateKey
from eth_keys.backends.native.main import NativeECCBackend
from eth_keys.main import KeyAPI

from consensus import types as t
from consensus.signing import (
    ORDER,
    Domain,
    keccak256,
    separator,
    sign,
    signing_digest,
    struct_hash,
    words,
)
from p2pfl.signed import Close, ParamTx, ShareRequest
from tests.consensus.lab import IDS, KEYS
from tests.vectors.network import (
    CHAIN_ID,
    COUNCIL,
    GROUP,
    MANAGER,
    digest_of,
    domain,
    domain_of,
    fields_of,
    hexed,
    high_s,
    kind_of,
    low_v,
    signed,
)

# Why a signature is nobody's, and the contract's word for it: BadSignature(index, reason).
LENGTH, RANGE, HIGH_S = "not 65 bytes", "no signer", "high s"
CONTRACT_REASON = {LENGTH: 2, RANGE: 1, HIGH_S: 3}
OTHER_LIBRARY = KeyAPI(NativeECCBackend)
X, Y = digest_of("block x"), digest_of("block y")
BY = 2  # Who claims to have signed: a seat of epoch 4.

VOTE = t.Commit(4, 7, 1, X)
OTHERS: list[Any] = [
    t.Propose(4, 7, 1, X),
    t.Prepare(4, 7, 1, X),
    t.RoundChange(4, 7, 2, 1, X, digest_of("context")),
    ParamTx(4, 7, IDS[BY], X, Y, 1024, 60, 0, digest_of("data"), 60, digest_of("trace"), 9_000, -5_000),
    ShareRequest(4, 7, 1, X, Y),
    Close(4, 7, 1, X),
]


def vectors() -> list[dict[str, Any]]:
    """signatures.json."""
    rows = [*of_a_commit(), *of_something_else(), *scalars()]
    for struct in OTHERS:
        rows += of_each_kind(struct)
    return rows


def row(
    name: str, shows: str, struct: Any, signature: bytes, reason: str = "", signer: Any = BY
) -> dict[str, Any]:
    """signer: a place, an id, or None for nobody's. It counts for key 2 only if that one is the signer."""
    who = None if reason else IDS[signer] if isinstance(signer, int) else signer
    return {
        "name": name,
        "shows": shows,
        "domain": domain_of(domain()),
        "kind": kind_of(struct),
        "type": struct.TYPE,
        "fields": fields_of(struct),
        "words": hexed(words(struct)),
        "digest": hexed(signing_digest(domain(), struct)),
        "signature": hexed(signature),
        "claimed": hexed(IDS[BY]),
        "signer": None if who is None else hexed(who),
        "valid": who == IDS[BY],
        "reason": reason,
    }


def with_v(v: int) -> tuple[Any, bytes]:
    """A Commit of another height whose canonical signature has this v."""
    for height in range(7, 64):
        vote = dataclasses.replace(VOTE, height=height)
        signature = signed(BY, vote)
        if signature[64] == v:
            return vote, signature
    raise AssertionError("64 signatures with one v")


def of_a_commit() -> list[dict[str, Any]]:
    """One vote, its signature, and what becomes of it by small changes."""
    good = signed(BY, VOTE)
    rows = [row("Commit", "r, s, v; s low; v 27 or 28.", VOTE, good)]
    for v in (27, 28):
        vote, signature = with_v(v)
        rows += [
            row(f"v = {v}", "Canonical.", vote, signature),
            row(f"v = {v - 27} for {v}", "v is 27 or 28, never 0 or 1.", vote, low_v(signature), RANGE),
            row(
                f"high s, its v was {v}",
                "s at most half of the order (EIP-2).",
                vote,
                high_s(signature),
                HIGH_S,
            ),
        ]
    for v in (2, 26, 29, 35, 255):
        rows.append(row(f"v = {v}", "v is 27 or 28.", VOTE, good[:64] + bytes([v]), RANGE))
    parity = (int.from_bytes(good[32:64], "big") | (good[64] - 27) << 255).to_bytes(32, "big")
    return [
        *rows,
        row("empty", "No bytes.", VOTE, b"", LENGTH),
        row("64 bytes", "Without v.", VOTE, good[:64], LENGTH),
        row("compact", "The form of EIP-2098 is another 64 bytes.", VOTE, good[:32] + parity, LENGTH),
        row("66 bytes", "A byte too many.", VOTE, good + b"\0", LENGTH),
        row("v first", "v, r, s.", *v_first(), RANGE),
        row("zeros", "65 of them.", VOTE, bytes(65), RANGE),
    ]


def v_first() -> tuple[Any, bytes]:
    """A Commit and its signature as v, r, s: read as r, s, v its s is low, so that v alone is at fault."""
    for height in range(7, 64):
        vote = dataclasses.replace(VOTE, height=height)
        good = signed(BY, vote)
        turned = good[64:] + good[:64]
        if turned[32] < 0x7F and turned[64] not in (27, 28):
            return vote, turned
    raise AssertionError("no such signature")


def of_something_else() -> list[dict[str, Any]]:
    """Canonical signatures of key 2, but not of this vote in this domain: somebody else's, or nobody's."""
    later = dataclasses.replace
    cases: dict[str, tuple[str, bytes]] = {
        "another chain": ("Signed for chain id 1.", signed(BY, VOTE, Domain(1, MANAGER, GROUP))),
        "another contract": (
            "Signed for another contract.",
            signed(BY, VOTE, Domain(CHAIN_ID, IDS[0], GROUP)),
        ),
        "another group": ("Signed for the council.", signed(BY, VOTE, domain(COUNCIL))),
        "no domain": ("The bare struct hash.", sign(KEYS[BY], struct_hash(VOTE))),
        "without 0x1901": (
            "Separator and struct hash alone.",
            sign(KEYS[BY], keccak256(separator(domain()) + struct_hash(VOTE))),
        ),
        "a personal message": (
            "EIP-191 version E over the struct hash, as a wallet signs texts.",
            sign(KEYS[BY], keccak256(b"\x19Ethereum Signed Message:\n32" + struct_hash(VOTE))),
        ),
        "version 2 of the domain": (
            "Signed in a domain of another version.",
            sign(KEYS[BY], other_version()),
        ),
        "another epoch": ("Signed for epoch 5.", signed(BY, later(VOTE, epoch=5))),
        "another height": ("Signed for height 8.", signed(BY, later(VOTE, height=8))),
        "another round": ("Signed for round 0.", signed(BY, later(VOTE, round=0))),
        "another block": ("Signed for another block.", signed(BY, later(VOTE, block_id=Y))),
        "a Prepare": ("Same fields, another type.", signed(BY, t.Prepare(4, 7, 1, X))),
        "a Propose": ("Same fields, another type.", signed(BY, t.Propose(4, 7, 1, X))),
        "a Close": ("Same words, another type.", signed(BY, Close(4, 7, 1, X))),
        "another member": ("Signed by key 3.", signed(3, VOTE)),
        "a stranger": ("Signed by a key that sits nowhere.", signed(16, VOTE)),
        "v of the other key": ("27 for 28 or 28 for 27.", flipped(signed(BY, VOTE))),
    }
    return [elsewhere(f"Commit: {name}", shows, VOTE, raw) for name, (shows, raw) in cases.items()]


def elsewhere(name: str, shows: str, struct: Any, signature: bytes) -> dict[str, Any]:
    """Whoever is found by recovery: not who claims it."""
    # Pure Python: another implementation than the one that is tested.
    raw = OTHER_LIBRARY.Signature(signature[:64] + bytes([signature[64] - 27]))
    found = OTHER_LIBRARY.ecdsa_recover(signing_digest(domain(), struct), raw)
    return row(name, shows, struct, signature, signer=found.to_canonical_address())


def other_version() -> t.Digest:
    """The digest of VOTE where the domain says version 2."""
    kind = b"EIP712Domain(string name,string version,uint256 chainId,address verifyingContract,bytes32 salt)"
    text = keccak256(kind) + keccak256(b"MPS") + keccak256(b"2")
    where = CHAIN_ID.to_bytes(32, "big") + MANAGER.rjust(32, b"\0") + GROUP
    return keccak256(b"\x19\x01" + keccak256(text + where) + struct_hash(VOTE))


def flipped(signature: bytes) -> bytes:
    return signature[:64] + bytes([55 - signature[64]])


def scalars() -> list[dict[str, Any]]:
    """r and s at the ends of their ranges."""
    good = signed(BY, VOTE)
    half = ORDER // 2
    # x = 5 is on no point of the curve; the generator's x is.
    generator = PrivateKey(b"\1".rjust(32, b"\0")).public_key.format(compressed=False)[1:33]

    def raw(r: int | bytes, s: int | bytes) -> bytes:
        return (
            b"".join(one if isinstance(one, bytes) else one.to_bytes(32, "big") for one in (r, s)) + b"\x1b"
        )

    r, s = good[:32], good[32:64]
    return [
        row("r = 0", "r is at least 1.", VOTE, raw(0, s), RANGE),
        row("r = order", "r is below the order.", VOTE, raw(ORDER, s), RANGE),
        row("r on no point", "5 is the x of no point.", VOTE, raw(5, s), RANGE),
        row("r of all ones", "Above the order.", VOTE, raw(b"\xff" * 32, s), RANGE),
        row("s = 0", "s is at least 1.", VOTE, raw(r, 0), RANGE),
        row("s = half + 1", "The least s that is high.", VOTE, raw(generator, half + 1), HIGH_S),
        row("s = order - 1", "High.", VOTE, raw(generator, ORDER - 1), HIGH_S),
        row("s = order", "High, before it is anything else.", VOTE, raw(generator, ORDER), HIGH_S),
        row("s of all ones", "High.", VOTE, raw(generator, b"\xff" * 32), HIGH_S),
        elsewhere("s = half", "The greatest s that is low: somebody's.", VOTE, raw(generator, half)),
        elsewhere("s = 1", "The least: somebody's.", VOTE, raw(generator, 1)),
    ]


def of_each_kind(struct: Any) -> list[dict[str, Any]]:
    """The same few for every struct that evidence is made of."""
    name = type(struct).__name__
    good = signed(BY, struct)
    other = dataclasses.replace(struct, epoch=5)
    wrong = t.Commit(struct.epoch, struct.height, 1, X)
    return [
        row(name, "Canonical.", struct, good),
        row(f"{name}: high s", "As for a Commit.", struct, high_s(good), HIGH_S),
        row(f"{name}: v = {good[64] - 27}", "As for a Commit.", struct, low_v(good), RANGE),
        elsewhere(
            f"{name}: another group", "Signed for the council.", struct, signed(BY, struct, domain(COUNCIL))
        ),
        elsewhere(f"{name}: another epoch", "Signed for epoch 5.", struct, signed(BY, other)),
        elsewhere(f"{name}: a Commit", "Signed as a Commit.", struct, signed(BY, wrong)),
    ]
