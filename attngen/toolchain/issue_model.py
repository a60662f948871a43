"""How long a turn of a loop with asynchronous products takes a program that has an SM to itself: its instructions, walked in their order.

Takes a `Loop` of machine code. All warps walk it side by side, an instruction of each scheduler at a time; products queue up for the tensor
cores as they are issued, and a wait lasts until those that it names are done. So it shows what overlap counts cannot: an exponential
beside products that were done long before, and products that nothing runs beside. Latencies and copies take no time here.
"""

from __future__ import annotations

from attngen.targets.table import Target
from attngen.toolchain import sass
from attngen.toolchain.sass import Instruction, Loop

SCHEDULERS = 4
SHARED_BYTES_PER_CLOCK = 128
# Rates of the tensor cores as a part of that of 16-bit operands.
RATES = {"DMMA": 1 / 16, "IMMA": 2, "QMMA": 2, "OMMA": 2, "QGMMA": 2, "IGMMA": 2}
TF32_RATE = 1 / 2
# Half of the lanes compare, select and convert.
_NARROW = frozenset({"FMNMX", "FSEL", "FSETP", "F2FP", "ISETP", "SEL"})
_NARROW_SLOTS = 2
_ROUNDS = 3


def turn_alone(loop: Loop, num_warps: int, target: Target) -> float:
    """Cycles of a turn once the loop runs steadily.

    Args:
        loop: whose products of tensor cores are wgmma.
        num_warps: that walk it together.
        target: whose rates hold.
    """
    clock = _Clock(num_warps, target)
    marks: list[float] = []
    for _ in range(_ROUNDS):
        for instruction in loop.body:
            clock.issue(instruction)
        marks.append(clock.now)
    return marks[-1] - marks[-2]


def rate_of(instruction: Instruction) -> float:
    """The rate of an instruction of the tensor cores as a part of that of 16-bit operands."""
    return RATES.get(instruction.family, 1.0) * (TF32_RATE if ".TF32" in instruction.opcode else 1)


def operand_bytes(instruction: Instruction) -> int:
    """Bytes of the operands of a wgmma that lie in shared memory: the second one always, the first one unless it is in registers."""
    if instruction.shape is None:
        return 0
    rows, width, depth = instruction.shape
    # Every instruction takes 32 bytes of depth, whatever the type.
    item = 32 // depth
    operands = [text.strip() for text in instruction.operands.split(",")]
    first = 0 if len(operands) > 1 and operands[1].startswith("R") else rows
    return (first + width) * depth * item


class _Clock:
    """Time on an SM: when the next instruction issues, and when the units are free again."""

    def __init__(self, num_warps: int, target: Target) -> None:
        self.num_warps, self.target = num_warps, target
        # Warps of a scheduler take a slot each.
        self.slot = max(1.0, num_warps / SCHEDULERS)
        self.now = self.special = self.tensor = 0.0
        self.groups: list[float] = []

    def issue(self, instruction: Instruction) -> None:
        family = instruction.family
        if instruction.opcode.startswith("MUFU."):
            self.now = max(self.now, self.special)
            self.special = self.now + self.num_warps * self.target.warp_size / self.target.exp2_per_clock
        self.now += self.slot * (_NARROW_SLOTS if family in _NARROW else 1)
        if family in sass.WIDE:
            self.tensor = max(self.tensor, self.now) + self.product(instruction)
            self.groups += [self.tensor] if sass.commits(instruction) else []
        elif (left := sass.groups_left(instruction)) is not None:
            done = self.groups[: max(0, len(self.groups) - left)]
            self.now = max([self.now, *done])
            self.groups = self.groups[len(done) :]

    def product(self, instruction: Instruction) -> float:
        """Cycles of a wgmma of every group of four warps: by the tensor cores, or by shared memory that feeds them."""
        flops = instruction.flops(self.num_warps) / (rate_of(instruction) * self.target.bf16_flops_per_clock)
        return max(flops, operand_bytes(instruction) * instruction.issued(self.num_warps) / SHARED_BYTES_PER_CLOCK)
