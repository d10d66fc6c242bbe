"""Whose fault it is: a peer's, an operator's, or ours; and the exit code that says so."""

from __future__ import annotations

# Exit codes of the command line (docs/operators.md). Anything else that leaves is a bug, exit 70.
EXIT_OK = 0
EXIT_CLAIM_FAILED = 1  # The scenario's claim does not hold, or the audit found something.
EXIT_USAGE = 2
EXIT_USER = 3  # A UserError: something the operator can mend.
EXIT_BUG = 70  # sysexits.h EX_SOFTWARE.


class PeerFault(Exception):
    """A peer broke the protocol. Drop the message, count the reason, keep the evidence, carry on."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


class UserError(Exception):
    """Something the operator can mend: what is wrong, why, and the command or setting that mends it."""

    def __init__(self, what: str, *, because: str, fix: str) -> None:
        super().__init__(f"{what}: {because}. {fix}")
        self.what = what
        self.because = because
        self.fix = fix

    def render(self) -> str:
        """Three lines for a terminal."""
        return f"error: {self.what}\n  because: {self.because}\n  fix: {self.fix}"
