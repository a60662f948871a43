"""Every example runs; each has a `main` and prints something."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "examples"
# The demo compiles kernels for a GPU and the model is large; each has a test of its own.
NAMES = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem not in ("demo", "minilm"))


@pytest.mark.parametrize("name", NAMES)
def test_example_runs(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    spec = importlib.util.spec_from_file_location(f"example_{name}", FOLDER / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main()
    assert capsys.readouterr().out.strip()


def test_there_are_enough() -> None:
    assert len(NAMES) >= 5
