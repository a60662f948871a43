"""Deployment: variants as self-contained folders that need only torch and triton.

    generated/<name>/
      __init__.py     attention(q, k, v, ...), differentiable, with its tiles
      kernels.py      the emitted module; further ones for other feature tiles or dtype rewrites
      manifest.json   hashes, cascade, schedules, resources, versions
      <arch>.<dtype>.<lengths>.<role>.cubin   on request

`order` says what a folder is for, `write` compiles and writes it, `check` compares it with what the code emits; `manifest` verifies that
attngen wrote the files of a folder, and `bytecode` that Python compiled its byte code from them.
"""

from __future__ import annotations

from attngen.deploy.check import check, check_all, folders
from attngen.deploy.manifest import Difference
from attngen.deploy.order import Order, parse_head_dims
from attngen.deploy.write import generate

__all__ = ["Difference", "Order", "check", "check_all", "folders", "generate", "parse_head_dims"]
