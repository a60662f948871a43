"""The tour that `make demo` gives: three variants explained, compiled for an H100 without having one, checked against float64; then a
real sentence-embedding model with attngen as its attention."""

from __future__ import annotations

import sys
from pathlib import Path

from attngen.cli.commands import main as attngen

VARIANTS = ("alibi_causal", "softcap", "differential")


def show(*command: str) -> None:
    """Run one command of the command line, with the command itself above its output."""
    print(f"\n$ attngen {' '.join(command)}", flush=True)
    code = attngen(command)
    if code:
        raise SystemExit(code)


def main() -> None:
    for name in VARIANTS:
        show("explain", name, "--arch", "sm90", "--head-dim", "64")
        show("inspect", name, "--arch", "sm90", "--head-dim", "64")
        show("check", name, "--arch", "sm90", "--head-dim", "64")
    print("\n$ python examples/minilm.py", flush=True)
    sys.path.insert(0, str(Path(__file__).parent))
    import minilm  # pyright: ignore[reportMissingImports]

    minilm.main()


if __name__ == "__main__":
    main()
