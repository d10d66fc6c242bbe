"""Questions about a history, each declared once: the command line, JSON and the pages follow from it.

Asked of the index (`store.schema` names the tables). Members are named as in the genesis; ids are 0x hex,
cosines and ratios are millionths.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from p2pfl.errors import UserError
from p2pfl.genesis import Genesis
from p2pfl.store.index import Index


@dataclass(frozen=True, slots=True)
class Parameter:
    """What a question needs to know. kind: "chain", "member" (a name or an id), "case", "blob" or "count"."""

    name: str
    kind: str
    help: str
    default: str | None = None


@dataclass(frozen=True, slots=True)
class Question:
    """A question: its name, what it asks, the SQL that answers it."""

    name: str
    asks: str
    sql: str
    parameters: tuple[Parameter, ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """Rows under their columns."""

    question: Question
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]

    def to_json(self) -> list[dict[str, Any]]:
        """A list of objects."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]


CHAIN = Parameter("chain", "chain", "name of a group, or council")
MEMBER = Parameter("member", "member", "name or id of a member or seat")
CASE = Parameter("case", "case", "id of a case, or the beginning of it")
BLOB = Parameter("blob", "blob", "id of a blob, or the beginning of it")

_QUESTIONS = (
    Question(
        "rounds",
        "How did the rounds of a group go?",
        """select b.height, p.name as proposer, b.round, round(b.seconds, 2) as seconds, r.committed,
                  r.accepted, r.unrevealed, r.loss_before_micro / 1e6 as loss_before,
                  r.loss_after_micro / 1e6 as loss_after, r.council_height
           from blocks b join rounds r using (chain, height) join members p on p.member = b.proposer
           where b.chain = :chain order by b.height""",
        (CHAIN,),
    ),
    Question(
        "members",
        "Who took part, and how?",
        """select m.name, m.chain as "group", m.member,
                  (select count(*) from blocks b where b.proposer = m.member) as blocks_proposed,
                  count(u.height) as updates, coalesce(sum(u.weight = 0), 0) as left_out,
                  (select count(*) from warnings w where w.member = m.member) as warnings,
                  (select count(*) from cases c where c.accused = m.member) as cases
           from members m left join updates u on u.member = m.member
           group by m.member order by m.chain = 'council', m.chain, m.turn""",
    ),
    Question(
        "updates_of",
        "What did a member contribute, and what was made of it?",
        """select u.chain, u.height, u.samples, u.weight, u.revealed,
                  u.loss_before_micro / 1e6 as loss_before, u.loss_after_micro / 1e6 as loss_after,
                  u.norm_ratio_micro / 1e6 as norm_ratio,
                  u.nearest_micro / 1e6 as nearest, u.previous_cos_micro / 1e6 as previous_cos,
                  u.root_cos_micro / 1e6 as root_cos, u.others_cos_micro / 1e6 as others_cos,
                  u.krum_micro / 1e6 as krum, u.p_ppm / 1e6 as p,
                  u.out_of_bounds, u.duplicate, u.repeated, u.unusual, u.alarm, u.saturated, u.blob_id
           from updates u where u.member = :member order by u.chain, u.height""",
        (MEMBER,),
    ),
    Question(
        "left_out",
        "Whose updates were left out, when and why?",
        """select u.chain, u.height, m.name as member,
                  case when not u.revealed then 'not revealed' when u.out_of_bounds then 'out of bounds'
                       when u.duplicate then 'duplicate' when u.repeated then 'repeated'
                       when s.outcome <> 'cleared' then 'case ' || s.outcome
                       when u.alarm then 'alarm' when u.unusual then 'unusual'
                       when (select sum(not o.approves) * 2 > count(*) from ballots o
                             where o.chain = u.chain and o.counted_in = u.height)
                       then 'trained on a block that was taken back' else '' end as why
           from updates u join members m using (member) left join standings s using (chain, height, member)
           where u.weight = 0 order by u.height, u.chain, m.turn""",
    ),
    Question(
        "warnings_of",
        "Which parameters of a member's updates were warned of?",
        """select chain, height, tensor, chunk, reason from warnings where member = :member
           order by chain, height, tensor, chunk, reason""",
        (MEMBER,),
    ),
    Question(
        "warned_chunks",
        "Which parameters of a group are warned of most?",
        """select w.tensor, w.chunk, w.reason, count(*) as times, count(distinct w.member) as members,
                  min(w.height) as first, max(w.height) as last
           from warnings w where w.chain = :chain group by w.tensor, w.chunk, w.reason
           order by times desc, w.tensor, w.chunk limit 200""",
        (CHAIN,),
    ),
    Question(
        "losses",
        "How did the members' loss fall, by group?",
        """select chain, height, loss_before_micro / 1e6 as loss_before, loss_after_micro / 1e6 as loss_after,
                  weight as samples from rounds order by height, chain""",
    ),
    Question(
        "ballots",
        "Whom did a group's blocks serve, by the members' held-out data, and which were taken back?",
        """select b.height, coalesce(m.name, b.member) as member,
                  case when b.loss_old_micro = 0 and b.loss_new_micro = 0 then null
                       else b.loss_old_micro / 1e6 end as loss_before,
                  case when b.loss_old_micro = 0 and b.loss_new_micro = 0 then null
                       else b.loss_new_micro / 1e6 end as loss_after,
                  b.approves,
                  (select sum(not o.approves) * 2 > count(*) from ballots o
                   where o.chain = b.chain and o.height = b.height) as taken_back, b.counted_in
           from ballots b left join members m using (member) where b.chain = :chain
           order by b.height, m.turn""",
        (CHAIN,),
    ),
    Question(
        "compared",
        "How did the council compare the groups?",
        """select council_height, chain as "group", weight, others_cos_micro / 1e6 as others_cos,
                  root_cos_micro / 1e6 as root_cos, flagged from compared order by council_height, chain""",
    ),
    Question(
        "cases",
        "Which cases were opened, and how did they end?",
        """select c.case_id, c.council_height as opened_at, c.chain as "group", c.height, c.cause,
                  m.name as accused, coalesce(
                      (select o.outcome from outcomes o where o.case_id = c.case_id
                       order by o.council_height desc limit 1),
                      case when c.accused is null then 'nobody accused' else 'open' end) as outcome,
                  (select group_concat(v.offence) from verdicts v where v.case_id = c.case_id) as verdicts
           from cases c left join members m on m.member = c.accused order by c.council_height, c.case_id""",
    ),
    Question(
        "audits",
        "How often was each member drawn for audit or looked into again, and how did it end?",
        """select m.name as member, m.chain as "group",
                  (select count(*) from updates u where u.member = m.member and u.revealed) as rounds,
                  count(*) as asked, sum(c.cause = 'review') as reviews, sum(e.outcome is null) as still_open,
                  coalesce(sum(e.outcome = 'cleared'), 0) as cleared,
                  coalesce(sum(e.outcome = 'guilty'), 0) as guilty,
                  coalesce(sum(e.outcome = 'harmful'), 0) as harmful,
                  coalesce(sum(e.outcome = 'no_opening'), 0) as no_opening
           from members m join cases c on c.accused = m.member and c.cause in ('audit', 'review')
           left join outcomes e on e.case_id = c.case_id and e.council_height =
               (select max(o.council_height) from outcomes o where o.case_id = c.case_id)
           group by m.member order by m.chain, m.turn""",
    ),
    Question(
        "candidates",
        "Whom did the backtracking look at, and what came of it?",
        """select k.place, m.name as member, k.score, k.with_cos_micro / 1e6 as with_cos,
                  k.without_cos_micro / 1e6 as without_cos, k.own_cos_micro / 1e6 as own_cos, k.blob_id
           from candidates k join members m using (member)
           where k.case_id =
               (select case_id from cases where case_id >= :case and case_id < :case || 'g' limit 1)
           order by k.place""",
        (CASE,),
    ),
    Question(
        "measurements",
        "What did the seats measure in a case?",
        """select x.council_height, coalesce(m.name, x.seat) as seat,
                  case x.status when 0 then 'replayed' else 'no opening' end as status,
                  x.worst_ppm / 1e6 as worst_distance, x.disagree_ppm / 1e6 as labels_disagree,
                  x.expected_ppm / 1e6 as labels_expected, x.opening_id
           from measurements x left join members m on m.member = x.seat
           where x.case_id =
               (select case_id from cases where case_id >= :case and case_id < :case || 'g' limit 1)
           order by x.council_height, seat""",
        (CASE,),
    ),
    Question(
        "verdicts",
        "What did the council certify?",
        """select v.council_height, m.name as accused, v.offence, v.chain as "group", v.height, v.signatures,
                  v.case_id from verdicts v join members m on m.member = v.accused
           order by v.council_height, v.case_id""",
    ),
    Question(
        "measured_by",
        "How did a seat measure, compared with the others?",
        """select x.council_height, a.name as accused, x.worst_ppm / 1e6 as worst_distance, o.outcome,
                  x.case_id
           from measurements x join cases c using (case_id) join members a on a.member = c.accused
           left join outcomes o using (case_id) where x.seat = :member order by x.council_height""",
        (MEMBER,),
    ),
    Question(
        "proposers",
        "How often did each member lead, and how long did it take?",
        """select b.chain, m.name, count(*) as blocks, sum(b.round > 0) as after_a_round_change,
                  round(avg(b.seconds), 2) as seconds_mean, round(max(b.seconds), 2) as seconds_max
           from blocks b join members m on m.member = b.proposer group by b.chain, b.proposer
           order by b.chain, m.turn""",
    ),
    Question(
        "round_changes",
        "Which heights were decided after a round change?",
        """select b.chain, b.height, b.round, m.name as proposer, round(b.seconds, 2) as seconds
           from blocks b join members m on m.member = b.proposer where b.round > 0
           order by b.chain, b.height""",
    ),
    Question(
        "slowest",
        "Which heights took longest?",
        """select chain, height, round, round(seconds, 2) as seconds, bytes from blocks
           where seconds is not null order by seconds desc, chain, height limit :count""",
        (Parameter("count", "count", "how many rows", "20"),),
    ),
    Question(
        "uses_of",
        "Where does a blob appear?",
        """select u.chain, u.height, 'update of ' || m.name as used_as
               from updates u join members m using (member)
               where u.blob_id >= :blob and u.blob_id < :blob || 'g'
           union all select chain, height, 'aggregate' from rounds
               where aggregate_id >= :blob and aggregate_id < :blob || 'g'
           union all select chain, height, 'base' from rounds
               where base_id >= :blob and base_id < :blob || 'g'
           union all select chain, height, 'next base' from rounds
               where next_base_id >= :blob and next_base_id < :blob || 'g'
           order by 2, 1, 3""",
        (BLOB,),
    ),
    Question(
        "copies",
        "Which updates were shown more than once?",
        """select u.blob_id, count(*) as times, min(u.height) as first, max(u.height) as last,
                  group_concat(distinct m.name) as members
           from updates u join members m using (member) group by u.blob_id having times > 1 order by first""",
    ),
    Question(
        "filters",
        "How large are the Bloom filters of a chain?",
        """select name, count(*) as blocks, sum(entries) as entries, sum(bytes) as bytes,
                  round(avg(bytes), 1) as bytes_a_block
           from filters where chain = :chain group by name order by name""",
        (CHAIN,),
    ),
)
QUESTIONS = {question.name: question for question in _QUESTIONS}


