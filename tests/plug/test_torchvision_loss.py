"""Ranking losses in torchvision's dense detectors: hand-worked, equal to our own, and the library's loss when off."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from math import exp, log
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from torchvision.models.detection.fcos import FCOSHead
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision_hosts import DENSE, shaken, tiny

from alignrank.boxes import aligned_iou
from alignrank.contracts import Batch, Built, Frame, Targets
from alignrank.detectors import predictions_of
from alignrank.errors import InputError
from alignrank.losses import class_loss, rank_consistent_loss
from alignrank.plug.ranking import DenseLossConfig
from alignrank.plug.torchvision import compute_loss
from alignrank.plug.torchvision_loss import RankedLoss

FCOS, RETINANET = DENSE
EVERYTHING = {"loss.classification": "vfl", "loss.align": 0.3, "loss.rank": 0.4, "loss.rank_scope": "both"}
IMAGES = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
TRUTH = [
    {"boxes": torch.tensor([[8.0, 8.0, 40.0, 50.0]]), "labels": torch.tensor([2])},
    {"boxes": torch.tensor([[4.0, 10.0, 60.0, 60.0], [30.0, 5.0, 90.0, 44.0]]), "labels": torch.tensor([0, 0])},
]
EMPTY = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
HEADS: dict[str, Callable[[], Any]] = {FCOS: lambda: FCOSHead(32, 1, 2), RETINANET: lambda: RetinaNetHead(32, 1, 2)}
hosts = pytest.mark.parametrize("name", DENSE)


def built_of(name: str, **options: Any) -> Built:
    """With boxes that overlap objects, some more than others."""
    torch.manual_seed(0)
    built = shaken(tiny(name, **options).build())
    if name == FCOS:
        nn.init.constant_(built.model.host.head.regression_head.bbox_reg.bias, 2.0)
    built.model.host.transform._skip_resize = True
    return built


def model_of(name: str) -> Any:
    """The library's own object."""
    return built_of(name).model.host.train()


def said(model: Any, truth: list[dict[str, Tensor]] = TRUTH) -> dict[str, Tensor]:
    losses: dict[str, Tensor] = model(list(IMAGES), truth)
    return losses


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {key: value.grad for key, value in model.named_parameters() if value.grad is not None}


def config_of(options: dict[str, Any]) -> DenseLossConfig:
    return DenseLossConfig.parse({key.partition(".")[2]: value for key, value in options.items()}, where="test")


ANCHORS = torch.tensor([[0.0, 0, 32, 32], [4, 4, 36, 36], [50, 50, 82, 82], [60, 0, 92, 32]])
# Of IoU .8 and .6 with the first object, and .6 with the second; of none.
BOXES = torch.tensor([[0.0, 0, 32, 40], [0, 0, 24, 40], [50, 50, 74, 90], [60, 0, 80, 20]])
OBJECTS = [{"boxes": torch.tensor([[0.0, 0, 40, 40], [50, 50, 90, 90]]), "labels": torch.tensor([0, 0])}]
MATCHED = torch.tensor([0, 0, 1, -1])
LOGITS = torch.tensor([[0.0, -3], [0.5, -3], [0.25, -3], [-3, -3]])


def terms_of(
    name: str,
    logits: Tensor,
    options: dict[str, Any],
    *,
    boxes: Tensor = BOXES[None],
    truth: list[dict[str, Tensor]] = OBJECTS,
    matched: list[Tensor] | None = None,
    anchors: Tensor = ANCHORS,
    progress: float = 1.0,
) -> dict[str, Tensor]:
    """The losses of a head: logits [B,A,C], boxes [B,A,4] px, which are put in the library's form."""
    head = HEADS[name]()
    repeated = anchors.expand(len(boxes), -1, -1)
    outputs = {"cls_logits": logits}
    if name == FCOS:
        outputs["bbox_regression"] = head.box_coder.encode(repeated, boxes)
        outputs["bbox_ctrness"] = torch.full_like(logits[..., :1], 0.3)
    else:
        coder = head.regression_head.box_coder
        outputs["bbox_regression"] = coder.encode_single(boxes.flatten(0, 1), repeated.flatten(0, 1)).view_as(boxes)
    loss = RankedLoss(head, config_of(options), progress, alone=True)
    return loss(truth, outputs, list(repeated), [MATCHED] if matched is None else matched)


