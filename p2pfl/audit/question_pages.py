"""The pages of questions: the table of them, and the answer to one."""

from __future__ import annotations

from p2pfl.audit.asked import Asked, NotFound, page_at
from p2pfl.audit.cells import answered
from p2pfl.audit.page import Cell, Form, Page, path, table
from p2pfl.audit.queries import QUESTIONS, ask
from p2pfl.errors import UserError
from p2pfl.jsonform import to_json


@page_at("/questions")
def questions_page(_: Asked) -> Page:
    """The table of questions: `/questions`."""
    rows = [
        (Cell(each.asks, path("ask", each.name)), each.name, " ".join(p.name for p in each.parameters))
        for each in QUESTIONS.values()
    ]
    data = [
        {"name": each.name, "asks": each.asks, "parameters": [to_json(p) for p in each.parameters]}
        for each in QUESTIONS.values()
    ]
    page = Page("Questions", "The same questions as `p2pfl audit show`, and the same answers.", data)
    page.sections = [table("Questions", ("question", "name", "needs"), rows)]
    return page


@page_at("/ask/{name}")
def ask_page(asked: Asked) -> Page:
    """The answer to a question: `/ask/rounds?chain=g1`. Without what it needs, a form."""
    name = asked.parts["name"]
    question = QUESTIONS.get(name)
    if question is None:
        raise NotFound(f"There is no question {name!r}.")
    fields = [
        (each.name, each.help, asked.given.get(each.name, each.default or "")) for each in question.parameters
    ]
    page = Page(question.asks, f"Question {name!r}.", None)
    if fields:
        page.sections.append(Form(path("ask", name), fields))
    if all(each.name in asked.given or each.default is not None for each in question.parameters):
        try:
            answer = ask(asked.view.index(), asked.view.genesis, name, asked.given)
        except UserError as error:
            page.status, page.lead, page.data = 400, f"{error.because}. {error.fix}", {"error": error.because}
            return page
        page.data = answer.to_json()
        page.sections.append(answered(answer, asked.view.genesis, "Answer"))
    else:
        page.data = {"needs": [each.name for each in question.parameters]}
    return page