def ask(index: Index, genesis: Genesis, name: str, given: Mapping[str, str]) -> Answer:
    """The answer to a question of the table. Raises UserError for an unknown name or a bad parameter."""
    question = QUESTIONS.get(name)
    if question is None:
        raise UserError(
            f"there is no question {name!r}",
            because="it is not in the table",
            fix=f"one of: {', '.join(QUESTIONS)}",
        )
    unknown = set(given) - {parameter.name for parameter in question.parameters}
    if unknown:
        raise _bad(question, f"it takes no {', '.join(sorted(unknown))}")
    values = {
        each.name: _value(question, each, given.get(each.name, each.default), genesis)
        for each in question.parameters
    }
    try:
        columns, rows = index.table(question.sql, values)
    except sqlite3.OperationalError as error:
        if "interrupted" not in str(error):
            raise
        raise UserError(
            f"the question {name!r} took too long", because=str(error), fix="ask about one chain or member"
        ) from error
    return Answer(question, columns, rows)


def member_id(genesis: Genesis, text: str) -> str | None:
    """The 0x id of a member or seat named by name or id; None when there is no such member."""
    for group in (*genesis.groups, genesis.council):
        for entry in group.members:
            each = "0x" + entry.member_id.hex()
            if text in (entry.name, each):
                return each
    return None


def _value(question: Question, parameter: Parameter, text: str | None, genesis: Genesis) -> str | int:
    if text is None:
        raise _bad(question, f"{parameter.name} is missing: {parameter.help}")
    match parameter.kind:
        case "chain":
            if text in genesis.group_names.values():
                return text
        case "member":
            found = member_id(genesis, text)
            if found is not None:
                return found
        case "count":
            if text.isascii() and text.isdigit() and len(text) < 6:
                return int(text)
        case _:
            plain = text.lower().removeprefix("0x")
            if plain and len(plain) <= 64 and set(plain) <= set("0123456789abcdef"):
                return "0x" + plain
    raise _bad(question, f"{parameter.name} is {text!r}, it must be: {parameter.help}")


def _bad(question: Question, because: str) -> UserError:
    names = " ".join(f"{each.name}=..." for each in question.parameters) or "nothing"
    return UserError(
        f"the question {question.name!r} cannot be asked so", because=because, fix=f"it takes {names}"
    )
