"""The wheel is complete: it works in an empty environment, outside the checkout.

The environment borrows torch, triton and the rest from the running interpreter's site-packages, which keeps this offline and quick;
attngen itself can only come from the wheel.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import tarfile
import venv
from importlib.util import find_spec
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `env`, a virtual environment into which the wheel was installed."""
    folder = tmp_path_factory.mktemp("outside")
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder, cwd=CHECKOUT)
    (wheel,) = folder.glob("attngen-*.whl")
    venv.create(folder / "env", with_pip=False, symlinks=True)
    python = folder / "env" / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel, cwd=folder)
    own = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip()
    # A plain line of a .pth file adds the folder without reading the .pth files in it, so the editable attngen stays out of sight.
    Path(own, "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder


def in_environment(outside: Path, program: str) -> str:
    return run(outside / "env" / "bin" / "python", "-I", "-c", program, cwd=outside)


def files_below(folder: Path) -> set[Path]:
    return {path.relative_to(folder) for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts}


def test_the_wheel_has_its_license_and_names_nobody(outside: Path) -> None:
    program = "from importlib.metadata import metadata; m = metadata('attngen'); print(m['License-Expression'], m['Author'])"
    assert in_environment(outside, program).strip() == "Apache-2.0 The attngen developers"
    licenses = "from importlib.metadata import files; print([f.name for f in files('attngen') if 'licenses' in f.parts])"
    assert in_environment(outside, licenses).strip() == "['LICENSE']"


def test_the_source_distribution_carries_what_is_read_and_what_is_built_from(tmp_path: Path) -> None:
    run(sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", tmp_path, cwd=CHECKOUT)
    (archive,) = tmp_path.glob("attngen-*.tar.gz")
    with tarfile.open(archive) as members:
        names = {Path(*Path(name).parts[1:]) for name in members.getnames()}
    wanted = ["LICENSE", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "constraints.txt", "docs/glossary.md", "templates/kernel.py.j2"]
    assert {Path(name) for name in wanted} <= names
    assert {path.relative_to(CHECKOUT) for path in (CHECKOUT / "attngen").rglob("*.py")} <= names


def test_attngen_comes_from_the_wheel(outside: Path) -> None:
    where = in_environment(outside, "import attngen.errors; print(attngen.errors.__file__)")
    assert Path(where.strip()).is_relative_to(outside)


def test_the_wheel_carries_the_folders_beside_the_code(outside: Path) -> None:
    where = Path(in_environment(outside, "from attngen.package_files import templates_dir; print(templates_dir())").strip())
    assert where.is_relative_to(outside)
    assert files_below(where) == files_below(CHECKOUT / "templates")
    assert files_below(where.parent / "pregenerated") == files_below(CHECKOUT / "generated")


def test_the_wheel_carries_all_code_and_nothing_else(outside: Path) -> None:
    package = Path(in_environment(outside, "import attngen.errors; print(attngen.errors.__file__)").strip()).parent
    carried = {path for path in files_below(package) if path.parts[0] not in ("templates", "pregenerated")}
    assert carried == files_below(CHECKOUT / "attngen")
    assert Path("py.typed") in carried


@pytest.mark.skipif(find_spec("attngen.cli") is None, reason="the command line is not there yet")
def test_the_command_works(outside: Path) -> None:
    assert run(outside / "env" / "bin" / "attngen", "--help", cwd=outside)


@pytest.mark.skipif(find_spec("attngen.api") is None, reason="the public functions are not there yet")
def test_a_spec_compiles(outside: Path) -> None:
    program = (
        "import attngen\n"
        "attend = attngen.compile(attngen.attention(), arch='sm90', dtype='bfloat16', head_dim=64)\n"
        "print(attend.kernels[0].source)\n"
    )
    assert "tl.dot" in in_environment(outside, program)
