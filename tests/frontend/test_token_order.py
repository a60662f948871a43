from __future__ import annotations

import numpy as np
import pytest
import torch

import attngen
from attngen.errors import ArgumentError, ShapeMismatch
from attngen.frontend.neighborhood import Neighborhood
from attngen.pipeline import stream
from attngen.plan.token_layout import Dense, best_order
from attngen.schedule.permutation_profit import pays
from attngen.targets import table as target

SMALL = {role: {"BLOCK_M": 16, "BLOCK_N": 16, "num_warps": 4, "num_stages": 1} for role in ("forward", "backward_rows", "backward_columns")}


class TestOrders:
    def test_tiles_follow_each_other(self) -> None:
        order = attngen.grid(4, 6).order((2, 3))
        tiles = order.places.view(2, 2, 2, 3)
        assert tiles[0, 1].tolist() == [[3, 4, 5], [9, 10, 11]]
        assert tiles[1, 0].tolist() == [[12, 13, 14], [18, 19, 20]]
        assert order.note == "in tiles of 2x3"

    @pytest.mark.parametrize(("lengths", "tile", "dilation"), [((5, 7), (2, 3), (1, 1)), ((31,), None, 4), ((4, 9, 5), None, (1, 2, 1))])
    def test_every_token_comes_once(self, lengths: tuple[int, ...], tile: tuple[int, ...] | None, dilation: int | tuple[int, ...]) -> None:
        order = attngen.grid(*lengths).order(tile, dilation=dilation)
        count = int(np.prod(lengths))
        assert order.places.sort().values.tolist() == list(range(count))
        assert order.places[order.inverse.long()].tolist() == list(range(count))

    def test_equal_remainders_follow_each_other(self) -> None:
        assert attngen.grid(8).order(dilation=3).places.tolist() == [0, 3, 6, 1, 4, 7, 2, 5]

    def test_default_tiles_hold_64_tokens(self) -> None:
        for lengths, tile in (((64, 64), "8x8"), ((8, 32, 32), "4x4x4"), ((2, 100), "2x32"), ((1000,), "64"), ((3, 3), "2x2")):
            assert attngen.grid(*lengths).order().note == f"in tiles of {tile}"


class TestResults:
    """An order changes tiles and nothing else."""

    @pytest.mark.kernels
    @pytest.mark.parametrize("name", ["neighbours", "dilated", "anything"])
    def test_they_stay_where_they_were(self, name: str) -> None:
        grid = attngen.grid(5, 7)
        slopes = torch.tensor([0.1, -0.2], dtype=torch.float64, requires_grad=True)
        bias = torch.randn(35, generator=torch.Generator().manual_seed(1), dtype=torch.float64).requires_grad_()
        near = grid.neighborhood((3, 5), dilation=(1, 1))
        masks = {"neighbours": near, "dilated": lambda b, h, q, k: ((q - k) % 3 == 0) & (q - k < 20), "anything": lambda b, h, q, k: q >= k}
        shuffled = torch.randperm(35, generator=torch.Generator().manual_seed(2))
        orders = {"neighbours": grid.order((2, 4)), "dilated": attngen.grid(35).order(dilation=3), "anything": shuffled}

        def score(s, b, h, q, k):  # type: ignore[no-untyped-def]
            return s + slopes[h] * (q - k) + bias[k]

        generator = torch.Generator().manual_seed(0)
        q, k, v, cotangent = (torch.randn(1, 2, 35, 16, generator=generator, dtype=torch.float64) for _ in range(4))
        leaves = [x.requires_grad_() for x in (q, k, v)] + [slopes, bias]
        found = []
        for order in (orders[name], None):
            attend = attngen.compile(attngen.attention(score, masks[name], order=order, name="ordered"), schedule=SMALL)
            for run in (attend, attend.reference):
                o, lse = run(q, k, v, return_lse=True)
                found.append((o, lse, *torch.autograd.grad((o * cotangent).sum() + lse.sum(), leaves)))
        for mine in found[:-1]:
            for a, b in zip(mine, found[-1], strict=True):
                torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)

    @pytest.mark.kernels
    def test_fewer_tiles_are_visited(self) -> None:
        def dilated(b, h, q, k):  # type: ignore[no-untyped-def]
            return ((q - k) % 4 == 0) & (q - k < 32) & (k - q < 32)

        counted = []
        for order in (None, attngen.grid(128).order(dilation=4)):
            attend = attngen.compile(attngen.attention(mask_mod=dilated, order=order), arch="sm90", schedule=SMALL)
            found = attend.mask_tiles(q_len=128, kv_len=128, head_dim=16)[0]
            counted.append(found.full + found.partial)
        assert counted[1] < counted[0] / 2
        assert counted[1] == 4 * (2 + 2)

    @pytest.mark.kernels
    @pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
    def test_a_compiled_model(self) -> None:
        attend = attngen.compile(attngen.attention(order=torch.randperm(20)), schedule=SMALL)
        q, k, v = (torch.randn(1, 1, 20, 16) for _ in range(3))
        found = torch.compile(lambda *args: attend(*args), fullgraph=True, backend="aot_eager")(q, k, v)
        torch.testing.assert_close(found, attend(q, k, v))


