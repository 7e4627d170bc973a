"""Detectors of torchvision here are what the library builds, and learn what they learn there: losses and gradients."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hosted_detectors import assert_every_parameter_gets_a_gradient
from torch import Tensor, nn
from torch.testing import assert_close
from torchvision.models import detection
from torchvision_hosts import DENSE, RECIPES, shaken, tiny

from alignrank.contracts import Batch, Built, Frame, Predictions, Targets
from alignrank.detectors import predictions_of
from alignrank.detectors.torchvision_stages import geometric_mean
from alignrank.errors import InputError
from alignrank.plug.torchvision_models import ARCHITECTURES, categories
from alignrank.weights.recipe import load_recipe

IMAGES = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
TARGETS = [
    Targets(torch.tensor([[8.0, 8.0, 40.0, 50.0]]), torch.tensor([2])),
    Targets(torch.tensor([[4.0, 10.0, 60.0, 60.0], [30.0, 5.0, 90.0, 44.0]]), torch.tensor([0, 1])),
]
FRAMES = [Frame("", (57, 64)), Frame("", (64, 96))]
hosts = pytest.mark.parametrize("name", RECIPES)


def said_in_training(built: Built, targets: list[Targets] = TARGETS, frames: list[Frame] = FRAMES) -> Predictions:
    batch = Batch(IMAGES, targets, frames)
    return predictions_of(built.model.train(), IMAGES, batch, denoising=torch.Generator().manual_seed(5))


def trained_by_the_library(name: str, model: Any, targets: list[Targets]) -> dict[str, Tensor]:
    """Its own training call, with pictures that it leaves at their size."""
    model.transform._skip_resize = True
    pictures = [image[:, : frame.size[0], : frame.size[1]] for image, frame in zip(IMAGES, FRAMES, strict=True)]
    first = int(ARCHITECTURES[name].two_stages)
    truth = [{"boxes": target.boxes, "labels": target.labels + first} for target in targets]
    losses: dict[str, Tensor] = model.train()(pictures, truth)
    return losses


@hosts
def test_loss_and_gradients_are_the_library_s(name: str) -> None:
    """Beside padding, and of a picture without objects."""
    for targets in (TARGETS, [TARGETS[0], Targets.empty()]):
        built = shaken(tiny(name).build())
        library = copy.deepcopy(built.model.host)
        terms = built.criterion(said_in_training(built, targets), targets)
        terms.total.backward()
        losses = trained_by_the_library(name, library, targets)
        sum(losses.values()).backward()  # type: ignore[union-attr]
        assert_close(
            sorted(value.item() for value in terms.parts.values()),
            sorted(value.item() for value in losses.values()),
            atol=1e-5,
            rtol=1e-5,
        )
        theirs = {key: value.grad for key, value in library.named_parameters() if value.grad is not None}
        ours = {key: value.grad for key, value in built.model.host.named_parameters() if value.grad is not None}
        assert theirs.keys() == ours.keys()
        for key, gradient in theirs.items():
            scale = max(float(gradient.abs().max()), 1)
            assert_close(ours[key], gradient, atol=1e-5 * scale, rtol=1e-5, msg=lambda text, key=key: f"{key}: {text}")
        assert max(float(value.abs().max()) for key, value in ours.items() if "backbone.body" in key) > 1e-3
    assert (
        set(terms.parts)
        == {
            "fcos_resnet50_fpn": {"cls", "box", "centreness"},
            "retinanet_resnet50_fpn_v2": {"cls", "box"},
            "fasterrcnn_resnet50_fpn_v2": {"cls", "box", "proposals_cls", "proposals_box"},
        }[name]
    )


def form_of(model: nn.Module) -> tuple[Any, ...]:
    """Names, shapes and kinds of all parts, and the numbers that torchvision keeps beside them."""
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    kinds = {key: type(module).__name__ for key, module in model.named_modules()}
    return shapes, kinds, numbers_of(model, set())


def numbers_of(value: Any, seen: set[int]) -> Any:
    if isinstance(value, int | float | str | bool | None):
        return value
    if isinstance(value, dict):
        return {key: numbers_of(inner, seen) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [numbers_of(inner, seen) for inner in value]
    if isinstance(value, Tensor):
        return list(value.shape) if value.is_meta else value.tolist()
    if id(value) in seen or not type(value).__module__.startswith(("torchvision", "torch.nn.modules")):
        return None
    seen.add(id(value))
    left_out = ("_backward", "_forward", "_state", "_load", "_is_full", "_non_persistent", "_parameters", "_buffers")
    return {key: numbers_of(inner, seen) for key, inner in vars(value).items() if not key.startswith(left_out)}


@hosts
def test_the_network_is_the_library_s(name: str) -> None:
    """In full: the one that the function of that name makes, number by number; also with the published norms."""
    recipe = load_recipe(RECIPES[name], num_classes=7)
    about = ARCHITECTURES[name]
    with torch.device("meta"):
        theirs = getattr(detection, name)(weights=None, weights_backbone=None, num_classes=7 + about.two_stages)
        ours = recipe.build().model.host
    expected, found = form_of(theirs), form_of(ours)
    assert found[0] == expected[0]
    assert found[1] == expected[1]
    assert found[2] == expected[2]
    weights = getattr(detection, about.weights).COCO_V1
    assert recipe.to_dict()["model"]["hub"] == weights.url
    assert len(categories(name)) == 91
    config: Any = recipe.architecture
    second = ours.roi_heads if about.two_stages else ours
    selection = (config.postprocess.conf, config.postprocess.iou, config.postprocess.max_dets)
    assert selection == (second.score_thresh, second.nms_thresh, second.detections_per_img)
    assert config.postprocess.per_level == getattr(second, "topk_candidates", 1000)
    assert recipe.train.imgsz == [*ours.transform.min_size, ours.transform.max_size]


def test_frozen_norms_are_the_library_s() -> None:
    body = load_recipe(RECIPES["fcos_resnet50_fpn"], overrides={"model.norm": "frozen"}).meta_network().host.backbone
    kinds = {type(module).__name__ for module in body.modules() if "BatchNorm" in type(module).__name__}
    assert kinds == {"FrozenBatchNorm2d"}


@hosts
def test_every_trained_parameter_gets_a_gradient(name: str) -> None:
    built = tiny(name).build()
    assert_every_parameter_gets_a_gradient(built, lambda targets: said_in_training(built, targets), TARGETS)


def test_samples_are_drawn_from_the_generator_alone() -> None:
    """A resumed run draws the same, and nobody else's numbers change."""
    small = {"model.config.rpn_batch_size_per_image": 20, "model.config.box_batch_size_per_image": 10}
    built = shaken(tiny("fasterrcnn_resnet50_fpn_v2", **small).build())
    totals = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        totals.append(built.criterion(said_in_training(built), TARGETS).total)
        assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(*totals)
    other = predictions_of(
        built.model, IMAGES, Batch(IMAGES, TARGETS, FRAMES), denoising=torch.Generator().manual_seed(6)
    )
    assert not torch.equal(built.criterion(other, TARGETS).total, totals[0])


