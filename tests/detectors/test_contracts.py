"""What every detector promises, over every recipe in a tiny form: a new entry of DETECTORS is held to it too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_forms import FINE, distinct_recipes, fine_hosts, recipe_of, tiny_form
from torch import Tensor
from torch.testing import assert_close

from alignrank.contracts import Batch, Built, DetectorModel, Frame, LossTerms, Targets
from alignrank.detectors import DETECTORS, predictions_of
from alignrank.weights import checkpoint
from alignrank.weights.recipe import Recipe, load_recipe

RECIPES = distinct_recipes() + fine_hosts()
CLASSIFICATION = {
    "alignrank": ["vfl", "qfl", "focal", "bce", "ranksort"],
    "deformable_detr": ["gcl", "vfl", "focal"],
    "dino": ["gcl", "vfl", "focal"],
    "reppoints": ["vfl", "qfl", "focal", "ranksort"],
    "retinanet": ["vfl", "qfl", "focal", "ranksort"],
    "varifocalnet": ["vfl", "qfl", "focal", "ranksort"],
    "yolo": ["vfl", "qfl", "focal", "bce", "ranksort"],
}
SIDE = 64


def class_loss_option(detector: str) -> str:
    return "rank.loss" if detector in ("deformable_detr", "dino") else "loss.classification"


def tiny(name: str, num_classes: int = 3, **overrides: Any) -> Recipe:
    return load_recipe(recipe_of(name), num_classes=num_classes, overrides=tiny_form(name) | overrides)


def scene(batch: int = 2, num_classes: int = 3, height: int = SIDE, width: int = SIDE) -> tuple[Tensor, list[Targets]]:
    """Random images with 1, 2, 3 ... objects whose sides are half of the image or more: fresh boxes are that large."""
    images = torch.rand(batch, 3, height, width)
    targets = []
    for count in range(1, batch + 1):
        size = torch.tensor([width, height])
        corner = torch.rand(count, 2) * size * 0.25
        side = (0.5 + 0.25 * torch.rand(count, 2)) * size
        targets.append(Targets(torch.cat([corner, corner + side], 1), torch.arange(count) % num_classes))
    return images, targets


def loss_of(built: Built, images: Tensor, targets: list[Targets]) -> LossTerms:
    """As in training: with noised truth for those that learn from it."""
    frames = [Frame("", (images.shape[-2], images.shape[-1])) for _ in targets]
    noise = torch.Generator().manual_seed(0)
    predictions = predictions_of(built.model.train(), images, Batch(images, targets, frames), denoising=noise)
    return built.criterion(predictions, targets)


def finite_gradients(built: Built) -> bool:
    gradients = [p.grad for p in built.model.parameters() if p.requires_grad]
    return all(g is None or bool(g.isfinite().all()) for g in gradients) and any(g is not None for g in gradients)


def test_every_architecture_has_a_recipe() -> None:
    assert {load_recipe(recipe_of(name)).detector for name in RECIPES} == set(DETECTORS)


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize(("height", "width"), [(64, 64), (64, 96), (32, 160)])
def test_shapes(name: str, height: int, width: int) -> None:
    """Training and evaluation give the same type and shapes; any sides that are multiples of the stride will do."""
    built = tiny(name).build()
    assert isinstance(built.model, DetectorModel)
    assert height % built.model.stride == width % built.model.stride == 0
    images, targets = scene(2, 3, height, width)
    for predictions in (built.model.train()(images), built.model.eval()(images)):
        num_points = predictions.logits.shape[1]
        assert predictions.logits.shape == (2, num_points, 3)
        assert predictions.boxes.shape == (2, num_points, 4)
        assert predictions.boxes.dtype == predictions.logits.dtype == torch.float32
        assert predictions.boxes.isfinite().all()
        if predictions.points is not None:
            assert predictions.points.shape in ((num_points, 2), (2, num_points, 2))
            assert (predictions.points >= 0).all()
            # The cells of a coarse level may be larger than the image.
            assert (predictions.points < torch.tensor([width, height]) + predictions.strides).all()
    assert loss_of(built, images, targets).total.isfinite()
    selections = built.postprocess(built.model.eval()(images), conf=0.0, iou=0.7, max_dets=20)
    assert len(selections) == 2
    for selection in selections:
        assert 0 < len(selection.scores) <= 20
        assert selection.boxes.shape == (len(selection.scores), 4)
        assert set(selection.labels.tolist()) <= {0, 1, 2}
        assert ((selection.scores >= 0) & (selection.scores <= 1)).all()
        assert (selection.scores.diff() <= 0).all()


@pytest.mark.parametrize("name", RECIPES)
def test_targets_may_be_empty(name: str) -> None:
    """No object in the whole batch: box terms are 0, the class terms are not, gradients are finite."""
    built = tiny(name).build()
    images, targets = scene()
    nothing = [Targets.empty() for _ in targets]
    terms = loss_of(built, images, nothing)
    terms.total.backward()
    assert finite_gradients(built)
    for part, value in terms.parts.items():
        if part.endswith("ddf"):  # D-FINE's layers learn from the last one where there is no object, too
            assert value.item() >= 0
        else:
            assert value.item() > 0 if part.endswith("cls") else value.item() == 0, part


@pytest.mark.parametrize("name", RECIPES)
def test_one_image_without_objects(name: str) -> None:
    """An empty image beside another: the loss is finite and does not depend on which of the two comes first."""
    built = tiny(name).build()
    images, targets = scene()
    predictions = built.model.train()(images)
    mixed = built.criterion(predictions, [targets[0], Targets.empty()])
    mixed.total.backward()
    assert finite_gradients(built)

    swapped = built.model(images.flip(0))
    terms = built.criterion(swapped, [Targets.empty(), targets[0]])
    for part, value in terms.parts.items():
        assert value.item() == pytest.approx(mixed.parts[part].item(), rel=1e-3)
    both_empty = built.criterion(predictions, [Targets.empty(), Targets.empty()])
    assert mixed.total > both_empty.total


@pytest.mark.parametrize("name", RECIPES)
def test_order_of_targets_leaves_the_loss(name: str) -> None:
    built = tiny(name).build()
    images, targets = scene(3)
    predictions = built.model.train()(images)
    predictions.logits = predictions.logits + torch.randn_like(predictions.logits)  # fresh ones are all the same
    for key, value in (predictions.raw or {}).items():
        if "logits" in key or "class" in key:
            predictions.raw[key] = value + torch.randn_like(value)
    first = built.criterion(predictions, targets)
    shuffled = [Targets(t.boxes.flip(0), t.labels.flip(0)) for t in targets]
    second = built.criterion(predictions, shuffled)
    assert first.parts.keys() == second.parts.keys()
    for part in first.parts:
        assert_close(second.parts[part], first.parts[part], atol=1e-6, rtol=1e-6)
    # Not because targets are ignored: other labels give another loss.
    other = built.criterion(predictions, [Targets(t.boxes, (t.labels + 1) % 3) for t in targets])
    assert (other.total - first.total).abs() > 1e-4


@pytest.mark.parametrize("name", RECIPES)
def test_parts_sum_to_the_total(name: str) -> None:
    built = tiny(name).build()
    terms = loss_of(built, *scene())
    assert terms.total.shape == ()
    assert terms.total.item() == pytest.approx(sum(part.item() for part in terms.parts.values()), rel=1e-5)


@pytest.mark.parametrize("name", RECIPES)
def test_every_parameter_learns(name: str) -> None:
    """At most ten steps without weight decay change each trainable parameter: of SGD, of Adam with FINE and in other
    libraries' detectors.

    FINE's gradients are small behind fresh towers; that of its key bias is rounding, as a softmax does not see what all
    keys have in common.

    One object of about the size that each level's boxes have at first (15 strides), so that every level has positives.
    """
    built = tiny(name).build()
    parameters = dict(built.model.named_parameters())
    if "/" in name:  # in backbones as small as these, as the library begins them, signals fade
        with torch.no_grad():
            for parameter in parameters.values():
                parameter += 0.05 * torch.randn_like(parameter) * parameter.requires_grad
    before = {key: value.detach().clone() for key, value in parameters.items()}
    optimizer: torch.optim.Optimizer = torch.optim.SGD(parameters.values(), lr=0.01, momentum=0.9)
    if name.endswith(FINE) or "/" in name:
        optimizer = torch.optim.Adam(parameters.values(), lr=1e-3)
    images = torch.rand(1, 3, 512, 512)
    boxes = [[40.0, 40.0, 160.0, 160.0], [200.0, 100.0, 440.0, 340.0], [16.0, 16.0, 496.0, 496.0]]
    targets = [Targets(torch.tensor(boxes), torch.arange(3))]
    for _ in range(10):
        optimizer.zero_grad()
        loss_of(built, images, targets).total.backward()
        torch.nn.utils.clip_grad_norm_(parameters.values(), 10)
        optimizer.step()
        learning = [(key, value) for key, value in parameters.items() if value.requires_grad]
        unchanged = [key for key, value in learning if torch.equal(value, before[key])]
        if not unchanged:
            break
    assert unchanged == []
    assert all(value.isfinite().all() for value in parameters.values())


@pytest.mark.parametrize(("detector", "classification"), [(d, c) for d, kinds in CLASSIFICATION.items() for c in kinds])
def test_class_losses_learn(detector: str, classification: str) -> None:
    """With each classification loss the total falls by more than a third in thirty steps on one batch.

    RepPoints first has to get boxes that fit: then its positives come, and with them the loss.
    """
    name = next(name for name in distinct_recipes() if load_recipe(name).detector == detector)
    built = tiny(name, **{class_loss_option(detector): classification}).build()
    optimizer = torch.optim.AdamW(built.model.parameters(), lr=0.002)
    images, targets = scene()
    totals = []
    for _ in range(60 if detector == "reppoints" else 30):
        optimizer.zero_grad()
        terms = loss_of(built, images, targets)
        terms.total.backward()
        optimizer.step()
        totals.append(terms.total.item())
    assert totals[-1] < 0.66 * (max(totals) if detector == "reppoints" else totals[0])


@pytest.mark.parametrize("name", [name for name in distinct_recipes() if "/" not in name])
def test_class_losses_are_different(name: str) -> None:
    """The switch switches: same network, same targets, different values."""
    images, targets = scene()
    predictions = tiny(name).build().model.train()(images)
    predictions.logits = predictions.logits + torch.randn_like(predictions.logits)  # fresh ones are all the same
    values = set()
    detector = load_recipe(name).detector
    kinds = CLASSIFICATION[detector]
    for classification in kinds:
        terms = tiny(name, **{class_loss_option(detector): classification}).build().criterion(predictions, targets)
        assert terms.total.isfinite()
        values.add(round(terms.total.item(), 4))
    assert len(values) == len(kinds)


@pytest.mark.parametrize("name", RECIPES)
def test_save_and_reload(name: str, tmp_path: Path) -> None:
    recipe = tiny(name)
    model = recipe.build().model
    images, _ = scene()
    with torch.no_grad():
        model.train()(images)  # statistics that are not the initial ones
        expected = model.eval()(images)
        path = tmp_path / "weights.safetensors"
        checkpoint.save(path, model.state_dict(), recipe=recipe, classes=["a", "b", "c"], metrics={"ap": 0.5})
        reloaded = checkpoint.load(path).build_model()(images)
    assert torch.equal(reloaded.logits, expected.logits)
    assert torch.equal(reloaded.boxes, expected.boxes)


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("num_classes", [1, 300])
def test_numbers_of_classes(name: str, num_classes: int) -> None:
    built = tiny(name, num_classes).build()
    images, targets = scene(2, num_classes)
    targets[-1].labels[-1] = num_classes - 1
    terms = loss_of(built, images, targets)
    terms.total.backward()
    assert terms.total.isfinite()
    assert finite_gradients(built)
    predictions = built.model.eval()(images)
    assert predictions.logits.shape[-1] == num_classes
    for selection in built.postprocess(predictions, conf=0.0, iou=0.7, max_dets=10):
        assert ((selection.labels >= 0) & (selection.labels < num_classes)).all()


@pytest.mark.parametrize("name", RECIPES)
def test_batch_size_does_not_matter(name: str) -> None:
    """In evaluation an image's predictions are the same alone and among three.

    In float64: with the few cells of these maps, norms magnify the rounding of float32 a hundredfold.
    """
    model = tiny(name).build().model.double()
    images = scene(3)[0].double()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # statistics of these images, not mostly the initial ones, which let signals fade
    with torch.no_grad():
        model.train()(images)
        together = model.eval()(images)
        for i in range(3):
            alone = model(images[i : i + 1])
            assert_close(alone.logits[0], together.logits[i], atol=1e-5, rtol=1e-5)
            assert_close(alone.boxes[0], together.boxes[i], atol=1e-3, rtol=1e-5)
    assert (together.logits[0] - together.logits[1]).abs().max() > 1e-3  # the images do differ
