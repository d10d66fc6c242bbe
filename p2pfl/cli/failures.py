"""Whose fault was it, said in three lines, and the exit code for it.

Knows no command. A peer's fault never comes as far as this; an operator's is told with what mends it;
anything else is a bug of ours and is shown whole.
"""

from __future__ import annotations

import errno
import importlib.metadata
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator

from p2pfl.errors import EXIT_BUG, EXIT_USER, UserError

# What a shell reports for a program that a signal ended: 128 plus SIGINT, 128 plus SIGPIPE.
EXIT_INTERRUPTED = 130
EXIT_PIPE = 141
# Packages of this distribution: when a module of one of these is missing, that is a bug and no missing extra.
_OWN = ("p2pfl", "consensus", "contracts", "testnet", "bench", "tests")
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


def watch(run: Callable[[], int], *, json_wanted: bool) -> int:
    """Call `run`; turn what it raises into words and an exit code."""
    try:
        return run()
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        _forget_stdout()
        return EXIT_PIPE
    except Exception as error:  # noqa: BLE001 - the last place that can say whose fault it was
        return _tell([error], error, json_wanted=json_wanted)
    except BaseExceptionGroup as group:
        leaves = list(_leaves(group))
        if any(isinstance(leaf, KeyboardInterrupt) for leaf in leaves):
            return EXIT_INTERRUPTED
        return _tell(leaves, group, json_wanted=json_wanted)


def _tell(leaves: list[BaseException], whole: BaseException, *, json_wanted: bool) -> int:
    if isinstance(whole, ExceptionGroup):
        leaves = list(_leaves(whole))
    told = [_as_user_error(leaf) for leaf in leaves]
    known = [error for error in told if error is not None]
    if known and len(known) == len(told):
        _print(known[0], EXIT_USER, json_wanted=json_wanted)
        return EXIT_USER
    traceback.print_exception(whole)
    bug = UserError(
        "this is a bug of p2pfl-mps, not of yours",
        because=repr(leaves[0]),
        fix="report it with the lines above and what `p2pfl version` says",
    )
    _print(bug, EXIT_BUG, json_wanted=json_wanted)
    return EXIT_BUG


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


def _as_user_error(error: BaseException) -> UserError | None:
    """The same in an operator's words, where an operator can mend it."""
    if isinstance(error, UserError):
        return error
    if isinstance(error, ModuleNotFoundError):
        return _missing(error)
    if isinstance(error, OSError) and error.errno in _DISK_FULL:
        return UserError(
            "the disk is full",
            because=f"{error.strerror}: {error.filename or 'while writing'}",
            fix="make room and start again; what was decided before is on the disk",
        )
    return None


def _missing(error: ModuleNotFoundError) -> UserError | None:
    root = (error.name or "").partition(".")[0]
    if not root or root in _OWN:
        return None
    return UserError(
        f"{root} is not installed",
        because="this command needs more than an auditor's installation brings",
        fix="in your clone: pip install -c constraints.txt -e '.[testnet]' (for a peer only: '.[node]')",
    )


def _print(error: UserError, code: int, *, json_wanted: bool) -> None:
    print(error.render(), file=sys.stderr)
    if json_wanted:
        told = {"what": error.what, "because": error.because, "fix": error.fix}
        print(json.dumps({"error": told, "exit_code": code}))


def _forget_stdout() -> None:
    """Point stdout at nothing, so that the interpreter's last flush does not complain of the closed pipe."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, sys.stdout.fileno())
    os.close(nothing)


def warn_of_the_other_p2pfl() -> None:
    """Say so when the distribution `p2pfl` is installed: somebody else's, with a package of this name."""
    try:
        other = importlib.metadata.version("p2pfl")
    except importlib.metadata.PackageNotFoundError:
        return
    warning = UserError(
        f"p2pfl {other} is installed beside p2pfl-mps",
        because="it is another project whose files have the same names; one overwrites the other",
        fix="pip uninstall -y p2pfl p2pfl-mps, then install p2pfl-mps again",
    )
    print(warning.render().replace("error:", "warning:", 1), file=sys.stderr)
