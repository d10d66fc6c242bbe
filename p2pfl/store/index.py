"""A SQLite view of the blocks, for questions. It can be deleted at any time and is built again.

Filled from decided blocks only and caught up when somebody asks, so that no vote waits for it. Knows the
records' fields; what is asked is in `audit.queries`.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from consensus import signing
from consensus.chain import FIRST_HEIGHT
from consensus.signing import BadSignature
from consensus.types import ZERO_MEMBER, DecidedBlock
from p2pfl import telemetry
from p2pfl.errors import UserError
from p2pfl.genesis import COUNCIL, Genesis
from p2pfl.records import CouncilBody, GroupBody, decode_body
from p2pfl.store.schema import TABLES, VERSION

log = telemetry.logger("index")

# A question that runs longer than this is stopped: pages must not hold a node's processor.
STEPS_MAX = 20_000_000
ROWS_MAX = 10_000
BUSY_S = 1.0  # Nobody but us writes the file; whoever holds it longer keeps it.


class Blocks(Protocol):
    """A chain to read: a BlockStore or a BlockFile."""

    @property
    def tip_height(self) -> int: ...

    def get(self, height: int) -> DecidedBlock | None: ...

    def iterate(self, start: int = FIRST_HEIGHT) -> Iterator[DecidedBlock]: ...


class Index:
    """The view. Calls may come from several threads; one works at a time."""

    def __init__(self, genesis: Genesis, path: Path | None = None) -> None:
        """Open or create at `path` (None: in memory). A file of another version or network is built again."""
        self._genesis = genesis
        self._path = path
        self._lock = threading.Lock()
        self._db = self._connect()
        try:
            # A view that a crash spoils is built again: nothing waits for its fsyncs.
            self._db.execute("pragma synchronous = off")
            ours = self._is_ours()
        except sqlite3.DatabaseError as error:
            log.warning("the index cannot be used and is built again", path=path, because=str(error))
            ours = False
        if not ours:
            self._start_over()

    def _connect(self) -> sqlite3.Connection:
        """Open or create the file; nothing of it is read yet."""
        try:
            return sqlite3.connect(
                self._path or ":memory:", check_same_thread=False, isolation_level=None, timeout=BUSY_S
            )
        except sqlite3.Error as error:
            raise UserError(
                f"the index {self._path} cannot be opened", because=str(error), fix="check its folder"
            ) from error

    def _is_ours(self) -> bool:
        if self._db.execute("pragma user_version").fetchone()[0] != VERSION:
            return False
        found = self._db.execute("select value from meta where name = 'network_id'").fetchone()
        return found is not None and found[0] == _hex(self._genesis.network_id)

    def _start_over(self) -> None:
        self._db.close()
        if self._path is not None:
            try:
                self._path.unlink(missing_ok=True)
            except OSError as error:
                raise UserError(
                    f"the index {self._path} cannot be replaced", because=str(error), fix="delete it"
                ) from error
        self._db = self._connect()
        self._db.execute("pragma synchronous = off")
        self._db.executescript(f"begin; {TABLES} pragma user_version = {VERSION};")
        self._put("meta", [("network_id", _hex(self._genesis.network_id))])
        groups = (*self._genesis.groups, self._genesis.council)
        rows = [
            (_hex(each.member_id), each.name, group.name, turn)
            for group in groups
            for turn, each in enumerate(group.members)
        ]
        self._put("members", rows)
        self._db.execute("commit")

    def catch_up(self, chains: Mapping[str, Blocks]) -> int:
        """Take in what the chains have and the index has not; returns how many blocks that was.

        chains: by group name. Raises UserError when the index cannot be written.
        """
        with self._lock:
            try:
                if any(self._is_other(name, blocks) for name, blocks in chains.items()):
                    log.warning("the index shows another history and is built again", path=self._path)
                    self._start_over()
                taken = sum(self._take_chain(name, blocks) for name, blocks in chains.items())
                if taken:
                    # Without statistics one of the questions took five seconds instead of a tenth.
                    self._db.execute("analyze")
                return taken
            except sqlite3.Error as error:
                raise UserError(
                    f"the index {self._path} cannot be written",
                    because=str(error),
                    fix="make room on the disk, or delete the index; it is built again",
                ) from error

    def query(self, sql: str, parameters: Sequence[Any] | Mapping[str, Any] = ()) -> list[dict[str, Any]]:
        """The rows of an answer by column, at most ROWS_MAX. Raises sqlite3.Error."""
        columns, rows = self.table(sql, parameters)
        return [dict(zip(columns, row, strict=True)) for row in rows]

    def table(
        self, sql: str, parameters: Sequence[Any] | Mapping[str, Any] = ()
    ) -> tuple[tuple[str, ...], tuple[tuple[Any, ...], ...]]:
        """Columns and rows of an answer, at most ROWS_MAX. Raises sqlite3.Error for a bad or endless one."""
        with self._lock:
            self._db.set_progress_handler(lambda: 1, STEPS_MAX)
            try:
                found = self._db.execute(sql, parameters)
                columns = tuple(each[0] for each in found.description)
                return columns, tuple(tuple(row) for row in found.fetchmany(ROWS_MAX))
            finally:
                self._db.set_progress_handler(None, 0)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    # -- filling ------------------------------------------------------------

    def _tip(self, name: str) -> tuple[int, str, int] | None:
        row = self._db.execute(
            "select height, block_id, time_ms from blocks where chain = ? order by height desc limit 1",
            (name,),
        ).fetchone()
        return None if row is None else (row[0], row[1], row[2])

    def _is_other(self, name: str, blocks: Blocks) -> bool:
        """Whether the newest block in the index is not that of the chain: its file was replaced."""
        tip = self._tip(name)
        if tip is None:
            return False
        found = blocks.get(tip[0])
        return found is None or _hex(signing.block_id(found.block.header)) != tip[1]

    def _take_chain(self, name: str, blocks: Blocks) -> int:
        tip = self._tip(name)
        start = FIRST_HEIGHT if tip is None else tip[0] + 1
        if start > blocks.tip_height:
            return 0
        before_ms = None if tip is None else tip[2]
        taken = 0
        self._db.execute("begin")
        try:
            for decided in blocks.iterate(start):
                try:
                    self._take(name, decided, before_ms)
                except (ValueError, KeyError, OverflowError) as error:  # DecodeError is a ValueError.
                    height = decided.block.header.height
                    raise UserError(
                        f"block {height} of {name} cannot be shown",
                        because=f"its body is not what a quorum may certify: {error}",
                        fix="p2pfl audit verify DIR says what is wrong with it",
                    ) from error
                before_ms = decided.block.header.time_ms
                taken += 1
            self._db.execute("commit")
        except BaseException:
            self._db.execute("rollback")
            raise
        return taken

    def _take(self, name: str, decided: DecidedBlock, before_ms: int | None) -> None:
        header = decided.block.header
        seconds = None if before_ms is None else (header.time_ms - before_ms) / 1000
        certificate = decided.certificate
        row = (
            *(name, header.height, header.epoch, _hex(signing.block_id(header)), _hex(header.proposer)),
            *(
                header.time_ms,
                certificate.round,
                len(certificate.signatures),
                seconds,
                len(decided.block.body),
            ),
        )
        self._put("blocks", [row])
        if name == COUNCIL:
            self._take_council(header.height, decode_body(decided.block.body, CouncilBody))
        else:
            self._take_group(name, header.height, decode_body(decided.block.body, GroupBody))

    def _take_group(self, name: str, height: int, body: GroupBody) -> None:
        total = sum(body.weights)

        def mean(losses: Iterable[int]) -> int | None:
            pairs = zip(losses, body.weights, strict=True)
            return sum(loss * weight for loss, weight in pairs) // total if total else None

        before = mean(signed.tx.loss_before_micro for signed in body.txs)
        after = mean(signed.tx.loss_after_micro for signed in body.txs)
        accepted = sum(1 for weight in body.weights if weight)
        ids = (
            _hex(body.base.base_id),
            body.base.council_height,
            _hex(body.aggregate_id),
            _hex(body.next_base_id),
        )
        counts = (len(body.txs), accepted, len(body.unrevealed), before, after, total)
        self._put("rounds", [(name, height, body.rule, *ids, *counts)])
        triage = {row.member: row for row in body.triage}
        for signed, weight in zip(body.txs, body.weights, strict=True):
            tx = signed.tx
            row = triage.get(tx.member)
            judged = (None,) * 12
            if row is not None:
                judged = (
                    *(row.norm_ratio_micro, row.nearest_micro, row.previous_cos_micro, row.root_cos_micro),
                    *(row.others_cos_micro, row.krum_micro, row.p_ppm),
                    *(row.out_of_bounds, row.duplicate, row.repeated, row.unusual, row.alarm),
                )
            told = (tx.byte_length, tx.samples, tx.saturated, tx.loss_before_micro, tx.loss_after_micro)
            revealed = int(tx.member not in body.unrevealed)
            self._put(
                "updates",
                [(name, height, _hex(tx.member), _hex(tx.blob_id), *told, weight, revealed, *judged)],
            )
        self._put(
            "warnings",
            [(name, height, _hex(row.member), row.tensor, row.chunk, row.reason) for row in body.warnings],
        )
        self._put(
            "standings",
            [(name, height, _hex(row.member), _hex(row.case_id), row.outcome) for row in body.standings],
        )
        self._ballots(name, height, body)
        self._filters(name, height, body)

    def _ballots(self, name: str, height: int, body: GroupBody) -> None:
        """They are about the block before."""
        for signed in body.ballots:
            said = signed.ballot
            told = (said.loss_old_micro, said.loss_new_micro, said.approve, height)
            self._put("ballots", [(name, said.height, self._signer(said, signed.signature, name), *told)])

    def _take_council(self, height: int, body: CouncilBody) -> None:
        names = self._genesis.group_names
        self._put(
            "counted",
            [
                (
                    height,
                    names[each.header.group_id],
                    each.header.height,
                    _hex(each.aggregate_id),
                    each.weight,
                )
                for each in body.counted
            ],
        )
        self._put(
            "compared",
            [
                (
                    height,
                    names[row.group_id],
                    row.weight,
                    row.others_cos_micro,
                    row.root_cos_micro,
                    row.flagged,
                )
                for row in body.rows
            ],
        )
        for case in body.cases:
            accused = None if case.accused == ZERO_MEMBER else _hex(case.accused)
            where = (names[case.group_id], case.epoch, case.height, _hex(case.block_id), case.cause)
            ends = (accused, case.deadline_height, len(case.chunks))
            self._put("cases", [(_hex(case.case_id), height, *where, *ends)])
            self._put(
                "candidates",
                [
                    (
                        *(_hex(case.case_id), place, _hex(each.member), each.score, _hex(each.blob_id)),
                        *(each.with_cos_micro, each.without_cos_micro, each.own_cos_micro),
                    )
                    for place, each in enumerate(case.candidates)
                ],
            )
        self._judgements(height, body)
        self._filters(COUNCIL, height, body)

    def _judgements(self, height: int, body: CouncilBody) -> None:
        names = self._genesis.group_names
        for signed in body.measurements:
            found = signed.measurement
            seat = self._signer(found, signed.signature)
            where = (_hex(found.case_id), seat, found.status, height, _hex(found.opening_id))
            row = (*where, found.worst_ppm, found.disagree_ppm, found.expected_ppm)
            self._put("measurements", [row])
        self._put(
            "outcomes",
            [(_hex(each.case_id), height, each.outcome, len(each.measurements)) for each in body.outcomes],
        )
        for certificate in body.certificates:
            verdict = certificate.verdict
            where = (names[verdict.group], verdict.epoch, verdict.height, _hex(verdict.accused))
            row = (_hex(verdict.case_id), verdict.offence, height, *where, len(certificate.signatures))
            self._put("verdicts", [row])

    def _signer(self, struct: Any, signature: bytes, group: str = COUNCIL) -> str:
        try:
            digest = signing.signing_digest(self._genesis.domain(group), struct)
            return _hex(signing.recover(digest, signature))
        except BadSignature:
            return "nobody"

    def _filters(self, name: str, height: int, body: GroupBody | CouncilBody) -> None:
        self._put(
            "filters",
            [(name, height, each.name, each.hashes, each.entries, len(each.bits)) for each in body.filters],
        )

    def _put(self, table: str, rows: Sequence[tuple[Any, ...]]) -> None:
        if rows:
            # The table's name is ours; what peers wrote goes in as parameters.
            places = ", ".join("?" * len(rows[0]))
            self._db.executemany(f"insert or replace into {table} values ({places})", rows)  # noqa: S608


def _hex(data: bytes) -> str:
    return "0x" + data.hex()
