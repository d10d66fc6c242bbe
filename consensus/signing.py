"""Signatures: EIP-712 digests, secp256k1 recoverable signatures, addresses.

Knows how a struct becomes a digest and a digest a signer. Who may sign what, and whether it was signed
twice, is not known here (`committee`, `evidence`, and the guard in `p2pfl.keys`).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

from coincurve import PrivateKey, PublicKey
from Crypto.Hash import keccak

from consensus.types import Digest, Header, MemberId

SIGNATURE_BYTES = 65
# secp256k1's group order; EIP-2 asks for s at most half of it.
ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
DOMAIN_TYPE = (
    "EIP712Domain(string name,string version,uint256 chainId,address verifyingContract,bytes32 salt)"
)


class BadSignature(ValueError):
    """Not a canonical recoverable signature of anybody."""


def keccak256(data: bytes) -> Digest:
    """Keccak-256 as in Ethereum (not SHA3-256)."""
    return Digest(keccak.new(digest_bits=256, data=data).digest())


@dataclass(frozen=True, slots=True)
class Domain:
    """Where a signature counts (EIP-712): one chain, one contract, one group (the salt)."""

    chain_id: int
    verifying_contract: MemberId
    group_id: Digest


@cache
def separator(domain: Domain) -> Digest:
    """The EIP-712 domain separator, name "MPS", version "1"."""
    return keccak256(
        keccak256(DOMAIN_TYPE.encode())
        + keccak256(b"MPS")
        + keccak256(b"1")
        + domain.chain_id.to_bytes(32, "big")
        + domain.verifying_contract.rjust(32, b"\0")
        + domain.group_id
    )


@cache
def _layout(type_string: str) -> tuple[str, ...]:
    found = re.fullmatch(r"\w+\((.*)\)", type_string)
    assert found is not None, type_string
    return tuple(part.split(" ")[0] for part in found[1].split(","))


@cache
def _type_hash(type_string: str) -> Digest:
    return keccak256(type_string.encode())


def words(struct: Any) -> bytes:
    """The ABI words of a struct whose fields are all static: 32 bytes a field."""
    return b"".join([word(getattr(struct, name)) for name, word in _words_of(struct.__class__)])


@cache  # A type is read once; what is left for each value is a few small functions.
def _words_of(struct_type: Any) -> tuple[tuple[str, Callable[[Any], bytes]], ...]:
    names = [field.name for field in dataclasses.fields(struct_type)]
    return tuple((name, _word_of(kind)) for name, kind in zip(names, _layout(struct_type.TYPE), strict=True))


def _word_of(kind: str) -> Callable[[Any], bytes]:
    """What makes a word of a value of this kind; it raises ValueError for a value that does not fit."""
    if "int" in kind:
        signed = kind.startswith("int")
        bits = int(kind.removeprefix("u")[3:]) - signed
        low, high = (-(1 << bits) if signed else 0), 1 << bits

        def number(value: int) -> bytes:
            if not low <= value < high:
                raise ValueError(f"{value} does not fit {kind}")
            return value.to_bytes(32, "big", signed=signed)

        return number
    size = {"bytes32": 32, "address": 20}[kind]
    before = bytes(32 - size)

    def plain(value: bytes) -> bytes:
        if len(value) != size:
            raise ValueError(f"{len(value)} bytes do not fit {kind}")
        return before + value

    return plain


def struct_hash(struct: Any) -> Digest:
    """EIP-712 hashStruct."""
    return keccak256(_type_hash(struct.TYPE) + words(struct))


def signing_digest(domain: Domain, struct: Any) -> Digest:
    """What is signed: keccak256(0x1901 || domain separator || hashStruct)."""
    return keccak256(b"\x19\x01" + separator(domain) + struct_hash(struct))


@lru_cache(maxsize=1024)  # One height asks for few ids, often.
def block_id(header: Header) -> Digest:
    """keccak256(abi.encode(header)): independent of the round and of who voted."""
    return keccak256(words(header))


def address(public_key: PublicKey) -> MemberId:
    """The EVM address of a public key."""
    return _address(public_key.format(compressed=False))


@lru_cache(maxsize=1024)  # The same members sign all the time.
def _address(public_key: bytes) -> MemberId:
    return MemberId(keccak256(public_key[1:])[12:])


def sign(key: PrivateKey, digest: Digest) -> bytes:
    """65 bytes r, s, v with low s and v 27 or 28, deterministic (RFC 6979)."""
    raw = key.sign_recoverable(digest, hasher=None)  # pyright: ignore[reportUnknownMemberType]
    return raw[:64] + bytes([raw[64] + 27])


def recover(digest: Digest, signature: bytes) -> MemberId:
    """Who signed this digest. Raises BadSignature for anything but one canonical form."""
    if len(signature) != SIGNATURE_BYTES or signature[64] not in (27, 28):
        raise BadSignature("65 bytes with v 27 or 28 were expected")
    if int.from_bytes(signature[32:64], "big") > ORDER // 2:
        raise BadSignature("high s")
    try:
        key = PublicKey.from_signature_and_message(
            signature[:64] + bytes([signature[64] - 27]), digest, hasher=None
        )
    except Exception as error:  # libsecp256k1 reports every bad input by a bare Exception or ValueError.
        raise BadSignature(str(error)) from error
    return address(key)
