"""The golden vectors, and a second opinion on EIP-712 by eth-account."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any

import pytest
from eth_account import Account
from eth_account.messages import encode_typed_data
from eth_utils import keccak

from consensus import codec, signing
from consensus import types as t
from p2pfl import records
from tests.consensus import vectors
from tests.consensus.lab import DOMAIN, IDS, KEYS, Lab, sign


def test_the_golden_vectors_are_made_again_to_the_byte() -> None:
    recorded = json.loads(vectors.PATH.read_text(encoding="utf-8"))
    made = vectors.vectors()
    assert recorded.keys() == made.keys()
    for name in recorded:
        assert recorded[name] == made[name], name


def test_every_message_is_in_the_vectors_and_reads_back() -> None:
    recorded = json.loads(vectors.PATH.read_text(encoding="utf-8"))["messages"]
    assert set(recorded) == {kind.__name__ for kind in t.Message.__args__}
    for name, message in vectors.messages(Lab()).items():
        data = bytes.fromhex(recorded[name][2:])
        assert codec.decode(data, t.Message, size_max=1 << 16) == message


SIGNED: list[Any] = [
    t.Propose(1, 2, 3, vectors.A),
    t.Prepare(1, 2, 3, vectors.A),
    t.Commit(1, 2, 3, vectors.A),
    t.RoundChange(1, 2, 3, 3, vectors.A, vectors.B),
    records.Close(1, 2, 3, vectors.A),
    records.Ballot(1, 2, vectors.A, -5, 7, 1),
    records.Verdict(vectors.A, 1, 2, IDS[3], 16, vectors.B),
]


def typed_data(struct: Any) -> dict[str, Any]:
    """The same struct as a wallet would be shown it."""
    found = re.fullmatch(r"(\w+)\((.*)\)", struct.TYPE)
    assert found is not None
    members = [dict(zip(("type", "name"), part.split(" "), strict=True)) for part in found[2].split(",")]
    values = [getattr(struct, field.name) for field in dataclasses.fields(struct)]
    domain_members = (
        ("name", "string"),
        ("version", "string"),
        ("chainId", "uint256"),
        ("verifyingContract", "address"),
        ("salt", "bytes32"),
    )
    return {
        "types": {
            "EIP712Domain": [{"name": name, "type": kind} for name, kind in domain_members],
            found[1]: members,
        },
        "primaryType": found[1],
        "domain": {
            "name": "MPS",
            "version": "1",
            "chainId": DOMAIN.chain_id,
            "verifyingContract": "0x" + DOMAIN.verifying_contract.hex(),
            "salt": DOMAIN.group_id,
        },
        "message": {member["name"]: value for member, value in zip(members, values, strict=True)},
    }


@pytest.mark.parametrize("struct", SIGNED, ids=lambda struct: type(struct).__name__)
def test_eth_account_finds_the_same_digest_and_the_same_signer(struct: Any) -> None:
    message = encode_typed_data(full_message=typed_data(struct))
    digest = keccak(b"\x19" + message.version + message.header + message.body)
    assert digest == signing.signing_digest(DOMAIN, struct)
    signature = sign(2, struct)
    assert bytes.fromhex(Account.recover_message(message, signature=signature)[2:]) == IDS[2]
    assert Account.sign_message(message, KEYS[2].secret).signature == signature


def test_a_header_is_abi_encoded_as_the_contract_does() -> None:
    from eth_abi.abi import encode

    header = Lab().block().header
    found = re.fullmatch(r"\w+\((.*)\)", header.TYPE)
    assert found is not None
    kinds = [part.split(" ")[0] for part in found[1].split(",")]
    values = [
        "0x" + v.hex() if k == "address" else v
        for k, v in zip(kinds, dataclasses.astuple(header), strict=True)
    ]
    assert encode(kinds, values) == signing.words(header)


@pytest.mark.parametrize(
    "wrong",
    [
        t.Commit(-1, 0, 0, vectors.A),
        t.Commit(1 << 64, 0, 0, vectors.A),
        t.Commit(0, 0, 1 << 32, vectors.A),
        t.Commit(0, 0, 0, t.Digest(b"short")),
        records.Ballot(0, 0, vectors.A, 1 << 63, 0, 0),
        records.Ballot(0, 0, vectors.A, 0, 0, 256),
    ],
)
def test_what_does_not_fit_its_type_is_not_signed(wrong: Any) -> None:
    with pytest.raises(ValueError, match="not fit"):
        signing.signing_digest(DOMAIN, wrong)
