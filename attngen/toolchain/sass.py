"""Read the machine code of an NVIDIA kernel: its loops, what they issue, what they spill, and what runs beside the tensor cores.

Takes a cubin, gives frozen values. Only SASS can tell: ptxas moves arithmetic across the waits that PTX shows. Loops are the natural loops
of the control flow, so that the slow paths of barrier waits, which ptxas puts behind the end of the kernel and which branch back into the
middle of a loop, do not pass for loops of their own. No GPU is needed.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import networkx as nx

from attngen.errors import InternalError
from attngen.interpreter.triton_api import knobs

_LABEL = re.compile(r"^\s*(\.L\S+):")
_INSTRUCTION = re.compile(r"^\s*/\*[0-9a-f]{4,}\*/\s+(@!?U?P\w+\s+)?(\S+?)(?:\s+(.*?))?\s*;")
_TARGET = re.compile(r"`\((\.L[^)]+)\)")
_GROUPS_LEFT = re.compile(r"gsb0,\s*0x([0-9a-f]+)")
_WIDTH = re.compile(r"\.(\d+)")

TENSOR_CORE = frozenset({"HGMMA", "QGMMA", "IGMMA", "HMMA", "IMMA", "DMMA", "QMMA", "OMMA", "UTCHMMA", "UTCQMMA", "UTCIMMA", "UTCOMMA"})
# Those that four warps issue together.
WIDE = frozenset({"HGMMA", "QGMMA", "IGMMA"})
_WIDE_WARPS = 4
# Rows, columns and depth of a product: "HGMMA.64x128x16.F32.BF16", "HMMA.16816.F32.BF16", "DMMA.884".
_SHAPES = (re.compile(r"\.(\d+)x(\d+)x(\d+)"), re.compile(r"\.(16|8)(8)(\d+)\b"))
_FLOAT_ALU = frozenset({"FADD", "FMUL", "FFMA", "FADD2", "FMUL2", "FFMA2", "FMNMX", "FMNMX3", "FSEL", "F2FP"})
_LEAVING = frozenset({"BRA", "EXIT", "RET", "BRX", "JMP", "JMX", "KILL"})
# Opcodes whose first suffix tells what they do.
_QUALIFIED = frozenset({"MUFU", "WARPGROUP"})


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction: an opcode such as "HGMMA.64x128x16.F32.BF16", the text of its operands, and whether a predicate may skip it."""

    opcode: str
    operands: str
    predicated: bool = False

    @property
    def family(self) -> str:
        """The opcode without suffixes, save where the first one matters: "FFMA", "MUFU.EX2", "WARPGROUP.DEPBAR"."""
        parts = self.opcode.split(".")
        return ".".join(parts[:2]) if parts[0] in _QUALIFIED else parts[0]

    @property
    def shape(self) -> tuple[int, int, int] | None:
        """Rows, columns and depth of a tensor-core instruction; None for others, and where the opcode carries no shape (tcgen05)."""
        found = next((found for pattern in _SHAPES if (found := pattern.search(self.opcode))), None)
        return (int(found[1]), int(found[2]), int(found[3])) if found and self.family in TENSOR_CORE else None

    def issued(self, num_warps: int) -> int:
        """How often a program of so many warps issues it."""
        return max(1, num_warps // _WIDE_WARPS) if self.family in WIDE else num_warps

    def flops(self, num_warps: int) -> int:
        """What all warps of a program do by it, two a multiply-add; 0 without a shape."""
        return 2 * prod(self.shape) * self.issued(num_warps) if self.shape else 0


@dataclass(frozen=True, slots=True)
class Loop:
    """A natural loop: `header` is the position of its first instruction in the kernel, `blocks` the starts of all its basic blocks."""

    header: int
    blocks: frozenset[int]
    body: tuple[Instruction, ...]

    def counts(self) -> Counter[str]:
        """How often each family occurs in the text of the body; inner branches count as taken."""
        return Counter(instruction.family for instruction in self.body)

    def flops(self, num_warps: int) -> int:
        """What the matrix products of one iteration do in a program of so many warps, repeated work included; two a multiply-add."""
        return sum(instruction.flops(num_warps) for instruction in self.body)

    def spill_bytes(self) -> int:
        """Bytes per thread that one iteration stores to and loads from local memory."""
        return sum(_bytes_moved(i) for i in self.body if i.family in ("STL", "LDL"))

    def exp2_overlap(self) -> float:
        """Share of the MUFU.EX2 that are issued while a wgmma of the same warps is in flight; 0 without any.

        Says nothing once ptxas has serialised the wgmma (`Compiled.serialized_wgmma`).
        """
        return _overlap(self.body, frozenset({"MUFU.EX2"}))

    def alu_overlap(self) -> float:
        """The same share for the fp32 arithmetic of the softmax: sums, products, maxima, selections, conversions."""
        return _overlap(self.body, _FLOAT_ALU)


def disassemble(cubin: bytes) -> str:
    """The SASS of a cubin, by the nvdisasm that comes with Triton.

    Raises:
        InternalError: the disassembler failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        done = subprocess.run([knobs.nvidia.nvdisasm.path, "-c", path], capture_output=True, text=True, check=False)
    if done.returncode:
        raise InternalError(f"nvdisasm cannot read a cubin: {done.stderr.strip()}")
    return done.stdout


def loops(sass: str) -> tuple[Loop, ...]:
    """Every loop of the text, outer ones included, in the order of their headers."""
    instructions, labels = parse(sass)
    if not instructions:
        return ()
    flow, ends = _control_flow(instructions, labels)
    # Whether the entry is its own dominator or has none differs between versions of networkx.
    dominators: dict[int, int | None] = {**nx.immediate_dominators(flow, 0), 0: None}
    latches: dict[int, list[int]] = {}
    for source, header in flow.edges:
        if source in dominators and _dominates(dominators, header, source):
            latches.setdefault(header, []).append(source)
    found: list[Loop] = []
    for header in sorted(latches):
        blocks = _natural_loop(flow, header, latches[header])
        body = tuple(instructions[i] for block in sorted(blocks) for i in range(block, ends[block]))
        found.append(Loop(header, blocks, body))
    return tuple(found)


def main_loops(sass: str) -> tuple[Loop, ...]:
    """The innermost loops with the most tensor-core instructions, in order: for instance that over full and that over masked tiles.

    A loop counts as innermost if it holds no smaller loop with tensor-core instructions; loops that wait for a barrier do not matter.
    """
    sized = [(loop, sum(i.family in TENSOR_CORE for i in loop.body)) for loop in loops(sass)]
    sized = [(loop, size) for loop, size in sized if size]
    inner = [(loop, size) for loop, size in sized if not any(other.blocks < loop.blocks for other, _ in sized)]
    most = max((size for _, size in inner), default=0)
    return tuple(loop for loop, size in inner if size == most)


def parse(sass: str) -> tuple[list[Instruction], dict[str, int]]:
    """The instructions in order of address, and the position that each label names."""
    instructions: list[Instruction] = []
    labels: dict[str, int] = {}
    for line in sass.splitlines():
        if label := _LABEL.match(line):
            labels[label[1]] = len(instructions)
        elif found := _INSTRUCTION.match(line):
            instructions.append(Instruction(found[2], found[3] or "", found[1] is not None))
    return instructions, labels


def _control_flow(instructions: Sequence[Instruction], labels: Mapping[str, int]) -> tuple[nx.DiGraph[int], dict[int, int]]:
    """Basic blocks, named by the position of their first instruction, and where each ends. Calls return, so they are no edges."""
    branches = [i for i, instruction in enumerate(instructions) if instruction.family in _LEAVING]
    starts = sorted({0, *(i + 1 for i in branches), *labels.values()} - {len(instructions)})
    ends = dict(zip(starts, [*starts[1:], len(instructions)], strict=True))
    flow: nx.DiGraph[int] = nx.DiGraph()
    flow.add_nodes_from(starts)
    for start, end in ends.items():
        last = instructions[end - 1]
        if last.family == "BRA" and (target := _TARGET.search(last.operands)) and target[1] in labels:
            flow.add_edge(start, labels[target[1]])
        # A branch that names a predicate or a condition among its operands can fall through like one with a predicate in front.
        certain = last.family in _LEAVING and not last.predicated and (last.family != "BRA" or last.operands.startswith("`"))
        if not certain and end < len(instructions):
            flow.add_edge(start, end)
    return flow, ends


def _dominates(dominators: Mapping[int, int | None], header: int, block: int) -> bool:
    walk: int | None = block
    while walk is not None and walk != header:
        walk = dominators[walk]
    return walk == header


def _natural_loop(flow: nx.DiGraph[int], header: int, latches: Sequence[int]) -> frozenset[int]:
    blocks = {header}
    waiting = list(latches)
    while waiting:
        block = waiting.pop()
        if block not in blocks:
            blocks.add(block)
            waiting.extend(flow.predecessors(block))
    return frozenset(blocks)


def _bytes_moved(instruction: Instruction) -> int:
    width = _WIDTH.search(instruction.opcode)
    if width:
        return int(width[1]) // 8
    if ".U8" in instruction.opcode or ".S8" in instruction.opcode:
        return 1
    return 2 if ".U16" in instruction.opcode or ".S16" in instruction.opcode else 4


def commits(instruction: Instruction) -> bool:
    """Whether a wgmma ends a group that can be waited for."""
    return instruction.family in WIDE and "gsb0" in instruction.operands


def groups_left(instruction: Instruction) -> int | None:
    """How many groups of wgmma may still run after a wait; None for what does not wait for them."""
    left = _GROUPS_LEFT.search(instruction.operands) if instruction.family == "WARPGROUP.DEPBAR" else None
    return int(left[1], 16) if left else None


def _overlap(body: Sequence[Instruction], families: frozenset[str]) -> float:
    groups = 0
    open_group = False
    seen = covered = 0
    # The first walk brings the queue into its steady state, the second one counts.
    for counting in (False, True):
        for instruction in body:
            family = instruction.family
            if family in WIDE:
                open_group = not commits(instruction)
                groups += not open_group
            elif (left := groups_left(instruction)) is not None:
                groups = min(groups, left)
            elif counting and family in families:
                seen += 1
                covered += open_group or groups > 0
    return covered / seen if seen else 0.0
