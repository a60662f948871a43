"""FlexAttention's own kernels, rendered from the templates of the installed torch, without a GPU.

Inductor fills a template by hooks that name arguments, sizes and strides and write the mods; here the hooks write what Inductor writes for
contiguous tensors of fixed sizes. Tiles, warps and stages are those that torch takes on an H100, the text is torch's own.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import ModuleType
from typing import Any, Literal
from unittest import mock

import torch

from attngen.cache.load import load_module
from attngen.schedule.tile_schedule import TileSchedule

Role = Literal["forward", "backward_columns"]
NAME = "flex_attention_kernel"
BATCH, HEADS, LENGTH = 2, 16, 4096
_H100 = (9, 0)
# FlexAttention's default mask block, and its representation of no mask: one block of everything.
_MASK_BLOCK, _WHOLE = 128, 1 << 30
_LISTS = ("KV_NUM_BLKS", "KV_IDX", "FULL_KV_NUM_BLKS", "FULL_KV_IDX")
_TENSORS: dict[Role, tuple[str, ...]] = {
    "forward": ("Q", "K", "V", "LSE", "MAX", *_LISTS),
    "backward_columns": (
        "Q", "K", "V", "LSE", "DELTA", "DO", "DQ", "DV", "KV_NUM_BLKS", "KV_IDX", "Q_NUM_BLKS", "Q_IDX", "FULL_KV_NUM_BLKS", "FULL_KV_IDX",
        "FULL_Q_NUM_BLKS", "FULL_Q_IDX",
    ),
}  # fmt: skip
_STATISTICS = ("LSE", "MAX", "DELTA")
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
    """A kernel as text, with its tile; `signature` has Triton's names for the types of its arguments."""

    text: str
    tile: TileSchedule
    signature: Mapping[str, str]

    def load(self, folder: Path) -> ModuleType:
        """The text as a module, kept in `folder`; the kernel in it is called `NAME`."""
        path = folder / "flex.py"
        path.write_text(self.text)
        return load_module(path, "flex")


def render(mask: str, head_dim: int, role: Role = "forward", length: int = LENGTH) -> Rendered:
    """A kernel for bfloat16 on an H100.

    Args:
        mask: "full", for a call without a block mask, or "causal".
        head_dim: of queries, keys and values.
        role: its backward kernel has programs for keys and programs for queries; "backward_columns" gives the tile of the former.
        length: of queries and keys, a multiple of 128. It is part of the text, and so are BATCH and HEADS.
    """
    from torch._inductor.kernel.flex import flex_attention as flex

    template = flex.flex_attention_template if role == "forward" else flex.flex_attention_backward_template
    blocks, tile = _tile(role, head_dim)
    options = {**_options(mask, head_dim), **blocks}
    hooks = _Hooks(_TENSORS[role], _shapes(mask, head_dim, length), mask, options)
    signature = {f"arg_{name}": _type(name) for name in _TENSORS[role]}
    return Rendered(template.template.render(**hooks.as_dict(), **options), tile, {**signature, "out_ptr0": "*bf16"})


def _type(name: str) -> str:
    if name in _STATISTICS:
        return "*fp32"
    return "*i32" if name.endswith(("BLKS", "IDX")) else "*bf16"


def _tile(role: Role, head_dim: int) -> tuple[dict[str, int], TileSchedule]:
    """Block sizes by their names in the template, and the same as a schedule."""
    from torch._inductor.template_heuristics.triton import CUDAConfigHeuristic

    table: Any = CUDAConfigHeuristic()
    with mock.patch("torch.cuda.get_device_capability", return_value=_H100):
        if role == "forward":
            (config,) = table.get_flex_attn_fwd_configs(head_dim, torch.bfloat16)
            schedule = TileSchedule(config.block_m, config.block_n, config.num_warps, config.num_stages)
            return {"BLOCK_M": config.block_m, "BLOCK_N": config.block_n}, schedule
        (config,) = table.get_flex_attn_bwd_configs(head_dim, torch.bfloat16)
    schedule = TileSchedule(config.block_n1, config.block_m1, config.num_warps, config.num_stages)
    return {name.upper(): getattr(config, name) for name in ("block_m1", "block_n1", "block_m2", "block_n2")}, schedule


