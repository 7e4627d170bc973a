"""What a new user runs first imports no more than it needs: nothing waits for a package that it does not use."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from command_line import environment
from missing_extra import declared_extras
from PIL import Image
from tiny_weights import write_tiny_weights

from alignrank import extras
from alignrank.detectors import DETECTORS
from alignrank.errors import InputError
from alignrank.weights import checkpoint
from alignrank.weights.recipe import load_recipe

ROOT = Path(__file__).resolve().parents[1]
LOADED = """
import json, sys
from alignrank.cli import main
try:
    main()
except SystemExit:
    pass
print(json.dumps(sorted(name for name in sys.modules if "." not in name)), file=sys.stderr)
"""
# Packages of extras, and those whose import takes as long as PyTorch's own.
HEAVY = {
    "torchvision",
    "lightning",
    "scipy",
    "matplotlib",
    "plotly",
    "supervision",
    "av",
    "timm",
    "transformers",
    "cv2",
}
HEAVY |= {"sklearn", "skimage", "onnx", "onnxruntime", "pandas", "tensorboard", "defusedxml", "pyarrow"}


def loaded(*arguments: str, cwd: Path | None = None) -> tuple[set[str], str]:
    """Top-level modules after a command, and what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", LOADED, *arguments],
        capture_output=True, text=True, env=environment(), cwd=cwd, check=True,
    )  # fmt: skip
    return set(json.loads(done.stderr.splitlines()[-1])), done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["models", "--json"],
        ["--version"],
        ["--help"],
        ["train", "--help"],
        ["train", "--model", "yolo8-n", "--data", "digits"],
        ["config", "yolo8-n"],
        ["val", "--weights", "nowhere", "--data", "digits"],
        ["layers", "--weights", "nowhere", "--data", "digits"],
        ["field", "--weights", "nowhere"],
        ["field", "--model", "yolo8-n"],
        ["maps", "--weights", "nowhere", "image.jpg"],
        ["predict", "--weights", "nowhere", "image.jpg"],
        ["export", "--weights", "nowhere"],
        ["predict"],
        ["prdict"],
    ],
    ids=" ".join,
)
def test_without_pytorch(arguments: list[str]) -> None:
    modules, _ = loaded(*arguments)
    assert not modules & {"torch", "numpy", *HEAVY}


def test_predict_loads_pytorch_and_little_else(tmp_path: Path) -> None:
    """With drawn pictures, NMS and class names."""
    recipe = load_recipe("yolov8-n", num_classes=2, overrides={"model.size": "t", "train.imgsz": 64})
    weights = tmp_path / "w.safetensors"
    checkpoint.save(weights, recipe.build().model.state_dict(), recipe=recipe, classes=["a", "b"], metrics={})
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(tmp_path / "image.png")
    arguments = ["predict", "--weights", str(weights), "image.png", "--conf", "0", "--json"]
    modules, printed = loaded(*arguments, cwd=tmp_path)
    assert json.loads(printed)["images"][0]["boxes"]
    assert (tmp_path / "runs" / "predict" / "image.jpg").is_file()
    assert "torch" in modules
    assert not modules & HEAVY


@pytest.mark.parametrize("words", [["--data", "nowhere"], ["--data", "digits", "train.lr=fast"]], ids=" ".join)
def test_a_mistake_is_told_before_lightning_is_imported(words: list[str]) -> None:
    modules, _ = loaded("train", *words)
    assert "torch" in modules
    assert not modules & (HEAVY | {"torchmetrics"})


PREDICTED = """
import json, sys
import alignrank
found = alignrank.Detector.load(sys.argv[1]).predict(sys.argv[2], conf=0)
print(json.dumps([len(found[0]), sorted(sys.modules)]))
"""


