"""The base detector: published sizes, decoding, the two heads, deployment."""

from __future__ import annotations

from math import log
from typing import Any

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

from alignrank.contracts import Predictions
from alignrank.detectors.yolo import Yolo, expected_distances
from alignrank.errors import InputError
from alignrank.nn.grid import grid_points
from alignrank.weights.recipe import build_detector


def tiny(name: str = "yolov10-n", num_classes: int = 3, **overrides: Any) -> Yolo:
    model: Yolo = build_detector(name, num_classes, **{"model.size": "t"}, **overrides).model
    return model


def measured(model: Yolo) -> tuple[float, float]:
    """Millions of parameters, and 1e9 floating-point operations of the convolutions for one image of 640 x 640.

    Multiply and add count as two. Attention's matrix products are left out, as in the published figures; what is
    left grows with the area exactly (every map's side is a multiple of 2), so one of 64 x 64 is run, and 100 counted.
    """
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, 64, 64))
    convolutions = counter.get_flop_counts()["Global"][torch.ops.aten.convolution] * (640 // 64) ** 2
    return sum(p.numel() for p in model.parameters()) / 1e6, convolutions / 1e9


@pytest.mark.parametrize(
    ("name", "form", "parameters", "flops"),
    [
        ("yolov8-n", "train", 3.2, 8.7),
        ("yolov8-s", "train", 11.2, 28.6),
        ("yolov10-n", "deploy", 2.3, 6.7),
        ("yolov10-s", "deploy", 7.2, 21.6),
        ("yolov10-s", "train", 8.1, 24.8),
    ],
)
def test_published_size(name: str, form: str, parameters: float, flops: float) -> None:
    """The tables of YOLOv8 and YOLOv10 (80 classes, 640 px), to the decimal they print."""
    model = build_detector(name, 80).model
    model = model.deploy() if form == "deploy" else model.train()
    own_parameters, own_flops = measured(model)
    assert round(own_parameters, 1) == parameters
    assert round(own_flops, 1) == flops


def test_grid_points_worked() -> None:
    """Maps of 1 x 2 cells of 8 px and 1 x 1 of 16: centres (4,4), (12,4) and (8,8)."""
    points, strides = grid_points([torch.zeros(1, 1, 1, 2), torch.zeros(1, 1, 1, 1)], (8, 16))
    assert points.tolist() == [[4, 4], [12, 4], [8, 8]]
    assert strides.tolist() == [[8], [8], [16]]


def test_expected_distances_worked() -> None:
    """Logits (0, ln 2, 0): probabilities 1/4, 1/2, 1/4, mean bin 1; (ln 2, 0, 0): 1/2, 1/4, 1/4, mean 3/4."""
    logits = torch.tensor([[0, log(2), 0], [log(2), 0, 0]])
    assert_close(expected_distances(logits), torch.tensor([1.0, 0.75]))


def test_boxes_are_points_and_distances_in_pixels() -> None:
    """Box branch made constant: logit 50 for bin 3 left, 1 top, 2 right, 0 bottom -> (x-3s, y-s, x+2s, y)."""
    model = tiny("yolov8-n").eval()
    bias = torch.zeros(4, 16)
    for side, bin_ in enumerate((3, 1, 2, 0)):
        bias[side, bin_] = 50
    for branch in model.head.box:
        last = branch[-1]
        assert isinstance(last, nn.Conv2d)
        nn.init.zeros_(last.weight)
        last.bias.data = bias.flatten()
    predictions = model(torch.rand(1, 3, 64, 96))
    assert predictions.points is not None
    assert predictions.strides is not None
    (x, y), s = predictions.points.unbind(1), predictions.strides[:, 0]
    assert_close(predictions.boxes[0], torch.stack([x - 3 * s, y - s, x + 2 * s, y], 1), atol=1e-3, rtol=0)
    # 8 x 12 + 4 x 6 + 2 x 3 cells; the last cell of the last level is centred 16 px from the far corner.
    assert len(s) == 126
    assert predictions.points[-1].tolist() == [80, 48]


def test_class_prior() -> None:
    """At initialisation a stride-s cell scores about 5 / C / (640/s)^2: the odds of an object there."""
    model = tiny("yolov8-n", 4)
    for branch, stride in zip(model.head.cls, (8, 16, 32), strict=True):
        last = branch[-1]
        assert isinstance(last, nn.Conv2d)
        assert_close(last.bias.exp(), torch.full((4,), 5 / 4 / (640 / stride) ** 2))


def loss_like(predictions: Predictions) -> torch.Tensor:
    assert predictions.distribution is not None
    return predictions.logits.square().sum() + predictions.boxes.square().sum() + predictions.distribution.sum()


def test_one_to_one_gradients_do_not_reach_the_backbone() -> None:
    model = tiny().train()
    main = model(torch.rand(2, 3, 64, 64))
    loss_like(main).backward()
    assert model.one_to_one is not None
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.one_to_one.parameters())
    for part in (model.backbone, model.neck, model.head):
        assert all(p.grad is None for p in part.parameters())

    model.zero_grad()
    loss_like(main.auxiliary["one_to_many"]).backward()
    for part in (model.backbone, model.neck, model.head):
        assert all(p.grad is not None for p in part.parameters())
    assert all(p.grad is None for p in model.one_to_one.parameters())


def test_heads_in_evaluation() -> None:
    """Evaluation computes one head only: the one-to-one one, or with postprocess.nms the one-to-many one."""
    images = torch.rand(1, 3, 64, 64)
    free, nms = tiny(), tiny(**{"postprocess.nms": True})
    nms.load_state_dict(free.state_dict())
    assert free.one_to_one is not None
    for branch in free.one_to_one.cls:  # the heads start as copies of each other
        nn.init.constant_(branch[-1].bias, 1.0)
    nms.load_state_dict(free.state_dict())
    ours, theirs = free.eval()(images), nms.eval()(images)
    assert ours.auxiliary == theirs.auxiliary == {}
    assert ours.logits.mean() > theirs.logits.mean() + 5
    nms.output = "one_to_one"
    assert torch.equal(nms(images).logits, ours.logits)


@pytest.mark.parametrize(
    ("name", "overrides"),
    [("yolov8-n", {}), ("yolov10-n", {}), ("yolov10-s", {}), ("yolov10-n", {"postprocess.nms": True})],
)
def test_deployed_predictions_are_equal(name: str, overrides: dict[str, Any]) -> None:
    model = tiny(name, **overrides)
    with torch.no_grad():
        for _ in range(3):  # statistics and heads that are no longer the initial ones
            model.train()(torch.rand(4, 3, 64, 64))
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
        images = torch.rand(2, 3, 64, 96)
        before = model.eval()(images)
        after = model.deploy()(images)
    assert model.one_to_one is None
    assert not any(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    assert_close(after.logits, before.logits, atol=1e-4, rtol=1e-4)
    assert_close(after.boxes, before.boxes, atol=1e-2, rtol=1e-4)


@pytest.mark.parametrize("option", [{"model.pretrained": "hub"}, {"model.frozen_norm": True}], ids=str)
def test_options_of_timm_backbones_are_refused_for_others(option: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="are for timm backbones"):
        build_detector("yolov8-n", 2, **{"model.size": "t", **option})
