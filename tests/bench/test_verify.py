"""`bench verify` checks a chain that holds, and tells rates that belong together."""

from __future__ import annotations

import argparse

import pytest

from bench import verify
from p2pfl.errors import UserError


def asked(**changed: int) -> argparse.Namespace:
    return argparse.Namespace(**{"members": 4, "blocks": 20, "times": 2, "body_bytes": 100, **changed})


@pytest.mark.parametrize(("members", "quorum"), [(4, 3), (16, 11)])
def test_every_signature_of_every_certificate_is_counted_once(members: int, quorum: int) -> None:
    told = verify.measure(asked(members=members))
    assert told["signatures"] == 20 * quorum
    assert told["signatures_per_second"] == pytest.approx(told["certificates_per_second"] * quorum, rel=0.01)
    assert 0 < told["ratio"] < 1.5  # More work than the bare recoveries, whatever else the machine does.


@pytest.mark.parametrize("wrong", [{"members": 3}, {"members": 17}, {"blocks": 0}, {"times": 0}])
def test_what_cannot_be_measured_is_told(wrong: dict[str, int]) -> None:
    with pytest.raises(UserError, match="nothing to check"):
        verify.measure(asked(**wrong))
