"""`python -m attngen`: the command line."""

from __future__ import annotations

import sys

from attngen.cli.commands import main

if __name__ == "__main__":
    sys.exit(main())
