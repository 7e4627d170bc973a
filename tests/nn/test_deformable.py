"""Deformable convolutions: star offsets by hand and by fixture, and the two forms against each other."""

from __future__ import annotations

from math import floor
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d
from torch.testing import assert_close

from alignrank.nn import DeformableConv, ModulatedConv, star_offsets
from alignrank.nn.deformable import Form, deformable_conv2d, use_grid_sample

FORMS: list[Form] = ["torchvision", "grid_sample"]
SIZES = [(1, 1), (1, 4), (5, 7), (6, 4)]


def double(*shape: int, scale: float = 1.0) -> Tensor:
    return (torch.randn(*shape, dtype=torch.float64) * scale).requires_grad_()


# Star offsets.


def test_star_offsets_by_hand() -> None:
    """Distances l, t, r, b = 16, 8, 4, 32 px at stride 8: 2, 1, 1/2, 4 cells.

    Places (y, x) of the nine taps: (-1, -2) (-1, 0) (-1, 1/2), (0, -2) (0, 0) (0, 1/2), (4, -2) (4, 0) (4, 1/2).
    Less the regular places (-1, -1) (-1, 0) (-1, 1), (0, -1) (0, 0) (0, 1), (1, -1) (1, 0) (1, 1), this leaves
    (0, -1) (0, 0) (0, -1/2), (0, -1) (0, 0) (0, -1/2), (3, -1) (3, 0) (3, -1/2).
    Of the sum of all: top moves three y by -1, bottom by 1, left three x by -1, right by 1, in cells of 8 px. Times
    0.1: -3/80, -3/80, 3/80, 3/80 in the order l, t, r, b.
    """
    ltrb = torch.tensor([16.0, 8, 4, 32], dtype=torch.float64).reshape(1, 4, 1, 1).requires_grad_()
    offsets = star_offsets(ltrb, 8)
    row = [[0, -1], [0, 0], [0, -0.5]]
    expected = torch.tensor([*row, *row, [3, -1], [3, 0], [3, -0.5]], dtype=torch.float64)
    assert_close(offsets, expected.reshape(1, 18, 1, 1))
    offsets.sum().backward()
    assert_close(ltrb.grad, torch.tensor([-3.0, -3, 3, 3], dtype=torch.float64).reshape(1, 4, 1, 1) / 80)


