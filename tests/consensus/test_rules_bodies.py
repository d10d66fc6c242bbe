"""An id and a certificate vouch for a header: a body is taken only if it is the one under the app root."""

from __future__ import annotations

from dataclasses import replace

from consensus import types as t
from tests.consensus.lab import Lab, certificate


def fits(block: t.Block) -> bool:
    """In this world."""
    return block.body == b"body"


def test_a_proposal_with_another_body_is_neither_prepared_nor_held() -> None:
    lab = Lab(fits=fits)
    forged = replace(lab.block(), body=b"FORGED")
    effects = lab.propose(forged)
    assert not lab.signed
    assert [each.reason for each in effects if isinstance(each, t.Fault)] == [
        "a body that is not the header's"
    ]


def test_a_certificate_does_not_decide_a_forged_body() -> None:
    lab = Lab(fits=fits)
    block = lab.block()
    good = t.DecidedBlock(block, certificate((0, 1, 2), block.header))
    forged = t.DecidedBlock(replace(block, body=b"FORGED"), good.certificate)
    assert not [each for each in lab.receive(1, t.DecidedMessage(forged)) if isinstance(each, t.Decide)]
    assert [each for each in lab.receive(1, t.DecidedMessage(good)) if isinstance(each, t.Decide)]


def test_a_block_that_was_fetched_needs_its_body_too() -> None:
    lab = Lab(fits=fits)
    block = lab.block()
    for by in (0, 1, 2):
        lab.commit(by, block)
    assert lab.replica.decided is None
    lab.receive(0, t.BlockMessage(replace(block, body=b"FORGED")))
    assert lab.replica.decided is None
    lab.receive(1, t.BlockMessage(block))
    assert lab.replica.decided is not None
    assert lab.store[-1].block.body == b"body"
