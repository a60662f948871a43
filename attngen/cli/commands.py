"""The command line: `attngen generate | check | explain | inspect | tune | list | cache`.

Parses arguments, calls the library, prints. Heavy modules are imported by the command that needs them, so that help is fast. Results go to
stdout, progress and errors to stderr. Exit codes: 0; 1 for an error or a difference; 2 for a wrong command line; 3 for a bug of attngen.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attngen.catalog import load as _load
from attngen.cli.output import Progress, failed
from attngen.cli.output import table as _table
from attngen.errors import ArgumentError, AttngenError, InternalError
from attngen.version import VERSION

if TYPE_CHECKING:
    from attngen.frontend.spec import Spec
    from attngen.report.resources import Inspected
    from attngen.runtime.kernel_table import KernelTable

_SPEC = "a name of the catalogue, package.module:object, or path/file.py:object"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: arguments without the program's name; those of the process by default.

    Returns:
        The exit code. A wrong command line and --help raise SystemExit, as in argparse.
    """
    arguments = parser().parse_args(argv)
    try:
        run: Callable[[argparse.Namespace], int] = arguments.run
        return run(arguments)
    except AttngenError as error:
        failed(error, arguments.debug, arguments.json)
        return 3 if isinstance(error, InternalError) else 1
    except BrokenPipeError:
        # The reader closed the pipe, as `head` does; without this, Python would complain again when it flushes.
        sys.stdout = None
        return 1
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if arguments.debug:
            raise
        if isinstance(error, OSError) and error.filename is not None:
            refused = ArgumentError(f"{error.filename}: {error.strerror}", remedy="Check the name of the file or folder.")
            failed(refused, arguments.debug, arguments.json)
            return 1
        wrapped = InternalError(
            f"{type(error).__name__}: {error}", remedy="This is a bug of attngen. Please report the command with what --debug prints."
        )
        failed(wrapped, arguments.debug, arguments.json)
        return 3


def parser() -> argparse.ArgumentParser:
    """All commands with their options."""
    top = argparse.ArgumentParser(prog="attngen", description="A compiler for attention variants: Python in, fused Triton kernels out.")
    top.add_argument("--version", action="version", version=f"attngen {VERSION}")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)

    generate = _command(commands, "generate", _generate, "write self-contained folders of kernels, or check that they are up to date")
    generate.add_argument("specs", nargs="*", metavar="SPEC", help=f"{_SPEC}; all of the catalogue by default")
    _many(generate)
    generate.add_argument("--out", type=Path, default=Path("generated"), metavar="DIR", help="the parent folder (default: generated)")
    generate.add_argument("--name", help="name of the folder, for one SPEC; that of the spec by default")
    generate.add_argument("--cubin", action="store_true", help="also write the binaries")
    generate.add_argument("--check", action="store_true", help="compare the folders with what the code emits; write nothing")

    check = _command(commands, "check", _check, "emit a variant, compile it for a target, and measure its errors in the interpreter")
    _one(check)
    explain = _command(commands, "explain", _explain, "show the derived kernels and tiles, with reasons")
    _one(explain)
    explain.add_argument("--after", metavar="STEP", help="print the result of one step of the pipeline only")
    explain.add_argument("--mask", type=_count, metavar="N", help="count the tiles that the mask leaves, for N queries and N keys")
    explain.add_argument("--plot", type=Path, metavar="FILE", help="with --mask: draw these tiles, as PNG or SVG")
    explain.add_argument("--full", action="store_true", help="everything, not one screen")

    inspect = _command(commands, "inspect", _inspect, "compile for a target, without a GPU: registers, spills, shared bytes, main loops")
    _one(inspect)
    inspect.add_argument("--cubin", type=Path, metavar="DIR", help="write DIR/<name>.<role>.cubin")
    inspect.add_argument("--few", action="store_true", help="the kernels for decoding: GQA packing and split-KV")

    tune = _command(commands, "tune", _tune, "time the scheduler's best candidates on the local GPU, and store the winners")
    _one(tune)
    tune.set_defaults(arch=None)
    tune.add_argument("--length", nargs="+", default=["long", "short", "decode"], help="length classes (default: long short decode)")
    tune.add_argument("--leaders", type=_count, default=6, metavar="N", help="candidates to time for each kernel (default: 6)")
    tune.add_argument("--out", type=Path, metavar="FILE", help="the table to write to (default: tuned.json in the cache folder)")

    _command(commands, "list", _list, "list the catalogue")
    cache = commands.add_parser("cache", help="compiled kernels on disk")
    actions = cache.add_subparsers(metavar="ACTION", required=True)
    _command(actions, "ls", _cache_ls, "list the entries")
    _command(actions, "clear", _cache_clear, "remove all entries")
    return top


