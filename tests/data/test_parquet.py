"""Parquet as `datasets` writes it: names, boxes of either form, the cache, memory, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tool_exports as tools

from alignrank.data.check import check
from alignrank.data.samples import Split
from alignrank.data.source import read
from alignrank.errors import InputError

pa = pytest.importorskip("pyarrow", reason="pyarrow is not installed (extra 'parquet')")
parquet = pytest.importorskip("pyarrow.parquet")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIGNRANK_CACHE", str(tmp_path / "cache"))


def _write(root: Path, rows: list[dict[str, Any]], *, metadata: dict[bytes, bytes] | None = None) -> Path:
    root.mkdir(exist_ok=True)
    table = pa.Table.from_pylist(rows).replace_schema_metadata(metadata)
    parquet.write_table(table, root / "train.parquet", row_group_size=2)
    return root / "train.parquet"


def _row(*objects: tuple[Any, list[float]], size: tuple[int, int] = (64, 48), name: str = "a.jpg") -> dict[str, Any]:
    boxes, categories = [box for _, box in objects], [category for category, _ in objects]
    picture = tools.picture(name, size)
    return {"image": {"bytes": picture, "path": None}, "objects": {"bbox": boxes, "category": categories}}


def _train(path: Path) -> Split:
    train = read(path).train
    assert train is not None
    return train


def test_names_by_their_words_or_digits(tmp_path: Path) -> None:
    """Without a ClassLabel: numbers in their order, words sorted; ids count from 0."""
    file = _write(tmp_path / "set", [_row((10, [1, 2, 3, 4]), (2, [1, 2, 3, 5]))])
    train = _train(file)
    assert (train.classes, train.category_ids) == (("2", "10"), (0, 1))
    assert train.samples[0].labels.tolist() == [1, 0]
    file = _write(tmp_path / "set", [_row(("dog", [1, 2, 3, 4]), ("cat", [1, 2, 3, 5]))])
    assert _train(file).classes == ("cat", "dog")
    file = _write(tmp_path / "set", [_row((1, [1, 2, 3, 4]))], metadata=tools.features(("a", "b", "c")))
    train = _train(file)
    assert (train.classes, train.samples[0].labels.tolist()) == (("a", "b", "c"), [1])
    # A list of structs as `datasets` 3 describes it.
    described = {"objects": [{"category": {"names": ["x", "y"], "_type": "ClassLabel"}, "bbox": []}]}
    content = json.dumps({"info": {"features": described}}).encode()
    file = _write(tmp_path / "set", [_row((1, [1, 2, 3, 4]))], metadata={b"huggingface": content})
    assert _train(file).classes == ("x", "y")


def test_corners_are_told_from_sides(tmp_path: Path) -> None:
    """(40, 20, 60, 44) of a picture of 64 x 48: as left, top, width and height it would end at 100, 64."""
    first, second = _row((0, [40, 20, 60, 44])), _row((0, [1, 2, 9, 8]), name="b.jpg")
    file = _write(tmp_path / "set", [first, second])
    train = _train(file)
    assert [sample.boxes.tolist() for sample in train.samples] == [[[40, 20, 60, 44]], [[1, 2, 9, 8]]]
    assert train.notes == [
        f"{file}: bbox was read as x1, y1, x2, y2: as left, top, width, height 1 of 2 boxes would leave their images"
    ]
    # A box that cannot be corners: all are left, top, width, height, and the first is clipped.
    file = _write(tmp_path / "set", [first, _row((0, [30, 30, 9, 8]), name="b.jpg")])
    train = _train(file)
    assert [sample.boxes.tolist() for sample in train.samples] == [[[40, 20, 64, 48]], [[30, 30, 39, 38]]]
    assert train.notes == ["1 box reaches beyond the image: clipped to it"]


def test_pictures_are_written_once(tmp_path: Path) -> None:
    file = _write(tmp_path / "set", [_row((0, [1, 2, 3, 4]), name=name) for name in ("a.jpg", "b.png", "c.jpg")])
    first = [sample.image for sample in _train(file).samples]
    assert [path.suffix for path in first] == [".jpg", ".png", ".jpg"]
    written = [path.stat().st_mtime_ns for path in first]
    assert [sample.image for sample in _train(file).samples] == first
    assert [path.stat().st_mtime_ns for path in first] == written
    # A file that is lost is written again; a table that has changed has a folder of its own.
    first[1].unlink()
    assert [sample.image for sample in _train(file).samples] == first
    file = _write(tmp_path / "set", [_row((0, [1, 2, 3, 4]), size=(32, 32))])
    (image,) = [sample.image for sample in _train(file).samples]
    assert image not in first
    assert not list((tmp_path / "cache").rglob(".*"))


def test_the_second_time_bytes_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = _write(tmp_path / "set", [_row((0, [1, 2, 3, 4]))])
    asked: list[list[str]] = []
    whole = parquet.ParquetFile.iter_batches

    def recorded(self: Any, **given: Any) -> Any:
        asked.append(given["columns"])
        return whole(self, **given)

    monkeypatch.setattr(parquet.ParquetFile, "iter_batches", recorded)
    for _ in range(2):
        _train(file)
    assert asked == [["image", "objects"], ["image.path", "objects"]]  # of the only row group


def test_paths_instead_of_bytes(tmp_path: Path) -> None:
    root = tmp_path / "set"
    tools.put(root / "pictures" / "a.jpg", tools.picture("a.jpg", (64, 48)))
    row = _row((0, [1, 2, 3, 4]))
    for image in ({"bytes": None, "path": "pictures/a.jpg"}, "pictures/a.jpg"):
        _write(root, [row | {"image": image}])
        assert _train(root).samples[0].image == root / "pictures/a.jpg"
    _write(root, [row | {"image": {"bytes": None, "path": path}} for path in ("pictures/a.jpg", "b.jpg", None)])
    reasons = [item.reason for item in _train(root).skipped]
    assert reasons == [f"there is no file 'b.jpg' in {root}", "its image has neither bytes nor a path"]
    for path in ("../a.jpg", "/etc/a.jpg", "https://example.org/a.jpg"):
        _write(root, [row | {"image": {"bytes": None, "path": path}}])
        with pytest.raises(InputError, match=r"train\.parquet: row 0: image: path"):
            read(root)


def test_rows_of_groups_keep_their_numbers(tmp_path: Path) -> None:
    """Five rows in three row groups; the fourth has an object too many."""
    rows = [_row((0, [1, 2, 3, 4]), size=(64, 40 + i)) for i in range(5)]
    rows[3]["objects"]["category"].append(0)
    file = _write(tmp_path / "set", rows)
    with pytest.raises(InputError, match=r"row 3: objects: must have as many bbox as category"):
        read(file)
    report = check(file)
    assert [sample.size[0] for sample in report.source.splits()["train"].samples] == [40, 41, 42, 43, 44]


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ((7, [1, 2, 3, 4]), ["category 7 is not one of the 2 classes"]),
        ((-1, [1, 2, 3, 4]), ["category -1 is not one of the 2 classes"]),
        ((0, [1, 2, float("nan"), 4]), ["bbox must be a finite number, is nan"]),
        ((0, [1, 2, float("inf"), 4]), ["bbox must be a finite number, is inf"]),
        ((0, [1, 2, 3]), ["bbox must be four numbers"]),
        ((None, [1, 2, 3, 4]), ["category must be a number or a name"]),
    ],
)
def test_faults_name_file_and_row(tmp_path: Path, entry: tuple[Any, list[float]], words: list[str]) -> None:
    rows = [_row((0, [1.0, 2, 3, 4])), _row((0, [1.0, 2, 3, 4]), entry, name="b.jpg")]
    file = _write(tmp_path / "set", rows, metadata=tools.features(("a", "b")))
    with pytest.raises(InputError) as error:
        read(file)
    assert all(word in str(error.value) for word in [f"{file}: row 1: object 1", *words])
    assert sum(split.num_boxes for split in check(file).source.splits().values()) == 2


@pytest.mark.parametrize("objects", [7, "[]", [3], [[1, 2, 3, 4]]])
def test_objects_of_another_kind(tmp_path: Path, objects: Any) -> None:
    file = _write(tmp_path / "set", [_row() | {"objects": objects}])
    with pytest.raises(InputError, match="row 0: objects: must be a struct of lists or a list of structs"):
        read(file)


def test_text_that_is_no_utf_8(tmp_path: Path) -> None:
    row = _row((0, [1, 2, 3, 4]))
    rows = [row | {"image": {"bytes": None, "path": b"\xff.jpg"}}, row]
    schema = pa.schema([("image", pa.struct([("bytes", pa.binary()), ("path", pa.binary())]))])
    image = pa.Table.from_pylist(rows, schema)["image"].combine_chunks()
    image = pa.StructArray.from_arrays([image.field("bytes"), image.field("path").view(pa.string())], ["bytes", "path"])
    (tmp_path / "set").mkdir()
    table = pa.table({"image": image, "objects": pa.array([row["objects"]] * 2)})
    parquet.write_table(table, tmp_path / "set" / "train.parquet")
    assert [item.reason for item in _train(tmp_path / "set").skipped] == ["the path of its image is not UTF-8"]
    words = pa.array([[b"\xff"], [b"\xff"]], pa.list_(pa.binary()))
    words = pa.ListArray.from_arrays(words.offsets, words.values.view(pa.string()))
    boxes = pa.array([[[1.0, 2, 3, 4]]] * 2)
    table = pa.table({"image": image, "objects": pa.StructArray.from_arrays([boxes, words], ["bbox", "category"])})
    parquet.write_table(table, tmp_path / "set" / "train.parquet")
    with pytest.raises(InputError, match=r"train\.parquet: objects: holds text that is not UTF-8"):
        read(tmp_path / "set")


def test_pictures_that_are_none_are_left_out(tmp_path: Path) -> None:
    rows = [_row((0, [1, 2, 3, 4]), name=name) for name in "abc"]
    rows[1]["image"]["bytes"] = b"no picture"
    rows[2]["image"]["bytes"] = rows[2]["image"]["bytes"][:200]
    train = _train(_write(tmp_path / "set", rows))
    assert len(train) == 1
    assert [item.kind for item in train.skipped] == ["unreadable_image"] * 2


def test_hostile_files(tmp_path: Path) -> None:
    file = _write(tmp_path / "set", [_row((0, [1, 2, 3, 4]))])
    content = file.read_bytes()
    cases = [("x.parquet", content[:-50]), ("x.parquet", b"PAR1"), ("x.arrow", content), ("x.parquet", b"")]
    for name, broken in cases:
        bad = tools.put(tmp_path / name, broken)
        with pytest.raises(InputError, match="file that can be read") as error:
            read(bad)
        assert str(error.value).startswith(str(bad))
    damaged = bytearray(content)
    damaged[40:400] = bytes(360)
    with pytest.raises(InputError):
        read(tools.put(tmp_path / "y.parquet", bytes(damaged)))
    _write(tmp_path / "set", [{"picture": 1, "text": "x"}])
    with pytest.raises(InputError, match=r"has no column 'objects'.*it has picture, text"):
        read(file)
    for metadata in (b"{", b"[]", b'{"info": 3}', b'{"info": {"features": {"objects": 7}}}', b"\xff"):
        _write(tmp_path / "set", [_row((0, [1, 2, 3, 4]))], metadata={b"huggingface": metadata})
        assert _train(file).classes == ("0",)
    nested = json.dumps({"info": {"features": {"objects": {"feature": {"category": {"names": ["a", "a"]}}}}}})
    _write(tmp_path / "set", [_row((0, [1, 2, 3, 4]))], metadata={b"huggingface": nested.encode()})
    with pytest.raises(InputError, match="names a class twice"):
        read(file)


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """64 pictures of 1 MB in row groups of 4: Arrow holds a row group or two, not the file."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(64):
        # What stands behind the end of a JPEG is let be.
        picture = tools.picture(f"{number}.jpg", (16, 16)) + rng.bytes(1_000_000)
        rows.append(_row((0, [1, 2, 3, 4])) | {"image": {"bytes": picture, "path": None}})
    (tmp_path / "set").mkdir()
    file = tmp_path / "set" / "train.parquet"
    table = pa.Table.from_pylist(rows)
    parquet.write_table(table, file, row_group_size=4, use_dictionary=False)
    del rows, table
    pool = pa.proxy_memory_pool(pa.default_memory_pool())
    before = pa.default_memory_pool()
    pa.set_memory_pool(pool)
    try:
        read(file, check_images=False)
    finally:
        pa.set_memory_pool(before)
    assert 4e6 < pool.max_memory() < 20e6
