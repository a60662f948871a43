"""An attention sink: one learnable logit a head in the denominator, so that a query may attend to nothing much."""

from __future__ import annotations

import torch

import attngen


def main() -> None:
    torch.manual_seed(0)
    sink = torch.zeros(4, requires_grad=True)

    def causal(b, h, q_idx, kv_idx):
        return q_idx >= kv_idx

    attend = attngen.compile(attngen.attention(mask_mod=causal, sink=sink), arch="sm90")
    q = torch.randn(1, 4, 40, 16)
    k, v = (torch.randn(1, 2, 40, 16) for _ in range(2))
    out, lse = attend(q, k, v, return_lse=True)
    (dsink,) = torch.autograd.grad(out.square().sum(), sink, retain_graph=True)
    share = torch.exp(sink.detach()[None, :, None] - lse.detach())
    print("share of the sink, first and last query:", [round(x, 3) for x in (share[0, 0, 0].item(), share[0, 0, -1].item())])
    print("gradient of the sink logits:", [round(g, 3) for g in dsink.tolist()])


if __name__ == "__main__":
    main()
