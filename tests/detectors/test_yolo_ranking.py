"""Ranking and consensus in the base detector's loss: hand-worked, and where they act."""

from __future__ import annotations

from dataclasses import replace
from math import log
from typing import Any

import pytest
import torch

from alignrank.contracts import LossTerms, Predictions, Targets
from alignrank.detectors.yolo import YoloConfig
from alignrank.detectors.yolo_criterion import YoloCriterion
from alignrank.weights.recipe import build_detector

SCORES = (0.2, 0.4, 0.8, 0.9)  # of the one class
SIDES = (16.0, 8.0, 12.0, 2.0)  # of the squares predicted, all about the middle of the 16 x 16 image
# Objects of the two images: squares of side 16 and 12, about the middle.
WHOLE, INNER = (Targets(torch.tensor([[8 - s / 2] * 2 + [8 + s / 2] * 2]), torch.tensor([0])) for s in (16, 12))


def made_up(**changes: Any) -> Predictions:
    """Two images with the same four points of stride 8."""
    points = torch.tensor([[4.0, 4.0], [12.0, 4.0], [4.0, 12.0], [12.0, 12.0]])
    logits = torch.tensor(SCORES).logit()[:, None].expand(2, 4, 1).clone().requires_grad_()
    boxes = torch.tensor([[8 - s / 2] * 2 + [8 + s / 2] * 2 for s in SIDES]).expand(2, 4, 4).clone().requires_grad_()
    return replace(Predictions(logits, boxes, points, torch.full((4, 1), 8.0)), **changes)


def terms(predictions: Predictions, *, dual: bool = False, progress: float = 1.0, **loss: Any) -> LossTerms:
    config = {
        "num_classes": 1,
        "head": {"dual": dual},
        "loss": {"box": 2.0, "cls": 0.5, **loss},
        "assign": {"topk": 2, "alpha": 1.0, "beta": 1.0},
    }
    return YoloCriterion(YoloConfig.parse(config, where="test"))(predictions, [WHOLE, INNER], progress=progress)


# Overlaps with the objects: 1, 1/4, 9/16, 1/64 and 9/16, 4/9, 1, 1/36. Metric score * IoU: the two best points are 0
# and 2 in the first image, 2 and 1 in the second. So the candidates are a: quality 1, score .2; b: 9/16, .8; c: 1, .8;
# d: 4/9, .4. Pairs across: a-d, gap 5/9, d ahead by ln 4 - ln 1.5; b-c, gap 7/16, level; b-d, gap 17/144, in order.
AHEAD = log(4) - log(1.5)
BETWEEN = (5 / 9 * (5 / 9 + AHEAD) + 7 / 16 * 7 / 16) / (5 / 9 + 7 / 16 + 17 / 144)
# Within: a-b, gap 7/16, b ahead by 2 ln 4; c-d, in order.
WITHIN = (7 / 16 + 2 * log(4)) / 2


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, WITHIN),
        ({"rank_scope": "class"}, BETWEEN),
        ({"rank_scope": "both"}, (WITHIN + BETWEEN) / 2),
        ({"rank_scope": "class", "rank_across": "best"}, 7 / 16),  # b and c
    ],
)
def test_rank_worked(options: dict[str, str], expected: float) -> None:
    assert terms(made_up(), rank=0.4, **options).parts["rank"].item() == pytest.approx(0.5 * 0.4 * expected, rel=1e-5)


def test_alignment_has_lists_of_an_image() -> None:
    """One object an image: its list is the image's. Two of them in one image are one list, which counts twice."""
    plain, listed = (terms(made_up(), align=1.0, align_scope=scope).parts["align"] for scope in ("object", "class"))
    assert plain == listed
    # Points 0 and 2 for the whole image, point 1 for the square of side 8: qualities 1, 9/16, 1.
    crowd = Targets(torch.cat([WHOLE.boxes, torch.tensor([[4.0, 4.0, 12.0, 12.0]])]), torch.tensor([0, 0]))
    first = replace(made_up(), logits=made_up().logits[:1], boxes=made_up().boxes[:1])
    config = YoloConfig.parse(
        {
            "num_classes": 1,
            "head": {"dual": False},
            "loss": {"cls": 1.0, "align": 1.0, "align_scope": "class"},
            "assign": {"topk": 2, "alpha": 1.0, "beta": 1.0, "min_side": 14.0},
        },
        where="test",
    )
    found = YoloCriterion(config)(first, [crowd]).parts["align"].item()
    assert found == pytest.approx(expected_list([0.2, 0.8, 0.4], [1, 9 / 16, 1]), rel=1e-5)


def expected_list(scores: list[float], quality: list[float]) -> float:
    return -sum(q / sum(quality) * log(s / sum(scores)) for s, q in zip(scores, quality, strict=True))


