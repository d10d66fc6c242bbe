"""Signatures without cryptography: only who holds a member's pen can sign for it.

Ten thousand recoveries cost what one secp256k1 recovery costs. Real signatures are tested in tests/consensus.
"""

from __future__ import annotations

from consensus.types import MemberId, Vote

_REST = bytes(45)


class Notary:
    """Remembers who signed what. A signature is the member's id, and counts for what is remembered only."""

    def __init__(self) -> None:
        self._signed: set[tuple[MemberId, Vote]] = set()

    def sign(self, member: MemberId, vote: Vote) -> bytes:
        """65 bytes, always the same for the same vote."""
        self._signed.add((member, vote))
        return member + _REST

    def recover(self, vote: Vote, signature: bytes) -> MemberId | None:
        """Who signed this vote, if that is a signature of it."""
        member = MemberId(signature[:20])
        return member if (member, vote) in self._signed and signature[20:] == _REST else None
