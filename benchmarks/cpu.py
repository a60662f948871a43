"""What a call takes on a CPU, beside scaled_dot_product_attention, on one thread: `python -m benchmarks.cpu [--markdown FILE]`.

On CPU tensors the emitted kernels run in Triton's interpreter, which is for checking. Times are CPU time of the process, medians of five
after a first call, with causal attention in float32, [1, 4, N, 64].
"""

from __future__ import annotations

import argparse
import logging
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

import attngen
from attngen.version import VERSION

LENGTHS = (128, 256, 512)
HEADS, DIM = 4, 64


def median_seconds(action: Callable[[], object]) -> float:
    """CPU time of the process: of five calls, after a first one."""
    times: list[float] = []
    for _ in range(6):
        began = time.process_time()
        action()
        times.append(time.process_time() - began)
    return statistics.median(times[1:])


def row(attend: Callable[..., Tensor], length: int) -> list[float]:
    """Seconds of a forward, and of a forward with its backward: those of scaled_dot_product_attention, then those of attngen."""
    q, k, v = (torch.randn(1, HEADS, length, DIM, requires_grad=True) for _ in range(3))

    def sdpa(*tensors: Tensor) -> Tensor:
        return scaled_dot_product_attention(*tensors, is_causal=True)

    def forward(call: Callable[..., Tensor]) -> float:
        with torch.no_grad():
            return median_seconds(lambda: call(q, k, v))

    def trained(call: Callable[..., Tensor]) -> float:
        return median_seconds(lambda: call(q, k, v).sum().backward())

    return [forward(sdpa), forward(attend), trained(sdpa), trained(attend)]


def report() -> str:
    """The page."""
    attend = attngen.compile(attngen.attention(mask_mod=lambda b, h, q_idx, kv_idx: q_idx >= kv_idx), arch="sm90")
    lines = [
        "# What a call takes on a CPU",
        "",
        f"Written by `python -m benchmarks.cpu`: causal attention, float32, [1, {HEADS}, N, {DIM}], one thread, CPU time of the process,",
        f"medians of five calls. attngen {VERSION}, torch {torch.__version__}, {processor()}.",
        "",
        "| N | SDPA forward | attngen forward | times | SDPA forward + backward | attngen forward + backward | times |",
        "|---|---|---|---|---|---|---|",
    ]
    for length in LENGTHS:
        plain, ours, plain_trained, ours_trained = row(attend, length)
        lines.append(
            f"| {length} | {plain * 1e3:.2f} ms | {ours * 1e3:.0f} ms | {ours / plain:.0f} "
            f"| {plain_trained * 1e3:.2f} ms | {ours_trained * 1e3:.0f} ms | {ours_trained / plain_trained:.0f} |"
        )
    return "\n".join(lines) + "\n"


def processor() -> str:
    """The name of the CPU, as far as the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def main() -> None:
    command = argparse.ArgumentParser(description="Time calls on a CPU.")
    command.add_argument("--markdown", type=Path, metavar="FILE", help="write the page to FILE instead of printing it")
    arguments = command.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    # That the interpreter is slow is what is measured.
    logging.getLogger("attngen").setLevel(logging.ERROR)
    text = report()
    if arguments.markdown is None:
        print(text, end="")
    else:
        arguments.markdown.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
