"""The workloads by priority: when the budget runs out, the rest is skipped.

Plain values without torch, so that planning is fast on any machine. `problems` turns a workload into tensors and mods, `contenders` says
who can run it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

GRID_VARIANTS = ("causal", "noop", "alibi", "window", "document", "softcap", "prefix")
"""FlexAttention's public grid: `alibi` and `document` are causal too, `window` looks at the last 1024 keys, `prefix` at the first 512."""
GRID_LENGTHS = (8192, 2048, 32768, 4096, 16384)
GRID_HEADS = ((16, 16), (16, 4))
GRID_DIMS = (128, 64)

TWO_WALKS = "attngen_two_walks"
SPECIALISED = "attngen_specialised"
CONTENDERS = ("attngen", "sdpa_cudnn", "sdpa_flash", "sdpa_efficient", "fa4", "fla", "flex")
TUNED = ("flex_max",)
_PLAIN = ("noop", "causal", "differential")
_ONLY: Mapping[str, tuple[str, ...]] = {
    "sdpa_cudnn": _PLAIN,
    "sdpa_flash": _PLAIN,
    "sdpa_efficient": _PLAIN,
    "fa4": _PLAIN,
    "fla": ("causal",),
    SPECIALISED: tuple(name for name in GRID_VARIANTS if name != "alibi"),
}
"""Variants of the contenders that do not take all mods."""


@dataclass(frozen=True, slots=True)
class Workload:
    """One shape of one variant in bf16, [batch, heads, tokens, dim] each.

    Attributes:
        variant: its name, see `problems`.
        dims: of queries and keys, and of values.
        q_len, kv_len: tokens.
        batch: of sequences.
        heads: of queries, and of keys and values.
    """

    variant: str
    dims: tuple[int, int] = (128, 128)
    q_len: int = 8192
    kv_len: int = 8192
    batch: int = 4
    heads: tuple[int, int] = (16, 16)

    def __str__(self) -> str:
        dim = f"{self.dims[0]}" if self.dims[0] == self.dims[1] else f"{self.dims[0]}/{self.dims[1]}"
        tokens = f"{self.kv_len}" if self.q_len == self.kv_len else f"{self.q_len}:{self.kv_len}"
        return f"{self.variant} b{self.batch} h{self.heads[0]}/{self.heads[1]} n{tokens} d{dim}"

    def flops(self, pairs: int, terms: int, backward: bool) -> float:
        """Useful operations: multiply-adds count as two.

        Args:
            pairs: of a query and a key that the mask allows, in one head.
            terms: softmaxes that share the values.
            backward: three products a term and two that all share, against one and one.
        """
        scores, values = (3, 2) if backward else (1, 1)
        return 2.0 * pairs * self.batch * self.heads[0] * (scores * terms * self.dims[0] + values * self.dims[1])


@dataclass(frozen=True, slots=True)
class Step:
    """One workload with the contenders that it is for."""

    workload: Workload
    contenders: tuple[str, ...]


def _step(workload: Workload, names: tuple[str, ...] = CONTENDERS) -> Step:
    """Those of the names that have the variant at all."""
    return Step(workload, tuple(name for name in names if workload.variant in _ONLY.get(name, (workload.variant,))))


def grid() -> Iterator[Step]:
    """For forward and backward: the middle of the grid, what others lack, the rest of the grid."""
    middle = [Workload(variant) for variant in GRID_VARIANTS]
    yield from (_step(item) for item in middle)
    yield from (_step(item) for item in extras())
    yield _step(middle[0], TUNED)
    seen = set(middle)
    for heads in GRID_HEADS:
        for dim in GRID_DIMS:
            for item in (replace(item, heads=heads, dims=(dim, dim)) for item in middle):
                if item not in seen:
                    seen.add(item)
                    yield _step(item)
    yield from (_step(item, TUNED) for item in middle[1:])
    for length in GRID_LENGTHS[1:]:
        for heads in GRID_HEADS:
            for dim in GRID_DIMS:
                for item in middle:
                    yield _step(replace(item, heads=heads, dims=(dim, dim), q_len=length, kv_len=length))


def forward() -> Iterator[Step]:
    """The grid; in its middle, and there for head dim 64, also the warp-specialised form."""
    middle = {Workload(variant, dims=(dim, dim)) for variant in _ONLY[SPECIALISED] for dim in GRID_DIMS}
    for step in grid():
        both = step.workload in middle and "attngen" in step.contenders
        yield replace(step, contenders=("attngen", SPECIALISED, *step.contenders[1:])) if both else step


def backward() -> Iterator[Step]:
    """The same grid; in its middle and for other head dims also the deterministic backward."""
    beside = {Workload(variant) for variant in GRID_VARIANTS} | {Workload("causal", dims=(64, 64)), *extras()}
    for step in grid():
        both = step.workload in beside and "attngen" in step.contenders
        yield replace(step, contenders=("attngen", TWO_WALKS, *step.contenders[1:])) if both else step


def extras() -> Iterator[Workload]:
    """Head dims between powers of two, two different ones, large ones; variants that are no mod of one score, or train a captured table."""
    for dims in ((96, 96), (192, 128), (256, 256)):
        yield Workload("causal", dims=dims)
    yield Workload("t5")
    yield Workload("natten", q_len=4096, kv_len=4096)
    yield Workload("differential", dims=(64, 128))


def decode() -> Iterator[Step]:
    """One query a sequence against a cache."""
    for length in (8192, 32768):
        for batch in (1, 32):
            item = Workload("noop", q_len=1, kv_len=length, batch=batch, heads=(32, 8))
            yield _step(item, ("attngen", "sdpa_flash", "sdpa_cudnn", "flex"))


def memory() -> Iterator[Step]:
    """Where a mask, a table of scores or a copy could show."""
    for item in (Workload("causal"), Workload("document"), Workload("t5"), Workload("natten", q_len=4096, kv_len=4096)):
        yield _step(item, ("attngen", "sdpa_flash", "flex"))


MASKS = ("causal", "window", "prefix", "document")
MASK_LENGTHS = (8192, 32768)
FIRST_CALLS = (Workload("alibi", q_len=4096, kv_len=4096),)

USUAL_TESTS = "not specialised"
_TIMED = "bfloat16 and (64 or 128)"
SPECIALISED_TESTS = f"specialised and {_TIMED}"
"""What of the warp-specialised form is timed."""
TESTS = ((USUAL_TESTS, 0.55), (SPECIALISED_TESTS, 0.85), (f"specialised and not ({_TIMED})", 1.0))
"""Tests marked gpu, as pytest's -k takes them, each with its part of the time that is left for tests: those that may hang come last."""
