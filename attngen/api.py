"""What users call: `compile` and the callable it returns."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attngen import target as targets
from attngen.errors import ArgumentError, MissingKernel
from attngen.explain import Explanation, explain
from attngen.frontend.dropout import without_dropout
from attngen.frontend.spec import Spec, captured_lengths, with_lse
from attngen.pipeline import Program, Source
from attngen.runtime import arguments as binding
from attngen.runtime.checks import Checks
from attngen.runtime.classes import classes_pay, in_classes
from attngen.runtime.devices import Follower
from attngen.runtime.forms import form, settle_forms
from attngen.runtime.handle import KernelHandle, dtype_name, feature_lengths, given_lengths, handles
from attngen.runtime.kernels import Options, forward_only, freeze, in_parts_only
from attngen.runtime.ordering import best_order, describe, lengths, put_back, taken
from attngen.runtime.packing import are_stored, few, few_queries, group_of, in_rows
from attngen.runtime.reach import Short, guarded
from attngen.runtime.reference import reference as evaluate
from attngen.runtime.seeds import drawn, followed
from attngen.runtime.shared import check_required, check_schedule, rewrites_named, shared_kernels
from attngen.runtime.splitting import is_divided, may_divide, parts_of_calls
from attngen.runtime.strict import spelled_out
from attngen.runtime.tiles import MaskTiles, lengths_of, mask_tiles
from attngen.runtime.torch_op import operators


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
        without: rewrites of the kernels to leave out, by the names that `explain` gives them ("fold_scales").
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
    check_schedule(frozen, attend.program)
    check_required(attend.program, asked, dtype_name("bfloat16" if dtype is None else dtype))
    if dtype is not None and (head_dim is not None or extents is not None):
        try:
            attend.build(dtype, head_dim=head_dim, extents=extents)
        except MissingKernel as error:
            raise spelled_out(error, given, attend.options) from None
    return attend


class Attention:
    """A compiled variant. Call it with tensors; it has gradients for every floating argument and capture.

    Attributes:
        spec: what was compiled.
        options: with which options.
    """

    _given: Spec | None = None
    """What `compile` was given, if not what was compiled: its tokens may be taken in another order."""

    def __init__(self, spec: Spec, options: Options) -> None:
        self.spec = spec
        self.options = options
        self._captures = tuple(capture.value for capture in spec.captures)
        given = [item.name for item in (*spec.arguments, *spec.captures)]
        self._places = tuple(given.index(item.name) for item in spec.cascade.inputs)
        self._on_device = Follower().on
        self._kernels = shared_kernels(spec.cascade, spec.name, options)
        self._operators = operators(self._kernels)
        self._check = Checks(spec, self.program)
        self._guarded: dict[Short, Attention] = {}

    @property
    def program(self) -> Program:
        """The analysed variant: cascades, kernels, saved state."""
        return self._kernels.program

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
        chosen = self._asked(return_lse, training)
        tensors = binding.autocast(binding.bind(chosen.spec, args, kwargs), chosen.spec, chosen.program.features)
        views, extents = binding.split(chosen.spec, tensors)
        used = drawn(chosen.spec, seed if training else None, return_seed, views[0].device)
        if not torch.compiler.is_compiling():
            chosen = chosen._reaching(chosen._check(tensors, extents))
            chosen = chosen._suited(extents, tensors)._divided(extents, tensors)
        try:
            result = chosen._run(views, extents, return_lse, used)
        except MissingKernel as error:
            raise spelled_out(error, self._given or self.spec, self.options) from None
        return followed(result, used) if return_seed else result

    def _asked(self, return_lse: bool, training: bool) -> Attention:
        """The variant for the options of a call."""
        chosen = self if training or self.spec.seed is None else self._without_dropout
        return chosen._with_lse if return_lse and not chosen.spec.on_request else chosen

    def _reaching(self, short: Short) -> Attention:
        """The variant whose loads of these captured tensors look at their sizes."""
        if short and short not in self._guarded:
            self._guarded[short] = Attention(guarded(self.spec, short), self.options)
        return self._guarded[short] if short else self

    @functools.cached_property
    def _in_classes(self) -> Attention | None:
        """The variant with tokens in classes of equal remainder, where its mask has such gaps."""
        spec = in_classes(self.spec)
        return None if spec is None else Attention(spec, self.options)

    @functools.cached_property
    def _in_rows(self) -> Attention | None:
        """The variant without gradients whose rows are pairs of position and head, where heads share what is streamed."""
        spec = in_rows(self.spec)
        options = replace(self.options, schedule=forward_only(self.options.schedule), gradients=False)
        return None if spec is None else Attention(spec, options)

    def _suited(self, extents: Mapping[str, int], tensors: Sequence[Tensor] = ()) -> Attention:
        """What runs for these lengths: this, the variant with tokens in classes, or that with heads in rows, which has no gradients."""
        target, classes = targets.get(self.options.arch or "sm90"), self._in_classes
        if classes is not None and classes.spec.classes is not None and classes_pay(classes.spec.classes, extents, target):
            return classes
        rows = self._in_rows if few(extents[self.program.streamed.resident]) else None
        if rows is None or rows.spec.packing is None or extents.get(rows.spec.packing.heads, 1) == 1:
            return self
        return self if binding.asks_gradient((*tensors, *self._captures)) else self._if_stored(rows, extents, tensors)

    @functools.cached_property
    def _in_parts(self) -> Attention:
        """The variant without gradients whose stream programs share."""
        return Attention(self.spec, replace(self.options, schedule=in_parts_only(self.options.schedule), gradients=False, divided=True))

    def _divided(self, extents: Mapping[str, int], tensors: Sequence[Tensor]) -> Attention:
        """This, or with its stream in parts, where its programs would leave the device idle."""
        divided = is_divided(self.spec, self._kernels, extents, tensors[0].device)
        if not divided or binding.asks_gradient((*tensors, *self._captures)):
            return self
        return self._if_stored(self._in_parts, extents, tensors)

    def _if_stored(self, other: Attention, extents: Mapping[str, int], tensors: Sequence[Tensor]) -> Attention:
        """Another form of this, unless strict mode lacks its kernels."""
        strict = bool(tensors) and other._kernels.knobs.strict
        return self if strict and not are_stored(other._kernels, other.spec, self.dims(extents=extents), extents, tensors) else other

    def _run(self, views: Sequence[Tensor], extents: Mapping[str, int], return_lse: bool, seed: Tensor | None) -> Any:
        tensors = taken(self.spec, views, extents, self._on_device)
        device = views[0].device
        given = dict(zip((capture.name for capture in self.spec.captures), self._captures, strict=True)) | lengths(self.spec, extents)
        if self.spec.seed is not None and seed is not None:
            given[self.spec.seed] = seed
        values = [*tensors, *(self._on_device(value, device) for value in given.values())]
        results = self._operators.forward(*(values[place] for place in self._places))
        return self._returned(results if isinstance(results, tuple) else (results,), extents, return_lse)

    def _returned(self, results: Sequence[Tensor], extents: Mapping[str, int], return_lse: bool) -> Any:
        shaped = [
            binding.join(put_back(self.spec, output.name, result, extents, self._on_device), output.pattern)
            for output, result in zip(self.spec.outputs, results, strict=False)
            if return_lse or output.name not in self.spec.on_request
        ]
        if self.spec.keys is not None:
            return dict(zip(self.spec.keys, shaped, strict=False))
        return shaped[0] if len(shaped) == 1 else tuple(shaped)

    @functools.cached_property
    def _with_lse(self) -> Attention:
        """The same variant with its one logsumexp as an extra output."""
        return Attention(with_lse(self.spec), self.options)

    @functools.cached_property
    def _without_dropout(self) -> Attention:
        """The same variant for inference."""
        return Attention(without_dropout(self.spec), self.options)

    # ---- looking inside

    @property
    def kernels(self) -> tuple[KernelHandle, ...]:
        """The kernels in launch order, without tiles yet, and those of the other form of the backward."""
        return handles(self._kernels, tuple(captured_lengths(self.spec).items()))

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
        shown, target = self._in_classes or self, targets.get(arch or self.options.arch or "sm90")
        dims, name, rows = self.dims(head_dim), dtype_name(dtype), self._in_rows
        found = form(shown._kernels.at(name), dims, name, target)
        few = () if rows is None else few_queries(rows.spec, rows.program)
        whole = may_divide(self.program.kernels[0])
        parts = parts_of_calls((rows or self)._in_parts._kernels.at(name), target, dims, name) if whole else ()
        choice, order = found.kernels.choice(dims, name, target), describe(shown.spec, target)
        return explain(self.spec.cascade, found.kernels.program, choice, order, (*few, *parts), found.why)

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
        packing = None if kv_heads is None or self._in_rows is None else self._in_rows.spec.packing
        group = None if kv_heads is None or packing is None else group_of(packing, heads, kv_heads)
        sizes = (batch, heads, q_len, kv_len)
        extents = lengths_of(self.program, sizes, group)
        chosen = self._reaching(self._check.lengths(extents))._suited(extents)
        captures = {capture.name: capture.value for capture in chosen.spec.captures} | lengths(chosen.spec, extents)
        return mask_tiles(chosen._kernels, chosen.spec, captures, self.dims(head_dim), dtype_name(dtype), sizes, group)

    def plot_mask(self, path: str | Path | None = None, *, q_len: int, kv_len: int, **options: Any) -> Any:
        """Draw the tiles that the mask makes each kernel visit: full, partial and empty ones.

        Args:
            path: a PNG or SVG file to write; None only returns the figure.
            q_len, kv_len, options: as `mask_tiles` takes them.

        Returns:
            A matplotlib figure.
        """
        from attngen.picture import plot_mask

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
        dims = self.dims(head_dim, extents)
        kernels = self._kernels.at(dtype_name(dtype))
        settle_forms(kernels, dims, dtype_name(dtype), targets.get(self.options.arch or "sm90"))
        if self._in_classes is not None:
            self._in_classes.build(dtype, extents=dims)
        return kernels.source(dims)

    def dims(self, head_dim: int | tuple[int, ...] | None = None, extents: Mapping[str, int] | None = None) -> dict[str, int]:
        """Feature axis -> length."""
        features, known = self.program.features, captured_lengths(self.spec)
        return feature_lengths(features, head_dim, known) if extents is None else given_lengths(features, extents, known)

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
        chosen = self._asked(return_lse, training)
        views, extents = binding.split(chosen.spec, binding.bind(chosen.spec, args, kwargs))
        used = drawn(chosen.spec, seed if training else None, return_seed, views[0].device)
        result = chosen._evaluated(views, extents, return_lse, used)
        return followed(result, used) if return_seed else result

    def _evaluated(self, views: Sequence[Tensor], extents: Mapping[str, int], return_lse: bool, seed: Tensor | None) -> Any:
        views = taken(self.spec, views, extents, self._on_device)
        names = [argument.name for argument in self.spec.arguments]
        values = {**dict(zip(names, views, strict=True)), **{capture.name: capture.value for capture in self.spec.captures}}
        if self.spec.seed is not None:
            values[self.spec.seed] = seed
        found = evaluate(self.spec.cascade, values)
        return self._returned([found[output.name] for output in self.spec.outputs], extents, return_lse)
