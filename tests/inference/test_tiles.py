"""Large pictures in tiles: every object once, whole, wherever borders cut it; and no more in memory than asked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from blobs import Blobs, detector, painted
from command_line import alignrank, refused
from PIL import Image
from tiny_weights import write_tiny_weights
from torch.testing import assert_close

from alignrank import Detector
from alignrank.contracts import Selection, WantedThresholds
from alignrank.detectors.postprocess import NmsConfig, NonMaximumSuppression, TopK
from alignrank.errors import InputError
from alignrank.inference import tiles
from alignrank.inference.options import PredictOptions
from alignrank.inference.predict import predict
from alignrank.inference.tiles import Seams
from alignrank.inference.windows import Tiling

TILING = Tiling(192, 0.25)  # 48 px in common; the network's input is as large, so pixels stay as they are


def found(image: Any, tiling: Tiling | None = TILING, **options: Any) -> list[tuple[list[float], int]]:
    """(box, label) of all objects, from left to right."""
    thresholds = WantedThresholds(*(options.pop(key, None) for key in ("conf", "iou", "max_dets")))
    (detections,) = predict(detector(), image, PredictOptions(thresholds=thresholds, tiling=tiling, **options))
    assert detections.scores.tolist() == sorted(detections.scores.tolist(), reverse=True)
    return sorted(zip(detections.boxes.tolist(), detections.labels.tolist(), strict=True))


def test_small_objects_anywhere_are_found_once_and_exactly() -> None:
    """At most 40 px, less than tiles have in common; many lie across borders."""
    rng = np.random.default_rng(0)
    for height, width in ((500, 700), (193, 640), (400, 150)):
        taken = np.zeros((height, width), bool)
        objects: list[tuple[tuple[int, int, int, int], int]] = []
        for _ in range(80):
            w, h = rng.integers(6, 41, 2).tolist()
            x, y = int(rng.integers(0, width - w)), int(rng.integers(0, height - h))
            if not taken[max(y - 4, 0) : y + h + 4, max(x - 4, 0) : x + w + 4].any():
                taken[y : y + h, x : x + w] = True
                objects.append(((x, y, x + w, y + h), int(rng.integers(2))))
        expected = sorted(([float(value) for value in box], label) for box, label in objects)
        assert len(expected) > 20
        assert found(painted(height, width, *objects)) == expected


@pytest.mark.parametrize("box", [
    (120, 40, 260, 90),  # across the border of two tiles, longer than what they have in common
    (100, 60, 300, 330),  # of four and more
    (10, 10, 690, 490),  # larger than a tile: some see nothing else
])  # fmt: skip
def test_an_object_that_no_tile_sees_whole_is_that_of_the_whole_picture(box: tuple[int, int, int, int]) -> None:
    """A pixel of the network is 3.6 of the picture there."""
    ((only, label),) = found(painted(500, 700, (box, 0)))
    assert label == 0
    assert max(abs(a - b) for a, b in zip(only, box, strict=True)) <= 3.7


@pytest.mark.parametrize("box", [
    (120, 40, 260, 41), (300, 100, 301, 400), (5, 250, 695, 251),
])  # fmt: skip
def test_pieces_are_joined_where_the_whole_picture_shows_nothing(box: tuple[int, int, int, int]) -> None:
    """Lines so thin that they vanish in it."""
    image = painted(500, 700, (box, 1))
    assert found(image, None) == []
    assert found(image) == [([float(value) for value in box], 1)]


def test_two_lines_side_by_side_stay_two() -> None:
    boxes = [(120, 40, 260, 41), (120, 43, 260, 44)]
    assert found(painted(500, 700, *((box, 0) for box in boxes))) == [([float(v) for v in box], 0) for box in boxes]


def test_a_picture_of_one_tile_is_as_without() -> None:
    image = painted(150, 190, ((3, 4, 50, 60), 0), ((80, 90, 100, 140), 1))
    assert found(image) == found(image, None)
    assert len(found(image)) == 2


def test_options_are_those_of_an_image() -> None:
    image = painted(400, 400, *(((x, y, x + 20, y + 20), 0) for x in range(5, 380, 60) for y in range(5, 380, 60)))
    assert len(found(image)) == 49
    assert len(found(image, max_dets=7)) == 7
    assert found(image, classes=["blue"]) == []
    assert found(image, conf=0.95) == []


def test_tiles_of_several_images_go_together_and_no_image_is_read_ahead() -> None:
    """Of 300 x 192 px: two tiles and the whole."""
    taken: list[int] = []

    def images() -> Iterator[np.ndarray[Any, Any]]:
        for number in range(4):
            taken.append(number)
            yield painted(192, 300, ((10 + 20 * number, 20, 60 + 20 * number, 50), 0))

    made = detector()
    blobs = made.network
    assert isinstance(blobs, Blobs)
    run = predict(made, images(), PredictOptions(tiling=TILING, batch=5))
    first = next(run)
    assert (len(taken), sum(blobs.batches)) == (2, 5)
    rest = list(run)
    assert [round(float(of.boxes[0, 0])) for of in (first, *rest)] == [10, 30, 50, 70]
    assert [of.size for of in (first, *rest)] == [(192, 300)] * 4
    assert sum(blobs.batches) == 12


def test_many_tiles_show_how_far_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 400 x 500 px 3 x 4 tiles and the whole; a picture of few tiles is done too soon."""
    shown: list[tuple[str, int | None, bool]] = []
    steps = tiles.steps

    def noting(description: str, total: int | None, *, quiet: bool) -> Any:
        shown.append((description, total, quiet))
        return steps(description, total, quiet=True)

    monkeypatch.setattr(tiles, "MANY", 10)
    monkeypatch.setattr(tiles, "steps", noting)
    list(predict(detector(), [painted(400, 500), painted(192, 300)], PredictOptions(tiling=TILING)))
    assert shown == [("tiles of image 0", 13, False), ("tiles of image 1", 3, True)]


