"""The explorer: a history in a browser, without scripts, from a live node or a directory.

Runs inside the node's own trio nursery. Files and SQLite are read in threads, two at a time, so that pages
never hold up a vote. Knows HTTP; what pages show is in the modules that end in `_pages`.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import trio
from hypercorn.config import Config
from hypercorn.trio import serve
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from p2pfl import telemetry

# Imported for the pages that they add to the table.
from p2pfl.audit import chain_pages, member_pages, question_pages  # noqa: F401
from p2pfl.audit.asked import PAGES, Asked, NotFound, PageMaker
from p2pfl.audit.chain_pages import find_block
from p2pfl.audit.history import fold_roster
from p2pfl.audit.page import Page, content_policy, html, path
from p2pfl.audit.proofs import prove_block, prove_field
from p2pfl.audit.view import FolderView, StoreView, View
from p2pfl.errors import UserError
from p2pfl.genesis import COUNCIL
from p2pfl.jsonform import to_json
from p2pfl.roster import Roster

__all__ = ["FolderView", "StoreView", "View", "build_app", "serve_explorer"]

log = telemetry.logger("explorer")

NAVIGATION = (
    ("Overview", "/"),
    ("Council", "/chain/council"),
    ("Members", "/ask/members"),
    ("Cases", "/cases"),
    ("Faults", "/faults"),
    ("Questions", "/questions"),
)
# Pages are read by people; a third reader waits for one of the first two.
THREADS_MAX = 2
READ_S = 20  # Who has not asked by then is not a browser.
GRACE_S = 0.5  # For a page that is being written when the node stops.


async def serve_explorer(
    view: View,
    host: str = "127.0.0.1",
    port: int = 0,
    *,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve pages until cancelled; starts with the URL. port 0: any that is free. Raises UserError."""
    listener = _listen(host, port)
    shown = f"[{host}]" if ":" in host else host
    url = f"http://{shown}:{listener.getsockname()[1]}/"
    config = Config()
    config.bind = [f"fd://{listener.detach()}"]
    config.accesslog = None
    config.errorlog = None
    config.graceful_timeout = GRACE_S
    config.include_server_header = False
    config.max_app_queue_size = 8
    config.read_timeout = READ_S
    async with trio.open_nursery() as nursery:
        pages: Any = build_app(view)  # hypercorn's type of an application is its own.
        await nursery.start(serve, pages, config)
        log.info("the explorer is up", url=url)
        task_status.started(url)


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except OSError:
            listener.close()
            raise
        return listener
    except OSError as error:
        raise UserError(
            f"the explorer cannot listen at {host}:{port}",
            because=str(error),
            fix="name another port with --port, or 0 for any that is free",
        ) from error


def build_app(view: View) -> Starlette:
    """The pages of one history as an ASGI application: each as HTML and, with .json behind it, as JSON."""
    limiter = trio.CapacityLimiter(THREADS_MAX)
    routes: list[Route] = [
        Route("/genesis.json", _text(view, limiter, _genesis)),
        Route("/proof/{chain}/{height}", _text(view, limiter, _block_proof)),
        Route("/proof/{chain}/{height}/{field}", _text(view, limiter, _field_proof)),
    ]
    for place, maker in PAGES.items():
        as_json = "/index.json" if place == "/" else place + ".json"
        routes.append(Route(as_json, _endpoint(view, limiter, maker, as_json=True)))
        routes.append(Route(place, _endpoint(view, limiter, maker, as_json=False)))
    app = Starlette(routes=routes, exception_handlers={404: _nothing_there(view)})
    app.add_middleware(_Headers)
    return app


Endpoint = Callable[[Request], Awaitable[Response]]


def _endpoint(view: View, limiter: trio.CapacityLimiter, maker: PageMaker, *, as_json: bool) -> Endpoint:
    async def answer(request: Request) -> Response:
        asked = Asked(view, dict(request.path_params), dict(request.query_params))
        page = await trio.to_thread.run_sync(_made, maker, asked, limiter=limiter)
        return _as_json(page) if as_json else _as_html(page, view, request)

    return answer


def _made(maker: PageMaker, asked: Asked) -> Page:
    try:
        return maker(asked)
    except NotFound as missing:
        return _missing(str(missing))
    except UserError as error:
        # The operator's trouble (a full disk, a damaged file): pages say so, the node goes on.
        log.error("a page could not be made", because=str(error))
        return Page(
            "Not now", f"{error.what}: {error.because}. {error.fix}", {"error": error.what}, status=503
        )


def _missing(what: str) -> Page:
    return Page("Not found", what, {"error": what}, status=404)


def _as_json(page: Page) -> Response:
    text = json.dumps(page.data, indent=1) + "\n"
    return Response(text, status_code=page.status, media_type="application/json")


def _as_html(page: Page, view: View, request: Request) -> Response:
    place = request.url.path
    beside = "/index.json" if place == "/" else path(*place.strip("/").split("/")) + ".json"
    query = f"?{request.url.query}" if request.url.query else ""
    groups = tuple((f"Group {each.name}", path("chain", each.name)) for each in view.genesis.groups)
    navigation = (*NAVIGATION[:1], *groups, *NAVIGATION[1:])
    text = html(page, json_href=beside + query, navigation=navigation, source=view.source)
    return HTMLResponse(text, status_code=page.status)


def _nothing_there(view: View) -> Callable[[Request, Exception], Awaitable[Response]]:
    async def answer(request: Request, _: Exception) -> Response:
        return _as_html(_missing("There is no such page."), view, request)

    return answer


# -- files ---------------------------------------------------------------------


def _text(view: View, limiter: trio.CapacityLimiter, make: Callable[[Asked], str]) -> Endpoint:
    """A JSON text of its own form, to be kept as a file."""

    async def answer(request: Request) -> Response:
        asked = Asked(view, dict(request.path_params), dict(request.query_params))
        try:
            text = await trio.to_thread.run_sync(make, asked, limiter=limiter)
        except NotFound as missing:
            return _as_json(_missing(str(missing)))
        except UserError as error:
            return _as_json(_missing(f"{error.what}: {error.because}"))
        return Response(text, media_type="application/json")

    return answer


def _genesis(asked: Asked) -> str:
    return json.dumps(to_json(asked.view.genesis), indent=1) + "\n"


def _roster(asked: Asked) -> Roster:
    return fold_roster(asked.view.genesis, asked.view.chains().get(COUNCIL))


def _block_proof(asked: Asked) -> str:
    chain = asked.parts["chain"]
    height = find_block(asked.view, chain, asked.parts["height"]).block.header.height
    return prove_block(_roster(asked), chain, asked.view.chains()[chain], height)


def _field_proof(asked: Asked) -> str:
    chain = asked.parts["chain"]
    height = find_block(asked.view, chain, asked.parts["height"]).block.header.height
    return prove_field(_roster(asked), chain, asked.view.chains()[chain], height, asked.parts["field"])


class _Headers:
    """Headers of every answer: nothing from elsewhere, nothing kept, nothing framed."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        headers = [
            (b"content-security-policy", content_policy().encode()),
            (b"x-content-type-options", b"nosniff"),
            (b"referrer-policy", b"no-referrer"),
            (b"cross-origin-opener-policy", b"same-origin"),
            (b"cross-origin-resource-policy", b"same-origin"),
            (b"cache-control", b"no-store"),
        ]

        async def with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", []), *headers]}
            await send(message)

        await self._app(scope, receive, with_headers if scope["type"] == "http" else send)
