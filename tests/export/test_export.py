"""Export: every recipe computes the same in ONNX Runtime as in PyTorch, and what does not is never written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from tiny_forms import FINE_NECKS, distinct_recipes, fine_hosts, recipe_of, tiny_form
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from alignrank.contracts import Predictions
from alignrank.detectors import DETECTORS
from alignrank.detectors.postprocess import NonMaximumSuppression, TopK
from alignrank.detectors.rank_detr import RankBias
from alignrank.errors import InputError
from alignrank.export import onnx as export
from alignrank.export.formats import FORMATS, export_weights
from alignrank.export.graph import subject_of
from alignrank.export.onnx import ExportError, export_onnx
from alignrank.export.parity import TOLERANCES
from alignrank.export.runtimes import open_exported
from alignrank.inference.exported import compared
from alignrank.input_size import Size
from alignrank.nn import fine
from alignrank.weights.deployed import Deployed, SelectionOptions
from alignrank.weights.recipe import load_recipe

NAMES = ["cell", "plate", "größe"]
SIDE = 64
TWO_STAGES = [name for name in distinct_recipes() if name.startswith(("torchvision/faster", "torchvision/mask"))]


def randomized(model: Any) -> Any:
    """Weights of no special form: spread scores, and batch norms whose folding matters."""
    generator = torch.Generator().manual_seed(0)
    # FINE's are random from the start; larger ones make a product of maps that magnifies rounding beyond the tolerance.
    random = {part for module in model.modules() if isinstance(module, fine.FINE) for part in module.modules()}
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in (
                (module.running_mean, -0.3, 0.3), (module.running_var, 0.5, 2.0), (module.weight.data, 0.7, 1.5),
                (module.bias.data, -0.3, 0.3),
            ):  # fmt: skip
                tensor.uniform_(low, high, generator=generator)
        elif isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None and module not in random:
            # He's spread at most: more, and towers without norms magnify rounding beyond the export's tolerance.
            spread = min(0.3, (2 / module.weight[0].numel()) ** 0.5)
            module.weight.data.normal_(0, spread, generator=generator)
            module.bias.data.normal_(0, 1, generator=generator)
        elif isinstance(module, RankBias):
            module.weight.data.normal_(0, 1, generator=generator)
    return model.eval()


class Points(nn.Module):
    """A network of two points an image: small enough to export in a second."""

    stride = 32

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, images: Tensor) -> Predictions:
        mean = images.mean((1, 2, 3))[:, None, None] * self.scale
        boxes = mean * torch.tensor([[10.0, 20.0, 30.0, 40.0], [1.0, 2.0, 30.0, 50.0]])
        return Predictions(mean * torch.tensor([[1.0, -2.0], [0.5, 3.0]]), boxes)


class Modulated(nn.Module):
    """FINE, between maps of strides 16 and 32, is all that it has: each cell's score is that of its modulated map."""

    stride = 32

    def __init__(self, attention: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.enter = nn.Conv2d(3, 16, 16, 16)
        self.fine = fine.FINE(16, 1, attention=attention)

    def forward(self, images: Tensor) -> Predictions:
        low = self.enter(images)
        cells = self.fine(low, avg_pool2d(low, 2)).flatten(2).transpose(1, 2)
        return Predictions(10 * cells.mean(-1, keepdim=True), cells[..., :4].cumsum(-1))


@pytest.mark.parametrize("name", [name for name in distinct_recipes() + FINE_NECKS if name not in TWO_STAGES])
def test_eager_equals_exported(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(recipe_of(name), num_classes=3, overrides=tiny_form(name))
    entry = DETECTORS[recipe.detector]
    model, postprocess = randomized(entry.model(recipe.architecture)), entry.postprocess(recipe.architecture)
    images = torch.rand(2, 3, SIDE, SIDE)
    with torch.no_grad():
        expected = model(images)
    path = export_onnx(model, postprocess, tmp_path / "m.onnx", imgsz=SIDE, names=NAMES, max_dets=20, recipe=name)
    outputs = onnxruntime.InferenceSession(path).run(None, {"images": images.numpy()})
    scores = expected.scores()
    assert scores.std() > 0.01, "the weights must make the comparison worth something"
    if isinstance(postprocess, TopK):
        count = min(20, scores.shape[1])  # RF-DETR has no more queries than patches of a small picture
        best = scores.flatten(1).sort(descending=True).values[:, :count]
        assert [x.shape for x in outputs] == [(2, count, 4), (2, count), (2, count)]
        np.testing.assert_allclose(outputs[1], best, atol=1e-4)
        assert set(outputs[2].flatten()) <= {0, 1, 2}
    else:
        boxes = expected.boxes.numpy()
        largest = np.maximum(np.abs(boxes).max(-1, keepdims=True), 1)  # a coordinate is a centre and half of a side
        np.testing.assert_allclose(outputs[0] / largest, boxes / largest, atol=1e-3, rtol=0)
        np.testing.assert_allclose(outputs[1], scores, atol=1e-4)
    file = open_exported(path)
    detector = Deployed(model, postprocess, tuple(NAMES), file.size, name, torch.device("cpu"))
    parity = compared(detector, file, None, TOLERANCES["fp32"])
    parity.check(TOLERANCES["fp32"], name)
    assert parity.detections >= 80  # ten of each drawn scene: RF-DETR has no more queries


@pytest.mark.parametrize(
    ("format", "name"),
    [("openvino", "alignrank-n"), ("openvino", "rank-h-detr-r50"), ("pt2", "yolov8-n"), ("torchscript", "alignrank-n")],
)
def test_other_formats_pass_the_gate(format: str, name: str, tmp_path: Path) -> None:
    if format == "openvino":
        pytest.importorskip("openvino")
    recipe = load_recipe(name, num_classes=3, overrides=tiny_form(name))
    entry = DETECTORS[recipe.detector]
    model, postprocess = randomized(entry.model(recipe.architecture)), entry.postprocess(recipe.architecture)
    path = tmp_path / f"m{FORMATS[format].suffix}"
    FORMATS[format].module.write(subject_of(model, postprocess, imgsz=SIDE, names=NAMES, recipe=name), path)
    file = open_exported(path)
    detector = Deployed(model, postprocess, tuple(NAMES), file.size, name, torch.device("cpu"))
    parity = compared(detector, file, None, TOLERANCES["fp32"])
    parity.check(TOLERANCES["fp32"], name)
    assert parity.detections > 100


def test_what_cannot_be_exported(tmp_path: Path) -> None:
    for name in TWO_STAGES:
        built = load_recipe(name, num_classes=3, overrides=tiny_form(name)).build()
        with pytest.raises(InputError, match="export: a detector with two stages cannot be written as ONNX"):
            export_onnx(built.model, built.postprocess, tmp_path / "m.onnx", imgsz=SIDE, names=NAMES)
    assert not list(tmp_path.iterdir())


def neck_of(name: str) -> type:
    with torch.device("meta"):
        return type(load_recipe(recipe_of(name), overrides=tiny_form(name)).build().model.neck)


def test_fine_is_exported_in_every_neck() -> None:
    assert {neck_of(name) for name in FINE_NECKS} == {neck_of(name) for name in fine_hosts()}


@pytest.mark.parametrize("attention", ["vanilla", "window", "area", "linear"])
def test_other_attentions_of_fine(attention: Any, tmp_path: Path) -> None:
    """Export compares the graph with the network, for one image and for three; sides that windows do not divide."""
    path = export_onnx(Modulated(attention), TopK(), tmp_path / "m.onnx", imgsz=160, names=NAMES)
    images = torch.rand(2, 3, 160, 160)
    with torch.no_grad():
        expected = Modulated(attention)(images).scores()[..., 0]
    assert expected.std() > 0.01
    scores = onnxruntime.InferenceSession(path).run(None, {"images": images.numpy()})[1]
    np.testing.assert_allclose(scores, expected.sort(descending=True).values, atol=1e-4)


def test_metadata_and_inputs(tmp_path: Path) -> None:
    path = export_onnx(Points(), TopK(), tmp_path / "new" / "m.onnx", imgsz=SIDE, names=NAMES, recipe="points")
    model = onnx.load(path)
    onnx.checker.check_model(model)
    metadata = {item.key: item.value for item in model.metadata_props}
    assert json.loads(metadata["names"]) == NAMES
    assert {key: metadata[key] for key in ("imgsz", "recipe", "nms_free")} == {
        "imgsz": "64", "recipe": "points", "nms_free": "true",
    }  # fmt: skip
    assert metadata["version"]
    (images,) = model.graph.input
    assert [d.dim_value or d.dim_param for d in images.type.tensor_type.shape.dim] == ["batch", 3, SIDE, SIDE]
    assert [output.name for output in model.graph.output] == ["boxes", "scores", "labels"]
    assert [p.name for p in path.parent.iterdir()] == ["m.onnx"], "no weights beside it, nothing temporary left"


def test_a_pair_is_exported_as_landscape(tmp_path: Path) -> None:
    """(48, 90): both sides up to the stride, the shorter is the height; the graph is compared at that size."""
    path = export_onnx(Points(), TopK(), tmp_path / "m.onnx", imgsz=(48, 90), names=NAMES)
    session = onnxruntime.InferenceSession(path)
    assert session.get_inputs()[0].shape == ["batch", 3, 64, 96]
    assert json.loads(session.get_modelmeta().custom_metadata_map["imgsz"]) == [48, 90]
    images = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        expected = Points()(images)
    best = expected.scores().flatten(1).sort(descending=True).values[:, :2]
    np.testing.assert_allclose(session.run(None, {"images": images.numpy()})[1], best, atol=1e-5)


def test_the_model_is_left_as_it_was(tmp_path: Path) -> None:
    model = Points().train()
    export_onnx(model, NonMaximumSuppression(), tmp_path / "m.onnx", imgsz=SIDE, names=NAMES)
    assert model.training


@pytest.mark.parametrize("postprocess", [TopK(), NonMaximumSuppression()])
@pytest.mark.parametrize("change", [0.9, 1.01, float("nan")])
def test_a_graph_that_differs_is_not_written(
    postprocess: Any, change: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(graph: export.ExportGraph, size: Size) -> Any:
        model = original(graph, size)
        graph.model.scale.data.fill_(change)  # type: ignore[union-attr,operator]
        return model

    original = export._to_onnx
    monkeypatch.setattr(export, "_to_onnx", wrong)
    path = tmp_path / "m.onnx"
    path.write_text("before")
    with pytest.raises(ExportError, match=r"not written; the first value that differs is that of node \S*mul"):
        export_onnx(Points(), postprocess, path, imgsz=SIDE, names=NAMES)
    assert path.read_text() == "before"
    assert len(list(tmp_path.iterdir())) == 1


def test_rows_must_be_the_networks_own() -> None:
    """Sorted scores alone would pass a graph that gathers the wrong boxes or labels."""
    all_boxes, all_scores = np.array([[0.0, 0, 9, 9], [5, 5, 8, 8]]), np.array([[0.9, 0.1], [0.9, 0.2]])
    boxes, scores = all_boxes[[1, 0]], np.array([0.9, 0.9])
    export._check_rows(boxes, scores, np.array([0, 0]), all_boxes, all_scores)
    with pytest.raises(ExportError, match="1 of 2"):
        export._check_rows(boxes, scores, np.array([0, 1]), all_boxes, all_scores)
    with pytest.raises(ExportError, match="1 of 2"):
        export._check_rows(boxes + np.array([[0], [1]]), scores, np.array([0, 0]), all_boxes, all_scores)


def test_options_and_packages_that_do_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.onnx"
    with pytest.raises(InputError, match="imgsz: must be a multiple of 32 up to 8192, got 65"):
        export_onnx(Points(), TopK(), path, imgsz=65, names=NAMES)
    with pytest.raises(InputError, match=r"imgsz: must be a pair of sides from 32 to 8192, the shorter first"):
        export_onnx(Points(), TopK(), path, imgsz=(96, 64), names=NAMES)
    with pytest.raises(InputError, match="max_dets"):
        export_onnx(Points(), TopK(), path, imgsz=64, names=NAMES, max_dets=0)
    with pytest.raises(InputError, match="cannot be written"):
        export_onnx(Points(), TopK(), tmp_path, imgsz=64, names=NAMES)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(InputError, match=r"the package onnxscript is not installed .*run `pip install '"):
        export_onnx(Points(), TopK(), path, imgsz=64, names=NAMES)
    assert not list(tmp_path.iterdir())


def test_no_mirror_image(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="tta: is of predict and val"):
        export_weights(tmp_path / "w.safetensors", "onnx", selection=SelectionOptions(tta=True))


def test_stdout_stays_free_and_neither_losses_nor_data_are_imported(tmp_path: Path) -> None:
    code = f"""
import sys
from alignrank.detectors import DETECTORS
from alignrank.export.onnx import export_onnx
entry = DETECTORS["yolo"]
config = entry.config(num_classes=2, model={{"size": "t"}})
export_onnx(entry.model(config), entry.postprocess(config), {str(tmp_path / "m.onnx")!r}, imgsz=32, names=["a", "b"])
found = [name for name in sys.modules if name.startswith(("alignrank.losses", "alignrank.data", "alignrank.assign"))]
assert not found, found
"""
    # One thread: on busy cores the barriers of two threads take minutes.
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=one_thread)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert done.stderr == ""
