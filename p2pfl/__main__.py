"""`python -m p2pfl` is `p2pfl`."""

from __future__ import annotations

import sys

from p2pfl.cli import main

if __name__ == "__main__":
    sys.exit(main())
