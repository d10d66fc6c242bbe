"""An EVM chain on this machine for the time of a run: anvil where it is on the PATH, else py-evm.

    python -m testnet.devchain --port 0

prints one JSON line (url, port, chain_id, backend, pid) and serves until it is stopped.

Both have the same rich accounts (the well-known test mnemonic), make a block for each transaction, let block
time follow the clock and run ahead of it at most a second for each transaction, and listen on this machine
only. Whoever starts it here (`start`) ends it, even by dying. Never put anything of value on such a chain.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

from p2pfl.errors import EXIT_USER, UserError

if TYPE_CHECKING:
    from eth_account.signers.local import LocalAccount

HOST = "127.0.0.1"
CHAIN_ID = 31337
# The mnemonic that anvil, hardhat and others share: everybody knows its keys.
MNEMONIC = "test test test test test test test test test test test junk"
ACCOUNTS = 64  # A staker for each of 60 members and seats, and some to spare for deployer, veto and treasury.
BALANCE_ETHER = 1_000_000
START_SECONDS_MAX = 30.0
STOP_SECONDS_MAX = 5.0
# A deployment is 25 KB of hex; nothing that is sent here is a hundredth of this.
REQUEST_BYTES_MAX = 4 * 1024 * 1024
BATCH_MAX = 1_000


@cache
def accounts(count: int = ACCOUNTS) -> tuple[LocalAccount, ...]:
    """The rich accounts m/44'/60'/0'/0/0, 1, ... of the test mnemonic."""
    from eth_account import Account
    from eth_account.hdaccount import ETHEREUM_DEFAULT_PATH, key_from_seed, seed_from_mnemonic

    seed = seed_from_mnemonic(MNEMONIC, "")
    stem = ETHEREUM_DEFAULT_PATH.rsplit("/", 1)[0]
    return tuple(Account.from_key(key_from_seed(seed, f"{stem}/{index}")) for index in range(count))


# ---------------------------------------------------------------------------
# For whoever wants a chain.


@dataclass
class DevChain:
    """A running chain. Stop it, or use it as a context manager."""

    url: str
    port: int
    chain_id: int
    backend: str
    pid: int
    process: subprocess.Popen[str]

    def stop(self) -> None:
        """End the process: ask it by closing its input, then make sure."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        try:
            self.process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()

    def __enter__(self) -> DevChain:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def start(
    *,
    port: int = 0,
    backend: str = "auto",
    count: int = ACCOUNTS,
    chain_id: int = CHAIN_ID,
    log: Path | None = None,
    timeout_s: float = START_SECONDS_MAX,
) -> DevChain:
    """Start a chain in a process of its own and wait until it answers. Raises UserError.

    port: 0 takes a free one. count: rich accounts. log: a file for what it prints besides (None: nowhere).
    """
    command = [sys.executable, "-m", "testnet.devchain", "--until-eof", "--port", str(port)]
    command += ["--backend", backend, "--accounts", str(count), "--chain-id", str(chain_id)]
    root = str(Path(__file__).resolve().parent.parent)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
    with (log or Path(os.devnull)).open("a", encoding="utf-8") as sink:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=sink, text=True, env=environment
        )
    line = _first_line(process, timeout_s)
    told: dict[str, Any]
    try:
        told = json.loads(line)
    except ValueError:
        told = {"error": line.strip() or "it printed nothing"}
    if "error" in told:
        process.kill()
        _close(process)
        raise UserError(
            "the development chain did not start",
            because=told["error"],
            fix="look at its log, try another port, or choose the backend: --backend pyevm",
        )
    return DevChain(process=process, **told)


def _first_line(process: subprocess.Popen[str], timeout_s: float) -> str:
    """The first line of its output; empty when the time is up or it ended."""
    killer = threading.Timer(timeout_s, process.kill)
    killer.start()
    try:
        assert process.stdout is not None
        return process.stdout.readline()
    finally:
        killer.cancel()


def _close(process: subprocess.Popen[str]) -> None:
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()
    process.wait()


# ---------------------------------------------------------------------------
# The process itself.


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m testnet.devchain", description=__doc__)
    parser.add_argument("--port", type=int, default=8545, help="0 takes a free one (default: 8545)")
    parser.add_argument("--backend", choices=("auto", "anvil", "pyevm"), default="auto")
    parser.add_argument("--accounts", type=int, default=ACCOUNTS, help=f"rich accounts (default: {ACCOUNTS})")
    parser.add_argument("--chain-id", type=int, default=CHAIN_ID)
    parser.add_argument("--until-eof", action="store_true", help="end when standard input is closed")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    if options.until_eof:
        threading.Thread(target=_end_at_eof, daemon=True).start()
    anvil = shutil.which("anvil") if options.backend != "pyevm" else None
    try:
        if anvil is not None:
            return _run_anvil(anvil, options)
        if options.backend == "anvil":
            raise UserError(
                "anvil cannot be started", because="it is not on the PATH", fix="use --backend pyevm"
            )
        return _run_pyevm(options)
    except UserError as error:
        print(json.dumps({"error": f"{error.what}: {error.because}"}), flush=True)
        print(error.render(), file=sys.stderr)
        return EXIT_USER
    except KeyboardInterrupt:
        return 0


def _end_at_eof() -> None:
    with suppress(OSError):
        while os.read(0, 4096):
            pass
    os.kill(os.getpid(), signal.SIGTERM)


def _announce(port: int, chain_id: int, backend: str) -> None:
    told = {"url": f"http://{HOST}:{port}", "port": port, "chain_id": chain_id, "backend": backend}
    print(json.dumps({**told, "pid": os.getpid()}), flush=True)


def _run_anvil(anvil: str, options: argparse.Namespace) -> int:
    """Run anvil as a child that dies with us; its block time goes on while nobody sends anything."""
    command = [anvil, "--host", HOST, "--port", str(options.port), "--chain-id", str(options.chain_id)]
    command += ["--accounts", str(options.accounts), "--balance", str(BALANCE_ETHER), "--mnemonic", MNEMONIC]
    command += ["--block-time", "1", "--mixed-mining"]
    child = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
        preexec_fn=_die_with_parent,  # noqa: PLW1509 - prctl only; no thread of ours holds a lock here.
    )  # fmt: skip
    try:
        assert child.stdout is not None
        port, said = _anvil_port(child.stdout)
        if port is None:
            because = said[-1].strip() if said else f"it ended with {child.wait()}"
            raise UserError(
                f"anvil does not listen on port {options.port}", because=because, fix="try --port 0"
            )
        _announce(port, options.chain_id, "anvil")
        for _ in child.stdout:  # It tells every request; a full pipe would stop it.
            pass
        return child.wait()
    finally:
        _end_group(child)


def _anvil_port(output: IO[str]) -> tuple[int | None, list[str]]:
    said: list[str] = []
    for line in output:
        if line.strip():
            said.append(line)
        found = re.search(r"Listening on [\d.]+:(\d+)", line)
        if found:
            return int(found[1]), said
    return None, said


def _die_with_parent() -> None:
    # SIGTERM, not SIGKILL: npm's anvil is a wrapper, which hands the signal on to the real one.
    with suppress(OSError, AttributeError):  # Linux only; elsewhere the finally clause above has to do.
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def _end_group(child: subprocess.Popen[str]) -> None:
    """End anvil and its wrapper."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(child.pid, number)
        with suppress(subprocess.TimeoutExpired):
            child.wait(STOP_SECONDS_MAX / 2)


