"""Whom the vectors are about: keys, groups, committees, and the domains in which they sign.

Knows how a value is written in JSON. What is signed and what is expected is in the other modules.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Sequence
from functools import cache
from hashlib import sha256
from typing import Any

from consensus import types as t
from consensus.committee import Committee
from consensus.signing import ORDER, Domain, block_id, keccak256, separator, sign, signing_digest
from consensus.types import Digest, MemberId
from p2pfl.evm.records import pair_kind
from tests.consensus.lab import IDS, KEYS

# Where the first account of every development chain puts its second contract: registry first, manager second.
CHAIN_ID = 31337
DEPLOYER = bytes.fromhex("f39fd6e51aad88f6f4ce6ab8827279cfffb92266")
MANAGER = MemberId(keccak256(b"\xd6\x94" + DEPLOYER + b"\x01")[12:])

GROUP, COUNCIL, MOVING, SETTLED = (
    Digest(sha256(b"vectors: " + name).digest()) for name in (b"group", b"council", b"moving", b"settled")
)
GROUPS = {"group": GROUP, "council": COUNCIL, "moving": MOVING, "settled": SETTLED}
NETWORK = Digest(sha256(b"vectors: network").digest())
STRANGER = 16  # A key that sits nowhere.


def members(*places: int) -> tuple[MemberId, ...]:
    """Ids by their places among the keys, which ascend by id."""
    return tuple(IDS[place] for place in places)


# Committees by group. In `group`, epoch n has n members.
COMMITTEES: dict[str, list[Committee]] = {
    "group": [Committee(n, members(*range(n))) for n in range(1, 17)],
    "council": [Committee(0, members(0, 1, 2, 3))],
    "moving": [
        Committee(0, members(0, 1, 2, 3)),
        Committee(1, members(1, 2, 3, 4, 5, 6, 7)),
        Committee(2, members(0, 4, 8, 9)),
    ],
    # The genesis lists its members in the order of their turns; later committees ascend.
    "settled": [Committee(0, members(3, 1, 0, 2)), *(Committee(e, members(0, 1, 2, 3)) for e in (1, 2))],
}


def domain(group: Digest = GROUP) -> Domain:
    """Where this group's members sign."""
    return Domain(CHAIN_ID, MANAGER, group)


def signed(by: int, struct: Any, where: Domain | None = None) -> bytes:
    """A key's signature."""
    return sign(KEYS[by], signing_digest(where or domain(), struct))


def commits(
    by: Iterable[int], header: t.Header, round_: int = 0, where: Domain | None = None
) -> tuple[bytes, ...]:
    """COMMITs of a header, in the order of the places."""
    vote = t.Commit(header.epoch, header.height, round_, block_id(header))
    return tuple(signed(place, vote, where or domain(header.group_id)) for place in by)


def high_s(signature: bytes) -> bytes:
    """The other signature of the same digest by the same key, which EIP-2 refuses."""
    s = ORDER - int.from_bytes(signature[32:64], "big")
    return signature[:32] + s.to_bytes(32, "big") + bytes([55 - signature[64]])


def low_v(signature: bytes) -> bytes:
    """With v 0 or 1, as libraries below EVM tools write it."""
    return signature[:64] + bytes([signature[64] - 27])


def digest_of(name: str) -> Digest:
    """Some 32 bytes."""
    return Digest(sha256(b"vectors: " + name.encode()).digest())


# ---------------------------------------------------------------------------
# JSON.


def hexed(value: bytes) -> str:
    """0x and two lower-case digits a byte."""
    return "0x" + value.hex()


@cache
def layout(type_string: str) -> tuple[tuple[str, str], ...]:
    """(ABI type, name) of each field of an EIP-712 type string."""
    found = re.fullmatch(r"\w+\((.*)\)", type_string)
    assert found is not None, type_string
    return tuple((kind, name) for kind, name in (part.split(" ") for part in found[1].split(",")))


def fields_of(struct: Any) -> dict[str, Any]:
    """A struct by the names of its type string."""
    names = [name for _, name in layout(struct.TYPE)]
    values = [getattr(struct, field.name) for field in dataclasses.fields(struct)]
    return {
        name: hexed(value) if isinstance(value, bytes) else value
        for name, value in zip(names, values, strict=True)
    }


def struct_of(kind: Any, told: dict[str, Any]) -> Any:
    """The struct of a vector's fields."""
    return kind(*(bytes.fromhex(v[2:]) if isinstance(v, str) else v for v in told.values()))


def domain_of(where: Domain) -> dict[str, Any]:
    """A domain in JSON."""
    return {
        "chainId": where.chain_id,
        "verifyingContract": hexed(where.verifying_contract),
        "salt": hexed(where.group_id),
        "separator": hexed(separator(where)),
    }


def kind_of(struct: Any) -> int:
    """Under which number the contract knows two structs of this type; 0: under none."""
    try:
        return pair_kind(struct, struct)
    except ValueError:
        return 0


def committee_of(group: Digest, committee: Committee) -> dict[str, Any]:
    """A committee in JSON."""
    return {
        "groupId": hexed(group),
        "epoch": committee.epoch,
        "members": [hexed(one) for one in committee.members],
        "quorum": committee.quorum,
        "faultyMax": committee.faulty_max,
        "root": hexed(committee.root()),
    }


def vectors() -> Sequence[dict[str, Any]]:
    """network.json: not cases but the ground on which all cases stand."""
    keys = [
        {"name": f"key {place}", "secret": hexed(key.secret), "member": hexed(IDS[place])}
        for place, key in enumerate(KEYS)
    ]
    return [
        {
            "name": "the network",
            "shows": "Keys ascend by member id; key 16 sits nowhere. All others have a stake.",
            "chainId": CHAIN_ID,
            "deployer": hexed(DEPLOYER),
            "verifyingContract": hexed(MANAGER),
            "networkId": hexed(NETWORK),
            "keys": keys,
            "groups": [{"name": name, **domain_of(domain(group))} for name, group in GROUPS.items()],
            "committees": [
                {"group": name, **committee_of(GROUPS[name], one)}
                for name, several in COMMITTEES.items()
                for one in several
            ],
        }
    ]
