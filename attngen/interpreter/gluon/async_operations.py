"""What a simulated Gluon program does asynchronously: copies by tensor descriptors, and products of warpgroups.

A copy reads global memory and writes shared memory at a moment that chance picks after it is issued; a product reads its shared operands
between its issue and its wait. Until then its result is a `ProductInFlight`, which only another product or a wait may take.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from attngen.interpreter.gluon.race_detector import ProtocolError
from attngen.interpreter.gluon.shared_buffers import Memory, barrier_of, block, extents, plain
from attngen.interpreter.gluon.warp_scheduler import current
from attngen.interpreter.language import BUILDER, Handle
from attngen.interpreter.triton_api import tl

_ALIGNMENT = 16


@dataclass(frozen=True, eq=False)
class Descriptor:
    """A tensor in global memory, seen in blocks.

    Attributes:
        base: pointer to its first element.
        tensor_shape, strides: extents and, in elements, distances between neighbours.
        block_shape: extents of a block.
    """

    base: Any
    tensor_shape: tuple[int, ...]
    strides: tuple[int, ...]
    block_shape: list[int]
    layout: Any

    @property
    def dtype(self) -> Any:
        return self.base.dtype.element_ty

    @property
    def block_type(self) -> Any:
        return tl.block_type(self.dtype, self.block_shape)

    def pointers(self, coord: tuple[int, ...]) -> tuple[Any, Any]:
        """Handles of the addresses of the block at `coord`, and of whether each lies in the tensor."""
        address = np.full(self.block_shape, self.base.handle.data.item(), np.uint64)
        inside = np.ones(self.block_shape, bool)
        itemsize = self.dtype.primitive_bitwidth // 8
        for axis, (start, extent) in enumerate(zip(coord, self.block_shape, strict=True)):
            at = (start + np.arange(extent, dtype=np.int64)).reshape([-1 if other == axis else 1 for other in range(len(coord))])
            address += (at * (self.strides[axis] * itemsize)).astype(np.uint64)
            inside &= (at >= 0) & (at < self.tensor_shape[axis])
        return Handle(address, self.base.dtype), Handle(inside, tl.int1)


def _make_tensor_descriptor(base: Any, shape: Any, strides: Any, block_shape: Any, layout: Any, padding_option: Any = "zero") -> Descriptor:
    made = Descriptor(base, tuple(extents(shape)), tuple(extents(strides)), extents(block_shape), plain(layout))
    itemsize = made.dtype.primitive_bitwidth // 8
    if plain(padding_option) != "zero":
        raise ValueError("only padding with zeros is simulated")
    if not len(made.tensor_shape) == len(made.strides) == len(made.block_shape) or not 1 <= len(made.tensor_shape) <= 5:
        raise ValueError(f"shape {made.tensor_shape}, strides {made.strides} and block {made.block_shape} of a descriptor")
    if made.strides[-1] != 1 or any(stride * itemsize % _ALIGNMENT for stride in made.strides[:-1]):
        raise ValueError(f"strides {made.strides} of a descriptor: the last must be 1, the others multiples of {_ALIGNMENT} bytes")
    if base.handle.data.item() % _ALIGNMENT or made.block_shape[-1] * itemsize < _ALIGNMENT:
        raise ValueError(f"a descriptor needs a base at a multiple of {_ALIGNMENT} bytes and rows of blocks at least as long")
    return made


def _coordinates(descriptor: Descriptor, coord: Any, memory: Memory) -> tuple[int, ...]:
    found = tuple(extents(coord))
    if len(found) != len(descriptor.block_shape):
        raise ValueError(f"{len(found)} coordinates for a descriptor of rank {len(descriptor.block_shape)}")
    if memory.shape != descriptor.block_shape or memory.dtype != descriptor.dtype:
        raise TypeError(f"shared memory {memory.dtype}{memory.shape} for blocks {descriptor.dtype}{descriptor.block_shape}")
    if memory.layout != descriptor.layout:
        raise TypeError(f"shared memory laid out as {memory.layout} for blocks laid out as {descriptor.layout}")
    return found


def _load(tensor_desc: Descriptor, coord: Any, barrier: Any, result: Memory, pred: Any = True) -> None:
    program = current()
    program.step()
    if not plain(pred):
        return
    start, arrived, known = _coordinates(tensor_desc, coord, result), barrier_of(barrier), dict(program.running.clock)
    arrived.check_live()

    def land() -> None:
        addresses, inside = tensor_desc.pointers(start)
        zeros = Handle(np.zeros(inside.data.shape, result.data.dtype), tensor_desc.dtype)
        result.data[...] = BUILDER.create_masked_load(addresses, inside, zeros, None, None, False).data
        arrived.complete(result.data.nbytes, operation.what, known)

    # The end of the phase in which it lands is what makes a copy known to be done.
    operation = program.issue("the copy", land, arrived, arrived.phase + 1, writes=(result.data,), waited=False)


def _store(tensor_desc: Descriptor, coord: Any, src: Memory) -> None:
    program = current()
    program.step()
    start = _coordinates(tensor_desc, coord, src)
    program.check_fenced(src.data)

    def leave() -> None:
        addresses, inside = tensor_desc.pointers(start)
        BUILDER.create_masked_store(addresses, Handle(src.data.copy(), src.dtype), inside, None, None)

    me = program.running
    me.stores.append(program.issue("the store", leave, (me, "stores"), reads=(src.data,), waited=True))


def _store_wait(pendings: Any) -> None:
    program = current()
    program.step()
    while len(program.running.stores) > plain(pendings):
        program.finish(program.running.stores.pop(0))


TMA = SimpleNamespace(
    make_tensor_descriptor=_make_tensor_descriptor,
    async_copy_global_to_shared=_load,
    async_copy_shared_to_global=_store,
    store_wait=_store_wait,
)
"""Stands in for the module of copies."""


class ProductInFlight:
    """`a @ b + acc`, not waited for. Whatever a kernel asks of it, but to accumulate further or to wait, is an error."""

    def __init__(self, a: Any, b: Memory, acc: Any, use_acc: bool) -> None:
        program = current()
        memories = [operand for operand in (a, b) if isinstance(operand, Memory)]
        for memory in memories:
            program.check_fenced(memory.data)
        self._operands = (a, b)
        self._acc, self._use_acc = acc, use_acc
        self._known: Any = None
        reads = tuple(memory.data for memory in memories)
        me = program.running
        self._operation = program.issue("the product", self._read, (me, "products"), reads=reads, waited=True)
        me.products.append(self._operation)

    def _read(self) -> None:
        self._operands = tuple(block(item.data.copy(), item.dtype) if isinstance(item, Memory) else item for item in self._operands)

    def _result(self) -> Any:
        """The product, once it has been waited for; until then itself."""
        if self._operation in current().operations:
            return self
        if self._known is None:
            acc = self._acc._result() if isinstance(self._acc, ProductInFlight) else self._acc
            acc = acc if self._use_acc else tl.zeros(extents(acc.shape), acc.dtype)
            a, b = self._operands
            self._known = tl.dot(a, b, acc, input_precision="ieee", out_dtype=acc.dtype)
        return self._known

    def __repr__(self) -> str:
        return f"{self._operation.what}, which warpgroup_mma_wait has not waited for"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise ProtocolError(f"{name} is asked of {self!r}")


def _accumulator(acc: Any) -> Any:
    """The tensor that a chain of products began with, for its shape and type."""
    while isinstance(acc, ProductInFlight):
        acc = acc._acc
    return acc


def warpgroup_mma(
    a: Any,
    b: Any,
    acc: Any,
    *,
    use_acc: Any = True,
    precision: Any = None,
    max_num_imprecise_acc: Any = None,
    is_async: Any = False,
) -> Any:
    """`a @ b + acc`, or `a @ b` without `use_acc`; a `ProductInFlight` if asynchronous. Operands are never rounded."""
    current().step()
    if not isinstance(b, Memory) or not isinstance(a, Memory | tl.tensor) or not isinstance(_accumulator(acc), tl.tensor):
        raise TypeError(f"warpgroup_mma of {a!r}, {b!r} and {acc!r}")
    (rows, inner), (inner_b, columns), result = extents(a.shape), b.shape, _accumulator(acc)
    if inner != inner_b or extents(result.shape) != [rows, columns] or a.dtype != b.dtype:
        shapes = f"{a.dtype}{extents(a.shape)} @ {b.dtype}{b.shape} + {result.dtype}{extents(result.shape)}"
        raise TypeError(f"warpgroup_mma of {shapes}")
    product = ProductInFlight(a, b, acc, bool(plain(use_acc)))
    return product if plain(is_async) else warpgroup_mma_wait(0, (product,))


def warpgroup_mma_wait(num_outstanding: Any = 0, deps: Any = None) -> Any:
    """Wait until at most so many products are in flight; give `deps` (or the only one) with products that have ended as tensors."""
    if deps is None:
        raise ValueError("warpgroup_mma_wait needs deps")
    program = current()
    program.step()
    while len(program.running.products) > plain(num_outstanding):
        program.finish(program.running.products.pop(0))
    found = tuple(item._result() if isinstance(item, ProductInFlight) else item for item in deps)
    return found[0] if len(found) == 1 else found