def _run_pyevm(options: argparse.Namespace) -> int:
    """Serve py-evm from this process."""
    try:
        from testnet.pyevm import PyEvmChain
    except ModuleNotFoundError as error:
        raise UserError(
            "there is no EVM on this machine",
            because=str(error),
            fix="pip install 'p2pfl-mps[testnet]', or anvil",
        ) from error
    rich = [bytes.fromhex(account.address[2:]) for account in accounts(options.accounts)]
    chain = PyEvmChain(chain_id=options.chain_id, accounts=rich)
    try:
        server = Server((HOST, options.port), chain)
    except OSError as error:
        raise UserError(
            f"cannot listen on {HOST}:{options.port}",
            because=error.strerror or str(error),
            fix="try --port 0",
        ) from error
    with server:
        _announce(server.server_address[1], options.chain_id, "pyevm")
        server.serve_forever(poll_interval=3600)  # Nothing is polled for: SIGTERM interrupts.
    return 0


class Server(ThreadingHTTPServer):
    """JSON-RPC over HTTP for one chain: many connections, one request at a time."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], chain: Any) -> None:
        self.chain = chain
        self.lock = threading.Lock()
        super().__init__(address, Handler)

    def respond(self, body: bytes) -> bytes:
        """The response body to a request body."""
        from testnet.pyevm_rpc import PARSE_ERROR, answer, failure

        try:
            request = json.loads(body)
        except ValueError:
            return json.dumps(failure(None, PARSE_ERROR, "not JSON")).encode()
        if isinstance(request, list) and len(request) > BATCH_MAX:
            request = {"method": None}
        with self.lock:
            if isinstance(request, list):
                return json.dumps([answer(self.chain, one) for one in request]).encode()
            return json.dumps(answer(self.chain, request)).encode()


class Handler(BaseHTTPRequestHandler):
    """One connection, kept open between requests."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # Head and body leave in one piece.
    timeout = 300
    server: Server

    def do_POST(self) -> None:
        """A JSON-RPC request or batch."""
        length = self.headers.get("Content-Length", "")
        if not length.isdigit() or int(length) > REQUEST_BYTES_MAX:
            self.close_connection = True
            self.send_error(413)
            return
        body = self.server.respond(self.rfile.read(int(length)))
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is http.server's.
        """Say nothing for each request."""


if __name__ == "__main__":
    sys.exit(main())
