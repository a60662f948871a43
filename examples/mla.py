"""Multi-head latent attention: scores are a sum of two products, one without and one with positions, whose keys all heads share."""

from __future__ import annotations

import torch

import attngen


@attngen.cascade(q_nope="b h m d", q_rope="b h m r", k_nope="b h n d", k_rope="b n r", v="b h n e")
def latent(q_nope, q_rope, k_nope, k_rope, v):
    scale = (attngen.extent("d") + attngen.extent("r")) ** -0.5
    nope = attngen.einsum("b h m d, b h n d -> b h m n", q_nope, k_nope)
    rope = attngen.einsum("b h m r, b n r -> b h m n", q_rope, k_rope)
    past = attngen.causal("m", "n", align="bottom_right")
    p = attngen.softmax(attngen.where(past, (nope + rope) * scale, float("-inf")), over="n")
    return attngen.einsum("b h m n, b h n e -> b h m e", p, v)


def main() -> None:
    torch.manual_seed(0)
    attend = attngen.compile(latent, arch="sm90")
    heads, keys = (1, 2, 30), (1, 2, 40)
    shapes = [(*heads, 32), (*heads, 16), (*keys, 32), (1, 40, 16), (*keys, 48)]
    tensors = [torch.randn(shape, requires_grad=True) for shape in shapes]
    out = attend(*tensors)
    golden = attend.reference(*tensors)
    print("largest error against float64:", f"{(out - golden).abs().max():.1e}")
    grads, right = (torch.autograd.grad(result.square().sum(), tensors) for result in (out, golden))
    print("of the gradient of k_rope:", f"{(grads[3] - right[3]).abs().max():.1e}")


if __name__ == "__main__":
    main()