@pytest.mark.parametrize("name", DENSE)
def test_the_loss_of_evaluation_is_that_of_training(name: str) -> None:
    built = shaken(tiny(name, **{"model.norm": "frozen"}).build())
    trained = built.criterion(said_in_training(built), TARGETS)
    evaluated = built.criterion(predictions_of(built.model.eval(), IMAGES, Batch(IMAGES, TARGETS, FRAMES)), TARGETS)
    assert_close(evaluated.parts, trained.parts)


def test_the_loss_of_evaluation_is_of_all_proposals() -> None:
    built = shaken(tiny("fasterrcnn_resnet50_fpn_v2").build())
    batch = Batch(IMAGES, TARGETS, FRAMES)
    first, again = (
        built.criterion(predictions_of(built.model.eval(), IMAGES, batch), TARGETS, alone=True).parts for _ in range(2)
    )
    assert_close(first, again, atol=0, rtol=0)
    assert all(value > 0 for value in first.values())


def test_padding_is_zero_to_the_network() -> None:
    """As the library pads: what lies beside a picture does not count, its place does."""
    built = shaken(tiny("fcos_resnet50_fpn").build())
    sizes = torch.tensor([[64.0, 64.0], [64.0, 96.0]])
    grey = IMAGES.clone()
    grey[0, :, :, 64:] = 0.5
    with torch.no_grad():
        first, second = (built.model.eval()(images, sizes) for images in (IMAGES, grey))
    assert_close(first.logits, second.logits)
    assert first.boxes[0, :, [0, 2]].max() <= 64
    assert first.boxes[1, :, [0, 2]].max() > 64


def test_a_random_fcos_begins_with_boxes_of_one_stride() -> None:
    """The library's begin around 0, before a ReLU: a side that falls below it gets no gradient any more."""
    model = tiny("fcos_resnet50_fpn").build().model.eval()
    with torch.no_grad():
        predictions = model(torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    places = torch.arange(0.0, 64, 8)
    y, x = torch.meshgrid(places, places, indexing="ij")
    around = torch.stack([x - 8, y - 8, x + 8, y + 8], -1).reshape(-1, 4).clamp(0, 64)
    away = predictions.boxes[0, :64] - around
    assert away.abs().max() < 6  # none at its point
    assert away.mean().abs() < 0.5


def test_scores_of_fcos() -> None:
    """sqrt(.25 * .64) = .4; and where a sigmoid is 1 to the last digit."""
    logits = torch.tensor([0.25, 0.0009, 0.9, 1.0]).logit().clamp(max=40).view(1, 4, 1)
    centreness = torch.tensor([0.64, 0.01, 0.9, 1.0]).logit().clamp(max=40).view(1, 4, 1)
    scores = geometric_mean(logits, centreness).sigmoid().flatten()
    assert_close(scores, torch.tensor([0.4, 0.003, 0.9, 1.0]), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        (
            "fcos_resnet50_fpn",
            {"model.config.center_radius": 3},
            r"model\.config: fcos_resnet50_fpn has no option 'center_radius'; .*'center_sampling_radius'",
        ),
        (
            "fcos_resnet50_fpn",
            {"model.config.min_size": 3},
            r"model\.config: fcos_resnet50_fpn has no option 'min_size'",
        ),
        ("fcos_resnet50_fpn", {"model.config.anchor_generator": 3}, r"these options make no fcos_resnet50_fpn"),
        ("fcos_resnet50_fpn", {"model.backbone": "resnet18"}, r"neither 'resnet50' nor 'timm:NAME'"),
        ("fcos_resnet50_fpn", {"model.backbone": "timm:swin_tiny_patch4_window7_224"}, "channels last"),
        ("fcos_resnet50_fpn", {"model.architecture": "ssd300_vgg16"}, r"model\.architecture: Input should be"),
        ("fcos_resnet50_fpn", {"model.pretrained": "no/such"}, r"model\.pretrained: no/such is no \.safetensors file"),
    ],
)
def test_options_that_do_not_go(name: str, overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        tiny(name, **overrides).build()
