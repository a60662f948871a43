"""FlexAttention's own forward kernel, rendered from the template of the installed torch, without a GPU.

Inductor fills the template by hooks that name arguments, sizes and strides and write the mods; here the hooks write what Inductor writes for
contiguous tensors of fixed sizes. Tiles, warps and stages are those of torch's table for an H100. Nothing of the template is copied.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from attngen.cache.load import load_module

NAME = "flex_attention_kernel"
BATCH, HEADS, LENGTH = 2, 16, 4096
# FlexAttention's default block of a mask, and what stands for no mask: one block that holds everything.
_MASK_BLOCK, _WHOLE = 128, 1 << 30
_IMPORTS = """\
import triton
import triton.language as tl
from torch._inductor.runtime import triton_helpers
from torch._inductor.runtime.triton_helpers import libdevice, math as tl_math
"""
_MASKS = {
    "full": "mask_mod_output = tl.full([1], True, tl.int1)",
    "causal": "mask_mod_output = ({m}) >= ({n})",
}


@dataclass(frozen=True, slots=True)
class Rendered:
    """A kernel as text, with its tile."""

    text: str
    block_m: int
    block_n: int
    num_warps: int
    num_stages: int

    def load(self, folder: Path) -> ModuleType:
        """The text as a module, kept in `folder`, whose `flex_attention_kernel` takes `arguments()`."""
        path = folder / "flex.py"
        path.write_text(self.text)
        return load_module(path, "flex")


def arguments() -> tuple[str, ...]:
    """Names of the kernel's arguments: tensors, row statistics, lists of blocks of the mask, output."""
    names = ("Q", "K", "V", "LSE", "MAX", "KV_NUM_BLKS", "KV_IDX", "FULL_KV_NUM_BLKS", "FULL_KV_IDX")
    return (*(f"arg_{name}" for name in names), "out_ptr0")


def render(mask: str, head_dim: int) -> Rendered:
    """The kernel for bfloat16 on an H100.

    Args:
        mask: "full", for a call without a block mask, or "causal".
        head_dim: of queries, keys and values.
    """
    from torch._inductor.kernel.flex.flex_attention import flex_attention_template
    from torch._inductor.template_heuristics.triton import CUDAConfigHeuristic

    config = CUDAConfigHeuristic().h100_default_flex_config[torch.bfloat16, head_dim]
    options = _options(mask, head_dim, config)
    hooks = _Hooks(_shapes(mask, head_dim), mask, options)
    text = flex_attention_template.template.render(**hooks.as_dict(), **options)
    return Rendered(text, config.block_m, config.block_n, config.num_warps, config.num_stages)


def _options(mask: str, head_dim: int, config: Any) -> dict[str, object]:
    """What FlexAttention sets where the caller sets nothing and gradients are enabled."""
    block = _MASK_BLOCK if mask == "causal" else _WHOLE
    return {
        "PRESCALE_QK": False, "ROWS_GUARANTEED_SAFE": False, "BLOCKS_ARE_CONTIGUOUS": False, "WRITE_DQ": True, "OUTPUT_LOGSUMEXP": True,
        "OUTPUT_MAX": False, "FLOAT32_PRECISION": "'ieee'", "IS_DIVISIBLE": True, "SM_SCALE": head_dim**-0.5, "GQA_SHARED_HEADS": 1,
        "HAS_FULL_BLOCKS": mask == "causal", "QK_HEAD_DIM": head_dim, "QK_HEAD_DIM_ROUNDED": head_dim, "V_HEAD_DIM": head_dim,
        "V_HEAD_DIM_ROUNDED": head_dim, "SAFE_HEAD_DIM": True, "USE_TMA": False, "BLOCK_M": config.block_m, "BLOCK_N": config.block_n,
        "SPARSE_Q_BLOCK_SIZE": block, "SPARSE_KV_BLOCK_SIZE": block,
    }  # fmt: skip


def _shapes(mask: str, head_dim: int) -> dict[str, tuple[int, ...]]:
    blocks = LENGTH // _MASK_BLOCK if mask == "causal" else 1
    tensor = (BATCH, HEADS, LENGTH, head_dim)
    full = ((1, 1, blocks), (1, 1, blocks, blocks)) if mask == "causal" else ((0,), (0,))
    return {
        "Q": tensor, "K": tensor, "V": tensor, "LSE": tensor[:3], "MAX": tensor[:3], "KV_NUM_BLKS": (1, 1, blocks),
        "KV_IDX": (1, 1, blocks, blocks), "FULL_KV_NUM_BLKS": full[0], "FULL_KV_IDX": full[1],
    }  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Hooks:
    """What the template calls."""

    shapes: Mapping[str, tuple[int, ...]]
    mask: str
    options: Mapping[str, object]

    def as_dict(self) -> dict[str, Any]:
        names = ("def_kernel", "gen_argdefs", "gen_defines", "size", "stride", "modification", "store_output")
        return {name: getattr(self, name) for name in names}

    def def_kernel(self, *names: str) -> str:
        renames = "\n".join(f"{name} = arg_{name}" for name in names)
        head = f"{_IMPORTS}\n\n@triton.jit\ndef {NAME}({self.gen_argdefs()}):\n"
        return head + textwrap.indent(self.gen_defines() + renames, "    ") + "\n"

    def gen_argdefs(self) -> str:
        return ", ".join(arguments())

    def gen_defines(self) -> str:
        return "".join(f"{name} : tl.constexpr = {value}\n" for name, value in (*self.options.items(), ("INDEX_DTYPE", "tl.int32")))

    def size(self, name: str, index: int) -> str:
        return str(self.shapes[name][index])

    def stride(self, name: str, index: int | None = None) -> str:
        strides = _strides(self.shapes[name])
        return ", ".join(map(str, strides)) if index is None else str(strides[index])

    def modification(self, subgraph_number: int, output_name: str, **inputs: Any) -> str:
        return f"{output_name} = ({inputs['score']})" if subgraph_number == 0 else _MASKS[self.mask].format(**inputs)

    def store_output(self, indices: Sequence[str], val: str, mask: str, **_: Any) -> str:
        where = " + ".join(f"{stride}*{index}" for index, stride in zip(indices, _strides(self.shapes["Q"]), strict=True))
        return f"tl.store(out_ptr0 + ({where}), {val}, {mask})"


def _strides(shape: Sequence[int]) -> list[int]:
    return [prod(shape[place + 1 :]) for place in range(len(shape))]
