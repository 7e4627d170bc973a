"""Ranking losses in transformers' detectors: hand-worked, equal to our own, and the library's loss when off."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from math import exp, log
from typing import Any

import pytest
import torch
import transformers
from published_hosts import RECIPES, shake
from tiny_forms import HOSTS, tiny_host
from torch import Tensor
from torch.testing import assert_close

from alignrank.boxes import cxcywh_to_xyxy
from alignrank.contracts import Batch, Frame, Predictions, Targets
from alignrank.detectors import predictions_of
from alignrank.detectors.set_criterion import SetCriterion
from alignrank.errors import InputError, TrainingError
from alignrank.plug.ranking import RankingConfig
from alignrank.plug.transformers import loss_function
from alignrank.plug.transformers_loss import CRITERIA, RankedLoss
from alignrank.plug.transformers_models import ARCHITECTURES, library_config, library_loss
from alignrank.weights.recipe import load_recipe

EVERYTHING = {"rank.loss": "gcl", "rank.matching_cost": True, "loss.align": 0.3, "loss.rank": 0.4}
IMAGES = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
LABELS = [
    {"class_labels": torch.tensor([2]), "boxes": torch.tensor([[0.25, 0.45, 0.33, 0.66]])},
    {"class_labels": torch.tensor([0, 0]), "boxes": torch.tensor([[0.3, 0.5, 0.6, 0.8], [0.6, 0.4, 0.6, 0.6]])},
]
NOTHING = [{"class_labels": torch.zeros(0, dtype=torch.int64), "boxes": torch.zeros(0, 4)}] * 2
hosts = pytest.mark.parametrize("name", CRITERIA)


def tiny(name: str, **changes: Any) -> Any:
    """The library's own object."""
    torch.manual_seed(0)
    config = library_config(name, HOSTS[name] | changes, 3)
    model = getattr(transformers, ARCHITECTURES[name].model)(config).train()
    shake(model)
    return model


def said(model: Any, labels: list[dict[str, Tensor]] = LABELS) -> Any:
    torch.manual_seed(5)  # of the noise of denoising queries
    return model(pixel_values=IMAGES, labels=labels)


def terms_of(name: str, logits: Tensor, boxes: Tensor, labels: Any, progress: float = 1.0, **options: Any) -> Any:
    """The terms of one layer without any other: logits [B,Q,C], boxes [B,Q,4]."""
    config = library_config(name, HOSTS[name] | {"auxiliary_loss": False}, logits.shape[-1])
    sections: dict[str, dict[str, Any]] = {"rank": {}, "loss": {}}
    for key, value in options.items():
        section, _, field = key.partition(".")
        sections[section][field] = value
    loss = RankedLoss(name, RankingConfig.parse(sections, where="test"), progress, alone=True)
    total, terms, _ = loss(logits, labels, logits.device, boxes, config)
    return total, terms


def gradients(model: Any) -> dict[str, Tensor]:
    return {key: value.grad for key, value in model.named_parameters() if value.grad is not None}


@hosts
@pytest.mark.parametrize(
    ("options", "progress"),
    [
        ({}, 1.0),
        ({"loss.rank_scope": "class", "rank.target": "iou"}, 1.0),
        ({"rank.matching_cost": True, "loss.rank": 1.0}, 0.0),  # its time has not come: our parts are in place
    ],
)
def test_off_is_the_library_s_to_the_bit(name: str, options: dict[str, Any], progress: float) -> None:
    theirs, ours = tiny(name), tiny(name)
    ours.loss_function = loss_function(ours, **options)
    ours.loss_function.progress = progress
    first, second = said(theirs), said(ours)
    assert first.loss_dict.keys() == second.loss_dict.keys()
    assert torch.equal(first.loss, second.loss)
    first.loss.backward()
    second.loss.backward()
    expected, found = gradients(theirs), gradients(ours)
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[key], value) for key, value in expected.items())


@hosts
@pytest.mark.parametrize(
    ("options", "target"), [({"rank.target": "giou"}, 0.75), ({"rank.target": "iou", "rank.target_power": 2.0}, 0.25)]
)
def test_giou_aware_loss_worked(name: str, options: dict[str, Any], target: float) -> None:
    """The left half of the object: IoU and GIoU are 1/2, which gives 3/4 (or 1/4). All scores are 1/2."""
    boxes = torch.tensor([[[0.2, 0.5, 0.2, 0.4], [0.8, 0.8, 0.1, 0.1]]])
    labels = [{"class_labels": torch.tensor([1]), "boxes": torch.tensor([[0.3, 0.5, 0.4, 0.4]])}]
    _, terms = terms_of(name, torch.zeros(1, 2, 3), boxes, labels, **{"rank.loss": "gcl"}, **options)
    positive, negatives = 0.25 * (target - 0.5) ** 2 * log(2), 5 * 0.75 * 0.5**2 * log(2)
    assert terms[CRITERIA[name].term].item() == pytest.approx(positive + negatives, rel=1e-5)


