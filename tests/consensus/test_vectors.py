"""Every golden vector through the public functions, and second opinions by eth-account and eth-abi."""

from __future__ import annotations

import re
from hashlib import sha256
from typing import Any

import pytest
from eth_abi.abi import encode
from eth_account import Account
from eth_account.messages import SignableMessage, encode_typed_data
from eth_utils.crypto import keccak

from consensus import signing
from consensus import types as t
from consensus.chain import BadBlock, Log, verify_chain
from consensus.committee import Committee
from consensus.evidence import offence, two_of_one_slot
from consensus.votes import BadCertificate, verify_certificate
from p2pfl import codec
from p2pfl import signed as structs
from tests.consensus import vectors
from tests.consensus.lab import DOMAIN, Lab
from tests.vectors import certificates, network
from tests.vectors.digests import STRUCTS
from tests.vectors.network import COUNCIL, GROUP, MANAGER, domain, layout, struct_of

WRAP = {
    "Propose": t.SignedPropose, "Prepare": t.SignedPrepare, "Commit": t.SignedCommit,
    "RoundChange": t.SignedRoundChange,
}  # fmt: skip
SLOTS = {
    "ParamTx": ("epoch", "height"), "ShareRequest": ("epoch", "height", "round"),
    "Close": ("epoch", "height", "round"),
}  # fmt: skip


def raw(told: str) -> Any:
    return bytes.fromhex(told[2:])


def every(file: str) -> Any:
    """A parameter for each recorded vector, by its name."""
    return pytest.mark.parametrize(
        "vector", [pytest.param(one, id=one["name"]) for one in vectors.read(file)]
    )


def kind_of(type_string: str) -> Any:
    return STRUCTS[type_string.partition("(")[0]]


def committee_of(told: dict[str, Any]) -> Committee:
    return Committee(told["epoch"], tuple(raw(one) for one in told["members"]))


def certificate_of(told: dict[str, Any]) -> t.Certificate:
    return t.Certificate(told["round"], tuple(raw(one) for one in told["signatures"]))


# ---------------------------------------------------------------------------
# The files.


@pytest.mark.parametrize("name", vectors.FILES)
def test_the_golden_vectors_are_made_again_to_the_byte(name: str) -> None:
    assert vectors.path_of(name).read_text(encoding="utf-8") == vectors.text_of(name)


def test_there_are_many_and_each_has_a_name_and_says_what_it_shows() -> None:
    for name in vectors.FILES:
        read = vectors.read(name)
        assert len({one["name"] for one in read}) == len(read), name
        assert all(one["shows"] for one in read)
    assert sum(len(vectors.read(name)) for name in vectors.FILES) > 350
    held = [one["valid"] for one in vectors.read("chains")]
    assert (held.count(True), held.count(False)) == (12, 28)


def test_every_kind_of_offence_and_struct_is_in_the_vectors() -> None:
    proven = [one["offence"] for one in vectors.read("evidence")]
    assert all(proven.count(code) >= 4 for code in range(1, 7))
    assert proven.count(0) >= 40
    assert {one["type"] for one in vectors.read("digests")} == {kind.TYPE for kind in STRUCTS.values()}


def test_every_message_is_in_the_vectors_and_reads_back() -> None:
    recorded = {one["name"]: one for one in vectors.read("messages")}
    assert set(recorded) == {kind.__name__ for kind in t.Message.__args__}
    for name, message in vectors.messages(Lab()).items():
        data = raw(recorded[name]["cbor"])
        assert codec.decode(data, t.Message, size_max=1 << 16) == message


# ---------------------------------------------------------------------------
# Digests, ids and roots.


def typed_data(type_string: str, fields: dict[str, Any], where: dict[str, Any]) -> SignableMessage:
    """What a wallet would be shown, from the words of the vector alone."""
    members = [{"type": kind, "name": name} for kind, name in layout(type_string)]
    name = type_string.partition("(")[0]
    kinds = ("string name", "string version", "uint256 chainId", "address verifyingContract", "bytes32 salt")
    return encode_typed_data(
        full_message={
            "types": {
                "EIP712Domain": [dict(zip(("type", "name"), one.split(" "), strict=True)) for one in kinds],
                name: members,
            },
            "primaryType": name,
            "domain": {
                "name": "MPS",
                "version": "1",
                "chainId": where["chainId"],
                "verifyingContract": where["verifyingContract"],
                "salt": raw(where["salt"]),
            },
            "message": {
                one: raw(value) if kind == "bytes32" else value
                for (kind, one), value in zip(layout(type_string), fields.values(), strict=True)
            },
        }
    )


def abi_encoded(type_string: str, fields: dict[str, Any]) -> bytes:
    kinds = [kind for kind, _ in layout(type_string)]
    values = [
        raw(value) if kind == "bytes32" else value for kind, value in zip(kinds, fields.values(), strict=True)
    ]
    return encode(kinds, values)


def domain_of(told: dict[str, Any]) -> signing.Domain:
    return signing.Domain(told["chainId"], raw(told["verifyingContract"]), raw(told["salt"]))