@hosts
@pytest.mark.parametrize(
    ("options", "progress"),
    [
        ({}, 1.0),
        ({"loss.rank_scope": "class", "loss.tau": 2.0}, 1.0),
        ({"loss.align": 1.0, "loss.rank": 1.0}, 0.0),  # their time has not come: our parts are in place
    ],
)
def test_off_is_the_library_s_to_the_bit(name: str, options: dict[str, Any], progress: float) -> None:
    theirs = model_of(name)
    ours = copy.deepcopy(theirs)
    ours.head.compute_loss = compute_loss(ours, **options)
    ours.head.compute_loss.progress = progress
    first, second = said(theirs), said(ours)
    assert list(first) == list(second)
    assert all(torch.equal(second[key], value) for key, value in first.items())
    sum(first.values()).backward()  # type: ignore[union-attr]
    sum(second.values()).backward()  # type: ignore[union-attr]
    expected, found = gradients(theirs), gradients(ours)
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[key], value) for key, value in expected.items())


@hosts
def test_varifocal_loss_worked(name: str) -> None:
    """All scores are 1/2. A positive weighs its IoU, a negative 3/4 of its score squared; log 2 is the cross-entropy
    with any target. FCOS divides by the positives of the batch. RetinaNet divides by those of an image, and leaves out
    what is between two thresholds: here the first place of the second image, with both its classes.
    """
    matched = [MATCHED, torch.tensor([-2, -1, -1, 0])]
    if name == FCOS:
        matched[1][0] = -1
    boxes = torch.stack([BOXES, BOXES])
    boxes[1, 3] = torch.tensor([60.0, 0, 80, 16])
    truth = [OBJECTS[0], {"boxes": torch.tensor([[60.0, 0, 80, 20]]), "labels": torch.tensor([1])}]
    found = terms_of(
        name, torch.zeros(2, 4, 2), {"loss.classification": "vfl"}, boxes=boxes, truth=truth, matched=matched
    )
    negative = 0.75 / 4
    first = 0.8 + 0.6 + 0.6 + 5 * negative
    expected = {
        FCOS: (first + 0.8 + 7 * negative) / 4,
        RETINANET: (first / 3 + 0.8 + 5 * negative) / 2,
    }[name]
    assert found["classification"].item() == pytest.approx(expected * log(2), rel=1e-5)


# The better box of the first object lies 1/2 behind the worse one, and 1/4 behind the one of the other object. It
# should be ahead of both by .8 - .6.
WITHIN, ACROSS = 0.2 + 0.5, 0.2 + 0.25


def list_alignment(logits: list[float], quality: list[float]) -> float:
    scores = [1 / (1 + exp(-z)) for z in logits]
    return -sum(q * log(s / sum(scores)) for q, s in zip(quality, scores, strict=True)) / sum(quality)


