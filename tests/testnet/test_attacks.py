"""Attacks do what they say: consistent commitments to a lie, two votes that prove an offence."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from consensus import merkle, signing
from consensus.evidence import OffenceKind, offence
from consensus.types import Digest, MemberId, Prepare, PrepareMessage, SignedPrepare
from p2pfl.errors import UserError
from p2pfl.keys import SigningKey
from p2pfl.learn.train import TrainJob, decode_state, trace_leaves, train
from p2pfl.net.wire import ConsensusMessage
from testnet import attacks

BASE = np.linspace(-0.1, 0.1, 650, dtype=np.float32)


class HonestTrainer:
    """The real training of a small model, in this process."""

    samples = 40

    async def train(self, base: Any, seed: bytes, member: MemberId, *, keep_states: bool = False) -> Any:
        rng = np.random.default_rng(3)
        x = rng.random((self.samples, 1, 8, 8), dtype=np.float32)
        y = rng.integers(0, 10, self.samples)
        return train(
            TrainJob(
                "logistic",
                (1, 8, 8),
                10,
                base,
                x,
                y,
                seed=seed,
                member=member,
                trace_every=1,
                keep_states=keep_states,
            )
        )


async def test_a_flipped_update_has_commitments_that_agree() -> None:
    parts = SimpleNamespace(trainer=HonestTrainer())
    honest = await parts.trainer.train(BASE, bytes(32), MemberId(bytes(20)), keep_states=True)
    attacks.put_on(parts, [{"name": "sign_flip", "options": {"scale": 3.0}}])
    lie = await parts.trainer.train(BASE, bytes(32), MemberId(bytes(20)))
    np.testing.assert_allclose(lie.parameters - BASE, -3 * (honest.parameters - BASE), atol=1e-6)
    assert merkle.root(trace_leaves(lie.states)) == lie.trace_root == merkle.root(lie.trace)
    np.testing.assert_array_equal(decode_state(lie.states[-1], len(BASE)).parameters, lie.parameters)
    assert lie.states[:-1] == honest.states[:-1]
    assert parts.trainer.samples == 40  # The rest is the honest trainer's.


async def test_the_first_rounds_may_be_honest() -> None:
    parts = SimpleNamespace(trainer=HonestTrainer())
    attacks.find("sign_flip")(parts, honest_rounds=1)
    seeds = [bytes(32), b"\x01" * 32, bytes(32)]
    first, second, again = [await parts.trainer.train(BASE, seed, MemberId(bytes(20))) for seed in seeds]
    honest = [await HonestTrainer().train(BASE, seed, MemberId(bytes(20))) for seed in seeds]
    assert first.trace_root == honest[0].trace_root == again.trace_root  # The same round, asked again.
    assert second.trace_root != honest[1].trace_root


class Sent:
    """A network that keeps what is sent."""

    connected = frozenset({b"x"})

    def __init__(self) -> None:
        self.sent: list[tuple[tuple[MemberId, ...], Any]] = []

    def broadcast(self, to: Any, message: Any) -> None:
        self.sent.append((tuple(to), message))


@pytest.mark.parametrize(("height", "messages"), [(3, 2), (4, 1)])
def test_two_votes_prove_the_offence_at_the_chosen_height_only(height: int, messages: int) -> None:
    key = SigningKey.from_secret(b"\x01" * 32)
    domain = signing.Domain(1, MemberId(bytes(20)), Digest(b"\x02" * 32))
    parts = SimpleNamespace(
        network=Sent(),
        guard=SimpleNamespace(key=key),
        genesis=SimpleNamespace(domain=lambda group: domain),
        group="g1",
    )
    network = parts.network
    attacks.put_on(parts, [{"name": "equivocate", "options": {"height": 3}}])
    vote = Prepare(0, height, 0, Digest(b"\x05" * 32))
    true = SignedPrepare(vote, signing.sign(key.secret, signing.signing_digest(domain, vote)))
    others = [MemberId(bytes([i]) * 20) for i in range(3)]
    parts.network.broadcast(others, ConsensusMessage(domain.group_id, PrepareMessage(true)))
    assert len(network.sent) == messages
    assert network.sent[-1] == (tuple(others), ConsensusMessage(domain.group_id, PrepareMessage(true)))
    if messages == 2:
        to, lie = network.sent[0]
        assert set(to) < set(others)
        proof = offence(domain, true, lie.message.prepare)
        assert proof is not None
        assert (proof.kind, proof.signer) == (OffenceKind.TWO_PREPARE, key.member_id)
    assert parts.network.connected is Sent.connected


def test_an_unknown_attack_is_told_the_known_ones() -> None:
    with pytest.raises(UserError, match="equivocate, free_rider"):
        attacks.find("hypnosis")
