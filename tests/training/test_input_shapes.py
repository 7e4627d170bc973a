"""Inputs of the images' own shape through the whole life of a detector: train, val, predict, export."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from command_line import TINY, alignrank
from squares import write_squares
from torch import Tensor

from alignrank.contracts import Batch, Frame, Predictions, Targets
from alignrank.data.samples import Split
from alignrank.detectors.yolo import Yolo
from alignrank.training.module import TrainingModule
from alignrank.training.plan import Plan
from alignrank.weights import checkpoint
from alignrank.weights.recipe import load_recipe

Shapes = list[tuple[int, ...]]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Shapes:
    """The shapes of all inputs of the network."""
    shapes: Shapes = []
    forward = Yolo.forward

    def noting(self: Yolo, images: Tensor) -> Predictions:
        shapes.append(tuple(images.shape))
        return forward(self, images)

    monkeypatch.setattr(Yolo, "forward", noting)
    return shapes


def done(*arguments: str) -> Any:
    """What the command printed as JSON."""
    ended = alignrank(*arguments, "--json")
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


@pytest.mark.parametrize(
    ("options", "wide", "graph", "recorded"),
    [
        (["--imgsz", "128", "data.rect=true"], (96, 128), (128, 128), (128, True)),
        (["--imgsz", "64,96"], (64, 96), (64, 96), ([64, 96], "auto")),
    ],
    ids=["rect", "pair"],
)
def test_train_val_predict_export(
    options: list[str], wide: tuple[int, int], graph: tuple[int, int], recorded: Any, seen: Shapes, tmp_path: Path
) -> None:
    """Images of 64 x 48 and 48 x 64 px at 128 are 128 x 96 and 96 x 128; at (64, 96) they are 85 x 64 on 96 x 64.

    In every step of the training and of the evaluations all pictures have one shape.
    """
    data, tall = write_squares(tmp_path / "data", turned=True), wide[::-1]
    out = tmp_path / "run"
    trained = done("train", "--data", str(data), "--epochs", "1", *TINY, *options, "--out", str(out))
    assert set(seen[:2]) == {(4, 3, *wide), (4, 3, *tall)}
    assert set(seen[2:]) == {(2, 3, *wide), (2, 3, *tall)}
    recipe = checkpoint.load(out / "best.safetensors").recipe
    assert (recipe.train.imgsz, recipe.data.rect) == recorded

    seen.clear()
    measured = done("val", "--weights", str(out), "--data", str(data), "--out", str(tmp_path / "val"))
    assert set(seen) == {(2, 3, *wide), (2, 3, *tall)}
    assert measured["ap"] == trained["metrics"]["ap"]
    for row in json.loads((tmp_path / "val" / "detections.json").read_text()):
        width, height = (48, 64) if row["image_id"] % 2 == 0 else (64, 48)
        x, y, w, h = row["bbox"]
        assert x >= 0
        assert y >= 0
        assert x + w <= width + 1e-3
        assert y + h <= height + 1e-3

    seen.clear()
    pictures = [str(data / "images" / f"val{number}.png") for number in range(4)]
    found = done(
        "predict", *pictures, "--weights", str(out), "--conf", "0.001", "--batch", "2", "--out", str(tmp_path / "found")
    )
    assert seen == [(1, 3, *wide), (1, 3, *tall)] * 2
    assert [image["source"] for image in found["images"]] == pictures
    for number, image in enumerate(found["images"]):
        width, height = (48, 64) if number % 2 else (64, 48)
        boxes = np.array(image["boxes"])
        assert len(boxes)
        assert (boxes >= 0).all()
        assert (boxes <= [width, height, width, height]).all()

    path = done("export", "--weights", str(out), "--out", str(tmp_path / "m.onnx"))["out"]
    session = onnxruntime.InferenceSession(path)
    assert session.get_inputs()[0].shape == ["batch", 3, *graph]
    assert json.loads(session.get_modelmeta().custom_metadata_map["imgsz"]) == recorded[0]


def test_another_fit_everywhere(seen: Shapes, tmp_path: Path) -> None:
    """Stretched and without antialias: in training, its evaluations, `val`, `predict` and the exported file."""
    data, out = write_squares(tmp_path / "data", turned=True), tmp_path / "run"
    options = ["--imgsz", "64,96", "data.fit=stretch", "data.antialias=false"]
    trained = done("train", "--data", str(data), "--epochs", "1", *TINY, *options, "--out", str(out))
    measured = done("val", "--weights", str(out), "--data", str(data))
    assert measured["ap"] == trained["metrics"]["ap"]
    picture = str(data / "images" / "val0.png")
    done("predict", picture, "--weights", str(out), "--out", str(tmp_path / "found"))
    assert {shape[2:] for shape in seen} == {(64, 96)}
    done("predict", picture, "--weights", str(out), "--imgsz", "128", "--out", str(tmp_path / "larger"))
    assert seen[-1][2:] == (128, 128)
    data_options = checkpoint.load(out / "best.safetensors").recipe.data
    assert (data_options.fit, data_options.antialias) == ("stretch", False)
    path = done("export", "--weights", str(out), "--out", str(tmp_path / "m.onnx"))["out"]
    session = onnxruntime.InferenceSession(path)
    assert session.get_inputs()[0].shape == ["batch", 3, 64, 96]
    given = json.loads(session.get_modelmeta().custom_metadata_map["preprocessing"])
    assert (given["keep_aspect"], given["antialias"]) == (False, False)


def test_squares_where_they_are_asked_for(seen: Shapes, tmp_path: Path) -> None:
    """Trained on squares, images are used in their own shape; `data.rect=false` and `--square` keep to squares."""
    data = write_squares(tmp_path / "data", turned=True)
    common = ["train", "--data", str(data), "--epochs", "1", *TINY, "--imgsz", "128"]
    for name, options, used in (("auto", [], (96, 128)), ("square", ["data.rect=false"], (128, 128))):
        seen.clear()
        done(*common, *options, "--out", str(tmp_path / name))
        assert set(seen[:2]) == {(4, 3, 128, 128)}
        assert used in {shape[2:] for shape in seen[2:]}
        assert ((128, 128) in {shape[2:] for shape in seen[2:]}) == (name == "square")
    for name, options, used in (("auto", ["--square"], (128, 128)), ("square", ["--rect"], (96, 128))):
        seen.clear()
        done("val", "--weights", str(tmp_path / name), "--data", str(data), *options)
        assert used in {shape[2:] for shape in seen}
        picture = str(data / "images" / "val0.png")
        done("predict", picture, "--weights", str(tmp_path / name), *options, "--out", str(tmp_path / f"of {name}"))
        assert seen[-1] == (1, 3, *used)


def test_sizes_that_vary(tmp_path: Path) -> None:
    """Multi-scale, by 1/2 to 3/2: both sides by one factor, each to the nearest step of 32, and boxes with them."""
    nothing = Split(("a",), (1,), [], tmp_path)
    images = torch.full((1, 3, 96, 160), 255, dtype=torch.uint8)
    given = Batch(
        images, [Targets(torch.tensor([[16.0, 24.0, 80.0, 48.0]]), torch.tensor([0]))], [Frame("x", (96, 160))]
    )
    # round(3 f) and round(5 f) steps for f from .5 to 1.5; halves go to the even number.
    possible = {(round(3 * f), round(5 * f)) for f in np.linspace(0.5, 1.5, 10_001)}
    found = set()
    for seed in range(30):
        overrides = {"model.size": "t", "augment.multi_scale": 0.5, "train.seed": seed}
        recipe = load_recipe("yolov8-n", num_classes=1, overrides=overrides)
        sized = TrainingModule(Plan(recipe, nothing, nothing, tmp_path, torch.device("cpu")))._sized(given)
        height, width = sized.images.shape[2:]
        assert height % 32 == width % 32 == 0
        found.add((height // 32, width // 32))
        assert sized.images.min() > 0.999
        expected = [width / 10, height / 4, width / 2, height / 2]
        assert sized.targets[0].boxes[0].tolist() == pytest.approx(expected)
    assert found <= possible
    assert len(found) >= 5
