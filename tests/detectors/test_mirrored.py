"""An image and its mirror image: boxes come back to their place, and one of both views is left."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from finder import CPU, NAMES, Finder, scene
from tiny_forms import distinct_recipes, tiny_form
from torch import Tensor, nn
from torch.testing import assert_close

from alignrank.boxes import mirrored
from alignrank.contracts import Batch, Frame, Postprocess, Predictions, Targets, WantedThresholds
from alignrank.detectors import predictions_of
from alignrank.detectors.mirrored import MERGED_IOU, Mirrored, merging
from alignrank.detectors.postprocess import NmsConfig, NonMaximumSuppression, TopK
from alignrank.inference.options import PredictOptions
from alignrank.inference.predict import predict
from alignrank.input_size import Fit, InputSize
from alignrank.weights.deployed import Deployed
from alignrank.weights.recipe import load_recipe

PADDING = 0.25


class Leaning(nn.Module):
    """Finds the one white rectangle of a picture, and says that it is 1 px further to the right than it is; with a
    score of .9 where it begins in the left half of the input, else .6.
    """

    stride = 32

    def __init__(self, *, uses_sizes: bool = False) -> None:
        super().__init__()
        self.uses_sizes = uses_sizes
        self.seen: list[Tensor] = []
        self.sizes: list[Tensor | None] = []

    def forward(self, images: Tensor, sizes: Tensor | None = None) -> Predictions:
        self.seen.append(images)
        self.sizes.append(sizes)
        boxes, scores = torch.zeros(len(images), 1, 4), torch.full((len(images), 1, 1), 0.6)
        for i, image in enumerate(images):
            rows, columns = (image[0] > 0.5).nonzero(as_tuple=True)
            left, right = columns.min(), columns.max() + 1
            boxes[i, 0] = torch.stack([left + 1, rows.min(), right + 1, rows.max() + 1])
            if left < images.shape[-1] / 2:
                scores[i] = 0.9
        return Predictions(scores.logit(), boxes, sizes=sizes)


def canvas(box: tuple[int, int, int, int], *, content: int = 64) -> Tensor:
    """[3,32,64]: black `content` px wide, grey beside it; white in the box."""
    image = torch.zeros(3, 32, 64)
    image[..., content:] = PADDING
    x0, y0, x1, y1 = box
    image[:, y0:y1, x0:x1] = 1
    return image


def test_both_views_worked() -> None:
    """The box (8,10)-(28,20) of 64 px is (36,10)-(56,20) in the mirror. Both are seen 1 px to the right, which is 1 px
    to the left of what is there in the second view.
    """
    network = Mirrored(Leaning()).eval()
    found = network(canvas((8, 10, 28, 20))[None])
    assert found.boxes.tolist() == [[[9, 10, 29, 20], [7, 10, 27, 20]]]
    assert_close(found.scores(), torch.tensor([[[0.9], [0.6]]]))
    assert torch.equal(network.network.seen[1], network.network.seen[0].flip(-1))
    # IoU 18 / 22; the better box is kept, and moves to the mean with weights .9 and .6 * 9 / 11.
    (merged,) = merging(TopK())(found, conf=0.1, iou=0.7, max_dets=5)
    shift = 2 * 0.6 * (9 / 11) / (0.9 + 0.6 * 9 / 11)
    assert_close(merged.boxes, torch.tensor([[9 - shift, 10, 29 - shift, 20]]))
    assert_close(merged.scores, torch.tensor([0.9]))
    (apart,) = merging(TopK(), consensus=0.0)(found, conf=0.1, iou=0.7, max_dets=5)
    assert apart.boxes.tolist() == [[9, 10, 29, 20]]


def test_equal_views_correct_each_other() -> None:
    """Of equal scores the mean is in the middle but for its IoU weights; they vanish for large boxes."""
    found = Predictions(torch.zeros(1, 2, 1), torch.tensor([[[9.0, 0, 1009, 20], [7, 0, 1007, 20]]]))
    (merged,) = merging(TopK())(found, conf=0.1, iou=0.7, max_dets=5)
    assert_close(merged.boxes, torch.tensor([[8.0, 0, 1008, 20]]), atol=0.01, rtol=0)


@pytest.mark.parametrize("uses_sizes", [False, True])
def test_padding_at_one_side(uses_sizes: bool) -> None:
    """Two images, 64 and 40 px wide, in the corner of 64 px. Networks that know sizes find the padding where it was."""
    images = torch.stack([canvas((8, 10, 28, 20)), canvas((4, 8, 24, 18), content=40)])
    frames = [Frame("", (32, 64)), Frame("", (32, 40))]
    network = Mirrored(Leaning(uses_sizes=uses_sizes)).eval()
    found = predictions_of(network, images, Batch(images, [Targets.empty()] * 2, frames))
    assert found.boxes.tolist() == [[[9, 10, 29, 20], [7, 10, 27, 20]], [[5, 8, 25, 18], [3, 8, 23, 18]]]
    first, second = network.network.seen
    assert torch.equal(first, images)
    assert torch.equal(second[0], images[0].flip(-1))
    if not uses_sizes:
        assert torch.equal(second[1], images[1].flip(-1))
        assert network.network.sizes == [None, None]
        return
    assert torch.equal(second[1, :, :, :40], images[1, :, :, :40].flip(-1))
    assert (second[1, :, :, 40:] == PADDING).all()
    assert found.sizes is not None
    assert found.sizes.tolist() == [[32, 64], [32, 40]]
    assert all(torch.equal(sizes, found.sizes) for sizes in network.network.sizes)


class SizedFinder(Finder):
    """Finder, of pictures whose sizes it is told."""

    uses_sizes = True

    def forward(self, images: Tensor, sizes: Tensor | None = None) -> Predictions:
        assert sizes is not None
        return super().forward(images)


@pytest.mark.parametrize("corner", [False, True])
@pytest.mark.parametrize("rect", [False, True])
@pytest.mark.parametrize("model", [Finder, SizedFinder])
def test_images_of_several_sizes(model: type[Finder], rect: bool, corner: bool) -> None:
    """A network that sees both views alike says of both what it says of one; with an odd rest of padding, too."""
    pictures = [scene(60, 90), scene(61, 83), scene(200, 100), scene(192, 192), scene(90, 90)]
    size, options = InputSize(192, rect=rect, fit=Fit(corner=corner)), PredictOptions(batch=3)

    def found(network: nn.Module, postprocess: Postprocess) -> list[Any]:
        return list(predict(Deployed(network, postprocess, NAMES, size, "finder", CPU), pictures, options))

    plain, both = found(model(), TopK()), found(Mirrored(model()), merging(TopK()))
    assert [len(one) for one in both] == [2] * len(pictures)
    for one, other in zip(plain, both, strict=True):
        assert one.labels.tolist() == other.labels.tolist() == [0, 1]
        assert_close(other.boxes, one.boxes, atol=1e-4, rtol=0)
        assert_close(other.scores, one.scores)


@pytest.mark.parametrize("name", distinct_recipes())
def test_views_of_the_mirror_image_change_places(name: str) -> None:
    """For every detector: what was the image is now the mirror image, in each picture's own place."""
    torch.manual_seed(0)
    built = load_recipe(name, num_classes=3, overrides=tiny_form(name)).build()
    network = Mirrored(built.model).eval()
    images = torch.rand(2, 3, 64, 96)
    images[1, :, :, 70:] = 114 / 255
    batch = Batch(images, [Targets.empty()] * 2, [Frame("", (64, 96)), Frame("", (64, 70))])
    widths = [96, 70] if network.uses_sizes else [96, 96]
    turned = torch.stack([
        torch.cat([image[..., :width].flip(-1), image[..., width:]], -1)
        for image, width in zip(images, widths, strict=True)
    ])  # fmt: skip
    with torch.no_grad():
        found, again = (predictions_of(network, x, batch) for x in (images, turned))
    points = found.logits.shape[1] // 2

    def exchanged(x: Tensor) -> Tensor:
        return torch.cat([x[:, points:], x[:, :points]], 1)

    assert_close(again.logits, exchanged(found.logits), atol=1e-5, rtol=1e-5)
    boxes = mirrored(exchanged(found.boxes), torch.tensor(widths)[:, None])
    assert_close(again.boxes, boxes, atol=1e-3, rtol=1e-5)
    (selection, _) = merging(built.postprocess)(found, conf=0.0, iou=0.5, max_dets=20)
    assert 0 < len(selection.scores) <= 20
    assert selection.boxes.isfinite().all()
    assert (selection.scores.diff() <= 0).all()


