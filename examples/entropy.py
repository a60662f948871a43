"""Attention entropy per query as a second output: a reduction of rank two, still one pass over the keys, with gradients."""

from __future__ import annotations

import torch

import attngen


@attngen.cascade(q="b h m d", k="b h n d", v="b h n e")
def with_entropy(q, k, v):
    scores = attngen.einsum("b h m d, b h n d -> b h m n", q, k) * attngen.extent("d") ** -0.5
    p = attngen.softmax(scores, over="n")
    entropy = attngen.sum(-p * attngen.log(p), over="n")
    return {"o": attngen.einsum("b h m n, b h n e -> b h m e", p, v), "entropy": entropy}


def main() -> None:
    torch.manual_seed(0)
    attend = attngen.compile(with_entropy, arch="sm90")
    q, k, v = (torch.randn(1, 2, 48, 16, requires_grad=True) for _ in range(3))
    result = attend(q, k, v)
    (result["o"].sum() - 0.1 * result["entropy"].sum()).backward()
    print(
        "entropy per query:",
        [round(h, 3) for h in result["entropy"][0, 0, :4].tolist()],
        "of at most",
        round(torch.log(torch.tensor(48.0)).item(), 3),
    )
    print("ranks of the reductions:", dict(attend.program.streamed.ranks))


if __name__ == "__main__":
    main()
