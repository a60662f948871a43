"""Strict mode, in which nothing is built at run time: what is stored beforehand for it, and what an error says where it was not.

`attngen generate` stores, besides the folder that it writes, the modules and settled tiles that any call of the variant can run with on
that target, with arguments of those dtypes and feature lengths. Lengths of sequences do not matter: in strict mode calls whose class of
lengths has no tiles of its own take those for long ones, a backward stays split, and few queries run as many do, unless a process
that may build has stored more.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

from attngen import catalog
from attngen.errors import ArgumentError, MissingKernel
from attngen.frontend.dropout import without_dropout
from attngen.frontend.spec import Spec, captured_lengths, with_lse
from attngen.knobs import Knobs
from attngen.plan.dilated import dilated
from attngen.plan.options import Options
from attngen.plan.programs import ProgramKey
from attngen.plan.token_layout import best_order
from attngen.runtime.kernel_table import KernelTable
from attngen.schedule.choose import Request
from attngen.targets.table import Target


@dataclass(frozen=True, slots=True)
class Beforehand:
    """The kernels that calls of a variant may run with on one target."""

    target: Target
    tables: tuple[KernelTable, ...]

    @staticmethod
    def of(spec: Spec, target: Target, knobs: Knobs) -> Beforehand:
        """Those of a variant that is compiled without options."""
        options, quiet = Options(target.name, stored=True), replace(knobs, dump=())
        tables: dict[str, KernelTable] = {}
        for form in _forms(best_order(spec, target)):
            table = KernelTable(form.cascade, form.name, options, quiet)
            tables.setdefault(str(form.cascade), table)
            layout = dilated(form, table.start.cascade)
            if layout is not None:
                tables.setdefault(str(layout.cascade), KernelTable(layout.cascade, form.name, options, quiet, canonical=True))
        return Beforehand(target, tuple(tables.values()))

    def store(self, lengths: Mapping[str, int], dtype: str) -> None:
        """Put them into the cache, for arguments of a dtype and lengths of the feature axes.

        Raises:
            UnsafeCacheDirectory: others could write into the cache. CompileFailed, DoesNotFit: a kernel does not compile.
        """
        for kernels in (table.kernels(ProgramKey(dtype)) for table in self.tables):
            dims = {axis: lengths[axis] for axis in kernels.program.features}
            schedule = kernels.settled(Request(tuple(dims.items()), dtype, self.target))
            kernels.module(kernels.source(dims, schedule.alternates), "compiled", self.target, dims, dtype)


def _forms(spec: Spec) -> Iterator[Spec]:
    """A variant, with its logsumexp and without its dropout, as calls ask for it."""
    asked = [spec, without_dropout(spec)]
    if not spec.on_request:
        for form in tuple(asked):
            # Of a variant that has none, several, or returns it anyway, no call can ask for it.
            with suppress(ArgumentError):
                asked.append(with_lse(form))
    yield from asked


def spelled_out(error: MissingKernel, spec: Spec, options: Options) -> MissingKernel:
    """The error of a call whose kernels are not stored, with the command that stores them, or what there is to do instead.

    Args:
        error: as `Kernels.missing` made it.
        spec: the user's, as `compile` was given it. options: of `compile`.
    """
    if options.schedule is not None or options.without or options.asked or options.precise_delta is not None or spec.order is not None:
        asked = "an order of tokens" if spec.order is not None else "schedule=, without=, require= or precise_delta="
        return error.instead(
            f"No command builds with {asked}: run this call once without ATTNGEN_STRICT and with the same ATTNGEN_CACHE_DIR, "
            "which stores its kernels."
        )
    known = captured_lengths(spec)
    sizes = [length for axis, length in error.lengths.items() if axis not in known]
    sizes = sizes[:1] if len(set(sizes)) == 1 else sizes
    flags = f"--arch {error.arch} --dtype {error.dtype}" + (f" --head-dim {','.join(map(str, sizes))}" if sizes else "")
    flags += "" if catalog.is_folder_name(spec.name) else f" --name {spec.name[:80]}_kernels"
    text = catalog.spelling(spec)
    if text is None:
        return error.instead(
            "No command can find this spec. Give it a name at the top level of a module, say spec in mine.py, import it from there, and "
            f"build it beforehand with the same ATTNGEN_CACHE_DIR: attngen generate mine.py:spec {flags}"
        )
    return error.instead(f"Build them beforehand, with the same ATTNGEN_CACHE_DIR: attngen generate {shlex.quote(text)} {flags}")
