"""The explorer, asked over a real socket: every page in both forms, and nothing of a peer's runs."""

from __future__ import annotations

import base64
import dataclasses
import re
import socket
from collections.abc import AsyncIterator
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from p2pfl import genesis as genesis_file
from p2pfl.audit.asked import PAGES
from p2pfl.audit.explorer import FolderView, StoreView, build_app, serve_explorer
from p2pfl.audit.proofs import check
from p2pfl.audit.queries import QUESTIONS
from p2pfl.errors import UserError
from p2pfl.genesis import COUNCIL
from p2pfl.store import Notes, Store
from p2pfl.telemetry import Counters

from .chain import GROUPS, LIAR, REJECTED, Built, build, cases_of, member_of

HOSTILE = "<script>alert('x')</script>\"&"


@pytest.fixture(scope="module")
def built() -> Built:
    return build()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, built: Built) -> Path:
    """Two nodes' folders, with notes that a peer could have written."""
    path = tmp_path_factory.mktemp("run")
    for node, names in (("g2-m0", ("g2", COUNCIL)), ("council-m0", (*GROUPS, COUNCIL))):
        built.write(path / "nodes" / node, names, blobs=False)
    notes = Notes(path / "nodes" / "council-m0" / "records")
    notes.add("faults", {"peer": HOSTILE, "reason": HOSTILE, "height": 3})
    notes.add("transactions", {"kind": "verdict", "accused": member_of(LIAR), "tx_hash": "0x" + "ab" * 32})
    for height in range(4):
        notes.add("metrics", {"chain": "g1", "height": height, "accuracy": 0.5 + height / 10})
    notes.add("metrics", {"chain": "g1", "height": "no number", "accuracy": HOSTILE})
    return path


@pytest.fixture
async def client(folder: Path, nursery: trio.Nursery) -> AsyncIterator[httpx.AsyncClient]:
    url = await nursery.start(serve_explorer, FolderView(folder))
    async with httpx.AsyncClient(base_url=url) as opened:
        yield opened
    nursery.cancel_scope.cancel()


