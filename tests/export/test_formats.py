"""Exported files: what their metadata says is what was exported, they run as the network does, and what cannot be."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from alignrank.contracts import Predictions, Thresholds
from alignrank.detectors.postprocess import NmsConfig, NonMaximumSuppression, TopK
from alignrank.errors import InputError
from alignrank.export.described import described
from alignrank.export.formats import FORMATS, export_weights
from alignrank.export.graph import Opened, subject_of
from alignrank.export.half import SUFFIX, WEIGHTS_FROM, halve
from alignrank.export.options import ExportOptions
from alignrank.export.runtimes import ExportedNetwork, open_exported
from alignrank.input_size import Fit, InputSize
from alignrank.weights import checkpoint
from alignrank.weights.catalog import EXPORTED

NAMES = ["cell", "größe"]
HERE = Path("m.onnx")
PACKAGES = {"onnx": "onnxscript", "openvino": "openvino", "litert": "litert_torch", "coreml": "coremltools"}


class Points(nn.Module):
    """Three points an image, whose boxes overlap: the first two by .6, the third not."""

    stride = 32

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, images: Tensor) -> Predictions:
        mean = images.mean((1, 2, 3))[:, None, None] * self.scale
        boxes = torch.tensor([[0.0, 0, 20, 20], [5, 0, 25, 20], [30, 30, 60, 50]]) + mean
        logits = torch.tensor([[2.0, -2.0], [1.0, 0.5], [-1.0, 3.0]]) + mean
        return Predictions(logits, boxes, strides=torch.tensor([[8.0], [8.0], [16.0]]))


def subject(postprocess: Any, imgsz: Any = 64, **options: Any) -> Any:
    return subject_of(
        Points(), postprocess, imgsz=imgsz, names=NAMES, recipe="points", options=ExportOptions(**options)
    )


def test_every_format_has_its_suffix() -> None:
    assert tuple(row.suffix for row in FORMATS.values()) == EXPORTED


@pytest.mark.parametrize("fit", [Fit(), Fit("floor", False), Fit("detr", corner=True), Fit("stretch")])
@pytest.mark.parametrize("imgsz", [64, (48, 90)])
def test_the_input_is_told(imgsz: Any, fit: Fit) -> None:
    """A pair's canvas is the landscape that the graph takes, also of a picture that is tall."""
    about = subject(TopK(), InputSize.of(imgsz, rect=False, fit=fit)).about()
    read = described(about, HERE)
    assert (read.names, read.recipe, read.stride, read.size.fit) == (tuple(NAMES), "points", 32, fit)
    assert read.size.imgsz == imgsz
    for picture in ((300, 100), (100, 300), (64, 64)):
        assert read.size.canvas(picture) == ((64, 64) if imgsz == 64 else (64, 96))
        content = read.size.content(picture)
        assert all(side <= limit for side, limit in zip(content, read.size.canvas(picture), strict=True))


def test_the_selection_is_told() -> None:
    config = NmsConfig(conf=0.1, iou=0.5, max_dets=7, per_level=2, consensus=0.8, agnostic=True)
    read = described(subject(NonMaximumSuppression(config)).about(), HERE)
    assert isinstance(read.postprocess, NonMaximumSuppression)
    assert read.postprocess.thresholds == Thresholds(0.1, 0.5, 7)
    assert (read.postprocess.per_level, read.postprocess.consensus, read.postprocess.agnostic) == (2, 0.8, True)
    assert not read.postprocess.pairs
    pairs = described(subject(NonMaximumSuppression(NmsConfig(per_level=2, pairs=True))).about(), HERE).postprocess
    assert isinstance(pairs, NonMaximumSuppression)
    assert (pairs.per_level, pairs.pairs) == (2, True)
    assert read.level_points == (2, 1)
    assert described(subject(NonMaximumSuppression()).about(), HERE).postprocess.thresholds is None
    within = subject(NonMaximumSuppression(config), nms=True).about()
    read = described(within, HERE)
    assert isinstance(read.postprocess, TopK)
    assert read.postprocess.thresholds == Thresholds(0.1, 0.5, 7)
    made = json.loads(within["output"])
    assert (json.loads(within["nms_free"]), made["nms"]) == (True, None)
    assert made["suppressed"] == {
        "iou": 0.5, "class_wise": False, "consensus": 0.8, "candidates": 1000, "per_level": 2,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"names": None}, "holds no metadata of alignrank"),
        ({"preprocessing": "{"}, "its metadata is damaged"),
        ({"output": "[]"}, "its metadata is damaged"),
        ({"imgsz": "null"}, "its metadata is damaged"),
    ],
)
def test_metadata_that_cannot_be_read(change: dict[str, Any], message: str) -> None:
    about = subject(TopK()).about() | change
    with pytest.raises(InputError, match=f"m.onnx: {message}"):
        described({key: value for key, value in about.items() if value is not None}, HERE)


