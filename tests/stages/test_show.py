"""What each step gives is shown in the words of its own level."""

from __future__ import annotations

from attngen.ir.parser import parse
from attngen.report.explain import after
from tests.variants import CAUSAL_ALIBI

CASCADE = parse(CAUSAL_ALIBI)


def test_facts_of_a_kernel_are_lines() -> None:
    text = after(CASCADE, "facts")
    forward, prepare, *_ = text.split("\nbackward_")
    assert forward.startswith("forward:\n  loop: ") and "unmasked in [0, min(first + 1, extent(n)))" in forward
    assert "prefetched dots: s" in forward and "rows of matrices: k, v" in forward
    assert "maxima=1" in forward and "dots=d" in forward
    assert "loop: nothing passes" in prepare and "guards" not in prepare


def test_a_schedule_shows_tiles_with_their_reasons() -> None:
    text = after(CASCADE, "schedule", dtype="float16", arch="sm80", lengths=lambda axes: dict.fromkeys(axes, 64))
    assert text.startswith("forward: ") and "backward_columns: " in text and "compiled for sm80" in text


def test_lowered_kernels_show_their_signature_and_sections() -> None:
    text = after(CASCADE, "lower")
    assert "forward_kernel(q_ptr, k_ptr, " in text
    assert "  iteration:\n" in text and "  stores:\n" in text


def test_what_is_printed_is_a_module() -> None:
    text = after(CASCADE, "print")
    assert "def forward_kernel(" in text
    compile(text, "kernels", "exec")
