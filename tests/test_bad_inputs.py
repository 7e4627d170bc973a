"""The shared list of broken and hostile inputs, each case through the command line as a user would give it.

`manifest.json` says what must happen: exit code, words of the message, what is counted, and that a refusal leaves
nothing behind. The console script's function runs in this process, because a process for each case would take minutes.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import save_file

from alignrank import cli
from alignrank.data.source import read
from alignrank.engine import checkpoint
from alignrank.engine.recipe import load_recipe

SHARED = Path(os.environ.get("ALIGNRANK_SHARED", Path(__file__).resolve().parents[2] / "shared"))
FOLDER = SHARED / "bad_inputs"
CLASSES = ("circle", "square", "bar")
TINY = ("--epochs", "1", "--imgsz", "64", "--batch", "2", "--device", "cpu", "model.size=t", "train.precision=fp32")
NO_SERVER = "needs the HTTP server, which comes with a later issue"
ABSENT = f"{FOLDER} is absent; set ALIGNRANK_SHARED to the folder that holds bad_inputs/"


@dataclass(frozen=True)
class Ended:
    """A call of the program: exit code, what it printed, seconds, and by how much its memory peaked above the start."""

    code: Any
    out: str
    err: str
    seconds: float
    megabytes: float

    @property
    def result(self) -> Any:
        return json.loads(self.out)


Program = Callable[..., Ended]


def manifest() -> list[Any]:
    file = FOLDER / "manifest.json"
    if not file.is_file():
        return [pytest.param({}, id="absent", marks=pytest.mark.skip(reason=ABSENT))]
    return [
        pytest.param(
            case, id=case["id"], marks=[pytest.mark.skip(reason=NO_SERVER)] if case["use"] == "http request" else []
        )
        for case in json.loads(file.read_text(encoding="utf-8"))["cases"]
    ]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights as this release writes them, of a tiny network with random parameters."""
    torch.manual_seed(0)
    recipe = load_recipe("yolov8-n", num_classes=3, overrides={"model.size": "t", "train.imgsz": 64})
    path = tmp_path_factory.mktemp("base") / "base.ckpt"
    checkpoint.save(path, recipe.build().model.state_dict(), recipe=recipe, classes=CLASSES, metrics={})
    return path


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Program:
    """`alignrank WORDS` in this process, in an empty working folder."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")

    def run(*words: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["alignrank", *map(str, words)])
        capfd.readouterr()
        start, before = time.monotonic(), resident("VmRSS", reset_peak=True)
        with pytest.raises(SystemExit) as ended:
            cli.main()
        seconds, peak = time.monotonic() - start, resident("VmHWM")
        return Ended(ended.value.code, *capfd.readouterr(), seconds, peak - before)

    return run


def resident(field: str, *, reset_peak: bool = False) -> float:
    """A line of /proc/self/status in MB; 0 where the system has none, or no way to reset the peak (the bound holds)."""
    try:
        if reset_peak:
            Path("/proc/self/clear_refs").write_text("5")
        status = Path("/proc/self/status").read_text()
    except OSError:
        return 0.0
    return float(status.split(f"{field}:")[1].split()[0]) / 1024


def stage(case: dict[str, Any], folder: Path, base: Path) -> Path:
    """A writable copy of the case with its links, pipes and edited weights."""
    root = folder / case["id"]
    shutil.copytree(FOLDER / case["dir"], root, symlinks=True)
    for path in [root, *root.rglob("*")]:
        path.chmod(0o755)
    for step in case["setup"]:
        target = root / step["path"]
        if step["op"] == "symlink":
            target.symlink_to(step["target"])
        elif step["op"] == "mkfifo":
            os.mkfifo(target)
        else:
            assert step["op"] == "mutate_checkpoint"
            edit_weights(base, target, step["edit"])
    return root


def edit_weights(base: Path, target: Path, edit: dict[str, Any]) -> None:
    """A copy of the weights with one edit, made by somebody who knows safetensors but not our metadata."""
    content = bytearray(base.read_bytes())
    if edit["kind"] == "flip_byte":
        begin = 8 + struct.unpack("<Q", content[:8])[0]
        content[(begin + len(content)) // 2] ^= 1
        target.write_bytes(content)
        return
    with safe_open(base, framework="pt") as archive:
        metadata = archive.metadata()
        weights = {name: archive.get_tensor(name) for name in archive.keys()}  # noqa: SIM118
    if edit["kind"] == "resize_head":
        for name, tensor in weights.items():
            if tensor.ndim and tensor.shape[0] == len(CLASSES):
                weights[name] = tensor[:1].repeat(edit["num_classes"], *[1] * (tensor.ndim - 1))
    elif edit["kind"] == "drop":
        del weights[list(weights)[-1]]
    else:
        assert edit["kind"] == "set_meta"
        assert edit["key"] in metadata
        metadata[edit["key"]] = str(edit["value"])
    save_file(weights, target, metadata=metadata)


def words_of(case: dict[str, Any], root: Path, entry: str, base: Path) -> list[object]:
    """The command line that uses the case's entry."""
    path = root / entry if entry != "." else root
    if case["use"] == "train data":
        return ["train", "--model", "yolov8-n", "--data", path, *TINY, "--out", "out", "--json"]
    if case["use"] == "config":
        return ["train", "--config", path, "--out", "out", "--json"]
    if case["use"] == "eval json":
        return ["diagnose", "--gt", root / case["ground_truth"], "--dt", path, "--json"]
    weights, source = (path, FOLDER / "img_exif_invalid" / "src") if case["use"] == "checkpoint" else (base, path)
    return ["predict", source, "--weights", weights, "--device", "cpu", "--conf", "0.001", "--out", "out", "--json"]


