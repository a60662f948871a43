"""Compile kernels for a named target, with or without a GPU, and report what the real compiler made of them.

Takes `JITFunction`s with the types of their arguments, gives frozen `Compiled` values: registers, spills, shared memory, warnings, binary
and assembly. The numbers come from the assembler's own log (ptxas) or from the metadata in the assembly (AMD), never from a model. What the
loops look like is for `sass` to say. Nothing is launched. Triton's disk cache is written but not read, for it keeps no assembler log.
"""

from __future__ import annotations

import io
import re
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from attngen.errors import CompileFailed, InternalError
from attngen.interpreter.language import LOCK
from attngen.interpreter.triton_api import GPUTarget, JITFunction, knobs, source_type, triton
from attngen.targets.table import Target
from attngen.toolchain.refusals import said

_DIVISIBLE_BY_16 = [["tt.divisibility", 16]]


@dataclass(frozen=True, slots=True, kw_only=True)
class CompileJob:
    """One kernel to compile.

    `signature` maps run-time arguments to Triton's type names ("*bf16", "fp32", "i32"), `constexprs` the others to their values; together
    they name every parameter of `fn`. `divisible` names arguments promised to be multiples of 16: pointers in bytes, integers as they are.
    """

    fn: Any
    signature: Mapping[str, str]
    constexprs: Mapping[str, object]
    target: Target
    num_warps: int
    num_stages: int
    divisible: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiled:
    """What came out for one kernel.

    `registers` and `spill_bytes` are per thread; `spill_bytes` adds what is stored and what is loaded, over the whole text of the kernel
    (on AMD: the bytes of scratch memory). `num_warps` counts warps that Triton added to divide them as well. `warnings` are the
    assembler's warnings and numbered notes, each one line. `binary` is a cubin or an hsaco, `assembly` its PTX or amdgcn text.
    """

    name: str
    arch: str
    num_warps: int
    num_stages: int
    registers: int
    spill_bytes: int
    shared_bytes: int
    tensor_memory_columns: int
    warnings: tuple[str, ...]
    binary: bytes
    assembly: str

    @property
    def serialized_wgmma(self) -> bool:
        """Whether ptxas gave up running wgmma asynchronously (C7511 to C7516; C7517 and C7519 only report an added wait or arrive)."""
        return any("serialized" in warning for warning in self.warnings)


def compile_kernel(job: CompileJob) -> Compiled:
    """Compile one kernel.

    Raises:
        CompileFailed: Triton or the assembler refused it.
        InternalError: the job does not name the kernel's parameters, or the assembler's log cannot be read.
    """
    (result,) = compile_many([job], workers=1)
    if isinstance(result, CompileFailed):
        raise result
    return result


def compile_many(jobs: Sequence[CompileJob], workers: int) -> tuple[Compiled | CompileFailed, ...]:
    """Compile kernels side by side, in the order of `jobs`; a refusal is returned in its place, since candidates may fail.

    Threads suffice: Triton leaves the interpreter lock in LLVM and waits for ptxas, so two threads need 0.52 to 0.57 of the time of one.
    No kernel is interpreted meanwhile.
    """
    sources = [_source(job) for job in jobs]
    with LOCK, _one_parser(), _assembler_log() as log, ThreadPoolExecutor(max_workers=workers) as pool:
        return tuple(pool.map(_compile, jobs, sources, [log] * len(jobs)))


@contextmanager
def _one_parser() -> Iterator[None]:
    """One thread at a time parses Python: in CPython 3.11 `ast.parse` keeps its depth in a place that all threads share."""
    parse, lock = JITFunction.parse, threading.Lock()

    def locked(self: Any) -> Any:
        with lock:
            return parse(self)

    JITFunction.parse = locked
    try:
        yield
    finally:
        JITFunction.parse = parse


class _ThreadOutput(io.TextIOBase):
    """Standard output that keeps what compiling threads print and passes everything else on."""

    def __init__(self, outside: Any) -> None:
        self._outside = outside
        self._kept: dict[int, list[str]] = {}

    def write(self, text: str, /) -> int:
        kept = self._kept.get(threading.get_ident())
        if kept is None:
            return self._outside.write(text)
        kept.append(text)
        return len(text)

    def flush(self) -> None:
        self._outside.flush()

    @contextmanager
    def keep(self) -> Iterator[list[str]]:
        lines: list[str] = []
        self._kept[threading.get_ident()] = lines
        try:
            yield lines
        finally:
            del self._kept[threading.get_ident()]


