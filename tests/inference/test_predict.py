"""Prediction: boxes in the source's own pixels, the same for any batch size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from finder import CPU, NAMES, Finder, run, scene
from torch import nn

from alignrank.contracts import WantedThresholds
from alignrank.detectors.postprocess import NonMaximumSuppression, TopK
from alignrank.errors import InputError
from alignrank.inference.options import PredictOptions
from alignrank.inference.predict import predict
from alignrank.input_size import InputSize
from alignrank.weights.deployed import Deployed
from alignrank.weights.recipe import build_detector


@pytest.mark.parametrize("rect", [False, True])
@pytest.mark.parametrize(("height", "width"), [(60, 90), (90, 90), (200, 100), (61, 83), (700, 640)])
def test_boxes_come_back_in_the_pixels_of_the_source(height: int, width: int, rect: bool) -> None:
    (found,) = run(scene(height, width), rect=rect)
    expected = torch.tensor([[10.0, 20, 40, 50], [60, 5, 80, 15]])
    # The network sees whole pixels of its own input, and blurred edges.
    assert (found.boxes - expected).abs().max() <= 2 * max(1, max(height, width) / 192)
    assert found.labels.tolist() == [0, 1]
    assert found.scores.tolist() == pytest.approx([0.9, 0.8], abs=1e-5)
    assert found.size == (height, width)
    assert found.image is None


def test_exact_at_the_networks_own_size() -> None:
    (found,) = run(scene(192, 192))
    assert found.boxes.tolist() == [[10, 20, 40, 50], [60, 5, 80, 15]]


@pytest.mark.parametrize("rect", [False, True])
@pytest.mark.parametrize(("name", "postprocess"), [("yolov10-n", TopK()), ("yolov8-n", NonMaximumSuppression())])
def test_any_batch_size_gives_the_same(name: str, postprocess: Any, rect: bool) -> None:
    """In squares, and in the images' own shapes: 64 x 64, three of 32 x 64 that follow one another, 64 x 32."""
    model = build_detector(name, 2, **{"model.size": "t"}).model.eval()
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.bias is not None:
            nn.init.normal_(module.weight, std=0.5)
            nn.init.normal_(module.bias)
    sizes = [(40, 64), (49, 64), (30, 64), (20, 50), (15, 64), (64, 30), (85, 64)]
    pictures = [np.random.default_rng(i).integers(0, 256, (*size, 3), np.uint8) for i, size in enumerate(sizes)]
    detector = Deployed(model, postprocess, NAMES, InputSize(64, rect=rect), name, CPU)
    canvases = [detector.size.canvas(size) for size in sizes]
    assert not rect or canvases == [(64, 64)] * 2 + [(32, 64)] * 3 + [(64, 32), (64, 64)]
    results = [
        list(predict(detector, pictures, PredictOptions(thresholds=WantedThresholds(conf=0.2), batch=batch)))
        for batch in (1, 2, 5, 8)
    ]
    assert sum(len(found) for found in results[0]) > 20
    for other in results[1:]:
        for size, a, b in zip(sizes, results[0], other, strict=True):
            assert a.source == b.source
            assert a.size == b.size == size
            assert a.labels.tolist() == b.labels.tolist()
            torch.testing.assert_close(a.scores, b.scores, atol=1e-5, rtol=0)
            torch.testing.assert_close(a.boxes, b.boxes, atol=1e-3, rtol=0)


def test_lazy_and_batched() -> None:
    model = Finder()
    stream = run([scene()] * 7, model, batch=3)
    assert model.batches == []
    next(stream)
    assert model.batches == [3]
    assert len(list(stream)) == 6
    assert model.batches == [3, 3, 1]


def test_inputs_of_the_image_s_shape() -> None:
    """Images of one canvas that follow one another go together; 90 x 60 at 192 px is 192 x 128, 80 x 60 is 192 x 160
    (144 rounded up), and a batch ends where the canvas changes.
    """
    model = Finder()
    shapes: list[tuple[int, ...]] = []
    model.register_forward_pre_hook(lambda _, inputs: shapes.append(tuple(inputs[0].shape)))
    pictures = [scene(60, 90), scene(60, 90), scene(60, 80), scene(90, 60), scene(60, 90)]
    found = list(run(pictures, model, batch=4, rect=True))
    assert shapes == [(2, 3, 128, 192), (1, 3, 160, 192), (1, 3, 192, 128), (1, 3, 128, 192)]
    assert [detections.size for detections in found] == [(60, 90), (60, 90), (60, 80), (90, 60), (60, 90)]
    for detections in found[:2]:
        assert (detections.boxes - torch.tensor([[10.0, 20, 40, 50], [60, 5, 80, 15]])).abs().max() <= 2