def _options(mask: str, head_dim: int) -> dict[str, object]:
    """What FlexAttention sets where the caller sets nothing and gradients are enabled."""
    block = _MASK_BLOCK if mask == "causal" else _WHOLE
    return {
        "PRESCALE_QK": False, "ROWS_GUARANTEED_SAFE": False, "BLOCKS_ARE_CONTIGUOUS": False, "WRITE_DQ": True, "OUTPUT_LOGSUMEXP": True,
        "OUTPUT_MAX": False, "FLOAT32_PRECISION": "'ieee'", "IS_DIVISIBLE": True, "SM_SCALE": head_dim**-0.5, "GQA_SHARED_HEADS": 1,
        "HAS_FULL_BLOCKS": mask == "causal", "QK_HEAD_DIM": head_dim, "QK_HEAD_DIM_ROUNDED": head_dim, "V_HEAD_DIM": head_dim,
        "V_HEAD_DIM_ROUNDED": head_dim, "SAFE_HEAD_DIM": True, "USE_TMA": False, "SPARSE_Q_BLOCK_SIZE": block,
        "SPARSE_KV_BLOCK_SIZE": block,
    }  # fmt: skip


def _shapes(mask: str, head_dim: int, length: int) -> dict[str, tuple[int, ...]]:
    """Of every argument; lists of full blocks are empty without a mask."""
    blocks = length // _MASK_BLOCK if mask == "causal" else 1
    tensor, counts, numbers = (BATCH, HEADS, length, head_dim), (1, 1, blocks), (1, 1, blocks, blocks)
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys(("Q", "K", "V", "DO", "DQ", "DV"), tensor)
    shapes |= dict.fromkeys(_STATISTICS, tensor[:3])
    for side in ("KV", "Q"):
        shapes |= {f"{side}_NUM_BLKS": counts, f"{side}_IDX": numbers}
        shapes |= {f"FULL_{side}_NUM_BLKS": counts, f"FULL_{side}_IDX": numbers} if mask == "causal" else {}
    return shapes


@dataclass(frozen=True, slots=True)
class _Hooks:
    """What a template calls."""

    tensors: tuple[str, ...]
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
        return ", ".join([*(f"arg_{name}" for name in self.tensors), "out_ptr0"])

    def gen_defines(self) -> str:
        return "".join(f"{name} : tl.constexpr = {value}\n" for name, value in (*self.options.items(), ("INDEX_DTYPE", "tl.int32")))

    def size(self, name: str, index: int) -> str:
        return str(self.shapes[name][index])

    def stride(self, name: str, index: int | None = None) -> str:
        strides = _strides(self.shapes[name])
        return ", ".join(map(str, strides)) if index is None else str(strides[index])

    def modification(self, subgraph_number: int, output_name: str | None, **inputs: Any) -> str:
        """The identity as a score mod, its derivative, the mask, and the gradients of captured tensors, of which there are none."""
        if output_name == "mask_mod_output":
            return _MASKS[self.mask].format(**inputs)
        value = inputs["score"] if subgraph_number == 0 else inputs["grad_score_mod"]
        return f"{output_name} = ({value})" if output_name else ""

    def store_output(self, indices: Sequence[str], val: str, mask: str, **_: Any) -> str:
        where = " + ".join(f"{stride}*({index})" for index, stride in zip(indices, _strides(self.shapes["Q"]), strict=True))
        return f"tl.store(out_ptr0 + ({where}), {val}, {mask})"


def _strides(shape: Sequence[int]) -> list[int]:
    return [prod(shape[place + 1 :]) for place in range(len(shape))]
