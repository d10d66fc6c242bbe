"""What a node wants to remember beside the chain, as JSON lines for people and programs.

Transaction hashes, accuracies, faults of peers, evidence. Nothing that is voted on is read from here: a note
that is lost costs a line on a page.
"""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

from p2pfl import jsonform, telemetry
from p2pfl.durable import DiskFull, disk_error
from p2pfl.errors import UserError
from p2pfl.jsonform import loads

log = telemetry.logger("notes")

# name -> what a line of DIR/records/<name>.jsonl says.
NOTES = {
    "certificates": "verdict certificates as they were made: verdict, signatures",
    "transactions": "what was sent to the chain: kind, case_id, accused, tx_hash, status, block",
    "metrics": "what was measured after a height: chain, height, accuracy, seconds",
    "faults": "peers that broke the protocol: peer, reason, detail, height",
    "retention": "when old blobs were deleted: epochs_before (whose they were), blobs (how many)",
    "evidence": "two signed structs of one signer that contradict each other: offence, first, second",
}
# A page shows the newest; a file that is longer than that is read from its end.
READ_BYTES_MAX = 8 * 1024 * 1024


class Notes:
    """The folder of JSON lines. Calls may come from several threads."""

    def __init__(self, folder: Path) -> None:
        """Open or create; nothing is written before the first line."""
        self.folder = folder
        self._lock = threading.Lock()

    def add(self, name: str, record: Any, *, durable: bool = False) -> None:
        """Append one line (a dict, or a dataclass of `records`).

        durable: it must not be lost; raises DiskFull when there is no room, where another is left out.
        """
        path = self._path(name)
        line = json.dumps(jsonform.to_json(record), separators=(",", ":")) + "\n"
        try:
            with self._lock, path.open("ab") as file:
                if file.tell() and not _ends_whole(path):
                    file.write(b"\n")  # A crash cut the last line; it must not spoil this one.
                file.write(line.encode())
                file.flush()
                if durable:
                    os.fsync(file.fileno())
        except OSError as error:
            failed = disk_error(path, error)
            if durable or not isinstance(failed, DiskFull):
                raise failed from error
            # A line on a page is no reason to stop a node that waits for room to vote.
            log.warning("a note was not kept", name=name, because=failed.because, fix=failed.fix)

    def read(self, name: str) -> list[dict[str, Any]]:
        """The lines in order, the newest last; a line that a crash cut short is left out."""
        path = self._path(name)
        try:
            with path.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - READ_BYTES_MAX))
                lines = file.read().split(b"\n")
        except FileNotFoundError:
            return []
        except OSError as error:
            raise UserError(f"{path} cannot be read", because=str(error), fix="check the file") from error
        return [record for record in map(_parsed, lines) if record is not None]

    def _path(self, name: str) -> Path:
        if name not in NOTES:
            raise KeyError(f"{name} is not in the table NOTES")
        return self.folder / f"{name}.jsonl"


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        record = loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def _ends_whole(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
