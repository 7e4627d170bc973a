"""Evaluation in tiles: large pictures whose objects are too small for the network otherwise."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from blobs import detector, painted
from command_line import alignrank, refused
from PIL import Image
from squares import write_squares
from tiny_weights import write_tiny_weights

from alignrank import Detector
from alignrank.data.opening import open_split
from alignrank.data.samples import Split
from alignrank.errors import InputError
from alignrank.evaluation.options import ValOptions
from alignrank.evaluation.tiled import validate_tiled
from alignrank.evaluation.val import batches_of
from alignrank.evaluation.validate import validate
from alignrank.inference.windows import Tiling

TILING = Tiling(192, 0.25)


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """Two pictures of many small boxes, as COCO, and a third file that is none."""
    rng = np.random.default_rng(0)
    images, annotations = [], []
    (tmp_path / "images").mkdir()
    (tmp_path / "annotations").mkdir()
    for number in range(3):
        boxes = []
        for x in range(4, 560, 60):
            for y in range(4, 460, 60):
                side = int(rng.integers(6, 12))
                boxes.append(((x, y, x + side, y + side), int(rng.integers(2))))
        image = painted(500, 600, *boxes)
        Image.fromarray(image).save(tmp_path / "images" / f"{number}.png")
        images.append({"id": number + 1, "file_name": f"{number}.png", "width": 600, "height": 500})
        annotations += [
            {"image_id": number + 1, "category_id": label + 1, "bbox": [x0, y0, x1 - x0, y1 - y0], "iscrowd": 0,
             "area": (x1 - x0) * (y1 - y0)}
            for (x0, y0, x1, y1), label in boxes
        ]  # fmt: skip
    numbered = [{"id": i + 1, **row} for i, row in enumerate(annotations)]
    categories = [{"id": 1, "name": "red"}, {"id": 2, "name": "blue"}]
    content = {"images": images, "annotations": numbered, "categories": categories}
    (tmp_path / "annotations" / "val.json").write_text(json.dumps(content))
    return tmp_path


def opened(data: Path) -> Split:
    return open_split(str(data), "val")


def test_small_objects_of_large_pictures(large: Path) -> None:
    """80 objects a picture, of 6 px and more, become 2 px where the picture is as wide as the network's input."""
    options = ValOptions(coco_max_dets=200)
    tiled = validate_tiled(detector(), opened(large), options, TILING).metrics
    assert tiled.ap == pytest.approx(1)
    split = opened(large)
    with batches_of(split, detector(), 2) as batches:
        made = detector()
        plain = validate(made.network, made.postprocess, batches, split, options).metrics
    assert plain.ap < 0.4


def test_what_does_not_decode_is_left_out_and_told(large: Path, capsys: pytest.CaptureFixture[str]) -> None:
    split = opened(large)
    (large / "images" / "1.png").write_bytes(b"no image")
    Image.fromarray(painted(40, 50)).save(large / "images" / "2.png")
    result = validate_tiled(detector(), split, ValOptions(coco_max_dets=200), TILING)
    assert result.metrics.ap == pytest.approx(1)
    assert [sample.image.name for sample in split.samples] == ["0.png"]
    said = capsys.readouterr().err
    assert "skipped 2 images" in said
    assert "is 50x40 pixels, its annotation says 600x500" in said
    (large / "images" / "0.png").write_bytes(b"no image")
    with pytest.raises(InputError, match="no image can be decoded"):
        validate_tiled(detector(), split, ValOptions(), TILING)


def test_the_verb_and_the_object_say_the_same(tmp_path: Path) -> None:
    data = write_squares(tmp_path / "data", classes=("red", "green"))
    weights = write_tiny_weights(tmp_path / "w.safetensors", ("red", "green"))
    words = ("val", "--weights", str(weights), "--data", str(data), "--device", "cpu", "--json")
    plain = json.loads(alignrank(*words, "--out", str(tmp_path / "plain")).stdout)
    tiles = ("--tile", "32", "--overlap", "0.5", "--out", str(tmp_path / "tiled"))
    tiled = json.loads(alignrank(*words, *tiles).stdout)
    of_object = Detector.load(weights).val(data, tile=32, overlap=0.5, device="cpu").to_dict()
    assert tiled == json.loads(json.dumps(of_object))
    assert (plain["rank_before_nms"] is None, tiled["rank_before_nms"] is None) == (False, True)
    found = [json.loads((tmp_path / name / "detections.json").read_text()) for name in ("plain", "tiled")]
    assert found[0] != found[1] != []
    assert (tmp_path / "tiled" / "report.html").is_file()


@pytest.mark.parametrize(("words", "part"), [
    (("--tile", "32", "--oracle", "box"), "leave out tile"), (("--overlap", "0.2"), "give tile, too"),
    (("--tile", "8"), "tile: must be at least 32, got 8"),
])  # fmt: skip
def test_options_that_do_not_go_together(words: tuple[str, ...], part: str, tmp_path: Path) -> None:
    weights = write_tiny_weights(tmp_path / "w.safetensors")
    refused(alignrank("val", "--weights", str(weights), "--data", "digits", *words), part)