def scene() -> tuple[Tensor, Tensor, list[dict[str, Tensor]]]:
    """Two objects of class 0 with IoUs .8 and .6 to their queries, and a duplicate of the first one with .6."""
    logits = torch.full((1, 4, 2), -3.0)
    logits[0, :, 0] = torch.tensor([0.0, 0.5, 0.25, -3.0])
    boxes = torch.tensor(
        [[[0.16, 0.2, 0.32, 0.4], [0.12, 0.2, 0.24, 0.4], [0.62, 0.7, 0.24, 0.4], [0.9, 0.1, 0.1, 0.1]]]
    )
    gt = torch.tensor([[0.2, 0.2, 0.4, 0.4], [0.7, 0.7, 0.4, 0.4]])
    return logits.requires_grad_(), boxes, [{"class_labels": torch.tensor([0, 0]), "boxes": gt}]


# The matched query lies 1/2 behind its duplicate and should be ahead by .8 - .6; of the other object it is 1/4 behind.
WITHIN, ACROSS = 0.2 + 0.5, 0.2 + 0.25
SCORES = {z: 1 / (1 + exp(-z)) for z in (0.0, 0.5, 0.25)}


def list_alignment(other: float) -> float:
    """Of two queries with .8 and .6, whose logits are 0 and `other`."""
    total = SCORES[0.0] + SCORES[other]
    return -(0.8 * log(SCORES[0.0] / total) + 0.6 * log(SCORES[other] / total)) / 1.4


@hosts
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"loss.rank": 0.4}, {"loss_rank": 0.4 * (WITHIN + ACROSS) / 2}),
        ({"loss.rank": 0.4, "loss.rank_scope": "object"}, {"loss_rank": 0.4 * WITHIN}),
        ({"loss.rank": 1.0, "loss.rank_scope": "object", "loss.o2o_pairs": "all"}, {"loss_rank": WITHIN}),
        ({"loss.rank": 1.0, "loss.rank_scope": "object", "loss.candidate_iou": 0.7}, {"loss_rank": 0.0}),
        ({"loss.rank": 1.0, "loss.rank_scope": "class"}, {"loss_rank": ACROSS}),
        ({"loss.align": 0.5}, {"loss_align": 0.5 * list_alignment(0.25)}),
        ({"loss.align": 1.0, "loss.align_scope": "object"}, {"loss_align": list_alignment(0.5)}),
    ],
)
def test_ranking_worked(name: str, options: dict[str, Any], expected: dict[str, float]) -> None:
    logits, boxes, labels = scene()
    total, terms = terms_of(name, logits, boxes, labels, **options)
    plain, of_library = terms_of(name, logits, boxes, labels)
    assert {key: value.item() for key, value in terms.items() if key not in of_library} == pytest.approx(
        expected, rel=1e-5
    )
    assert (total - plain).item() == pytest.approx(sum(expected.values()), rel=1e-4)
    assert all(torch.equal(terms[key], value) for key, value in of_library.items())


def test_ranking_fades_in() -> None:
    logits, boxes, labels = scene()
    options: dict[str, Any] = {"loss.rank": 1.0, "loss.fade_start": 0.2, "loss.fade_end": 0.4}
    values = [terms_of("rt_detr", logits, boxes, labels, p, **options)[1].get("loss_rank") for p in (0.1, 0.25, 0.4)]
    assert values[0] is None
    assert [value.item() for value in values[1:]] == pytest.approx([0.25 * 0.575, 0.575])


def test_a_duplicate_learns_to_score_less() -> None:
    """And the matched query more, by as much; nothing else moves within an object."""
    logits, boxes, labels = scene()
    options: dict[str, Any] = {"loss.rank": 1.0, "loss.rank_scope": "object"}
    (gradient,) = torch.autograd.grad(terms_of("rt_detr", logits, boxes, labels, **options)[1]["loss_rank"], logits)
    assert gradient[0, :, 0].tolist() == pytest.approx([-1, 1, 0, 0])
    assert not gradient[..., 1].any()


def random_layer(num_queries: int = 30) -> tuple[Tensor, Tensor, list[dict[str, Tensor]]]:
    generator = torch.Generator().manual_seed(3)
    labels, boxes = [], []
    for image in LABELS:
        around = image["boxes"][torch.arange(num_queries) % len(image["boxes"])]
        boxes.append((around + 0.1 * torch.randn(num_queries, 4, generator=generator)).clamp(0.02, 0.98))
        labels.append(image)
    return torch.randn(2, num_queries, 3, generator=generator), torch.stack(boxes), labels