def test_a_pair_of_sides() -> None:
    """120 x 60 at (64, 96): the longer side ends at 96, so 96 x 48 on 96 x 64. 60 x 60: the shorter side is 64."""
    model = Finder()
    shapes: list[tuple[int, ...]] = []
    model.register_forward_pre_hook(lambda _, inputs: shapes.append(tuple(inputs[0].shape[2:])))
    list(run([scene(60, 120), scene(60, 90)[:, :60]], model, imgsz=(64, 96)))
    assert shapes == [(64, 96), (64, 64)]
    # A pair has no square.
    list(run(scene(60, 120), model, imgsz=(64, 96), rect=False))
    assert shapes[2:] == [(64, 96)]


def test_mixed_shapes_keep_their_order() -> None:
    """Each picture's own boxes, in the order given, where a batch of the network begins and ends within a batch."""
    sizes = [(60, 90), (90, 90), (60, 90), (60, 90), (100, 80), (90, 90), (90, 90), (60, 80)]
    reds = [(2 * i, 20, 2 * i + 20, 50) for i in range(8)]
    pictures = [scene(*size, red=red) for size, red in zip(sizes, reds, strict=True)]
    model = Finder()
    found = list(run(pictures, model, batch=2, rect=True))
    assert model.batches == [1, 1, 2, 1, 2, 1]
    assert [detections.source for detections in found] == [f"image {i}" for i in range(8)]
    assert [detections.size for detections in found] == sizes
    for detections, red in zip(found, reds, strict=True):
        assert (detections.boxes[0] - torch.tensor(red)).abs().max() <= 1


def test_options() -> None:
    assert [f.labels.tolist() for f in run(scene(), conf=0.85)] == [[0]]
    assert [f.labels.tolist() for f in run(scene(), classes=["blue"])] == [[1]]
    assert [f.labels.tolist() for f in run(scene(), classes=["0", 1])] == [[0, 1]]
    assert [f.labels.tolist() for f in run(scene(), max_dets=1)] == [[0]]
    picture = scene()
    (kept,) = run(picture, keep_images=True)
    assert kept.image is not None
    assert (kept.image == picture).all()


def test_results_are_ordinary_tensors_and_sources_stay_untouched() -> None:
    picture = scene()[:, ::-1]
    picture.flags.writeable = False
    (found,) = run(picture)
    found.boxes += 1
    assert not found.boxes.requires_grad


def test_bf16_on_a_cpu_finds_the_same() -> None:
    (found,) = run(scene(), precision="bf16")
    assert found.labels.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"conf": 1.5}, "conf: must be from 0 to 1, got 1.5"),
        ({"iou": float("nan")}, "iou: must be"),
        ({"max_dets": 0}, "max_dets: must be at least 1"),
        ({"batch": 0}, "batch: must be at least 1"),
        ({"imgsz": 100}, "imgsz: must be a multiple of 32 up to 8192, got 100"),
        ({"imgsz": (96, 64)}, "imgsz: must be a pair of sides from 32 to 8192, the shorter first, got (96, 64)"),
        ({"imgsz": "large"}, "imgsz: must be a number or two"),
        ({"classes": ["rde"]}, "did you mean 'red'"),
        ({"classes": [2]}, "unknown class '2'"),
        ({"classes": []}, "classes: none given"),
        ({"precision": "fp16"}, "fp16 needs a GPU"),
    ],
)
def test_options_that_cannot_be_are_refused_before_anything_runs(options: dict[str, Any], part: str) -> None:
    with pytest.raises(InputError) as caught:
        run(scene(), **options)
    assert part in str(caught.value)


def test_what_is_left_out_is_said_without_being_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.png").write_bytes(b"x")
    assert len(list(run([scene(), str(tmp_path / "bad.png")]))) == 1
    assert "skipped 1 image" in capsys.readouterr().err
