"""Savings of the rewrites, in SASS instructions of one iteration of the loop over FULL tiles.

`python benchmarks/rewrites.py > benchmarks/rewrites.md` needs no GPU: kernels are compiled for the target, at the same tiles for every
variant, and compared with plain causal attention.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import Any

import torch

import attngen
from attngen import variants
from attngen.pipeline import REWRITES
from attngen.plan.options import Options
from attngen.plan.programs import ProgramKey
from attngen.runtime.kernel_table import kernel_table
from attngen.schedule.choose import Request
from attngen.schedule.tile_schedule import TileSchedule
from attngen.targets import table as targets
from attngen.toolchain.compile import CompileFailed, compile_kernel
from attngen.toolchain.sass import Loop, disassemble, main_loops
from attngen.toolchain.settle import Emitted, Task, compile_job

TILES = (
    ("forward", TileSchedule(128, 64, 8, 2)),
    ("forward", TileSchedule(128, 128, 8, 2, pipe=True, late=True, tma=True)),
    ("backward_rows", TileSchedule(128, 64, 8, 2)),
    ("backward_rows", TileSchedule(128, 64, 8, 2, tma=True)),
    ("backward_columns", TileSchedule(128, 32, 8, 2)),
)
PLACES = 4096


def causal(b: Any, h: Any, q: Any, k: Any) -> Any:
    return q >= k


def specs() -> dict[str, attngen.Spec]:
    """Causal variants with various score mods."""
    place, rate = torch.zeros(1, PLACES, 3), torch.tensor(0.3)
    left, right = torch.zeros(1, PLACES), torch.zeros(1, PLACES)
    slopes = torch.zeros(8)

    def squared_distance(s: Any, b: Any, h: Any, q: Any, k: Any) -> Any:
        return s - 0.1 * sum((place[b, q, i] - place[b, k, i]) ** 2 for i in range(3))

    mods: dict[str, Any] = {
        "ALiBi": lambda s, b, h, q, k: s + slopes[h] * (k - q),
        "ALiBi and a slope of positions": lambda s, b, h, q, k: s + 0.01 * k - slopes[h] * (q - k),
        "squared distance, 3-D": squared_distance,
        "squared difference of positions": lambda s, b, h, q, k: s - slopes[h] * (q - k) ** 2,
        "cos(q - k)": lambda s, b, h, q, k: s + torch.cos(rate * (q - k)),
        "value of a query times one of a key": lambda s, b, h, q, k: s + left[b, q] * right[b, k],
        "value of a query": lambda s, b, h, q, k: s + left[b, q],
        "value of a key": lambda s, b, h, q, k: s + right[b, k],
    }
    found = {"plain": variants.causal()}
    found |= {name: attngen.attention(mod, causal, name="biased") for name, mod in mods.items()}
    found["softcap, a captured tensor"] = attngen.attention(mask_mod=causal, softcap=torch.tensor(30.0), name="capped")
    found["softcap, 30.0"] = attngen.attention(mask_mod=causal, softcap=30.0, name="capped")
    return found


def full_loop(spec: attngen.Spec, role: str, tile: TileSchedule, request: Request, without: Iterable[str]) -> Loop | None:
    """The loop over full tiles of one kernel, None where it does not compile."""
    table = kernel_table(spec.cascade, spec.name, Options(request.target.name, without=frozenset(without)))
    kernels = table.kernels(ProgramKey(request.dtype, table.gradients(frozenset({"q", "k", "v"}))))
    source = kernels.source(request.extents)
    module = kernels.module(source, "compiled", request.target, request.extents, request.dtype)
    compiled = compile_kernel(compile_job(Task(Emitted(source, module), role, request, tile)))
    return None if isinstance(compiled, CompileFailed) else main_loops(disassemble(compiled.binary))[0]


def figure(loop: Loop | None, plain: Loop | None) -> str:
    """Instructions, how much more than plain causal, and spilled bytes if there are any."""
    if loop is None:
        return "does not compile"
    more = f" ({len(loop.body) / len(plain.body) - 1:+.1%})" if plain is not None else ""
    spilled = f", {loop.spill_bytes()} B spilled" if loop.spill_bytes() else ""
    return f"{len(loop.body)}{more}{spilled}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--arch", default="sm90")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--head-dim", type=int, default=128)
    arguments = parser.parse_args()
    dims = {"d": arguments.head_dim, "e": arguments.head_dim}
    request = Request(tuple(dims.items()), arguments.dtype, targets.get(arguments.arch), "long")
    print(f"Instructions an iteration of the loop over full tiles, {arguments.arch}, {arguments.dtype}, D = {arguments.head_dim}, causal;")
    print("gradients of q, k and v. In brackets: against plain causal attention with the same rewrites. `python benchmarks/rewrites.py`.")
    for role, tile in TILES:
        print(f"\n## {role}, {tile}\n\n| score mod | without rewrites | with |\n|---|---|---|")
        plain = {whole: full_loop(specs()["plain"], role, tile, request, () if whole else REWRITES) for whole in (True, False)}
        for name, spec in specs().items():
            loops = [full_loop(spec, role, tile, request, () if whole else REWRITES) for whole in (False, True)]
            cells = [figure(loop, plain[whole] if name != "plain" else None) for loop, whole in zip(loops, (False, True), strict=True)]
            print(f"| {name} | {cells[0]} | {cells[1]} |", flush=True)


if __name__ == "__main__":
    main()
