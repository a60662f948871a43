"""GPU timing: the median of single calls between events, each with a cold L2, in milliseconds."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch

from attngen.errors import NoDevice

# Larger than the L2 of every target, so that writing it evicts the data of the last call.
_EVICTING_BYTES = 256 * 2**20
_WARMUP_MS, _TIMED_MS = 25.0, 100.0
_FEWEST, _MOST = 5, 100


def need_device(what: str) -> None:
    """Require a GPU.

    Raises:
        NoDevice: there is none; names what needs it.
    """
    if not torch.cuda.is_available():
        raise NoDevice(f"{what} needs a GPU, and PyTorch sees none here", remedy="Run it on the target machine.")


def answers(device: torch.device) -> bool:
    """Whether a device still works in this process: after some errors every later call fails."""
    try:
        return float(torch.ones(1, device=device).sum()) == 1.0
    except Exception:
        return False


def gpu_milliseconds(run: Callable[[], object], *, timed_ms: float = _TIMED_MS) -> float:
    """The median time of a call, launch overhead included where it dominates.

    Args:
        run: launches work on the current stream; called before, so that nothing is compiled while timing.
        timed_ms: the approximate measuring time, after a quarter of it for warm-up.

    Raises:
        NoDevice: there is no GPU.
    """
    need_device("timing")
    cold = torch.empty(_EVICTING_BYTES // 4, dtype=torch.int32, device="cuda")
    guess = max(_span(run, 3, cold), 1e-3)
    for _ in range(_count(_WARMUP_MS * timed_ms / _TIMED_MS, guess, 1)):
        run()
    return _span(run, _count(timed_ms, guess, _FEWEST), cold)


def _count(wanted_ms: float, each_ms: float, least: int) -> int:
    return min(max(int(wanted_ms / each_ms), least), _MOST)


def _span(run: Callable[[], object], count: int, cold: torch.Tensor) -> float:
    """The median over single calls."""
    pairs = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(count)]
    for begin, end in pairs:
        cold.zero_()
        begin.record()
        run()
        end.record()
    torch.cuda.synchronize()
    return statistics.median(begin.elapsed_time(end) for begin, end in pairs)
