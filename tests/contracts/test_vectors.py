"""The contracts agree with the golden vectors: the same files that Python and the Solidity tests read."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from consensus.signing import sign, words
from consensus.types import Digest, Header
from p2pfl.evm import Client, Reverted, Staking, deploy, offence_key, pair_kind
from p2pfl.evm.client import checksum
from testnet import devchain
from tests.consensus import vectors
from tests.consensus.lab import IDS, KEYS
from tests.contracts.world import BACKENDS, TERMS
from tests.vectors import network, signatures
from tests.vectors.digests import STRUCTS
from tests.vectors.network import COUNCIL, GROUP, MANAGER, layout, signed, struct_of

FIRST_STAKER = 30
EQUIVOCATION = ("Propose", "Prepare", "Commit", "RoundChange", "ParamTx", "ShareRequest", "Close")


def raw(told: str) -> Any:
    return bytes.fromhex(told[2:])


def every(file: str) -> Any:
    return pytest.mark.parametrize(
        "vector", [pytest.param(one, id=one["name"]) for one in vectors.read(file)]
    )


class Ground:
    """A chain on which the network of the vectors lives: network.json says all of it."""

    def __init__(self, url: str) -> None:
        accounts = devchain.accounts()
        self.clients = [Client.open(url, key=bytes(accounts[index].key)) for index in (0, *range(30, 46))]
        ids = [raw(accounts[index].address) for index in (1, 2)]
        addresses = deploy(self.clients[0], TERMS, treasury=ids[0], veto=ids[1])
        assert addresses.slashing == MANAGER  # Or no signature of the vectors would count.
        self.staking = Staking(self.clients[0], addresses)
        self.manager: Any = self.staking._manager.functions
        self.anchors: Any = self.staking._anchors.functions
        self.registry: Any = self.staking._registry.functions
        for key, member, client in zip(KEYS, IDS, self.clients[1:], strict=False):
            Staking(client, addresses).deposit(member, partial(_sign, key))
        self.staking.set_council(COUNCIL)
        for name, committees in network.COMMITTEES.items():
            for one in committees:
                self.staking.register_committee(network.GROUPS[name], one.epoch, one.members)

    def ask(self, call: Any) -> Any:
        return self.staking._read(call)

    def refusal(self, call: Any) -> Reverted | None:
        """Why the contract refuses; None if it does not. Nothing is sent."""
        try:
            self.ask(call)
        except Reverted as error:
            return error
        return None

    def agrees(self, call: Any, errors: list[str]) -> None:
        """Accepted if there are no errors, else refused with one of them."""
        refused = self.refusal(call)
        names = [one.partition("(")[0] for one in errors]
        assert (refused is None) == (not names), refused
        assert refused is None or refused.name in names, refused


def _sign(key: Any, digest: bytes) -> bytes:
    return sign(key, Digest(digest))


@pytest.fixture(scope="module", params=BACKENDS)
def ground(request: pytest.FixtureRequest) -> Iterator[Ground]:
    with devchain.start(backend=request.param) as chain:
        made = Ground(chain.url)
        yield made
        for client in made.clients:
            client.close()


def given(type_string: str, fields: dict[str, Any]) -> tuple[Any, ...]:
    """A struct as the contract takes it."""
    kinds = [kind for kind, _ in layout(type_string)]
    told = {"bytes32": raw, "address": lambda one: checksum(raw(one))}
    return tuple(
        told.get(kind, lambda one: one)(value) for kind, value in zip(kinds, fields.values(), strict=True)
    )


def struct_in(vector: dict[str, Any]) -> Any:
    return struct_of(STRUCTS[vector["type"].partition("(")[0]], vector["fields"])


def contradiction(struct: Any) -> Any:
    """The same words but for the lowest bit of word 3, which no two structs of one slot may differ in."""
    field = dataclasses.fields(struct)[3].name
    value = getattr(struct, field)
    other = value ^ 1 if isinstance(value, int) else value[:-1] + bytes([value[-1] ^ 1])
    return dataclasses.replace(struct, **{field: other})


@every("digests")
def test_digests(ground: Ground, vector: dict[str, Any]) -> None:
    name = vector["type"].partition("(")[0]
    where, digest = vector["domain"], raw(vector["digest"])
    salt = raw(where["salt"])
    if (where["chainId"], raw(where["verifyingContract"])) != (31337, MANAGER):
        assert ground.ask(ground.manager.domainSeparator(salt)) != raw(where["separator"])
        return
    assert ground.ask(ground.manager.domainSeparator(salt)) == raw(where["separator"])
    if name in EQUIVOCATION:
        struct = struct_in(vector)
        kind, other = pair_kind(struct, struct), contradiction(struct)
        call = ground.manager.equivocationDigests(salt, kind, raw(vector["words"]), words(other))
        assert ground.ask(call)[0] == digest
    elif name == "Verdict":
        told = given(vector["type"], vector["fields"])
        assert ground.ask(ground.manager.verdictDigest(salt, told)) == digest
    elif name == "Possession" and not any(salt):
        told = given(vector["type"], vector["fields"])
        assert ground.ask(ground.registry.possessionDigest(*told)) == digest
    else:
        assert name in {"Ballot", "Measurement", "Possession"}  # No contract asks for these here.


@every("headers")
def test_headers(ground: Ground, vector: dict[str, Any]) -> None:
    call = ground.anchors.commitDigest(given(Header.TYPE, vector["fields"]), 0)
    if vector["fields"]["version"] != 1:
        ground.agrees(call, ["UnknownVersion(uint256,uint256)"])
        return
    assert ground.ask(call)[0] == raw(vector["blockId"])


@every("committees")
def test_committees(ground: Ground, vector: dict[str, Any]) -> None:
    members = [checksum(raw(one)) for one in vector["members"]]
    assert ground.ask(ground.anchors.rootOf(vector["epoch"], members)) == raw(vector["root"])
    assert ground.ask(ground.manager.quorum(len(members))) == vector["quorum"]


@every("signatures")
def test_signatures(ground: Ground, vector: dict[str, Any]) -> None:
    """As the first half of evidence whose second half is well signed by who claims to have signed both."""
    struct = struct_in(vector)
    other = contradiction(struct)
    call = ground.manager.submitEquivocation(
        GROUP, pair_kind(struct, other), raw(vector["words"]), raw(vector["signature"]),
        words(other), signed(signatures.BY, other),
    )  # fmt: skip
    refused = ground.refusal(call)
    if vector["valid"]:
        assert refused is None
        key = offence_key(
            GROUP, struct.epoch, struct.height, IDS[signatures.BY], min(pair_kind(struct, other), 6)
        )
        assert ground.ask(call) == key
        return
    assert refused is not None
    if vector["signer"] is None:
        told = {"index": 0, "reason": signatures.CONTRACT_REASON[vector["reason"]]}
        assert (refused.name, refused.arguments) == ("BadSignature", told)
    else:
        told = {"first": vector["signer"], "second": vector["claimed"]}
        assert (refused.name, refused.arguments) == ("SignersDiffer", told)


def certificate_in(ground: Ground, vector: dict[str, Any], fields: dict[str, Any]) -> Any:
    return ground.anchors.requireCertificate(
        given(Header.TYPE, fields), vector["round"], [raw(one) for one in vector["signatures"]]
    )


@every("certificates")
def test_certificates(ground: Ground, vector: dict[str, Any]) -> None:
    call = certificate_in(ground, vector, vector["header"])
    ground.agrees(call, vector["errors"])
    if vector["valid"]:
        block, signers = ground.ask(call)
        assert block == raw(vector["blockId"])
        assert [one.lower() for one in signers] == vector["signers"]


@every("verdicts")
def test_verdicts(ground: Ground, vector: dict[str, Any]) -> None:
    told = given(STRUCTS["Verdict"].TYPE, vector["fields"])
    assert ground.ask(ground.manager.verdictDigest(COUNCIL, told)) == raw(vector["digest"])
    given_signatures = [raw(one) for one in vector["signatures"]]
    ground.agrees(ground.manager.submitVerdict(told, 0, given_signatures), vector["errors"])


def anchor_in(ground: Ground, vector: dict[str, Any], fields: dict[str, Any], successors: list[str]) -> Any:
    members = [checksum(raw(one)) for one in successors]
    certificate = [raw(one) for one in vector["signatures"]]
    return ground.anchors.anchor(given(Header.TYPE, fields), vector["round"], certificate, members)


@every("anchors")
def test_anchors(ground: Ground, vector: dict[str, Any]) -> None:
    ground.agrees(anchor_in(ground, vector, vector["header"], vector["nextMembers"]), vector["errors"])


@every("evidence")
def test_evidence(ground: Ground, vector: dict[str, Any]) -> None:
    first, second = vector["first"], vector["second"]
    group, kind = raw(vector["groupId"]), vector["kind"]
    brought = [raw(one[name]) for one in (first, second) for name in ("words", "signature")]
    call = ground.manager.submitEquivocation(group, kind, *brought)
    ground.agrees(call, vector["errors"])
    if not vector["errors"]:
        slot = first["fields"]["epoch"], first["fields"]["height"]
        assert ground.ask(call) == offence_key(group, *slot, raw(vector["signer"]), vector["offence"])
    digests = ground.manager.equivocationDigests(group, kind, brought[0], brought[2])
    if ground.refusal(digests) is None and first["type"] == second["type"]:
        assert list(ground.ask(digests)) == [raw(first["digest"]), raw(second["digest"])]


@every("chains")
def test_chains(ground: Ground, vector: dict[str, Any]) -> None:
    """Each block's certificate; and that an epoch ends where the next block's epoch says so."""
    blocks = vector["blocks"]
    told = {one["epoch"]: one["members"] for one in vector["committees"]}
    sound = len(blocks) if vector["valid"] else vector["brokenAt"]
    for at, block in enumerate(blocks[: sound + (vector["fault"] == "certificate")]):
        refused = ground.refusal(certificate_in(ground, block, block["fields"]))
        assert (refused is None) == (at < sound), (at, refused)
    if not vector["valid"] or vector["name"] == "an end and nothing after it":
        return
    for block, after in zip(blocks, blocks[1:], strict=False):
        epoch, following = block["fields"]["epoch"], after["fields"]["epoch"]
        members = told.get(epoch + 1, told[epoch])
        call = anchor_in(ground, block, block["fields"], members)
        ground.agrees(call, [] if following > epoch else ["NotTheLastBlock(bytes32,bytes32)"])
