"""Variants that use their own values many times: as trees their scores are exponential in the number of steps."""

from __future__ import annotations

from typing import Any

import torch

import attngen
from attngen.frontend.spec import Spec

SCORES, OUTPUT = "b h m d, b h n d -> b h m n", "b h m n, b h n e -> b h m e"
ARGUMENTS = {"q": "b h m d", "k": "b h n d", "v": "b h n e"}


def score_mod(steps: int) -> Spec:
    """`score * sigmoid(score)`, again and again."""

    def swish(score: Any, b: Any, h: Any, q: Any, k: Any) -> Any:
        for _ in range(steps):
            score = score * torch.sigmoid(score)
        return score

    return attngen.attention(score_mod=swish)


def mixed(steps: int) -> Spec:
    """Four kinds of steps in turn, of the scores of a cascade."""

    @attngen.cascade(**ARGUMENTS)
    def function(q: Any, k: Any, v: Any) -> Any:
        s = attngen.einsum(SCORES, q, k)
        for step in range(steps):
            match step % 4:
                case 0:
                    s = s * torch.sigmoid(s)
                case 1:
                    s = s + 0.1 * torch.tanh(s) * s
                case 2:
                    s = torch.where(s > 0, s, 0.1 * s * torch.exp(-s * s))
                case _:
                    s = torch.nn.functional.softplus(s) - s / (1 + s * s)
        return attngen.einsum(OUTPUT, attngen.softmax(s, over="n"), v)

    return function


def of_rows(steps: int) -> Spec:
    """The same of an output: row values, which a backward computes again."""

    @attngen.cascade(**ARGUMENTS)
    def function(q: Any, k: Any, v: Any) -> Any:
        o = attngen.einsum(OUTPUT, attngen.softmax(attngen.einsum(SCORES, q, k), over="n"), v)
        for _ in range(steps):
            o = o * torch.sigmoid(o)
        return o

    return function


def masked(steps: int) -> Spec:
    """Scores that are masked half way."""

    def score_mod(score: Any, b: Any, h: Any, q: Any, k: Any) -> Any:
        for step in range(steps):
            score = score * torch.sigmoid(score)
            if step == steps // 2:
                score = torch.where(q >= k, score, float("-inf"))
        return score

    return attngen.attention(score_mod=score_mod)


ALL = {"score_mod": score_mod, "mixed": mixed, "of_rows": of_rows, "masked": masked}