@pytest.mark.parametrize("name", ["vfnet_star_offset_0", "vfnet_star_offset_1"])
def test_star_offsets_fixture(shared: Path, name: str) -> None:
    with np.load(shared / "fixtures" / f"{name}.npz") as archive:
        fixture = {key: torch.from_numpy(np.asarray(archive[key])) for key in archive}
    ltrb = fixture["bbox_pred_ltrb_px"].requires_grad_()
    offsets = star_offsets(ltrb, int(fixture["stride"]), gradient_mul=float(fixture["gradient_mul"]))
    assert_close(offsets, fixture["offset"], rtol=1e-9, atol=1e-9)
    (gradient,) = torch.autograd.grad(offsets, ltrb, fixture["upstream"])
    assert_close(gradient, fixture["grad_bbox_pred"], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("form", FORMS)
def test_star_reads_the_corners_of_the_box(form: Form) -> None:
    """A map whose value is 10 y + x: at (y, x) = (3, 4) with l, t, r, b = 2, 1, 3, 2 cells the corners are
    (2, 2) (2, 7) (5, 2) (5, 7), the sides (2, 4) (3, 2) (3, 7) (5, 4).
    """
    ramp = (10 * torch.arange(8.0)[:, None] + torch.arange(9.0)).expand(1, 1, 8, 9)
    ltrb = torch.tensor([2.0, 1, 3, 2]).reshape(1, 4, 1, 1).expand(1, 4, 8, 9) * 16
    each_tap = torch.eye(9).reshape(9, 1, 3, 3)
    read = deformable_conv2d(ramp, star_offsets(ltrb, 16), each_tap, form=form)
    assert_close(read[0, :, 3, 4], torch.tensor([22.0, 24, 27, 32, 34, 37, 52, 54, 57]), rtol=1e-5, atol=1e-4)


def test_star_offsets_of_half_precision_and_infinity() -> None:
    assert star_offsets(torch.rand(1, 4, 2, 2).bfloat16(), 8).dtype == torch.float32
    offsets = star_offsets(torch.full((1, 4, 1, 1), torch.inf), 8)
    assert not offsets.isnan().any(), "the taps in the middle stay there"


# The convolution.


def in_loops(x: Tensor, offsets: Tensor, weight: Tensor, mask: Tensor) -> Tensor:
    """One image: x [D,H,W], offsets [18,H,W], weight [O,D,3,3], mask [9,H,W] -> [O,H,W]; one tap at a time."""
    _, height, width = x.shape
    columns = []
    for i in range(height):
        for j in range(width):
            total = torch.zeros(len(weight), dtype=x.dtype)
            for k in range(9):
                y = i + k // 3 - 1 + offsets[2 * k, i, j]
                z = j + k % 3 - 1 + offsets[2 * k + 1, i, j]
                top, left = floor(y.item()), floor(z.item())
                for row, of_row in ((top, top + 1 - y), (top + 1, y - top)):
                    for column, of_column in ((left, left + 1 - z), (left + 1, z - left)):
                        if 0 <= row < height and 0 <= column < width:
                            cell = x[:, row, column] * of_row * of_column * mask[k, i, j]
                            total = total + weight[:, :, k // 3, k % 3] @ cell
            columns.append(total)
    return torch.stack(columns, -1).unflatten(-1, (height, width))


@pytest.mark.parametrize("form", FORMS)
def test_equals_plain_loops(form: Form) -> None:
    x, offsets, weight = double(1, 2, 3, 4), double(1, 18, 3, 4, scale=1.5), double(3, 2, 3, 3)
    mask = torch.rand(1, 9, 3, 4, dtype=torch.float64)
    actual = deformable_conv2d(x, offsets, weight, mask=mask, form=form)
    assert_close(actual[0], in_loops(x[0], offsets[0], weight, mask[0]), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("scale", [0.5, 3.0, 1e4])
@pytest.mark.parametrize("full", [False, True])
def test_forms_are_equal(size: tuple[int, int], batch: int, scale: float, full: bool) -> None:
    """Values and gradients of everything; without and with mask and bias; places near, across and far out of it."""
    x, weight = double(batch, 4, *size), double(5, 4, 3, 3)
    offsets = double(batch, 18, *size, scale=scale)
    options = {"mask": double(batch, 9, *size), "bias": double(5)} if full else {}
    inputs = [x, offsets, weight, *options.values()]
    results = [deformable_conv2d(x, offsets, weight, form=form, **options) for form in FORMS]
    assert results[0].shape == (batch, 5, *size)
    assert_close(results[0], results[1], rtol=1e-11, atol=1e-11)
    upstream = torch.randn_like(results[0])
    gradients = [torch.autograd.grad(result, inputs, upstream) for result in results]
    for one, other in zip(*gradients, strict=True):
        assert_close(one, other, rtol=1e-10, atol=1e-10)
    if scale < 1:
        assert all(gradient.abs().max() > 0 for gradient in gradients[0])


@pytest.mark.parametrize("form", FORMS)
def test_edge_of_the_map(form: Form) -> None:
    """A row of ones: a place reads 1 on it, falls to 0 one cell beyond either end, and stays there."""
    x, middle = torch.ones(1, 1, 1, 3), torch.zeros(1, 1, 3, 3)
    middle[..., 1, 1] = 1
    for move, expected in (
        (0.0, [1, 1, 1]), (0.25, [1, 1, 0.75]), (0.5, [1, 1, 0.5]), (1.0, [1, 1, 0]), (-0.75, [0.25, 1, 1]),
        (-2.5, [0, 0, 0.5]), (3.0, [0, 0, 0]), (-1e30, [0, 0, 0]), (torch.inf, [0, 0, 0]), (-torch.inf, [0, 0, 0]),
    ):  # fmt: skip
        offsets = torch.zeros(1, 18, 1, 3)
        offsets[:, 9] = move  # x of tap 4
        offsets.requires_grad_()
        read = deformable_conv2d(x, offsets, middle, form=form)
        assert_close(read.flatten(), torch.tensor(expected, dtype=torch.float32), rtol=1e-6, atol=1e-6)
        read.sum().backward()
        assert offsets.grad is not None
        assert offsets.grad.isfinite().all()


def test_a_nan_offset_does_not_end_the_process() -> None:
    """torchvision's own code reads outside of the map there."""
    offsets = torch.zeros(1, 18, 8, 8)
    offsets[:, 1::2] = torch.nan
    x, weight = torch.randn(1, 4, 8, 8), torch.randn(4, 4, 3, 3)
    read = deformable_conv2d(x, offsets, weight, form="torchvision")
    assert_close(read, conv2d(x, weight, padding=1), rtol=1e-4, atol=1e-4)
    assert deformable_conv2d(x, offsets, weight, form="grid_sample").isnan().all()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", SIZES)
def test_zero_offsets_are_a_plain_convolution(form: Form, size: tuple[int, int]) -> None:
    x, weight, bias = double(2, 4, *size), double(5, 4, 3, 3), double(5)
    actual = deformable_conv2d(x, torch.zeros(2, 18, *size), weight, bias=bias, form=form)
    assert_close(actual, conv2d(x, weight, bias, padding=1), rtol=1e-11, atol=1e-11)


def test_gradcheck_of_grid_sample() -> None:
    x, offsets, weight, mask = double(2, 2, 2, 3), double(2, 18, 2, 3), double(2, 2, 3, 3), double(2, 9, 2, 3)

    def convolve(x: Tensor, offsets: Tensor, weight: Tensor, mask: Tensor) -> Tensor:
        return deformable_conv2d(x, offsets, weight, mask=mask, form="grid_sample")

    assert torch.autograd.gradcheck(convolve, (x, offsets, weight, mask))


@pytest.mark.parametrize("form", FORMS)
def test_memory_format_changes_nothing(form: Form) -> None:
    """Networks are trained with the channels last."""
    tensors = [x.detach().float() for x in (double(2, 4, 5, 6), double(2, 18, 5, 6), double(3, 4, 3, 3))]
    last = [x.contiguous(memory_format=torch.channels_last) for x in tensors]
    assert_close(deformable_conv2d(*last, form=form), deformable_conv2d(*tensors, form=form), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_autocast_leaves_coordinates_alone(form: Form) -> None:
    """On 80 columns places in bfloat16 would be off by tenths of a cell; float32 stays so, bfloat16 comes back so."""
    x, offsets, weight = torch.randn(1, 4, 2, 80), torch.randn(1, 18, 2, 80) * 3, torch.randn(5, 4, 3, 3)
    expected = deformable_conv2d(x, offsets, weight, form=form)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(deformable_conv2d(x, offsets, weight, form=form), expected)
        rounded = deformable_conv2d(x.bfloat16(), offsets, weight, form=form)
    assert rounded.dtype == torch.bfloat16
    assert (rounded - expected).abs().max() < expected.abs().max() / 64


# Modules.


def test_initialisation() -> None:
    """Weights N(0, 0.01); no bias unless asked for, and then zero; the plan starts at zero."""
    plain, modulated = DeformableConv(64, 128), ModulatedConv(64, 128)
    assert plain.bias is None
    for weight in (plain.weight, modulated.conv.weight):
        assert weight.shape == (128, 64, 3, 3)
        assert weight.std().item() == pytest.approx(0.01, rel=0.02)
        assert abs(weight.mean().item()) < 1e-4
    biased = DeformableConv(4, 6, bias=True).bias
    assert biased is not None
    assert biased.tolist() == [0] * 6
    assert modulated.plan.weight.shape == (27, 64, 3, 3)
    assert all(parameter.abs().max() == 0 for parameter in modulated.plan.parameters())
    assert sum(p.numel() for p in DeformableConv(256, 256).parameters()) == 589_824
    assert sum(p.numel() for p in ModulatedConv(256, 256).parameters()) == 589_824 + 27 * (9 * 256 + 1)


@pytest.mark.parametrize("bias", [False, True])
def test_modulated(bias: bool) -> None:
    """At first half a plain convolution; then its plan's 18 offsets and the sigmoid of 9 more; all parts learn."""
    module, x = ModulatedConv(4, 6, bias=bias).double(), double(2, 4, 5, 7)
    assert_close(module(x), conv2d(x, module.conv.weight, padding=1) / 2, rtol=1e-12, atol=1e-12)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    offsets, mask = module.plan(x).tensor_split([18], 1)
    with_mask = deformable_conv2d(x, offsets, module.conv.weight, bias=module.conv.bias, mask=mask.sigmoid())
    result = module(x)
    assert_close(result, with_mask, rtol=1e-12, atol=1e-12)
    for gradient in torch.autograd.grad(result, [x, *module.parameters()], torch.randn_like(result)):
        assert gradient.abs().max() > 0


def test_modulated_plans_in_float32_under_autocast() -> None:
    module, x = ModulatedConv(4, 6), torch.randn(1, 4, 2, 80)
    nn.init.normal_(module.plan.weight)
    expected = module(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(module(x), expected)
        assert module(x.bfloat16()).dtype == torch.bfloat16


class Star(nn.Module):
    """A head in small: one modulated convolution, distances, and what the star reads."""

    def __init__(self) -> None:
        super().__init__()
        self.tower = ModulatedConv(4, 8)
        self.distances = nn.Conv2d(8, 4, 3, padding=1)
        self.refine = DeformableConv(8, 3, bias=True)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.tower(x).relu()
        offsets = star_offsets((0.5 * self.distances(y)).exp() * 16, 8)
        refined: Tensor = self.refine(y, offsets)
        return refined


def test_use_grid_sample() -> None:
    """Every convolution in the module, and the module itself; the output stays, and so do the names of the weights."""
    module, x = Star(), torch.randn(2, 4, 7, 5)
    module.tower.conv.form = module.refine.form = "torchvision"
    names, expected = list(module.state_dict()), module(x)
    use_grid_sample(module)
    assert [module.tower.conv.form, module.refine.form] == ["grid_sample"] * 2
    assert_close(module(x), expected, rtol=1e-4, atol=1e-4)
    assert list(module.state_dict()) == names
    alone = DeformableConv(4, 4)
    assert alone.form is None  # the one that is faster where it runs
    use_grid_sample(alone)
    assert alone.form == "grid_sample"


@pytest.mark.filterwarnings("ignore")  # the exporter warns of its own internals
def test_exported() -> None:
    """ONNX opset 18 has no DeformConv: GridSample, the same in ONNX Runtime, for any number of images."""
    module = Star()
    use_grid_sample(module)
    program = torch.onnx.export(
        module,
        (torch.randn(2, 4, 6, 9),),
        dynamo=True,
        opset_version=18,
        input_names=["x"],
        dynamic_shapes={"x": {0: torch.export.Dim("batch")}},
        verbose=False,
    )
    assert program is not None
    model = program.model_proto
    onnx.checker.check_model(model)
    assert {item.domain: item.version for item in model.opset_import}[""] == 18
    operators = [node.op_type for nodes in (model.graph.node, *(f.node for f in model.functions)) for node in nodes]
    assert operators.count("GridSample") == 2
    assert "DeformConv" not in operators
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for count in (1, 2, 5):
        x = torch.randn(count, 4, 6, 9)
        with torch.no_grad():
            expected = module(x)
        assert expected.std() > 0.1, "the weights must make the comparison worth something"
        np.testing.assert_allclose(session.run(None, {"x": x.numpy()})[0], expected.numpy(), rtol=1e-4, atol=1e-4)
