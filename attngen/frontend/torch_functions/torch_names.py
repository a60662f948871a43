"""Names of torch functions by treatment in a trace: refused, evaluated, or delegated to a method of the traced value."""

from __future__ import annotations

import difflib

import torch

from attngen.errors import ReductionInMod, TraceError, UnsupportedOperation
from attngen.frontend.torch_functions.pointwise import POINTWISE


def _words(*lines: str) -> frozenset[str]:
    return frozenset(" ".join(lines).split())


RANDOM = _words(
    "rand randn randint rand_like randn_like randint_like randperm bernoulli multinomial normal poisson dropout dropout1d dropout2d",
    "dropout3d alpha_dropout feature_dropout feature_alpha_dropout native_dropout rrelu gumbel_softmax uniform_ normal_ bernoulli_ random_",
    "exponential_ empty empty_like empty_strided new_empty manual_seed seed",
)
"""Random or uninitialised results, which a trace would freeze."""

REDUCTIONS = _words(
    "sum mean prod amax amin aminmax argmax argmin max min median mode norm std var logsumexp softmax log_softmax cumsum cumprod any all",
    "count_nonzero topk sort argsort nansum nanmean quantile cummax cummin logcumsumexp normalize layer_norm std_mean var_mean",
)

METADATA = _words(
    "shape size dim ndim ndimension numel nelement dtype device layout stride is_floating_point is_complex is_cuda requires_grad is_sparse",
    "element_size is_contiguous is_leaf is_quantized __len__ __hash__ __repr__ __format__ storage_offset names is_tensor get_default_dtype",
    "is_inference get_device untyped_storage data_ptr is_conj is_neg grad_fn itemsize nbytes is_same_size is_nested",
)
"""Metadata of a tensor."""

METHODS = _words(
    "to type type_as new_full new_zeros new_ones new_tensor clone contiguous unsqueeze squeeze reshape view any all amax amin sum dot",
    "vdot inner matmul detach numpy item tolist float double half bfloat16 int long short char byte bool dim size __getitem__ __matmul__",
    "__rmatmul__ __array__ is_floating_point shape dtype device ndim",
)
"""Methods of `Traced` that torch also offers as functions."""

ROW_OPERATIONS = _words(
    "__getitem__ __matmul__ dot vdot inner unbind __iter__ to type type_as clone contiguous",
    "float double half bfloat16 int long short char byte bool",
)
"""Operations that, like the pointwise ones, are traced even for captured tensors alone."""

_BY_NAME = (
    'Axes have names in a cascade: values align by them, and attngen.einsum("b h m d, b h n d -> b h m n", q, k) takes them in any order.'
)
_PRODUCTS = _words("matmul bmm mm mv baddbmm einsum tensordot scaled_dot_product_attention linear cosine_similarity cdist outer")
_SHAPES = _words(
    "mT T mH H transpose permute swapaxes movedim view view_as reshape flatten unflatten expand expand_as repeat repeat_interleave chunk",
    "split roll flip tile narrow",
)
_INSTEAD = {
    **dict.fromkeys(("gather", "index_select", "take", "select", "take_along_dim", "embedding"), "Index the tensor: table[i, j]."),
    **dict.fromkeys(("stack", "cat", "concat", "hstack", "vstack"), "Build the tensor before and capture it."),
    **dict.fromkeys(_SHAPES, _BY_NAME),
    "detach": "Pass a detached tensor from outside.",
    "isnan": "Choose with where() before a NaN can arise.",
}
_ALONG_AXES = {
    "softmax": 'attngen.softmax(x, over="n")',
    "log_softmax": 'x - attngen.logsumexp(x, over="n")',
    "logsumexp": 'attngen.logsumexp(x, over="n")',
    "sum": 'attngen.sum(x, over="n")',
    "mean": 'attngen.sum(x, over="n") / attngen.extent("n")',
    **dict.fromkeys(("max", "amax"), 'attngen.max(x, over="n")'),
    **dict.fromkeys(("min", "amin"), '-attngen.max(-x, over="n")'),
    **dict.fromkeys(("norm", "normalize"), 'attngen.sum(x * x, over="d") ** 0.5'),
}
_REDUCED = "attngen.sum, max, logsumexp and softmax with over=..., the name of an axis"

DEFINITE = {"__bool__": "__bool__", "is_nonzero": "__bool__", "__float__": "__float__", "__int__": "__int__", "__index__": "__index__"}

CASTS: dict[str, torch.dtype] = {
    "float": torch.float32,
    "double": torch.float64,
    "half": torch.float16,
    "bfloat16": torch.bfloat16,
    "int": torch.int32,
    "long": torch.int64,
    "short": torch.int16,
    "char": torch.int8,
    "byte": torch.uint8,
    "bool": torch.bool,
}

CUSTOM_OPERATORS = {"approx::tanh": "tanh_approx"}
"""Operators registered outside torch that are equivalent to one of ours (attention-gym's approximate tanh)."""


ALIASES: dict[str, str] = {
    "subtract": "sub",
    "multiply": "mul",
    "divide": "div",
    "true_divide": "div",
    "floor_divide": "floordiv",
    "remainder": "mod",
    "negative": "neg",
    "absolute": "abs",
    "sgn": "sign",
    "clip": "clamp",
    "max": "maximum",
    "min": "minimum",
    "less": "lt",
    "less_equal": "le",
    "greater": "gt",
    "greater_equal": "ge",
    "not_equal": "ne",
    "special_expit": "sigmoid",
    "special_exp2": "exp2",
    "special_erf": "erf",
    "logsigmoid": "log_sigmoid",
    "fix": "trunc",
    "arctan": "atan",
    "arctan2": "atan2",
    "arcsinh": "asinh",
    "arctanh": "atanh",
    "arccosh": "acosh",
    "arcsin": "asin",
    "arccos": "acos",
    "_threshold": "threshold",
    "special_log1p": "log1p",
    "special_expm1": "expm1",
    "special_round": "round",
    "special_logit": "logit",
    "special_sinc": "sinc",
    "special_xlogy": "xlogy",
}


def operation(name: str) -> str | None:
    """The entry of `POINTWISE` for a torch name."""
    name = ALIASES.get(name, name)
    return name if name in POINTWISE else None


def unsupported(name: str) -> TraceError:
    """The error for a torch function that has no meaning here."""
    if name in REDUCTIONS:
        return ReductionInMod(
            f"`{name}` reduces, but a traced value is one element: there is nothing to reduce over",
            remedy=f"Score and mask functions see one score. In a cascade write {_ALONG_AXES.get(name, _REDUCED)}.",
        )
    if name in _PRODUCTS:
        return UnsupportedOperation(f"`{name}` multiplies rows or matrices, but a traced value is one element", remedy=_BY_NAME)
    return UnsupportedOperation(f"`{name}` is not a pointwise operation that attngen knows", remedy=_INSTEAD.get(name) or _nearest(name))


def _nearest(name: str) -> str:
    near = difflib.get_close_matches(name, (*POINTWISE, *ALIASES), n=2, cutoff=0.7)
    return f"Did you mean {' or '.join(near)}?" if near else f"Write it with {', '.join(sorted(POINTWISE))}."
