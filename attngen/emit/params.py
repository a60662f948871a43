"""The run-time parameters of an emitted kernel, as records: what each one is, made where the kernel first asks for it.

    q_ptr, lse_out           pointers to tensors that are read, and that are written
    scale                    a number that is passed by value
    q_stride_m, table_stride_0    strides, in elements
    table_size_0             lengths of dimensions that computed positions are guarded by
    chunk_begin, chunk_end   the chunk of rows that a launch is for
    len_m                    lengths of axes

Whoever passes an argument, types it or decides whether a build may depend on its value reads the record, never the name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from attngen.emit.identifiers import Code

ParamKind = Literal["pointer", "result", "number", "stride", "size", "bound", "length"]
Memory = Literal["tensor", "tile_list", "tile_counts", "gradient_tiles", "gradient_keys"]
_ORDER: dict[ParamKind, int] = {"pointer": 0, "result": 1, "number": 2, "bound": 2, "stride": 3, "size": 4, "length": 5}


@dataclass(frozen=True, slots=True)
class Param:
    """One run-time parameter.

    Attributes:
        name: in the kernel.
        kind: what is passed.
        tensor: what the host calls the tensor that is pointed to, or whose stride or size this is; of a number, the number.
        dim: the dimension of that tensor which a stride or a size belongs to.
        axis: whose length this is, of a length.
        memory: what the tensor is: one of the program, the numbers of the tiles to visit, the counts of these by row, or the buffers of a
            chunk of rows, which hold tiles of a gradient and the positions that their elements belong to.
    """

    name: Code
    kind: ParamKind
    tensor: str = ""
    dim: int = 0
    axis: str = ""
    memory: Memory = "tensor"

    @property
    def order(self) -> int:
        """Its place in the signature: pointers, results, numbers, strides, sizes, lengths."""
        return _ORDER[self.kind]

    @property
    def is_pointer(self) -> bool:
        """Whether a tensor is passed."""
        return self.kind in ("pointer", "result")

    @property
    def is_chunk_stride(self) -> bool:
        """Whether it is a stride of a buffer, which the host lays out for each chunk of rows."""
        return self.kind == "stride" and self.memory in ("gradient_tiles", "gradient_keys")


def pointer(tensor: Code, memory: Memory = "tensor") -> Param:
    """The address of a tensor that is read; `tensor` is the host's name for it."""
    return Param(Code(f"{tensor}_ptr"), "pointer", tensor, memory=memory)


def result(tensor: Code, memory: Memory = "tensor") -> Param:
    """The address of a tensor that is written."""
    return Param(Code(f"{tensor}_out"), "result", tensor, memory=memory)


def number(name: Code) -> Param:
    """A number that is passed by value."""
    return Param(name, "number", name)


def stride(tensor: Code, dim: int, axis: str = "", memory: Memory = "tensor") -> Param:
    """The stride of a dimension, called after its axis where the tensor has axes."""
    return Param(Code(f"{tensor}_stride_{axis or dim}"), "stride", tensor, dim, memory=memory)


def size(tensor: Code, dim: int) -> Param:
    """The length of a dimension of a captured tensor."""
    return Param(Code(f"{tensor}_size_{dim}"), "size", tensor, dim)


def length(axis: str) -> Param:
    """The length of an axis."""
    return Param(Code(f"len_{axis}"), "length", axis=axis)


CHUNK = (Param(Code("chunk_begin"), "bound"), Param(Code("chunk_end"), "bound"))
"""Of a kernel that is called for a chunk of rows: the first one, and the first one behind it."""
