"""`benchmark`: what it times is what `predict` runs, engine by engine, and what it says of them adds up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_forms import tiny_form

import alignrank
from alignrank.benchmark.engines import Engine
from alignrank.benchmark.memory import peak_memory
from alignrank.benchmark.options import FILES, BenchmarkOptions
from alignrank.benchmark.run import say_benchmark
from alignrank.benchmark.timing import PARTS, rounds_of, timed
from alignrank.errors import InputError
from alignrank.export.formats import FORMATS
from alignrank.inference.predict import Pipeline
from alignrank.terminal.progress import console
from alignrank.weights import checkpoint


@pytest.fixture(scope="module")
def detector() -> alignrank.Detector:
    return alignrank.Detector("yolov8-n", classes=["a", "b"], **tiny_form("yolov8-n"))


@pytest.fixture(scope="module")
def result(detector: alignrank.Detector, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("benchmark")
    Image.fromarray(np.full((40, 60, 3), 90, np.uint8)).save(folder / "picture.png")
    return detector.benchmark(
        imgsz=64, batches=(1, 3), engines=("eager", "bf16", "onnx"), rounds=3, image=folder / "picture.png",
        memory=False, device="cpu", out=folder / "out",
    )  # fmt: skip


def test_figures_of_every_engine(result: dict[str, Any]) -> None:
    assert list(result["engines"]) == ["eager", "bf16", "onnx"]
    assert (result["picture"], result["imgsz"], result["rounds"]) == ([40, 60], 64, {"1": 3, "3": 3})
    assert result["engines"]["eager"]["ratio"] == 1
    for row in result["engines"].values():
        assert 0 < row["latency_ms"]["median"] <= row["latency_ms"]["p95"]
        assert set(row["parts_ms"]) == set(PARTS)
        assert row["images_per_second"]["1"] == pytest.approx(1e3 / row["latency_ms"]["median"], rel=0.01)
    assert result["decode_ms"] > 0
    assert result["versions"]["torch"]


def test_files_and_the_table(result: dict[str, Any]) -> None:
    folder = Path(result["out"])
    assert json.loads((folder / "benchmark.json").read_text())["engines"] == result["engines"]
    assert Image.open(folder / "benchmark.png").width > 500
    with console().capture() as captured:
        say_benchmark(result)
    assert "eager" in captured.get()
    assert "yolov8-n at 64 px, batch 1" in captured.get()


def test_what_is_timed_is_what_predict_finds(detector: alignrank.Detector, tmp_path: Path) -> None:
    """Detections by the parts that are timed, beside those of `predict` with its thresholds."""
    pixels = np.random.default_rng(0).integers(0, 256, (50, 50, 3), dtype=np.uint8)
    found = detector.predict(pixels, imgsz=64)[0]
    options = BenchmarkOptions(imgsz=64, batches=(2,), rounds=1)
    weights = detector.export("onnx", imgsz=64, out=tmp_path / "m.onnx", check=False)
    pipelines = {"onnx": Engine("onnx", weights).opened(options, "cpu")}
    seconds, number = timed(pipelines, pixels, {2: 4}, lambda: None)
    assert number == {"onnx": len(found.scores)}
    assert {part: len(values) for part, values in seconds["onnx"][2].items()} == dict.fromkeys(PARTS, 4)


def test_every_format_that_runs_is_an_engine() -> None:
    assert set(FILES) == {row.name for row in FORMATS.values() if row.runs}


def test_rounds_of_larger_batches_are_fewer() -> None:
    assert rounds_of((1, 2, 8, 16), 30) == {1: 30, 2: 15, 8: 5, 16: 5}
    assert rounds_of((1, 16), 3)[16] == 3
    assert rounds_of((8, 1), 30)[1] == 30


def test_memory_is_that_of_a_process(detector: alignrank.Detector, tmp_path: Path) -> None:
    """More than a bare Python has, and more with a picture that is 108 MB larger."""
    weights = detector.export("pt2", imgsz=64, out=tmp_path / "m.pt2", check=False)
    small, large = (
        peak_memory(Engine("pt2", weights), BenchmarkOptions(batches=(1,)), "cpu", shape)
        for shape in ((64, 64), (6000, 6000))
    )
    assert small is not None
    assert large is not None
    assert large - small > 100e6
    assert 100e6 < small < 3e9


def test_what_cannot_be_had(detector: alignrank.Detector, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the usual engines it is told and left out; one that was named is an error."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "openvino" else object())
    monkeypatch.setattr("alignrank.benchmark.engines.USUAL", ("eager", "openvino"))
    result = detector.benchmark(imgsz=64, batches=(1,), rounds=1, memory=False, device="cpu")
    assert list(result["engines"]) == ["eager"]
    assert "openvino is not installed" in result["skipped"]["openvino"]
    with pytest.raises(InputError, match="openvino is not installed"):
        detector.benchmark(imgsz=64, engines=["openvino"], rounds=1)
    with pytest.raises(InputError, match="fp16 needs a GPU"):
        detector.benchmark(imgsz=64, engines=["fp16"], rounds=1, device="cpu")
    with pytest.raises(InputError, match=r"engines: 'onx' is not known; did you mean 'onnx'"):
        detector.benchmark(engines=["onx"])
    with pytest.raises(InputError, match="batches: must be at least 1, got 0"):
        detector.benchmark(batches=(0,))


def test_an_exported_file_is_run_by_its_own_runtime(detector: alignrank.Detector, tmp_path: Path) -> None:
    path = detector.export("pt2", imgsz=64, out=tmp_path / "m.pt2", check=False)
    exported = alignrank.Detector.load(path)
    assert list(exported.benchmark(batches=(1,), rounds=1, memory=False)["engines"]) == ["pt2"]
    with pytest.raises(InputError, match="is run by its own runtime"):
        exported.benchmark(engines=["eager"])


def test_contiguous_and_eager_are_one_network(detector: alignrank.Detector, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    checkpoint.save(path, detector.model.state_dict(), recipe=detector.recipe, classes=detector.classes, metrics={})
    opened: dict[str, Pipeline] = {
        name: Engine(name, path).opened(BenchmarkOptions(imgsz=64), "cpu") for name in ("eager", "contiguous")
    }
    weights = {name: next(p for p in of.detector.network.parameters() if p.ndim == 4) for name, of in opened.items()}
    assert weights["contiguous"].is_contiguous()
    assert (weights["contiguous"] == weights["eager"]).all()