class Reader(HTMLParser):
    """Checks that tags are balanced, collects links and whatever could run."""

    VOID = frozenset({"meta", "link", "input", "polyline"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.active: list[str] = []
        self.seen: dict[str, int] = {}
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen[tag] = self.seen.get(tag, 0) + 1
        given = dict(attrs)
        if tag in ("script", "iframe", "object", "img") or any(name.startswith("on") for name in given):
            self.active.append(self.get_starttag_text() or tag)
        if "style" in given:
            self.active.append("style attribute")
        if tag == "a":
            self.links.append(given["href"] or "")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def checked(answer: httpx.Response) -> Reader:
    assert answer.headers["content-type"].startswith("text/html")
    reader = Reader(answer.text)
    assert reader.open == []
    assert reader.active == []
    assert reader.seen["h1"] == 1
    assert all(link.startswith("/") or link == "#content" for link in reader.links), "nothing from elsewhere"
    return reader


async def test_every_page_is_found_by_following_links(client: httpx.AsyncClient) -> None:
    waiting, seen, kinds = ["/"], set[str](), set[str]()
    while waiting:
        place = waiting.pop()
        if place in seen:
            continue
        seen.add(place)
        answer = await client.get(place)
        assert answer.status_code == 200, place
        if answer.headers["content-type"] == "application/json":
            answer.json()
            continue
        reader = checked(answer)
        kinds.add(place.split("?")[0].split("/")[1])
        # Members and answers are many of a kind: two of each will do.
        fresh = [link for link in reader.links if link.startswith("/") and link not in seen]
        for link in fresh:
            kind = link.split("/")[1]
            if sum(other.split("/")[1] == kind for other in (*seen, *waiting)) < 12:
                waiting.append(link)
    assert kinds >= {place.split("/")[1] for place in PAGES}
    assert any(place.startswith("/proof/") for place in seen)


async def test_pages_and_their_json_say_the_same(client: httpx.AsyncClient, built: Built) -> None:
    overview = (await client.get("/index.json")).json()
    assert overview["network"] == "0x" + built.genesis.network_id.hex()
    heights = {each["chain"]: each["height"] for each in overview["chains"]}
    assert heights == {"g1": 5, "g2": 5, "g3": 5, "council": 3}
    assert next(each for each in overview["chains"] if each["chain"] == "g1")["accuracy"] == 0.8
    block = (await client.get("/block/g1/2.json")).json()
    assert block["header"]["height"] == 2
    assert len(block["signers"]) == 3
    assert block["body"]["unrevealed"] == ["0x" + member_of("g1-m3").hex()]
    page = (await client.get("/block/g1/2")).text
    assert block["block_id"] in page
    assert "not revealed" in page
    member = (await client.get(f"/member/{LIAR}.json")).json()
    assert member["cases"][0]["outcome"] == "guilty"
    assert len(member["updates_of"]) == 6
    by_id = (await client.get(f"/member/0x{member_of(LIAR).hex()}.json")).json()
    assert by_id == member


async def test_a_case_tells_its_whole_reasoning(client: httpx.AsyncClient, built: Built) -> None:
    case_id = "0x" + cases_of(built)[0].case_id.hex()
    case = (await client.get(f"/case/{case_id}.json")).json()
    assert case["candidates"][0]["member"] == LIAR
    assert {each["worst_distance"] for each in case["measurements"]} == {1.7}
    assert [each["outcome"] for each in case["outcomes"]] == ["guilty"]
    assert case["verdicts"][0]["offence"] == 16
    assert case["transactions"][0]["tx_hash"] == "0x" + "ab" * 32
    page = await client.get(f"/case/{case_id}")
    checked(page)
    assert "replay mismatch" in page.text


async def test_a_block_that_is_taken_back_is_told_by_the_next_ones_page(client: httpx.AsyncClient) -> None:
    group, height = REJECTED
    told = (await client.get(f"/block/{group}/{height + 1}")).text
    assert f"More than half reject: block {height} is taken back" in told
    assert "rejects" in told and "could not measure" in told
    assert "Ballots" not in (await client.get(f"/block/{group}/0")).text


async def test_a_proof_from_a_page_can_be_checked_alone(client: httpx.AsyncClient, built: Built) -> None:
    assert check((await client.get("/proof/g1/2")).text, built.genesis).height == 2
    proven = check((await client.get("/proof/council/2/outcomes")).text, built.genesis)
    assert proven.value[0]["outcome"] == "guilty"
    given = (await client.get("/genesis.json")).text
    assert given == (await client.get("/genesis.json")).text
    assert '"name": "test"' in given


@pytest.mark.parametrize(
    "place",
    [
        "/nope", "/block/g1/6", "/block/g1/-1", "/block/g1/1e3", "/block/g1/" + "9" * 400, "/block/g9/1",
        "/block/genesis/0", "/chain/g9", "/member/nobody", "/member/0x00", "/member/%00", "/case/0x12",
        "/case/'; drop table blocks", "/ask/nothing", "/block/..%2f..%2fetc/passwd", "/proof/g1/5",
        "/proof/g1/2/colour", "/static/../../etc/passwd", "/block/g1/%F0%9F%92%A9", "/" + "x" * 3000,
    ],
)  # fmt: skip
async def test_what_is_not_there_is_not_found(client: httpx.AsyncClient, place: str) -> None:
    for form in (place, place + ".json"):
        answer = await client.get(form)
        assert answer.status_code == 404, form
        assert answer.headers["content-security-policy"].startswith("default-src 'none'")


async def test_a_bad_question_says_what_it_takes(client: httpx.AsyncClient) -> None:
    for place in ("/ask/rounds?chain=g9", "/ask/rounds?chain=g1&x=1", f"/ask/updates_of?member={HOSTILE}"):
        answer = await client.get(place)
        assert answer.status_code == 400
        checked(answer)
    form = await client.get("/ask/rounds")
    assert form.status_code == 200
    assert "<form" in form.text
    answer = await client.get("/ask/rounds.json", params={"chain": "g1"})
    assert [row["height"] for row in answer.json()] == list(range(6))


async def test_nothing_that_peers_wrote_runs(client: httpx.AsyncClient) -> None:
    page = await client.get("/faults")
    checked(page)
    assert "&lt;script&gt;" in page.text
    for place in (f"/member/{HOSTILE}", f"/ask/uses_of?blob={HOSTILE}", f"/ask/rounds?chain={HOSTILE}"):
        checked(await client.get(place))


async def test_hostile_names_in_the_genesis_are_escaped(tmp_path: Path, nursery: trio.Nursery) -> None:
    built = build(HOSTILE)
    member = built.genesis.groups[0].members[0]
    assert member.name == HOSTILE
    view = FolderView(built.write(tmp_path, blobs=False))
    url = await nursery.start(serve_explorer, view)
    async with httpx.AsyncClient(base_url=url) as client:
        by_id = f"/member/0x{member.member_id.hex()}"
        for place in (
            "/",
            "/chain/g1",
            "/block/g1/0",
            "/block/g1/4",
            by_id,
            "/ask/members",
            "/ask/rounds?chain=g1",
        ):
            answer = await client.get(place)
            assert answer.status_code == 200, place
            checked(answer)
            assert HOSTILE not in answer.text
            assert "&lt;script&gt;" in answer.text or place == "/chain/council"
    nursery.cancel_scope.cancel()


async def test_a_body_that_cannot_be_read_is_a_page_that_says_so(
    tmp_path: Path, built: Built, nursery: trio.Nursery
) -> None:
    old = built.chains["g1"][5]
    spoilt = dataclasses.replace(old, block=dataclasses.replace(old.block, body=b"nothing"))
    view = FolderView(built.with_block("g1", 5, spoilt).write(tmp_path, blobs=False))
    url = await nursery.start(serve_explorer, view)
    async with httpx.AsyncClient(base_url=url) as client:
        for place in ("/", "/block/g1/5", "/chain/g1"):
            answer = await client.get(place)
            assert answer.status_code == 503
            assert "audit verify" in answer.text
            checked(answer)
        assert (await client.get("/block/g2/5")).status_code == 200
    nursery.cancel_scope.cancel()


async def test_headers_allow_nothing_but_our_own_stylesheet(client: httpx.AsyncClient) -> None:
    answer = await client.get("/")
    policy = answer.headers["content-security-policy"]
    found = re.search(r"<style>(.*?)</style>", answer.text, re.DOTALL)
    assert found is not None
    digest = base64.b64encode(sha256(found[1].encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in policy
    assert "script" not in policy
    assert "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "server" not in answer.headers


async def test_only_reading_is_allowed(client: httpx.AsyncClient) -> None:
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        assert (await client.request(method, "/")).status_code == 405
    assert (await client.head("/")).status_code == 200


async def test_the_overview_renews_itself_only_when_asked(client: httpx.AsyncClient) -> None:
    assert "http-equiv" not in (await client.get("/")).text
    assert 'http-equiv="refresh" content="5"' in (await client.get("/?refresh=5")).text
    assert 'content="60"' in (await client.get("/?refresh=99999")).text
    assert "http-equiv" not in (await client.get("/?refresh=x")).text


async def test_a_live_nodes_pages_grow_with_its_chain(
    tmp_path: Path, built: Built, nursery: trio.Nursery
) -> None:
    store = Store(tmp_path, built.genesis)
    store.chain("g1")
    counters = Counters()
    counters.count("peer_faults", reason=HOSTILE)
    url = await nursery.start(serve_explorer, StoreView(store, counters=counters))
    async with httpx.AsyncClient(base_url=url) as client:
        assert (await client.get("/")).status_code == 200
        assert (await client.get("/block/g1/0")).status_code == 404
        for height, decided in enumerate(built.chains["g1"]):
            await trio.to_thread.run_sync(store.chain("g1").append, decided)
            overview = (await client.get("/index.json")).json()
            assert overview["chains"][0]["height"] == height
            assert (await client.get(f"/block/g1/{height}")).status_code == 200
        faults = (await client.get("/faults.json")).json()
        assert faults["counters"] == [{"name": "peer_faults", "labels": {"reason": HOSTILE}, "value": 1}]
        checked(await client.get("/faults"))
    nursery.cancel_scope.cancel()
    store.close()


async def test_a_damaged_store_is_a_page_that_says_so(
    tmp_path: Path, built: Built, nursery: trio.Nursery
) -> None:
    built.write(tmp_path, ("g1",), blobs=False)
    store = Store(tmp_path, built.genesis)
    path = tmp_path / "chain" / "g1.mps"
    opened = StoreView(store)
    store.chain("g1")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    url = await nursery.start(serve_explorer, opened)
    async with httpx.AsyncClient(base_url=url) as client:
        answer = await client.get("/")
        assert answer.status_code == 503
        assert "damaged at byte" in answer.text
        checked(answer)
    nursery.cancel_scope.cancel()
    store.close()


async def test_a_port_in_use_is_an_operators_error(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match="cannot listen"):
            await serve_explorer(FolderView(folder), "127.0.0.1", port)


def test_a_directory_without_blocks_is_refused(tmp_path: Path, built: Built) -> None:
    with pytest.raises(UserError, match="no history"):
        FolderView(tmp_path)
    (tmp_path / "chain").mkdir()
    with pytest.raises(UserError, match="no genesis"):
        FolderView(tmp_path)
    genesis_file.save(built.genesis, tmp_path / "genesis.json")
    with pytest.raises(UserError, match="no blocks"):
        FolderView(tmp_path)


def test_the_application_has_each_page_in_both_forms(folder: Path) -> None:
    places = {route.path for route in build_app(FolderView(folder)).routes}  # type: ignore[attr-defined]
    for place in PAGES:
        assert place in places
        assert ("/index.json" if place == "/" else place + ".json") in places


def test_every_question_can_be_asked_of_a_page(folder: Path) -> None:
    view: Any = FolderView(folder)
    assert len(QUESTIONS) >= 15
    from p2pfl.audit.queries import ask

    for question in QUESTIONS.values():
        given = {"chain": "g2", "member": LIAR, "case": "0x0", "blob": "0x0", "count": "3"}
        asked = {each.name: given[each.name] for each in question.parameters}
        assert ask(view.index(), view.genesis, question.name, asked).columns
