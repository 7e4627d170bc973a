"""`predict --engine ray`: all images once, whatever happens to workers; needs the extra ray."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import environment
from PIL import Image
from tiny_weights import write_tiny_weights

from alignrank.contracts import WantedThresholds
from alignrank.inference.lake import parts_of
from alignrank.inference.options import PredictOptions

pytest.importorskip("ray", reason="the extra ray is not installed")
parquet = pytest.importorskip("pyarrow.parquet", reason="the extra ray is not installed")

# Python imports it in every process that finds it: workers die at the worst moments, each once, behind the two marks.
DYING = """
import os, signal
from pathlib import Path
whole, marks = os.replace, Path({marks!r})
def once(name):
    try:
        (marks / name).touch(exist_ok=False)
    except FileExistsError:
        return
    os.kill(os.getpid(), signal.SIGKILL)
def replace(beside, path):
    name = Path(path).name
    if name == "part-0000002.parquet":
        once("before")
    whole(beside, path)
    if name == "part-0000004.parquet":
        once("after")
os.replace = replace
"""
ALWAYS = """
import os, signal
from pathlib import Path
whole = os.replace
def replace(beside, path):
    if Path(path).name == "part-0000001.parquet":
        os.kill(os.getpid(), signal.SIGKILL)
    whole(beside, path)
os.replace = replace
"""


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_weights(tmp_path_factory.mktemp("weights") / "tiny.safetensors")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven, the fourth of which is none."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for number in range(7):
        Image.fromarray(rng.integers(0, 255, (48, 64, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    (folder / "3.png").write_bytes(b"no picture")
    return folder


def predicted(
    weights: Path, pictures: Path, out: Path, *more: str, injected: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """The command with two workers. injected: a folder with a `sitecustomize.py` for all processes."""
    command = [sys.executable, "-m", "alignrank", "predict", str(pictures), "--weights", str(weights), "--conf", "0.01"]
    paths = [*([str(injected)] if injected else []), *filter(None, [os.environ.get("PYTHONPATH")])]
    variables = environment() | ({"PYTHONPATH": os.pathsep.join(paths)} if paths else {})
    return subprocess.run(
        [*command, "--device", "cpu", "--engine", "ray", "--workers", "2", "--out", str(out), "--json", *more],
        env=variables, capture_output=True, text=True, check=False, timeout=900,
    )  # fmt: skip


def rows(out: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = parquet.read_table(out).to_pylist()
    return sorted(found, key=lambda row: str(row["source"]))


def injected(folder: Path, text: str) -> Path:
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(text)
    return folder


def test_workers_that_are_killed_lose_and_duplicate_nothing(weights: Path, pictures: Path, tmp_path: Path) -> None:
    """One before its file has its name, one when the file is there and nobody has been told. Then a part is taken
    away: the same command makes that one alone; another command is refused.
    """
    from alignrank.export.runtimes import ready
    from alignrank.inference.predict import predict
    from alignrank.weights.deployed import SelectionOptions

    marks, out = tmp_path / "marks", tmp_path / "out"
    marks.mkdir()
    dying = injected(tmp_path / "dying", DYING.format(marks=str(marks)))
    done = predicted(weights, pictures, out, injected=dying)
    assert done.returncode == 0, done.stderr
    assert sorted(mark.name for mark in marks.iterdir()) == ["after", "before"]
    assert "Traceback" not in done.stderr
    assert "skipped 1 image" in done.stderr

    found = rows(out)
    assert [row["source"] for row in found] == [str(path) for path in sorted(pictures.iterdir())]
    options = PredictOptions(thresholds=WantedThresholds(conf=0.01), batch=8, report_skipped=False)
    expected = list(predict(ready(weights, "cpu", SelectionOptions()), str(pictures), options))
    good = [row for row in found if row["error"] is None]
    assert [row["boxes"] for row in good] == [detections.boxes.tolist() for detections in expected]
    assert "3.png" in next(row["error"] for row in found if row["error"] is not None)
    result = json.loads(done.stdout)
    assert result["processed"] == 6
    assert result["skipped"] == {"image": 1}
    assert result["objects"] == sum(map(len, expected)) > 0
    names = [part.file for part in parts_of([str(pictures)])]
    assert sorted(path.name for path in out.iterdir()) == ["_job.json", *names]

    before = {name: (out / name).stat().st_mtime_ns for name in names}
    (out / names[5]).unlink()
    again = predicted(weights, pictures, out)
    assert again.returncode == 0, again.stderr
    assert "6 of 7 parts are there" in again.stderr
    assert [name for name in names if (out / name).stat().st_mtime_ns != before[name]] == [names[5]]
    assert rows(out) == found
    other = predicted(weights, pictures, out, "--classes", "red")
    assert other.returncode == 2
    assert "holds another job, of other options" in other.stderr


def test_images_that_kill_every_worker(weights: Path, pictures: Path, tmp_path: Path) -> None:
    """One sentence and exit code 1, with the parts that were done."""
    out = tmp_path / "out"
    done = predicted(weights, pictures, out, injected=injected(tmp_path / "always", ALWAYS))
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "workers failed 4 times over the same images" in done.stderr.splitlines()[-1]
    assert not (out / "part-0000001.parquet").exists()
    assert not list(out.glob("*.tmp"))
