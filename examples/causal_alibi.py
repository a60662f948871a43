"""A causal mask and ALiBi biases with learnable slopes: FlexAttention's signatures, trained for a few steps on the CPU."""

from __future__ import annotations

import torch

import attngen


def main() -> None:
    torch.manual_seed(0)
    heads, tokens, dim = 4, 70, 32
    slopes = torch.exp2(-torch.arange(1, heads + 1, dtype=torch.float32)).requires_grad_()

    def alibi(score, b, h, q_idx, kv_idx):
        return score + slopes[h] * (kv_idx - q_idx)

    def causal(b, h, q_idx, kv_idx):
        return q_idx >= kv_idx

    attend = attngen.compile(attngen.attention(score_mod=alibi, mask_mod=causal), arch="sm90")
    q, k, v = (torch.randn(1, heads, tokens, dim) for _ in range(3))
    target = attend.reference(q, k, v).float().detach()
    with torch.no_grad():
        slopes.mul_(0.25)
    optimizer = torch.optim.Adam([slopes], lr=0.05)
    for step in range(5):
        loss = (attend(q, k, v) - target).square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(f"step {step}: loss {loss.item():.4f}, slopes {[round(s, 3) for s in slopes.tolist()]}")


if __name__ == "__main__":
    main()