@every("digests")
def test_a_struct_has_this_digest_and_this_signer(vector: dict[str, Any]) -> None:
    struct = struct_of(kind_of(vector["type"]), vector["fields"])
    where = domain_of(vector["domain"])
    assert list(vector["fields"]) == [name for _, name in layout(vector["type"])]
    assert signing.separator(where) == raw(vector["domain"]["separator"])
    assert signing.words(struct) == raw(vector["words"])
    assert signing.struct_hash(struct) == raw(vector["structHash"])
    assert signing.signing_digest(where, struct) == raw(vector["digest"])
    assert signing.recover(raw(vector["digest"]), raw(vector["signature"])) == raw(vector["signer"])


@every("digests")
def test_eth_account_finds_the_same_digest_and_the_same_signer(vector: dict[str, Any]) -> None:
    message = typed_data(vector["type"], vector["fields"], vector["domain"])
    assert keccak(b"\x19" + message.version + message.header + message.body) == raw(vector["digest"])
    assert message.header == raw(vector["domain"]["separator"])
    assert message.body == raw(vector["structHash"])
    assert abi_encoded(vector["type"], vector["fields"]) == raw(vector["words"])
    assert Account.recover_message(message, signature=raw(vector["signature"])).lower() == vector["signer"]
    (key,) = [one for one in vectors.read("network")[0]["keys"] if one["member"] == vector["signer"]]
    assert Account.sign_message(message, key["secret"]).signature == raw(vector["signature"])


@every("headers")
def test_a_header_has_this_id(vector: dict[str, Any]) -> None:
    header = struct_of(t.Header, vector["fields"])
    assert signing.words(header) == raw(vector["words"])
    assert signing.block_id(header) == raw(vector["blockId"])
    assert abi_encoded(t.Header.TYPE, vector["fields"]) == raw(vector["words"])
    assert keccak(raw(vector["words"])) == raw(vector["blockId"])


@every("committees")
def test_a_committee_has_this_root_and_quorum(vector: dict[str, Any]) -> None:
    committee = committee_of(vector)
    told = (raw(vector["root"]), vector["quorum"], vector["faultyMax"])
    assert (committee.root(), committee.quorum, committee.faulty_max) == told
    kinds = ["uint64"] + ["address"] * len(vector["members"])
    assert keccak(encode(kinds, [vector["epoch"], *vector["members"]])) == raw(vector["root"])


