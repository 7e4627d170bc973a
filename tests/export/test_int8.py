"""Export in 8 bits: what is quantized, what is not, and what decides."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from squares import write_squares
from tiny_weights import spread_scores, write_tiny_weights

import alignrank
from alignrank.contracts import Selection
from alignrank.data.decode import decode
from alignrank.data.letterbox import letterbox
from alignrank.errors import ExportError, InputError
from alignrank.export import first_difference, formats, int8, parity
from alignrank.export import onnx as export
from alignrank.export.options import ExportOptions
from alignrank.input_size import InputSize

onnx = pytest.importorskip("onnx")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_squares(tmp_path_factory.mktemp("int8") / "data", classes=("red", "green"))


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> alignrank.Detector:
    path = write_tiny_weights(tmp_path_factory.mktemp("int8") / "w.safetensors", ("red", "green"))
    found = alignrank.Detector.load(path)
    spread_scores(found.model)
    return found


@pytest.fixture(scope="module")
def in_full(detector: alignrank.Detector, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file before anything is quantized."""
    return detector.export("onnx", out=tmp_path_factory.mktemp("int8") / "full.onnx", check=False)


def quantized(
    in_full: Path, data: Path, path: Path, allowed: float = int8.INVERTED, spared: int = 0
) -> alignrank.Detector:
    pictures = [torch.from_numpy(decode(path)).permute(2, 0, 1) for path in sorted((data / "images").glob("train*"))]
    images = [letterbox(picture, InputSize(64, rect=False))[0][None].numpy() / np.float32(255) for picture in pictures]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(int8, "INVERTED", allowed)
        model, kept = int8.Quantizer(onnx.load(in_full), images, int8.CHAINS).quantized(spared=spared)
    onnx.save(model, path)
    assert kept == len(about(path)["kept"])
    return alignrank.Detector.load(path)


