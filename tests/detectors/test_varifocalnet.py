"""VarifocalNet: the head on maps made by hand, and the criterion worked by hand on made-up predictions."""

from __future__ import annotations

from math import e, exp, log
from typing import Any

import pytest
import torch
from tiny_forms import tiny_form
from torch import Tensor, nn
from torch.nn.functional import softplus
from torch.testing import assert_close

from alignrank.assign.fcos import centreness_target
from alignrank.contracts import Predictions, Targets
from alignrank.detectors.varifocalnet import STRIDES, AssignConfig, Head, HeadConfig, LossConfig, VarifocalNetConfig
from alignrank.detectors.varifocalnet_criterion import VarifocalNetCriterion
from alignrank.errors import InputError
from alignrank.weights.recipe import build_detector


def boxes(*rows: list[float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float32).reshape(-1, 4)


def criterion(**sections: Any) -> VarifocalNetCriterion:
    """Two classes; ATSS that takes for an object the one nearest point."""
    return VarifocalNetCriterion(VarifocalNetConfig(num_classes=2, **{"assign": AssignConfig(topk=1), **sections}))


# Two objects, each with a point of stride 8 near its centre. The third point is in the second, farther from its centre.
POINTS = torch.tensor([[8.0, 8.0], [40.0, 8.0], [48.0, 20.0]])
GT = boxes([3, 3, 13, 13], [30, 3, 50, 23])
TARGETS = Targets(GT, torch.tensor([1, 0]))
# Lower parts of them cut off, so that 1 - GIoU = 1 - IoU: IoU 5/10 and 15/20, after the refinement 8/10 and 18/20.
FIRST = boxes([3, 3, 13, 8], [30, 3, 50, 18], [190, 190, 210, 210])
REFINED = boxes([3, 3, 13, 11], [30, 3, 50, 21], [190, 190, 210, 210])


def made(*, first: Tensor | None = FIRST, refined: Tensor = REFINED, logits: Tensor | None = None) -> Predictions:
    """One image; logits are 0, scores 1/2."""
    logits, strides = torch.zeros(1, 3, 2) if logits is None else logits[None], torch.full((3, 1), 8.0)
    before = {} if first is None else {"first": Predictions(logits, first[None], POINTS, strides)}
    return Predictions(logits, refined[None], POINTS, strides, auxiliary=before)


def parts(found: Any) -> dict[str, float]:
    assert found.total.item() == pytest.approx(sum(part.item() for part in found.parts.values()))
    return {name: part.item() for name, part in found.parts.items()}


def test_three_normalisers_worked() -> None:
    """First boxes: (.5 * .5 + .75 * .25) / (.5 + .75); refined: (.8 * .2 + .9 * .1) / (.8 + .9).

    Classes: at score 1/2 cross entropy is ln 2 whatever the target. The positives weigh .8 and .9, each of the other
    four entries .75 / 4; divided by 2 positives. The weights of the three are 1.5, 2 and 1.
    """
    found = parts(criterion()(made(), [TARGETS]))
    expected = {"box": 1.5 * 0.4375 / 1.25, "refine": 2 * 0.25 / 1.7, "cls": (1.7 + 0.75) * log(2) / 2}
    assert found == pytest.approx(expected, abs=1e-5)


def test_weights_of_the_parts() -> None:
    loss = LossConfig(box=3.0, refine=5.0, cls=7.0, iou_weighted=False)
    found = parts(criterion(loss=loss)(made(), [TARGETS]))
    expected = {"box": 3 * 0.4375 / 1.25, "refine": 5 * 0.25 / 1.7, "cls": 7 * (2 + 0.75) * log(2) / 2}
    assert found == pytest.approx(expected, abs=1e-5)


def test_normalisers_are_at_least_one() -> None:
    """One object, IoU .5 and then .8: what is below 1 does not divide. Five negative entries."""
    found = parts(criterion()(made(), [Targets(GT[:1], torch.tensor([1]))]))
    expected = {"box": 1.5 * 0.5 * 0.5, "refine": 2 * 0.8 * 0.2, "cls": (0.8 + 5 * 0.75 / 4) * log(2)}
    assert found == pytest.approx(expected, abs=1e-5)


def test_normalisers_are_of_all_images() -> None:
    """The two objects in an image each: the same box terms, ten negative entries, and still two positives."""
    one = made()
    logits = one.logits.expand(2, 3, 2)
    before = Predictions(logits, FIRST.expand(2, 3, 4), POINTS, one.strides)
    both = Predictions(logits, one.boxes.expand(2, 3, 4), POINTS, one.strides, auxiliary={"first": before})
    found = parts(criterion()(both, [Targets(GT[:1], TARGETS.labels[:1]), Targets(GT[1:], TARGETS.labels[1:])]))
    expected = {"box": 1.5 * 0.4375 / 1.25, "refine": 2 * 0.25 / 1.7, "cls": (1.7 + 10 * 0.75 / 4) * log(2) / 2}
    assert found == pytest.approx(expected, abs=1e-5)


def test_class_target_is_the_iou_of_the_refined_box() -> None:
    """Cross entropy has its minimum over a positive's score at its target: .8 for class 1 and .9 for class 0.

    The gradient is q * (score - q) / 2 there, and nowhere else 0. It does not go to the boxes.
    """
    logits = torch.zeros(3, 2)
    logits[0, 1], logits[1, 0] = log(0.8 / 0.2), log(0.9 / 0.1)
    logits.requires_grad_()
    refined = REFINED.clone().requires_grad_()
    loss = criterion()(made(refined=refined, logits=logits), [TARGETS]).parts["cls"]
    gradient, none = torch.autograd.grad(loss, [logits, refined], allow_unused=True)
    assert gradient[[0, 1], [1, 0]].abs().max() < 1e-6
    assert gradient[[0, 1, 2, 2], [0, 1, 0, 1]].min() > 0.05
    assert none is None
    worse = made(refined=FIRST, logits=logits)
    (gradient,) = torch.autograd.grad(criterion()(worse, [TARGETS]).parts["cls"], logits)
    assert gradient[[0, 1], [1, 0]].tolist() == pytest.approx([0.5 * (0.8 - 0.5) / 2, 0.75 * (0.9 - 0.75) / 2])


@pytest.mark.parametrize(("progress", "targets"), [(0.0, (1, 1)), (0.05, (0.9, 0.9)), (0.07, (0.86, 0.9))])
def test_floor_of_targets(progress: float, targets: tuple[float, float]) -> None:
    """From 1 to 0 in half of the training: 1, .9 and .86. Refined boxes have IoU .8 and .9; the higher one counts.

    The gradient at score 1/2 is q * (1/2 - q) over 2 positives: the target is the weight, too. Boxes do not change.
    """
    logits = torch.zeros(3, 2, requires_grad=True)
    held = criterion(loss=LossConfig(iou_floor=1.0))(made(logits=logits), [TARGETS], progress=progress)
    (gradient,) = torch.autograd.grad(held.parts["cls"], logits)
    assert gradient[[0, 1], [1, 0]].tolist() == pytest.approx([q * (0.5 - q) / 2 for q in targets])
    assert held.parts["cls"].item() == pytest.approx((sum(targets) + 0.75) * log(2) / 2, abs=1e-5)
    plain = criterion()(made(), [TARGETS])
    assert all(torch.equal(held.parts[name], plain.parts[name]) for name in ("box", "refine"))
    unweighted = LossConfig(iou_floor=1.0, iou_weighted=False)
    (gradient,) = torch.autograd.grad(
        criterion(loss=unweighted)(made(logits=logits), [TARGETS], progress=progress).parts["cls"], logits
    )
    assert gradient[[0, 1], [1, 0]].tolist() == pytest.approx([(0.5 - q) / 2 for q in targets])


@pytest.mark.parametrize(
    ("loss", "progress"),
    [
        (LossConfig(iou_floor=0.9, iou_floor_end=0.25), 0.25),
        (LossConfig(iou_floor=0.9, iou_floor_end=0.25), 0.7),
        (LossConfig(iou_floor=0.9, iou_floor_end=1.0), 1.0),
        (LossConfig(iou_floor_end=0.25), 0.0),
        (LossConfig(box_weight="iou"), 0.0),
    ],
)
def test_options_that_are_off_change_nothing(loss: LossConfig, progress: float) -> None:
    """To the bit: a floor that has ended, none at all, and the weights that are the default without centreness."""
    logits = torch.randn(3, 2)
    plain = criterion()(made(logits=logits), [TARGETS]).parts
    found = criterion(loss=loss)(made(logits=logits), [TARGETS], progress=progress).parts
    assert {name: part.item() for name, part in found.items()} == {name: part.item() for name, part in plain.items()}


def test_floor_is_over_where_no_progress_is_given() -> None:
    """The validation loss is the same at every epoch."""
    held = criterion(loss=LossConfig(iou_floor=1.0, iou_floor_end=1.0))
    assert torch.equal(held(made(), [TARGETS]).total, criterion()(made(), [TARGETS]).total)


def test_class_loss_over_the_sum_of_targets() -> None:
    """.8 + .9 in place of 2; with a floor, the targets that it made; one object of .8 alone divides by 1."""
    loss = LossConfig(normalizer="targets")
    assert parts(criterion(loss=loss)(made(), [TARGETS]))["cls"] == pytest.approx((1.7 + 0.75) * log(2) / 1.7)
    held = criterion(loss=LossConfig(normalizer="targets", iou_floor=1.0))(made(), [TARGETS], progress=0.0)
    assert parts(held)["cls"] == pytest.approx((2 + 0.75) * log(2) / 2)
    one = parts(criterion(loss=loss)(made(), [Targets(GT[:1], torch.tensor([1]))]))
    assert one["cls"] == pytest.approx((0.8 + 5 * 0.75 / 4) * log(2))


def test_boxes_weighed_by_centreness() -> None:
    """From (8,8) 5 px left, right, up and down: 1; from (40,8) 10 px left and right, 5 up and 15 down: sqrt(1/3).

    1 - IoU is .5 and .25 at first, .2 and .1 after the refinement. The class targets are IoUs as before.
    """
    second = (1 / 3) ** 0.5
    found = parts(criterion(loss=LossConfig(box_weight="centreness"))(made(), [TARGETS]))
    expected = {
        "box": 1.5 * (0.5 + second * 0.25) / (1 + second),
        "refine": 2 * (0.2 + second * 0.1) / (1 + second),
        "cls": (1.7 + 0.75) * log(2) / 2,
    }
    assert found == pytest.approx(expected, abs=1e-5)


def test_boxes_of_atss_weighed_by_iou() -> None:
    """As without centreness; the centreness is learned all the same."""
    predictions = made(first=None, refined=FIRST)
    predictions.centreness = torch.zeros(1, 3, 1)
    loss = LossConfig(classification="focal", box_weight="iou")
    found = parts(criterion(loss=loss)(predictions, [TARGETS]))
    assert found["box"] == pytest.approx(1.5 * 0.4375 / 1.25, abs=1e-5)
    assert found["centreness"] == pytest.approx(log(2), abs=1e-5)


@pytest.mark.parametrize("options", [{"iou_floor": 0.5}, {"normalizer": "targets"}])
@pytest.mark.parametrize("kind", ["focal", "ranksort"])
def test_targets_that_no_loss_learns(options: dict[str, Any], kind: str) -> None:
    """An experiment that would change nothing is refused."""
    values = {"classification": kind, **options}
    with pytest.raises(InputError, match=r"^here: iou_floor and normalizer=targets need classification=vfl or qfl"):
        LossConfig.parse(values, where="here")
    LossConfig.parse({**values, "classification": "qfl"}, where="here")


def test_box_that_misses_its_object() -> None:
    """It weighs a millionth in the box terms, and is still a positive: its target is about 0."""
    far = boxes([100, 100, 110, 110], [30, 3, 50, 18], [190, 190, 210, 210])
    found = parts(criterion()(made(first=far, refined=far), [TARGETS]))
    expected = {"box": 1.5 * 0.75 * 0.25, "refine": 2 * 0.75 * 0.25, "cls": (0.75 + 0.75) * log(2) / 2}
    assert found == pytest.approx(expected, abs=1e-5)


def test_without_refinement() -> None:
    """ATSS with varifocal loss: the only boxes are the first ones, and the class target is theirs."""
    found = parts(criterion()(made(first=None, refined=FIRST), [TARGETS]))
    assert found == pytest.approx({"box": 1.5 * 0.4375 / 1.25, "cls": (1.25 + 0.75) * log(2) / 2}, abs=1e-5)


def test_centreness_worked() -> None:
    """FCOS. From (8,8) 4 px left, right and up, 16 down: sqrt(4/4 * 4/16) = .5; (40,8) is the second's centre: 1.

    Boxes are weighted by that: (.5 * .5 + 1 * .2) / 1.5. Centreness: softplus(x) - target * x over 2 positives.
    Focal loss at score 1/2: a positive .25 / 4 * ln 2, each of the four others .75 / 4 * ln 2.
    """
    gt = boxes([4, 4, 12, 24], [30, 0, 50, 16])
    predictions = made(first=None, refined=boxes([4, 4, 12, 14], [30, 0, 50, 12.8], [190, 190, 210, 210]))
    predictions.centreness = torch.tensor([[[1.0], [-2.0], [5.0]]])
    assert centreness_target(POINTS[:2], gt).tolist() == pytest.approx([0.5, 1])
    fcos = criterion(assign=AssignConfig(kind="fcos"), loss=LossConfig(classification="focal", box=1.0))
    found = parts(fcos(predictions, [Targets(gt, torch.tensor([1, 0]))]))
    crossed = softplus(torch.tensor([1.0, -2.0])).sum().item() - 0.5 * 1 - 1 * -2
    expected = {"box": 0.45 / 1.5, "centreness": crossed / 2, "cls": (2 * 0.25 + 4 * 0.75) / 4 * log(2) / 2}
    assert found == pytest.approx(expected, abs=1e-5)


def test_centreness_of_points_at_edges() -> None:
    """On an edge and outside it is 0; finite for a box without area."""
    points = torch.tensor([[0.0, 5.0], [-3.0, 5.0], [5.0, 5.0], [2.0, 5.0]])
    gt = boxes([0, 0, 10, 10], [0, 0, 10, 10], [5, 5, 5, 5], [0, 0, 10, 10])
    assert centreness_target(points, gt).tolist() == pytest.approx([0, 0, 0, 0.5])


@pytest.mark.parametrize("level", range(3))
def test_anchors_of_atss(level: int) -> None:
    """Three levels with one point: anchors of 64, 128 and 256 px. An object of a level's size, centred on it.

    It overlaps that anchor by 1, its neighbours by 1/4 and 1/16 or both by 1/4: mean + std is .93 in each case.
    """
    half = 32.0 * 2**level
    points, strides = torch.full((3, 2), 300.0), torch.tensor([[8.0], [16.0], [32.0]])
    predictions = Predictions(torch.zeros(1, 3, 2), torch.zeros(1, 3, 4), points, strides)
    gt = boxes([300 - half, 300 - half, 300 + half, 300 + half])
    _, point, labels, assigned = criterion().positives(predictions, [Targets(gt, torch.tensor([1]))])
    assert (point.tolist(), labels.tolist(), assigned.tolist()) == ([level], [1], gt.tolist())


def tiny(name: str = "vfnet-r50", **overrides: Any) -> Any:
    return build_detector(name, 3, **{**tiny_form(name), **overrides})


TARGET_OPTIONS = {"loss.iou_floor": 1.0, "loss.normalizer": "targets", "loss.box_weight": "centreness"}


@pytest.mark.parametrize(
    ("name", "options"),
    [("vfnet-r50", {}), ("atss-r50", {}), ("fcos-r50", {}), ("vfnet-r50", TARGET_OPTIONS)],
    ids=["vfnet", "atss", "fcos", "vfnet with options"],
)
def test_no_objects(name: str, options: dict[str, Any]) -> None:
    """Terms of boxes are 0, the class loss is not; gradients are finite. One image with an object is enough for all."""
    built = tiny(name, **options)
    predictions = built.model(torch.rand(2, 3, 64, 64))
    found = built.criterion(predictions, [Targets.empty(), Targets.empty()], progress=0.0)
    found.total.backward()
    assert {part.item() for key, part in found.parts.items() if key != "cls"} == {0.0}
    assert 0 < found.parts["cls"].item() < 100
    assert all(p.grad.isfinite().all() for p in built.model.parameters() if p.grad is not None)
    one = built.criterion(predictions, [Targets(boxes([5, 5, 50, 60]), torch.tensor([2])), Targets.empty()])
    assert all(part > 0 for part in parts(one).values())


@pytest.mark.parametrize("name", ["vfnet-r50", "fcos-r50"])
def test_order_of_objects_is_free(name: str) -> None:
    built = tiny(name)
    predictions = built.model(torch.rand(2, 3, 64, 64))
    corner = torch.rand(2, 6, 2) * 30
    gt, labels = torch.cat([corner, corner + 10 + torch.rand(2, 6, 2) * 24], 2), torch.randint(0, 3, (2, 6))

    def loss(gt: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return built.criterion(predictions, [Targets(*pair) for pair in zip(gt, labels, strict=True)]).parts

    order, found = torch.randperm(6), loss(gt, labels)
    assert_close(loss(gt[:, order], labels[:, order]), found)
    assert (loss(gt, labels[:, order])["cls"] - found["cls"]).abs() > 1e-6


def ramp_head() -> tuple[Head, list[Tensor]]:
    """One channel and no towers; distances exp(0); the refinement is exp(relu(the tap at the box's left side)) for the
    left side and 1 for the others. Its raw first distances are put into the list.
    """
    head = Head(1, 2, HeadConfig(groups=1, convs=1), levels=1)
    head.box_tower = head.box_conv = nn.Identity()
    assert head.box_star is not None
    assert head.refine is not None
    for parameter in (head.box.weight, head.box_star.weight, head.refine.weight):
        nn.init.zeros_(parameter)
    with torch.no_grad():
        head.box_star.weight[0, 0, 1, 0] = 1
        head.refine.weight[0, 0, 1, 1] = 1
    raw: list[Tensor] = []
    head.box.register_forward_hook(lambda _, __, output: raw.append(output))
    return head, raw


def test_refinement_does_not_train_the_first_box() -> None:
    """The map is .1 per column; stride 8, a distance of exp(0) is 12 px: at column 2 the left side reads column .5.

    The refined distance is 12 * exp(.05). By the raw first one it changes through the place that is read alone: 12 px
    per unit, 1/8 column per px, -.1 per column, and that at a tenth: -.015 of itself. Other sides and cells: 0.
    """
    head, raw = ramp_head()
    x = (torch.arange(5) * 0.1).expand(1, 1, 5, 5)
    _, first, refined, _ = head(x, 0, 8, 12.0)
    assert first[0, :, 2, 2].tolist() == pytest.approx([12] * 4)
    assert refined[0, :, 2, 2].tolist() == pytest.approx([12 * exp(0.05), 12, 12, 12])
    (gradient,) = torch.autograd.grad(refined[0, :, 2, 2].sum(), raw[0], retain_graph=True)
    expected = torch.zeros(1, 4, 5, 5)
    expected[0, 0, 2, 2] = 12 * exp(0.05) * 12 / 8 * -0.1 * 0.1
    assert_close(gradient, expected)
    (gradient,) = torch.autograd.grad(first[0, :, 2, 2].sum(), raw[0])
    assert gradient[0, :, 2, 2].tolist() == pytest.approx([12] * 4)
    # The features at the box's places go through a ReLU.
    assert head(-x, 0, 8, 12.0)[2][0, :, 2, 2].tolist() == pytest.approx([12] * 4)


def test_refined_is_a_factor_of_first() -> None:
    """A raw refinement of ln 2 doubles all distances, at any level; first boxes exist in training alone."""
    model = tiny().model
    nn.init.zeros_(model.head.refine.weight)
    nn.init.constant_(model.head.refine.bias, log(2))
    predictions = model(torch.rand(1, 3, 64, 64))
    around = predictions.points.repeat(1, 2)
    assert_close(predictions.boxes - around, 2 * (predictions.auxiliary["first"].boxes - around), rtol=1e-4, atol=1e-3)
    with torch.no_grad():
        model.head.refine_scale[4] = 2
        coarsest = model(torch.rand(1, 3, 64, 64))
    before = coarsest.auxiliary["first"].boxes
    assert_close((coarsest.boxes - around)[:, -1], 4 * (before - around)[:, -1], rtol=1e-4, atol=1e-3)
    assert model.eval()(torch.rand(1, 3, 64, 64)).auxiliary == {}


def test_without_refinement_there_are_no_first_boxes() -> None:
    for overrides in ({"head.refine": False}, {"head.refine": False, "head.star": False}):
        built = tiny(**overrides)
        predictions = built.model(torch.rand(1, 3, 64, 64))
        assert predictions.auxiliary == {}
        assert predictions.centreness is None
        found = built.criterion(predictions, [Targets(boxes([5, 5, 50, 60]), torch.tensor([2]))])
        assert set(found.parts) == {"box", "cls"}
        found.parts["box"].backward()
        assert built.model.head.box.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(("unit", "strides"), [("reach", 8), ("stride", 1)])
def test_unit_of_distances(unit: str, strides: int) -> None:
    """Raw distances of 0 are 64, 128, 256, 512, 1024 px, 8 strides each, or one stride; others are multiplied by their
    level's scale, and no exponent is above 5.
    """
    model = tiny(**{"head.distances": unit, "head.refine": False}).model.eval()
    nn.init.zeros_(model.head.box.weight)
    for raw, scale, factor in [(0.0, 1.0, 1.0), (1.0, 1.0, e), (1.0, -2.0, e**-2), (50.0, 1.0, e**5)]:
        with torch.no_grad():
            nn.init.constant_(model.head.box.bias, raw)
            model.head.scale[1] = scale
            found = model(torch.rand(1, 3, 64, 64))
        level = found.strides[:, 0] == 16
        expected = torch.where(level[:, None], factor, exp(min(raw, 5))) * strides * found.strides
        assert_close(found.boxes[0], torch.cat([found.points - expected, found.points + expected], 1))
        assert found.strides.unique().tolist() == list(STRIDES)


def test_points_of_cells() -> None:
    """ATSS looks from the cells' corners, FCOS from their middles."""
    for name, first in [("vfnet-r50", [0, 0]), ("atss-r50", [0, 0]), ("fcos-r50", [4, 4])]:
        points = tiny(name).model.eval()(torch.rand(1, 3, 64, 64)).points
        assert (points[0].tolist(), len(points)) == (first, 64 + 16 + 4 + 1 + 1)


def test_centreness_multiplies_the_score() -> None:
    """Score 1/2 and a centreness of 3/4 (logit ln 3), for all classes of the point: 3/8. It decides the order."""
    logits = torch.tensor([[[0.0, -log(3)], [0.0, 0.0]]])
    predictions = Predictions(logits, boxes([0, 0, 9, 9], [50, 50, 60, 60])[None])
    assert predictions.scores()[0].flatten().tolist() == pytest.approx([0.5, 0.25, 0.5, 0.5])
    predictions.centreness = torch.tensor([[[log(3)], [-log(3)]]])
    assert predictions.scores()[0].flatten().tolist() == pytest.approx([0.375, 0.1875, 0.125, 0.125])
    built = tiny("fcos-r50")
    (selection,) = built.postprocess(predictions, conf=0.15, iou=0.6, max_dets=10)
    assert selection.scores.tolist() == pytest.approx([0.375, 0.1875])
    found = built.model.eval()(torch.rand(1, 3, 64, 64))
    assert found.centreness.shape == (1, 86, 1)
    assert_close(found.scores(), found.logits.sigmoid() * found.centreness.sigmoid())
