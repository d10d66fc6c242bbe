"""The tables under a block: what a group's or the council's body says."""

from __future__ import annotations

from collections import Counter

from consensus.types import Header
from p2pfl.audit.cells import case_of, member_of, micro, outcome
from p2pfl.audit.page import Cell, CellLike, Section, facts, path, short, table
from p2pfl.contradiction import proved
from p2pfl.genesis import COUNCIL, Genesis
from p2pfl.offences import OFFENCES
from p2pfl.records import BloomFilter, CouncilBody, GroupBody
from p2pfl.rules.ballots import is_abstention, rejects, signer_of

# An attack on a whole model has hundreds of warnings; the JSON has them all.
WARNINGS_SHOWN = 60


def group_sections(genesis: Genesis, chain: str, header: Header, body: GroupBody) -> list[Section]:
    """A group's body: base and aggregate, updates with their judgement, warnings, standings, filters."""
    base = body.base
    council = Cell(f"block {base.council_height}", path("block", COUNCIL, base.council_height))
    known: dict[str, CellLike] = {
        "rule": body.rule if body.close is not None else "none: an idle block, in which nothing was learnt",
        "base": "0x" + base.base_id.hex(),
        "base comes from council": council if base.council_height >= 0 else "the genesis",
        "and own blocks": ", ".join(map(str, base.own_heights)) or "none",
        "aggregate": "0x" + body.aggregate_id.hex(),
        "next base": "0x" + body.next_base_id.hex(),
        "exponents": " ".join(map(str, body.exponents)),
    }
    return [
        facts("Parameters", known),
        _updates(genesis, body),
        *_ballots(genesis, chain, body),
        _warnings(genesis, body),
        table(
            "Standings of members that were accused",
            ("member", "case", "outcome"),
            [
                (member_of(genesis, row.member), case_of("0x" + row.case_id.hex()), outcome(row.outcome))
                for row in body.standings
            ],
        ),
        _filters(body.filters),
        _proofs(chain, header, ("txs", "ballots", "weights", "gram", "triage", "filters")),
    ]


def _updates(genesis: Genesis, body: GroupBody) -> Section:
    triage = {row.member: row for row in body.triage}
    rows: list[list[CellLike]] = []
    for signed, weight in zip(body.txs, body.weights, strict=False):
        tx, row = signed.tx, triage.get(signed.tx.member)
        marks = ["not revealed"] if tx.member in body.unrevealed else []
        judged: list[CellLike] = [""] * 7
        if row is not None:
            marks += ["out of bounds"] * row.out_of_bounds + ["duplicate"] * row.duplicate
            marks += ["repeated"] * row.repeated + ["alarm" if row.alarm else "unusual"] * row.unusual
            judged = [micro(row.norm_ratio_micro), micro(row.nearest_micro), micro(row.previous_cos_micro)]
            judged += [micro(row.root_cos_micro), micro(row.others_cos_micro), micro(row.krum_micro)]
            judged.append(micro(row.p_ppm))
        if not weight:
            marks.append("left out")
        line: list[CellLike] = [member_of(genesis, tx.member), weight, tx.samples]
        line += [micro(tx.loss_before_micro), micro(tx.loss_after_micro), *judged]
        rows.append([*line, Cell(", ".join(marks), mark="bad"), short("0x" + tx.blob_id.hex())])
    columns = ("member", "weight", "samples", "loss before", "loss after", "norm ratio", "nearest")
    more = ("cos to previous", "cos to root", "cos to others", "krum", "p", "judgement", "blob")
    note = (
        "Norm ratio and Krum score are relative to the group's median, distances to the longer update. "
        "p: how rare such numbers are among honest rounds."
    )
    return table("Updates", (*columns, *more), rows, note)


def _ballots(genesis: Genesis, chain: str, body: GroupBody) -> list[Section]:
    """What members say of the block before, by their held-out data; nothing where nobody was asked."""
    if not body.ballots:
        return []
    rows: list[list[CellLike]] = []
    for signed in body.ballots:
        said, member = signed.ballot, signer_of(genesis.domain(chain), signed)
        who = member_of(genesis, member) if member is not None else "nobody"
        losses: list[CellLike] = ["", ""]
        word: CellLike = "could not measure"
        if not is_abstention(said):
            losses = [micro(said.loss_old_micro), micro(said.loss_new_micro)]
            word = "approves" if said.approve else Cell("rejects", mark="bad")
        rows.append([who, *losses, word])
    height = body.ballots[0].ballot.height
    note = f"About block {height}, on data that nobody trained on."
    if rejects(body):
        note += f" More than half reject: block {height} is taken back, and this one adds nothing."
    return [table("Ballots", ("member", "loss before", "loss after", "says"), rows, note)]


def _warnings(genesis: Genesis, body: GroupBody) -> Section:
    tensors = genesis.task.tensors
    rows = [
        (
            member_of(genesis, row.member),
            tensors[row.tensor].name if 0 <= row.tensor < len(tensors) else str(row.tensor),
            row.chunk,
            row.reason,
        )
        for row in body.warnings[:WARNINGS_SHOWN]
    ]
    total = len(body.warnings)
    note = f"{total - len(rows)} more in the JSON of this page." if total > len(rows) else ""
    return table("Warnings about single chunks", ("member", "tensor", "chunk", "reason"), rows, note)


def _filters(found: tuple[BloomFilter, ...]) -> Section:
    rows = [
        (each.name, each.entries, each.hashes, len(each.bits), sum(octet.bit_count() for octet in each.bits))
        for each in found
    ]
    return table("Bloom filters", ("name", "keys", "hashes", "bytes", "bits set"), rows)


