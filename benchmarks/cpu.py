"""What calls take on a CPU, beside PyTorch: `python -m benchmarks.cpu [--threads N] [--markdown FILE]`.

Causal attention beside scaled_dot_product_attention, other variants beside a dense implementation that autograd differentiates. Times are
the least of several interleaved rounds: CPU time of the process on one thread, else wall time.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

import attngen
from attngen.version import VERSION

LENGTHS = (512, 1024, 2048)
LONG = 1024
HEADS, DIM = 8, 64
ROUNDS = 9
Call = Callable[..., Tensor]


def least_ms(actions: Mapping[str, Callable[[], object]], clock: Callable[[], float]) -> dict[str, float]:
    """Milliseconds of each action: the least of several rounds, in each of which all take their turn."""
    found = dict.fromkeys(actions, float("inf"))
    for action in actions.values():
        action()
    for _ in range(ROUNDS):
        for name, action in actions.items():
            began = clock()
            action()
            found[name] = min(found[name], 1e3 * (clock() - began))
    return found


def causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return scaled_dot_product_attention(q, k, v, is_causal=True)


# ---- variants beside a dense implementation


def _dense(change: Callable[[Tensor, Tensor, Tensor], Tensor], seen: Callable[[Tensor, Tensor], Tensor]) -> Call:
    """Softmax attention with changed scores over all pairs that a mask leaves."""

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        rows, keys = torch.arange(q.shape[2])[:, None], torch.arange(k.shape[2])[None, :]
        scores = change(q @ k.mT * q.shape[-1] ** -0.5, rows, keys).masked_fill(~seen(rows, keys), float("-inf"))
        return scores.softmax(-1) @ v

    return attend


def variants() -> dict[str, tuple[Call, Call]]:
    """The dense implementation of each variant, and attngen's."""
    slopes, sinks = torch.exp2(-torch.arange(1.0, HEADS + 1)), torch.zeros(HEADS)
    document = torch.arange(LONG) // 100
    table = torch.randn(2 * LONG, HEADS, requires_grad=True)
    lower = lambda b, h, q, k: q >= k  # noqa: E731

    def with_sink(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = 20 * torch.tanh(q @ k.mT * DIM**-0.5 / 20)
        below = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).tril()
        scores = torch.cat((scores.masked_fill(~below, float("-inf")), sinks[None, :, None, None].expand(*scores.shape[:3], 1)), -1)
        return scores.softmax(-1)[..., :-1] @ v

    capped = attngen.attention(lambda s, b, h, q, k: 20 * torch.tanh(s / 20), lower, sink=sinks)
    return {
        "ALiBi, causal": (
            _dense(lambda s, i, j: s + slopes[:, None, None] * (j - i), torch.ge),
            attngen.compile(attngen.attention(lambda s, b, h, q, k: s + slopes[h] * (k - q), lower)),
        ),
        "window of 256": (
            _dense(lambda s, i, j: s, lambda i, j: (i >= j) & (i - j < 256)),
            attngen.compile(attngen.attention(mask_mod=lambda b, h, q, k: (q >= k) & (q - k < 256))),
        ),
        "documents of 100": (
            _dense(lambda s, i, j: s, lambda i, j: document[i] == document[j]),
            attngen.compile(attngen.attention(mask_mod=lambda b, h, q, k: document[q] == document[k])),
        ),
        "softcap with sinks": (with_sink, attngen.compile(capped)),
        "T5 table with its gradient": (
            _dense(lambda s, i, j: s + table[i - j + LONG].permute(2, 0, 1), lambda i, j: i == i),
            attngen.compile(attngen.attention(lambda s, b, h, q, k: s + table[q - k + LONG, h])),
        ),
    }


# ---- the page


def pair(plain: Call, ours: Call, length: int, clock: Callable[[], float]) -> list[float]:
    """Milliseconds of a forward by both, then of a forward with its backward."""
    q, k, v = (torch.randn(1, HEADS, length, DIM) for _ in range(3))
    graded = [tensor.clone().requires_grad_() for tensor in (q, k, v)]
    upstream = torch.randn(1, HEADS, length, DIM)

    def forward(call: Call) -> Callable[[], object]:
        def run() -> object:
            with torch.no_grad():
                return call(q, k, v)

        return run

    forwards = least_ms({"plain": forward(plain), "ours": forward(ours)}, clock)
    trained = least_ms({"plain": lambda: plain(*graded).backward(upstream), "ours": lambda: ours(*graded).backward(upstream)}, clock)
    return [forwards["plain"], forwards["ours"], trained["plain"], trained["ours"]]


def report(threads: int) -> str:
    """The page."""
    clock = time.process_time if threads == 1 else time.perf_counter
    kind = "one thread, CPU time of the process" if threads == 1 else f"{threads} threads, wall time"
    lines = [
        "# What a call takes on a CPU",
        "",
        f"Written by `python -m benchmarks.cpu`: float32, [1, {HEADS}, N, {DIM}], {kind}, the least of {ROUNDS} interleaved rounds.",
        f"attngen {VERSION}, torch {torch.__version__}, {processor()}.",
        "",
        "| N | SDPA forward | attngen forward | times | SDPA forward + backward | attngen forward + backward | times |",
        "|---|---|---|---|---|---|---|",
    ]
    attend = attngen.compile(attngen.attention(mask_mod=lambda b, h, q, k: q >= k))
    lines += [_row(str(length), pair(causal, attend, length, clock)) for length in LENGTHS]
    lines += [
        "",
        f"Beside the same formula over all pairs in PyTorch, N = {LONG}:",
        "",
        "| variant | dense forward | attngen forward | times | dense forward + backward | attngen forward + backward | times |",
        "|---|---|---|---|---|---|---|",
    ]
    return "\n".join([*lines, *(_row(name, pair(*both, LONG, clock)) for name, both in variants().items())]) + "\n"


def _row(name: str, times: list[float]) -> str:
    plain, ours, plain_trained, ours_trained = times
    forward, trained = f"{plain:.1f} ms | {ours:.1f} ms | {ours / plain:.2f}", f"{plain_trained:.1f} ms | {ours_trained:.1f} ms"
    return f"| {name} | {forward} | {trained} | {ours_trained / plain_trained:.2f} |"


def processor() -> str:
    """The name of the CPU, as far as the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def main() -> None:
    command = argparse.ArgumentParser(description="Time calls on a CPU.")
    command.add_argument("--threads", type=int, default=1, help="of PyTorch")
    command.add_argument("--markdown", type=Path, metavar="FILE", help="write the page to FILE instead of printing it")
    arguments = command.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(arguments.threads)
    text = report(arguments.threads)
    if arguments.markdown is None:
        print(text, end="")
    else:
        arguments.markdown.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
