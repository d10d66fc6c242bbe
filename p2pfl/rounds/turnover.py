"""A seat's part in who comes, leaves or has fallen silent: what it heard, and what it agrees to.

    joins/<name>.json in the seat's folder   its operator lets this newcomer in
    leave in a member's folder               its operator wants out
    ROUND-CHANGEs of a group that hangs      who is still alive in it
    two signatures that contradict           who is to be expelled

What may stand in a block, and what follows, is in `rules.epochs`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import trio

from consensus import types as ct
from consensus.justification import well_formed
from consensus.signing import recover, signing_digest
from p2pfl.contradiction import Contradiction
from p2pfl.errors import PeerFault
from p2pfl.genesis import COUNCIL
from p2pfl.jsonform import from_json, loads
from p2pfl.keys import Refused
from p2pfl.membership import Closing, Leave, SignedJoin, SignedLeave
from p2pfl.net import wire
from p2pfl.rounds.context import Context
from p2pfl.rules.epochs import (
    CONTRADICTIONS_MAX,
    JOINS_MAX,
    Turnover,
    check_contradiction,
    check_join,
    check_leave,
    stalled,
)
from p2pfl.rules.state import CouncilState
from p2pfl.telemetry import logger

log = logger("rounds.turnover")

JOINS, LEAVE = "joins", "leave"
# How often the wish to leave is looked for, and repeated until the council's chain has it.
NOTICE_S = 5.0
# Proofs that are kept, one a culprit, and that are told at once.
PROOFS_MAX, PROOFS_AT_ONCE = 64, 4
# Files of newcomers that are read; a request is a few hundred bytes.
FILES_MAX, FILE_BYTES_MAX = 64, 16 * 1024
# A newcomer that the other seats have not admitted yet is proposed at last in one of 2^6 heights.
TRIES_APART_MAX = 6
# A seat waits a little longer before it proposes to close a group than before it agrees to it.
PATIENCE_OWN = 1.1


class Comings:
    """What one seat knows of comings and goings. `look` reads the operator's files again.

    context: of the epoch in which the seat works; it follows, since silence may last longer than an epoch.
    """

    def __init__(self, context: Context, groups: Iterable[ct.Digest]) -> None:
        self.context = context
        self._tries: dict[ct.MemberId, int] = {}
        self._joins: dict[ct.MemberId, SignedJoin] = {}
        self._leaves: dict[ct.MemberId, SignedLeave] = {}
        self._proofs: dict[ct.MemberId, Contradiction] = {}
        self._alive: dict[ct.Digest, dict[ct.MemberId, ct.SignedRoundChange]] = {}
        # Since when nothing new was heard of a group, by the own clock: outages of ours are not theirs.
        self._heard_s = dict.fromkeys(groups, trio.current_time())
        self._told: set[Path] = set()

    # -- what is heard ------------------------------------------------------------

    def moved(self, group_id: ct.Digest) -> None:
        """A group has brought a new block."""
        self._heard_s[group_id] = trio.current_time()
        self._alive.pop(group_id, None)

    def _signer(self, group_id: ct.Digest, signed: ct.SignedRoundChange) -> ct.MemberId:
        domain = self.context.genesis.domain(self.context.genesis.group_names[group_id])
        try:
            return recover(signing_digest(domain, signed.vote), signed.signature)
        except ValueError as error:  # BadSignature, or a field that its ABI type cannot hold.
            raise PeerFault("bad_signature", str(error)) from error

    def round_change(self, sender: ct.MemberId, group_id: ct.Digest, signed: ct.SignedRoundChange) -> None:
        """A member of a group says that it is alive. Raises PeerFault."""
        if self._signer(group_id, signed) != sender or not well_formed(signed.vote):
            raise PeerFault("bad_signature", "a ROUND-CHANGE of somebody else")
        self._alive.setdefault(group_id, {})[sender] = signed

    def noticed(self, notice: SignedLeave | Contradiction) -> None:
        """A member gives notice, or is proved to have broken a rule. Raises PeerFault if it does not hold."""
        state = self.context.council.tip
        if isinstance(notice, SignedLeave):
            check_leave(state, notice)
            self._leaves[notice.leave.member] = notice
        elif len(self._proofs) < PROOFS_MAX:
            self._proofs.setdefault(check_contradiction(state, notice), notice)

    async def give_notice(self) -> None:
        """Tell the seats, until the council's chain says so: that the own operator wants out, and what proofs
        this node has.
        """
        while True:
            await trio.sleep(NOTICE_S)
            try:
                if self._wants_out():
                    self._tell(self._own_notice())
            except (Refused, PeerFault) as refused:
                log.warning("the notice could not be given", why=str(refused))
            for both in self._checked_proofs()[:PROOFS_AT_ONCE]:
                self.context.network.broadcast(self.context.seats, wire.NoticeMessage(both))

    def _wants_out(self) -> bool:
        context = self.context
        state, me = context.council.tip, context.me
        seated = state.roster.now.group_of(me) is not None
        return seated and me not in state.leaving | state.departed and (context.directory / LEAVE).exists()

    def _own_notice(self) -> SignedLeave:
        context = self.context
        notice = Leave(context.council.tip.roster.epoch, context.me)
        return SignedLeave(notice, context.guard.sign_plain(context.genesis.domain(COUNCIL), notice))

    def _tell(self, notice: SignedLeave) -> None:
        self.context.network.broadcast(self.context.seats, wire.NoticeMessage(notice))
        self.noticed(notice)

    def _checked_proofs(self) -> tuple[Contradiction, ...]:
        """Those that no block has yet, by ascending culprit."""
        found: list[Contradiction] = []
        for culprit, both in sorted(self._proofs.items()):
            try:
                check_contradiction(self.context.council.tip, both)
            except PeerFault:
                del self._proofs[culprit]  # Expelled by now.
                continue
            found.append(both)
        return tuple(found)

    async def look(self) -> None:
        """Read the operator's folder of newcomers again."""
        self._joins = await trio.to_thread.run_sync(self._read)

    def _read(self) -> dict[ct.MemberId, SignedJoin]:
        found: dict[ct.MemberId, SignedJoin] = {}
        folder = self.context.directory / JOINS
        for path in sorted(folder.glob("*.json"))[:FILES_MAX] if folder.is_dir() else ():
            try:
                signed = read_join(path)
                found[signed.entry.member_id] = signed
            except (OSError, ValueError) as error:
                if path not in self._told:
                    self._told.add(path)
                    log.warning("a request to join cannot be read", path=path, why=str(error))
        return found

    # -- for the next block -----------------------------------------------------------

    def waits(self, state: CouncilState, time_ms: int) -> bool:
        """Whether there is something that the next block can take in."""
        records = self.records(state, time_ms, frozenset())
        return bool(records.joins or records.leaves or records.closings or records.contradictions)

    def propose(self, state: CouncilState, time_ms: int, counted: frozenset[ct.Digest]) -> Turnover:
        """As `records`; a newcomer whom too few seats admit is proposed less and less often.

        Each time costs the council a round, so this seat tries in every second height, then every fourth ..
        """
        records = self.records(state, time_ms, counted)
        due: list[SignedJoin] = []
        for each in records.joins:
            tries = self._tries.get(each.entry.member_id, 0)
            if (state.height + 1) % 2 ** min(tries, TRIES_APART_MAX) == 0:
                due.append(each)
                self._tries[each.entry.member_id] = tries + 1
        return replace(records, joins=tuple(due))

    def records(self, state: CouncilState, time_ms: int, counted: frozenset[ct.Digest]) -> Turnover:
        """What a block with this header time may take in. counted: groups with blocks in it."""
        joins: list[SignedJoin] = []
        for _, signed in sorted(self._joins.items()):
            try:
                check_join(state, signed)
            except PeerFault:
                continue  # In already, or it never may.
            joins.append(signed)
        leaves: list[SignedLeave] = []
        for _, signed in sorted(self._leaves.items()):
            try:
                check_leave(state, signed)
            except PeerFault:
                continue
            leaves.append(signed)
        closings = tuple(
            self._closing(state, group_id)
            for group_id in stalled(state, time_ms)
            if group_id not in counted and self._is_silent(group_id, PATIENCE_OWN)
        )
        proofs = self._checked_proofs()[:CONTRADICTIONS_MAX]
        return Turnover(time_ms, tuple(joins[:JOINS_MAX]), tuple(leaves), closings, proofs)

    def judge(self, proposed: Turnover) -> None:
        """A fresh proposal, by what this seat knows itself. Raises PeerFault."""
        for each in proposed.joins:
            if self._joins.get(each.entry.member_id) != each:
                raise PeerFault("unknown_newcomer", f"nobody here let {each.entry.name} in")
        state = self.context.council.tip
        for each in proposed.closings:
            if each.group_id not in stalled(state, proposed.time_ms):
                raise PeerFault("bad_closing", "of a group that does not stand still, or has ended")
            if not self._is_silent(each.group_id, 1.0):
                raise PeerFault("bad_closing", "this group was heard of")
            # Whom the proposer heard is alive for us too, and whom we heard may not be missing.
            known = {
                self._signer(each.group_id, signed) for signed in self._closing(state, each.group_id).alive
            }
            named = {self._signer(each.group_id, signed): signed for signed in each.alive}
            if not all(well_formed(signed.vote) for signed in each.alive):
                raise PeerFault("bad_closing", "a ROUND-CHANGE that no member sends")
            for signer, signed in named.items():
                self._alive.setdefault(each.group_id, {}).setdefault(signer, signed)
            if not known <= set(named):
                raise PeerFault("bad_closing", "more of its members live than it says")

    def _is_silent(self, group_id: ct.Digest, patience: float) -> bool:
        patience_s = self.context.genesis.epochs.stall_ms / 1000 * patience
        return trio.current_time() - self._heard_s.get(group_id, trio.current_time()) > patience_s

    def _closing(self, state: CouncilState, group_id: ct.Digest) -> Closing:
        name, epoch = state.network.group_names[group_id], state.open_epochs[group_id]
        height, counted_id = state.counted[group_id]
        heard = self._alive.get(group_id, {})
        alive = tuple(
            heard[member]
            for member in state.roster.committee(name, epoch).members
            if member in heard
            and (heard[member].vote.epoch, heard[member].vote.height) == (epoch, height + 1)
        )
        return Closing(group_id, epoch, height, counted_id, alive)


def read_join(path: Path) -> SignedJoin:
    """A newcomer's request from its file. Raises OSError or ValueError."""
    with path.open("rb") as file:
        data = file.read(FILE_BYTES_MAX + 1)
    if len(data) > FILE_BYTES_MAX:
        raise ValueError(f"more than {FILE_BYTES_MAX} bytes")
    return from_json(loads(data), SignedJoin)