@hosts
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"loss.rank": 0.4}, {"rank": 0.4 * WITHIN}),
        ({"loss.rank": 1.0, "loss.rank_scope": "class"}, {"rank": ACROSS}),
        ({"loss.rank": 1.0, "loss.rank_scope": "both"}, {"rank": ((WITHIN + ACROSS) / 2 + ACROSS) / 2}),
        ({"loss.rank": 1.0, "loss.rank_scope": "class", "loss.rank_across": "best"}, {"rank": 0.0}),
        ({"loss.rank": 1.0, "loss.mu": 2.0}, {"rank": WITHIN + 0.2}),
        ({"loss.rank": 1.0, "loss.delta": 0.25}, {"rank": 0.0}),
        ({"loss.align": 0.5}, {"align": 0.5 * list_alignment([0, 0.5], [0.8, 0.6])}),
        (
            {"loss.align": 1.0, "loss.align_scope": "class"},
            {"align": list_alignment([0, 0.5, 0.25], [0.8, 0.6, 0.6])},
        ),
    ],
)
def test_ranking_worked(name: str, options: dict[str, Any], expected: dict[str, float]) -> None:
    found, plain = terms_of(name, LOGITS[None], options), terms_of(name, LOGITS[None], {})
    assert all(torch.equal(found[key], value) for key, value in plain.items())
    added = {key: value.item() for key, value in found.items() if key not in plain}
    assert added == pytest.approx(expected, rel=1e-5)


def test_ranking_fades_in() -> None:
    options: dict[str, Any] = {"loss.rank": 1.0, "loss.fade_start": 0.2, "loss.fade_end": 0.4}
    values = [terms_of(FCOS, LOGITS[None], options, progress=p).get("rank") for p in (0.1, 0.25, 0.4)]
    assert values[0] is None
    assert [value.item() for value in values[1:] if value is not None] == pytest.approx([0.25 * WITHIN, WITHIN])


def random_scene(num_anchors: int = 20) -> tuple[Tensor, Tensor, list[Tensor], Tensor]:
    """Logits [2,A,2], boxes [2,A,4] around the two objects, what is matched, and anchors [A,4]."""
    generator = torch.Generator().manual_seed(3)
    number = torch.arange(num_anchors) % 3
    around = torch.cat([OBJECTS[0]["boxes"], torch.tensor([[30.0, 30, 60, 60]])])[number]
    boxes = around + 3 * torch.randn(2, num_anchors, 4, generator=generator)
    matched = [torch.where(number < 2, number, -1), torch.where(number == 1, 1, -1)]
    return torch.randn(2, num_anchors, 2, generator=generator), boxes, matched, around + 1.0


@hosts
@pytest.mark.parametrize("scope", ["object", "class", "both"])
def test_terms_are_those_of_our_own_loss_functions(name: str, scope: Any) -> None:
    logits, boxes, matched, anchors = random_scene()
    truth = [OBJECTS[0], {"boxes": OBJECTS[0]["boxes"], "labels": torch.tensor([1, 0])}]
    options = EVERYTHING | {"loss.rank_scope": scope, "loss.align_scope": "object" if scope == "both" else "class"}
    found = terms_of(name, logits, options, boxes=boxes, truth=truth, matched=matched, anchors=anchors)
    quality = torch.zeros_like(logits)
    entries = []
    for image, (target, numbers) in enumerate(zip(truth, matched, strict=True)):
        for place, number in enumerate(numbers.tolist()):
            if number >= 0:
                label = int(target["labels"][number])
                iou = aligned_iou(boxes[image, place][None], target["boxes"][number][None])[0]
                quality[image, place, label] = iou
                entries.append((logits[image, place, label], iou, 10 * image + number, label, image))
    z, q, *numbers_of = zip(*entries, strict=True)
    number, labels, images = (torch.tensor(values) for values in numbers_of)
    expected = rank_consistent_loss(
        torch.stack(z), torch.stack(q), number,
        scope=scope, align_scope=options["loss.align_scope"], labels=labels, images=images,
    )  # fmt: skip
    assert_close(found["align"], 0.3 * expected.align)
    assert_close(found["rank"], 0.4 * expected.rank)
    positives = [int((numbers >= 0).sum()) for numbers in matched]
    losses = [class_loss("vfl", *pair) for pair in zip(logits, quality, strict=True)]
    if name == FCOS:
        assert_close(found["classification"], torch.stack(losses).sum() / sum(positives), rtol=1e-4, atol=1e-5)
    else:
        means = [loss / count for loss, count in zip(losses, positives, strict=True)]
        assert_close(found["classification"], torch.stack(means).mean(), rtol=1e-4, atol=1e-5)


