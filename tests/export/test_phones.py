"""Formats of phones, of whole detectors: LiteRT says what the network says, Core ML is converted."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tiny_forms import tiny_form
from tiny_weights import spread_norms
from torch import Tensor, nn

from alignrank.export.formats import FORMATS
from alignrank.export.graph import subject_of
from alignrank.weights.recipe import load_recipe


def network_of(name: str) -> Any:
    """A tiny form in the memory layout that networks have when they run, with weights that say something."""
    torch.manual_seed(0)
    built = load_recipe(name, num_classes=2, overrides=tiny_form(name)).build()
    spread_norms(built.model)
    model = built.model.eval().to(memory_format=torch.channels_last)
    return subject_of(model, built.postprocess, imgsz=64, names=["a", "b"], recipe=name)


def test_litert_of_weights_that_are_not_contiguous(tmp_path: Path) -> None:
    """Those of one shape were mixed up by the converter."""
    pytest.importorskip("litert_torch")
    given, images = network_of("yolov8-n"), torch.rand(1, 3, 64, 64)
    FORMATS["litert"].module.write(given, tmp_path / "m.tflite")
    with torch.no_grad():
        expected = given.graph(images)[1]
    found = FORMATS["litert"].module.open_file(tmp_path / "m.tflite").run(images.numpy())[1]
    assert expected.std() > 1e-3
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_litert_gets_contiguous_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where its packages are not installed."""
    got: list[bool] = []

    class Converter(ModuleType):
        @staticmethod
        def convert(graph: nn.Module, images: tuple[Tensor, ...]) -> Any:
            got.extend(weight.is_contiguous() for weight in graph.parameters())
            return SimpleNamespace(export=lambda path: Path(path).touch())

    converter = Converter("litert_torch")
    converter.__spec__ = ModuleSpec("litert_torch", None)
    monkeypatch.setitem(sys.modules, "litert_torch", converter)
    FORMATS["litert"].module.write(network_of("yolov8-n"), tmp_path / "m.tflite")
    assert len(got) > 50
    assert all(got)


@pytest.mark.parametrize("name", ["alignrank-n", "yolov8-n"])
def test_core_ml_converts_whole_detectors(name: str, tmp_path: Path) -> None:
    coremltools = pytest.importorskip("coremltools")
    FORMATS["coreml"].module.write(network_of(name), tmp_path / "m.mlpackage")
    model = coremltools.models.MLModel(str(tmp_path / "m.mlpackage"), skip_model_load=True)
    outputs = [output.name for output in model.get_spec().description.output]
    assert outputs == (["boxes", "scores", "labels"] if name == "alignrank-n" else ["boxes", "scores"])
