"""Settings of the library's image processors in words of a recipe; what cannot be had is refused."""

from __future__ import annotations

from typing import Any

import pytest

from alignrank.errors import InputError
from alignrank.plug.transformers_pixels import sections_of

OLD = {"feature_extractor_type": "DeformableDetrFeatureExtractor", "size": 800, "max_size": 1333}


@pytest.mark.parametrize(
    ("architecture", "settings", "stride", "expected"),
    [
        ("rt_detr", {"image_processor_type": "RTDetrImageProcessor"}, 32, (640, "stretch", True)),
        ("d_fine", {"size": {"height": 320, "width": 480}}, 32, ([320, 480], "stretch", True)),
        ("rt_detr_v2", {"image_processor_type": "RTDetrImageProcessorFast"}, 32, (640, "stretch", True)),
        ("deformable_detr", OLD, 1, ([800, 1333], "detr", True)),
        ("deformable_detr", {"size": {"height": 480, "width": 640}}, 1, ([480, 640], "stretch", True)),
        ("rf_detr", {"size": {"height": 560, "width": 560}}, 56, ([560, 560], "stretch", False)),
        ("rf_detr", {"image_processor_type": "DetrImageProcessor", "size": [384, 384]}, 32, (384, "stretch", True)),
    ],
)
def test_sizes(architecture: str, settings: dict[str, Any], stride: int, expected: tuple[Any, ...]) -> None:
    found = sections_of(architecture, settings, stride, "FOLDER")
    assert found == dict(zip(("train.imgsz", "data.fit", "data.antialias"), expected, strict=True))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_processor_type": "ViTImageProcessor"}, "image_processor_type: cannot be 'ViTImageProcessor'; did you"),
        ({"size": {"height": 640, "width": 600}}, "size: must be multiples of 32 and no higher than wide, got 640 x"),
        ({"size": {"height": 600, "width": 600}}, "size: must be multiples of 32"),
        ({"size": {"shortest_edge": 800, "longest_edge": 1333}}, "size: must be height and width, got {"),
        ({"size": {"height": "wide"}}, "cannot be used"),
        ({"resample": 3}, "resample: rt_detr is used here with 2, got .*3"),
        ({"do_resize": False}, "do_resize: rt_detr is used here with True, got False"),
        ({"rescale_factor": 1.0}, r"rescale_factor: must be 1/255, got 1\.0"),
        ({"do_pad": True, "pad_size": {"height": 640, "width": 640}}, "pad_size: must not be given"),
    ],
)
def test_what_cannot_be_had(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=rf"model\.pretrained: FOLDER: preprocessor_config\.json.*{message}") as caught:
        sections_of("rt_detr", settings, 32, "FOLDER")
    assert "\n" not in str(caught.value)


def test_other_means() -> None:
    with pytest.raises(InputError, match=r"image_mean: rf_detr is used here with \(0\.485, .*got .0\.5, 0\.5, 0\.5"):
        sections_of("rf_detr", {"image_mean": [0.5] * 3, "size": [384, 384]}, 32, "FOLDER")