@hosts
@pytest.mark.parametrize("scope", ["object", "both"])
def test_order_of_places_and_images_does_not_matter(name: str, scope: str) -> None:
    logits, boxes, matched, anchors = random_scene()
    truth = [*OBJECTS, {"boxes": OBJECTS[0]["boxes"], "labels": torch.tensor([1, 0])}]
    options = EVERYTHING | {"loss.rank_scope": scope}
    first = terms_of(name, logits, options, boxes=boxes, truth=truth, matched=matched, anchors=anchors)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(4))
    second = terms_of(
        name,
        logits[:, order].flip(0),
        options,
        boxes=boxes[:, order].flip(0),
        truth=truth[::-1],
        matched=[numbers[order] for numbers in matched[::-1]],
        anchors=anchors[order],
    )
    assert {"align", "rank"} < first.keys()
    assert_close(first, second)


@hosts
@pytest.mark.parametrize("truth", [TRUTH, [EMPTY, EMPTY], [TRUTH[1], EMPTY]], ids=["objects", "none", "one image"])
def test_all_parameters_learn(name: str, truth: list[dict[str, Tensor]]) -> None:
    """With everything on, as with the library's loss; without any object the ranking terms are 0."""
    theirs = model_of(name)
    ours = copy.deepcopy(theirs)
    ours.head.compute_loss = compute_loss(ours, **EVERYTHING)
    found, expected = said(ours, truth), said(theirs, truth)
    assert found.keys() - expected.keys() == {"align", "rank"}
    for key in expected.keys() - {"classification"}:
        assert torch.equal(found[key], expected[key]), f"{key} is the library's"
    # Without positives varifocal loss is focal loss, with the constants of both.
    assert torch.isclose(found["classification"], expected["classification"]) == (truth[0] is EMPTY)
    sum(found.values()).backward()  # type: ignore[union-attr]
    sum(expected.values()).backward()  # type: ignore[union-attr]
    assert gradients(ours).keys() == gradients(theirs).keys()
    assert all(value.isfinite().all() for value in gradients(ours).values())
    assert all(value.any() for key, value in gradients(ours).items() if "classification_head" in key)
    if truth[0] is EMPTY:
        assert not found["align"]
        assert not found["rank"]
    else:
        assert found["align"] > 0
        assert found["rank"] > 0


@hosts
@pytest.mark.parametrize(
    ("option", "term"),
    [("loss.classification", "classification"), ("loss.align", "align"), ("loss.rank", "rank")],
)
def test_each_term_has_a_gradient_that_is_right(name: str, option: str, term: str) -> None:
    """Compared with differences; boxes get none from terms about scores."""
    logits, boxes, matched, anchors = random_scene(6)
    logits, boxes = logits.double().requires_grad_(), boxes.double().requires_grad_()
    truth = [OBJECTS[0] | {"boxes": OBJECTS[0]["boxes"].double()}] * 2
    options: dict[str, Any] = {option: "vfl" if term == "classification" else 1.0}

    def value(x: Tensor) -> Tensor:
        return terms_of(name, x, options, boxes=boxes, truth=truth, matched=matched, anchors=anchors.double())[term]

    of_logits, of_boxes = torch.autograd.grad(value(logits), [logits, boxes], allow_unused=True)
    assert of_logits.any()
    assert of_boxes is None
    assert torch.autograd.gradcheck(value, logits, eps=1e-6, atol=1e-5)