def test_images_are_kept_whole_where_asked_for() -> None:
    image = painted(400, 500, ((100, 60, 300, 330), 0))
    (kept,) = predict(detector(), image, PredictOptions(tiling=TILING, keep_images=True))
    assert kept.image is not None
    assert np.array_equal(kept.image, image)
    assert len(kept.crops()) == 1
    (without,) = predict(detector(), image, PredictOptions(tiling=TILING))
    assert without.image is None


# Two tiles, (0,0)-(200,100) and (100,0)-(300,100), with a margin of 2 px: what each and the whole of it say.
GRID = Tiling(200, 0.5).grid((100, 300))


def said(*rows: tuple[float, float, float, float, float, int]) -> Selection:
    table = torch.tensor(rows, dtype=torch.float32).reshape(-1, 6)
    return Selection(table[:, :4], table[:, 4], table[:, 5].long())


def joined(left: Selection, right: Selection, whole: Selection, nms: Any = None, **options: Any) -> list[list[float]]:
    """Boxes, scores and labels of the picture."""
    made = Seams.of(nms or TopK(), 0.7, **options).joined([left, right, whole], GRID)
    return torch.cat([made.boxes, made.scores[:, None], made.labels[:, None]], 1).tolist()


def test_the_grid_of_the_worked_cases() -> None:
    assert GRID.windows() == [(0, 0, 200, 100), (100, 0, 300, 100), (0, 0, 300, 100)]


def test_a_piece_goes_where_another_tile_sees_more_whatever_it_calls_it() -> None:
    """At (160,10)-(240,60): the left tile sees half of it, and takes it for something else."""
    whole = [160, 10, 240, 60, pytest.approx(0.6), 1]
    assert joined(said((160, 10, 200, 60, 0.9, 0)), said((60, 10, 140, 60, 0.6, 1)), said()) == [whole]
    assert joined(said((160, 10, 200, 60, 0.9, 0)), said(), said()) == [], "it sees more, and nothing"


def test_two_whole_boxes_of_an_object_become_the_better_one_or_their_mean() -> None:
    """At IoU .9, in what both tiles see; of two classes both stay unless suppression is across classes."""
    left, right = said((120, 10, 160, 60, 0.8, 0)), said((20, 10, 60, 55, 0.4, 0))
    assert joined(left, right, said()) == [[120, 10, 160, 60, pytest.approx(0.8), 0]]
    ((*box, score, _),) = joined(left, right, said(), NonMaximumSuppression(consensus=0.7))
    # Weights: score x IoU, .8 and .4 x .9.
    assert box == pytest.approx([120, 10, 160, (0.8 * 60 + 0.36 * 55) / 1.16], abs=1e-4)
    assert score == pytest.approx(0.8)
    other = said((20, 10, 60, 55, 0.4, 1))
    assert len(joined(left, other, said())) == 2
    assert len(joined(left, other, said(), NonMaximumSuppression(agnostic=True))) == 1


def test_suppression_between_tiles_is_hard_where_it_is_soft_within() -> None:
    soft = NonMaximumSuppression(NmsConfig(soft=True))
    left, right = said((120, 10, 160, 60, 0.8, 0)), said((20, 10, 60, 55, 0.4, 0))
    assert joined(left, right, said(), soft) == [[120, 10, 160, 60, pytest.approx(0.8), 0]]
    assert soft.soft