@pytest.mark.parametrize(
    ("postprocess", "nms"), [(TopK(), False), (NonMaximumSuppression(), False), (NonMaximumSuppression(), True)]
)
@pytest.mark.parametrize("name", ["onnx", "openvino", "pt2", "torchscript"])
def test_a_file_runs_as_the_network(name: str, postprocess: Any, nms: bool, tmp_path: Path) -> None:
    """Any number of images; what is left of the first two boxes is one, by NMS within the graph or behind it."""
    pytest.importorskip(PACKAGES.get(name, "torch"))
    row, path = FORMATS[name], tmp_path / f"m{FORMATS[name].suffix}"
    row.module.write(subject(postprocess, nms=nms), path)
    opened = open_exported(path)
    assert (opened.classes, opened.recipe, opened.size.rect) == (tuple(NAMES), "points", False)
    images = torch.rand(3, 3, 64, 64)
    with torch.no_grad():
        said = Points()(images)
    limits: dict[str, Any] = {"conf": 0.1, "iou": 0.5, "max_dets": 10}
    if nms:
        said, limits = Points()(images), limits | {"iou": 0.7}  # the graph's own
    for count in (1, 3):
        expected = postprocess(Predictions(said.logits[:count], said.boxes[:count]), **limits)
        found = opened.postprocess(opened.network(images[:count]), **limits)
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one.boxes, other.boxes.detach(), atol=1e-3, rtol=0)
            torch.testing.assert_close(one.scores, other.scores.detach(), atol=1e-5, rtol=0)
            assert torch.equal(one.labels, other.labels)


def test_litert(tmp_path: Path) -> None:
    """One image at a time in the file, any number for who runs it; metadata lies within."""
    pytest.importorskip("litert_torch")
    FORMATS["litert"].module.write(subject(TopK()), tmp_path / "m.tflite")
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        expected = TopK()(Points()(images), conf=0.1, iou=0.7, max_dets=10)
    opened = open_exported(tmp_path / "m.tflite")
    found = opened.postprocess(opened.network(images), conf=0.1, iou=0.7, max_dets=10)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.boxes, other.boxes, atol=1e-3, rtol=0)
        torch.testing.assert_close(one.scores, other.scores, atol=1e-5, rtol=0)


def test_core_ml_is_written_with_its_metadata(tmp_path: Path) -> None:
    coremltools = pytest.importorskip("coremltools")
    FORMATS["coreml"].module.write(subject(TopK()), tmp_path / "m.mlpackage")
    model = coremltools.models.MLModel(str(tmp_path / "m.mlpackage"), skip_model_load=True)
    assert described(dict(model.user_defined_metadata), HERE).names == tuple(NAMES)
    with pytest.raises(InputError, match="Core ML files run on Apple's machines alone"):
        open_exported(tmp_path / "m.mlpackage")


def network(imgsz: int = 64, *, one_image: bool = False, ran: list[int] | None = None) -> ExportedNetwork:
    """A file without a file: it says one box for each image, of the score of its first pixel."""

    def run(images: Any) -> list[Any]:
        if ran is not None:
            ran.append(len(images))
        count = len(images)
        return [np.ones((count, 1, 4), np.float32), images[:, :1, 0, 0], np.ones((count, 1), np.int64)]

    about = described(subject(TopK(), imgsz).about(one_image=one_image), HERE)
    return ExportedNetwork(Opened(run, {}), about, HERE)


