"""How many cells AlignRank compares is a number once the training images are known."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from alignrank.training import auto_candidates
from alignrank.training.auto_candidates import candidates_for, with_candidates
from alignrank.weights.recipe import Recipe, load_recipe


def images(*objects: int, crowds: int = 0) -> list[Any]:
    """Samples with so many objects, and `crowds` regions that are none."""
    return [SimpleNamespace(crowd=np.arange(count + crowds) >= count) for count in objects]


def recipe(**overrides: object) -> Recipe:
    return load_recipe("alignrank-n", num_classes=2, overrides={"model.size": "t", **overrides})


@pytest.mark.parametrize(
    ("objects", "candidates"),
    [
        ([10] * 40, 300),
        ([75] * 40, 300),  # four each
        ([76] * 40, 400),
        ([10] * 17 + [136, 136, 136], 600),  # 544
        ([10] * 39 + [900], 300),  # one image of forty is not what the others are slowed down for
        ([0] * 60 + [100] * 2, 400),  # images without objects do not count
        ([2000] * 40, 1000),
        ([0, 0], 300),
        ([], 300),
    ],
)
def test_four_for_each_object_of_a_crowded_image(objects: list[int], candidates: int) -> None:
    assert candidates_for(objects) == candidates


def test_auto_becomes_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(auto_candidates, "say", said.append)
    assert recipe().architecture.head.candidates == "auto"  # type: ignore[attr-defined]
    assert recipe().build().model.candidates == 300
    sized = with_candidates(recipe(), images(10, 20, crowds=500))
    assert sized.architecture.head.candidates == 300  # type: ignore[attr-defined]
    assert said == []
    sized = with_candidates(recipe(), images(90, 120, 140))
    assert Recipe.parse(sized.to_dict(), where="test").build().model.candidates == 500
    assert said == [
        "head.candidates: auto chose 500, one of twenty training images has 120 objects or more",
    ]


def test_a_given_number_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also that of trained weights, from which a training goes on; where it is small, that is said."""
    said: list[str] = []
    monkeypatch.setattr(auto_candidates, "say", said.append)
    given = recipe(**{"head.candidates": 350})
    assert with_candidates(given, images(75)) is given
    assert with_candidates(given, images(100)) is given
    assert len(said) == 1
    assert "350 are few" in said[0]
    assert "auto would be 400" in said[0]


@pytest.mark.parametrize("other", ["yolov8-n", "retinanet-r50", "one-to-one head"])
def test_others_are_left_alone(other: str) -> None:
    """A one-to-one head has one cell for an object."""
    kept = recipe(**{"head.sampling": "none"}) if other == "one-to-one head" else load_recipe(other, num_classes=2)
    assert with_candidates(kept, images(500)) is kept
