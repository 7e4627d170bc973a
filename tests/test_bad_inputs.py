"""The shared list of broken and hostile inputs, each case through the command line as a user would give it.

`manifest.json` says what must happen: exit code, words of the message, what is counted, and that a refusal leaves
nothing behind. The console script's function runs in this process, because a process for each case would take minutes.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from alignrank import cli
from alignrank.data.decode import decode, read_size
from alignrank.data.loader import Images
from alignrank.data.samples import Split
from alignrank.data.source import read
from alignrank.input_size import InputSize
from alignrank.weights import checkpoint
from alignrank.weights.recipe import load_recipe

SHARED = Path(os.environ.get("ALIGNRANK_SHARED", Path(__file__).resolve().parents[2] / "shared"))
FOLDER = SHARED / "bad_inputs"
CLASSES = ("circle", "square", "bar")
TINY = ("--epochs", "1", "--imgsz", "64", "--batch", "2", "--device", "cpu", "model.size=t", "train.precision=fp32")
# Seconds after which a call that waits for something (a pipe) is ended, on a machine that is busy.
HANGS = 1800
NO_SERVER = "is sent to a server by tests/serve/test_requests.py"
ABSENT = f"{FOLDER} is absent; set ALIGNRANK_SHARED to the folder that holds bad_inputs/"


@dataclass(frozen=True)
class Ended:
    """A call of the program: exit code, what it printed, CPU seconds (the machine may be busy), and by how much its
    memory peaked above the start.
    """

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
        start, before = time.process_time(), resident("VmRSS", reset_peak=True)
        signal.alarm(HANGS)
        with pytest.raises(SystemExit) as ended:
            cli.main()
        signal.alarm(0)
        seconds, peak = time.process_time() - start, resident("VmHWM")
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
def test_bad_input(
    case: dict[str, Any],
    program: Program,
    base: Path,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    """With `--junitxml FILE`, the file holds the time and memory of each case."""
    expect = case["expect"]
    marker = Path(expect.get("marker_must_not_exist", tmp_path / "marker"))
    assert not marker.exists()
    root = stage(case, tmp_path, base)
    before = listing(tmp_path)
    ended = program(*words_of(case, root, case["entry"], base))
    record_property("cpu_seconds", round(ended.seconds, 2))
    record_property("megabytes", round(ended.megabytes))
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


def perfect(truth: dict[str, Any]) -> list[dict[str, Any]]:
    """The objects of a COCO file as detections."""
    return [
        {**{key: row[key] for key in ("image_id", "category_id", "bbox")}, "score": 0.9} for row in truth["annotations"]
    ]


def training_split(path: Path) -> Split:
    split = read(path).train
    assert split is not None
    return split


def labels_of(split: Split, stem: str) -> list[int]:
    return next(sample.labels.tolist() for sample in split.samples if sample.image.stem == stem)


def coco_ann_id_zero(ended: Ended, root: Path, out: Path, program: Program) -> None:
    gt, dt = root / "annotations.json", root / "perfect.json"
    dt.write_text(json.dumps(perfect(json.loads(gt.read_text()))))
    assert program("diagnose", "--gt", gt, "--dt", dt, "--json").result["ap"] == 1.0


def coco_category_gaps(ended: Ended, root: Path, out: Path, program: Program) -> None:
    found = json.loads((out / "detections.json").read_text())
    assert found
    assert {row["category_id"] for row in found} <= {1, 7, 90}
    assert set(ended.result["metrics"]["per_class"]) == {"1", "7", "90"}


def coco_crowd_rle(ended: Ended, root: Path, out: Path, program: Program) -> None:
    """No target of the training; a class that has crowd regions only has no figure."""
    pictures = Images(training_split(root / "annotations.json"), InputSize(64))
    assert [len(pictures[i].labels) for i in range(4)] == [1, 0, 1, 1]
    assert [ended.result["metrics"]["per_class"][key]["ap"] is None for key in ("1", "2", "3")] == [False, True, False]


def coco_huge_ids(ended: Ended, root: Path, out: Path, program: Program) -> None:
    assert 2**63 - 1 in {row["image_id"] for row in json.loads((out / "detections.json").read_text())}


def img_cmyk_jpeg(ended: Ended, root: Path, out: Path, program: Program) -> None:
    assert {decode(path).shape[2] for path in (root / "src").iterdir()} == {3}


def img_exif_all8(ended: Ended, root: Path, out: Path, program: Program) -> None:
    """Upright sizes, and for each box of the first picture one near it in the others."""
    sizes = {read_size(path) for path in (root / "src").iterdir()}
    assert sizes == {(64, 96)}
    first, *others = (torch.tensor(image["boxes"]).reshape(-1, 4) for image in ended.result["images"])
    assert len(first)
    for boxes in others:
        assert float((first[:, None] - boxes[None]).abs().amax(2).amin(1).max()) <= 2


def img_name_space_newline(ended: Ended, root: Path, out: Path, program: Program) -> None:
    sources = [image["source"] for image in ended.result["images"]]
    assert [Path(source).name for source in sources].count("a b\nc.jpg") == 1
    with (out / "predictions.csv").open(newline="") as file:
        assert {row["source"] for row in csv.DictReader(file)} <= set(sources)


def eval_duplicates(ended: Ended, root: Path, out: Path, program: Program) -> None:
    """pycocotools 2.0.11 has these figures."""
    assert abs(ended.result["ap"] - 0.945) <= 0.0005
    assert ended.result["ar100"] == 1.0


def says(*words: str) -> Callable[[Ended, Path, Path, Program], None]:
    def check(ended: Ended, root: Path, out: Path, program: Program) -> None:
        assert any(line.startswith("warning: ") and all(w in line for w in words) for line in ended.err.splitlines())

    return check


def figures(**expected: float) -> Callable[[Ended, Path, Path, Program], None]:
    def check(ended: Ended, root: Path, out: Path, program: Program) -> None:
        assert {key: ended.result[key] for key in expected} == expected

    return check


def sees(look: Callable[[Split], Any], expected: Any, *, entry: str = "data.yaml") -> Callable[..., None]:
    def check(ended: Ended, root: Path, out: Path, program: Program) -> None:
        assert look(training_split(root / entry)) == expected

    return check


def one_result(name: str) -> Callable[[Ended, Path, Path, Program], None]:
    def check(ended: Ended, root: Path, out: Path, program: Program) -> None:
        assert [Path(image["source"]).name for image in ended.result["images"]].count(name) == 1

    return check


def trained_classes(*names: str) -> Callable[[Ended, Path, Path, Program], None]:
    def check(ended: Ended, root: Path, out: Path, program: Program) -> None:
        assert checkpoint.load(out).classes == names

    return check


def num_negatives(split: Split) -> int:
    return sum(not len(sample.labels) for sample in split.samples)


# What the manifest's `check` asks for, by case.
CHECKS: dict[str, Callable[[Ended, Path, Path, Program], None]] = {
    "coco_bbox_partly_outside": says("1 box", "clipped"),
    "coco_ann_id_zero": coco_ann_id_zero,
    "coco_category_gaps": coco_category_gaps,
    "coco_crowd_rle": coco_crowd_rle,
    "coco_crowd_rle_bad": sees(len, 4, entry="annotations.json"),
    "coco_image_no_annotations": sees(num_negatives, 1, entry="annotations.json"),
    "coco_huge_ids": coco_huge_ids,
    "yolo_class_float_integral": sees(lambda split: labels_of(split, "train1"), [1]),
    "yolo_blank_lines": sees(lambda split: len(labels_of(split, "train1")), 2),
    "yolo_crlf": sees(lambda split: len(labels_of(split, "train1")), 2),
    "yolo_orphan_label": says("ghost.txt"),
    "yaml_names_norway": trained_classes("no", "yes", "off"),
    "yaml_same_train_val": says("train images"),
    "voc_missing_size": sees(lambda split: {sample.size for sample in split.samples}, {(48, 64)}, entry="."),
    "voc_one_pixel_box": sees(lambda split: split.samples[1].boxes.tolist(), [[7, 7, 8, 8]], entry="."),
    "voc_no_objects": sees(num_negatives, 1, entry="."),
    "img_cmyk_jpeg": img_cmyk_jpeg,
    "img_gif_animated": one_result("anim.gif"),
    "img_name_space_newline": img_name_space_newline,
    "img_exif_all8": img_exif_all8,
    "eval_empty": figures(ap=0.0),
    "eval_duplicates": eval_duplicates,
    "eval_many_per_image": figures(ap=1.0),
}


def test_every_check_of_the_manifest_is_made() -> None:
    cases = [case.values[0] for case in manifest() if case.id != "absent"]
    if not cases:
        pytest.skip(ABSENT)
    assert {case["id"] for case in cases if "check" in case["expect"] and case["use"] != "http request"} == set(CHECKS)


def test_a_bomb_takes_no_memory(tmp_path: Path, base: Path) -> None:
    """900 megapixels in 110 kB: refused by the header. 2.7 GB decoded; the process grows by less than 200 MB."""
    good, bomb = tmp_path / "good.png", tmp_path / "bomb.png"
    Image.new("RGB", (64, 48)).save(good)
    write_bomb(bomb)
    assert bomb.stat().st_size < 130_000
    script = f"""
import resource, sys
from alignrank import cli
from alignrank.data.decode import decode, read_size
from alignrank.data.loader import Images
from alignrank.data.samples import Split
from alignrank.data.source import read
for source, out in ("{good}", "a"), ("{bomb}", "b"):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    sys.argv = ["alignrank", "predict", source, "--weights", "{base}", "--device", "cpu", "--out", "{tmp_path}/" + out]
    try:
        cli.main()
    except SystemExit as ended:
        print(ended.code, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    first, second = (line.split() for line in done.stdout.splitlines())
    assert (first[0], second[0]) == ("0", "2"), done.stderr
    assert "bomb.png" in done.stderr.splitlines()[-1]
    assert int(second[1]) < 200 * 1024
    assert not (tmp_path / "b").exists()


def write_bomb(path: Path, side: int = 30_000) -> None:
    """A PNG of side x side pixels of one bit, all black."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    packer, row = zlib.compressobj(9), bytes(1 + side // 8)
    pixels = b"".join([*(packer.compress(row * 1000) for _ in range(side // 1000)), packer.flush()])
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b""))