@pytest.fixture(scope="module")
def all_parts(in_full: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of which every part is in 8 bits."""
    path = tmp_path_factory.mktemp("int8") / "all.onnx"
    quantized(in_full, data, path, 1.0)
    return path


def about(path: Path) -> dict[str, Any]:
    entries = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    written: dict[str, Any] = json.loads(entries["int8"])
    return written


def kinds(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(path).graph.node]


def test_all_parts_or_none(
    detector: alignrank.Detector, in_full: Path, data: Path, all_parts: Path, tmp_path: Path
) -> None:
    """Where nothing may be inverted, and less, the file says what the weights say; where all may be, every convolution
    is in 8 bits, and a picture's scores are nearer to those of the weights than any other picture's are: of random
    weights 8 bits keep no more.
    """
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    expected = detector.predict(picture, conf=0.1, rect=False)[0]
    kept = quantized(in_full, data, tmp_path / "kept.onnx", -1.0).predict(picture, conf=0.1)[0]
    torch.testing.assert_close(kept.scores, expected.scores, atol=1e-4, rtol=0)
    assert "QuantizeLinear" not in kinds(tmp_path / "kept.onnx")
    assert kinds(all_parts).count("QuantizeLinear") > kinds(all_parts).count("Conv")
    assert about(all_parts)["kept"] == []
    pictures = [decode(path) for path in sorted((data / "images").iterdir())]
    in_32, in_8 = (best_scores(file, pictures) for file in (in_full, all_parts))
    own, other = (in_32 - in_8).abs().mean(), (in_32[:, None] - in_8).abs().mean()
    assert own > 0
    assert own < 0.85 * other


def best_scores(path: Path, pictures: list[np.ndarray[Any, Any]]) -> torch.Tensor:
    """[pictures,20]: of each its highest scores."""
    found = alignrank.Detector.load(path).predict(pictures, conf=0.0)
    return torch.stack([detections.scores[:20] for detections in found])


def test_the_worst_part_stays_first(in_full: Path, data: Path, all_parts: Path, tmp_path: Path) -> None:
    """A budget just below what all parts invert together: one after the other is put back, the worst one first, until
    the rest keeps to it.
    """
    everything = about(all_parts)
    assert everything["alone"] == {}
    assert everything["kept"] == []
    budget = everything["inverted"] * 0.99
    assert budget > 0
    quantized(in_full, data, tmp_path / "some.onnx", budget)
    written = about(tmp_path / "some.onnx")
    alone, kept = written["alone"], written["kept"]
    assert {"model.backbone.stem", "model.neck.top_down4"} <= set(alone)
    assert 0 < len(kept) < len(alone)
    assert kept == sorted(alone, key=lambda name: -alone[name])[: len(kept)]
    assert written["inverted"] <= budget
    quantized(in_full, data, tmp_path / "fewer.onnx", 1.0, spared=len(kept) - 1)
    assert about(tmp_path / "fewer.onnx")["inverted"] > budget
    quantized(in_full, data, tmp_path / "three.onnx", 1.0, spared=3)
    assert about(tmp_path / "three.onnx")["kept"] == sorted(alone, key=lambda name: -alone[name])[:3]
    assert kinds(tmp_path / "some.onnx").count("QuantizeLinear") < kinds(all_parts).count("QuantizeLinear")


def test_inversions_worked() -> None:
    """Three detections; the last one has overtaken the second: one of three pairs."""
    boxes = torch.tensor([[0.0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10]])
    labels = torch.zeros(3, dtype=torch.int64)
    expected = Selection(boxes, torch.tensor([0.9, 0.5, 0.4]), labels)
    order = [0, 2, 1]
    actual = Selection(boxes[order], torch.tensor([0.9, 0.55, 0.45]), labels)
    assert int8._inversions([expected], [actual]) == pytest.approx(1 / 3)
    assert int8._inversions([expected], [expected]) == 0
    empty = Selection(boxes[:0], torch.zeros(0), labels[:0])
    assert int8._inversions([empty], [empty]) == 0


def test_the_gate_has_its_own_tolerance(
    detector: alignrank.Detector, data: Path, all_parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file of some parts in 8 bits passes, and tells how far it is off; OpenVINO has other operators in them."""
    budget = about(all_parts)["inverted"] / 2
    monkeypatch.setattr(int8, "INVERTED", budget)
    path = detector.export("onnx", int8=True, data=data, out=tmp_path / "m.onnx")
    written = json.loads(Path(f"{path}.parity.json").read_text())
    assert written["precision"] == "int8"
    alone, kept = about(path)["alone"], about(path)["kept"]
    assert 0 < len(kept) < len(alone)
    assert kept == sorted(alone, key=lambda name: -alone[name])[: len(kept)]
    assert about(path)["inverted"] <= budget
    assert written["score_difference"] > parity.TOLERANCES["fp32"].scores
    assert written["inversions"] <= parity.TOLERANCES["int8"].inversions * written["pairs"]
    pytest.importorskip("openvino")
    path = detector.export("openvino", int8=True, data=data, out=tmp_path / "m.xml")
    assert "FakeQuantize" in path.read_text() or "Convert" in path.read_text()
    assert json.loads(Path(f"{path}.parity.json").read_text())["precision"] == "int8"


def test_once_more_with_less(
    detector: alignrank.Detector,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What the gate refuses is written again with more parts in 32 bits, of one tracing; the last refusal is the
    answer, and the only one that is looked into.
    """
    monkeypatch.setattr(formats, "SPARED", (0, 1, 99))
    monkeypatch.setattr(int8, "INVERTED", 1.0)
    refusing = replace(parity.TOLERANCES["int8"], inversions=1e-9)
    monkeypatch.setitem(parity.TOLERANCES, "int8", refusing)
    traced: list[str] = []
    for module in (export, first_difference):
        monkeypatch.setattr(module, "onnx_program", noted(module.onnx_program, traced, module.__name__))
    path = detector.export("onnx", int8=True, data=data, out=tmp_path / "m.onnx")
    assert traced == [export.__name__]
    said = capsys.readouterr().err
    assert said.count("pairs of detections are ranked the other way round (") == 2
    assert said.count("; once more, with more parts in 32 bits\n") == 2
    assert len(about(path)["kept"]) == len(about(path)["alone"])
    assert json.loads(Path(f"{path}.parity.json").read_text())["inversions"] == 0
    monkeypatch.setattr(formats, "SPARED", (0,))
    with pytest.raises(ExportError, match=r"ranked the other way round.*; not written"):
        detector.export("onnx", int8=True, data=data, out=tmp_path / "other.onnx")
    assert not (tmp_path / "other.onnx").exists()
    assert traced[1:] == [export.__name__, first_difference.__name__]


def test_no_file_is_tried_twice(tmp_path: Path) -> None:
    """Of a network that needs three parts in 32 bits to keep the order, one or two spared would make the same file."""
    tried: list[int] = []
    last: list[bool] = []

    def write(path: Path, spared: int) -> int:
        tried.append(spared)
        return max(spared, 3)

    def check(subject: Any, path: Path, is_last: bool) -> None:
        last.append(is_last)
        raise ExportError("export: no")

    row = replace(formats.FORMATS["onnx"], module=SimpleNamespace(in_8_bits=lambda subject: write))
    subject: Any = SimpleNamespace(options=ExportOptions(int8=True))
    with pytest.raises(ExportError, match="export: no"):
        formats._write(row, subject, tmp_path / "m.onnx", check)
    assert formats.SPARED == (0, 1, 2, 4, 8)
    assert tried == [0, 4, 8]
    assert last == [False, False, True]


def noted(function: Callable[..., Any], calls: list[str], name: str) -> Callable[..., Any]:
    """The function; each call adds the name to the list."""

    def called(*arguments: Any) -> Any:
        calls.append(name)
        return function(*arguments)

    return called


def test_what_cannot_be_asked(detector: alignrank.Detector, data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"int8: needs images like those that it will see.*give --data"):
        detector.export("onnx", int8=True, out=tmp_path / "m.onnx")
    with pytest.raises(InputError, match=r"int8: pt2 has no such form here \(onnx, openvino have\)"):
        detector.export("pt2", int8=True, data=data)
    with pytest.raises(InputError, match="half, int8: are 16 and 8 bits"):
        detector.export("onnx", int8=True, half=True, data=data)
    assert list(tmp_path.iterdir()) == []
