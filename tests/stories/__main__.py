"""Plays all stories; with --record, writes down what comes out."""

from __future__ import annotations

import argparse
import difflib
import sys

from tests.stories.transcripts import play, stories


def main(arguments: list[str] | None = None) -> int:
    """Print the differences; exit 1 if there are any that were not recorded."""
    parser = argparse.ArgumentParser(prog="python -m tests.stories", description=__doc__)
    parser.add_argument("--record", action="store_true", help="write what comes out now")
    options = parser.parse_args(arguments)
    different = 0
    for path in stories():
        then = path.read_text(encoding="utf-8")
        now = play(then)
        if now != then:
            different += 1
            lines = difflib.unified_diff(then.splitlines(), now.splitlines(), path.name, "now", lineterm="")
            print("\n".join(lines))
            if options.record:
                path.write_text(now, encoding="utf-8")
    return 1 if different and not options.record else 0


if __name__ == "__main__":
    sys.exit(main())
