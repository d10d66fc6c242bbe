"""A block, or one field of a block, proved to somebody who holds nothing but the genesis file.

Three kinds, each a small JSON text that a person can follow:

    block         block h is under the log root of the certified header H > h
    field         a field of block h, alone, under the app root of its certified header
    consistency   the log of the certified header H extends that of the certified header h

Knows Merkle paths and certificates; whether what is proved is right is for `verify`.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any, Protocol, get_type_hints

from consensus import merkle
from consensus.chain import FIRST_HEIGHT
from consensus.committee import Committee
from consensus.signing import block_id
from consensus.types import Certificate, DecidedBlock, Digest, Header, MemberId
from consensus.votes import BadCertificate, verify_certificate
from p2pfl import codec
from p2pfl.errors import UserError
from p2pfl.genesis import COUNCIL, Genesis
from p2pfl.jsonform import from_json, loads, to_json
from p2pfl.records import BODY_BYTES_MAX, CouncilBody, GroupBody, decode_body, field_proof
from p2pfl.roster import Roster

FORMAT = "p2pfl proof 1"
# The largest field is a Gram matrix or a filter; a path has at most 64 nodes.
PROOF_BYTES_MAX = 2 * BODY_BYTES_MAX + 64 * 1024


class BadProof(ValueError):
    """A text that proves nothing, and why."""


@dataclass(frozen=True, slots=True)
class Proven:
    """What a proof shows. value: of a field, as JSON; None for the other kinds."""

    chain: str
    height: int
    statement: str
    value: Any = None


class Blocks(Protocol):
    """A chain to prove from: a BlockStore or a BlockFile."""

    @property
    def tip_height(self) -> int: ...

    def get(self, height: int) -> DecidedBlock | None: ...


def prove_block(roster: Roster, chain: str, blocks: Blocks, height: int, head: int | None = None) -> str:
    """That block `height` lies below the certified header `head` (default: the newest). Raises UserError."""
    head = blocks.tip_height if head is None else head
    wanted, top = _block(chain, blocks, height), _block(chain, blocks, head)
    if height >= head:
        raise _cannot(
            f"block {height} is not below block {head}", "a later block is needed to prove an earlier"
        )
    path = merkle.inclusion_proof(_leaves(chain, blocks, head), height - FIRST_HEIGHT)
    return _text(
        roster.genesis,
        chain,
        "block",
        {
            "height": height,
            "block_id": to_json(block_id(wanted.block.header)),
            "path": to_json(path),
            "head": _certified(roster, blocks, top),
        },
    )


def prove_field(roster: Roster, chain: str, blocks: Blocks, height: int, field: str) -> str:
    """What one field of block `height` says. Raises UserError."""
    decided = _block(chain, blocks, height)
    body = decode_body(decided.block.body, _kind(chain))
    try:
        index, size, leaf, path = field_proof(body, field)
    except ValueError as error:
        names = ", ".join(_fields(chain))
        raise UserError(
            f"a block of {chain} has no field {field!r}",
            because="it is not in the table",
            fix=f"one of: {names}",
        ) from error
    parts = {"height": height, "field": field, "index": index, "size": size, "leaf": "0x" + leaf.hex()}
    shown = {
        "value": to_json(getattr(body, field)),
        "path": to_json(path),
        "head": _certified(roster, blocks, decided),
    }
    return _text(roster.genesis, chain, "field", {**parts, **shown})


def prove_consistency(roster: Roster, chain: str, blocks: Blocks, old: int, new: int) -> str:
    """That the history below header `new` extends the one below header `old`. Raises UserError."""
    if not FIRST_HEIGHT < old <= new:
        raise _cannot(
            f"there is no log below block {old} that grows to {new}", "heights above 0, the older first"
        )
    first, second = _block(chain, blocks, old), _block(chain, blocks, new)
    path = merkle.consistency_proof(_leaves(chain, blocks, new), old - FIRST_HEIGHT)
    heads = {"old": _certified(roster, blocks, first), "head": _certified(roster, blocks, second)}
    content = {"path": to_json(path), **heads}
    return _text(roster.genesis, chain, "consistency", content)


def check(text: str, genesis: Genesis) -> Proven:
    """What this text proves under the genesis file. Raises BadProof."""
    if len(text) > PROOF_BYTES_MAX:
        raise BadProof(f"{len(text)} characters, the limit is {PROOF_BYTES_MAX}")
    try:
        table = loads(text)
        if table["format"] != FORMAT:
            raise BadProof(f"not in the format {FORMAT!r}")
        if table["network"] != to_json(genesis.network_id):
            raise BadProof("of another network than the genesis file's")
        chain = str(table["chain"])
        genesis.entry(chain)
        head = _checked(genesis, chain, table["head"])
        path = from_json(table["path"], tuple[Digest, ...])
        match table["kind"]:
            case "block":
                return _check_block(chain, table, head, path)
            case "field":
                return _check_field(chain, table, head, path)
            case "consistency":
                return _check_consistency(chain, _checked(genesis, chain, table["old"]), head, path)
            case other:
                raise BadProof(f"of no known kind: {other!r}")
    except BadProof:
        raise
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BadProof(f"not a proof: {error!r}") from error


def _check_block(chain: str, table: dict[str, Any], head: Header, path: tuple[Digest, ...]) -> Proven:
    height, each = from_json(table["height"], int), from_json(table["block_id"], Digest)
    index, size = height - FIRST_HEIGHT, head.height - FIRST_HEIGHT
    if not merkle.verify_inclusion(merkle.leaf_hash(each), index, size, path, head.log_root):
        raise BadProof("the path does not lead to the header's log root")
    said = f"block {height} of {chain} has the id 0x{each.hex()}: under the certified header {head.height}"
    return Proven(chain, height, said)


def _check_field(chain: str, table: dict[str, Any], head: Header, path: tuple[Digest, ...]) -> Proven:
    field, leaf = from_json(table["field"], str), from_json(table["leaf"], bytes)
    names = _fields(chain)
    index, size = names.index(field), len(names)
    if head.height != from_json(table["height"], int):
        raise BadProof("the header is of another height")
    if not merkle.verify_inclusion(merkle.leaf_hash(leaf), index, size, path, head.app_root):
        raise BadProof("the path does not lead to the header's app root")
    # What people read must be what the leaf says.
    value = codec.decode(leaf, _hints(chain)[field], size_max=BODY_BYTES_MAX)
    if to_json(value) != table["value"]:
        raise BadProof("the value shown is not the one that is proved")
    said = f"{field} of block {head.height} of {chain} is as shown: under its certified header"
    return Proven(chain, head.height, said, table["value"])


def _check_consistency(chain: str, old: Header, head: Header, path: tuple[Digest, ...]) -> Proven:
    sizes = old.height - FIRST_HEIGHT, head.height - FIRST_HEIGHT
    if not merkle.verify_consistency(sizes[0], old.log_root, sizes[1], head.log_root, path):
        raise BadProof("the newer log does not extend the older")
    said = f"the history of {chain} below block {head.height} extends the one below block {old.height}"
    return Proven(chain, head.height, said)


# ---------------------------------------------------------------------------
# Parts.


def _text(genesis: Genesis, chain: str, kind: str, content: dict[str, Any]) -> str:
    head = {"format": FORMAT, "network": to_json(genesis.network_id), "chain": chain, "kind": kind}
    return json.dumps({**head, **content}, indent=1) + "\n"


def _certified(roster: Roster, blocks: Blocks, decided: DecidedBlock) -> dict[str, Any]:
    """A header with its certificate, and the way from the genesis committee to the one that signed it.

    epochs: for each earlier epoch its last header with its certificate, and the members that it names.
    """
    header = decided.block.header
    name = roster.genesis.group_names[header.group_id]
    epochs: list[dict[str, Any]] = []
    lasts = _last_of_epochs(blocks, header.height)
    for epoch in range(header.epoch):
        if epoch not in lasts or lasts[epoch].block.header.next_committee_root != roster.next_root(
            name, epoch
        ):
            raise _cannot(
                f"block {header.height} of {name} cannot be proved from the genesis alone",
                f"the council closed epoch {epoch} of this group; prove that record of the council instead",
            )
        members = roster.committee(name, epoch + 1).members
        epochs.append({**_signed(lasts[epoch]), "members": to_json(members)})
    return {**_signed(decided), "epochs": epochs}


def _signed(decided: DecidedBlock) -> dict[str, Any]:
    return {"header": to_json(decided.block.header), "certificate": to_json(decided.certificate)}


def _last_of_epochs(blocks: Blocks, before: int) -> dict[int, DecidedBlock]:
    found = (blocks.get(height) for height in range(FIRST_HEIGHT, before))
    return {each.block.header.epoch: each for each in found if each is not None}


def _checked(genesis: Genesis, chain: str, raw: dict[str, Any]) -> Header:
    """The header, if it is certified by the committee to which certified headers lead from the genesis."""
    committee = genesis.committee(chain)
    for each in raw["epochs"]:
        last = _decided(genesis, chain, committee, each)
        committee = Committee(committee.epoch + 1, from_json(each["members"], tuple[MemberId, ...]))
        if last.next_committee_root != committee.root():
            raise BadProof(f"the last header of epoch {last.epoch} names another committee")
    return _decided(genesis, chain, committee, raw)


def _decided(genesis: Genesis, chain: str, committee: Committee, raw: dict[str, Any]) -> Header:
    header: Header = from_json(raw["header"], Header)
    certificate: Certificate = from_json(raw["certificate"], Certificate)
    if header.network_id != genesis.network_id or header.group_id != genesis.group_id(chain):
        raise BadProof("a header of another chain")
    try:
        verify_certificate(genesis.domain(chain), committee, header, certificate)
    except BadCertificate as error:
        raise BadProof(f"the header is not certified: {error}") from error
    return header


def _kind(chain: str) -> Any:
    return CouncilBody if chain == COUNCIL else GroupBody


def _hints(chain: str) -> dict[str, Any]:
    return get_type_hints(_kind(chain))


def _fields(chain: str) -> list[str]:
    return [field.name for field in dataclasses.fields(_kind(chain))]


def _block(chain: str, blocks: Blocks, height: int) -> DecidedBlock:
    found = blocks.get(height)
    if found is None:
        raise _cannot(f"there is no block {height} of {chain}", f"the newest here is {blocks.tip_height}")
    return found


def _leaves(chain: str, blocks: Blocks, size: int) -> list[bytes]:
    return [
        merkle.leaf_hash(block_id(_block(chain, blocks, height).block.header))
        for height in range(FIRST_HEIGHT, size)
    ]


def _cannot(what: str, because: str) -> UserError:
    return UserError(what, because=because, fix="name another height")