def listing(root: Path) -> set[str]:
    return {str(path) for path in root.rglob("*")}


@pytest.mark.parametrize("case", manifest())
def test_bad_input(case: dict[str, Any], program: Program, base: Path, tmp_path: Path) -> None:
    expect = case["expect"]
    marker = Path(expect.get("marker_must_not_exist", tmp_path / "marker"))
    assert not marker.exists()
    root = stage(case, tmp_path, base)
    before = listing(tmp_path)
    ended = program(*words_of(case, root, case["entry"], base))
    check_ended(ended, expect)
    assert not marker.exists()
    if expect["nothing_written"]:
        assert listing(tmp_path) == before
        assert ended.out == ""
    elif case["use"] in ("train data", "predict source"):
        check_counts(case, ended, tmp_path / "work" / "out")
    if case["id"] in CHECKS:
        CHECKS[case["id"]](ended, root, tmp_path / "work" / "out", program)
    if "single" in expect:
        shutil.rmtree(tmp_path / "work" / "out")
        alone = program(*words_of(case, root, expect["single"]["entry"], base))
        check_ended(alone, {**expect, **expect["single"]})
        assert not (tmp_path / "work" / "out").exists()


def check_ended(ended: Ended, expect: dict[str, Any]) -> None:
    assert ended.code == expect["exit_code"], ended.err
    assert "Traceback" not in ended.err
    assert [word for word in expect["message_names"] if word not in ended.err] == [], ended.err
    if expect["outcome"] == "error":
        # The refusal is the last line, one sentence.
        last = ended.err.splitlines()[-1]
        assert last.startswith("alignrank: ")
        assert all(word in last for word in expect["message_names"]), last
    assert ended.seconds < expect.get("max_seconds", 60)
    assert ended.megabytes < expect.get("max_rss_mb", 1000)


def check_counts(case: dict[str, Any], ended: Ended, out: Path) -> None:
    """What was used and left out: in the JSON, in the files, and in the last line on the terminal."""
    expect, result = case["expect"], ended.result
    skipped = {"image": 0, "box": 0} if case["use"] == "train data" else {"image": 0}
    if expect["outcome"] == "skip":
        skipped[expect["unit"]] = expect["skipped"]
    assert result["skipped"] == skipped
    last = ended.err.splitlines()[-1]
    assert f"processed {result['processed']} image" in last
    for unit, count in skipped.items():
        assert (f"skipped {count} {unit}" in last) == bool(count)
    if expect["outcome"] == "skip":
        assert all(word in last for word in expect["message_names"])
    written = result
    if case["use"] == "train data":
        written = json.loads((out / "results.json").read_text())
        assert written["skipped"] == skipped
    if "processed" in expect:
        # Of a case that loses boxes the list counts the boxes left in one format, the images in the other.
        assert expect["processed"] in (result["processed"], written.get("objects")), (result["processed"], written)


CHECKS: dict[str, Callable[[Ended, Path, Path, Program], None]] = {}
