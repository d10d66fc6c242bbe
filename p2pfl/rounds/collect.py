"""What a member has heard of one height before there is a block: requests, commitments, the close.

Checks each message for itself (right signer, right height, right round) and keeps the first; a second,
different one of the same signer is an offence (E6) and is handed out as a pair. Sends nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from consensus.committee import Committee
from consensus.justification import asks_for_round
from consensus.signing import Domain, keccak256, struct_hash
from consensus.types import Digest, MemberId, SignedRoundChange
from consensus.votes import recoverer
from p2pfl.errors import PeerFault
from p2pfl.rules.validate import list_root, signer_of
from p2pfl.signed import ShareRequest, SignedClose, SignedParamTx, SignedShareRequest

# Requests, and closes, that are kept of one height: the earliest and the newest. A height may take any number
# of rounds (a long outage), and a hostile Ci of each may open and close.
ROUNDS_MAX = 64


@dataclass(frozen=True)
class DoubleSigned:
    """Two different signed structs of one slot: evidence for the contract (E6)."""

    signer: MemberId
    kind: str
    first: Any
    first_signature: bytes
    second: Any
    second_signature: bytes


@dataclass
class Collected:
    """One height's request, commitments and close."""

    domain: Domain
    committee: Committee
    epoch: int
    height: int
    requests: dict[int, SignedShareRequest] = field(default_factory=dict)
    txs: dict[MemberId, SignedParamTx] = field(default_factory=dict)
    closes: dict[int, SignedClose] = field(default_factory=dict)
    # What each close names: a member who committed twice may stand there with another commitment than here.
    _named: dict[int, tuple[SignedParamTx, ...]] = field(default_factory=dict)
    _doubles: list[DoubleSigned] = field(default_factory=list)

    @property
    def request(self) -> SignedShareRequest | None:
        """The earliest request (lowest round)."""
        return self.requests[min(self.requests)] if self.requests else None

    @property
    def close(self) -> SignedClose | None:
        """The earliest close (lowest round)."""
        return self.closes[min(self.closes)] if self.closes else None

    def closed_txs(self, close: SignedClose) -> tuple[SignedParamTx, ...] | None:
        """The commitments under this close, in its order; None if it was not taken in."""
        held = self.closes.get(close.close.round)
        return self._named[close.close.round] if held is not None and held.close == close.close else None

    def take_doubles(self) -> list[DoubleSigned]:
        """The contradictions among the commitments that closes brought, each once."""
        doubles, self._doubles = self._doubles, []
        return doubles

    def agreed(self) -> tuple[SignedParamTx, ...]:
        """The commitments on the base that has most of them, in committee order."""
        by_base: dict[Digest, list[SignedParamTx]] = {}
        for member in self.committee.members:
            if member in self.txs:
                by_base.setdefault(self.txs[member].tx.base_id, []).append(self.txs[member])
        return tuple(max(by_base.values(), key=len, default=[]))

    @property
    def split(self) -> bool:
        """Whether no base can have a quorum of commitments any more: nobody commits twice."""
        return len(self.agreed()) + self.committee.size - len(self.txs) < self.committee.quorum

    # -- taking in. Each returns whether it was new; raises PeerFault; E6 pairs come back in `double`. --

    def add_request(self, signed: SignedShareRequest) -> bool | DoubleSigned:
        """A ShareRequest of this height by the right Ci of its round."""
        request = signed.request
        self._slot(request.epoch, request.height)
        self._by_proposer(request, request.round, signed.signature)
        self._justified(request.round, signed.justification)
        held = self.requests.get(request.round)
        if held is None:
            self.requests[request.round] = signed
            _keep_few(self.requests, but=request.round)
            return True
        if held.request == request:
            return False
        signer = self.committee.proposer(self.height, request.round)
        return DoubleSigned(signer, "ShareRequest", held.request, held.signature, request, signed.signature)

    def add_tx(self, signed: SignedParamTx) -> bool | DoubleSigned:
        """A ParamTx of this height by a member."""
        tx = signed.tx
        self._slot(tx.epoch, tx.height)
        held = self.txs.get(tx.member)
        if held is not None and held.tx == tx:
            return False
        if tx.member not in self.committee or signer_of(self.domain, tx, signed.signature) != tx.member:
            raise PeerFault("bad_signature", "a ParamTx that its member did not sign")
        if tx.samples < 1 or tx.data_leaves < 1:
            raise PeerFault("bad_tx", "trained on nothing")
        if held is None:
            self.txs[tx.member] = signed
            return True
        return DoubleSigned(tx.member, "ParamTx", held.tx, held.signature, tx, signed.signature)

    def add_close(self, signed: SignedClose, txs: tuple[SignedParamTx, ...]) -> bool | DoubleSigned:
        """A Close of this height by the right Ci of its round, with the commitments it names."""
        close = signed.close
        self._slot(close.epoch, close.height)
        held = self.closes.get(close.round)
        if held is not None and held.close == close:
            return False
        self._by_proposer(close, close.round, signed.signature)
        self._justified(close.round, signed.justification)
        if held is not None:
            signer = self.committee.proposer(self.height, close.round)
            return DoubleSigned(signer, "Close", held.close, held.signature, close, signed.signature)
        if max(len(txs), len(signed.tx_ids)) > self.committee.size:
            raise PeerFault("bad_close", "more commitments than members")
        if list_root(signed.tx_ids) != close.list_root:
            raise PeerFault("bad_close", "the ids are not those under its root")
        outcomes = [self.add_tx(tx) for tx in txs]
        named = self._named_by(signed, txs)
        self._doubles += [each for each in outcomes if isinstance(each, DoubleSigned)]
        self.closes[close.round], self._named[close.round] = signed, named
        _keep_few(self.closes, but=close.round)
        self._named = {round_: self._named[round_] for round_ in self.closes}
        return True

    def _named_by(self, signed: SignedClose, brought: tuple[SignedParamTx, ...]) -> tuple[SignedParamTx, ...]:
        """The commitments on the list: of those that came with it or are here. Raises PeerFault."""
        # What is held was verified; a copy that came with the Close may have another signature.
        by_id = {struct_hash(tx.tx): tx for tx in (*brought, *self.txs.values())}
        if any(tx_id not in by_id for tx_id in signed.tx_ids):
            raise PeerFault("bad_close", "it names commitments that it does not bring")
        txs = tuple(by_id[tx_id] for tx_id in signed.tx_ids)
        order = [tx.tx.member for tx in txs]
        if order != [member for member in self.committee.members if member in set(order)]:
            raise PeerFault("bad_close", "not in committee order, or a member twice")
        if len(txs) < self.committee.quorum:
            raise PeerFault("bad_close", f"{len(txs)} commitments, {self.committee.quorum} are needed")
        if len({tx.tx.base_id for tx in txs}) != 1:
            raise PeerFault("bad_close", "commitments on different bases")
        return txs

    def _slot(self, epoch: int, height: int) -> None:
        if (epoch, height) != (self.epoch, self.height):
            raise PeerFault("wrong_height", f"{epoch}/{height}, here is {self.epoch}/{self.height}")

    def _justified(self, round_: int, changes: tuple[SignedRoundChange, ...]) -> None:
        """A request or close of a round above 0 brings q ROUND-CHANGEs for that round, and no other any."""
        if len(changes) > (self.committee.size if round_ else 0):
            raise PeerFault("unjustified", f"{len(changes)} ROUND-CHANGEs for round {round_}")
        if round_ == 0:
            return
        if not asks_for_round(recoverer(self.domain), self.committee, self.height, round_, changes):
            raise PeerFault("unjustified", f"round {round_} without a quorum of ROUND-CHANGEs")

    def _by_proposer(self, struct: Any, round_: int, signature: bytes) -> None:
        if signer_of(self.domain, struct, signature) != self.committee.proposer(self.height, round_):
            raise PeerFault("not_your_turn", f"{type(struct).__name__} of round {round_}")


def _keep_few(by_round: dict[int, Any], *, but: int) -> None:
    """Forget the latest of the earlier ones when there are too many."""
    if len(by_round) > ROUNDS_MAX:
        del by_round[max(round_ for round_ in by_round if round_ != but)]


def context_of(request: ShareRequest | None, close: SignedClose | None) -> Digest:
    """What a ROUND-CHANGE carries: the ids of the request and of the close that its sender holds."""
    if request is None and close is None:
        return Digest(bytes(32))
    held_request = struct_hash(request) if request is not None else bytes(32)
    held_close = struct_hash(close.close) if close is not None else bytes(32)
    return keccak256(held_request + held_close)
