"""Writes the outputs that README.md and docs/ show, and the table of settings: `python -m tests.docs.update [--slow] [PAGE ...]`."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from pathlib import Path

from tests.docs.pages import PAGES, rewritten, workplace
from tests.docs.tables import with_knobs


def main(arguments: list[str]) -> None:
    """Rewrite the pages named, or all of them."""
    logging.getLogger("attngen").setLevel(logging.ERROR)
    chosen = [path for path in PAGES if path.stem in arguments or not set(arguments) - {"--slow"}]
    with tempfile.TemporaryDirectory() as folder:
        os.environ["ATTNGEN_CACHE_DIR"] = folder
        for path in chosen:
            before = path.read_text(encoding="utf-8")
            with tempfile.TemporaryDirectory() as place, workplace(Path(place)):
                after = with_knobs(rewritten(before, path.stem, slow="--slow" in arguments))
            if after != before:
                path.write_text(after, encoding="utf-8")
                print(f"{path.name} rewritten")


if __name__ == "__main__":
    main(sys.argv[1:])
