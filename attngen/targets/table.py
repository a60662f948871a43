"""The table of target architectures.

Gives frozen `Target` values by name or compute capability. Limits (shared memory, registers, threads) hold for every part of an
architecture; rates and counts are those of the part named by `part` and only rank schedules. No device is queried.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from attngen.errors import UnknownArch

Backend = Literal["cuda", "hip"]
MatrixUnit = Literal["mma", "wgmma", "tcgen05", "mfma"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One architecture. An SM is a compute unit on AMD's GPUs, and a register is 32 bits wide.

    `bf16_flops_per_clock` counts dense multiply-adds as two and accumulates in fp32; `exp2_per_clock` is the rate of the special function
    unit; both are per SM. `clock_mhz` is the clock at which the vendor states the peak. `matrix_depth` is the K extent of the widest
    16-bit instruction of the matrix unit; dots with a shorter K use another one with another operand layout.
    """

    name: str
    backend: Backend
    capability: int | str
    part: str
    matrix_unit: MatrixUnit
    has_tma: bool = False
    warp_size: int = 32
    shared_bytes: int
    shared_bytes_per_sm: int
    registers_per_sm: int = 65536
    registers_per_thread: int = 255
    threads_per_sm: int
    sms: int
    clock_mhz: int
    bf16_flops_per_clock: int
    matrix_depth: int = 16
    exp2_per_clock: int = 16
    hbm_gb_per_s: int

    @property
    def bf16_tflops(self) -> float:
        """Dense bf16 peak of the named part, in 1e12 operations per second."""
        return self.sms * self.bf16_flops_per_clock * self.clock_mhz / 1e6


_KIB = 1024

TARGETS: tuple[Target, ...] = (
    Target(
        name="sm80", backend="cuda", capability=80, part="A100 SXM 80 GB", matrix_unit="mma",
        shared_bytes=163 * _KIB, shared_bytes_per_sm=164 * _KIB, threads_per_sm=2048,
        sms=108, clock_mhz=1410, bf16_flops_per_clock=2048, hbm_gb_per_s=2039,
    ),
    Target(
        name="sm86", backend="cuda", capability=86, part="A40", matrix_unit="mma",
        shared_bytes=99 * _KIB, shared_bytes_per_sm=100 * _KIB, threads_per_sm=1536,
        sms=84, clock_mhz=1740, bf16_flops_per_clock=1024, hbm_gb_per_s=696,
    ),
    Target(
        name="sm89", backend="cuda", capability=89, part="L40S", matrix_unit="mma",
        shared_bytes=99 * _KIB, shared_bytes_per_sm=100 * _KIB, threads_per_sm=1536,
        sms=142, clock_mhz=2490, bf16_flops_per_clock=1024, hbm_gb_per_s=864,
    ),
    Target(
        name="sm90", backend="cuda", capability=90, part="H200 SXM", matrix_unit="wgmma", has_tma=True,
        shared_bytes=227 * _KIB, shared_bytes_per_sm=228 * _KIB, threads_per_sm=2048,
        sms=132, clock_mhz=1830, bf16_flops_per_clock=4096, hbm_gb_per_s=4800,
    ),
    Target(
        name="sm100", backend="cuda", capability=100, part="B200", matrix_unit="tcgen05", has_tma=True,
        shared_bytes=227 * _KIB, shared_bytes_per_sm=228 * _KIB, threads_per_sm=2048,
        sms=148, clock_mhz=1850, bf16_flops_per_clock=8192, hbm_gb_per_s=8000,
    ),
    Target(
        name="sm120", backend="cuda", capability=120, part="RTX 5090", matrix_unit="mma", has_tma=True,
        shared_bytes=99 * _KIB, shared_bytes_per_sm=100 * _KIB, threads_per_sm=1536,
        sms=170, clock_mhz=2407, bf16_flops_per_clock=512, hbm_gb_per_s=1792,
    ),
    Target(
        name="gfx942", backend="hip", capability="gfx942", part="MI300X", matrix_unit="mfma", warp_size=64,
        shared_bytes=64 * _KIB, shared_bytes_per_sm=64 * _KIB, threads_per_sm=2048,
        registers_per_sm=131072, registers_per_thread=512,
        sms=304, clock_mhz=2100, bf16_flops_per_clock=2048, hbm_gb_per_s=5300,
    ),
    Target(
        name="gfx950", backend="hip", capability="gfx950", part="MI355X", matrix_unit="mfma", warp_size=64,
        shared_bytes=160 * _KIB, shared_bytes_per_sm=160 * _KIB, threads_per_sm=2048,
        registers_per_sm=131072, registers_per_thread=512,
        sms=256, clock_mhz=2400, matrix_depth=32, bf16_flops_per_clock=4096, exp2_per_clock=32, hbm_gb_per_s=8000,
    ),
)  # fmt: skip


def get(name: str) -> Target:
    """The target called `name`, such as "sm90" or "gfx942".

    Raises:
        UnknownArch: listing the legal names, each with a part of that architecture.
    """
    for target in TARGETS:
        if target.name == name:
            return target
    known = ", ".join(f"{target.name} ({target.part})" for target in TARGETS)
    raise UnknownArch(f"{name!r} is not a target", remedy=f"Targets are {known}.")


def from_capability(major: int, minor: int) -> Target:
    """The target of an NVIDIA device of compute capability `major.minor`, as `torch.cuda.get_device_capability` reports it.

    Raises:
        UnknownArch: a capability that is not in the table; kernels for a neighbouring one would not load, or be tuned for another chip.
    """
    return get(f"sm{10 * major + minor}")