@pytest.mark.parametrize("name", ["rt_detr", "d_fine"])
@pytest.mark.parametrize("overlap", ["iou", "giou"])
def test_class_loss_and_matches_are_those_of_our_own_rank_detr(name: str, overlap: str) -> None:
    """Of boxes in pixels there, in shares of the input here."""
    logits, boxes, labels = random_layer()
    rank = {"rank.loss": "gcl", "rank.matching_cost": True, "rank.cost_overlap": overlap}
    sizes = torch.tensor([[64.0, 96.0], [64.0, 96.0]])
    pixels = torch.tensor([96.0, 64.0, 96.0, 64.0])
    weights = {"loss.cls": 1.0, "loss.l1": 5.0, "loss.giou": 2.0}
    config = load_recipe("h-detr-tiny", num_classes=3, overrides=rank | weights).architecture
    targets = [Targets(cxcywh_to_xyxy(label["boxes"]) * pixels, label["class_labels"]) for label in labels]
    predictions = Predictions(logits, cxcywh_to_xyxy(boxes) * pixels, sizes=sizes)
    expected = SetCriterion(config)(predictions, targets, alone=True)  # type: ignore[arg-type]
    _, terms = terms_of(name, logits, boxes, labels, **rank)
    found = {"cls": terms["loss_vfl"], "l1": terms["loss_bbox"], "giou": terms["loss_giou"]}
    assert_close(found, {key: expected.parts[key] for key in found}, rtol=1e-4, atol=1e-5)
    _, plain = terms_of(name, logits, boxes, labels)
    assert abs(plain["loss_bbox"] / terms["loss_bbox"] - 1) > 0.01, "other queries are matched"


def test_matches_of_boxes_that_are_not_finite_end_the_training() -> None:
    logits, boxes, labels = random_layer()
    with pytest.raises(TrainingError, match="diverged"):
        terms_of("deformable_detr", logits, boxes * torch.nan, labels, **{"rank.matching_cost": True})


@hosts
@pytest.mark.parametrize("pairs", ["chosen", "all"])
def test_order_of_queries_does_not_matter(name: str, pairs: str) -> None:
    logits, boxes, labels = random_layer()
    order = torch.randperm(30, generator=torch.Generator().manual_seed(4))
    options = EVERYTHING | {"loss.o2o_pairs": pairs}
    _, first = terms_of(name, logits, boxes, labels, **options)
    _, second = terms_of(name, logits[:, order], boxes[:, order], labels, **options)
    assert {"loss_align", "loss_rank"} < first.keys()
    assert_close(first, second)


@hosts
@pytest.mark.parametrize("labels", [LABELS, NOTHING, [LABELS[0], NOTHING[0]]], ids=["objects", "none", "one image"])
def test_all_parameters_learn(name: str, labels: list[dict[str, Tensor]]) -> None:
    """With everything on, as with the library's loss; without any object the ranking terms are 0."""
    theirs, ours = tiny(name), tiny(name)
    ours.loss_function = loss_function(ours, **EVERYTHING)
    found = said(ours, labels)
    found.loss.backward()
    said(theirs, labels).loss.backward()
    assert gradients(ours).keys() == gradients(theirs).keys()
    assert all(value.isfinite().all() for value in gradients(ours).values())
    ranking = [found.loss_dict[key] for key in found.loss_dict if key.startswith(("loss_rank", "loss_align"))]
    assert len(ranking) == 2 * HOSTS[name]["decoder_layers"]
    if labels is NOTHING:
        assert not any(ranking)
    else:
        heads = [
            v for k, v in gradients(ours).items() if "class_embed" in k and "enc" not in k and "denoising" not in k
        ]
        assert all(value.any() for value in heads)


@pytest.mark.parametrize("name", ["rt_detr", "deformable_detr"])
@pytest.mark.parametrize("option", ["rank.loss", "loss.align", "loss.rank"])
def test_each_term_has_a_gradient_that_is_right(name: str, option: str) -> None:
    """Compared with differences; boxes get none from terms about scores."""
    logits, boxes, labels = random_layer(5)
    logits, boxes = logits.double().requires_grad_(), boxes.double().requires_grad_()
    labels = [label | {"boxes": label["boxes"].double()} for label in labels]
    options: dict[str, Any] = {option: "gcl" if option == "rank.loss" else 1.0}
    term = CRITERIA[name].term if option == "rank.loss" else option.replace("loss.", "loss_")

    def value(x: Tensor) -> Tensor:
        found: Tensor = terms_of(name, x, boxes, labels, **options)[1][term]
        return found

    of_logits, of_boxes = torch.autograd.grad(value(logits), [logits, boxes], allow_unused=True)
    assert of_logits.any()
    assert of_boxes is None or not of_boxes.any()
    assert torch.autograd.gradcheck(value, logits, eps=1e-6, atol=1e-5)


