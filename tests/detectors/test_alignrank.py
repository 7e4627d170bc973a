"""AlignRank: parts that begin as identities, two outputs, selection before decoding, and where gradients go."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from torchvision.ops import batched_nms

from alignrank.contracts import Built, Predictions, Targets
from alignrank.detectors.alignrank import AlignRank
from alignrank.detectors.alignrank_suppression import STRENGTH_RATE, STRONGEST, Suppression
from alignrank.detectors.postprocess import NonMaximumSuppression, TopK
from alignrank.detectors.yolo import columns
from alignrank.export.onnx import export_onnx
from alignrank.nn.cells import priorities
from alignrank.weights.recipe import Recipe, load_recipe

# Of the sizes s, m, l: fusion, and box branches that begin with a depthwise convolution.
ALL_PARTS = {"model.size": "t", "head.fusion": True, "head.separable_boxes": True, "head.box_width": 32}
OFF = {"head.sampling": "none", "head.fusion": False, "loss.align": 0.0, "loss.rank": 0.0}
FORMS: dict[str, dict[str, Any]] = {
    "none": {"head.sampling": "none", "head.fusion": False},
    "fusion": {"head.sampling": "none"},
    "dense": {"head.sampling": "dense"},
    "dense alone": {"head.sampling": "dense", "head.fusion": False},
    "topk": {"head.refine": True},
    "topk alone": {"head.refine": True, "head.fusion": False},
    "suppression": {"head.refine": False},
    "quality": {"head.refine": True, "head.quality": 0.5},
}
TARGETS = [
    Targets(torch.tensor([[4.0, 4.0, 40.0, 60.0], [20.0, 30.0, 90.0, 62.0]]), torch.tensor([0, 2])),
    Targets(torch.tensor([[30.0, 2.0, 80.0, 50.0]]), torch.tensor([1])),
]


def tiny(overrides: dict[str, Any], seed: int = 0) -> Built:
    torch.manual_seed(seed)
    overrides = ALL_PARTS | overrides
    return load_recipe("alignrank-n", num_classes=3, overrides=overrides).build()


def pictures(batch: int = 2) -> Tensor:
    return torch.rand(batch, 3, 64, 96, generator=torch.Generator().manual_seed(1))


def stirred(built: Built) -> AlignRank:
    """A model whose parts are no identities any more, with norms that have seen data, in evaluation mode."""
    model = built.model
    assert isinstance(model, AlignRank)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "exit" in name or "refinement" in name:
                parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
        if model.suppression is not None:
            model.suppression.strength.fill_(0.005)
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = None
        model.train()(pictures(4))
    return model.eval()


def same(a: Predictions, b: Predictions) -> bool:
    return torch.equal(a.logits, b.logits) and torch.equal(a.boxes, b.boxes)


def test_without_parts_it_is_the_base() -> None:
    """The same weights in the base architecture predict the same in training, bit for bit, and have the same loss."""
    built = tiny(OFF)
    stirred(built)  # fresh networks give many cells the same score
    recipe = load_recipe("alignrank-n", num_classes=3, overrides=ALL_PARTS | OFF).to_dict()
    base_head = {key: recipe["head"][key] for key in ("separable", "dual", "bins", "box_width", "separable_boxes")}
    base = Recipe.parse(recipe | {"detector": "yolo", "head": base_head}, where="test").build()
    base.model.load_state_dict(built.model.state_dict())
    # In evaluation the base decodes all points, AlignRank the best ones: the same detections.
    options = {"conf": 0.0, "iou": 0.7, "max_dets": 20}
    for a, b in zip(
        built.postprocess(built.model.eval()(pictures()), **options),
        base.postprocess(base.model.eval()(pictures()), **options),
        strict=True,
    ):
        assert_close(a.scores, b.scores)
        assert torch.equal(a.labels, b.labels)
        assert_close(a.boxes, b.boxes)
    ours, theirs = built.model.train()(pictures()), base.model.train()(pictures())
    assert same(ours, theirs)
    assert same(ours.auxiliary["one_to_many"], theirs.auxiliary["one_to_many"])
    assert torch.equal(built.criterion(ours, TARGETS).total, base.criterion(theirs, TARGETS).total)


@pytest.mark.parametrize("form", FORMS)
def test_parts_begin_as_identities(form: str) -> None:
    """One seed gives the same predictions with and without parts, bit for bit: training, NMS-free, one-to-many.

    But for consensus boxes, which move from the beginning.
    """
    alone = {"head.consensus_iou": 0.0}
    for overrides in (alone, alone | {"postprocess.nms": True}):
        plain, whole = tiny(OFF | overrides), tiny(FORMS[form] | overrides)
        assert same(whole.model.eval()(pictures()), plain.model.eval()(pictures()))
    ours, theirs = whole.model.train()(pictures()), plain.model.train()(pictures())
    assert same(ours.auxiliary["one_to_many"], theirs.auxiliary["one_to_many"])
    if whole.model.suppression is None:
        assert same(ours, theirs)


@pytest.mark.parametrize("form", [form for form in FORMS if form != "none"])
def test_parts_matter_once_they_learned(form: str) -> None:
    with torch.no_grad():
        model = stirred(tiny(FORMS[form]))
        before = model(pictures())
        for module in (model.fusion, model.sampling):
            for projection in getattr(module, "exit", []):
                projection.weight.zero_()
                projection.bias.zero_()
        if model.refinement is not None:
            model.refinement.logits.weight.zero_()
            model.refinement.logits.bias.zero_()
        assert (model(pictures()).logits - before.logits).abs().max() > 1e-3


def test_the_best_cells_are_chosen() -> None:
    """The K of highest score, best first by the unrefined score; all of them where there are fewer."""
    built = tiny(OFF | {"head.candidates": 10})
    model = stirred(built)
    with torch.no_grad():
        maps = model.neck(model.backbone(pictures()))
        assert model.one_to_one is not None
        every, _ = model.one_to_one(maps)
        chosen = model(pictures())
        assert chosen.logits.shape == (2, 10, 3)
        best = every.amax(-1).sort(descending=True).values[:, :10]
        assert_close(chosen.logits.amax(-1), best)
        model.candidates = 10_000
        assert model(pictures()).logits.shape == every.shape


def taught(built: Built) -> set[str]:
    """Parts of the model with a gradient that is not 0."""
    return {n.split(".")[0] for n, p in built.model.named_parameters() if p.grad is not None and p.grad.any()}


def test_one_to_one_does_not_teach_the_rest() -> None:
    """The one-to-one loss reaches the suppression, or the one-to-one head, and nothing else."""
    built = tiny({})
    predictions = built.model.train()(pictures())
    (predictions.logits.square().sum() + predictions.boxes.sum()).backward()
    assert taught(built) == {"suppression"}

    built = tiny({"head.sampling": "dense"})
    predictions = built.model.train()(pictures())
    (predictions.logits.square().sum() + predictions.boxes.sum()).backward()
    assert taught(built) == {"one_to_one"}


def test_refined_scores_teach_features_but_not_the_head() -> None:
    """What the refinement gets wrong is said to the sampled maps, not to the head whose scores it corrects."""
    built = tiny(FORMS["topk"])
    with torch.no_grad():
        built.model.refinement.logits.weight.fill_(0.1)
    predictions = built.model.train()(pictures())
    assert torch.equal(predictions.auxiliary["unsuppressed"].boxes, predictions.boxes)
    predictions.auxiliary["unsuppressed"].logits.square().sum().backward()
    parts = taught(built)
    assert {"refinement", "sampling", "fusion", "neck", "backbone"} <= parts
    assert not {"head", "suppression"} & parts
    assert built.model.eval()(pictures()).auxiliary == {}


def row_of_boxes(*left: float) -> Tensor:
    """[1,K,4], 10 px wide and high: IoU 2 px apart is 8/12 = .667, 4 px apart 6/14 = .429."""
    x = torch.tensor(left)
    return torch.stack([x, torch.zeros_like(x), x + 10, torch.full_like(x, 10)], -1)[None]


def fully(iou: float) -> Suppression:
    suppression = Suppression(iou)
    with torch.no_grad():
        suppression.strength.fill_(1.0)
    return suppression


def test_duplicates_are_suppressed() -> None:
    """At IoU .6. The second candidate lies on the first (.667). The third overlaps the second (.667), which is a
    duplicate itself, and the first by .429 only: it stays. The fourth lies on the first but is of another class. The
    fifth lies on the third: the second round knows that the third stays.
    """
    boxes = row_of_boxes(0, 2, 4, 0, 5)
    logits = torch.full((1, 5, 2), -8.0)
    logits[0, [0, 1, 2, 4], 1] = torch.tensor([2.0, 1.0, 0.5, 0.0])
    logits[0, 3, 0] = 1.5
    lowered = (logits - fully(0.6)(logits, boxes))[0]
    assert_close(lowered, STRONGEST * torch.tensor([0.0, 1, 0, 0, 1])[:, None].expand(5, 2), atol=1e-3, rtol=0)
    order = torch.tensor([3, 1, 4, 0, 2])
    again = (logits[:, order] - fully(0.6)(logits[:, order], boxes[:, order]))[0]
    assert_close(again, lowered[order], atol=1e-5, rtol=0)


def test_suppression_keeps_one_of_equals_and_the_order_of_the_others() -> None:
    """Of three equal candidates one stays. Suppressed ones keep their order; without strength nothing happens."""
    boxes = row_of_boxes(0, 0, 0)
    same_scores = fully(0.75)(torch.ones(1, 3, 1), boxes)[0, :, 0]
    assert (same_scores > 0).tolist() == [True, False, False]
    logits = torch.tensor([[[3.0], [2.0], [1.0]]])
    assert_close(fully(0.75)(logits, boxes), logits - STRONGEST * torch.tensor([0.0, 1, 1])[None, :, None])
    assert torch.equal(Suppression(0.75)(logits, boxes), logits)


def test_a_learned_suppression_is_final_in_evaluation() -> None:
    """Two logits are taken off where that was learned; four in training, but all of them in evaluation."""
    boxes, logits = row_of_boxes(0, 0), torch.tensor([[[3.0], [2.0]]])
    suppression = Suppression(0.75)
    for learned, training, expected in ((2.0, False, 2.0), (4.0, True, 4.0), (4.0, False, STRONGEST)):
        with torch.no_grad():
            suppression.strength.fill_(math.atanh(learned / STRONGEST) / STRENGTH_RATE)
        lowered = logits - suppression.train(training)(logits, boxes)
        assert lowered[0, 1, 0].item() == pytest.approx(expected, rel=1e-4)


def test_unrefined_scores_are_those_of_the_one_to_many_head() -> None:
    """The first of them in order, those of duplicates lowered; by how much is all that one-to-one targets teach."""
    built = tiny({"head.refine": False, "head.candidates": 20})
    model = stirred(built)
    with torch.no_grad():
        found = model(pictures())
        maps, _ = model._maps(pictures())
        best = columns(model.head.cls, maps).amax(1)
    first = priorities(best, maps).topk(20).indices
    lowered = best.gather(1, first) - found.logits.amax(-1)
    assert torch.all((lowered.abs() < 1e-4) | ((lowered - STRONGEST).abs() < 1e-4))
    assert 0 < (lowered > 1).sum() < 40
    terms = built.criterion(model.train()(pictures()), TARGETS, progress=1.0)
    assert not any(name.startswith("quality_") for name in terms.parts)
    (one_to_one,) = (term for name, term in terms.parts.items() if name.startswith("o2o_"))
    one_to_one.backward()
    assert [name for name, value in model.named_parameters() if value.grad is not None] == ["suppression.strength"]


def test_suppression_agrees_with_nms() -> None:
    """On 40 sets of 30 random boxes of two classes, where no long chains of overlaps are, the same ones survive."""
    generator = torch.Generator().manual_seed(0)
    suppressed = 0
    for _ in range(40):
        corner, side = torch.rand(30, 2, generator=generator) * 60, torch.rand(30, 2, generator=generator) * 20 + 20
        boxes, logits = torch.cat([corner, corner + side], -1), torch.randn(30, 2, generator=generator)
        scores, labels = logits.max(-1)
        kept = batched_nms(boxes, scores.sigmoid(), labels, 0.6)
        left = fully(0.6)(logits[None], boxes[None])[0].amax(-1) > scores - STRONGEST / 2
        assert left.nonzero().squeeze(1).tolist() == kept.sort().values.tolist()
        suppressed += 30 - len(kept)
    assert suppressed > 40


@pytest.mark.parametrize("nms", [False, True])
@pytest.mark.parametrize("form", ["none", "dense", "topk", "suppression"])
def test_deploy_and_export(form: str, nms: bool, tmp_path: Path) -> None:
    """Deployed, a model says the same with fewer parameters; exported, too (export compares, and raises if not)."""
    built = tiny(FORMS[form] | {"postprocess.nms": nms})
    assert isinstance(built.postprocess, NonMaximumSuppression if nms else TopK)
    model = stirred(built).double()  # norms of maps this small magnify the rounding of float32
    images = pictures().double()
    with torch.no_grad():
        before = model(images)
        count = sum(p.numel() for p in model.parameters())
        after = model.deploy()(images)
    assert sum(p.numel() for p in model.parameters()) < count
    assert_close(after.logits, before.logits, atol=1e-5, rtol=1e-5)
    assert_close(after.boxes, before.boxes, atol=1e-4, rtol=1e-5)
    if nms and form != "topk":
        return  # the same path behind maps that are exported by now
    pytest.importorskip("onnxruntime")
    path = export_onnx(model, built.postprocess, tmp_path / "m.onnx", imgsz=64, names=["a", "b", "c"])
    assert path.stat().st_size > 10_000


def test_consensus_changes_evaluation_only() -> None:
    """Training is bit-equal with consensus and across classes; evaluation merges boxes."""
    plain, merging = tiny({}), tiny({"head.consensus_iou": 0.3, "postprocess.agnostic": True})
    with torch.no_grad():
        models = [stirred(plain).train(), stirred(merging).train()]
        a, b = (model(pictures()) for model in models)
        assert same(a, b)
        a, b = (model.eval()(pictures()) for model in models)
    assert (a.boxes - b.boxes).abs().max() > 0.1


def test_ranking_terms_of_both_outputs() -> None:
    """Alignment and pairs for one-to-many and refined scores; none before the fade-in; weights scale them."""
    options = {"loss.align": 0.5, "loss.rank": 0.2, "loss.cls": 1.0, "loss.fade_start": 0.2, "loss.fade_end": 0.6}
    built = tiny(FORMS["topk"] | options)
    predictions = built.model.train()(pictures())
    whole = built.criterion(predictions, TARGETS)
    ranking = {"align", "rank", "quality_align", "quality_rank"}
    assert {name for name in whole.parts if "align" in name or "rank" in name} == ranking
    assert not ranking & built.criterion(predictions, TARGETS, progress=0.1).parts.keys()
    half = built.criterion(predictions, TARGETS, progress=0.4)
    for name in ranking:
        assert half.parts[name].item() == pytest.approx(0.5 * whole.parts[name].item(), rel=1e-5)
    doubled = tiny({"loss.align": 1.0, "loss.rank": 0.4, "loss.cls": 1.0}).criterion(predictions, TARGETS)
    for name in ranking:
        assert doubled.parts[name].item() == pytest.approx(2 * whole.parts[name].item(), rel=1e-5)
    for name in whole.parts.keys() - ranking:
        assert torch.equal(whole.parts[name], doubled.parts[name])


@pytest.mark.parametrize("pairs", ["chosen", "all"])
def test_ranking_terms_move_class_scores_only(pairs: str) -> None:
    """With a one-to-one head: its pairs only, no alignment."""
    built = tiny({"loss.o2o_pairs": pairs, "head.sampling": "none"})
    predictions = built.model.train()(pictures())
    parts = built.criterion(predictions, TARGETS).parts
    assert "o2o_align" not in parts
    total = parts["align"] + parts["rank"] + parts["o2o_rank"]
    total.backward()
    for name, parameter in built.model.named_parameters():
        if ".box." in name and parameter.grad is not None:
            assert not parameter.grad.any(), name
    assert built.model.head.cls[0][-1].weight.grad.any()


@pytest.mark.parametrize("name", ["yolov8-n", "yolov10-n"])
def test_ranking_terms_on_other_recipes(name: str) -> None:
    """The loss is a switch of the whole family."""
    overrides = {"model.size": "t", "loss.align": 0.25, "loss.rank": 0.1}
    built = load_recipe(name, num_classes=3, overrides=overrides).build()
    parts = built.criterion(built.model.train()(pictures()), TARGETS).parts
    assert {"align", "rank"} <= parts.keys()
    assert ("o2o_rank" in parts) == (name == "yolov10-n")
