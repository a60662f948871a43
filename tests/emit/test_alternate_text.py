from __future__ import annotations

from attngen.alternates.known_alternates import ALTERNATES
from attngen.emit.alternate_text import alternate_texts
from attngen.emit.kernel_text import lower_kernel
from attngen.emit.placement import shapes
from attngen.ir.parser import parse
from attngen.pipeline import analyse
from tests.variants import SOFTMAX


def test_kernels_have_the_text_of_their_alternates_where_it_is_asked_for():
    program = analyse(parse(SOFTMAX))
    own = shapes(frozenset(step for kernel in program.kernels for step in kernel.outputs), (), set("bgrmnde"))
    for facts in program.facts:
        plain = lower_kernel(facts, own)
        assert alternate_texts(facts, own, plain, frozenset()) == ()
        for text in alternate_texts(facts, own, plain, frozenset(ALTERNATES)):
            alternate = ALTERNATES[text.flag]
            assert alternate.role == facts.role and text.plain == plain.context.name
            assert f"def {alternate.function}(" in text.text and alternate.function in text.choice
            assert text.imports and text.legend and text.choice.split("of_form")[0] == "kernel, tile = "
