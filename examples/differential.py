"""Differential attention, written as a cascade of einsums: two softmaxes that share V, in one kernel a direction."""

from __future__ import annotations

import torch

import attngen


@attngen.cascade(q1="b h m d", q2="b h m d", k1="b h n d", k2="b h n d", v="b h n e", lam="h")
def differential(q1, q2, k1, k2, v, lam):
    scale = attngen.extent("d") ** -0.5
    s1 = attngen.einsum("b h m d, b h n d -> b h m n", q1, k1) * scale
    s2 = attngen.einsum("b h m d, b h n d -> b h m n", q2, k2) * scale
    p = attngen.softmax(s1, over="n") - lam * attngen.softmax(s2, over="n")
    return attngen.einsum("b h m n, b h n e -> b h m e", p, v)


def main() -> None:
    torch.manual_seed(0)
    attend = attngen.compile(differential, arch="sm90")
    rows, keys = (1, 2, 50, 16), (1, 2, 40, 16)
    tensors = [torch.randn(shape, requires_grad=True) for shape in (rows, rows, keys, keys, (1, 2, 40, 32))]
    lam = torch.tensor([0.3, 0.7], requires_grad=True)
    out = attend(*tensors, lam)
    (dlam,) = torch.autograd.grad(out.square().sum(), lam)
    print("largest error against float64:", f"{(out - attend.reference(*tensors, lam)).abs().max():.1e}")
    print("gradient of lam:", [round(g, 3) for g in dlam.tolist()])


if __name__ == "__main__":
    main()
