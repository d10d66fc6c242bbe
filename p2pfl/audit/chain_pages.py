"""The pages of chains: the network at a glance, the rounds of a group, one block."""

from __future__ import annotations

from typing import Any

from consensus.signing import BadSignature, recover, signing_digest
from consensus.signing import block_id as id_of
from consensus.types import Commit, DecidedBlock
from p2pfl import codec
from p2pfl.audit.asked import Asked, NotFound, page_at
from p2pfl.audit.block_pages import council_sections, group_sections
from p2pfl.audit.cells import answered, member_named, member_of, when
from p2pfl.audit.page import Cell, CellLike, Page, Section, chart, facts, path, table
from p2pfl.audit.queries import ask
from p2pfl.audit.view import View
from p2pfl.errors import UserError
from p2pfl.genesis import COUNCIL, Genesis
from p2pfl.jsonform import to_json
from p2pfl.records import CouncilBody, GroupBody, decode_body

# A page of a long chain shows its newest blocks and leads to the older ones.
BLOCKS_SHOWN = 100
REFRESH_S_MIN, REFRESH_S_MAX = 2, 60


@page_at("/")
def overview(asked: Asked) -> Page:
    """The network at a glance: `/`."""
    view = asked.view
    genesis, index, chains = view.genesis, view.index(), view.chains()
    newest = index.query(
        """select b.chain, b.height, b.time_ms, b.round, b.seconds, r.accepted, r.committed,
                  r.loss_before_micro / 1e6 as loss_before, r.loss_after_micro / 1e6 as loss_after
           from blocks b left join rounds r using (chain, height)
           where (b.chain, b.height) in (select chain, max(height) from blocks group by chain)"""
    )
    by_chain = {row["chain"]: row for row in newest}
    accuracy = _accuracy(view)
    rows: list[list[CellLike]] = []
    data: list[dict[str, Any]] = []
    for group in (*genesis.groups, genesis.council):
        row = by_chain.get(group.name, {})
        told = accuracy.get(group.name, [])
        known = {
            "chain": group.name,
            "members": [each.name for each in group.members],
            "held": group.name in chains,
        }
        data.append({**known, **row, "accuracy": told[-1][1] if told else None})
        rows.append(
            [
                Cell(group.name, path("chain", group.name)),
                len(group.members),
                row.get("height"),
                when(row.get("time_ms")),
                row.get("seconds"),
                f"{row['accepted']} of {row['committed']}" if row.get("committed") is not None else "",
                row.get("loss_before"),
                told[-1][1] if told else None,
            ]
        )
    columns = ("group", "members", "height", "decided", "seconds", "accepted", "loss before", "accuracy")
    losses = index.query("select chain, height, loss_before_micro / 1e6 as loss from rounds order by height")
    series: dict[str, list[tuple[int, float]]] = {}
    for row in losses:
        if row["loss"] is not None:
            series.setdefault(row["chain"], []).append((row["height"], row["loss"]))
    cases = ask(index, genesis, "cases", {})
    sections: list[Section | None] = [
        table("Groups and the council", columns, rows),
        chart("Mean loss of the members before training", series),
        chart("Accuracy on the public test set", accuracy),
        answered(cases, genesis, "Cases"),
        facts("Network", _network(genesis)),
    ]
    lead = f"{len(genesis.groups)} groups and a council of {len(genesis.council.members)}."
    data_all = {"network": "0x" + genesis.network_id.hex(), "name": genesis.name, "chains": data}
    page = Page(f"Network {genesis.name}", lead, {**data_all, "cases": cases.to_json()})
    page.sections = [section for section in sections if section is not None]
    wanted = asked.number("refresh", 0)
    page.refresh_s = min(REFRESH_S_MAX, max(REFRESH_S_MIN, wanted)) if wanted else 0
    return page


def _network(genesis: Genesis) -> dict[str, CellLike]:
    task, rules = genesis.task, genesis.rules
    return {
        "network id": "0x" + genesis.network_id.hex(),
        "model": f"{task.model}, {task.layout.size} parameters in {len(task.tensors)} tensors",
        "data set": task.dataset,
        "aggregator": rules.aggregator,
        "rounds": genesis.rounds or "no end",
        "chain": f"EVM chain {genesis.chain.chain_id}" if genesis.chain.chain_id else "none",
        "genesis": Cell("genesis.json", "/genesis.json"),
    }


def _accuracy(view: View) -> dict[str, list[tuple[int, float]]]:
    """From the notes of the nodes that measured it; nobody votes on it."""
    found: dict[str, dict[int, float]] = {}
    for note in view.notes("metrics"):
        name, height, accuracy = note.get("chain"), note.get("height"), note.get("accuracy")
        if isinstance(name, str) and isinstance(height, int) and isinstance(accuracy, (int, float)):
            found.setdefault(name, {})[height] = float(accuracy)
    return {name: sorted(points.items()) for name, points in sorted(found.items())}


