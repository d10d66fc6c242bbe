"""The process of one fuzzed target: `python -m tests.fuzz.run TARGET [options]`. Needs atheris."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    atheris: Any
else:
    import atheris


def main() -> None:
    """Never returns: libFuzzer ends the process."""
    name = sys.argv.pop(1)
    os.nice(10)
    # What is imported in here tells the fuzzer where it has been; libraries are somebody else's to fuzz.
    with atheris.instrument_imports(include=["consensus", "p2pfl"]):
        from tests.fuzz.targets import TARGETS
    atheris.Setup(sys.argv, TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
