"""`attngen.tune`: times candidate tiles on the local GPU and stores the fastest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from attngen.cache.user_table import existing, own_path, record
from attngen.errors import ArgumentError
from attngen.frontend.spec import Spec, captured_lengths
from attngen.knobs import Knobs
from attngen.plan.feature_lengths import dtype_name, feature_lengths
from attngen.plan.options import Options
from attngen.plan.token_layout import best_order
from attngen.runtime.kernel_table import KernelTable
from attngen.schedule.space import LengthClass
from attngen.schedule.tuned import Tuned, table_of
from attngen.targets import table as targets
from attngen.toolchain.artifact_store import triton_version
from attngen.tuning.search import LENGTHS, Setting, Tuning, tune_kernels
from attngen.tuning.timing import need_device


def tune(
    spec: Spec,
    arch: str | None = None,
    *,
    dtype: str | torch.dtype = "bfloat16",
    head_dim: int | tuple[int, ...] | None = None,
    lengths: Sequence[LengthClass] = ("long", "short", "decode"),
    leaders: int = 6,
    out: Path | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> Tuning:
    """Time the scheduler's best candidates for every kernel of a variant, forward and backward, and store each winner at once.

    Args:
        spec: the variant; its captured tensors should have the lengths of real use.
        arch: the target, which must be the device's; None is the device's.
        dtype, head_dim: of the arguments.
        lengths: length classes, of "long", "short" and "decode".
        leaders: how many candidates of the ranking are timed, besides the default tile, its alternative and its fallback.
        out: the table to write to; by default the user's own, in the cache folder, which takes precedence in later processes.
        progress: called with one line for each winner.

    Returns:
        The winners, the tiles that did not run, and the omissions. Variants that this process has compiled keep their tiles.

    Raises:
        NoDevice: there is no GPU. ArchMismatch: it is another one. DeviceLost: a kernel crashed the device; stored rows are kept.
        CacheError: the file to write to is not such a table. ArgumentError, DoesNotFit, CompileFailed.
    """
    need_device("attngen tune")
    for name in lengths:
        if name not in LENGTHS:
            raise ArgumentError(f"there is no length class {name!r}", remedy=f"Length classes are {', '.join(LENGTHS)}.")
    device, knobs = torch.device("cuda", torch.cuda.current_device()), Knobs.from_env()
    spec = best_order(spec, targets.get("sm90" if arch is None else arch))
    table = KernelTable(spec.cascade, spec.name, Options(arch), knobs)
    setting = Setting(table.target(device), device, torch.cuda.get_device_name(device), triton_version(), leaders)
    captures = {item.name: item.value for item in spec.captures}
    features = feature_lengths(table.axes.features, head_dim, captured_lengths(spec))
    path, name = own_path(knobs.cache_dir) if out is None else out, dtype_name(dtype)
    existing(path)

    def keep(row: Tuned) -> None:
        record(table_of([row]), path)

    return tune_kernels(table, captures, features, name, setting, classes=tuple(lengths), keep=keep, progress=progress)
