"""One data set in every tool's format gives the same boxes and labels as in COCO's."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest
import tool_exports as tools

from alignrank.data.convert import convert
from alignrank.data.decode import decode
from alignrank.data.samples import DataSource, Split
from alignrank.data.source import read

PARQUET = pytest.mark.skipif(
    importlib.util.find_spec("pyarrow") is None, reason="pyarrow is not installed (extra 'parquet')"
)
EXPORTS = [
    pytest.param(tools.as_roboflow_coco, "coco", id="Roboflow COCO"),
    pytest.param(tools.as_roboflow_yolo, "yolo", id="Roboflow YOLO"),
    pytest.param(tools.as_roboflow_voc, "voc", id="Roboflow VOC"),
    pytest.param(tools.as_cvat, "cvat", id="CVAT project"),
    pytest.param(tools.as_cvat_tasks, "cvat", id="CVAT tasks"),
    pytest.param(tools.as_cvat_coco, "coco", id="CVAT COCO"),
    pytest.param(tools.as_labelme, "labelme", id="LabelMe"),
    pytest.param(tools.as_labelme_embedded, "labelme", id="LabelMe embedded"),
    pytest.param(tools.as_label_studio, "label_studio", id="Label Studio"),
    pytest.param(tools.as_label_studio_min, "label_studio", id="Label Studio min"),
    pytest.param(tools.as_parquet, "parquet", id="Parquet", marks=PARQUET),
    pytest.param(tools.as_parquet_structs, "parquet", id="Parquet structs", marks=PARQUET),
    pytest.param(tools.as_arrow, "parquet", id="Arrow", marks=PARQUET),
]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIGNRANK_CACHE", str(tmp_path / "cache"))


def objects(split: Split) -> dict[tuple[int, ...], list[tuple[str, list[float]]]]:
    """By picture: classes and boxes. Pictures are known by their pixels, as some have no names of their own."""
    found = {}
    for sample in split.samples:
        pixels = decode(sample.image)
        assert pixels.shape[:2] == sample.size
        boxes = [[round(v, 3) for v in box] for box in sample.boxes.tolist()]
        key = (*pixels.shape, *pixels[0, :5].flatten().tolist())
        found[key] = [(split.classes[label], box) for label, box in zip(sample.labels, boxes, strict=True)]
    return found


def everything(source: DataSource) -> dict[str, object]:
    return {name: objects(split) for name, split in source.splits().items()}


@pytest.fixture
def expected(tmp_path: Path) -> dict[str, object]:
    tools.as_coco(tmp_path / "coco")
    found = everything(read(tmp_path / "coco"))
    assert found["train"] != found["val"]
    return found


@pytest.mark.parametrize(("write", "form"), EXPORTS)
def test_the_same_boxes_as_coco(
    tmp_path: Path, expected: dict[str, object], write: Callable[[Path], None], form: str
) -> None:
    """In every split; nothing is left out, and nothing is said but what the tool's export holds beside."""
    write(tmp_path / "set")
    source = read(tmp_path / "set")
    assert source.format == form
    assert source.classes == tools.CLASSES
    assert everything(source) == expected
    assert not [item for split in source.splits().values() for item in split.skipped]
    assert not [note for split in source.splits().values() for note in split.notes]
    # The second time from the cache, where pictures lay inside of the files.
    assert everything(read(tmp_path / "set")) == expected


@pytest.mark.parametrize(("write", "form"), EXPORTS)
def test_every_format_converts(
    tmp_path: Path, expected: dict[str, object], write: Callable[[Path], None], form: str
) -> None:
    write(tmp_path / "set")
    convert(read(tmp_path / "set"), tmp_path / "out", "coco")
    assert everything(read(tmp_path / "out")) == expected


def test_expected_boxes_are_those_of_the_scenes(expected: dict[str, object]) -> None:
    train = expected["train"]
    assert isinstance(train, dict)
    of_street = next(found for found in train.values() if len(found) == 3)
    assert of_street == [("car", [8, 4, 24, 16]), ("person", [40.5, 10, 46.5, 40]), ("car", [0, 40, 64, 48])]
    assert sum(map(len, train.values())) == 4
