"""Backbones and necks of YOLOv5, v6 and v12: published sizes, what their blocks compute, folding, FINE in the necks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, pad, relu
from torch.testing import assert_close

from alignrank.contracts import Targets
from alignrank.detectors import deployed
from alignrank.detectors.yolo_pyramid import FAMILIES
from alignrank.errors import InputError
from alignrank.nn.conv import fold_norms
from alignrank.nn.csp import Bottleneck, PartialChain
from alignrank.nn.fine import FINE
from alignrank.nn.yolov5 import YOLOv5Neck
from alignrank.nn.yolov6 import BidirectionalConcatenation, PartialPooling, RepConv, YOLOv6Neck, rep_chain
from alignrank.nn.yolov12 import (
    SCALES,
    AggregationBlock,
    AreaAttention,
    AttentionBlock,
    YOLOv12Neck,
    attention_blocks,
    convolution_blocks,
    inner_chain,
)
from alignrank.weights.models import multiply_adds, num_parameters
from alignrank.weights.recipe import build_detector, load_recipe

BACKBONES = ("yolov5", "yolov6", "yolov12")


def settle(model: nn.Module) -> nn.Module:
    """Give every norm statistics and affine parameters of its own, as training would."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    return model


def whole(backbone: str, size: str) -> Any:
    """Deployed, without memory."""
    overrides = {"model.backbone": backbone, "model.size": size, "head.separable": backbone == "yolov12"}
    return deployed(load_recipe("yolov8-n", overrides=overrides).meta_network().eval())


@pytest.mark.parametrize(
    ("backbone", "size", "parameters", "flops"),
    [
        ("yolov5", "n", 2.6, 7.7),
        ("yolov5", "s", 9.1, 24.0),
        ("yolov5", "m", 25.1, 64.2),
        ("yolov5", "l", 53.2, 135.0),
        ("yolov12", "n", 2.6, 6.5),
        ("yolov12", "s", 9.3, 21.4),
        ("yolov12", "m", 20.2, 67.5),
        ("yolov12", "l", 26.4, 88.9),
    ],
)
def test_published_size(backbone: str, size: str, parameters: float, flops: float) -> None:
    """The tables of the anchor-free YOLOv5 and of YOLOv12 (80 classes, 640 px), to the decimal that they print.

    v12-m alone is one off in the last: 67.445 where 67.5 is printed.
    """
    model = whole(backbone, size)
    assert num_parameters(model) / 1e6 == pytest.approx(parameters, abs=0.06)
    assert 2 * multiply_adds(model, (640, 640)) / 1e9 == pytest.approx(flops, abs=0.06)


def test_yolov5_with_its_own_head() -> None:
    """With 1x1 convolutions to 3 anchors of 85 numbers in place of our head: 7.2 M, the published size."""
    model = whole("yolov5", "s")
    anchors = sum(255 * channels + 255 for channels in model.neck.channels)
    assert round((num_parameters(model) - num_parameters(model.head) + anchors) / 1e6, 1) == 7.2