def tree_head(leaves: list[bytes]) -> bytes:
    """RFC 9162 section 2.1.1, as it is written there."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return sha256(b"\0" + leaves[0]).digest()
    k = 1 << (len(leaves) - 1).bit_length() - 1
    return sha256(b"\1" + tree_head(leaves[:k]) + tree_head(leaves[k:])).digest()


@every("logs")
def test_a_log_has_this_root(vector: dict[str, Any]) -> None:
    ids = [raw(one) for one in vector["ids"]]
    assert Log(ids).root() == raw(vector["root"]) == tree_head(ids)


def test_the_network_is_what_it_says() -> None:
    (told,) = vectors.read("network")
    assert (told["chainId"], raw(told["verifyingContract"])) == (31337, MANAGER)
    for key in told["keys"]:
        assert Account.from_key(key["secret"]).address.lower() == key["member"]
    ids = [key["member"] for key in told["keys"]]
    assert ids == sorted(ids)
    for one in told["committees"]:
        assert committee_of(one).root() == raw(one["root"])


# ---------------------------------------------------------------------------
# Signatures.


@every("signatures")
def test_a_signature_is_this_signers_or_nobodys(vector: dict[str, Any]) -> None:
    struct = struct_of(kind_of(vector["type"]), vector["fields"])
    digest = signing.signing_digest(domain(), struct)
    assert digest == raw(vector["digest"])
    if vector["signer"] is None:
        with pytest.raises(signing.BadSignature):
            signing.recover(digest, raw(vector["signature"]))
        assert vector["reason"] and not vector["valid"]
        return
    found = signing.recover(digest, raw(vector["signature"]))
    assert found == raw(vector["signer"])
    assert vector["valid"] == (found == raw(vector["claimed"]))
    message = typed_data(vector["type"], vector["fields"], vector["domain"])
    assert Account.recover_message(message, signature=raw(vector["signature"])).lower() == vector["signer"]


# ---------------------------------------------------------------------------
# Certificates.

WORDS = {
    certificates.FEW: "are needed",
    certificates.MANY: "are needed",
    certificates.NOBODY: "not a member's",
    certificates.ORDER: "not distinct and in ascending order",
    certificates.EPOCH: "under the committee of",
}


@every("certificates")
def test_a_certificate_decides_its_block_or_does_not(vector: dict[str, Any]) -> None:
    header = struct_of(t.Header, vector["header"])
    committee = committee_of(vector["committee"])
    assert signing.block_id(header) == raw(vector["blockId"])
    if vector["valid"]:
        signers = verify_certificate(domain(), committee, header, certificate_of(vector))
        assert list(signers) == [raw(one) for one in vector["signers"]]
        return
    with pytest.raises(BadCertificate, match=WORDS[vector["reason"]]):
        verify_certificate(domain(), committee, header, certificate_of(vector))


@every("anchors")
def test_a_block_ends_its_epoch_or_does_not(vector: dict[str, Any]) -> None:
    header = struct_of(t.Header, vector["header"])
    successors = [raw(one) for one in vector["nextMembers"]]
    ends = (
        header.version == 1
        and len(successors) > 0
        and successors == sorted(successors)
        and Committee(header.epoch + 1, tuple(successors)).root() == header.next_committee_root
    )
    try:
        verify_certificate(domain(), committee_of(vector["committee"]), header, certificate_of(vector))
    except BadCertificate:
        ends = False
    assert ends == vector["valid"]


@every("verdicts")
def test_a_verdict_is_certified_or_is_not(vector: dict[str, Any]) -> None:
    verdict = struct_of(structs.Verdict, vector["fields"])
    digest = signing.signing_digest(domain(COUNCIL), verdict)
    assert digest == raw(vector["digest"])
    council = network.COMMITTEES["council"][0]
    group = {GROUP: "group", COUNCIL: "council"}[verdict.group]
    seated = [one for one in network.COMMITTEES[group] if one.epoch == verdict.epoch]
    try:
        signers = [signing.recover(digest, raw(one)) for one in vector["signatures"]]
    except signing.BadSignature:
        assert not vector["valid"]
        return
    certified = (
        signers == sorted(set(signers))
        and set(signers) <= set(council.members)
        and len(signers) >= council.quorum
        and verdict.accused not in signers
        and verdict.accused in seated[0]
        and verdict.offence > 6
    )
    assert certified == vector["valid"]


# ---------------------------------------------------------------------------
# Evidence.


@every("evidence")
def test_a_pair_proves_this_offence_or_none(vector: dict[str, Any]) -> None:
    sides = [vector["first"], vector["second"]]
    structs = [struct_of(kind_of(one["type"]), one["fields"]) for one in sides]
    signatures = [raw(one["signature"]) for one in sides]
    for struct, side in zip(structs, sides, strict=True):
        assert signing.words(struct) == raw(side["words"])
        assert signing.signing_digest(domain(), struct) == raw(side["digest"])
    name = type(structs[0]).__name__
    signer = raw(vector["signer"]) if vector["signer"] else None
    for a, b in ((0, 1), (1, 0)):
        if name in SLOTS:
            found = two_of_one_slot(
                domain(), structs[a], signatures[a], structs[b], signatures[b], slot=SLOTS[name]
            )
            assert (6 if found else 0, found) == (vector["offence"], signer)
            continue
        pair = [WRAP[type(structs[at]).__name__](structs[at], signatures[at]) for at in (a, b)]
        proven = offence(domain(), *pair)
        if not vector["offence"]:
            assert proven is None
            continue
        assert proven is not None
        assert (proven.kind, proven.signer) == (vector["offence"], signer)
        if proven.kind == 5:  # The Commit is first, in whichever order they came.
            assert proven.first.vote == structs[0]


# ---------------------------------------------------------------------------
# Chains.


@every("chains")
def test_a_history_holds_or_breaks_where_it_says(vector: dict[str, Any]) -> None:
    told = [committee_of(one) for one in vector["committees"]]
    blocks = [
        t.DecidedBlock(t.Block(struct_of(t.Header, one["fields"]), b""), certificate_of(one))
        for one in vector["blocks"]
    ]
    for block, one in zip(blocks, vector["blocks"], strict=True):
        assert signing.block_id(block.block.header) == raw(one["blockId"])

    def committee(epoch: int, root: bytes) -> Committee | None:
        return next((one for one in told if (one.epoch, one.root()) == (epoch, root)), None)

    def verify(part: list[t.DecidedBlock]) -> Any:
        where = domain(raw(vector["groupId"]))
        return verify_chain(where, raw(vector["networkId"]), told[0], part, committee)

    if vector["valid"]:
        history = verify(blocks)
        found = (history.tip_id, history.log.root(), history.committee.epoch)
        assert found == (raw(vector["tip"]), raw(vector["logRoot"]), vector["epoch"])
        return
    verify(blocks[: vector["brokenAt"]])  # So far it holds.
    height = blocks[vector["brokenAt"]].block.header.height
    fault = {"block": BadBlock, "certificate": BadCertificate}[vector["fault"]]
    with pytest.raises(fault, match=re.escape(f"height {height}: {vector['because']}")):
        verify(blocks)


# ---------------------------------------------------------------------------
# What has no vector: values outside their types.


@pytest.mark.parametrize(
    "wrong",
    [
        t.Commit(-1, 0, 0, vectors.A),
        t.Commit(1 << 64, 0, 0, vectors.A),
        t.Commit(0, 0, 1 << 32, vectors.A),
        t.Commit(0, 0, 0, t.Digest(b"short")),
        structs.Ballot(0, 0, vectors.A, 1 << 63, 0, 0),
        structs.Ballot(0, 0, vectors.A, 0, 0, 256),
    ],
)
def test_what_does_not_fit_its_type_is_not_signed(wrong: Any) -> None:
    with pytest.raises(ValueError, match="not fit"):
        signing.signing_digest(DOMAIN, wrong)