class TestTheChoice:
    def test_copies_are_weighed_against_tiles(self) -> None:
        sm90 = target.get("sm90")
        assert pays((10**10, 10**9), 2**16, sm90)
        assert not pays((10**7, 10**6), 2**16, sm90)
        assert not pays((10**9, 10**9), 1, sm90)

    def test_a_large_grid_is_taken_in_tiles_and_says_so(self) -> None:
        spec = attngen.attention(mask_mod=attngen.grid(256, 256).neighborhood(13))
        attend = attngen.compile(spec, arch="sm90")
        assert attend.spec.order is not None and attend.spec.order.note == "in tiles of 8x8"
        assert "in tiles of 8x8: about 47.7 million pairs to visit, 187 million pairs as they come" in attend.explain()
        with pytest.raises(ShapeMismatch, match="the order is of 65536 tokens, and the call has 100"):
            attend(*(torch.zeros(1, 1, 100, 16) for _ in range(3)))

    def test_a_score_mod_keeps_tokens_where_they_are(self) -> None:
        spec = attngen.attention(lambda s, b, h, q, k: s + (q - k), attngen.grid(256, 256).neighborhood(13))
        assert spec.reordered is None

    def test_a_small_one_is_not(self) -> None:
        spec = best_order(attngen.attention(mask_mod=attngen.grid(16, 16).neighborhood(5)), target.get("sm90"))
        assert spec.order is None
        assert "which would not make up for the copies" in Dense(spec, stream(spec.cascade).cascade).describe(target.get("sm90"))

    @pytest.mark.parametrize("case", [((24, 24), (7, 7), (1, 1), (False, False)), ((12, 40), (3, 9), (1, 3), (True, False))])
    def test_estimated_pairs_hold_every_neighbour(self, case: tuple[tuple[int, ...], ...]) -> None:
        lengths, window, dilation, causal = case
        mask = attngen.grid(*lengths).neighborhood(window, dilation=dilation, causal=causal)  # type: ignore[arg-type]
        assert isinstance(mask, Neighborhood)
        places = torch.arange(int(np.prod(lengths)))
        for order in (None, mask.order()):
            taken = places if order is None else order.places.long()
            allowed = mask(0, 0, taken[:, None], taken[None, :])
            padded = torch.nn.functional.pad(allowed, (0, -len(places) % 64, 0, -len(places) % 128))
            needed = int(padded.view(padded.shape[0] // 128, 128, -1, 64).any(3).any(1).sum()) * 128 * 64
            assert needed <= mask.visited_pairs(order)


class TestWhatIsRefused:
    @pytest.mark.parametrize(
        ("order", "message"),
        [(torch.tensor([0, 0, 1]), "no permutation of 3 tokens"), (torch.zeros(3), "no tensor of positions"), ([0, 1], "no tensor of")],
    )
    def test_no_permutation(self, order: object, message: str) -> None:
        with pytest.raises(ArgumentError, match=message):
            attngen.attention(order=order)  # type: ignore[arg-type]

    def test_a_capture_that_is_too_short(self) -> None:
        short = torch.zeros(10)
        attend = attngen.compile(attngen.attention(lambda s, b, h, q, k: s + short[k], order=torch.arange(20)))
        with pytest.raises(ShapeMismatch, match="short has 10 elements, but it is indexed by positions up to 19"):
            attend(*(torch.zeros(1, 1, 20, 16) for _ in range(3)))

    def test_no_lengths(self) -> None:
        with pytest.raises(ArgumentError, match=r"tile is 2\.0"):
            attngen.grid(4, 4).order(2.0)  # type: ignore[arg-type]

    def test_another_length(self) -> None:
        attend = attngen.compile(attngen.attention(order=torch.arange(8)), arch="sm90")
        with pytest.raises(ShapeMismatch, match="of 8 tokens, and the call has 9"):
            attend.mask_tiles(q_len=8, kv_len=9, head_dim=16)

    def test_a_folder_of_kernels(self, tmp_path) -> None:  # type: ignore[no-untyped-def]
        with pytest.raises(ArgumentError, match="permutes its tokens"):
            attngen.generate(attngen.attention(order=torch.arange(8)), "ordered", out=tmp_path)