def test_the_whole_picture_speaks_of_what_no_tile_sees_whole_alone() -> None:
    """A long box replaces its pieces; a short one is the tiles' matter, also where they see none."""
    left, right = said((50, 10, 200, 60, 0.9, 0)), said((0, 10, 170, 60, 0.7, 0))
    assert joined(left, right, said((52, 12, 268, 58, 0.5, 0))) == [[52, 12, 268, 58, pytest.approx(0.5), 0]]
    assert joined(said(), said(), said((10, 10, 60, 60, 0.9, 0))) == []


def test_a_large_box_of_little_score_or_of_another_class_replaces_no_pieces() -> None:
    left, right = said((50, 10, 200, 60, 0.9, 0)), said((0, 10, 170, 60, 0.7, 0))
    whole = [50, 10, 270, 60, pytest.approx(0.9), 0]
    assert joined(left, right, said()) == [whole]
    assert joined(left, right, said((52, 12, 268, 58, 0.3, 0))) == [whole], "suppressed by what the pieces make"
    bus = [52, 12, 268, 58, pytest.approx(0.5), 1]
    assert joined(left, right, said((52, 12, 268, 58, 0.5, 1))) == [whole, bus]
    assert joined(left, right, said((52, 12, 268, 58, 0.5, 1)), TopK(agnostic=True)) == [bus]


def test_pieces_that_differ_in_what_both_see_are_not_joined() -> None:
    """In (100,0)-(200,100): heights 10 to 60 and 50 to 90. One that is left alone stays as it is."""
    left, right = said((50, 10, 200, 60, 0.9, 0)), said((0, 50, 170, 90, 0.7, 0))
    assert [row[:4] for row in joined(left, right, said())] == [[50, 10, 200, 60], [100, 50, 270, 90]]


def test_of_two_pieces_in_a_tile_the_one_that_agrees_better_is_joined() -> None:
    """Heights 10 to 60 with 10 to 58 and 10 to 45 of (100,0)-(200,100): IoU .96 and .7."""
    left = said((50, 10, 200, 60, 0.5, 0))
    right = said((0, 10, 170, 58, 0.7, 0), (0, 10, 150, 45, 0.9, 0))
    rows = sorted(joined(left, right, said()))
    assert [row[:4] for row in rows] == [[50, 10, 270, 60], [100, 10, 250, 45]]
    assert [row[4] for row in rows] == pytest.approx([0.7, 0.9])


def test_as_many_as_there_are_unless_a_number_is_given() -> None:
    left = said(*((10.0 * i, 5, 10 * i + 8, 20, 0.9 - 0.01 * i, 0) for i in range(9)))
    assert len(joined(left, said(), said())) == 9
    assert [row[0] for row in joined(left, said(), said(), most=2)] == [0, 10]


def test_nothing_at_all() -> None:
    assert joined(said(), said(), said()) == []
    made = Seams.of(TopK(), 0.7).joined([said((1, 2, 3, 4, 0.5, 0))], Tiling(200).grid((100, 100)))
    assert_close(made.boxes, torch.tensor([[1.0, 2, 3, 4]]))


def test_the_verb_and_the_object_say_the_same(tmp_path: Path) -> None:
    """Of networks whose input is of one size, weights and an exported file: each tile is fitted into it."""
    weights = write_tiny_weights(tmp_path / "w.safetensors")
    picture = np.random.default_rng(0).integers(0, 255, (120, 150, 3), np.uint8)
    Image.fromarray(picture).save(tmp_path / "a.png")
    loaded = Detector.load(weights)
    (plain,) = loaded.predict(picture, conf=0.3, device="cpu")
    (tiled,) = loaded.predict(picture, conf=0.3, device="cpu", tile=80, overlap=0.3, batch=4)
    # Boxes of these weights fill their input, so all are pieces, and duplicates between tiles are suppressed.
    assert len(plain) > len(tiled) > 0
    words = ("--conf", "0.3", "--device", "cpu", "--tile", "80", "--overlap", "0.3", "--json", "--out")
    done = alignrank("predict", str(tmp_path / "a.png"), "--weights", str(weights), *words, str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    (image,) = json.loads(done.stdout)["images"]
    assert image["boxes"] == tiled.to_dict()["boxes"]
    path = loaded.export("torchscript", check=False)
    (exported,) = Detector.load(path).predict(picture, conf=0.3, tile=80, overlap=0.3)
    assert_close(exported.boxes, tiled.boxes, atol=1e-2, rtol=0)


def test_options_out_of_range(tmp_path: Path) -> None:
    weights = write_tiny_weights(tmp_path / "w.safetensors")
    common = ("predict", "a.png", "--weights", str(weights))
    refused(alignrank(*common, "--tile", "20"), "tile: must be at least 32, got 20")
    refused(alignrank(*common, "--overlap", "0.2"), "overlap: is of tiles; give tile, too")
    with pytest.raises(InputError, match=r"overlap: must be from 0 to 0\.9, got 1"):
        Detector.load(weights).predict("a.png", tile=640, overlap=1)
