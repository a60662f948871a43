"""Values that a long body uses more than once are steps, under the names of the user's variables."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import attngen
from attngen.errors import NotStreamable
from attngen.frontend.spec import Spec
from attngen.ir.cascade import Einsum
from attngen.ir.parser import parse
from attngen.ir.traverse import LONG
from attngen.pipeline import analyse
from tests import reused


def steps(spec: Spec) -> dict[str, Einsum]:
    assert parse(str(spec.cascade)) == spec.cascade
    return {step.name: step for step in spec.cascade.steps}


def test_short_bodies_stay_whole() -> None:
    assert list(steps(reused.score_mod(2))) == ["s", "x", "lse", "p", "o"]


def test_steps_have_the_names_of_variables() -> None:
    @attngen.cascade(**reused.ARGUMENTS)
    def swish(q: Any, k: Any, v: Any) -> Any:
        scores = attngen.einsum(reused.SCORES, q, k, name="s")
        for _ in range(6):
            gated = scores * torch.sigmoid(scores)
            scores = gated + torch.tanh(gated)
        return attngen.einsum(reused.OUTPUT, attngen.softmax(scores, over="n"), v)

    found = steps(swish)
    assert str(found["gated2"]) == "gated2[b,h,m,n] = scores[b,h,m,n] * sigmoid(scores[b,h,m,n])"
    assert str(found["scores"]) == "scores[b,h,m,n] = gated[b,h,m,n] + tanh(gated[b,h,m,n])"
    assert found["scores2"].called == "scores"
    assert found["scores2"].loc is not None
    assert "scores = gated" in found["scores2"].loc.text()


def test_values_without_a_variable_are_parts_of_their_step() -> None:
    def twice(x: Any) -> Any:
        return x * torch.sigmoid(x)

    found = steps(attngen.attention(score_mod=lambda score, b, h, q, k: twice(twice(twice(twice(twice(score)))))))
    assert str(found["x_part2"]) == "x_part2[b,g,r,m,n] = x_part[b,g,r,m,n] * sigmoid(x_part[b,g,r,m,n])"


def test_a_mask_among_them_is_of_the_whole_score() -> None:
    found = steps(reused.masked(20))
    assert [name for name, step in found.items() if step.where is not None] == ["x"]
    assert str(found["x"]).endswith("  if m >= n")


def test_positions_stay_where_analyses_read_them() -> None:
    slopes = torch.rand(4)

    def score_mod(score: Any, b: Any, h: Any, q: Any, k: Any) -> Any:
        distance = (q - k).float()
        for _ in range(5):
            score = score * torch.sigmoid(score)
        return score + slopes[h] * distance - 0.5 * distance * distance

    found = steps(attngen.attention(score_mod=score_mod))
    assert not any(name.startswith("distance") for name in found)
    assert str(found["x"]).count("to_float(m - n)") == 3


def test_long_values_of_positions_are_steps_too() -> None:
    def score_mod(score: Any, b: Any, h: Any, q: Any, k: Any) -> Any:
        distance = (q - k).float()
        for _ in range(20):
            distance = distance * torch.sigmoid(distance)
        return score + distance

    assert all(len(str(step)) < 10 * LONG for step in steps(attngen.attention(score_mod=score_mod)).values())


def test_two_reductions_share_steps() -> None:
    @attngen.cascade(**reused.ARGUMENTS)
    def both(q: Any, k: Any, v: Any) -> Any:
        s = attngen.einsum(reused.SCORES, q, k)
        for _ in range(8):
            s = s * torch.sigmoid(s)
        return attngen.einsum(reused.OUTPUT, attngen.softmax(s, over="n"), v), attngen.max(s, over="n")

    bodies = [str(step.body) for step in steps(both).values() if step.reduce is None]
    assert len(bodies) == len(set(bodies)) == 9


def test_errors_come_soon_too() -> None:
    @attngen.cascade(**reused.ARGUMENTS)
    def again(q: Any, k: Any, v: Any) -> Any:
        p = attngen.softmax(attngen.einsum(reused.SCORES, q, k), over="n")
        for _ in range(20):
            p = p * torch.sigmoid(p)
        return attngen.einsum(reused.OUTPUT, p, v)

    with pytest.raises(NotStreamable, match="mixes values"):
        analyse(again.cascade)
    with pytest.raises(NotStreamable, match="degree"):
        analyse(_powers().cascade)


def _powers() -> Spec:
    @attngen.cascade(**reused.ARGUMENTS)
    def function(q: Any, k: Any, v: Any) -> Any:
        p = attngen.softmax(attngen.einsum(reused.SCORES, q, k), over="n")
        for _ in range(20):
            p = p * (1 - p)
        return attngen.einsum(reused.OUTPUT, p, v)

    return function
