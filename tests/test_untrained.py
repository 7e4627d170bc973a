"""A detector with random weights can be looked at, run, evaluated and exported, with a warning that it is one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from command_line import alignrank as command
from command_line import refused
from PIL import Image
from squares import write_squares

import alignrank
from alignrank.export import formats, onnx
from alignrank.export.graph import Subject
from alignrank.export.options import ExportOptions
from alignrank.input_size import InputSize
from alignrank.weights import checkpoint

TINY = {"model.size": "t", "train.imgsz": 64}
PICTURE = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)


def warnings(capfd: pytest.CaptureFixture[str]) -> int:
    return capfd.readouterr().err.count("random weights: figures and detections mean nothing")


def test_classes_are_numbered_where_none_are_named() -> None:
    detector = alignrank.Detector("yolov8-n", **TINY)
    assert detector.classes == tuple(str(label) for label in range(80))
    assert detector.recipe.to_dict()["num_classes"] == 80
    detector = alignrank.Detector("yolov8-n", classes=["cat", "dog"], **TINY)
    assert detector.classes == ("cat", "dog")
    assert detector.recipe.to_dict()["num_classes"] == 2
    wrong: list[Any] = ["cat", [], [1], ["a", "a"]]
    for classes in wrong:
        with pytest.raises(alignrank.InputError, match=r"classes: (must be a list of names, got|'a' is given twice)"):
            alignrank.Detector("yolov8-n", classes=classes)
    with pytest.raises(alignrank.InputError, match=r"yolov8-x.*yolov8-n"):
        alignrank.Detector("yolov8-x")


def test_the_network_is_one_object(tmp_path: Path) -> None:
    detector = alignrank.Detector("yolov10-n", classes=["cat", "dog"], **TINY)
    model = detector.model
    assert isinstance(model, torch.nn.Module)
    assert model is detector.model
    assert not model.training
    checkpoint.save(
        tmp_path / "w.safetensors", model.state_dict(), recipe=detector.recipe, classes=detector.classes, metrics={}
    )
    loaded = alignrank.Detector.load(tmp_path / "w.safetensors")
    assert loaded.model is loaded.model
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, loaded.model.state_dict()[name])


def test_no_backbone_is_fetched() -> None:
    """The recipe trains from a pretrained one; a look at the network needs no network."""
    overrides = {"model.backbone": "timm:mobilenetv2_050", "model.pretrained": "hub", "train.imgsz": 64}
    detector = alignrank.Detector("retinanet-r50", classes=["cat"], **overrides, **{"neck.width": 32})
    assert detector.recipe.to_dict()["model"]["pretrained"] == "hub"
    assert sum(p.numel() for p in detector.model.parameters()) > 1000


def test_it_predicts_with_one_warning(capfd: pytest.CaptureFixture[str]) -> None:
    detector = alignrank.Detector("yolov10-n", **TINY)
    for _ in range(2):
        (found,) = detector.predict(PICTURE, conf=0, device="cpu")
    assert len(found) > 0
    assert set(found.class_names) <= set(detector.classes)
    assert warnings(capfd) == 1


def test_weights_that_were_changed_count(capfd: pytest.CaptureFixture[str]) -> None:
    """And are no longer called random: someone trains the network in a loop of their own."""
    detector = alignrank.Detector("yolov10-n", classes=["cat", "dog"], **TINY)
    before = detector.predict(PICTURE, conf=0)[0].scores
    assert warnings(capfd) == 1
    with torch.no_grad():
        for parameter in detector.model.parameters():
            parameter.add_(0.05)
    after = detector.predict(PICTURE, conf=0)[0].scores
    assert before.tolist() != after.tolist()
    assert warnings(capfd) == 0


def test_it_is_evaluated_with_a_warning(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """For its own classes, or, where it was given none, for those of the data."""
    data = write_squares(tmp_path / "data", num_train=4, num_val=2)
    detector = alignrank.Detector("yolov8-n", **TINY)
    metrics = detector.val(data, batch=4)
    assert 0 <= metrics.ap <= 1
    assert warnings(capfd) == 1
    assert len(detector.classes) == 80
    with pytest.raises(alignrank.InputError, match=r"yolov8-n: was made for the classes cat; .* has "):
        alignrank.Detector("yolov8-n", classes=["cat"], **TINY).val(data)


def test_training_needs_no_classes_and_replaces_the_network(tmp_path: Path) -> None:
    data = write_squares(tmp_path / "data", num_train=4, num_val=2)
    detector = alignrank.Detector("yolov8-n", **TINY)
    before = detector.model
    options: dict[str, Any] = {"epochs": 1, "batch": 4, "workers": 0, "device": "cpu", "out": tmp_path / "run"}
    detector.train(data, **options)
    assert detector.model is not before
    assert detector.classes != tuple(str(label) for label in range(80))
    other = alignrank.Detector("yolov8-n", classes=["cat"], **TINY)
    with pytest.raises(alignrank.InputError, match="the detector was made for cat"):
        other.train(data, **{**options, "out": tmp_path / "other"})


def test_it_is_exported_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    detector = alignrank.Detector("yolov8-n", classes=["cat", "größe"], **TINY)
    path = detector.export("onnx", imgsz=64)
    assert path == Path("yolov8-n.onnx")
    assert warnings(capfd) == 1
    session = onnxruntime.InferenceSession(path)
    assert json.loads(session.get_modelmeta().custom_metadata_map["names"]) == ["cat", "größe"]
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = detector.model(image)
    np.testing.assert_allclose(session.run(None, {"images": image.numpy()})[1], expected.scores(), atol=1e-4)


def test_exports_say_where_the_recipe_places_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also at another size than the recipe's own."""
    sizes: list[InputSize] = []
    monkeypatch.setattr(onnx, "write", lambda subject, path: (sizes.append(subject.size), path.touch()))
    monkeypatch.chdir(tmp_path)
    for place in ("corner", "middle"):
        Path("mine.yaml").write_text(f"detector: yolo\nmodel: {{size: t}}\ndata: {{place: {place}}}\n")
        for imgsz in (None, (64, 96)):
            formats.export_weights(Path("mine.yaml"), "onnx", options=ExportOptions(imgsz)).unlink()
    assert [(size.imgsz, size.fit.corner) for size in sizes] == [
        (640, True), ((64, 96), True), (640, False), ((64, 96), False),
    ]  # fmt: skip


def test_the_command_exports_a_recipe_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of one's own, too; a file of that name comes first."""
    written: list[tuple[str, int, str]] = []

    def write(subject: Subject, path: Path) -> None:
        written.append((path.name, len(subject.names), subject.recipe))
        path.touch()

    monkeypatch.setattr(onnx, "write", write)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.v2.yaml").write_text("detector: yolo\nmodel:\n  size: t\n")
    for name, out in (("yolov8-n", "yolov8-n.onnx"), ("mine.v2.yaml", "mine.v2.onnx")):
        done = command("export", "--weights", name, "--no-check", "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["out"] == out
        assert "random weights: figures and detections mean nothing" in done.stderr
    assert written == [("yolov8-n.onnx", 80, "yolov8-n"), ("mine.v2.onnx", 80, "mine.v2")]
    refused(command("export", "--weights", "yolov8"), "no file yolov8")
    refused(command("export", "--weights", "none.yaml"), "none.yaml")
    Image.fromarray(PICTURE).save(tmp_path / "yolov8-n", "PNG")
    refused(command("export", "--weights", "yolov8-n"), "is a PNG image")