@page_at("/chain/{chain}")
def chain_page(asked: Asked) -> Page:
    """The rounds of a group, or the council's blocks, the newest first: `/chain/g1?below=100`."""
    view, chain = asked.view, asked.parts["chain"]
    genesis = view.genesis
    if chain not in genesis.group_names.values():
        raise NotFound(f"There is no group {chain!r} in this network.")
    rows = view.index().query(
        """select b.height, b.block_id, m.name as proposer, b.time_ms, b.round, b.seconds, b.signatures,
                  b.bytes, r.committed, r.accepted, r.unrevealed, r.loss_before_micro / 1e6 as loss_before,
                  r.loss_after_micro / 1e6 as loss_after, r.council_height,
                  (select count(*) from warnings w
                   where (w.chain, w.height) = (b.chain, b.height)) as warnings,
                  (select count(*) from cases c where c.council_height = b.height) as cases
           from blocks b join members m on m.member = b.proposer left join rounds r using (chain, height)
           where b.chain = ? and b.height < ? order by b.height desc limit ?""",
        (chain, asked.number("below", 1 << 62), BLOCKS_SHOWN),
    )
    columns = ["height", "decided", "seconds", "proposer", "round", "signatures"]
    names = ["warnings", "loss_before", "loss_after"] if chain != COUNCIL else ["cases"]
    shown: list[list[CellLike]] = []
    for row in rows:
        line: list[CellLike] = [
            Cell(str(row["height"]), path("block", chain, row["height"]), number=True),
            when(row["time_ms"]),
            row["seconds"],
            Cell(row["proposer"], path("member", row["proposer"])),
            row["round"],
            row["signatures"],
        ]
        if chain != COUNCIL:
            line.append(f"{row['accepted']} of {row['committed']}")
        shown.append([*line, *(row[name] for name in names)])
    if chain != COUNCIL:
        columns.append("accepted")
    columns += [name.replace("_", " ") for name in names]
    title = "The council" if chain == COUNCIL else f"Group {chain}"
    members = [(str(turn), member_named(each.name)) for turn, each in enumerate(genesis.entry(chain).members)]
    page = Page(title, "Its blocks, the newest first; who is next leads.", {"chain": chain, "blocks": rows})
    page.sections = [
        table("Blocks", columns, shown),
        facts("Members, in the order of their turns", dict(members)),
    ]
    if rows and rows[-1]["height"] > 0:
        older = Cell("older blocks", f"{path('chain', chain)}?below={rows[-1]['height']}")
        page.sections.append(facts("More", {"older": older}))
    return page


@page_at("/block/{chain}/{height}")
def block_page(asked: Asked) -> Page:
    """One block: `/block/g1/3`."""
    view, chain = asked.view, asked.parts["chain"]
    decided = find_block(view, chain, asked.parts["height"])
    genesis, header = view.genesis, decided.block.header
    body = _body(chain, decided)
    signers = _signers(genesis, chain, decided)
    below, above = header.height - 1, header.height + 1
    known: dict[str, CellLike] = {
        "block id": "0x" + id_of(header).hex(),
        "chain": Cell(chain, path("chain", chain)),
        "height": header.height,
        "epoch": header.epoch,
        "decided": when(header.time_ms),
        "proposer": member_of(genesis, header.proposer),
        "round": decided.certificate.round,
        "signed by": ", ".join(signers),
        "body": f"{len(decided.block.body)} bytes",
        "app root": "0x" + header.app_root.hex(),
        "log root": "0x" + header.log_root.hex(),
        "before": Cell(f"block {below}", path("block", chain, below)) if below >= 0 else None,
        "after": Cell(f"block {above}", path("block", chain, above)) if _has(view, chain, above) else None,
        "proof": Cell("that this block is part of the history", path("proof", chain, header.height))
        if _has(view, chain, above)
        else None,
    }
    data = {
        "block_id": "0x" + id_of(header).hex(),
        "header": to_json(header),
        "certificate": to_json(decided.certificate),
        "signers": signers,
        "body": to_json(body),
    }
    page = Page(f"Block {header.height} of {chain}", "What the members agreed on, and who signed it.", data)
    page.sections.append(facts("Block", known))
    sections = council_sections if chain == COUNCIL else group_sections
    page.sections += sections(genesis, chain, header, body)
    return page


def find_block(view: View, chain: str, height: str) -> DecidedBlock:
    blocks = view.chains().get(chain)
    found = None
    if blocks is not None and height.isascii() and height.isdigit() and len(height) < 16:
        found = blocks.get(int(height))
    if found is None:
        raise NotFound(f"There is no block {height!r} of {chain!r} here.")
    return found


def _body(chain: str, decided: DecidedBlock) -> Any:
    try:
        return decode_body(decided.block.body, CouncilBody if chain == COUNCIL else GroupBody)
    except codec.DecodeError as error:
        raise UserError(
            f"block {decided.block.header.height} of {chain} cannot be shown",
            because=f"its body is not in the form of this release: {error}",
            fix="p2pfl audit verify DIR says what is wrong with it",
        ) from error


def _has(view: View, chain: str, height: int) -> bool:
    return view.chains()[chain].tip_height >= height


def _signers(genesis: Genesis, chain: str, decided: DecidedBlock) -> list[str]:
    header, certificate = decided.block.header, decided.certificate
    commit = Commit(header.epoch, header.height, certificate.round, id_of(header))
    found: list[str] = []
    for signature in certificate.signatures:
        try:
            found.append(
                member_of(genesis, recover(signing_digest(genesis.domain(chain), commit), signature)).text
            )
        except BadSignature:
            found.append("nobody")
    return found
