"""Dropout of attention weights: the mask follows from a seed and a position, so that no mask is stored and any call can be repeated."""

from __future__ import annotations

import torch

import attngen


def main() -> None:
    torch.manual_seed(0)

    def causal(b, h, q_idx, kv_idx):
        return q_idx >= kv_idx

    attend = attngen.compile(attngen.attention(mask_mod=causal, dropout=0.2), arch="sm90")
    q = torch.randn(1, 2, 40, 16, requires_grad=True)
    k, v = (torch.randn(1, 1, 40, 16) for _ in range(2))
    out, seed = attend(q, k, v, return_seed=True)
    (dq,) = torch.autograd.grad(out.square().sum(), q)
    again = attend(q, k, v, seed=seed)
    right = attend.reference(q, k, v, seed=seed)
    (golden,) = torch.autograd.grad(right.square().sum(), q)
    print("the same seed, the same result:", torch.equal(out, again))
    print(f"largest error of the output {(out - right).abs().max():.1e}, of the gradient {(dq - golden).abs().max():.1e}")
    mean = torch.stack([attend(q, k, v).detach() for _ in range(8)]).mean(0)
    plain = attend(q, k, v, training=False).detach()
    print(f"mean of 8 calls against inference: {(mean - plain).abs().mean():.3f}, one call: {(out - plain).detach().abs().mean():.3f}")


if __name__ == "__main__":
    main()