def test_a_prediction_in_python_draws_and_says_nothing(tmp_path: Path) -> None:
    """Nor does it lock a folder, write another format or make another architecture: what these need is not imported."""
    weights, image = write_tiny_weights(tmp_path / "w.safetensors"), tmp_path / "image.png"
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(image)
    done = subprocess.run(
        [sys.executable, "-c", PREDICTED, str(weights), str(image)],
        capture_output=True, text=True, env=environment(), check=True,
    )  # fmt: skip
    count, modules = json.loads(done.stdout)
    assert count > 0
    assert not {"rich", "filelock", "PIL.ImageDraw", "alignrank.export.formats", *HEAVY} & set(modules)
    networks = {"alignrank.detectors." + name for name in DETECTORS} | {"alignrank.detectors.detr"}
    assert networks & set(modules) == {"alignrank.detectors.yolo"}


def test_extras_are_those_of_the_project() -> None:
    for extra, wanted in declared_extras().items():
        found = extras.requirements(extra)
        # The metadata may order packages, and their bounds, in another way.
        parts, wanted_parts = (sorted(sorted(re.split("[<>=,]+", line)) for line in lines) for lines in (found, wanted))
        assert parts == wanted_parts


def test_advice_names_packages_that_pip_installs_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"the package onnxruntime is not installed .*run `pip install ") as raised:
        extras.require("export", "onnxruntime")
    advice = str(raised.value)
    assert all(f"'{package}" in advice for package in ("onnx>=", "onnxscript>=", "onnxruntime>="))
    assert "alignrank[" not in advice


MISSING = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {names!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name.split(".")[0] in {names!r} else found(name, package)
sys.meta_path.insert(0, Absent())
from alignrank.cli import main
main()
"""


@pytest.mark.parametrize(
    ("absent", "arguments", "extra"),
    [
        ("lightning", ["train", "--model", "yolov8-n", "--data", "DATA"], "train"),
        ("scipy", ["val", "--weights", "WEIGHTS", "--data", "DATA"], "report"),
        ("matplotlib", ["diagnose", "--gt", "a.json", "--dt", "b.json"], "report"),
        ("av", ["predict", "--weights", "WEIGHTS", "clip.mp4"], "video"),
        ("onnxscript", ["export", "--weights", "WEIGHTS"], "export"),
        ("sklearn", ["train", "--data", "digits", "--epochs", "1"], "digits"),
        ("defusedxml", ["data", "check", "voc"], "train"),
        ("pyarrow", ["data", "check", "table"], "parquet"),
        ("uvicorn", ["serve", "--weights", "WEIGHTS"], "serve"),
        ("lightning", ["tune", "--model", "yolov8-n", "--data", "DATA"], "tune"),
        ("trackers", ["track", "clip.mp4", "--weights", "WEIGHTS"], "track"),
        ("mlflow", ["train", "--data", "DATA", "train.loggers=[mlflow]"], "mlflow"),
    ],
)
def test_a_missing_package_is_one_sentence(tmp_path: Path, absent: str, arguments: list[str], extra: str) -> None:
    recipe = load_recipe("yolov8-n", num_classes=2, overrides={"model.size": "t", "train.imgsz": 64})
    weights = tmp_path / "w.safetensors"
    checkpoint.save(weights, recipe.build().model.state_dict(), recipe=recipe, classes=["a", "b"], metrics={})
    (tmp_path / "clip.mp4").write_bytes(b"\0" * 100)
    (tmp_path / "voc" / "Annotations").mkdir(parents=True)
    (tmp_path / "voc" / "Annotations" / "a.xml").write_text("<annotation/>")
    (tmp_path / "table").mkdir()
    (tmp_path / "table" / "train.parquet").write_bytes(b"PAR1")
    words = [{"WEIGHTS": str(weights), "DATA": str(tmp_path / "voc")}.get(word, word) for word in arguments]
    done = subprocess.run(
        [sys.executable, "-c", MISSING.format(names={absent}), *words],
        capture_output=True, text=True, cwd=tmp_path, check=False,
        env=environment() | {"ALIGNRANK_CACHE": str(tmp_path / "cache")},
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert f"(extra '{extra}' of alignrank)" in done.stderr.splitlines()[-1]
    assert "pip install" in done.stderr.splitlines()[-1]


def test_the_package_says_that_it_is_typed() -> None:
    assert (ROOT / "src" / "alignrank" / "py.typed").is_file()