class Saying(nn.Module):
    """Says the same of every picture."""

    stride = 32

    def __init__(self, said: Predictions) -> None:
        super().__init__()
        self.said = said

    def forward(self, images: Tensor) -> Predictions:
        return self.said


def test_levels_and_centreness_of_both_views_count() -> None:
    """The best point of each level of each view enters; scores are products."""
    points = Predictions(
        torch.tensor([[[2.0], [1.0], [0.0]]]), torch.tensor([[[0.0, 0, 9, 9], [0, 0, 8, 9], [40, 0, 49, 9]]]),
        strides=torch.tensor([[8.0], [8], [16]]), centreness=torch.tensor([[[3.0], [3.0], [-1.0]]]),
    )  # fmt: skip
    found = Mirrored(Saying(points))(torch.zeros(1, 3, 32, 64))
    assert_close(found.scores()[0, 3:], points.scores()[0])
    nms = merging(NonMaximumSuppression(NmsConfig(per_level=1)))
    assert sorted(nms.candidates(found, conf=0.0)[0].boxes[:, 0].tolist()) == [0, 15, 40, 55]


def test_selection_of_both_views() -> None:
    """The thresholds of the weights, and consensus where nothing is said of it; soft suppression has none."""
    own = merging(NonMaximumSuppression(NmsConfig(conf=0.2, consensus=0.6, agnostic=True, per_level=9)))
    assert isinstance(own, NonMaximumSuppression)
    assert (own.consensus, own.agnostic, own.per_level, own.thresholds) == (
        0.6, True, 9, NonMaximumSuppression(NmsConfig(conf=0.2)).thresholds,
    )  # fmt: skip
    plain = NonMaximumSuppression()
    expected: list[tuple[Postprocess, dict[str, Any], float, bool]] = [
        (plain, {}, MERGED_IOU, False),
        (plain, {"consensus": 0.0}, 0.0, False),
        (NonMaximumSuppression(NmsConfig(soft=True)), {}, 0.0, False),
        (TopK(), {"agnostic": True}, MERGED_IOU, True),
        (TopK(consensus=0.8, agnostic=True), {}, 0.8, True),
        (TopK(consensus=0.8), {"consensus": 0.5}, 0.5, False),
    ]
    for postprocess, options, consensus, agnostic in expected:
        made = merging(postprocess, **options)
        assert isinstance(made, NonMaximumSuppression)
        assert (made.consensus, made.agnostic) == (consensus, agnostic)
    assert plain.consensus == 0


def test_numbers_of_the_picture_do_not_depend_on_the_batch() -> None:
    """As computed one by one: a padded picture beside a full one is mirrored in its own place."""
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (*size, 3), np.uint8) for size in [(64, 64), (64, 40), (30, 64)]]
    torch.manual_seed(0)
    built = load_recipe("deformable-detr-r50", num_classes=2, overrides=tiny_form("deformable-detr-r50")).build()
    for boxes in built.model.decoder.boxes:
        nn.init.normal_(boxes[-1].weight, std=0.1)
    for head in built.model.decoder.classes:
        nn.init.normal_(head.bias)
    size = InputSize(64, rect=False, fit=Fit(corner=True))
    detector = Deployed(Mirrored(built.model), merging(built.postprocess), NAMES, size, "detr", CPU)
    one, three = (
        list(predict(detector, pictures, PredictOptions(thresholds=WantedThresholds(conf=0.1), batch=batch)))
        for batch in (1, 3)
    )
    assert sum(len(found) for found in one) > 5
    for a, b in zip(one, three, strict=True):
        assert_close(a.boxes, b.boxes, atol=1e-3, rtol=0)
        assert_close(a.scores, b.scores, atol=1e-5, rtol=0)
