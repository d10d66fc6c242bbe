"""What makes a block follow its parent, and a whole history from its genesis.

Needs headers and certificates only: a body is checked by whoever knows its kind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from copy import copy

from consensus.committee import Committee
from consensus.merkle import leaf_hash, node_hash, root_of_hashes
from consensus.signing import Domain, block_id
from consensus.types import ZERO_DIGEST, Certificate, DecidedBlock, Digest, Header, MemberId
from consensus.votes import check_certificate, recoverer

HEADER_VERSION = 1
# The height of a chain's first block, and the parent id it names. At height h the log holds h ids.
FIRST_HEIGHT = 0
FIRST_PARENT_ID = ZERO_DIGEST


class BadBlock(ValueError):
    """A block that does not follow its parent, and why."""


class Log:
    """The RFC 9162 tree over block ids, grown one by one: one hash for each full subtree is kept."""

    def __init__(self, ids: Iterable[Digest] = ()) -> None:
        self.size = 0
        self._peaks: list[tuple[int, Digest]] = []  # (leaves, hash) of full subtrees, the largest first.
        for each in ids:
            self.append(each)

    def append(self, block: Digest) -> None:
        """Add the next block id; equal neighbours merge as in binary counting."""
        size, node = 1, leaf_hash(block)
        while self._peaks and self._peaks[-1][0] == size:
            node = node_hash(self._peaks.pop()[1], node)
            size *= 2
        self._peaks.append((size, node))
        self.size += 1

    def fork(self) -> Log:
        """The same log, to grow apart from this one."""
        other = Log()
        other.size, other._peaks = self.size, list(self._peaks)
        return other

    def root(self) -> Digest:
        """The root over all ids so far (section 2.1.1)."""
        if not self._peaks:
            return root_of_hashes([])
        node = self._peaks[-1][1]
        for _, peak in reversed(self._peaks[:-1]):
            node = node_hash(peak, node)
        return node


def objection(
    header: Header,
    *,
    parent: Header | None,
    parent_id: Digest,
    log_root: Digest,
    committee: Committee,
    group_id: Digest,
    closed: bool = False,
) -> str | None:
    """Why this header cannot follow its parent (None: it is the first) under this committee, if so.

    closed: the parent's epoch was ended there from outside, so the committee that the parent names is void.
    """
    if header.version != HEADER_VERSION:
        return f"header version {header.version}"
    if header.group_id != group_id:
        return "a block of another group"
    if header.epoch != committee.epoch:
        return f"epoch {header.epoch}, the committee is of {committee.epoch}"
    if parent is not None and not closed and parent.next_committee_root != committee.root():
        return "the parent names another committee"
    if header.height != (FIRST_HEIGHT if parent is None else parent.height + 1):
        return f"height {header.height} does not come next"
    if header.parent_id != parent_id:
        return "another parent"
    if header.log_root != log_root:
        return "another log of earlier blocks"
    if header.proposer not in committee:
        return "the proposer is no member"
    if parent is not None:
        if header.network_id != parent.network_id:
            return "a block of another network"
        if header.time_ms <= parent.time_ms:
            return "not later than its parent"
    return None


class History:
    """A chain checked block by block: the tip, the log of ids, and the committee that decides next."""

    def __init__(self, domain: Domain, network_id: Digest, committee: Committee) -> None:
        self._recover = recoverer(domain, cache_size=0)
        self._group_id = domain.group_id
        self._network_id = network_id
        self.committee = committee
        self.tip: Header | None = None
        self.tip_id: Digest = FIRST_PARENT_ID
        self.log = Log()

    def fork(self) -> History:
        """The same history, to check further blocks without taking them here."""
        other = copy(self)
        other.log = self.log.fork()
        return other

    def append(
        self,
        header: Header,
        certificate: Certificate,
        *,
        committee: Committee | None = None,
        closed: bool = False,
    ) -> tuple[MemberId, ...]:
        """Check the next block and take it; returns who signed. `committee`: that of a new epoch.

        closed: the epochs between were closed by a record of the council, which the caller has checked.
        Raises BadBlock or BadCertificate, and is then as before.
        """
        committee = committee or self.committee
        if committee != self.committee:
            next_epoch = self.tip is not None and committee.epoch == self.committee.epoch + 1
            if not next_epoch and not (closed and committee.epoch > self.committee.epoch):
                raise BadBlock("a committee changes at the end of its epoch only")
        if header.network_id != self._network_id:
            raise BadBlock("a block of another network")
        reason = objection(
            header,
            parent=self.tip,
            parent_id=self.tip_id,
            log_root=self.log.root(),
            committee=committee,
            group_id=self._group_id,
            closed=closed and committee != self.committee,
        )
        if reason is not None:
            raise BadBlock(reason)
        signers = check_certificate(self._recover, committee, header, certificate)
        self.committee, self.tip, self.tip_id = committee, header, block_id(header)
        self.log.append(self.tip_id)
        return signers


def verify_chain(
    domain: Domain,
    network_id: Digest,
    committee: Committee,
    blocks: Iterable[DecidedBlock],
    committee_of: Callable[[int, Digest], Committee | None] | None = None,
) -> History:
    """Check a whole history from its genesis committee.

    committee_of: finds the committee of a new epoch by epoch and by the root that the epoch before named in
    its last block. Raises BadBlock or BadCertificate with the height.
    """
    history = History(domain, network_id, committee)
    for decided in blocks:
        header = decided.block.header
        changed = None
        if committee_of and history.tip is not None and header.epoch == history.committee.epoch + 1:
            changed = committee_of(header.epoch, history.tip.next_committee_root)
        try:
            history.append(header, decided.certificate, committee=changed)
        except ValueError as error:
            raise type(error)(f"height {header.height}: {error}") from error
    return history
