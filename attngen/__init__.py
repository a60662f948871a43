"""attngen: a compiler for attention variants.

    spec = attngen.attention(score_mod=alibi, mask_mod=causal)
    attend = attngen.compile(spec, arch="sm90")
    out = attend(q, k, v)

Everything public is a name of this package, imported when it is first used.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from attngen.version import VERSION as __version__

if TYPE_CHECKING:
    from attngen.api import Attention, compile
    from attngen.frontend.attention import attention
    from attngen.frontend.block_sparse import block_table
    from attngen.frontend.cascade_function import cascade
    from attngen.frontend.dropout import dropout
    from attngen.frontend.low_rank import factor, low_rank
    from attngen.frontend.neighborhood import grid
    from attngen.frontend.spec import Spec
    from attngen.generation import generate
    from attngen.merging import merge
    from attngen.tuning.tune import tune

_FUNCTIONS = tuple(
    """
    einsum sum max logsumexp softmax index extent causal sliding_window exp exp2 log log2 sqrt rsqrt sin cos erf tanh sigmoid
    softplus relu gelu silu abs floor minimum maximum clamp where logaddexp divide_or_zero
    """.split()  # noqa: SIM905  as a list it would fill a screen
)
_HOMES = {
    "Attention": "attngen.api",
    "compile": "attngen.api",
    "generate": "attngen.generation",
    "merge": "attngen.merging",
    "tune": "attngen.tuning.tune",
    "attention": "attngen.frontend.attention",
    "block_table": "attngen.frontend.block_sparse",
    "cascade": "attngen.frontend.cascade_function",
    "dropout": "attngen.frontend.dropout",
    "factor": "attngen.frontend.low_rank",
    "grid": "attngen.frontend.neighborhood",
    "low_rank": "attngen.frontend.low_rank",
    "Spec": "attngen.frontend.spec",
    **dict.fromkeys(_FUNCTIONS, "attngen.frontend.functions"),
}


if "torch" in sys.modules:
    # Programs saved by torch.export are loaded without a call of attngen; what they lack has to say so.
    import_module("attngen.calls.namespace")


def __getattr__(name: str) -> Any:
    """Public names are imported on first use, so that `import attngen` and the command line stay quick."""
    if name not in _HOMES:
        raise _unknown(name)
    return getattr(import_module(_HOMES[name]), name)


def _unknown(name: str) -> AttributeError:
    if name.startswith("__"):
        return AttributeError(f"module 'attngen' has no attribute {name!r}")
    import difflib

    from attngen.errors import UnknownName

    near = difflib.get_close_matches(name, _HOMES, n=3, cutoff=0.5)
    remedy = f"Did you mean {' or '.join(f'attngen.{word}' for word in near)}?" if near else f"It has {', '.join(sorted(_HOMES))}."
    return UnknownName(f"attngen has no {name!r}", remedy=remedy)


def __dir__() -> list[str]:
    return sorted([*_HOMES, "__version__", "errors"])


__all__ = [
    "Attention",
    "Spec",
    "__version__",
    "attention",
    "block_table",
    "cascade",
    "compile",
    "dropout",
    "factor",
    "generate",
    "grid",
    "low_rank",
    "merge",
    "tune",
    *_FUNCTIONS,
]
