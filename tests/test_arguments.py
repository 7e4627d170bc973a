"""What people pass from Python: numbers as text, scalars of arrays, tuples, one class; what is none is one sentence."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import alignrank as program
from squares import write_squares

import alignrank
from alignrank.arguments import number, place, share, switch, whole
from alignrank.contracts import WantedThresholds
from alignrank.device import choose_device
from alignrank.errors import InputError
from alignrank.evaluation.options import DiagnosisOptions, ValOptions
from alignrank.inference.options import PredictOptions

IMAGE = np.zeros((48, 64, 3), np.uint8)


@pytest.fixture(scope="module")
def detector() -> alignrank.Detector:
    return alignrank.Detector("yolov8-n", classes=["cat", "dog"], **{"model.size": "t", "train.imgsz": 64})


@pytest.mark.parametrize("value", [3, "3", 3.0, np.int64(3), torch.tensor(3), np.float32(3), " 3 "])
def test_a_whole_number_in_any_form(value: Any) -> None:
    assert whole("batch", value, least=1) == 3
    assert type(whole("batch", value)) is int
    assert number("lr", value) == 3.0


@pytest.mark.parametrize("value", ["three", 3.5, None, [3], True, float("nan"), float("inf"), np.array([3]), b"3"])
def test_what_is_no_whole_number(value: Any) -> None:
    with pytest.raises(InputError, match=r"^batch: must be a whole number, got "):
        whole("batch", value)


def test_shares_switches_and_paths() -> None:
    assert share("conf", "0.25") == share("conf", np.float64(0.25)) == 0.25
    for value in ("half", None, 1.5, float("nan")):
        with pytest.raises(InputError, match=r"^conf: must be "):
            share("conf", value)
    assert switch("rect", np.bool_(True)) is True
    for value in ("false", 0, None):
        with pytest.raises(InputError, match=r"^rect: must be True or False"):
            switch("rect", value)
    assert place("out", "a") == Path("a")
    for value in (3, None, b"a", ["a"]):
        with pytest.raises(InputError, match=r"^out: must be a path"):
            place("out", value)


def test_options_take_numbers_in_any_form() -> None:
    wanted = WantedThresholds("0.5", np.float32(0.5), "10")  # type: ignore[arg-type]
    assert (wanted.conf, wanted.iou, wanted.max_dets) == (0.5, 0.5, 10)
    assert PredictOptions(batch="4").batch == 4  # type: ignore[arg-type]
    val = ValOptions(batch="4", imgsz=(64, 96), coco_max_dets="50")  # type: ignore[arg-type]
    assert (val.batch, val.imgsz, val.coco_max_dets) == (4, (64, 96), 50)
    assert DiagnosisOptions(max_dets="50", conf="0.3").max_dets == 50  # type: ignore[arg-type]


@pytest.mark.parametrize("imgsz", [64, "64", (64, 64), "64,64", [64, 64], np.int64(64), np.array([64, 64]), 64.0])
def test_sizes_in_any_form(detector: alignrank.Detector, imgsz: Any) -> None:
    assert len(detector.predict(IMAGE, imgsz=imgsz)) == 1


BAD: list[dict[str, Any]] = [
    *({"imgsz": size} for size in ("big", (640, 480), (64,), ("a", "b"), {}, 63, -64, object(), True, (64, None))),
    *({"conf": value} for value in ("high", object(), 2, [0.5])),
    *({"batch": value} for value in ("all", None, 0, 1.5)),
    *({"max_dets": value} for value in ("many", 0, 2.5)),
    *({"classes": value} for value in ("bird", 7, ["bird"], [], [None])),
    *({"device": value} for value in ("gpu", 99, "cuda:99", object())),
    *({"rect": "false"}, {"nms": "no"}, {"stream": "yes"}, {"keep_images": "no"}),
]


@pytest.mark.parametrize("options", BAD, ids=lambda options: next(iter(options)))
def test_one_sentence_that_names_the_argument(detector: alignrank.Detector, options: dict[str, Any]) -> None:
    (name,) = options
    with pytest.raises(InputError) as raised:
        list(detector.predict(IMAGE, **options))
    assert str(raised.value).startswith(f"{name}: ")
    assert "\n" not in str(raised.value)
    assert "command line" not in str(raised.value)


@pytest.mark.parametrize("classes", [0, "cat", "0", ["cat"], [0], (0,), {"cat"}, np.int64(0), np.array([0])])
def test_one_class_in_any_form(detector: alignrank.Detector, classes: Any) -> None:
    (found,) = detector.predict(IMAGE, classes=classes, conf=0.0)
    assert len(found)
    assert set(found.labels.tolist()) == {0}


@pytest.mark.parametrize("device", [None, "cpu", "auto", torch.device("cpu")])
def test_devices_in_any_form(detector: alignrank.Detector, device: Any) -> None:
    assert len(detector.predict(IMAGE, device=device)) == 1
    assert choose_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"epochs": "three"}, "epochs: must be a whole number, got 'three'"),
        ({"epochs": 0}, "train: epochs: "),
        ({"imgsz": (640, 480)}, "train: imgsz: "),
        ({"epoch": 3}, "train: unknown option 'epoch'; did you mean 'epochs'"),
        ({"mosaic": 0.0}, "train: unknown option 'mosaic'; it is augment.mosaic"),
        ({"device": "gpu"}, "train: device: "),
        ({"data": 3}, "data: must be a path"),
        ({"data": "nowhere"}, "train: data: there is no file or folder 'nowhere'"),
        ({"out": 3}, "out: "),
        ({"train.lr": "fast"}, "train: lr: "),
    ],
)
def test_messages_of_train_name_the_argument(options: dict[str, Any], words: str, tmp_path: Path) -> None:
    data = options.pop("data", str(write_squares(tmp_path / "data", num_train=2, num_val=1)))
    new = alignrank.Detector("yolov8-n", **{"model.size": "t"})
    with pytest.raises(InputError) as raised:
        new.train(data, **options)
    assert words in str(raised.value)
    assert "command line" not in str(raised.value)


@pytest.mark.parametrize("model", ["yolo8-n", None, 3, Path("yolov9")])
def test_messages_of_the_constructor(model: Any) -> None:
    with pytest.raises(InputError, match="model"):
        alignrank.Detector(model)
    with pytest.raises(InputError, match="weights"):
        alignrank.Detector.load(model)


def test_train_takes_numbers_as_text(tmp_path: Path) -> None:
    data = write_squares(tmp_path / "data", num_train=2, num_val=1)
    new = alignrank.Detector("yolov8-n", **{"model.size": "t"})
    result = new.train(
        data, epochs="1", imgsz="64", batch="2", lr="0.001", seed=np.int64(1), device="cpu", out=tmp_path / "r"
    )
    assert new.recipe.train.epochs == 1
    assert (new.recipe.train.imgsz, new.recipe.train.batch, new.recipe.train.lr) == (64, 2, 0.001)
    assert Path(result["weights"]).is_file()


@pytest.mark.parametrize(
    ("word", "advice"),
    [
        ("epochs=3", "write --epochs 3"),
        ("imgsz=320", "write --imgsz 320"),
        ("data=cells", "write --data cells"),
        ("mosaic=0", "write augment.mosaic=0"),
        ("warmup_epochs=1", "write train.warmup_epochs=1"),
        ("nonsense=1", "write section.field=value"),
    ],
)
def test_a_word_without_its_section(word: str, advice: str) -> None:
    done = program("train", "--data", "digits", word)
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].endswith(advice)


def test_version() -> None:
    done = program("--version")
    assert (done.returncode, done.stdout) == (0, f"alignrank {alignrank.__version__}{os.linesep}")
