"""Sources as parts, and the Parquet file that a worker makes of one; without Ray."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import alignrank, refused
from PIL import Image
from tiny_weights import write_tiny_weights

from alignrank import extras
from alignrank.contracts import WantedThresholds
from alignrank.errors import InputError
from alignrank.export.runtimes import ready
from alignrank.inference.lake import LARGEST, Part, Worker, parts_of
from alignrank.inference.options import PredictOptions
from alignrank.inference.predict import predict
from alignrank.inference.windows import Tiling
from alignrank.weights.deployed import SelectionOptions

pyarrow = pytest.importorskip("pyarrow", reason="the extra parquet is not installed")
parquet = pytest.importorskip("pyarrow.parquet", reason="the extra parquet is not installed")
LOW = PredictOptions(thresholds=WantedThresholds(conf=0.01, max_dets=5), batch=4)
BROKEN = (2, 7)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_weights(tmp_path_factory.mktemp("weights") / "tiny.safetensors")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine of two shapes, and the two BROKEN ones."""
    folder = tmp_path_factory.mktemp("lake") / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(11):
        shape = (48, 64, 3) if number % 3 else (64, 40, 3)
        Image.fromarray(rng.integers(0, 255, shape, dtype=np.uint8)).save(folder / f"{number:02d}.png")
    for number in BROKEN:
        (folder / f"{number:02d}.png").write_bytes(b"no picture")
    return folder


def made(weights: Path, out: Path, parts: list[Part], options: PredictOptions = LOW) -> list[dict[str, Any]]:
    """The rows of the files of all parts."""
    out.mkdir(exist_ok=True)
    worker = Worker(weights, options, SelectionOptions(), "cpu", out)
    for part in parts:
        worker(part)
    assert sorted(path.name for path in out.iterdir()) == [part.file for part in parts]
    return [row for part in parts for row in parquet.read_table(out / part.file).to_pylist()]


def written(path: Path, columns: dict[str, Any], rows: int) -> Path:
    path.parent.mkdir(exist_ok=True)
    parquet.write_table(pyarrow.table(columns), path, row_group_size=rows)
    return path


@pytest.mark.parametrize("tiling", [None, Tiling.of(32, 0.2)], ids=["whole", "tiled"])
def test_rows_are_what_predict_finds(weights: Path, pictures: Path, tmp_path: Path, tiling: Tiling | None) -> None:
    """In the order of the source, with a row that says why for each image that cannot be read."""
    options = PredictOptions(thresholds=LOW.thresholds, batch=4, tiling=tiling, report_skipped=False)
    (part,) = [Part(0, names=tuple(map(str, sorted(pictures.iterdir()))))]
    rows = made(weights, tmp_path / "out", [part], options)
    assert [row["source"] for row in rows] == list(part.names)
    assert [number for number, row in enumerate(rows) if row["error"] is not None] == list(BROKEN)
    for number in BROKEN:
        assert rows[number]["error"].startswith(part.names[number])
        assert "not an image" in rows[number]["error"]
        assert rows[number]["boxes"] == rows[number]["scores"] == []
        assert rows[number]["width"] is None
    found = list(predict(ready(weights, "cpu", SelectionOptions()), str(pictures), options))
    good = [row for row in rows if row["error"] is None]
    assert len(good) == len(found) == 9
    assert all(map(len, found))
    for row, detections in zip(good, found, strict=True):
        assert row["source"] == detections.source
        assert (row["height"], row["width"]) == detections.size
        assert row["boxes"] == detections.boxes.tolist()
        assert row["scores"] == detections.scores.tolist()
        assert row["labels"] == detections.labels.tolist()
        assert row["names"] == detections.class_names


def test_parquet_of_bytes_and_of_paths(weights: Path, pictures: Path, tmp_path: Path) -> None:
    """The same boxes as of files; every row once, whatever the row groups. A row without image says so."""
    files = sorted(pictures.iterdir())
    expected = made(weights, tmp_path / "files", parts_of([str(pictures)]))
    held = [path.read_bytes() for path in files]
    structs = [{"bytes": data, "path": path.name} for data, path in zip(held, files, strict=True)]
    relative = [f"pictures/{path.name}" for path in files]
    tables = {
        "bytes": written(tmp_path / "bytes" / "a.parquet", {"id": range(12), "image": [*held, None]}, 5),
        "structs": written(tmp_path / "structs" / "a.parquet", {"image": [*structs, None]}, 4),
        "paths": written(pictures.parent / "a.parquet", {"path": [*relative, None]}, 12),
    }
    for name, table in tables.items():
        source = table if name == "paths" else table.parent
        rows = made(weights, tmp_path / f"of {name}", parts_of([str(source)]))
        assert [row["boxes"] for row in rows] == [*(row["boxes"] for row in expected), []]
        assert [row["scores"] for row in rows] == [*(row["scores"] for row in expected), []]
        assert rows[-1]["error"] == f"{table}#11: there is no image in this row"
        assert [n for n, row in enumerate(rows) if row["error"] is not None] == [*BROKEN, 11]
        if name == "paths":
            assert [row["source"] for row in rows[:-1]] == [str(path) for path in files]
        else:
            assert [row["source"] for row in rows] == [f"{table}#{number}" for number in range(12)]
            assert rows[2]["error"].startswith(f"{table}#2: ")


def test_parts(tmp_path: Path) -> None:
    """They hold every image once, LARGEST at most, and depend on the source alone."""
    names = [str(tmp_path / f"{number}.png") for number in range(2500)]
    (tmp_path / "list.txt").write_text("\n".join(names))
    parts = parts_of([str(tmp_path / "list.txt")])
    assert [name for part in parts for name in part.names] == names
    assert {len(part) for part in parts[:-1]} == {40}  # 2500 / 64, rounded up
    assert [part.number for part in parts] == list(range(len(parts)))
    many = written(tmp_path / "many.parquet", {"path": [""] * 150_000}, 70_000)
    spans = [(part.group, part.start, part.stop) for part in parts_of([str(many)])]
    assert max(stop - start for _, start, stop in spans) == LARGEST
    assert sum(stop - start for _, start, stop in spans) == 150_000
    assert next(span for span in spans if span[0] == 1) == (1, 0, LARGEST)
    assert spans[-1] == (2, 9_000, 10_000)


def test_sources_that_cannot_be_looked_at(pictures: Path, tmp_path: Path) -> None:
    table = written(tmp_path / "a.parquet", {"name": ["x"]}, 1)
    (tmp_path / "broken.parquet").write_bytes(b"no table")
    for sources, column, words in (
        (["http://127.0.0.1/a.jpg"], None, "workers look at files"),
        ([str(tmp_path / "none")], None, "no such file"),
        ([str(table)], None, "has no column 'image'; it has name"),
        ([str(table)], "picture", "has no column 'picture'"),
        ([str(tmp_path / "broken.parquet")], None, "is not a Parquet file"),
        ([str(table), str(pictures)], "name", "in two runs"),
        ([str(pictures)], "path", "there is none among the sources"),
    ):
        with pytest.raises(InputError, match=words):
            parts_of(sources, column)


def test_what_the_command_line_refuses(
    weights: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ["predict", str(pictures), "--weights", str(weights)]
    refused(alignrank(*given, "--workers", "2"), "--workers", "--engine ray")
    refused(alignrank(*given, "--column", "path"), "--column", "--engine ray")
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setattr(extras.importlib.util, "find_spec", lambda name: None if name == "ray" else io)
    refused(alignrank(*given, "--engine", "ray", "--out", str(tmp_path / "out")), "ray", "pip install")
    assert not (tmp_path / "out").exists()