@pytest.mark.parametrize("name", ["rt_detr", "rt_detr_v2", "d_fine"])
def test_proposals_and_denoising_queries_keep_their_class_loss(name: str) -> None:
    theirs, ours = tiny(name), tiny(name)
    ours.loss_function = loss_function(ours, **{"rank.loss": "gcl", "loss.rank": 1.0})
    expected, found = said(theirs).loss_dict, said(ours).loss_dict
    classes = [key for key in expected if key.startswith("loss_vfl")]
    changed = {key for key in classes if not torch.equal(expected[key], found[key])}
    assert changed == {"loss_vfl", "loss_vfl_aux_0"}  # two layers; `_aux_1` is of the proposals
    assert found.keys() - expected.keys() == {"loss_rank", "loss_rank_aux_0"}


@hosts
def test_the_engine_s_loss_is_the_same(name: str) -> None:
    """Its recipe has the options by the same names; terms that are not divided by objects are summed as they are."""
    recipe = load_recipe(RECIPES[name], num_classes=3, overrides=tiny_host(name) | EVERYTHING)
    built = recipe.build()
    shake(built.model)
    targets = [
        Targets(cxcywh_to_xyxy(x["boxes"]) * torch.tensor([96.0, 64.0, 96.0, 64.0]), x["class_labels"]) for x in LABELS
    ]
    batch = Batch(IMAGES, targets, [Frame("", (64, 96)) for _ in targets])
    noise = torch.Generator().manual_seed(5)
    terms = built.criterion(predictions_of(built.model.train(), IMAGES, batch, denoising=noise), targets)
    assert {"align", "rank", "layers_align", "layers_rank"} <= terms.parts.keys()
    assert not any("rank" in part for part in terms.parts if part.startswith(("proposals_", "denoising_")))
    host = copy.deepcopy(built.model.host)
    host.loss_function = loss_function(host, **EVERYTHING)
    torch.manual_seed(int(torch.randint(2**62, (), generator=torch.Generator().manual_seed(5))))
    mean, std = (torch.tensor(x).view(1, 3, 1, 1) for x in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    images = (IMAGES - mean) / std if ARCHITECTURES[name].normalised else IMAGES
    assert_close(terms.total, host(pixel_values=images, labels=LABELS).loss, rtol=1e-5, atol=1e-5)
    evaluated = built.criterion(predictions_of(built.model.eval(), IMAGES, batch), targets, alone=True)
    assert set(evaluated.parts) == {"cls", "l1", "giou", "align", "rank"}


def test_rf_detr_has_none() -> None:
    with pytest.raises(InputError, match="rf_detr trains with the library's loss alone"):
        load_recipe(RECIPES["rf_detr"], overrides=tiny_host("rf_detr") | {"loss.rank": 1.0})


def test_copies_and_pickles_have_their_own_loss() -> None:
    model = tiny("rt_detr")
    model.loss_function = loss_function(model, **EVERYTHING)
    duplicates: list[Callable[[Any], Any]] = [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))]
    for duplicate in duplicates:
        other = duplicate(model)
        assert torch.equal(said(other).loss, said(model).loss)
        other.loss_function.progress = 0.0
        assert not torch.equal(said(other).loss, said(model).loss)


def test_the_library_s_other_models_see_nothing_of_it() -> None:
    before = library_loss("rt_detr").__globals__["RTDetrLoss"]
    model = tiny("rt_detr")
    expected = said(model).loss
    model.loss_function = loss_function(model, **EVERYTHING)
    assert not torch.equal(said(model).loss, expected)
    assert library_loss("rt_detr").__globals__["RTDetrLoss"] is before
    assert torch.equal(said(tiny("rt_detr")).loss, expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank.los": "gcl"}, r"loss_function: unknown option 'rank\.los'"),
        ({"rank.loss": "best"}, r"loss_function: rank\.loss: "),
        ({"rank": "gcl"}, r"loss_function: 'rank' is not section\.field"),
        ({"loss.rank": -1.0}, r"loss_function: loss\.rank: "),
    ],
)
def test_options_that_do_not_go(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        loss_function(tiny("rt_detr"), **options)


def test_models_that_do_not_go() -> None:
    backbone = tiny("rt_detr").model
    for model in (backbone, torch.nn.Linear(2, 2), None):
        with pytest.raises(InputError, match="ranking losses are for RTDetrForObjectDetection, "):
            loss_function(model)
