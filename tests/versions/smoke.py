"""Run as a script under another Triton: one variant through every template, interpreted and compiled for sm80 and sm90."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
import triton

import attngen
from attngen.cache.load import load_module
from attngen.calls.spec_form import programs_of_few
from attngen.plan.programs import FORWARD_ONLY, ProgramKey
from attngen.schedule.choose import Request
from attngen.schedule.tile_schedule import TileSchedule
from attngen.targets import table as targets
from attngen.toolchain.compile import compile_many
from attngen.toolchain.settle import Emitted, Task, compile_job


def variant() -> attngen.Spec:
    slopes = torch.tensor([0.5, 0.25, 0.125, 0.0625], requires_grad=True)

    def alibi(score, b, h, q_idx, kv_idx):
        return score + slopes[h] * (kv_idx - q_idx)

    def causal(b, h, q_idx, kv_idx):
        return q_idx >= kv_idx

    return attngen.attention(score_mod=alibi, mask_mod=causal)


def interpreted(dtype: torch.dtype) -> float:
    """Largest error of output and gradients, relative to the largest value, against float64."""
    torch.manual_seed(0)
    attend = attngen.compile(variant())
    q = torch.randn(1, 4, 70, 16).to(dtype).requires_grad_()
    k, v = (torch.randn(1, 2, 45, 16).to(dtype).requires_grad_() for _ in range(2))
    out, ref = attend(q, k, v), attend.reference(q, k, v)
    found = torch.autograd.grad(out.sum(), (q, k, v))
    wanted = torch.autograd.grad(ref.sum(), (q, k, v))
    few, cache = q[:, :, :1].detach(), [torch.randn(1, 2, 520, 16).to(dtype) for _ in range(2)]
    with torch.no_grad():
        pairs = [(out, ref), *zip(found, wanted, strict=True), (attend(few, *cache), attend.reference(few, *cache))]
    return max(float((a.double() - b.double()).abs().max() / b.double().abs().max()) for a, b in pairs)


def compiled(folder: Path) -> dict[str, int]:
    """Shared bytes of every kernel by target."""
    whole = attngen.compile(variant(), arch="sm90").build("bfloat16", head_dim=64)
    few = programs_of_few(variant(), "sm90").kernels(ProgramKey("bfloat16", FORWARD_ONLY, split=True)).source({"d": 64, "e": 64})
    jobs, names = [], []
    for name, source in (("smoke_kernels", whole), ("smoke_few_kernels", few)):
        path = folder / f"{name}.py"
        path.write_text(source.text, encoding="utf-8")
        emitted = Emitted(source, load_module(path, name))
        for arch in ("sm80", "sm90"):
            for kernel, _ in source.lowered:
                tile = TileSchedule(1 if kernel.combines_splits else 64, None if kernel.streamed is None else 32, 4, 2)
                request = Request((("d", 64), ("e", 64)), "bfloat16", targets.get(arch))
                jobs.append(compile_job(Task(emitted, kernel.role, request, tile)))
                names.append(f"{arch} {kernel.role}")
    results = compile_many(jobs, 2)
    return {name: result.shared_bytes for name, result in zip(names, results, strict=True)}  # pyright: ignore


def main() -> None:
    errors = {str(dtype): interpreted(dtype) for dtype in (torch.float64, torch.float32, torch.bfloat16)}
    print(json.dumps({"triton": triton.__version__, "errors": errors, "shared": compiled(Path(sys.argv[1]))}))


if __name__ == "__main__":
    main()
