"""What all tests share: no GPU test without a GPU, no kernels in quick runs, golden texts, hypothesis profiles, and a cache of their own.

torch is imported only when a GPU test was collected, so that tests of the compiler core start in a moment.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType

import hypothesis
import pytest

from attngen.cache import load

GOLDEN = Path(__file__).parent / "golden"
GOLDEN_MAX_LINES = 30

hypothesis.settings.register_profile("dev", deadline=None, max_examples=20)
hypothesis.settings.register_profile("check", deadline=None, max_examples=10, derandomize=True)
hypothesis.settings.register_profile("ci", deadline=None, max_examples=50, derandomize=True, print_blob=True)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "dev"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite tests/golden with what the tests produce now")
    parser.addoption("--no-kernels", action="store_true", help="leave out tests marked `kernels`; any other test that loads a kernel fails")

    parser.addoption(
        "--triton-interpreter", action="store_true", help="calls with CPU tensors run in Triton's interpreter, not in the engine"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--no-kernels"):
        left_out = [item for item in items if item.get_closest_marker("kernels")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in set(left_out)]
    gpu_items = [item for item in items if item.get_closest_marker("gpu")]
    if not gpu_items or _has_gpu():
        return
    for item in gpu_items:
        item.add_marker(pytest.mark.skip(reason="needs a CUDA or HIP device"))


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


@pytest.fixture
def triton_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls with CPU tensors run the emitted text, in Triton's interpreter."""
    monkeypatch.setenv("ATTNGEN_INTERPRET", "triton")


@pytest.fixture(scope="session", autouse=True)
def _own_environment(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests see no settings of the person who runs them, and never touch that person's cache."""
    with pytest.MonkeyPatch.context() as patch:
        for variable in [name for name in os.environ if name.startswith("ATTNGEN_")]:
            patch.delenv(variable)
        folder = tmp_path_factory.mktemp("cache")
        folder.chmod(0o700)
        patch.setenv("ATTNGEN_CACHE_DIR", str(folder))
        if request.config.getoption("--triton-interpreter"):
            patch.setenv("ATTNGEN_INTERPRET", "triton")
        yield


@pytest.fixture(scope="session", autouse=True)
def _no_kernels(request: pytest.FixtureRequest) -> Iterator[None]:
    """With `--no-kernels`, an emitted module that would be interpreted or compiled fails the test that loads it."""
    with pytest.MonkeyPatch.context() as patch:
        if request.config.getoption("--no-kernels"):
            get_code = load._Loader.get_code

            def refuse(loader: load._Loader, fullname: str) -> CodeType:
                if "triton.jit" in loader.get_source(fullname):
                    pytest.fail("this test runs or compiles a kernel: mark it `kernels`")
                return get_code(loader, fullname)

            patch.setattr(load._Loader, "get_code", refuse)
        yield


@pytest.fixture
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder, the current one of the test, which imports modules from it first; those called own... are forgotten after it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    yield tmp_path
    for name, module in list(sys.modules.items()):
        if (getattr(module, "__file__", None) or "").startswith(f"{tmp_path}{os.sep}own"):
            del sys.modules[name]


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """`golden(text)` compares `text` with tests/golden/<path of the test file>/<test>.txt, once per test.

    A missing file fails; `pytest --update-golden` writes it. At most 30 lines: what is longer belongs into an assertion of a property.
    """

    def compare(text: str) -> None:
        text = text.rstrip("\n") + "\n"
        lines = text.count("\n")
        assert lines <= GOLDEN_MAX_LINES, f"a golden text has at most {GOLDEN_MAX_LINES} lines, this one has {lines}"
        folder = request.path.relative_to(GOLDEN.parent).with_suffix("")
        name = re.sub(r"[^\w.-]+", "-", request.node.name).strip("-")
        path = GOLDEN / folder / f"{name}.txt"
        if request.config.getoption("--update-golden"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        assert path.is_file(), f"{path} is missing; look at the text and write it with --update-golden:\n{text}"
        assert text == path.read_text(encoding="utf-8")

    return compare