class Body(nn.Module):
    """A model without its head."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.backbone, self.neck = model.backbone, model.neck

    def forward(self, images: Tensor) -> list[Tensor]:
        maps: list[Tensor] = self.neck(self.backbone(images))
        return maps


@pytest.mark.parametrize(("size", "parameters", "flops"), [("n", 4.7, 11.4), ("s", 18.5, 45.3)])
def test_yolov6_with_its_own_head(size: str, parameters: float, flops: float) -> None:
    """With the paper's head in place of ours (a 1x1, two 3x3, and 1x1 to 80 classes and 4 sides): the published size.

    A transposed 2x2 convolution of stride 2 counts four times there: its whole kernel for each cell that it makes.
    """
    body = Body(whole("yolov6", size))
    own, work = num_parameters(body), multiply_adds(body, (640, 640))
    for channels, cells in zip(body.neck.channels, (80**2, 40**2, 20**2), strict=True):
        weights = channels**2 * (1 + 9 + 9) + channels * (80 + 4)
        own += weights + 3 * channels + 80 + 4
        work += weights * cells
    for channels, cells in zip(body.neck.channels[:2], (80**2, 40**2), strict=True):
        work += 3 * channels**2 * cells
    assert own / 1e6 == pytest.approx(parameters, abs=0.06)
    assert round(2 * work / 1e9, 1) == flops


@pytest.mark.parametrize(
    ("backbone", "channels"),
    [
        ("yolov5", ((256, 512), (128, 256))),
        ("yolov6", ((256, 512), (128, 128))),
        ("yolov12", ((256, 512), (256, 256))),
    ],
)
def test_fine_sees_raw_maps(backbone: str, channels: tuple[tuple[int, int], ...]) -> None:
    """(finer, coarser) of s, where strides 32 and 16 meet and where 16 and 8 do: before a neck narrows them."""
    model = load_recipe(f"{backbone}-s", overrides={"neck.fine": True}).meta_network()
    for fine, (low, high) in zip((model.neck.fine4, model.neck.fine3), channels, strict=True):
        assert fine.query.in_features == low
        assert (low if fine.project is None else fine.project.conv.in_channels) == high
    assert (model.neck.fine4.pool_high.kernel, model.neck.fine3.pool_high.kernel) == (1, 2)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_fine_leaves_other_weights(backbone: str) -> None:
    """A seed gives everything else the same weights with and without FINE; what begins as identity changes nothing."""
    images = torch.rand(1, 3, 64, 96)
    outputs, states = [], []
    for overrides in ({}, {"neck.fine": True, "neck.fine_zero_init": True}, {"neck.fine": True}):
        torch.manual_seed(0)
        model = build_detector(f"{backbone}-s", 3, **{"model.size": "t"}, **overrides).model.eval()
        states.append(model.state_dict())
        outputs.append(torch.cat([x.flatten(1) for x in model.neck(model.backbone(images))], 1))
    assert all(torch.equal(value, states[2][key]) for key, value in states[0].items())
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])


BLOCKS: dict[str, Callable[[], nn.Module]] = {
    "partial chain": lambda: PartialChain(16, 16, 2, lambda c: Bottleneck(c, shortcut=True, pointwise=True)),
    "rep block": lambda: rep_chain(16, 16, 3),
    "rep convolution": lambda: RepConv(16, 16),
    "wider rep convolution": lambda: RepConv(16, 24),
    "strided rep convolution": lambda: RepConv(16, 16, 2),
    "partial pooling": lambda: PartialPooling(16, 24),
    "area attention": lambda: AreaAttention(16, 4),
    "attention": lambda: attention_blocks(16, 1, 4, SCALES["n"]),
    "large attention": lambda: attention_blocks(16, 2, 1, SCALES["l"]),
    "aggregation": lambda: AggregationBlock(16, 24, 2, inner_chain),
    "convolutions": lambda: convolution_blocks(16, 24, 1, nested=False, hidden=6),
    "nested convolutions": lambda: convolution_blocks(16, 24, 1, nested=True),
}


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks(name: str) -> None:
    """Shape, a gradient for every parameter, and the same output after folding, on a map that is not square."""
    block = settle(BLOCKS[name]())
    x = torch.randn(2, 16, 6, 10)
    out: Tensor = block(x)
    wide = name in ("wider rep convolution", "partial pooling", "aggregation", "convolutions", "nested convolutions")
    assert out.shape == (2, 24 if wide else 16, *((3, 5) if "strided" in name else (6, 10)))
    (out * torch.randn_like(out)).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in block.parameters())

    with torch.no_grad():
        expected = block.eval()(x)
        for _ in range(2):  # a second time changes nothing
            assert_close(fold_norms(block)(x), expected, atol=1e-5, rtol=1e-5)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in block.modules())


def test_a_folded_rep_convolution_is_one_convolution() -> None:
    """Worked at one channel: weights 2 (middle of the 3x3) and 3 (1x1), norms of variance 1 - 1e-3 and mean 0, but
    4 times the map less 1 for the identity: 2 + 3 + 4 = 9 times the map, and -4. At 1: 5; at 0: 0, rectified.
    """
    block = RepConv(1, 1).eval()
    assert block.pointwise is not None
    assert block.identity is not None
    nn.init.zeros_(block.dense.conv.weight)
    block.dense.conv.weight.data[..., 1, 1] = 2
    nn.init.constant_(block.pointwise.conv.weight, 3)
    for norm in (block.dense.norm, block.pointwise.norm, block.identity):
        assert isinstance(norm, nn.BatchNorm2d)
        nn.init.constant_(norm.running_var, 1 - 1e-3)
    nn.init.constant_(block.identity.running_mean, 1)
    nn.init.constant_(block.identity.weight, 4)
    x = torch.tensor([[[[1.0, 0.0]]]])
    assert_close(block(x), torch.tensor([[[[5.0, 0.0]]]]))
    block.fold()
    assert [name for name, _ in block.named_parameters()] == ["dense.conv.weight", "dense.conv.bias"]
    assert_close(block.dense.conv(x), torch.tensor([[[[5.0, -4.0]]]]))
    assert_close(block(x), torch.tensor([[[[5.0, 0.0]]]]))


def test_partial_pooling_is_three_chained_maxima() -> None:
    pooling = settle(PartialPooling(8, 8)).eval()
    seen: list[Tensor] = []
    pooling.leave.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    x = torch.randn(1, 8, 20, 20)
    pooling(x)
    entered = pooling.enter(x)
    expected = [entered] + [nn.functional.max_pool2d(entered, k, 1, k // 2) for k in (5, 9, 13)]
    assert torch.equal(seen[0], torch.cat(expected, 1))


def test_bidirectional_concatenation_joins_three_levels() -> None:
    """Channels of the joined map: the coarse one spread over 2 x 2 cells each, the middle one, the fine one halved."""
    block = settle(BidirectionalConcatenation(6, 3, 4)).eval()
    seen: list[Tensor] = []
    block.join.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    coarse, middle, fine = torch.randn(1, 4, 2, 3), torch.randn(1, 6, 4, 6), torch.randn(1, 3, 8, 12)
    assert block(coarse, middle, fine).shape == (1, 4, 4, 6)
    (joined,) = seen
    spread = torch.einsum("bchw,cdij->bdhiwj", coarse, block.enlarge.weight).reshape(1, 4, 4, 6)
    assert_close(joined[:, :4], spread)
    assert torch.equal(joined[:, 4:8], block.middle(middle))
    halved, narrowed = block.fine[1], block.fine[0](fine)
    assert_close(joined[:, 8:], relu(halved.norm(conv2d(pad(narrowed, [1, 1, 1, 1]), halved.conv.weight, stride=2))))


def test_stem_of_yolov5() -> None:
    """6x6 with stride 2 and padding 2: the cell at (i, j) sees rows 2i-2 to 2i+3."""
    stem = FAMILIES["yolov5"].backbone(FAMILIES["yolov5"].scales["t"]).stem
    x = torch.randn(1, 3, 12, 16)
    assert_close(stem.conv(x), conv2d(x, stem.conv.weight, stride=2, padding=2))
    assert stem.conv(x).shape[-2:] == (6, 8)


def test_area_attention_by_hand() -> None:
    """On 4 x 2 cells and 64 channels (2 heads), each of 4 areas is a row: two cells that attend to each other only."""
    attention = settle(AreaAttention(64, 4)).eval()
    x = torch.randn(1, 64, 4, 2)
    expected = torch.empty_like(x)
    query, key, value = attention.qkv(x).split(64, 1)
    for row in range(4):
        for head in range(2):
            channels = slice(32 * head, 32 * head + 32)
            q, k, v = (part[0, channels, row].T for part in (query, key, value))  # [2,32]
            expected[0, channels, row] = ((q @ k.T / 32**0.5).softmax(-1) @ v).T
    assert_close(attention(x), attention.output(expected + attention.position(value)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(8, 6), (4, 10)])
def test_area_attention_is_full_attention_within_each_area(height: int, width: int) -> None:
    """Without the code of positions, which crosses borders."""
    areas, full = settle(AreaAttention(64, 4)).eval(), AreaAttention(64, 1).eval()
    assert isinstance(areas.position.norm, nn.BatchNorm2d)
    nn.init.zeros_(areas.position.norm.weight)
    nn.init.zeros_(areas.position.norm.bias)
    full.load_state_dict(areas.state_dict())
    x = torch.randn(2, 64, height, width)
    alone = torch.cat([full(part) for part in x.chunk(4, 2)], 2)
    assert_close(areas(x), alone, atol=1e-5, rtol=1e-5)
    assert (areas(x) - full(x)).abs().max() > 1e-4


def test_areas_where_four_does_not_divide_the_height() -> None:
    """2 x 10 cells: areas of 5 cells, row by row. A change in one area stays there (position code off)."""
    attention = settle(AreaAttention(16, 4)).eval()
    assert isinstance(attention.position.norm, nn.BatchNorm2d)
    nn.init.zeros_(attention.position.norm.weight)
    x = torch.randn(1, 16, 2, 10)
    changed = x.clone()
    changed[..., 0, 7] += 1
    moved = (attention(x) - attention(changed)).abs().amax((0, 1)) > 0
    assert moved[0, 5:].all()
    assert not moved[0, :5].any()
    assert not moved[1].any()


def test_aggregation_joins_every_result() -> None:
    block = AggregationBlock(8, 8, 2, lambda channels: nn.Conv2d(channels, channels, 1)).eval()
    seen: list[Tensor] = []
    block.join.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    x = torch.randn(1, 8, 3, 3)
    block(x)
    first = block.enter(x)
    second = block.blocks[0](first)
    assert torch.equal(seen[0], torch.cat([first, second, block.blocks[1](second)], 1))


def test_large_aggregation_begins_near_its_input() -> None:
    """l alone adds .01 of what its attention blocks make to their input, and has narrower feed-forwards: 1.2 widths."""
    x = torch.randn(1, 64, 4, 4)
    large, small = (attention_blocks(64, 1, 4, SCALES[size]).eval() for size in "lm")
    assert small.scale is None
    assert large.scale is not None
    added = large(x) - x
    nn.init.ones_(large.scale)
    assert_close(added, 0.01 * (large(x) - x), atol=1e-6, rtol=1e-4)
    hidden = [
        module.feed_forward[0].conv.out_channels
        for block in (large, small)
        for module in block.modules()
        if isinstance(module, AttentionBlock)
    ]
    assert hidden == [38, 38, 64, 64]


NECKS: dict[str, tuple[Callable[..., Any], tuple[int, ...]]] = {
    "yolov5": (YOLOv5Neck, (8, 16, 32)),
    "yolov6": (YOLOv6Neck, (4, 8, 16, 32)),
    "yolov12": (YOLOv12Neck, (8, 16, 32)),
}


@pytest.mark.parametrize("name", NECKS)
@pytest.mark.parametrize("fine", [False, True])
def test_necks(name: str, fine: bool) -> None:
    """Shapes as announced; every output sees every input; the same after folding."""
    make, strides = NECKS[name]
    widths = (8, 12, 20, 28)[-len(strides) :]
    neck = settle(make(widths, FAMILIES[name].scales["t"], fine=FINE if fine else None)).eval()
    maps = [torch.randn(2, c, 64 // s, 96 // s, requires_grad=True) for c, s in zip(widths, strides, strict=True)]
    outputs = neck(maps)
    assert [tuple(m.shape) for m in outputs] == [
        (2, c, 64 // s, 96 // s) for c, s in zip(neck.channels, (8, 16, 32), strict=True)
    ]
    for output in outputs:
        gradients = torch.autograd.grad((output * torch.randn_like(output)).sum(), maps, retain_graph=True)
        assert all(gradient.abs().max() > 0 for gradient in gradients)
    with torch.no_grad():
        for folded, expected in zip(fold_norms(neck)(maps), outputs, strict=True):
            assert_close(folded, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", BACKBONES)
def test_backbones(name: str) -> None:
    """The last three maps of a 64 x 96 image have strides 8, 16, 32; all have the channels that are announced."""
    family = FAMILIES[name]
    backbone = settle(family.backbone(family.scales["t"])).eval()
    images = torch.rand(1, 3, 64, 96)
    strides = NECKS[name][1]
    with torch.no_grad():
        maps = backbone(images)
        assert [m.shape[1:] for m in maps] == [
            (c, 64 // s, 96 // s) for c, s in zip(backbone.channels, strides, strict=True)
        ]
        for folded, before in zip(fold_norms(backbone)(images), maps, strict=True):
            assert_close(folded, before, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("fine", [False, True])
@pytest.mark.parametrize("name", BACKBONES)
def test_two_images_are_learned(name: str, fine: bool) -> None:
    """Thirty steps on two small images, each with one object: the loss falls by half."""
    torch.manual_seed(0)
    built = build_detector(f"{name}-s", 2, **{"model.size": "t", "neck.fine": fine})
    images = torch.rand(2, 3, 64, 64)
    targets = [
        Targets(torch.tensor([[8.0, 8.0, 48.0, 40.0]]), torch.tensor([0])),
        Targets(torch.tensor([[16.0, 20.0, 60.0, 60.0]]), torch.tensor([1])),
    ]
    optimizer = torch.optim.AdamW(built.model.parameters(), lr=0.0015, weight_decay=0.025)
    totals = []
    for _ in range(30):
        optimizer.zero_grad()
        total = built.criterion(built.model.train()(images), targets).total
        total.backward()
        torch.nn.utils.clip_grad_norm_(built.model.parameters(), 10)
        optimizer.step()
        totals.append(total.item())
    assert sum(totals[-3:]) / 3 < 0.6 * totals[0]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"model.decoupled": True}, r"model\.decoupled: not an option of model\.backbone=yolov5"),
        ({"model.light": True, "neck.compact": True}, r"model\.light, neck\.compact: not an option"),
        (
            {"model.pretrained": "hub", "model.frozen_norm": True},
            r"model\.pretrained, model\.frozen_norm: not an option",
        ),
        ({"model.backbone": "yolov6", "model.size": "m"}, r"model\.size: yolov6 has t, n, s, got 'm'"),
        ({"model.backbone": "yolov7"}, r"'yolov7' is neither 'csp', 'yolov5', 'yolov6', 'yolov12' nor 'timm:NAME'"),
    ],
)
def test_what_a_family_does_not_have(overrides: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        build_detector("yolov5-s", 2, **overrides)


def test_alignrank_takes_them_too() -> None:
    """The parts of AlignRank behind another backbone and neck."""
    plain = {"model.decoupled": False, "model.attention": False, "model.light": False, "neck.compact": False}
    for backbone in BACKBONES:
        model = build_detector("alignrank-n", 3, **{"model.size": "t", "model.backbone": backbone}, **plain).model
        assert model.eval()(torch.rand(1, 3, 64, 64)).logits.shape[-1] == 3
