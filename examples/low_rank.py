"""A learned bias of low rank: factored from a dense one, added as a second small product, trained without a matrix of scores."""

from __future__ import annotations

import torch

import attngen


def main() -> None:
    torch.manual_seed(0)
    tokens, heads = 64, 2
    distance = torch.arange(tokens)[:, None] - torch.arange(tokens)[None, :]
    dense = torch.stack([torch.exp(-((distance / (16.0 * (head + 1))) ** 2)) for head in range(heads)])
    phi, psi, rank, error = attngen.factor(dense, error=1e-3)
    print(f"rank {rank} in place of {tokens}, largest error {error:.1e}")
    bias = attngen.low_rank(phi.requires_grad_(), psi.requires_grad_())

    def near(score, b, h, q_idx, kv_idx):
        return score + bias(b, h, q_idx, kv_idx)

    attend = attngen.compile(attngen.attention(score_mod=near), arch="sm90")
    q, k, v = (torch.randn(1, heads, tokens, 16) for _ in range(3))
    out = attend(q, k, v)
    dphi, dpsi = torch.autograd.grad(out.square().sum(), (phi, psi))
    exact = torch.softmax(q @ k.mT * 16**-0.5 + dense, -1) @ v
    print(f"largest difference to the dense bias {(out - exact).detach().abs().max():.1e}")
    print("gradients of the factors:", tuple(dphi.shape), tuple(dpsi.shape))


if __name__ == "__main__":
    main()
