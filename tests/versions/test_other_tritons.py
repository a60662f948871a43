"""Newer releases of Triton, installed beside the tested one for the length of a test, run and compile the same kernels."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SMOKE = Path(__file__).with_name("smoke.py")
ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("version", ["3.7.1", "3.9.0"])
def test_smoke(version: str, tmp_path: Path) -> None:
    target = tmp_path / "triton"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target), f"triton=={version}"]
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.fail(f"triton {version} could not be installed:\n{done.stderr[-2000:]}")
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join((str(target), str(ROOT))),
        "ATTNGEN_CACHE_DIR": str(tmp_path / "cache"),
        "TRITON_CACHE_DIR": str(tmp_path / "triton-cache"),
        "OMP_NUM_THREADS": "1",
    }
    run = subprocess.run([sys.executable, str(SMOKE), str(tmp_path)], capture_output=True, text=True, env=environment, check=False)
    assert run.returncode == 0, run.stderr[-4000:]
    report = json.loads(run.stdout.splitlines()[-1])
    assert report["triton"] == version
    assert report["errors"]["torch.float64"] < 1e-12
    assert report["errors"]["torch.float32"] < 2e-5
    assert report["errors"]["torch.bfloat16"] < 5e-2
    assert all(size > 0 for name, size in report["shared"].items() if not name.endswith("prepare"))
