"""FINE: fixtures, by hand, what each option does, and its place in the necks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

from alignrank.detectors import DETECTORS
from alignrank.errors import InputError
from alignrank.nn.csp import SCALES
from alignrank.nn.fine import FINE, Pool
from alignrank.nn.fpn import FPN
from alignrank.nn.pan import PAN
from alignrank.weights.recipe import load_recipe

VARIANTS = ["paper", "equations", "prerelease"]
ATTENTIONS = ["aats", "vanilla", "window", "area", "linear"]
LINEARS = {"query": "q", "key": "k", "value": "v", "output": "o", "ffn.0": "1", "ffn.2": "2"}


def maps(low: tuple[int, int], high: tuple[int, int], channels: int = 32, batch: int = 2) -> tuple[Tensor, Tensor]:
    return torch.randn(batch, channels, *low), torch.randn(batch, channels, *high)


@pytest.mark.parametrize("name", ["fine_k1", "fine_k2", "fine_nobias", "fine_ffn_k1", "fine_ffn_k2"])
@pytest.mark.parametrize("upsample", ["nearest", "bilinear"])
def test_fixtures(shared: Path, name: str, upsample: Any) -> None:
    """Equations 4 to 9 in float64, and with the feed-forward of the tables."""
    with np.load(shared / "fixtures" / f"{name}.npz") as archive:
        fixture = {key: torch.from_numpy(value) for key, value in archive.items()}
    low, high = fixture["low"].double(), fixture["high"].double()
    fine = FINE(
        low.shape[1],
        int(fixture["k"]),
        ratio=int(fixture["r"]),
        head_dim=low.shape[1] // int(fixture["num_heads"]),
        variant="paper" if "W1" in fixture else "equations",
        upsample=upsample,
    ).double()
    state = {}
    for layer, letter in LINEARS.items():
        if f"W{letter}" in fixture:
            state |= {f"{layer}.weight": fixture[f"W{letter}"].T, f"{layer}.bias": fixture[f"b{letter}"]}
    for number in "12" if "W1" in fixture else "":
        state |= {f"norm{number}.weight": fixture[f"ln{number}_g"], f"norm{number}.bias": fixture[f"ln{number}_b"]}
    fine.load_state_dict(state)
    assert_close(fine.context(low, high), fixture["M_hat"], atol=1e-9, rtol=1e-9)
    assert_close(fine(low, high), fixture[f"out_{upsample}"], atol=1e-9, rtol=1e-9)


def test_by_hand() -> None:
    """Queries of nothing: every fine token gets the mean of the coarse values, 2 * mean + 1 in all cells."""
    fine = FINE(1, 1, variant="equations")
    with torch.no_grad():
        for layer, weight, bias in ((fine.query, 0, 0), (fine.key, 1, 0), (fine.value, 2, 1), (fine.output, 1, 0)):
            layer.weight.fill_(weight)
            layer.bias.fill_(bias)
    low = torch.arange(16.0).reshape(1, 1, 4, 4)
    high = torch.tensor([[[[1.0, 2], [3, 6]]]])
    assert_close(fine(low, high), low * 7 + low)
    fine.modulation = "direct"
    assert_close(fine(low, high), low * 7)
    fine.modulation = "none"
    assert_close(fine(low, high), low + 7)


def test_numbers_of_parameters() -> None:
    """The decisive sums (two modules of the tables: 8 C^2 + 11 C each)."""
    c = 48
    sizes = [sum(p.numel() for p in FINE(c, 1, variant=v).parameters()) for v in VARIANTS]  # type: ignore[arg-type]
    assert sizes == [8 * c * c + 11 * c, 4 * c * c + 4 * c, 12 * c * c + 13 * c + 16]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize(
    ("low", "high"), [((40, 20), (20, 10)), ((13, 21), (7, 11)), ((15, 3), (7, 1)), ((1, 1), (1, 1))]
)
def test_any_sizes(variant: Any, attention: Any, low: tuple[int, int], high: tuple[int, int]) -> None:
    """Also odd ones; an image's result does not depend on its batch; every parameter gets a gradient."""
    fine = FINE(24, 2, variant=variant, attention=attention, high_channels=20)
    x, y = torch.randn(2, 24, *low), torch.randn(2, 20, *high)
    fine.train()(x, y).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in fine.parameters())
    result = fine.eval()(x, y)
    assert result.shape == x.shape
    assert_close(fine(x[1:], y[1:])[0], result[1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("variant", VARIANTS)
def test_ragged_tokens(variant: Any) -> None:
    """A token at the border stands for as many cells as there are: the others do not see what is not there."""
    pooled = Pool(1, 2, "avg")(torch.tensor([[[[1.0, 2, 9], [3, 4, 7], [5, 7, 8]]]]))
    assert pooled.flatten().tolist() == [2.5, 8, 6, 8]
    fine = FINE(16, 1, variant=variant, upsample="nearest").eval()
    low, high = maps((5, 7), (3, 4), 16)
    spread = fine.spread(context := fine.context(low, high), low)
    assert context.shape[-2:] == (3, 4)
    for row in range(5):
        for column in range(7):
            assert torch.equal(spread[..., row, column], context[..., row // 2, column // 2])


def test_coarse_tokens_have_no_order() -> None:
    """Equations: a sum over all of them. With positions (prerelease) places matter."""
    low, high = maps((8, 8), (4, 4))
    turned = high.flip(2, 3)
    for variant, alike in (("paper", True), ("equations", True), ("prerelease", False)):
        fine = FINE(32, 1, variant=variant).eval()  # type: ignore[arg-type]
        assert torch.allclose(fine(low, high), fine(low, turned), atol=1e-5) == alike


@pytest.mark.parametrize("attention", ["window", "area"])
def test_windows_are_full_attention_within(attention: Any) -> None:
    """Against one attention over all tokens with everything outside of the window masked."""
    fine = FINE(16, 1, variant="equations", attention=attention).eval()
    low, high = maps((18, 20), (9, 10), 16, batch=1)
    if attention == "window":  # two windows of five rows and two of five columns; of nine and ten
        place_low, place_high = [i // 9 * 2 + j // 10 for i in range(18) for j in range(20)], []
        place_high = [i // 5 * 2 + j // 5 for i in range(9) for j in range(10)]
    else:  # three areas of three rows: four of three would leave one without any
        place_low = [i // 6 for i in range(18) for _ in range(20)]
        place_high = [i // 3 for i in range(9) for _ in range(10)]
    mask = torch.tensor(place_low)[:, None] == torch.tensor(place_high)
    tokens, others = low.flatten(2).transpose(1, 2), high.flatten(2).transpose(1, 2)
    logits = fine.query(tokens) @ fine.key(others).transpose(1, 2) / 4
    expected = fine.output(logits.masked_fill(~mask, -torch.inf).softmax(-1) @ fine.value(others))
    assert_close(fine.context(low, high).flatten(2).transpose(1, 2), expected, atol=1e-5, rtol=1e-5)


def test_linear_attention() -> None:
    """Queries and keys with magnitudes that sum to 1 over the tokens; a head's output has a mean square of 1."""
    fine = FINE(16, 1, variant="equations", attention="linear")
    low, high = maps((4, 6), (2, 3), 16, batch=1)
    query, key = fine.query(low.flatten(2).mT), fine.key(high.flatten(2).mT)
    query, key = query / query.abs().sum(1, keepdim=True), key / key.abs().sum(1, keepdim=True)
    sums = query @ key.mT @ fine.value(high.flatten(2).mT)
    eps = torch.finfo(torch.float32).eps
    expected = fine.output(sums / (sums.square().mean(-1, keepdim=True) + eps).sqrt())
    assert_close(fine.context(low, high).flatten(2).mT, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("channels", "head_dim"), [(32, 16), (40, 10), (24, 12), (17, 1), (8, 8)])
def test_heads_divide_the_channels(channels: int, head_dim: int) -> None:
    fine = FINE(channels, 1)
    assert fine.attention.head_dim == head_dim
    assert fine(*maps((4, 4), (2, 2), channels)).isfinite().all()


@pytest.mark.parametrize("pooling", ["avg", "max", "depthwise"])
def test_pooling(pooling: Any) -> None:
    x = torch.randn(1, 3, 6, 4)
    cells = x.unfold(2, 2, 2).unfold(3, 2, 2).flatten(-2)
    expected = cells.amax(-1) if pooling == "max" else cells.mean(-1)  # learned weights begin as the mean
    assert_close(Pool(3, 2, pooling)(x), expected)
    assert Pool(3, 2, pooling)(x[..., :5, :3]).shape[-2:] == (3, 2)


@pytest.mark.parametrize("variant", ["paper", "equations"])
@pytest.mark.parametrize("modulation", ["residual", "none"])
def test_begins_as_identity(variant: Any, modulation: Any) -> None:
    """Bit for bit; then everything learns."""
    fine = FINE(16, 2, variant=variant, modulation=modulation, zero_init=True)
    low, high = maps((9, 12), (5, 6), 16)
    assert torch.equal(fine(low, high), low)
    before = {name: value.detach().clone() for name, value in fine.named_parameters()}
    optimizer = torch.optim.AdamW(fine.parameters(), lr=1e-3)
    for _ in range(10):
        optimizer.zero_grad()
        (fine(low, high) - 1).square().mean().backward()
        optimizer.step()
    assert [name for name, value in fine.named_parameters() if torch.equal(value, before[name])] == []


def test_identity_needs_the_map() -> None:
    with pytest.raises(ValueError, match="keeps the map"):
        FINE(16, 1, modulation="direct", zero_init=True)
    with pytest.raises(InputError, match=r"neck.*fine_zero_init"):
        load_recipe(
            "yolov8-n", overrides={"neck.fine": True, "neck.fine_modulation": "direct", "neck.fine_zero_init": True}
        )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_half_precision(dtype: torch.dtype, attention: Any) -> None:
    """The whole module in half precision, and under autocast, near float32."""
    torch.manual_seed(0)
    fine = FINE(40, 2, attention=attention).eval()
    low, high = maps((13, 10), (7, 5), 40)
    expected = fine(low, high)
    tolerance = 0.02 if dtype == torch.float16 else 0.1
    with torch.autocast("cpu", dtype):
        assert_close(fine(low, high).float(), expected, atol=tolerance, rtol=tolerance)
    half = fine.to(dtype)(low.to(dtype), high.to(dtype))
    assert half.dtype == dtype
    assert_close(half.float(), expected, atol=tolerance, rtol=tolerance)


def test_gradients() -> None:
    fine = FINE(4, 1, head_dim=2).double()
    low, high = maps((3, 4), (2, 2), 4, batch=1)
    inputs = low.double().requires_grad_(), high.double().requires_grad_()
    assert torch.autograd.gradcheck(fine, inputs)


class TestNecks:
    """The same places in every neck: where strides 32 and 16 meet, and 16 and 8."""

    CHANNELS = (8, 16, 24)

    def necks(self, **options: Any) -> list[nn.Module]:
        def fine(channels: int, **where: Any) -> FINE:
            return FINE(channels, **where, **options)

        torch.manual_seed(0)
        pan = PAN(self.CHANNELS, SCALES["t"], fine=fine if options else None)
        torch.manual_seed(0)
        return [pan, FPN(self.CHANNELS, 16, fine=fine if options else None)]

    def inputs(self, height: int = 64, width: int = 96) -> list[Tensor]:
        sizes = [(-(-height // s), -(-width // s)) for s in (8, 16, 32)]
        return [torch.randn(1, c, *size) for c, size in zip(self.CHANNELS, sizes, strict=True)]

    def test_the_rest_has_the_same_first_weights(self) -> None:
        for plain, with_fine in zip(self.necks(), self.necks(variant="paper"), strict=True):
            state = with_fine.state_dict()
            assert all(torch.equal(value, state[name]) for name, value in plain.state_dict().items())
            assert len(state) > len(plain.state_dict())

    def test_identity_at_first(self) -> None:
        inputs = self.inputs()
        for plain, with_fine in zip(self.necks(), self.necks(zero_init=True), strict=True):
            for a, b in zip(plain.eval()(inputs), with_fine.eval()(inputs), strict=True):
                assert torch.equal(a, b)

    def test_tokens_are_cells_of_stride_32(self) -> None:
        for neck in self.necks(variant="paper"):
            modules = [module for module in neck.modules() if isinstance(module, FINE)]
            contexts: list[Tensor] = []
            for module in modules:
                module.output.register_forward_hook(lambda _, __, tokens, seen=contexts: seen.append(tokens))
            neck(self.inputs())
            assert [x.shape[1] for x in contexts] == [2 * 3] * 2

    def test_odd_maps(self) -> None:
        """Sides that the strides do not divide: FPNs see them, as sizes are free there."""
        fpn = self.necks(variant="paper")[1]
        assert [x.shape[-2:] for x in fpn(self.inputs(104, 72))][:3] == [(13, 9), (7, 5), (4, 3)]


@pytest.mark.parametrize(
    ("name", "variant", "millions", "gflops"),
    [
        ("yolov10-s", "paper", 8.9525, 0.901),  # printed 9.0 M, +0.9 G
        ("yolov8-s", "prerelease", 12.319, 1.006),  # printed 12.3 M, +1.0 G
        ("yolov8-s", "paper", 11.991, 0.901),  # which is not the printed one
    ],
)
def test_printed_sizes(name: str, variant: str, millions: float, gflops: float) -> None:
    """With FINE, 80 classes, and what it adds at 640 px (two operations per multiply-add)."""

    def measured(overrides: dict[str, Any]) -> tuple[float, float]:
        recipe = load_recipe(name, overrides=overrides)
        with torch.device("meta"):
            model = DETECTORS[recipe.detector].model(recipe.architecture).eval()
            with torch.no_grad(), FlopCounterMode(display=False) as counter:
                model(torch.zeros(1, 3, 640, 640))
        return sum(p.numel() for p in model.parameters()) / 1e6, counter.get_total_flops() / 1e9

    _, without = measured({})
    size, operations = measured({"neck.fine": True, "neck.fine_variant": variant})
    assert size == pytest.approx(millions, abs=5e-4)
    assert operations - without == pytest.approx(gflops, abs=5e-4)