@contextmanager
def _assembler_log() -> Iterator[_ThreadOutput]:
    """Triton prints ptxas's log when asked to, and only when it really compiles; the lock is held."""
    outside = sys.stdout
    output = _ThreadOutput(outside)
    with knobs.nvidia.scope(), knobs.compilation.scope():
        knobs.nvidia.dump_ptxas_log = True
        knobs.compilation.always_compile = True
        sys.stdout = output
        try:
            yield output
        finally:
            sys.stdout = outside


def _source(job: CompileJob) -> Any:
    if not isinstance(job.fn, JITFunction):
        raise InternalError(f"only a JITFunction can be compiled, not a {type(job.fn).__name__}")
    names = list(job.fn.arg_names)
    given = {**job.signature, **dict.fromkeys(job.constexprs, "constexpr")}
    if set(given) != set(names) or len(given) != len(job.signature) + len(job.constexprs):
        raise InternalError(f"{job.fn.__name__} has the parameters {', '.join(names)}; the job names {', '.join(given)}")
    if not set(job.divisible) <= set(job.signature):
        raise InternalError(f"arguments promised to be divisible are not in the signature: {', '.join(job.divisible)}")
    attributes = {(names.index(name),): _DIVISIBLE_BY_16 for name in job.divisible}
    return source_type(job.fn)(job.fn, {name: given[name] for name in names}, dict(job.constexprs), attributes)


def _compile(job: CompileJob, source: Any, output: _ThreadOutput) -> Compiled | CompileFailed:
    target = GPUTarget(job.target.backend, job.target.capability, job.target.warp_size)
    # Whether a product and a sum fuse changes results, and its default differs between versions of Triton.
    options = {"num_warps": job.num_warps, "num_stages": job.num_stages, "enable_fp_fusion": True}
    with output.keep() as printed:
        try:
            kernel = triton.compile(source, target=target, options=options)
        except Exception as error:
            rule = f"{job.fn.__name__} does not compile for {job.target.name}: {said(error)}"
            failure = CompileFailed(rule, remedy="Ask for another tile with schedule=, or leave the choice to attngen.")
            failure.__cause__ = error
            return failure
    read = _read_cuda if job.target.backend == "cuda" else _read_hip
    return read(job, kernel, "".join(printed))


def _read_cuda(job: CompileJob, kernel: Any, log: str) -> Compiled:
    own = log.partition(f"Function properties for {kernel.name}\n")[2]
    spills = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", own)
    registers = re.search(r"Used (\d+) registers", own)
    if spills is None or registers is None:
        raise InternalError(f"the log of ptxas of Triton {triton.__version__} cannot be read: {log!r}")
    warnings = (line.strip() for line in log.splitlines() if "warning" in line.lower() or re.search(r"\(C\d+\)", line))
    return Compiled(
        name=kernel.name,
        arch=job.target.name,
        num_warps=kernel.metadata.num_warps,
        num_stages=job.num_stages,
        registers=int(registers[1]),
        spill_bytes=int(spills[1]) + int(spills[2]),
        shared_bytes=kernel.metadata.shared,
        tensor_memory_columns=getattr(kernel.metadata, "tmem_size", None) or 0,
        warnings=tuple(dict.fromkeys(warnings)),
        binary=kernel.asm["cubin"],
        assembly=kernel.asm["ptx"],
    )


def _read_hip(job: CompileJob, kernel: Any, log: str) -> Compiled:
    assembly: str = kernel.asm["amdgcn"]

    def field(name: str) -> int:
        found = re.search(rf"^\s*\.{name}:\s+(\d+)$", assembly, re.MULTILINE)
        if found is None:
            raise InternalError(f"the assembly made by Triton {triton.__version__} for {job.target.name} has no .{name}")
        return int(found[1])

    return Compiled(
        name=kernel.name,
        arch=job.target.name,
        num_warps=kernel.metadata.num_warps,
        num_stages=job.num_stages,
        registers=field("vgpr_count"),
        spill_bytes=field("private_segment_fixed_size"),
        shared_bytes=kernel.metadata.shared,
        tensor_memory_columns=0,
        warnings=tuple(line.strip() for line in log.splitlines() if "warning" in line.lower()),
        binary=kernel.asm["hsaco"],
        assembly=assembly,
    )
