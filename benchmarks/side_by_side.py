"""Speed against cuBLAS, PyTorch's SDPA and FlexAttention, measured in one run on the GPU at hand: `python benchmarks/side_by_side.py`.

Every figure is a median after warm-up on fresh random data, with outputs of attngen checked against float32 SDPA before anything is timed.
Writes one JSON file (device, versions, date, figures) into benchmarks/results and prints a table of ratios.
"""

from __future__ import annotations

import argparse
import datetime
import json
from collections.abc import Callable
from pathlib import Path

import torch
import triton
from torch import Tensor

import attngen

RESULTS = Path(__file__).with_name("results")
HEADS = 16


def causal(b, h, q_idx, kv_idx):
    return q_idx >= kv_idx


def milliseconds(run: Callable[[], object]) -> float:
    """Median of a timed call, in ms."""
    return float(triton.testing.do_bench(run, warmup=50, rep=200, return_mode="median"))


def cublas_tflops(size: int = 8192) -> float:
    """bf16 matrix product of size³: what the card sustains."""
    a, b = (torch.randn(size, size, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    return 2 * size**3 / milliseconds(lambda: a @ b) / 1e9


def flops(shape: tuple[int, int, int, int], is_causal: bool, backward: bool) -> float:
    """Useful floating point operations, by the usual convention (five products backward, two forward, half if causal)."""
    batch, heads, tokens, dim = shape
    return (5 if backward else 2) * 2.0 * batch * heads * tokens * tokens * dim * (0.5 if is_causal else 1.0)


def candidates(is_causal: bool) -> dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]]:
    """Functions of (q, k, v) that compute the same thing."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    attend = attngen.compile(attngen.attention(mask_mod=causal) if is_causal else attngen.attention())
    flex = torch.compile(flex_attention, dynamic=False)

    def sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=is_causal)

    def flexed(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        tokens = q.shape[2]
        block = create_block_mask(causal, None, None, tokens, tokens, device="cuda") if is_causal else None
        return flex(q, k, v, block_mask=block)

    return {"attngen": attend, "sdpa": sdpa, "flex": flexed}


def measure(dim: int, tokens: int, is_causal: bool) -> list[dict[str, object]]:
    """One shape, forward and backward, all candidates."""
    shape = (max(1, 16384 // tokens), HEADS, tokens, dim)
    rows: list[dict[str, object]] = []
    q, k, v, do = (torch.randn(shape, device="cuda", dtype=torch.bfloat16) for _ in range(4))
    for tensor in (q, k, v):
        tensor.requires_grad_()
    truth = torch.nn.functional.scaled_dot_product_attention(q.float(), k.float(), v.float(), is_causal=is_causal)
    for name, run in candidates(is_causal).items():
        out = run(q, k, v)
        error = float((out.float() - truth).abs().max())
        forward_ms = milliseconds(lambda run=run: run(q, k, v))
        backward_ms = milliseconds(lambda out=out: torch.autograd.grad(out, (q, k, v), do, retain_graph=True))
        for direction, ms in (("forward", forward_ms), ("backward", backward_ms)):
            tflops = flops(shape, is_causal, direction == "backward") / ms / 1e9
            rows.append(
                {
                    "name": name,
                    "direction": direction,
                    "dim": dim,
                    "tokens": tokens,
                    "causal": is_causal,
                    "ms": ms,
                    "tflops": tflops,
                    "error": error,
                }
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dims", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--tokens", type=int, nargs="+", default=[2048, 8192])
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("this benchmark needs a GPU")
    peak = cublas_tflops()
    rows = [row for dim in options.dims for tokens in options.tokens for causal_ in (False, True) for row in measure(dim, tokens, causal_)]
    report = {
        "device": torch.cuda.get_device_name(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "versions": {"torch": torch.__version__, "triton": triton.__version__, "attngen": attngen.__version__},
        "cublas_tflops": peak,
        "rows": rows,
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{report['date']}-{torch.cuda.get_device_name().replace(' ', '-')}.json"
    path.write_text(json.dumps(report, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    print(f"{report['device']}: cuBLAS {peak:.0f} TFLOP/s")
    for row in rows:
        base = next(r for r in rows if r["name"] == "sdpa" and all(r[key] == row[key] for key in ("direction", "dim", "tokens", "causal")))
        ratio = float(str(row["tflops"])) / float(str(base["tflops"]))
        place = f"{row['name']:8} {row['direction']:8} D={row['dim']} N={row['tokens']} causal={row['causal']}"
        print(f"{place}: {row['tflops']:.0f} TFLOP/s, {ratio:.2f} of SDPA")


if __name__ == "__main__":
    main()