def test_batches_of_a_file_of_one_image() -> None:
    ran: list[int] = []
    images = torch.rand(3, 3, 64, 64)
    scores = network(one_image=True, ran=ran)(images).scores()
    assert ran == [1, 1, 1]
    assert torch.equal(scores[:, 0, 1], images[:, 0, 0, 0])
    assert scores[:, 0, 0].tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    "images",
    [torch.rand(1, 3, 64, 96), torch.rand(1, 1, 64, 64), torch.rand(3, 64, 64), torch.rand(1, 3, 64, 64).double()],
)
def test_images_that_do_not_fit(images: Tensor) -> None:
    with pytest.raises(InputError, match=r"m.onnx: takes float32 images of shape \[B, 3, 64, 64\], got torch.float"):
        network()(images)


@pytest.mark.parametrize("suffix", EXPORTED[:4])
def test_damaged_files(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"m{suffix}"
    path.write_bytes(b"not this")
    if suffix == ".xml":
        pytest.importorskip("openvino")
        with pytest.raises(InputError, match=r"m.xml: has no weights beside it; m.bin belongs to it"):
            open_exported(path)
        path.with_suffix(".bin").touch()
    with pytest.raises(InputError, match=rf"m{suffix}: is no "):
        open_exported(path)
    with pytest.raises(InputError, match=r"no file .*absent"):
        open_exported(tmp_path / f"absent{suffix}")
    with pytest.raises(InputError, match=f"m{suffix}: is an exported file: `predict`, `val` and `benchmark` take it"):
        checkpoint.load(path)
    with pytest.raises(InputError, match="device: exported files run on the cpu here, not on cuda"):
        open_exported(path, "cuda")


def test_a_foreign_onnx_file(tmp_path: Path) -> None:
    from onnx import TensorProto, helper, save

    one = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    other = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Abs", ["x"], ["y"])], "g", [one], [other])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), tmp_path / "m.onnx")
    with pytest.raises(InputError, match=r"m.onnx: holds no metadata of alignrank"):
        open_exported(tmp_path / "m.onnx")


def test_half_the_weights() -> None:
    """Large tensors are of 16 bits and cast where they were; short ones stay."""
    from onnx import TensorProto, helper, numpy_helper

    weight, bias = np.full(WEIGHTS_FROM, 1e6, np.float32), np.full(WEIGHTS_FROM - 1, 1.5, np.float32)
    tensors = [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(bias, "b")]
    made = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    graph = helper.make_graph([helper.make_node("Abs", ["w"], ["y"])], "g", [], made, tensors)
    model = helper.make_model(graph)
    halve(model)
    assert [(tensor.name, tensor.data_type) for tensor in model.graph.initializer] == [
        (f"w{SUFFIX}", TensorProto.FLOAT16), ("b", TensorProto.FLOAT),
    ]  # fmt: skip
    assert float(numpy_helper.to_array(model.graph.initializer[0])[0]) == 65504
    assert [(node.op_type, *node.input, *node.output) for node in model.graph.node] == [
        ("Cast", f"w{SUFFIX}", "w"), ("Abs", "w", "y"),
    ]  # fmt: skip


def test_options_that_cannot_be(tmp_path: Path) -> None:
    soft = NonMaximumSuppression(NmsConfig(soft=True))
    with pytest.raises(InputError, match="nms: points has soft suppression"):
        subject(soft, nms=True)
    with pytest.raises(InputError, match="dynamic: points takes so many points of each level"):
        subject(NonMaximumSuppression(NmsConfig(per_level=5)), dynamic=True)
    with pytest.raises(InputError, match=r"half: must be True or False"):
        ExportOptions(half="yes")  # type: ignore[arg-type]
    for name, options, message in (
        ("onxx", {}, "format: 'onxx' is not supported; did you mean 'onnx'"),
        ("torchscript", {"dynamic": True}, r"dynamic: torchscript has no such form here \(onnx, openvino, pt2 have\)"),
        ("pt2", {"half": True}, r"half: pt2 has no such form here \(onnx, openvino, coreml have\); leave out --half"),
    ):
        with pytest.raises(InputError, match=message):
            export_weights(tmp_path / "w.safetensors", name, options=ExportOptions(**options))


@pytest.mark.parametrize(("name", "package"), list(PACKAGES.items()))
def test_a_missing_converter(name: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    found = rf"the package \S+ is not installed \(extra '{FORMATS[name].extra}' of alignrank\); run `pip install"
    with pytest.raises(InputError, match=found):
        FORMATS[name].module.write(subject(TopK()), tmp_path / f"m{FORMATS[name].suffix}")
    assert not list(tmp_path.iterdir())
