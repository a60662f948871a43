"""Lists of tiles that outlive a call, where the user asks for it: they depend on the mask and on lengths, not on queries and keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from attngen.ir.cascade import Input
from attngen.kernel.partition import Kernel
from attngen.pipeline import Source


class TileListCache:
    """The lists for the last mask that was seen: made anew as soon as a value that the mask reads, or a length, is another.

    A tensor is another when its memory or PyTorch's count of in-place changes is; writes through numpy or `.data` are not counted.
    """

    def __init__(self) -> None:
        self.last: tuple[tuple[object, ...] | None, tuple[object, ...], dict[str, Any]] = (None, (), {})

    def of(self, source: Source, inputs: Sequence[Input], values: Sequence[Any], call: tuple[object, ...]) -> dict[str, Any] | None:
        """The lists to be used and filled by a call; None where the mask reads an argument, which is another one at each call, and
        while a graph is recorded.

        Args:
            source: the module.
            inputs, values: of the call.
            call: what else the lists depend on: lengths and tiles.
        """
        names = _read(tuple(kernel for kernel, _ in source.lowered if kernel.tile_list_of))
        mine = [(item, value) for item, value in zip(inputs, values, strict=True) if item.name in names]
        if any(item.axes is not None or (isinstance(value, Tensor) and value.is_inference()) for item, value in mine) or _captured():
            return None
        key = (*call, *(_content(value) for _, value in mine))
        known, _, lists = self.last
        if key != known:
            lists = {}
            # The tensors are held, so that no other one takes their memory and with it their key.
            self.last = key, tuple(value for _, value in mine), lists
        return lists


def _read(listings: tuple[Kernel, ...]) -> set[str]:
    """What listing kernels read; what the host derives by sorting counts as what it is derived from."""
    found = {item.name for kernel in listings for item in kernel.inputs}
    return found | {name for kernel in listings for runs in kernel.document_extents for name in (runs.values, runs.keys)}


def _captured() -> bool:
    """Whether a CUDA graph records the call: what is made then is filled when the graph runs, in memory of the graph's own."""
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()


def _content(value: Any) -> object:
    if not isinstance(value, Tensor):
        return value
    stream = torch.cuda.current_stream(value.device).cuda_stream if value.is_cuda else 0
    return value.data_ptr(), value._version, value.dtype, tuple(value.shape), value.stride(), stream  # pyright: ignore[reportPrivateUsage]


def keeping(lists: Mapping[str, Any] | None) -> dict[str, Any]:
    """As an argument of the host functions, which make lists of their own without it."""
    return {} if lists is None else {"lists": lists}
