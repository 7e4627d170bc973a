"""Recipes: what ships is valid, overrides arrive, mistakes name the place and the nearest valid name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from alignrank.detectors.yolo import YoloConfig
from alignrank.errors import InputError
from alignrank.input_size import SIDE_STEP, Fit, InputSize
from alignrank.weights.catalog import recipe_names
from alignrank.weights.recipe import Recipe, build_detector, load_recipe


def test_shipped_recipes() -> None:
    assert {"yolov8-n", "yolov8-s", "yolov10-n", "yolov10-s"} <= set(recipe_names())
    for name in recipe_names():
        recipe = load_recipe(name)
        assert recipe.name == name
        assert recipe.to_dict()["num_classes"] == 80
        # What a checkpoint stores (JSON) gives the same recipe back.
        assert Recipe.parse(json.loads(json.dumps(recipe.to_dict())), where="copy") == recipe


def test_overrides_reach_every_section() -> None:
    overrides = {"model.size": "t", "loss.classification": "vfl", "train.lr": 0.01, "augment.mosaic": 0.0}
    recipe = load_recipe("yolov10-n", num_classes=5, overrides=overrides)
    assert isinstance(recipe.architecture, YoloConfig)
    assert recipe.architecture.num_classes == 5
    assert recipe.architecture.model.size == "t"
    assert recipe.architecture.model.attention  # the recipe's own, untouched
    assert recipe.architecture.loss.classification == "vfl"
    assert recipe.train.lr == 0.01
    assert recipe.augment.mosaic == 0


def test_for_classes() -> None:
    recipe = load_recipe("yolov8-n", num_classes=5)
    other = recipe.for_classes(7)
    assert other.to_dict() == recipe.to_dict() | {"num_classes": 7}
    with pytest.raises(InputError, match="num_classes"):
        recipe.for_classes(0)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"train.lrr": 0.1}, "train: unknown option 'lrr'; did you mean 'lr'?"),
        ({"loss.clasification": "vfl"}, "unknown option 'loss.clasification'; did you mean 'classification'?"),
        ({"hed.dual": True}, "unknown option 'hed'; did you mean 'head'?"),
        (
            {"loss.classification": "ce"},
            "loss.classification: Input should be 'vfl', 'qfl', 'focal', 'bce' or 'ranksort', got 'ce'",
        ),
        ({"train.lr": -1.0}, "train: lr: "),
        ({"train.lr": float("nan")}, "train: lr: "),
        ({"train.imgsz": 100}, "train: imgsz: "),
        ({"train.imgsz": [800]}, "train: imgsz: must be one number, or a pair"),
        ({"train.imgsz": [1333, 800]}, "train: imgsz: must be a pair of sides from 32 to 8192, the shorter first"),
        ({"data.rect": "perhaps"}, "data: rect: "),
        ({"data.place": "left"}, "data: place: Input should be 'middle' or 'corner', got 'left'"),
        ({"data.rekt": True}, "data: unknown option 'rekt'; did you mean 'rect'?"),
        ({"augment.flip": 2.0}, "augment: flip: "),
        ({"head.bins": 1}, "head.bins: "),
        ({"lr": 1}, "'lr' is not section.field"),
    ],
)
def test_mistakes_in_options(overrides: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as caught:
        load_recipe("yolov8-n", overrides=overrides, where="command line")
    assert str(caught.value).startswith("command line: ")
    assert said in str(caught.value)


CORNER = Fit(corner=True)


@pytest.mark.parametrize(
    ("overrides", "training", "use"),
    [
        ({}, InputSize(320), InputSize(320, rect=True)),
        ({"data.rect": "auto"}, InputSize(320), InputSize(320, rect=True)),
        ({"data.rect": True}, InputSize(320, rect=True), InputSize(320, rect=True)),
        ({"data.rect": False}, InputSize(320), InputSize(320)),
        ({"train.imgsz": [800, 1333]}, InputSize(1333, 800, rect=True), InputSize(1333, 800, rect=True)),
        ({"data.place": "middle"}, InputSize(320), InputSize(320, rect=True)),
        ({"data.place": "corner"}, InputSize(320, fit=CORNER), InputSize(320, rect=True, fit=CORNER)),
        ({"data.fit": "stretch"}, InputSize(320, fit=Fit("stretch")), InputSize(320, fit=Fit("stretch"))),
        (
            {"train.imgsz": [800, 1333], "data.fit": "floor", "data.antialias": False},
            InputSize(1333, 800, rect=True, fit=Fit("floor", antialias=False)),
            InputSize(1333, 800, rect=True, fit=Fit("floor", antialias=False)),
        ),
        (
            {"train.imgsz": [800, 1333], "data.place": "corner"},
            InputSize(1333, 800, rect=True, fit=CORNER),
            InputSize(1333, 800, rect=True, fit=CORNER),
        ),
    ],
)
def test_shape_of_the_input(overrides: dict[str, Any], training: InputSize, use: InputSize) -> None:
    """Square in training and the image's own in use, unless the recipe says otherwise; a pair is never square."""
    recipe = load_recipe("yolov8-n", overrides={"train.imgsz": 320, **overrides})
    assert (recipe.size_in_training, recipe.size_in_use) == (training, use)
    assert Recipe.parse(json.loads(json.dumps(recipe.to_dict())), where="copy") == recipe


def test_recipes_of_before_the_data_section() -> None:
    """What 0.1.0 kept in its weights: as if the section were empty."""
    recipe = load_recipe("yolov8-n")
    values = recipe.to_dict()
    del values["data"]
    assert Recipe.parse(values, where="copy") == recipe


def test_unknown_recipe() -> None:
    with pytest.raises(InputError, match=r"^here: .*unknown .*'yolov8n'; did you mean 'yolov8-n'\?"):
        load_recipe("yolov8n", where="here")
    with pytest.raises(InputError, match="unknown"):
        build_detector("../yolov8-n", 3)


def test_image_side_is_a_multiple_of_every_stride() -> None:
    for name in recipe_names():
        small = {} if "/" in name else {"model.size": "t"}
        assert SIDE_STEP % load_recipe(name, num_classes=1, overrides=small).meta_network().stride == 0


def test_own_file(tmp_path: Path) -> None:
    """A YAML file of the same form; errors name the file."""
    path = tmp_path / "mine.yaml"
    path.write_text("detector: yolo\nmodel: {size: t}\nhead: {dual: true}\ntrain: {epochs: 3}\n")
    recipe = load_recipe(str(path), num_classes=2, overrides={"train.batch": 4})
    assert (recipe.name, recipe.train.epochs, recipe.train.batch) == ("mine", 3, 4)
    assert recipe.to_dict()["head"]["dual"] is True

    for text, said in [
        ("detector: yolox\n", r"detector: unknown architecture 'yolox'; did you mean 'yolo'\?"),
        ("model: {size: n}\n", "detector: unknown architecture None"),
        ("detector: yolo\nhead: {duall: true}\n", "unknown option 'head.duall'; did you mean 'dual'"),
        ("detector: yolo\ntrain: 3\n", "train: must be a mapping of options, got 3"),
        ("detector: [yolo]\n", "detector: unknown architecture"),
        ("detector: yolo\nmodel: n\n", "model: .*got 'n'"),
    ]:
        path.write_text(text)
        with pytest.raises(InputError, match=said) as caught:
            load_recipe(str(path))
        assert str(caught.value).startswith(str(path))
