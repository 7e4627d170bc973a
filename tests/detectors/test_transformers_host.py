"""Detectors of transformers here say and learn what they say and learn in the library: outputs, losses, gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from hosted_detectors import assert_every_parameter_gets_a_gradient
from published_hosts import RECIPES, shake
from tiny_forms import HOSTS, tiny_host
from torch import Tensor
from torch.testing import assert_close

from alignrank.contracts import Batch, Built, Frame, Predictions, Targets
from alignrank.detectors import predictions_of
from alignrank.errors import InputError
from alignrank.plug.transformers_models import ARCHITECTURES, library_config
from alignrank.weights.recipe import Recipe, load_recipe

IMAGES = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
TARGETS = [
    Targets(torch.tensor([[8.0, 8.0, 40.0, 50.0]]), torch.tensor([2])),
    Targets(torch.tensor([[4.0, 10.0, 60.0, 60.0], [30.0, 5.0, 90.0, 44.0]]), torch.tensor([0, 1])),
]
hosts = pytest.mark.parametrize("name", HOSTS)


def tiny(name: str, num_classes: int = 3, **overrides: Any) -> Recipe:
    return load_recipe(RECIPES[name], num_classes=num_classes, overrides=tiny_host(name) | overrides)


def shaken(built: Built) -> Built:
    shake(built.model)
    return built


def library(name: str, built: Built, num_classes: int = 3) -> Any:
    """The library's own object with the same weights."""
    config = library_config(name, HOSTS[name], num_classes)
    if hasattr(config, "tie_word_embeddings") and name != "deformable_detr":
        config.tie_word_embeddings = False
    model = getattr(transformers, ARCHITECTURES[name].model)(config)
    found = model.load_state_dict(built.model.host.state_dict(), strict=False)
    assert not found.unexpected_keys
    assert all(key.startswith(ARCHITECTURES[name].copies) for key in found.missing_keys)
    return model


