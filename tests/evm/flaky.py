"""A way to the chain that misbehaves when told to."""

from __future__ import annotations

import json
import socket
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests.contracts.world import World


class Flaky(ThreadingHTTPServer):
    """Hands requests on to a chain. `faults`: what happens to the next requests instead, one after the other.

    "drop" closes the connection, "503" and "garbage" answer so, "lose" hands the request on and drops the
    answer. A method name in `only` limits the faults to it.
    """

    daemon_threads = True

    def __init__(self, target: str) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.target = target
        self.faults: list[str] = []
        self.only = ""
        self.seen: list[str] = []
        self.lock = threading.Lock()
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def fault(self, method: str) -> str:
        with self.lock:
            self.seen.append(method)
            if self.faults and self.only in {"", method}:
                return self.faults.pop(0)
        return ""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Flaky

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        fault = self.server.fault(json.loads(body)["method"])
        if fault == "drop":
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        answer = b"<html>hello</html>" if fault == "garbage" else b""
        if fault in {"", "lose"}:
            request = urllib.request.Request(self.server.target, body, {"Content-Type": "application/json"})
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as reply:
                answer = reply.read()
        if fault == "lose":
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        self.send_response(503 if fault == "503" else 200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def flaky(world: World) -> Iterator[Flaky]:
    server = Flaky(world.url)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()
