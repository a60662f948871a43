"""The measured device, as a record of functions that tests can replace."""

from __future__ import annotations

import os
import platform
import tempfile
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

NEEDED = ("torch", "triton", "jinja2", "sympy", "networkx", "numpy", "filelock")
FOR_TESTS = ("pytest", "hypothesis")
_VERSIONS = ("torch", "triton", "numpy", "flash-attn", "flash-linear-attention")
_COPIED_BYTES = 2**31


@dataclass(frozen=True)
class Machine:
    """What measuring needs of a device.

    Attributes:
        name: of the device.
        device: a torch device.
        milliseconds: the median time of a call as it is made.
        graph_milliseconds: the same replayed from a graph, without what the host does.
        peak_bytes: the most memory that a call takes beyond what is held before it.
        synchronize: waits for the device.
        alive: whether it still computes for this process.
    """

    name: str
    device: Any
    milliseconds: Callable[[Callable[[], object]], float]
    graph_milliseconds: Callable[[Callable[[], object]], float]
    peak_bytes: Callable[[Callable[[], object]], int]
    synchronize: Callable[[], None]
    alive: Callable[[], bool]


def missing(names: Sequence[str]) -> tuple[str, ...]:
    """Packages that cannot be found."""
    return tuple(name for name in names if find_spec(name) is None)


def prepare_environment(environment: MutableMapping[str, str]) -> None:
    """Without platformdirs nobody knows the user's cache folder, so it is named here."""
    if "ATTNGEN_CACHE_DIR" not in environment and find_spec("platformdirs") is None:
        environment["ATTNGEN_CACHE_DIR"] = str(Path(tempfile.gettempdir()) / f"attngen-cache-{os.getuid()}")


def gpu() -> Machine:
    """The current CUDA device."""
    import torch

    from attngen.tuning.timing import answers, gpu_milliseconds

    device = torch.device("cuda", torch.cuda.current_device())
    name, wait = torch.cuda.get_device_name(device), torch.cuda.synchronize
    return Machine(name, device, gpu_milliseconds, _graph_milliseconds, _peak_bytes, wait, lambda: answers(device))


def _graph_milliseconds(run: Callable[[], object]) -> float:
    import torch

    from attngen.tuning.timing import gpu_milliseconds

    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return gpu_milliseconds(graph.replay)


def _peak_bytes(run: Callable[[], object]) -> int:
    import torch

    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    kept = run()
    torch.cuda.synchronize()
    del kept
    return torch.cuda.max_memory_allocated() - before


def product_tflops(machine: Machine, size: int = 8192) -> float:
    """A bf16 product of size³ on random data: what the card sustains."""
    import torch

    a, b = (torch.randn(size, size, device=machine.device, dtype=torch.bfloat16) for _ in range(2))
    _ = a @ b
    return 2 * size**3 / machine.milliseconds(lambda: a @ b) / 1e9


def copied_gb_per_s(machine: Machine, size_bytes: int = _COPIED_BYTES) -> float:
    """A copy from device to device, bytes read and written."""
    import torch

    source = torch.ones(size_bytes // 4, dtype=torch.float32, device=machine.device)
    target = torch.empty_like(source)
    target.copy_(source)
    return 2 * size_bytes / machine.milliseconds(lambda: target.copy_(source)) / 1e6


def versions() -> Mapping[str, str]:
    """Of what takes part, as far as it is installed."""
    from attngen.version import VERSION

    found = {"python": platform.python_version(), "attngen": VERSION}
    for name in _VERSIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
