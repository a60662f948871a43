"""The difference of two softmaxes over shared values.

Emitted by attngen 0.1.0; needs torch and triton only. Runs on the GPUs named in TILES:

    from differential import attention

    o = attention(q1, q2, k1, k2, v, lam)

Beside it stand `kernels.py`, the kernels and what they compute, and `manifest.json` with tiles,
registers, spills and shared bytes as compiled.
"""

import torch

from . import kernels

# Blocks, warps and stages of each kernel, by architecture, dtype and the lengths of d, e.
TILES = {
    ("sm80", "bfloat16", 64, 64): {
        "forward": {"BLOCK_M": 64, "BLOCK_N": 32, "num_warps": 4, "num_stages": 2},
        "backward_prepare": {"BLOCK_M": 64, "num_warps": 4, "num_stages": 1},
        "backward_rows": {"BLOCK_M": 64, "BLOCK_N": 16, "num_warps": 4, "num_stages": 3},
        "backward_columns": {"BLOCK_N": 64, "BLOCK_M": 32, "num_warps": 4, "num_stages": 2},
    },
    ("sm80", "bfloat16", 128, 128): {
        "forward": {"BLOCK_M": 128, "BLOCK_N": 16, "num_warps": 8, "num_stages": 2},
        "backward_prepare": {"BLOCK_M": 64, "num_warps": 4, "num_stages": 1},
        "backward_rows": {"BLOCK_M": 128, "BLOCK_N": 16, "num_warps": 8, "num_stages": 2},
        "backward_columns": {"BLOCK_N": 32, "BLOCK_M": 64, "num_warps": 8, "num_stages": 2},
    },
    ("sm90", "bfloat16", 64, 64): {
        "forward": {"BLOCK_M": 128, "BLOCK_N": 64, "num_warps": 8, "num_stages": 2, "TMA": True},
        "backward_prepare": {"BLOCK_M": 64, "num_warps": 4, "num_stages": 1},
        "backward_rows": {
            "BLOCK_M": 128,
            "BLOCK_N": 64,
            "num_warps": 8,
            "num_stages": 2,
            "TMA": True,
        },
        "backward_columns": {
            "BLOCK_N": 64,
            "BLOCK_M": 32,
            "num_warps": 4,
            "num_stages": 2,
            "TMA": True,
        },
    },
    ("sm90", "bfloat16", 128, 128): {
        "forward": {"BLOCK_M": 128, "BLOCK_N": 64, "num_warps": 8, "num_stages": 2, "TMA": True},
        "backward_prepare": {"BLOCK_M": 64, "num_warps": 4, "num_stages": 1},
        "backward_rows": {
            "BLOCK_M": 128,
            "BLOCK_N": 32,
            "num_warps": 8,
            "num_stages": 2,
            "TMA": True,
        },
        "backward_columns": {
            "BLOCK_N": 64,
            "BLOCK_M": 32,
            "num_warps": 8,
            "num_stages": 2,
            "TMA": True,
        },
    },
}


def attention(q1, q2, k1, k2, v, lam, *, tiles=None):
    """The difference of two softmaxes over shared values.

    Args:
        q1: [b, (g r), m, d].
        q2: [b, (g r), m, d].
        k1: [b, g, n, d].
        k2: [b, g, n, d].
        v: [b, g, n, e].
        lam: [(g r)].
        tiles: blocks, warps and stages by kernel, in place of a row of TILES.

    Returns:
        o: [b, (g r), m, e]. Gradients reach q1, q2, k1, k2, v, lam.
    """
    check_tensors(q1=(q1, 4), q2=(q2, 4), k1=(k1, 4), k2=(k2, 4), v=(v, 4))
    check_numbers(q1, lam=(lam, 1))
    len_b = q1.shape[0]
    len_m = q1.shape[2]
    len_d = q1.shape[3]
    len_g = k1.shape[1]
    len_n = k1.shape[2]
    len_e = v.shape[3]
    len_r = q1.shape[1] // max(len_g, 1)
    check_shape("q1", q1, (len_b, len_g * len_r, len_m, len_d))
    check_shape("q2", q2, (len_b, len_g * len_r, len_m, len_d))
    check_shape("k1", k1, (len_b, len_g, len_n, len_d))
    check_shape("k2", k2, (len_b, len_g, len_n, len_d))
    check_shape("v", v, (len_b, len_g, len_n, len_e))
    check_shape("lam", lam, (len_g * len_r,))
    q1 = q1.unflatten(1, (len_g, len_r))
    q2 = q2.unflatten(1, (len_g, len_r))
    lam = lam.unflatten(0, (len_g, len_r))
    if tiles is None:
        tiles = find_tiles(q1, len_d, len_e)
    o, *_ = Attention.apply(tiles, q1, q2, k1, k2, v, lam)
    o = o.flatten(1, 2)
    return o


class Attention(torch.autograd.Function):
    """The kernels as one differentiable operation on tensors whose heads are split."""

    @staticmethod
    def forward(ctx, tiles, q1, q2, k1, k2, v, lam):
        q1 = dense(q1)
        q2 = dense(q2)
        k1 = dense(k1)
        k2 = dense(k2)
        v = dense(v)
        o, acc_end, lse, lse2 = kernels.forward(q1, q2, k1, k2, v, lam, tiles)
        ctx.save_for_backward(q1, q2, k1, k2, v, lam, o, acc_end, lse, lse2)
        ctx.tiles = tiles
        ctx.mark_non_differentiable(acc_end, lse, lse2)
        return o, acc_end, lse, lse2

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, do, _0, _1, _2):
        q1, q2, k1, k2, v, lam, o, acc_end, lse, lse2 = ctx.saved_tensors
        names = ["q1", "q2", "k1", "k2", "v", "lam"]
        needed = {name for name, wanted in zip(names, ctx.needs_input_grad[1:]) if wanted}
        found = kernels.backward(
            q1, q2, k1, k2, v, lam, o, acc_end, lse, lse2, dense(do), ctx.tiles, needed
        )
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


def check_numbers(operand, **ranks):
    """Numbers of rows, keys, pairs or heads have the dtype of the operands, or float32."""
    for name, (tensor, rank) in ranks.items():
        if tensor.dim() != rank:
            raise ValueError(f"{name} must have {rank} dimensions, got shape {tuple(tensor.shape)}")
        wrong = tensor.is_floating_point() and tensor.dtype not in (operand.dtype, torch.float32)
        if wrong or tensor.device != operand.device:
            found = f"{tensor.dtype} on {tensor.device}"
            raise ValueError(f"{name} is {found}, expected {operand.dtype} on {operand.device}")


def check_shape(name, tensor, shape):
    """The lengths that the other arguments imply."""
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{name} must have shape {shape}, got {tuple(tensor.shape)}")


def dense(tensor):
    """A tensor whose features are contiguous."""
    return tensor if tensor.stride(-1) == 1 or tensor.shape[-1] < 2 else tensor.contiguous()