def _proofs(chain: str, header: Header, fields: tuple[str, ...]) -> Section:
    rows = [(Cell(name, path("proof", chain, header.height, name)),) for name in fields]
    note = "Each file can be checked with the genesis file alone: p2pfl audit check FILE --genesis GENESIS."
    return table("Proofs of single fields", ("field",), rows, note)


# ---------------------------------------------------------------------------
# The council.

COUNCIL_FIELDS = (
    *("counted", "rows", "scores", "cases", "measurements", "outcomes", "certificates"),
    *("joins", "leaves", "closings", "contradictions", "assignment"),
)


def council_sections(genesis: Genesis, chain: str, header: Header, body: CouncilBody) -> list[Section]:
    """A council's body: what it counted, how groups compare, cases, measurements, outcomes, verdicts."""
    known: dict[str, CellLike] = {
        "base": "0x" + body.base_id.hex(),
        "root update": "0x" + body.root_update_id.hex(),
        "exponents": " ".join(map(str, body.exponents)),
    }
    return [
        facts("In force from here on", known),
        _counted(genesis, body),
        _compared(genesis, body),
        _cases(genesis, body),
        _ended(body),
        *_turnover(genesis, body),
        _filters(body.filters),
        _proofs(chain, header, COUNCIL_FIELDS),
    ]


def _turnover(genesis: Genesis, body: CouncilBody) -> list[Section]:
    """Who came, left or fell silent, and who sits where in the next epoch; nothing where nothing changed."""
    rows: list[list[CellLike]] = []
    for joined in body.joins:
        rows.append([joined.entry.name, "joins", "the council" if joined.join.council else joined.location])
    rows += [[member_of(genesis, each.leave.member), "leaves", ""] for each in body.leaves]
    for both in body.contradictions:
        name = genesis.group_names.get(both.group_id, "?")
        broke = proved(genesis.domain(name), both) if name != "?" else None
        if broke is not None:
            expelled: CellLike = Cell("is expelled", mark="bad")
            rows.append([member_of(genesis, broke[0]), expelled, f"{OFFENCES[broke[1]]}, in {name}"])
    for closed in body.closings:
        name = genesis.group_names.get(closed.group_id, "?")
        told = f"epoch {closed.epoch} ends at block {closed.height}, {len(closed.alive)} members are alive"
        rows.append([Cell(name, path("chain", name)), Cell("closed", mark="bad"), told])
    found: list[Section] = []
    if rows:
        found.append(table("Comings and goings", ("who", "what", "where"), rows))
    if body.assignment is not None:
        newcomers = {each.entry.member_id: each.entry.name for each in body.joins}
        seats: list[list[CellLike]] = [
            [
                Cell(group.name, path("chain", group.name)),
                turn,
                newcomers.get(member) or member_of(genesis, member),
            ]
            for group in body.assignment.groups
            for turn, member in enumerate(group.members)
        ]
        title = f"Who sits where in epoch {body.assignment.epoch}"
        found.append(table(title, ("group", "turn", "member"), seats))
    return found


def _counted(genesis: Genesis, body: CouncilBody) -> Section:
    rows: list[list[CellLike]] = []
    for each in body.counted:
        name, height = genesis.group_names.get(each.header.group_id, "?"), each.header.height
        block = Cell(str(height), path("block", name, height), number=True)
        aggregate = short("0x" + each.aggregate_id.hex())
        rows.append([Cell(name, path("chain", name)), block, each.weight, aggregate])
    return table("Blocks of the groups that it counts", ("group", "height", "weight", "aggregate"), rows)


def _compared(genesis: Genesis, body: CouncilBody) -> Section:
    rows = [
        (
            Cell(genesis.group_names.get(row.group_id, "?")),
            row.weight,
            micro(row.others_cos_micro),
            micro(row.root_cos_micro),
            Cell("stands apart", mark="bad") if row.flagged else "",
        )
        for row in body.rows
    ]
    return table("Groups compared", ("group", "weight", "cos to the others", "cos to root", ""), rows)


def _cases(genesis: Genesis, body: CouncilBody) -> Section:
    rows: list[list[CellLike]] = []
    for case in body.cases:
        accused = member_of(genesis, case.accused) if any(case.accused) else "nobody"
        group = genesis.group_names.get(case.group_id, "?")
        about = Cell(f"{group} {case.height}", path("block", group, case.height))
        rows.append([case_of("0x" + case.case_id.hex()), about, case.cause, accused, case.deadline_height])
    return table("Cases opened", ("case", "about", "cause", "accused", "deadline"), rows)


def _ended(body: CouncilBody) -> Section:
    measured = Counter("0x" + signed.measurement.case_id.hex() for signed in body.measurements)
    certified = {"0x" + each.verdict.case_id.hex(): each for each in body.certificates}
    ended = {"0x" + each.case_id.hex(): each.outcome for each in body.outcomes}
    rows: list[list[CellLike]] = []
    for case_id in dict.fromkeys([*measured, *ended, *certified]):
        verdict = certified.get(case_id)
        told: CellLike = ""
        if verdict is not None:
            offence = OFFENCES.get(verdict.verdict.offence, "unknown offence")
            told = f"{offence}, {len(verdict.signatures)} signatures"
        rows.append([case_of(case_id), measured.get(case_id, 0), outcome(ended.get(case_id, "")), told])
    return table("Measurements and what followed", ("case", "measurements", "outcome", "verdict"), rows)