def _command(commands: Any, name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    command.add_argument("--json", action="store_true", help="print JSON")
    command.add_argument("--debug", action="store_true", help="show the traceback of an unexpected error")
    command.set_defaults(run=run)
    return command


def _one(command: argparse.ArgumentParser) -> None:
    command.add_argument("spec", metavar="SPEC", help=_SPEC)
    command.add_argument("--arch", default="sm90", help="the target (default: sm90, to tune the device's)")
    command.add_argument("--dtype", default="bfloat16", help="of the arguments (default: bfloat16)")
    command.add_argument("--head-dim", default="128", metavar="N[,N]", help="of queries and keys, and of values (default: 128)")


def _many(command: argparse.ArgumentParser) -> None:
    command.add_argument("--arch", nargs="+", help="targets (default: sm80 sm90)")
    command.add_argument("--dtype", nargs="+", help="dtypes (default: bfloat16)")
    command.add_argument("--head-dim", nargs="+", metavar="N[,N]", help="lengths of the feature axes (default: 64 128)")


def _count(text: str) -> int:
    """A count on the command line."""
    if not (text.isascii() and text.isdigit() and int(text) >= 1):
        raise argparse.ArgumentTypeError(f"{text!r} is not an integer of at least 1")
    return int(text)


# ---- commands


def _generate(arguments: argparse.Namespace) -> int:
    from attngen import catalog
    from attngen.deploy import Order, generate, parse_head_dims

    if arguments.name is not None and len(arguments.specs) != 1:
        parser().error("--name needs exactly one SPEC")
    if arguments.check:
        return _generate_check(arguments)
    given = arguments.specs or list(catalog.names())
    default = Order()
    order = Order(
        tuple(arguments.arch or default.archs),
        tuple(arguments.dtype or default.dtypes),
        parse_head_dims(arguments.head_dim) if arguments.head_dim else default.head_dims,
        arguments.cubin,
    )
    written: list[dict[str, Any]] = []
    with Progress() as progress:
        for text in given:
            spec = _load(text)
            folder = generate(spec, arguments.name or spec.name, order, arguments.out, named=text, progress=progress.line)
            files = sorted(path.name for path in folder.iterdir() if path.is_file())
            written.append({"name": folder.name, "folder": str(folder), "files": files})
    _print(arguments, written, [f"{row['folder']}: {', '.join(row['files'])}" for row in written])
    return 0


def _generate_check(arguments: argparse.Namespace) -> int:
    from attngen.deploy import check_all

    with Progress() as progress:
        found = check_all(arguments.out, arguments.specs, arguments.name, progress=progress.line)
    problems = [item for items in found.values() for item in items]
    data = {name: [{"file": item.file, "problem": item.problem, "diff": item.lines} for item in items] for name, items in found.items()}
    said = (
        [*map(str, problems), "Run: attngen generate"] if problems else [f"{len(found)} folders in {arguments.out} are what the code emits"]
    )
    if any(item.foreign for item in problems):
        said.append("It only replaces files that attngen wrote: first move others away, and remove those that were changed.")
    _print(arguments, {"clean": not problems, "folders": data}, said)
    return 1 if problems else 0


def _check(arguments: argparse.Namespace) -> int:
    import logging

    from attngen.report.accuracy import trial

    # A check is expected to be slow: no warnings about the interpreter.
    logging.getLogger("attngen").setLevel(logging.ERROR)
    spec, kernels, lengths, dtype = _prepared(arguments)
    rows = [item.row() for item in _inspected(arguments, kernels, lengths, dtype)]
    with Progress() as progress:
        progress.line(f"{spec.name}: running forward and backward in the interpreter, which is slow")
        found = trial(kernels, {capture.name: capture.value for capture in spec.captures}, lengths, dtype)
    good = all(item.holds for item in found)
    errors = [{"name": item.name, "error": item.error, "allowed": item.allowed, "holds": item.holds} for item in found]
    table = _table([{**row, "error": f"{row['error']:.2e}", "allowed": f"{row['allowed']:.2e}"} for row in errors])
    text = [
        f"{spec.name} compiles for {arguments.arch}, {dtype}, {_lengths(lengths)}: {len(rows)} kernels",
        f"largest errors against float64, in the interpreter, {dtype}:",
        *table,
        "within the contract" if good else "NOT within the contract",
    ]
    _print(arguments, {"name": spec.name, "compiles": True, "kernels": rows, "errors": errors, "holds": good}, text)
    return 0 if good else 1


def _explain(arguments: argparse.Namespace) -> int:
    from attngen.api import compile
    from attngen.deploy import parse_head_dims
    from attngen.frontend.spec import captured_lengths
    from attngen.plan.feature_lengths import dtype_name, feature_lengths
    from attngen.report import explain
    from attngen.report.plot import plot_mask

    spec, head_dim = _load(arguments.spec), parse_head_dims([arguments.head_dim])[0]
    if arguments.after is not None:
        given = (dtype_name(arguments.dtype), arguments.arch, lambda axes: feature_lengths(axes, head_dim, captured_lengths(spec)))
        text = explain.after(spec.cascade, arguments.after, *given)
        _print(arguments, {"step": arguments.after, "text": text.splitlines()}, [text])
        return 0
    attend = compile(spec, arguments.arch)
    explained = attend.explained(dtype=arguments.dtype, head_dim=head_dim)
    found, text = explained.as_dict(), [explained.text(arguments.full)]
    if arguments.mask is not None:
        length: int = arguments.mask
        batch, heads = (1, 1) if spec.blocks is None else spec.blocks.classes.shape[:2]
        tiles = attend.mask_tiles(q_len=length, kv_len=length, batch=batch, heads=heads, dtype=arguments.dtype, head_dim=head_dim)
        found["mask"] = [item.as_dict() for item in tiles]
        text += ["", f"tiles for {length} queries and keys:", *_table(found["mask"])]
        if arguments.plot is not None:
            plot_mask(tiles, arguments.plot, title=spec.name)
            text.append(f"drawn in {arguments.plot}")
    elif arguments.plot is not None:
        raise ArgumentError("--plot needs the lengths of the mask", remedy="Add --mask N.")
    _print(arguments, found, text)
    return 0


def _inspect(arguments: argparse.Namespace) -> int:
    from attngen.calls.spec_form import programs_of_few
    from attngen.report.resources import report

    spec, kernels, lengths, dtype = _prepared(arguments)
    found = _inspected(arguments, programs_of_few(spec, arguments.arch) if arguments.few else kernels, lengths, dtype)
    whole, loops = report(found)
    text = [*_table([item.row() for item in found]), *(["", "one iteration of each main loop:", *_table(loops)] if loops else [])]
    _print(arguments, whole, text)
    return 0


def _tune(arguments: argparse.Namespace) -> int:
    from dataclasses import asdict

    from attngen.deploy import parse_head_dims
    from attngen.tuning.tune import tune

    with Progress() as progress:
        head_dim = parse_head_dims([arguments.head_dim])[0]
        chosen = {"dtype": arguments.dtype, "head_dim": head_dim, "lengths": arguments.length, "leaders": arguments.leaders}
        found = tune(_load(arguments.spec), arguments.arch, **chosen, out=arguments.out, progress=progress.line)
    rows = [asdict(row) for row in found.rows]
    lost = [{"role": item.role, "length": item.length, "tile": str(item.tile), "why": item.why} for item in found.lost]
    shown = [{"kernel": row["structure"].partition(":")[0], **{key: row[key] for key in _TUNED}} for row in rows]
    said = [f"{row['length']} {row['role']} {row['tile']} did not run: {row['why']}" for row in lost]
    _print(arguments, {"rows": rows, "lost": lost, "notes": found.notes}, [*_table(shown), *said, *found.notes])
    return 0


_TUNED = ("length", "dims", "tile", "call_us", "usual", "usual_us", "tried")


def _list(arguments: argparse.Namespace) -> int:
    from attngen import catalog

    rows = [{"name": variant.name, "captures": variant.captures, "title": variant.title} for variant in catalog.VARIANTS]
    _print(arguments, rows, _table([{**row, "captures": ", ".join(row["captures"]) or "-"} for row in rows]))
    return 0


def _cache_ls(arguments: argparse.Namespace) -> int:
    from attngen.cache.store import all_stores
    from attngen.knobs import Knobs

    kept = [entry for store in all_stores(Knobs.from_env().cache_dir) for entry in store.entries()]
    rows = [
        {"key": e.key, "kind": e.metadata.get("kind"), "bytes": e.size_bytes, "files": e.files, "folder": str(e.path.parent)} for e in kept
    ]
    shown = [{"key": row["key"][:12], "kind": row["kind"], "bytes": row["bytes"], "files": ", ".join(row["files"])} for row in rows]
    _print(arguments, rows, _table(shown) if rows else ["the cache is empty"])
    return 0


def _cache_clear(arguments: argparse.Namespace) -> int:
    from attngen.cache.store import all_stores
    from attngen.knobs import Knobs

    removed = sum(store.clear() for store in all_stores(Knobs.from_env().cache_dir))
    _print(arguments, {"removed": removed}, [f"{removed} entries removed"])
    return 0


# ---- shared by commands


def _prepared(arguments: argparse.Namespace, spec: Spec | None = None) -> tuple[Spec, KernelTable, dict[str, int], str]:
    """The spec, its kernels for the given target, feature lengths and dtype."""
    from attngen.deploy import parse_head_dims
    from attngen.frontend.spec import captured_lengths
    from attngen.knobs import Knobs
    from attngen.plan.feature_lengths import dtype_name, feature_lengths
    from attngen.plan.options import Options
    from attngen.plan.token_layout import best_order
    from attngen.runtime.kernel_table import KernelTable
    from attngen.targets import table as targets

    target = targets.get(arguments.arch)
    spec = best_order(_load(arguments.spec) if spec is None else spec, target)
    # These commands compile whatever the knobs allow at run time.
    table = KernelTable(spec.cascade, spec.name, Options(arguments.arch), replace(Knobs.from_env(), strict=False))
    lengths = feature_lengths(table.axes.features, parse_head_dims([arguments.head_dim])[0], captured_lengths(spec))
    return spec, table, lengths, dtype_name(arguments.dtype)


def _inspected(arguments: argparse.Namespace, table: KernelTable, lengths: Mapping[str, int], dtype: str) -> tuple[Inspected, ...]:
    """The compiled kernels; binaries are written to --cubin, if given."""
    from attngen.report.resources import inspect_kernels, write_binaries
    from attngen.targets import table as targets

    with Progress() as progress:
        progress.line(f"{table.name}: compiling for {arguments.arch}, {dtype}, {_lengths(lengths)}")
        found = inspect_kernels(table, lengths, dtype, targets.get(arguments.arch), few=getattr(arguments, "few", False))
    if getattr(arguments, "cubin", None) is not None:
        write_binaries(found, arguments.cubin)
    return found


def _lengths(lengths: Mapping[str, int]) -> str:
    return ", ".join(f"{axis} = {length}" for axis, length in lengths.items())


def _print(arguments: argparse.Namespace, data: Any, lines: Sequence[str]) -> None:
    print(json.dumps(data, indent=1) if arguments.json else "\n".join(lines))
