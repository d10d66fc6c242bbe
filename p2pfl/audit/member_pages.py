"""The pages of members and of what went wrong: a member, cases, one case, faults."""

from __future__ import annotations

from consensus.types import MemberId
from p2pfl.audit import queries
from p2pfl.audit.asked import Asked, NotFound, page_at
from p2pfl.audit.cells import answered, member_of, notes_table
from p2pfl.audit.page import Cell, Page, facts, path, table
from p2pfl.audit.queries import QUESTIONS, Answer, ask
from p2pfl.audit.report import REASONS
from p2pfl.genesis import COUNCIL, Genesis
from p2pfl.jsonform import to_json
from p2pfl.offences import OFFENCES
from p2pfl.telemetry import METRICS

# Notes of each kind on a page, the newest; the files have them all.
NOTES_SHOWN = 100


@page_at("/member/{name}")
def member_page(asked: Asked) -> Page:
    """A member or seat: `/member/g1-m0`, or by id."""
    view, name = asked.view, asked.parts["name"]
    genesis, index = view.genesis, view.index()
    each = queries.member_id(genesis, name)
    if each is None:
        raise NotFound(f"There is no member {name!r} in this network.")
    entry = genesis.member(MemberId(bytes.fromhex(each[2:])))
    group = genesis.group_of(entry.member_id)
    names = ("measured_by",) if group == COUNCIL else ("updates_of", "warnings_of")
    answers = {question: ask(index, genesis, question, {"member": each}) for question in names}
    cases = [row for row in ask(index, genesis, "cases", {}).to_json() if row["accused"] == entry.name]
    data = {
        "member": to_json(entry),
        "group": group,
        "cases": cases,
        **{question: answer.to_json() for question, answer in answers.items()},
    }
    page = Page(
        entry.name, f"A {'seat of the council' if group == COUNCIL else f'member of group {group}'}.", data
    )
    page.sections.append(
        facts(
            "Member",
            {
                "id": each,
                "group": Cell(group, path("chain", group)),
                "peer id": entry.peer_id,
                "address": entry.address,
            },
        )
    )
    found = Answer(
        QUESTIONS["cases"],
        tuple(cases[0]) if cases else ("case_id",),
        tuple(tuple(c.values()) for c in cases),
    )
    page.sections.append(answered(found, genesis, "Cases against it"))
    page.sections += [answered(answer, genesis, answer.question.asks) for answer in answers.values()]
    return page


@page_at("/cases")
def cases_page(asked: Asked) -> Page:
    """All cases and verdicts: `/cases`."""
    view = asked.view
    genesis, index = view.genesis, view.index()
    cases, verdicts = ask(index, genesis, "cases", {}), ask(index, genesis, "verdicts", {})
    lead = "A suspicion never slashes: an accused opens its round, the seats replay it, a quorum decides."
    page = Page("Cases", lead, {"cases": cases.to_json(), "verdicts": verdicts.to_json()})
    page.sections = [answered(cases, genesis, "Cases"), answered(verdicts, genesis, "Certified verdicts")]
    return page


@page_at("/case/{case_id}")
def case_page(asked: Asked) -> Page:
    """One case with its whole reasoning: `/case/0x...`."""
    view, case_id = asked.view, asked.parts["case_id"]
    genesis, index = view.genesis, view.index()
    rows = index.query("select * from cases where case_id = ?", (case_id.lower(),))
    if not rows:
        raise NotFound(f"There is no case {case_id!r} here.")
    row = rows[0]
    answers = [ask(index, genesis, name, {"case": row["case_id"]}) for name in ("candidates", "measurements")]
    outcomes = index.query(
        "select * from outcomes where case_id = ? order by council_height", (row["case_id"],)
    )
    verdicts = index.query(
        "select * from verdicts where case_id = ? order by council_height", (row["case_id"],)
    )
    sent = [
        note
        for note in view.notes("transactions")
        if note.get("accused") in names_of(genesis, row["accused"])
    ]
    data = {
        **row,
        "candidates": answers[0].to_json(),
        "measurements": answers[1].to_json(),
        "outcomes": outcomes,
        "verdicts": verdicts,
        "transactions": sent,
    }
    page = Page(
        f"Case {row['case_id'][:14]}…", "From a suspicion to an outcome, with every number on the way.", data
    )
    page.sections.append(
        facts(
            "Case",
            {
                "id": row["case_id"],
                "about": Cell(
                    f"block {row['height']} of {row['chain']}", path("block", row["chain"], row["height"])
                ),
                "cause": row["cause"],
                "accused": member_of(genesis, MemberId(bytes.fromhex(row["accused"][2:])))
                if row["accused"]
                else "nobody",
                "opened by": Cell(
                    f"council block {row['council_height']}", path("block", COUNCIL, row["council_height"])
                ),
                "deadline": f"council block {row['deadline_height']}",
                "deviating chunks": row["chunks"],
                "outcome": ", ".join(each["outcome"] for each in outcomes) or "open",
                "verdict": "; ".join(OFFENCES.get(each["offence"], "?") for each in verdicts) or "none",
            },
        )
    )
    page.sections += [answered(answer, genesis, answer.question.asks) for answer in answers]
    page.sections.append(notes_table("Transactions about the accused", sent))
    return page


@page_at("/faults")
def faults_page(asked: Asked) -> Page:
    """What went wrong, and what was counted: `/faults`."""
    view = asked.view
    counted = view.counters()
    notes = {name: view.notes(name)[-NOTES_SHOWN:] for name in ("faults", "evidence", "transactions")}
    data = {"counters": [{"name": n, "labels": labels, "value": v} for n, labels, v in counted], **notes}
    lead = "Messages that broke the protocol are refused and counted; contradictions are kept as evidence."
    page = Page("Faults and figures", lead, data)
    help_of = {metric.name: metric.help for metric in METRICS}
    rows = [
        (name, " ".join(f"{key}={value}" for key, value in labels.items()), value, help_of.get(name, ""))
        for name, labels, value in counted
    ]
    page.sections = [
        table("Counted since the node started", ("name", "of", "value", "meaning"), rows),
        notes_table("Evidence: two signed structs that contradict each other", notes["evidence"]),
        notes_table("Peers that broke the protocol", notes["faults"]),
        notes_table("Transactions", notes["transactions"]),
        table("What `audit verify` may find", ("reason", "meaning"), list(REASONS.items())),
    ]
    return page


def names_of(genesis: Genesis, member: str | None) -> tuple[str, ...]:
    """What notes may call this member: its id, and its name."""
    if member is None:
        return ()
    try:
        return member, genesis.member(MemberId(bytes.fromhex(member[2:]))).name
    except KeyError:
        return (member,)