def test_one_to_one_worked() -> None:
    """It chooses point 2 in both images, quality 9/16 and 1, level: a pair of gap 7/16. No list, no consensus.

    Within, the chosen above the other candidate: b above a in the first image, c above d in the second, satisfied.
    """
    options = {"rank": 0.4, "align": 1.0, "consensus": 1.0}
    across = terms(made_up(), dual=True, rank_scope="class", align_scope="class", **options)
    assert set(across.parts) == {"o2o_box", "o2o_cls", "o2o_rank"}
    assert across.parts["o2o_rank"].item() == pytest.approx(0.5 * 0.4 * 7 / 16, rel=1e-5)
    within = terms(made_up(), dual=True, **options).parts["o2o_rank"].item()
    assert within == 0
    both = terms(made_up(), dual=True, rank_scope="both", **options).parts["o2o_rank"].item()
    assert both == pytest.approx(across.parts["o2o_rank"].item() / 2)
    among_all = terms(made_up(), dual=True, rank_scope="both", o2o_pairs="all", **options).parts["o2o_rank"].item()
    assert among_all == pytest.approx(0.5 * 0.4 * (WITHIN + 7 / 16) / 2, rel=1e-5)


@pytest.mark.parametrize("to", ["scores", "boxes", "both"])
def test_consensus_worked(to: str) -> None:
    """Shares 1/5 and 4/5 of sides 16 and 12 are 12.8 of 16; 2/3 and 1/3 of 12 and 8 are 32/3 of 12."""
    predictions = made_up()
    part = terms(predictions, consensus=0.3, consensus_to=to).parts["consensus"]
    assert part.item() == pytest.approx(2.0 * 0.3 * (2 - (12.8 / 16) ** 2 - (32 / 36) ** 2) / 2, rel=1e-5)
    part.backward()
    for learning, x in ((to != "boxes", predictions.logits), (to != "scores", predictions.boxes)):
        assert (x.grad is not None and bool(x.grad.abs().sum() > 0)) == learning


@pytest.mark.parametrize("to", ["scores", "boxes", "both"])
def test_consensus_of_fixed_boxes_teaches_scores(to: str) -> None:
    predictions = made_up(fixed_boxes=True)
    parts = terms(predictions, consensus=0.3, consensus_to=to).parts
    assert ("consensus" in parts) == (to != "boxes")
    if to != "boxes":
        parts["consensus"].backward()
        assert predictions.boxes.grad is None
        assert predictions.logits.grad is not None
        assert predictions.logits.grad.abs().sum() > 0


def test_terms_fade_in() -> None:
    """None before a twentieth of the training, half at 7.5 %."""
    options: dict[str, Any] = {"align": 1.0, "rank": 1.0, "consensus": 1.0, "rank_scope": "both"}
    names = ("align", "rank", "consensus")
    assert not set(names) & set(terms(made_up(), progress=0.05, **options).parts)
    half, whole = (terms(made_up(), progress=progress, **options).parts for progress in (0.075, 1.0))
    for name in names:
        assert half[name].item() == pytest.approx(whole[name].item() / 2)


def test_scopes_without_weights_change_nothing() -> None:
    """Bit for bit, gradients included."""
    plain, scoped = made_up(), made_up()
    first = terms(plain)
    second = terms(scoped, rank_scope="both", rank_across="best", align_scope="class", consensus_to="scores")
    first.total.backward()
    second.total.backward()
    assert first.parts == second.parts
    assert torch.equal(plain.logits.grad, scoped.logits.grad)  # type: ignore[arg-type]
    assert torch.equal(plain.boxes.grad, scoped.boxes.grad)  # type: ignore[arg-type]


def test_refined_scores_are_ranked_before_suppression() -> None:
    """Of `alignrank`, beside the dense ones; consensus teaches the refinement's scores. The network is the same."""
    # Boxes of an untrained network differ little in quality.
    tiny = {"model.size": "t", "head.refine": True, "loss.delta": 0.0, "loss.consensus": 0.0}
    options = tiny | {"loss.rank_scope": "both", "loss.align_scope": "class", "loss.consensus": 0.5}
    generator = torch.Generator().manual_seed(0)
    images, corner = torch.rand(2, 3, 96, 96, generator=generator), torch.rand(6, 2, generator=generator) * 50
    boxes = torch.cat([corner, corner + 30], 1)
    targets = [Targets(boxes[:2], torch.tensor([0, 1])), Targets(boxes[2:], torch.tensor([0, 1, 1, 2]))]
    found = []
    for chosen in (tiny, options):
        torch.manual_seed(0)
        built = build_detector("alignrank-n", 3, **chosen)
        predictions = built.model.train()(images)
        found.append((predictions, built.criterion(predictions, targets).parts))
    (plain, usual), (scoped, parts) = found
    assert torch.equal(plain.logits, scoped.logits)
    assert torch.equal(plain.boxes, scoped.boxes)
    assert set(parts) - set(usual) == {"consensus", "quality_consensus"}
    for name in ("quality_rank", "quality_align", "rank", "align"):
        assert parts[name] != usual[name]
    (pull,) = torch.autograd.grad(parts["quality_consensus"], scoped.auxiliary["unsuppressed"].logits)
    assert pull.abs().sum() > 0
