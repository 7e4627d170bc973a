"""`export` with its gate, and exported files in place of weights: `predict` and `val` say the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import alignrank as command
from command_line import refused
from squares import write_squares
from tiny_weights import write_tiny_weights
from torch import Tensor

import alignrank
from alignrank.errors import ExportError, InputError
from alignrank.export import parity
from alignrank.export.graph import ShippedGraph

PICTURE = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights w.safetensors, data in data/, and the weights as m.pt2, compared on the data."""
    folder = tmp_path_factory.mktemp("exported")
    data = write_squares(folder / "data", classes=("red", "green"))
    write_tiny_weights(folder / "w.safetensors", ("red", "green"))
    detector = alignrank.Detector.load(folder / "w.safetensors")
    detector.export("pt2", out=folder / "m.pt2", data=data)
    return folder


def rows(found: alignrank.Detections) -> list[tuple[Any, ...]]:
    boxes = found.boxes.round(decimals=2).tolist()
    return sorted(zip(found.class_names, boxes, found.scores.round(decimals=3).tolist(), strict=True))


def test_the_comparison_lies_beside_the_file(folder: Path) -> None:
    written = json.loads((folder / "m.pt2.parity.json").read_text())
    assert (written["format"], written["precision"], written["imgsz"], written["images"]) == (
        "pt2", "fp32", 64, 4,
    )  # fmt: skip
    assert written["passed"] is True
    assert written["detections"] > 100
    assert (written["differing"], written["inversions"]) == (0, 0)
    assert written["ap"] == pytest.approx(written["ap_exported"])
    assert sorted(path.name for path in folder.iterdir()) == [
        "data", "m.pt2", "m.pt2.parity.json", "w.safetensors",
    ]  # fmt: skip


def test_predict_and_val_say_the_same(folder: Path) -> None:
    weights = alignrank.Detector.load(folder / "w.safetensors")
    exported = alignrank.Detector.load(folder / "m.pt2")
    assert exported.classes == weights.classes
    assert "yolov10-n" in repr(exported)
    pictures = [PICTURE, PICTURE[:, ::-1].copy(), PICTURE.transpose(1, 0, 2).copy()]
    expected = weights.predict(pictures, conf=0.1, rect=False, batch=2)
    found = exported.predict(pictures, conf=0.1, batch=2)
    assert len(found) == 3
    for one, other in zip(found, expected, strict=True):
        assert len(one) > 3
        torch.testing.assert_close(one.scores, other.scores, atol=1e-5, rtol=0)
        # Equal scores come in any order.
        assert rows(one) == rows(other)
    data = folder / "data"
    assert exported.val(data).scalars() == pytest.approx(weights.val(data, rect=False).scalars(), abs=1e-6)


def test_what_an_exported_file_cannot_do(folder: Path, tmp_path: Path) -> None:
    exported, data = alignrank.Detector.load(folder / "m.pt2"), folder / "data"
    calls: dict[str, Any] = {
        r"--agnostic is decided when a file is exported": lambda: exported.predict(PICTURE, agnostic=True),
        r"--oracle needs the weights, not an exported file": lambda: exported.val(data, oracle="box"),
        r"--tta needs the weights, not an exported file": lambda: exported.predict(PICTURE, tta=True),
        r"has an input of one size, imgsz 64, not 96": lambda: exported.predict(PICTURE, imgsz=96),
        r"has an input of one shape; leave out --rect": lambda: exported.val(data, rect=True),
        r"is an exported file: `predict`, `val` and `benchmark` take it": lambda: exported.export(
            "onnx", out=tmp_path / "m.onnx"
        ),
        r"is an exported file: ": lambda: exported.train(data, epochs=1, out=tmp_path / "run"),
        r"m.pt2: is an exported file:": lambda: exported.model,
        r"device: exported files run on the cpu here": lambda: exported.predict(PICTURE, device="cuda"),
    }
    for message, call in calls.items():
        with pytest.raises(InputError, match=message):
            call()
    other = write_squares(tmp_path / "other", classes=("one", "two"))
    with pytest.raises(InputError, match=r"was made for the classes red, green; .* has one, two"):
        exported.val(other)


def test_a_file_that_says_other_things_is_not_kept(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scores of the file are halved on their way out."""
    forward = ShippedGraph.forward

    def wrong(graph: ShippedGraph, images: Tensor) -> tuple[Tensor, ...]:
        boxes, scores, labels = forward(graph, images)
        return boxes, scores / 2, labels

    monkeypatch.setattr(ShippedGraph, "forward", wrong)
    with pytest.raises(ExportError, match=r"pt2 does not say what the weights say: .* not written"):
        alignrank.Detector.load(folder / "w.safetensors").export("pt2", out=tmp_path / "m.pt2")
    assert [entry.name for entry in tmp_path.iterdir()] == ["m.pt2.parity.json"], "what was found out is"
    written = json.loads((tmp_path / "m.pt2.parity.json").read_text())
    assert (written["passed"], written["format"], written["first_difference"]) == (False, "pt2", None)
    assert written["score_difference"] > 0.1
    path = alignrank.Detector.load(folder / "w.safetensors").export("pt2", out=tmp_path / "m.pt2", check=False)
    assert [entry.name for entry in path.parent.iterdir()] == ["m.pt2"], "a record is of the file beside it"


def test_the_command_line(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, data = str(folder / "m.pt2"), str(folder / "data")
    done = command("val", "--weights", file, "--data", data, "--json")
    assert done.returncode == 0, done.stderr
    assert 0 <= json.loads(done.stdout)["ap"] <= 1
    done = command("predict", "--weights", file, f"{data}/images", "--out", str(tmp_path / "out"), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["processed"] == 12
    refused(command("train", "--data", data, "--weights", file), "is an exported file")
    refused(command("layers", "--weights", file, "--data", data), "is an exported file")
    refused(command("val", "--weights", "absent.onnx", "--data", data), "no file absent.onnx")
    monkeypatch.setitem(parity.TOLERANCES, "fp32", parity.Tolerance(1e-3, 1e-4, 0, 0, ap=-1))
    done = command("export", "--weights", str(folder / "w.safetensors"), "--format", "pt2", "--data", data)
    assert done.returncode == 1
    assert "does not say what the weights say" in done.stderr.splitlines()[-1]
