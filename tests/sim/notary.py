"""Signatures without cryptography: only who holds a member's pen can sign for it.

Ten thousand recoveries cost what one secp256k1 recovery costs. Real signatures are tested in tests/consensus.
"""

from __future__ import annotations

from consensus.types import MemberId, SignedVote, Vote

_REST = bytes(37)


class Notary:
    """Remembers who signed what. A signature is the member's id and a running number, for one vote only."""

    def __init__(self) -> None:
        self._signed: dict[tuple[MemberId, Vote], bytes] = {}
        self._votes: dict[bytes, Vote] = {}

    def sign(self, member: MemberId, vote: Vote) -> bytes:
        """65 bytes, always the same for the same vote."""
        signature = self._signed.get((member, vote))
        if signature is None:
            signature = member + len(self._signed).to_bytes(8, "big") + _REST
            self._signed[member, vote] = signature
            self._votes[signature] = vote
        return signature

    def recover(self, vote: Vote, signature: bytes) -> MemberId | None:
        """Who signed this vote, if that is a signature of it."""
        signed = self._votes.get(signature)
        # Nearly always it is the very same object, and bytes remember their hash: no field is looked at.
        return MemberId(signature[:20]) if signed is vote or signed == vote else None

    def author(self, signed: SignedVote) -> MemberId | None:
        """Who signed it."""
        return self.recover(signed.vote, signed.signature)

    def votes_of(self, member: MemberId) -> list[Vote]:
        """All that it ever signed."""
        return [vote for signer, vote in self._signed if signer == member]
