"""What users call: `compile` and the callable it returns."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attngen.calls import arguments as binding
from attngen.calls import refused_gradients
from attngen.calls.following import Following
from attngen.calls.variant import Variant
from attngen.errors import ArgumentError, MissingKernel
from attngen.frontend.spec import Spec, captured_lengths
from attngen.frontend.tracing.trace_call import outside_of_graphs
from attngen.pipeline import Program, Source
from attngen.plan.call_plan import CallPlan, example_plans
from attngen.plan.feature_lengths import check_counts, dtype_name
from attngen.plan.num_splits import describe_splits, may_split
from attngen.plan.options import Options, freeze
from attngen.plan.programs import FORWARD_ONLY, ProgramKey
from attngen.plan.token_layout import best_order
from attngen.report.explain import Explanation, explain
from attngen.report.mask_tiles import MaskTiles, lengths_of, mask_tiles
from attngen.runtime.handle import KernelHandle, handles
from attngen.runtime.kernel_table import KernelTable, check_required, rewrites_named
from attngen.runtime.strict import spelled_out
from attngen.schedule.choose import Request
from attngen.targets import table as targets


@outside_of_graphs
def compile(
    spec: Spec,
    arch: str | None = None,
    *,
    dtype: str | torch.dtype | None = None,
    head_dim: int | tuple[int, ...] | None = None,
    extents: Mapping[str, int] | None = None,
    deterministic: bool | None = None,
    precise_delta: bool | None = None,
    schedule: Mapping[str, Any] | None = None,
    keep_lists: bool = False,
    without: Iterable[str] = (),
    require: Iterable[str] = (),
) -> Attention:
    """Compile an attention variant.

    Args:
        spec: from `attngen.attention` or `@attngen.cascade`.
        arch: sm80, sm86, sm89, sm90, sm100, sm120, gfx942 or gfx950; None is the device of the tensors (sm90's schedules on the CPU).
        dtype: with `head_dim` or `extents`, kernels are built at once instead of at the first call.
        head_dim: Dqk = Dv, or (Dqk, Dv).
        extents: the same for a cascade: the length of each feature axis.
        deterministic: True: results are the same in every run, as under `torch.use_deterministic_algorithms(True)`. Else a backward may
            add up the gradients of rows in memory, in any order, where the model of the schedule says that this is clearly faster.
        precise_delta: True: delta, rowsum(dp * p), is summed over the keys, not over an output rounded to the arguments' dtype, at the
            price of two products a tile. None: where the derivation knows that it matters.
        schedule: tiles that override the choice: {"forward": {"BLOCK_M": 64, ...}}.
        keep_lists: where tiles are listed by a kernel, for masks without closed bounds, lists are kept until a captured value that the
            mask reads, or a length, changes. A change of a tensor is one that PyTorch counts: not one through numpy or `.data`.
        without: rewrites of the kernels to leave out, by the names that `explain` gives them ("scale_folding").
        require: rewrites that must apply to some kernel for `dtype`, bfloat16 unless given; also where they are no gain.

    Returns:
        A callable that trains.

    Raises:
        UnknownArch, ScheduleError, NotStreamable, UnsupportedError, ...: the variant or an option is refused, with the reason.
        RewriteRefused: a rewrite of `require` does not apply.
    """
    if not isinstance(spec, Spec):
        remedy = "Make one with attngen.attention(...) or @attngen.cascade(...)."
        raise ArgumentError(f"compile takes a spec, got {type(spec).__name__}", remedy=remedy)
    given, spec = spec, best_order(spec, targets.get("sm90" if arch is None else arch))
    frozen, asked = freeze(schedule) if schedule is not None else None, rewrites_named(require)
    options = Options(
        arch, frozen, keep_lists, rewrites_named(without), asked, deterministic=bool(deterministic), precise_delta=precise_delta
    )
    attend = Attention(spec, options)
    attend._given = given
    attend._table.check_schedule()
    check_required(attend._table, asked, "bfloat16" if dtype is None else dtype)
    if dtype is not None and (head_dim is not None or extents is not None):
        try:
            attend.build(dtype, head_dim=head_dim, extents=extents)
        except MissingKernel as error:
            raise spelled_out(error, given, attend.options) from None
    return attend


class Attention:
    """A compiled variant. Call it with tensors; it has gradients for every floating argument and capture.

    What its functions captured is read again at each call, from the variables, attributes and items where it lies. A copy by
    `copy.deepcopy` reads the copies of what is copied along; what pickle makes of it reads on where it can.

    Attributes:
        spec: what was compiled.
        options: with which options.
    """

    _given: Spec | None = None
    """What `compile` was given, if not what was compiled: its tokens may be taken in another order."""

    def __init__(self, spec: Spec, options: Options) -> None:
        self.spec, self.options = spec, options
        self._first = Variant(spec, options)
        self._following = Following(self._first, functools.partial(Variant, options=options))

    @property
    def program(self) -> Program:
        """The variant as it was traced first, analysed for calls with gradients: cascades, kernels, saved state."""
        return self._first.program

    @property
    def _table(self) -> KernelTable:
        """The programs of the variant as it was traced first, with tokens as they come."""
        return self._first.whole.table

    def __reduce__(self) -> tuple[Any, ...]:
        return Attention, (self.spec, self.options)

    def __call__(
        self,
        *args: Any,
        return_lse: bool = False,
        seed: int | Tensor | None = None,
        return_seed: bool = False,
        training: bool = True,
        **kwargs: Any,
    ) -> Any:
        """Run the variant.

        Args:
            args, kwargs: the tensors of the spec, [B, H, N, D] each for `attngen.attention`; one floating dtype, one device, any strides.
            return_lse: also return the logsumexp of the scores, natural, fp32, [B, Hq, Nq]; needs exactly one logsumexp in the spec.
            seed: what dropout draws from, an integer or a 0-d tensor of one; a new one from PyTorch's generator for None.
            return_seed: also return the seed, int64 [], behind the outputs: `reference(..., seed=seed)` drops the same weights.
            training: False drops nothing, as in `torch.nn.functional.dropout`.

        Returns:
            The outputs in return order (a dict if the spec's function returned one); row statistics come in fp32.

        Raises:
            ShapeMismatch, DtypeMismatch, DeviceMismatch, ArchMismatch, ArgumentError, NotDifferentiable
        """
        variant, captures = self._following.now()
        try:
            return variant.call(args, kwargs, captures, return_lse=return_lse, seed=seed, return_seed=return_seed, training=training)
        except MissingKernel as error:
            raise spelled_out(error, self._given or self.spec, self.options) from None

    # ---- looking inside

    @property
    def kernels(self) -> tuple[KernelHandle, ...]:
        """The kernels in launch order, without tiles yet, and those of the other form of the backward."""
        now = self._following.now()[0]
        return handles(now.whole.table, tuple(captured_lengths(now.spec).items()))

    def explain(
        self,
        *,
        arch: str | None = None,
        dtype: str | torch.dtype = "bfloat16",
        head_dim: int | tuple[int, ...] | None = None,
        full: bool = False,
    ) -> str:
        """What was derived and why kernels and tiles are what they are, on one screen or in full.

        Args:
            arch: the target whose tiles are shown; the one compiled for, or sm90.
            dtype, head_dim: of the arguments.
            full: every cascade, every step of every kernel, and the tiles that lost.
        """
        return self.explained(arch=arch, dtype=dtype, head_dim=head_dim).text(full)

    def explained(
        self, *, arch: str | None = None, dtype: str | torch.dtype = "bfloat16", head_dim: int | tuple[int, ...] | None = None
    ) -> Explanation:
        """The same as a value, with `as_dict` for programs and `text` for people."""
        now, captures = self._following.now()
        whole, target = now.whole, targets.get(arch or self.options.arch or "sm90")
        dims, name = now.dims(head_dim), dtype_name(dtype)
        layout, table = whole.dilated(captures) or (whole.layout, whole.table)
        request = Request(tuple(dims.items()), name, target)
        form = table.backward_form(ProgramKey(name), request, repeatable=torch.are_deterministic_algorithms_enabled())
        kernels = table.kernels(ProgramKey(name, fused=form.fused))
        few, packed = (), whole.packed
        if packed is not None:
            few = (
                packed[0].describe(target),
                "of groups of several heads, without gradients; keys and values are read once a group",
                packed[1].program(ProgramKey(gradients=FORWARD_ONLY)).facts[0].visits,
            )
        if may_split(whole.table):
            split = (whole.table if packed is None else packed[1]).kernels(ProgramKey(name, FORWARD_ONLY, split=True))
            choice = split.choice(Request(tuple(dims.items()), name, target, "decode"))
            few = (*few, *describe_splits(split.program.kernels, choice, target, dims, name))
        told = explain(now.spec.cascade, kernels.program, kernels.choice(request), layout.describe(target), few, form.why)
        return replace(told, plans=example_plans(whole.layouts(captures), dims, name, target))

    def plan(
        self,
        *args: Any,
        return_lse: bool = False,
        training: bool = True,
        dtype: str | torch.dtype = "bfloat16",
        gradients: Iterable[str] = (),
        **kwargs: Any,
    ) -> CallPlan:
        """What a call would run: its token layout, split-KV, the form of its backward, its programs and tiles. Nothing is built.

        Args:
            args, kwargs: as for a call, or the shape of an argument in its place, as a tuple: then the plan is that of the target's GPU.
            return_lse, training: as for a call.
            dtype: of arguments given by their shapes. gradients: names of those that require a gradient.

        Returns:
            A value that prints: "packed GQA, 33 splits; bfloat16 on sm90; forward_parts=16x128,w4,s3 ...".

        Raises:
            As for a call, and DoesNotFit.
        """
        variant, captures = self._following.now()
        named = dict(zip((argument.name for argument in variant.spec.arguments), args, strict=False)) | kwargs
        wanted, kind = frozenset(gradients), getattr(torch, dtype_name(dtype))
        device = next((value.device for value in captures.values() if isinstance(value, Tensor) and value.dim() > 0), torch.device("cpu"))
        given = {
            # Of no memory but one element.
            name: torch.empty(1, dtype=kind, device=device).expand(value).requires_grad_(name in wanted)
            if isinstance(value, tuple)
            else value
            for name, value in named.items()
        }
        shapes = any(isinstance(value, tuple) for value in named.values())
        tensors = binding.bind(variant.spec, (), given)
        return variant.plan(tensors, captures, return_lse=return_lse, training=training, on_target=shapes)

    def mask_tiles(
        self,
        *,
        q_len: int,
        kv_len: int,
        batch: int = 1,
        heads: int = 1,
        kv_heads: int | None = None,
        dtype: str | torch.dtype = "bfloat16",
        head_dim: int | tuple[int, ...] | None = None,
    ) -> tuple[MaskTiles, ...]:
        """Which tiles the mask makes each kernel visit, counted by running the emitted bounds on the CPU.

        Args:
            q_len, kv_len: numbers of queries and keys.
            batch, heads: how many batches and query heads, for masks that tell them apart.
            kv_heads: how many heads of keys the query heads share; as many unless given.
            dtype, head_dim: of the arguments, which tiles depend on.

        Returns:
            One `MaskTiles` for each kernel that streams: block_m, block_n, full, partial, empty, segments_max.
        """
        check_counts(q_len=q_len, kv_len=kv_len, batch=batch, heads=heads, kv_heads=1 if kv_heads is None else kv_heads)
        now, captures = self._following.now()
        packed = now.whole.packed
        group = None if kv_heads is None or packed is None else packed[0].group(heads, kv_heads)
        sizes = (batch, heads, q_len, kv_len)
        extents = lengths_of(now.program, sizes, group)
        form = now.form(False, True, now.whole.check_lengths(extents, captures))
        target = targets.get(self.options.arch or "sm90")
        graded = refused_gradients.asks_gradient(captures.values())
        usable = (pair for pair in form.layouts(captures) if pair[0].differentiable or not graded)
        layout, table = next(pair for pair in usable if pair[0].pays(extents, target))
        given = {**captures, **layout.lengths(extents)}
        kernels = table.kernels(ProgramKey(dtype_name(dtype), None if layout.differentiable else FORWARD_ONLY))
        return mask_tiles(kernels, layout, given, now.dims(head_dim), dtype_name(dtype), extents)

    def plot_mask(self, path: str | Path | None = None, *, q_len: int, kv_len: int, **options: Any) -> Any:
        """Draw the tiles that the mask makes each kernel visit: full, partial and empty ones.

        Args:
            path: a PNG or SVG file to write; None only returns the figure.
            q_len, kv_len, options: as `mask_tiles` takes them.

        Returns:
            A matplotlib figure.
        """
        from attngen.report.plot import plot_mask

        return plot_mask(self.mask_tiles(q_len=q_len, kv_len=kv_len, **options), path, title=self.spec.name)

    def build(
        self,
        dtype: str | torch.dtype = "bfloat16",
        *,
        head_dim: int | tuple[int, ...] | None = None,
        extents: Mapping[str, int] | None = None,
    ) -> Source:
        """Build for these feature lengths without running: emit, and settle the tiles by real compiles where no measurement exists.

        Returns:
            The source of the module with its structure.
        """
        now, captures = self._following.now()
        return now.built(dtype_name(dtype), now.dims(head_dim, extents), captures)

    def reference(
        self,
        *args: Any,
        return_lse: bool = False,
        seed: int | Tensor | None = None,
        return_seed: bool = False,
        training: bool = True,
        **kwargs: Any,
    ) -> Any:
        """The same cascade in plain PyTorch, in float64, differentiable: what kernels are held to. Arguments as for a call."""
        variant, captures = self._following.now()
        return variant.evaluate(args, kwargs, captures, return_lse=return_lse, seed=seed, return_seed=return_seed, training=training)
