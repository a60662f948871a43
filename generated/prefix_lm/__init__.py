"""Causal softmax attention in which all queries see the first prefix[batch] keys.

Emitted by attngen 0.1.0; needs torch and triton only. Runs on the GPUs named in TILES:

    from prefix_lm import attention

    o = attention(q, k, v, prefix)

Beside it stand `kernels.py`, the kernels and what they compute, and `manifest.json` with tiles,
registers, spills and shared bytes as compiled.
"""

import torch

from . import kernels

# Blocks, warps and stages of each kernel, by architecture, dtype and the lengths of d, e.
TILES = {
    ("sm80", "bfloat16", 64, 64): {
        "forward": {"BLOCK_M": 64, "BLOCK_N": 64, "num_warps": 4, "num_stages": 2},
        "backward_prepare": {"BLOCK_M": 64, "num_warps": 4, "num_stages": 1},
        "backward_rows": {"BLOCK_M": 64, "BLOCK_N": 32, "num_warps": 4, "num_stages": 3},
        "backward_columns": {"BLOCK_N": 64, "BLOCK_M": 32, "num_warps": 4, "num_stages": 3},
    },
    ("sm80", "bfloat16", 128, 128): {
        "forward": {"BLOCK_M": 128, "BLOCK_N": 32, "num_warps": 8, "num_stages": 2},
        "backward_prepare": {"BLOCK_M": 64, "num_warps": 4, "num_stages": 1},
        "backward_rows": {"BLOCK_M": 64, "BLOCK_N": 32, "num_warps": 4, "num_stages": 2},
        "backward_columns": {"BLOCK_N": 128, "BLOCK_M": 16, "num_warps": 8, "num_stages": 2},
    },
    ("sm90", "bfloat16", 64, 64): {
        "forward": {
            "BLOCK_M": 128,
            "BLOCK_N": 128,
            "num_warps": 8,
            "num_stages": 2,
            "PIPE": True,
            "TMA": True,
        },
        "backward_prepare": {"BLOCK_M": 64, "num_warps": 4, "num_stages": 1},
        "backward_rows": {
            "BLOCK_M": 64,
            "BLOCK_N": 128,
            "num_warps": 4,
            "num_stages": 2,
            "TMA": True,
        },
        "backward_columns": {
            "BLOCK_N": 128,
            "BLOCK_M": 64,
            "num_warps": 8,
            "num_stages": 2,
            "TMA": True,
        },
    },
    ("sm90", "bfloat16", 128, 128): {
        "forward": {
            "BLOCK_M": 128,
            "BLOCK_N": 128,
            "num_warps": 8,
            "num_stages": 2,
            "PIPE": True,
            "LATE": True,
            "TMA": True,
        },
        "backward_prepare": {"BLOCK_M": 64, "num_warps": 4, "num_stages": 1},
        "backward_rows": {"BLOCK_M": 128, "BLOCK_N": 64, "num_warps": 8, "num_stages": 2},
        "backward_columns": {
            "BLOCK_N": 128,
            "BLOCK_M": 64,
            "num_warps": 8,
            "num_stages": 2,
            "TMA": True,
        },
    },
}


def attention(q, k, v, prefix, *, return_lse=False, tiles=None):
    """Causal softmax attention in which all queries see the first prefix[batch] keys.

    Args:
        q: [b, (g r), m, d].
        k: [b, g, n, d].
        v: [b, g, n, e].
        prefix: integers, 1 dimension.
        return_lse: also return lse, [b, (g r), m], a row statistic in fp32.
        tiles: blocks, warps and stages by kernel, in place of a row of TILES.

    Returns:
        o: [b, (g r), m, e]. Gradients reach q, k, v.
    """
    check_tensors(q=(q, 4), k=(k, 4), v=(v, 4))
    len_b = q.shape[0]
    len_m = q.shape[2]
    len_d = q.shape[3]
    len_g = k.shape[1]
    len_n = k.shape[2]
    len_e = v.shape[3]
    len_r = q.shape[1] // max(len_g, 1)
    check_shape("q", q, (len_b, len_g * len_r, len_m, len_d))
    check_shape("k", k, (len_b, len_g, len_n, len_d))
    check_shape("v", v, (len_b, len_g, len_n, len_e))
    check_length("prefix", prefix, 0, len_b)
    q = q.unflatten(1, (len_g, len_r))
    if tiles is None:
        tiles = find_tiles(q, len_d, len_e)
    o, lse = Attention.apply(tiles, q, k, v, prefix)
    o = o.flatten(1, 2)
    lse = lse.flatten(1, 2)
    if return_lse:
        return o, lse
    return o


class Attention(torch.autograd.Function):
    """The kernels as one differentiable operation on tensors whose heads are split."""

    @staticmethod
    def forward(ctx, tiles, q, k, v, prefix):
        q = dense(q)
        k = dense(k)
        v = dense(v)
        o, lse = kernels.forward(q, k, v, prefix, tiles)
        ctx.save_for_backward(q, k, v, prefix, o, lse)
        ctx.tiles = tiles
        return o, lse

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, do, dlse):
        q, k, v, prefix, o, lse = ctx.saved_tensors
        names = ["q", "k", "v", "prefix"]
        needed = {name for name, wanted in zip(names, ctx.needs_input_grad[1:]) if wanted}
        found = kernels.backward(q, k, v, prefix, o, lse, dense(do), dense(dlse), ctx.tiles, needed)
        return None, *(found.get(name) for name in names)


def find_tiles(tensor, *lengths):
    """The row of TILES for the device and dtype of a tensor."""
    if tensor.device.type != "cuda":
        raise ValueError(f"these kernels run on GPUs, the arguments are on {tensor.device}")
    if torch.version.hip is not None:
        arch = torch.cuda.get_device_properties(tensor.device).gcnArchName.partition(":")[0]
    else:
        major, minor = torch.cuda.get_device_capability(tensor.device)
        arch = f"sm{10 * major + minor}"
    key = (arch, str(tensor.dtype).removeprefix("torch."), *lengths)
    if key not in TILES:
        known = "\n".join(str(row) for row in TILES)
        raise ValueError(f"there is no kernel for {key}; there are\n{known}\nGenerate more.")
    return TILES[key]


def check_tensors(**ranks):
    """One dtype and one device, and as many dimensions as named."""
    first = next(iter(ranks.values()))[0]
    for name, (tensor, rank) in ranks.items():
        if tensor.dim() != rank:
            raise ValueError(f"{name} must have {rank} dimensions, got shape {tuple(tensor.shape)}")
        if (tensor.dtype, tensor.device) != (first.dtype, first.device):
            found = f"{tensor.dtype} on {tensor.device}"
            raise ValueError(f"{name} is {found}, expected {first.dtype} on {first.device}")


def check_shape(name, tensor, shape):
    """The lengths that the other arguments imply."""
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{name} must have shape {shape}, got {tuple(tensor.shape)}")


def check_length(name, tensor, dimension, length):
    """A tensor that is indexed by positions reaches as far as they do."""
    if tensor.shape[dimension] < length:
        shape = tuple(tensor.shape)
        raise ValueError(f"dimension {dimension} of {name} needs {length} elements, got {shape}")


def dense(tensor):
    """A tensor whose features are contiguous."""
    return tensor if tensor.stride(-1) == 1 or tensor.shape[-1] < 2 else tensor.contiguous()