@hosts
@pytest.mark.parametrize("unnamed", [[], [1]], ids=["all channels", "one is no class"])
def test_the_engine_s_loss_is_the_same(name: str, unnamed: list[int]) -> None:
    """Its recipe has the options by the same names; terms that are not divided by objects are summed as they are."""
    built = built_of(name, **EVERYTHING, **{"model.unnamed": unnamed})
    host = copy.deepcopy(built.model.host).train()
    targets = [Targets(image["boxes"], image["labels"]) for image in TRUTH]
    batch = Batch(IMAGES, targets, [Frame("", (64, 96)) for _ in targets])
    terms = built.criterion(predictions_of(built.model.train(), IMAGES, batch), targets)
    host.head.compute_loss = compute_loss(host, **EVERYTHING)
    channels = torch.tensor([0, 2, 3] if unnamed else [0, 1, 2])
    losses = said(host, [image | {"labels": channels[image["labels"]]} for image in TRUTH])
    for ours, theirs in {"cls": "classification", "align": "align", "rank": "rank"}.items():
        assert losses[theirs] > 0
        assert_close(terms.parts[ours], losses[theirs], rtol=1e-5, atol=1e-5)
    assert_close(terms.total, torch.stack(list(losses.values())).sum(), rtol=1e-5, atol=1e-5)
    early = built.criterion(predictions_of(built.model, IMAGES, batch), targets, progress=0.0)
    assert terms.parts.keys() - early.parts.keys() == {"align", "rank"}


@hosts
def test_half_precision_is_finite(name: str) -> None:
    model = model_of(name)
    model.head.compute_loss = compute_loss(model, **EVERYTHING)
    with torch.autocast("cpu", torch.bfloat16):
        found = said(model)
    assert {found[key].dtype for key in ("classification", "align", "rank")} == {torch.float32}
    sum(found.values()).backward()  # type: ignore[union-attr]
    assert all(value.isfinite().all() for value in gradients(model).values())


def test_copies_and_pickles_have_their_own_loss() -> None:
    model = model_of(FCOS)
    model.head.compute_loss = compute_loss(model, **EVERYTHING)
    duplicates: list[Callable[[Any], Any]] = [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))]
    for duplicate in duplicates:
        other = duplicate(model)
        assert other.head.compute_loss.head is other.head
        assert_close(said(other), said(model), rtol=0, atol=0)
        other.head.compute_loss.progress = 0.0
        assert "rank" not in said(other)
        assert "rank" in said(model)


def test_it_goes_out_again() -> None:
    """And other models see nothing of it; weights have the same names."""
    model = model_of(RETINANET)
    expected, names = said(copy.deepcopy(model)), list(model.state_dict())
    model.head.compute_loss = compute_loss(model, **EVERYTHING)
    assert list(model.state_dict()) == names
    assert_close(said(model_of(RETINANET)), expected, rtol=0, atol=0)
    assert not torch.equal(said(model)["classification"], expected["classification"])
    del model.head.compute_loss
    assert_close(said(model), expected, rtol=0, atol=0)


@pytest.mark.parametrize("option", [{"loss.rank": 1.0}, {"loss.align": 1.0}, {"loss.classification": "vfl"}])
def test_two_stages_have_none(option: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="loss: fasterrcnn_resnet50_fpn_v2 trains with the library's losses alone"):
        tiny("fasterrcnn_resnet50_fpn_v2", **option)


def test_models_that_do_not_go() -> None:
    for model in (tiny("fasterrcnn_resnet50_fpn_v2").meta_network().host, nn.Linear(2, 2), None):
        with pytest.raises(InputError, match=f"torchvision's FCOS and RetinaNet, got '{type(model).__name__}'"):
            compute_loss(model)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss.ranks": 1.0}, r"compute_loss: unknown option 'loss\.ranks'"),
        ({"loss.classification": "qfl"}, r"compute_loss: loss\.classification: "),
        ({"loss": "vfl"}, r"compute_loss: 'loss' is not section\.field"),
        ({"loss.rank": -1.0}, r"compute_loss: loss\.rank: "),
    ],
)
def test_options_that_do_not_go(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        compute_loss(tiny(FCOS).meta_network().host, **options)
