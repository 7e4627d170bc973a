"""`loss.class_weights` in every criterion that has them: positives of a class count more, all else is as it was."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_forms import tiny_form

from alignrank.contracts import Built, LossTerms, Targets
from alignrank.detectors import DETECTORS
from alignrank.errors import InputError
from alignrank.weights.recipe import load_recipe

KINDS = [
    ("yolov8-n", "bce"),
    ("yolov8-n", "focal"),
    ("yolov10-n", "vfl"),
    ("alignrank-n", "vfl"),
    ("vfnet-r50", "qfl"),
    ("retinanet-r50", "focal"),
    ("reppoints-r50", "focal"),
    ("h-detr-r50", "gcl"),
    ("dino-r50", "vfl"),
]


def built(name: str, **overrides: Any) -> Built:
    torch.manual_seed(0)
    return load_recipe(name, num_classes=3, overrides=tiny_form(name) | overrides).build()


def loss(detector: Built) -> LossTerms:
    torch.manual_seed(1)
    images = torch.rand(2, 3, 64, 64)
    boxes = torch.tensor([[4.0, 4, 40, 44], [20, 24, 60, 62]])
    targets = [Targets(boxes, torch.tensor([0, 1])), Targets(boxes[:1], torch.tensor([1]))]
    return detector.criterion(detector.model.train()(images), targets)


@pytest.mark.parametrize(("name", "kind"), KINDS)
def test_only_class_terms_change_and_in_proportion(name: str, kind: str) -> None:
    """Weights 1 are none. From there on a class term grows by the same for each step of a weight; a class that no
    object has does not matter.
    """
    parts = {}
    for weights in ([], [1, 1, 1], [2, 1, 1], [3, 1, 1], [1, 1, 5], [3, 3, 1]):
        option = "rank.loss" if "rank" in load_recipe(name).architecture.model_fields else "loss.classification"
        overrides = {option: kind, "loss.class_weights": weights}
        parts[tuple(weights)] = {k: v.item() for k, v in loss(built(name, **overrides)).parts.items()}
    plain = parts[()]
    of_classes = {part for part in plain if part.endswith("cls")}
    if name.startswith("h-detr"):  # its proposals tell only objects from the rest
        of_classes.remove("proposals_cls")
    assert of_classes
    for part in plain:
        ones, two, three, absent, both = (parts[w][part] for w in list(parts)[1:])
        assert ones == pytest.approx(plain[part], rel=1e-5)
        assert absent == pytest.approx(plain[part], rel=1e-5)
        if part in of_classes:
            assert two > ones * (1 + 1e-6)
            assert three - two == pytest.approx(two - ones, rel=1e-2, abs=1e-5)
            assert both > three
        else:
            assert three == two == plain[part]


def test_refused() -> None:
    with pytest.raises(InputError, match=r"loss\.class_weights: has 2 weights for 3 classes"):
        built("yolov8-n", **{"loss.class_weights": [1, 2]})
    with pytest.raises(InputError, match="ranksort compares entries of all classes"):
        built("vfnet-r50", **{"loss.classification": "ranksort", "loss.class_weights": [1, 1, 1]})
    for weight in (0, -1, float("nan"), "a"):
        with pytest.raises(InputError, match="class_weights"):
            built("yolov8-n", **{"loss.class_weights": [1, 1, weight]})


@pytest.mark.parametrize("detector", sorted(DETECTORS))
def test_others_have_no_such_option(detector: str) -> None:
    """Where the class loss is another library's, the option is unknown and so refused."""
    section: Any = DETECTORS[detector].config.model_fields["loss"].annotation
    has = "class_weights" in section.model_fields
    assert has == (not detector.startswith(("torchvision", "transformers")))
