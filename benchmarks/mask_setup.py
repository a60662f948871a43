"""Setup cost of a mask: attngen's precomputation and FlexAttention's `create_block_mask`, in one run.

    python benchmarks/mask_setup.py [--lengths 8192 65536 1048576] [--device cpu] [--markdown FILE]

Causal, window, prefix and chunked masks need no setup. Documents are sorted once. Seconds are medians of five after a first call; bytes are
those that stay allocated for the kernels. `create_block_mask` runs in a process of its own with a memory limit, since it evaluates every
pair; the table says where it does not fit.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

import attngen
from attngen.plan.programs import ProgramKey
from attngen.runtime.kernel_table import kernel_table
from attngen.targets import table as targets

LIMIT_BYTES = 16 * 2**30
PATIENCE_S = 60.0


def masks(length: int, device: torch.device) -> dict[str, Callable[..., object]]:
    """FlexAttention mask mods by name."""
    documents = (torch.arange(length, device=device) // 1000).to(torch.int32)
    return {
        "causal": lambda b, h, q, k: q >= k,
        "window": lambda b, h, q, k: (q >= k) & (q - k < 1024),
        "prefix": lambda b, h, q, k: (q >= k) | (k < 512),
        "chunked": lambda b, h, q, k: (q // 256 == k // 256) & (q >= k),
        "document": lambda b, h, q, k: (documents[q] == documents[k]) & (q >= k),
    }


def median_seconds(action: Callable[[], object], device: torch.device) -> float:
    """Of five, after a first one."""
    times: list[float] = []
    for _ in range(6):
        began = time.perf_counter()
        action()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:])


def prepared(name: str, length: int, device: torch.device) -> tuple[float, int]:
    """Seconds and bytes of attngen's setup."""
    attend = attngen.compile(attngen.attention(mask_mod=masks(length, device)[name], name=name), arch="sm90")
    (runs, *_), captures = (attend.program.kernels[0].document_extents or (None,)), {item.name: item.value for item in attend.spec.captures}
    if runs is None:
        return 0.0, 0
    # The emitted function, by itself.
    kernels = kernel_table(attend.spec.cascade, name, attend.options).kernels(ProgramKey())
    dims = {"d": 64, "e": 64}
    function = kernels.module(kernels.source(dims), "compiled", targets.get("sm90"), dims, "bfloat16").runs
    found = function(captures[runs.values], captures[runs.keys])
    return median_seconds(lambda: function(captures[runs.values], captures[runs.keys]), device), sum(4 * x.numel() for x in found)


def _block_mask(name: str, length: int, device: str, answer: multiprocessing.Queue[object]) -> None:
    from torch.nn.attention.flex_attention import create_block_mask

    resource.setrlimit(resource.RLIMIT_AS, (LIMIT_BYTES, LIMIT_BYTES))
    where = torch.device(device)
    try:
        mask = create_block_mask(masks(length, where)[name], None, None, length, length, device=device)  # type: ignore[arg-type]
        tables = (mask.kv_num_blocks, mask.kv_indices, mask.full_kv_num_blocks, mask.full_kv_indices, mask.q_num_blocks, mask.q_indices)
        held = sum(x.numel() * x.element_size() for x in tables if x is not None)
        build = lambda: create_block_mask(masks(length, where)[name], None, None, length, length, device=device)  # type: ignore[arg-type]  # noqa: E731
        answer.put((median_seconds(build, where), held))
    except (RuntimeError, MemoryError):
        answer.put("out of memory")


def block_mask(name: str, length: int, device: str) -> str:
    """Seconds and bytes of `create_block_mask`, or why there are none."""
    answer: multiprocessing.Queue[object] = multiprocessing.Queue()
    process = multiprocessing.Process(target=_block_mask, args=(name, length, device, answer))
    process.start()
    process.join(PATIENCE_S)
    if process.is_alive():
        process.kill()
        return f"over {PATIENCE_S:.0f} s"
    found = answer.get() if not answer.empty() else "out of memory"
    return found if isinstance(found, str) else f"{found[0] * 1e3:.0f} ms, {found[1]} B"  # type: ignore[index]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[8192, 65536, 1048576])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--markdown", type=Path)
    options = parser.parse_args()
    lines = ["| mask | length | attngen | create_block_mask |", "|---|---|---|---|"]
    for length in options.lengths:
        for name in masks(1, torch.device("cpu")):
            seconds, held = prepared(name, length, torch.device(options.device))
            mine = "nothing" if held == 0 else f"{seconds * 1e3:.1f} ms, {held} B"
            lines.append(f"| {name} | {length} | {mine} | {block_mask(name, length, options.device)} |")
            print(lines[-1], flush=True)
    if options.markdown is not None:
        head = f"Device: {options.device}; torch {torch.__version__}.\n\n"
        options.markdown.write_text(head + "\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    main()
