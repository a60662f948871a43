"""Parameters of emitted kernels say what they are, whatever they are called."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest

from attngen.emit.identifiers import Code
from attngen.emit.params import CHUNK, Param, length, number, pointer, result, size, stride
from attngen.ir.parser import parse
from attngen.pipeline import Source, analyse, build
from tests.kernels.cases import ALL, masked

NAMES = {
    pointer(Code("q")): "q_ptr",
    result(Code("o")): "o_out",
    number(Code("scale")): "scale",
    stride(Code("q"), 3, "m"): "q_stride_m",
    stride(Code("table"), 1): "table_stride_1",
    size(Code("table"), 0): "table_size_0",
    length("m"): "len_m",
    CHUNK[0]: "chunk_begin",
}


def source(text: str) -> Source:
    return build(analyse(parse(text)), "variant")


def params(found: Source) -> list[tuple[str, Param]]:
    return [(kernel.role, param) for kernel, lowered in found.lowered for param in lowered.params]


@pytest.mark.parametrize(("param", "name"), NAMES.items(), ids=NAMES.values())
def test_a_parameter_is_called_after_what_it_is(param: Param, name: str) -> None:
    assert param.name == name


@pytest.mark.parametrize("name", ["causal_alibi", "learned_bias", "scattered_documents", "differential"])
def test_a_signature_has_pointers_first_and_lengths_last(name: str) -> None:
    for _, lowered in source(ALL[name]).lowered:
        assert all(first.order <= second.order for first, second in pairwise(lowered.params))
        assert len({param.name for param in lowered.params}) == len(lowered.params)
        assert lowered.context.params == tuple(param.name for param in lowered.params)


@pytest.mark.parametrize("name", ["causal_alibi", "learned_bias", "relative", "multiples"])
def test_the_host_passes_what_a_parameter_says(name: str) -> None:
    """Each launch names every argument by what the record says, in the order of the signature."""
    found = source(ALL[name])
    for kernel, lowered in found.lowered:
        launch = found.text.split(f"{lowered.context.name}[", 1)[-1] if not kernel.tile_list_of else found.text
        for param in lowered.params:
            passed = {"stride": f"{param.tensor}.stride({param.dim})", "size": f"{param.tensor}.shape[{param.dim}]"}
            text = passed.get(param.kind, param.tensor if param.is_pointer else str(param.name))
            assert re.search(rf"\b{re.escape(text)}", launch), (kernel.role, param)


def test_lists_and_buffers_are_told_from_tensors() -> None:
    listed = params(source(ALL["multiples"]))
    lists = {(role.endswith("_list"), param.kind) for role, param in listed if param.memory in ("tile_list", "tile_counts")}
    assert lists == {(True, "result"), (False, "pointer")}
    chunked = [param for _, param in params(source(ALL["relative"])) if param.memory in ("gradient_tiles", "gradient_keys")]
    assert {param.kind for param in chunked} == {"result", "stride"}
    assert {param.tensor.partition("_")[0] for param in chunked} == {"tiles", "keys"}


def test_what_is_called_like_another_kind_is_none() -> None:
    """A captured number whose name ends like that of a pointer, and one whose name looks like a stride."""
    text = masked("m >= n and m - n < gain_out + a_stride_m", "gain_out: int, a_stride_m: int")
    found = {param.name: param.kind for _, param in params(source(text))}
    assert (found["gain_out"], found["a_stride_m"]) == ("number", "number")
