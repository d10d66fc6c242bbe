"""Which request a member follows: the earliest on which a block can follow, and none that may be made up."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from consensus.types import Digest, MemberId
from p2pfl.errors import PeerFault
from p2pfl.rounds.requests import Requests
from p2pfl.signed import ShareRequest, SignedShareRequest

ME = MemberId(b"m" * 20)
KNOWN, OLD, MADE_UP = (Digest(bytes([i]) * 32) for i in (1, 2, 3))


def asked(round_: int, council_block_id: Digest) -> SignedShareRequest:
    return SignedShareRequest(ShareRequest(0, 4, round_, KNOWN, council_block_id), bytes(65))


class Here:
    """One member's view: what it has heard, and which council blocks it knows."""

    def __init__(self, *requests: SignedShareRequest) -> None:
        self.known = {KNOWN, OLD}
        self.heard = SimpleNamespace(requests={each.request.round: each for each in requests}, txs={})
        council = SimpleNamespace(at=lambda block_id: True if block_id in self.known else None)
        context = SimpleNamespace(council=council, me=ME)
        bases = SimpleNamespace(too_old=lambda block_id: block_id == OLD)
        self.requests = Requests(cast(Any, context), cast(Any, bases), cast(Any, self.heard))

    def followed(self) -> int | None:
        found = self.requests.to_follow()
        return None if found is None else found.request.round


def test_the_earliest_request_on_which_a_block_can_follow_counts() -> None:
    assert Here().followed() is None
    assert Here(asked(2, KNOWN), asked(1, KNOWN), asked(0, OLD)).followed() == 1


@pytest.mark.parametrize("reason", ["bad_request", "old_base"])
def test_what_could_not_be_followed_is_not_tried_again(reason: str) -> None:
    here = Here(asked(0, KNOWN), asked(1, KNOWN))
    here.requests.unfit(here.heard.requests[0].request, PeerFault(reason))
    assert here.followed() == 1


def test_what_failed_for_want_of_a_blob_is_tried_again() -> None:
    here = Here(asked(0, KNOWN), asked(1, KNOWN))
    here.requests.unfit(here.heard.requests[0].request, PeerFault("blob_missing"))
    assert here.followed() == 0


def test_a_council_block_that_nobody_has_is_waited_for_once_and_followed_if_it_comes() -> None:
    here = Here(asked(0, MADE_UP), asked(1, KNOWN))
    assert here.followed() == 0
    here.requests.unfit(here.heard.requests[0].request, PeerFault("unknown_council_block"))
    assert here.followed() == 1
    here.known.add(MADE_UP)
    assert here.followed() == 0


def test_who_has_committed_does_not_wait_for_what_may_be_made_up() -> None:
    here = Here(asked(0, MADE_UP), asked(1, KNOWN))
    here.heard.txs[ME] = "the own commitment"
    assert here.followed() == 1
