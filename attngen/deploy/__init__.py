"""Variants as folders that need torch and triton only.

    generated/<name>/
      __init__.py     attention(q, k, v, ...), differentiable, with its tiles
      kernels.py      the emitted module; further ones where lengths are cut into tiles or dtypes rounded differently
      manifest.json   hashes, cascade, schedules, resources, versions
      <arch>.<dtype>.<lengths>.<role>.cubin   on request

`order` says what a folder is for, `write` compiles and writes it, `check` holds it against what the code emits now; `manifest` says whether
attngen wrote what lies in a folder, and `bytecode` whether Python did.
"""

from __future__ import annotations

from attngen.deploy.check import check, check_all, folders
from attngen.deploy.manifest import Difference
from attngen.deploy.order import Order, parse_head_dims
from attngen.deploy.write import generate

__all__ = ["Difference", "Order", "check", "check_all", "folders", "generate", "parse_head_dims"]