def pixels(name: str, images: Tensor) -> Tensor:
    """As the library's processor hands them over."""
    if not ARCHITECTURES[name].normalised:
        return images
    mean, std = (torch.tensor(x).view(1, 3, 1, 1) for x in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    return (images - mean) / std


def labels(targets: list[Targets], frames: list[Frame]) -> list[dict[str, Tensor]]:
    found = []
    for target, (height, width) in zip(targets, (frame.size for frame in frames), strict=True):
        x1, y1, x2, y2 = target.boxes.unbind(1)
        boxes = torch.stack([(x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height], 1)
        found.append({"class_labels": target.labels, "boxes": boxes})
    return found


def batch(targets: list[Targets]) -> Batch:
    return Batch(IMAGES, targets, [Frame("", (64, 96)) for _ in targets])


def said_in_training(built: Built, targets: list[Targets] = TARGETS) -> Predictions:
    return predictions_of(built.model.train(), IMAGES, batch(targets), denoising=torch.Generator().manual_seed(5))


def assert_trained_alike(name: str, built: Built, frames: list[Frame], inputs: dict[str, Tensor]) -> None:
    """The loss and all gradients are those of the library's own training call."""
    model = library(name, built).train()
    noise = torch.Generator().manual_seed(5)
    predictions = predictions_of(built.model.train(), IMAGES, Batch(IMAGES, TARGETS, frames), denoising=noise)
    terms = built.criterion(predictions, TARGETS)
    terms.total.backward()
    torch.manual_seed(int(torch.randint(2**62, (), generator=torch.Generator().manual_seed(5))))
    loss = model(**inputs, labels=labels(TARGETS, frames)).loss
    loss.backward()
    assert_close(terms.total, loss, atol=1e-5, rtol=1e-6)
    theirs = {key: value.grad for key, value in model.named_parameters() if value.grad is not None}
    ours = {key: value.grad for key, value in built.model.host.named_parameters() if value.grad is not None}
    assert theirs.keys() == ours.keys()
    for key, gradient in theirs.items():
        assert_close(ours[key], gradient, atol=1e-5, rtol=1e-5, msg=lambda text, key=key: f"{key}: {text}")
    assert {part for part in terms.parts if "_" not in part} >= {"cls", "l1", "giou"}
    assert any(part.startswith("denoising_") for part in terms.parts) == (name not in ("deformable_detr", "rf_detr"))
    of_the_picture = [float(ours[key].abs().max()) for key in ours if "backbone" in key]
    assert max(of_the_picture) > 1e-3, "the comparison is worth something"


@hosts
def test_loss_and_gradients_are_the_library_s(name: str) -> None:
    frames = [Frame("", (64, 96)) for _ in TARGETS]
    assert_trained_alike(name, shaken(tiny(name).build()), frames, {"pixel_values": pixels(name, IMAGES)})


def test_loss_and_gradients_are_the_library_s_beside_padding() -> None:
    name, frames = "deformable_detr", [Frame("", (57, 64)), Frame("", (64, 96))]
    mask = torch.zeros(2, 64, 96, dtype=torch.long)
    for row, frame in zip(mask, frames, strict=True):
        row[: frame.size[0], : frame.size[1]] = 1
    inputs = {"pixel_values": pixels(name, IMAGES) * mask[:, None], "pixel_mask": mask}
    assert_trained_alike(name, shaken(tiny(name).build()), frames, inputs)


@hosts
def test_every_trained_parameter_gets_a_gradient(name: str) -> None:
    built = tiny(name).build()
    assert_every_parameter_gets_a_gradient(built, lambda targets: said_in_training(built, targets), TARGETS)


@hosts
def test_noise_is_drawn_from_the_generator_alone(name: str) -> None:
    """A resumed run draws the same, and nobody else's numbers change."""
    built = shaken(tiny(name).build())
    totals = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        totals.append(built.criterion(said_in_training(built), TARGETS).total)
        assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(*totals)


@hosts
def test_the_loss_of_evaluation_is_the_last_layer_s(name: str) -> None:
    """Those terms of training, where norms do not differ; of RF-DETR with one group of queries."""
    built = shaken(tiny(name, **{"model.config.group_detr": 1} if name == "rf_detr" else {}).build())
    evaluated = built.criterion(predictions_of(built.model.eval(), IMAGES, batch(TARGETS)), TARGETS, alone=True)
    built.model.train()
    for module in built.model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    noise = torch.Generator().manual_seed(5)
    trained = built.criterion(predictions_of(built.model, IMAGES, batch(TARGETS), denoising=noise), TARGETS)
    assert set(evaluated.parts) == {"cls", "l1", "giou"}
    for part, value in evaluated.parts.items():
        assert value.item() == pytest.approx(trained.parts[part].item(), rel=1e-4)


def test_padding_is_masked_where_the_library_masks_it() -> None:
    """Deformable DETR: boxes are shares of the picture, and what lies beside it does not count."""
    built = shaken(tiny("deformable_detr").build())
    sizes = torch.tensor([[64.0, 64.0], [64.0, 96.0]])
    grey = IMAGES.clone()
    grey[0, :, :, 64:] = 0.5
    with torch.no_grad():
        first, second = (built.model.eval()(images, sizes) for images in (IMAGES, grey))
    assert_close(first.boxes, second.boxes)
    mask = torch.ones(2, 64, 96, dtype=torch.long)
    mask[0, :, 64:] = 0
    with torch.no_grad():
        said = library("deformable_detr", built).eval()(
            pixel_values=pixels("deformable_detr", IMAGES) * mask[:, None], pixel_mask=mask
        )
    assert_close(first.logits, said.logits)
    widths = torch.tensor([64.0, 96.0])
    assert_close((first.boxes[..., 0] + first.boxes[..., 2]) / 2 / widths[:, None], said.pred_boxes[..., 0])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            {"model.config.num_querys": 3},
            r"model\.config: rt_detr has no option 'num_querys'; did you mean 'num_queries'",
        ),
        ({"model.config.d_model": "wide"}, r"model\.config: rt_detr: .*d_model"),
        ({"model.config.decoder_attention_heads": 7}, r"model\.config: these options make no rt_detr"),
        ({"model.architecture": "yolos"}, r"model\.architecture: Input should be"),
        ({"model.pretrained": "no/such"}, r"model\.pretrained: there is no folder 'no/such'"),
    ],
)
def test_options_that_do_not_go(overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        tiny("rt_detr", **overrides).build()
