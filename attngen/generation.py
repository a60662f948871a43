"""`attngen.generate`: a variant as a folder that needs no attngen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from attngen.deploy import Order
from attngen.deploy import generate as write
from attngen.frontend.spec import Spec
from attngen.plan.feature_lengths import dtype_name


def generate(
    spec: Spec,
    name: str | None = None,
    *,
    arch: str | Sequence[str] = ("sm80", "sm90"),
    dtype: str | Sequence[str] = "bfloat16",
    head_dim: int | tuple[int, int] | list[int] | list[tuple[int, int]] | None = None,
    out: str | Path = "generated",
) -> Path:
    """Write a variant as a folder that needs torch and triton only.

    The kernels that calls of the variant itself need go into the cache as well, for processes with `ATTNGEN_STRICT=1`.

    Args:
        spec: the variant; its captures become arguments.
        name: of the folder; that of the spec by default.
        arch, dtype: one or several.
        head_dim: a length, a pair (Dqk, Dv), or a list of either; [64, 128] by default.
        out: the folder above. What attngen wrote there under the same name is replaced.

    Returns:
        The folder: its `attention(q, k, v, ...)` is differentiable, and `manifest.json` tells what the kernels take.

    Raises:
        ArgumentError: no folder can have this name. ForeignFolder: one is there that attngen did not write, or that holds other files.
        UnknownArch, DtypeMismatch, DoesNotFit, CompileFailed
    """
    archs = (arch,) if isinstance(arch, str) else tuple(arch)
    dtypes = (dtype,) if isinstance(dtype, str | torch.dtype) else tuple(dtype)
    sizes = [64, 128] if head_dim is None else head_dim if isinstance(head_dim, list) else [head_dim]
    order = Order(archs, tuple(map(dtype_name, dtypes)), tuple((size,) if isinstance(size, int) else tuple(size) for size in sizes))
    return write(spec, name or spec.name, order, Path(out))
