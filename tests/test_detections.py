"""The result object: chosen from, as dictionary, JSON, COCO results, tables and supervision detections, and drawn."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageShow

import alignrank
from alignrank.contracts import Detections
from alignrank.detections import SHOWN_SIDE
from alignrank.errors import InputError
from alignrank.inference.results import CSV_COLUMNS

NAMES = ("cat", "größe")


def detections(count: int = 2, *, image: bool = True, size: tuple[int, int] = (300, 450)) -> Detections:
    boxes = torch.tensor([[100.0, 50, 200, 150.12345], [20, 120, 60, 280]])[:count]
    picture = np.full((*size, 3), 128, np.uint8) if image else None
    labels = torch.tensor([1, 0])[:count]
    return Detections(boxes, torch.tensor([0.9, 0.31])[:count], labels, NAMES, "a/b.jpg", size, picture)


def test_dictionary_and_json_agree(tmp_path: Path) -> None:
    found = detections()
    assert found.to_dict() == {
        "source": "a/b.jpg",
        "path": None,
        "size": [300, 450],
        "boxes": [[100, 50, 200, 150.123], [20, 120, 60, 280]],
        "scores": [0.9, 0.31],
        "labels": [1, 0],
        "names": ["größe", "cat"],
    }
    assert json.loads(found.to_json(tmp_path / "x.json")) == found.to_dict()
    assert json.loads((tmp_path / "x.json").read_text(encoding="utf-8")) == found.to_dict()


def test_nothing_found() -> None:
    found = detections(0)
    assert len(found) == 0
    assert found.to_dict()["boxes"] == []
    assert len(found.to_supervision()) == 0
    assert np.unique(found.plot()).tolist() == [128]


def test_supervision_detections_carry_everything() -> None:
    converted = detections().to_supervision()
    assert converted.confidence is not None
    assert converted.class_id is not None
    np.testing.assert_allclose(converted.xyxy[1], [20, 120, 60, 280])
    np.testing.assert_allclose(converted.confidence, [0.9, 0.31], atol=1e-6)
    assert converted.class_id.tolist() == [1, 0]
    assert list(converted.data["class_name"]) == ["größe", "cat"]


@pytest.mark.parametrize("size", [(300, 450), (300, 210), (201, 321)])
def test_the_drawing_is_where_the_boxes_are(size: tuple[int, int]) -> None:
    """And as large as the image."""
    found = detections(size=size)
    drawn = found.plot()
    assert drawn.shape == (*size, 3)
    assert drawn.dtype == np.uint8
    assert found.image is not None
    assert np.unique(found.image).tolist() == [128], "the image itself is not drawn on"
    changed = (drawn != 128).any(-1)
    middle = (50 + 150) // 2
    assert changed[middle, 98:103].any(), "left side of the first box"
    assert not changed[middle, 140], "inside of it"
    assert (drawn > 200).all(-1).sum() > 50, "text"


@pytest.mark.parametrize("size", [(1, 1), (3, 90), (90, 3), (12, 12), (40, 60)])
def test_tiny_images_are_drawn_as_they_are(size: tuple[int, int]) -> None:
    """With text where there is room for it."""
    found = detections(size=size)
    found.boxes = torch.tensor([[0.0, 0, 9, 9], [1, 2, 30, 30]])
    assert found.plot().shape == (*size, 3)
    assert (found.plot() > 200).all(-1).any() == (size == (40, 60))


def test_without_an_image_there_is_nothing_to_draw_on() -> None:
    found = detections(image=False)
    for use in (found.plot, found.show, found.crops):
        with pytest.raises(InputError, match="keep_images=True"):
            use()
    assert found._repr_png_() is None


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_saved_pictures_open(suffix: str, tmp_path: Path) -> None:
    found = detections()
    path = found.save(tmp_path / "new" / f"x.{suffix}")
    with Image.open(path) as image:
        assert image.size == (450, 300)


def many() -> Detections:
    """Five of scores .9 to .5, labels 0 1 2 0 1."""
    boxes = torch.tensor([[i, 2 * i, i + 10, 2 * i + 10] for i in range(5)], dtype=torch.float32)
    labels = torch.tensor([0, 1, 2, 0, 1])
    return Detections(boxes, torch.linspace(0.9, 0.5, 5), labels, ("cat", "dog", "car, red"), "a.jpg", (60, 80))


@pytest.mark.parametrize(
    ("index", "chosen"),
    [
        (0, [0]),
        (-1, [4]),
        (np.int64(3), [3]),
        (torch.tensor(2), [2]),
        (slice(1, 3), [1, 2]),
        (slice(None, None, -1), [4, 3, 2, 1, 0]),
        (slice(7, 9), []),
        ([3, 0, -1], [3, 0, 4]),
        ([], []),
        (range(2), [0, 1]),
        ([True, False, False, True, False], [0, 3]),
        (torch.tensor([False, True, False, False, True]), [1, 4]),
        (torch.tensor([1, 0], dtype=torch.uint8), [1, 0]),
        (np.array([4, 4]), [4, 4]),
        (np.arange(5)[::-1] > 2, [0, 1]),
    ],
)
def test_objects_are_chosen_like_those_of_an_array(index: Any, chosen: list[int]) -> None:
    found = many()
    some = found[index]
    assert isinstance(some, Detections)
    assert len(some) == len(chosen)
    assert some.boxes.tolist() == found.boxes[chosen].tolist()
    assert some.scores.tolist() == found.scores[chosen].tolist()
    assert some.labels.tolist() == found.labels[chosen].tolist()
    assert (some.names, some.source, some.size) == (found.names, found.source, found.size)


def test_a_choice_that_cannot_be() -> None:
    found = many()
    for index in (5, -6, [0, 9]):
        with pytest.raises(IndexError, match="among 5"):
            found[index]
    for index in ("cat", 1.0, [0.5], None, [[0]], (slice(0, 1), 0), [[1], [2, 3]], True):
        with pytest.raises(InputError, match=r"number, slice, list or mask.*\.filter\(classes="):
            found[index]
    with pytest.raises(InputError, match=r"mask of shape \[2\] does not fit 5 objects"):
        found[[True, False]]


def test_a_loop_gives_one_object_at_a_time() -> None:
    assert [(len(one), one.class_names, round(float(one.scores), 1)) for one in many()] == [
        (1, ["cat"], 0.9), (1, ["dog"], 0.8), (1, ["car, red"], 0.7), (1, ["cat"], 0.6), (1, ["dog"], 0.5),
    ]  # fmt: skip
    assert list(many()[:0]) == []
    assert not many()[:0]


@pytest.mark.parametrize(
    ("options", "left"),
    [
        ({}, [0, 1, 2, 3, 4]),
        ({"classes": "cat"}, [0, 3]),
        ({"classes": 1}, [1, 4]),
        ({"classes": ["dog", 2]}, [1, 2, 4]),
        ({"classes": "cat,dog"}, [0, 1, 3, 4]),
        ({"classes": "car, red"}, [2]),
        ({"classes": "dog,car, red"}, [1, 2, 4]),
        ({"classes": ("0",)}, [0, 3]),
        ({"classes": torch.tensor([2])}, [2]),
        ({"classes": np.array([2, 1])}, [1, 2, 4]),
        ({"classes": {np.int64(2)}}, [2]),
        ({"conf": 0.65}, [0, 1, 2]),
        ({"conf": 1}, []),
        ({"classes": "dog", "conf": 0.6}, [1]),
    ],
)
def test_filter(options: dict[str, Any], left: list[int]) -> None:
    assert many().filter(**options).boxes.tolist() == many().boxes[left].tolist()


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"classes": "dgo"}, "unknown class 'dgo'; did you mean 'dog'"),
        ({"classes": 3}, "unknown class '3'"),
        ({"classes": [-1]}, "unknown class '-1'"),
        ({"classes": []}, "classes: none given"),
        ({"classes": ""}, "classes: none given"),
        ({"conf": 1.5}, "conf: must be from 0 to 1, got 1.5"),
        ({"conf": float("nan")}, "conf: must be from 0 to 1"),
        ({"conf": "high"}, "conf: must be from 0 to 1, got high"),
    ],
)
def test_a_filter_that_cannot_be(options: dict[str, Any], part: str) -> None:
    with pytest.raises(InputError) as caught:
        many().filter(**options)
    assert part in str(caught.value)


def test_crops() -> None:
    """To the nearest pixel, clipped; boxes without an area or out of the image are one pixel that can be saved."""
    image = np.arange(40 * 60 * 3, dtype=np.uint32).reshape(40, 60, 3).astype(np.uint8)
    boxes = torch.tensor(
        [
            [10.4, 5.6, 20.4, 15.6],
            [-5, -5, 7, 9],
            [50, 30, 90, 90],
            [3, 4, 3, 4],
            [100, 100, 120, 120],
            [float("nan")] * 4,
            [20, 10, 10, 5],
        ]
    )
    found = Detections(boxes, torch.ones(7), torch.zeros(7, dtype=torch.int64), ("a",), "x", (40, 60), image)
    crops = found.crops()
    assert [crop.shape for crop in crops[:3]] == [(10, 10, 3), (9, 7, 3), (10, 10, 3)]
    np.testing.assert_array_equal(crops[0], image[6:16, 10:20])
    np.testing.assert_array_equal(crops[2], image[30:, 50:])
    assert [crop.shape for crop in crops[3:]] == [(1, 1, 3)] * 4
    np.testing.assert_array_equal(crops[3][0, 0], image[4, 3])
    crops[0][:] = 0
    assert image[6:16, 10:20].any(), "copies"
    assert found[:0].crops() == []


def test_coco_results() -> None:
    found = many()[:3]
    rows = found.to_coco(17)
    assert [row["category_id"] for row in rows] == [0, 1, 2]
    assert rows[1] == {
        "image_id": 17, "category_id": 1, "bbox": [1, 2, 10, 10], "score": pytest.approx(0.8),
    }  # fmt: skip
    for ids in ([3, 5, 9], {0: 3, 1: 5, 2: 9}, {"cat": 3, "dog": 5, "car, red": 9}, np.array([3, 5, 9])):
        rows = found.to_coco("000017", ids)
        assert [row["category_id"] for row in rows] == [3, 5, 9]
        json.dumps(rows)
    assert found[:0].to_coco(1) == []
    for ids in ([3, 5], {"cat": 3, "dog": 5}):
        with pytest.raises(InputError, match="category_ids: has no id for the class 'car, red', label 2"):
            found.to_coco(1, ids)
    with pytest.raises(InputError, match="the id of 'cat' must be a whole number, got 'x'"):
        found.to_coco(1, {0: "x"})  # type: ignore[dict-item]


def test_coco_results_can_be_diagnosed() -> None:
    found = many()
    truth = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 80, "height": 60}],
        "categories": [{"id": i + 1, "name": name} for i, name in enumerate(found.names)],
        "annotations": [
            {
                "id": i + 1,
                "image_id": 1,
                "category_id": row["category_id"],
                "bbox": row["bbox"],
                "area": 100,
                "iscrowd": 0,
            }
            for i, row in enumerate(found.to_coco(1, [1, 2, 3]))
        ],
    }
    assert alignrank.diagnose(truth, found.to_coco(1, [1, 2, 3]), replicates=0).metrics.ap == 1


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_tables(library: str) -> None:
    """The columns of predictions.csv."""
    pytest.importorskip(library)
    table = getattr(many(), f"to_{library}")()
    assert tuple(table.columns) == CSV_COLUMNS
    assert list(table["name"]) == ["cat", "dog", "car, red", "cat", "dog"]
    assert list(table["y1"]) == [10, 12, 14, 16, 18]
    assert len(getattr(many()[:0], f"to_{library}")()) == 0


def test_columns_of_tables_are_those_of_the_csv() -> None:
    assert tuple(many()._columns()) == CSV_COLUMNS


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_tables_without_the_library(library: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(InputError, match=rf"needs the package {library}; run `pip install {library}`"):
        getattr(many(), f"to_{library}")()


@pytest.mark.parametrize(
    ("size", "shown"), [((300, 450), (450, 300)), ((60, 90), (360, 240)), ((800, 3200), (1600, 400))]
)
def test_notebooks_show_the_drawn_picture(size: tuple[int, int], shown: tuple[int, int]) -> None:
    """Small ones enlarged, large ones reduced: they end up in the notebook's file."""
    png = detections(size=size)._repr_png_()
    assert png is not None
    with Image.open(io.BytesIO(png)) as image:
        assert image.format == "PNG"
        assert image.size == shown
        assert len(np.unique(np.asarray(image).reshape(-1, 3), axis=0)) > 3
    assert max(shown) <= SHOWN_SIDE


def test_show_opens_a_viewer(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(ImageShow, "show", lambda picture, title: opened.append(picture.size) or True)
    detections().show()
    assert opened == [(450, 300)]


@pytest.mark.parametrize("viewer", [None, False, OSError("no xdg-open")])
def test_show_without_a_display_is_one_sentence(
    viewer: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def show(picture: Image.Image, title: str) -> bool:
        if isinstance(viewer, OSError):
            raise viewer
        assert viewer is not None, "no viewer is started without a display"
        return bool(viewer)

    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ImageShow, "show", show)
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    if viewer is not None:
        monkeypatch.setenv("DISPLAY", ":0")
    detections().show()
    (line,) = capfd.readouterr().err.splitlines()
    assert ".save(PATH)" in line


def test_show_in_a_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    displayed: list[Any] = []
    shell = SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=displayed.append))
    found = detections()
    found.show()
    assert len(displayed) == 1
    assert displayed[0] is found
