"""The verbs other than `train`, and the `Detector` object, on random weights and a few small images."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import alignrank as alignrank_command
from PIL import Image
from tiny_weights import write_tiny_weights
from typer.testing import CliRunner

import alignrank
from alignrank.cli import app
from alignrank.weights import checkpoint
from alignrank.weights.catalog import recipe_names

CLASSES = ("red", "green", "blue")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A yolov10-n in tiny form whose class biases make it say something everywhere."""
    return write_tiny_weights(tmp_path_factory.mktemp("weights") / "model.safetensors", CLASSES)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three images of different sizes, and their COCO annotations."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "images").mkdir()
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for number, (height, width) in enumerate([(48, 64), (80, 40), (64, 64), (50, 50)]):
        name = f"photo{number}.png"
        Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(folder / "images" / name)
        images.append({"id": number + 1, "file_name": name, "width": width, "height": height})
        box = [5, 6, 20, 24]
        annotations.append(
            {"id": number + 1, "image_id": number + 1, "category_id": number % 3 + 1, "bbox": box, "area": 480}
        )
    categories = [{"id": i + 1, "name": name} for i, name in enumerate(CLASSES)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations.json").write_text(json.dumps(content))
    return folder


def invoke(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def test_predict_writes_and_prints_the_same(weights: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "found"
    printed = json.loads(
        invoke("predict", photos / "images", "--weights", weights, "--conf", 0.3, "--out", out, "--json")
    )
    assert set(printed) == {"images", "processed", "skipped"}
    assert (printed["processed"], printed["skipped"]) == (4, {"image": 0})
    assert set(printed["images"][0]) == {"source", "path", "size", "boxes", "scores", "labels", "names"}
    assert json.loads((out / "predictions.json").read_text()) == printed["images"]
    assert len(list(out.glob("*.jpg"))) == 4
    for image, (height, width) in zip(printed["images"], [(48, 64), (80, 40), (64, 64), (50, 50)], strict=True):
        boxes = np.array(image["boxes"])
        assert len(boxes) > 0
        assert (boxes >= 0).all()
        assert (boxes <= [width, height, width, height]).all()
        assert image["scores"] == sorted(image["scores"], reverse=True)
        assert min(image["scores"]) > 0.3


def test_predict_of_chosen_classes(weights: Path, photos: Path, tmp_path: Path) -> None:
    common = [photos / "images", "--weights", weights, "--conf", 0.3, "--no-pictures", "--json"]
    printed = json.loads(invoke("predict", *common, "--classes", "green,2", "--out", tmp_path / "some"))
    names = {name for image in printed["images"] for name in image["names"]}
    assert names == {"green", "blue"}


def test_predict_of_classes_with_commas_in_their_names(weights: Path, photos: Path, tmp_path: Path) -> None:
    """Given by several options, each a whole name or names with commas between."""
    loaded = checkpoint.load(weights)
    names = ["cat", "car", "car, red"]
    file = tmp_path / "w.safetensors"
    checkpoint.save(file, loaded.weights, recipe=loaded.recipe, classes=names, metrics={})
    for number, (given, expected) in enumerate(
        [(["car, red"], {"car, red"}), (["cat", "car, red"], {"cat", "car, red"}), (["cat,car"], {"cat", "car"})]
    ):
        options = [word for text in given for word in ("--classes", text)]
        found = ["--weights", file, "--conf", 0.3, "--no-pictures", "--json", "--out", tmp_path / str(number)]
        printed = json.loads(invoke("predict", photos / "images", *found, *options))
        assert {name for image in printed["images"] for name in image["names"]} == expected


def test_detector_predicts_like_the_command(weights: Path, photos: Path, tmp_path: Path) -> None:
    detector = alignrank.Detector.load(weights)
    found = detector.predict(photos / "images", conf=0.3)
    printed = json.loads(
        invoke(
            "predict",
            photos / "images",
            "--weights",
            weights,
            "--conf",
            0.3,
            "--no-pictures",
            "--out",
            tmp_path / "o",
            "--json",
        )
    )
    assert [len(detections) for detections in found] == [len(image["boxes"]) for image in printed["images"]]
    for detections, image in zip(found, printed["images"], strict=True):
        np.testing.assert_allclose(detections.boxes.numpy(), image["boxes"], atol=2e-3)
    array = np.asarray(Image.open(photos / "images" / "photo0.png"))
    torch.testing.assert_close(detector.predict(array, conf=0.3)[0].scores, found[0].scores)


def test_val_of_a_single_file(weights: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "report"
    arguments = ["val", "--weights", weights, "--data", photos / "annotations.json", "--split", "train"]
    printed = json.loads(invoke(*arguments, "--out", out, "--json"))
    assert set(printed["per_class"]) == {"1", "2", "3"}
    assert 0 <= printed["ap"] <= printed["ap50"] <= 1
    assert {"metrics.json", "detections.json", "confusion.png", "f1.png"} <= {path.name for path in out.iterdir()}
    metrics = alignrank.Detector.load(weights).val(photos / "annotations.json", split="train")
    assert metrics.ap == printed["ap"]


def test_the_mirror_image_too(weights: Path, photos: Path, tmp_path: Path) -> None:
    """Detections of a picture and of its mirror image are each other's mirror images, in Python as by the command."""
    pixels = np.asarray(Image.open(photos / "images" / "photo2.png"))
    Image.fromarray(pixels[:, ::-1]).save(tmp_path / "turned.png")
    detector, names = alignrank.Detector.load(weights), [photos / "images" / "photo2.png", tmp_path / "turned.png"]
    (plain,), (found,) = detector.predict(pixels, conf=0.3), detector.predict(pixels, conf=0.3, tta=True)
    arguments = [*names, "--weights", weights, "--conf", 0.3, "--no-pictures", "--tta", "--json"]
    same, turned = json.loads(invoke("predict", *arguments, "--out", tmp_path / "found"))["images"]
    np.testing.assert_allclose(found.boxes.numpy(), same["boxes"], atol=2e-3)
    assert found.labels.tolist() == same["labels"] == turned["labels"]
    np.testing.assert_allclose(turned["scores"], same["scores"], atol=1e-3)
    back = np.array(turned["boxes"])[:, [2, 1, 0, 3]] * [-1, 1, -1, 1] + [64, 0, 64, 0]
    np.testing.assert_allclose(back, same["boxes"], atol=1e-2)
    assert len(found) > 2
    assert plain.boxes.tolist() != found.boxes.tolist()


def test_val_with_the_mirror_image(weights: Path, photos: Path, tmp_path: Path) -> None:
    arguments = ["val", "--weights", weights, "--data", photos / "annotations.json", "--split", "train", "--tta"]
    printed = json.loads(invoke(*arguments, "--out", tmp_path / "report", "--json"))
    metrics = alignrank.Detector.load(weights).val(photos / "annotations.json", split="train", tta=True)
    assert metrics.to_dict()["rank"] == printed["rank"]
    written = json.loads((tmp_path / "report" / "detections.json").read_text())
    found = alignrank.Detector.load(weights).predict(
        photos / "images" / "photo0.png", conf=0.001, iou=0.7, max_dets=300, tta=True
    )
    assert len(found[0]) == sum(row["image_id"] == 1 for row in written)
    with pytest.raises(alignrank.InputError, match=r"oracle: 'box' is of the image itself.*leave out tta"):
        invoke(*arguments, "--oracle", "box")


def test_val_refuses_other_classes_and_missing_splits(weights: Path, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(alignrank.InputError, match=r"no split 'val'.*train"):
        invoke("val", "--weights", weights, "--data", photos / "annotations.json")
    other = json.loads((photos / "annotations.json").read_text())
    other["categories"][0]["name"] = "pink"
    (photos / "other.json").write_text(json.dumps(other))
    with pytest.raises(alignrank.InputError, match=r"red.*pink"):
        invoke("val", "--weights", weights, "--data", photos / "other.json", "--split", "train")


def test_models_lists_every_recipe() -> None:
    rows = json.loads(invoke("models", "--json"))["models"]
    assert {row["name"] for row in rows} == set(recipe_names())
    assert {"alignrank-n", "yolov8-s", "yolov10-n"} <= {row["name"] for row in rows}
    assert all(row["parameters"] > 1.9e6 for row in rows)


def test_data_verbs(photos: Path, tmp_path: Path) -> None:
    source = photos / "annotations.json"
    invoke("data", "show", source, "--augmented", "--imgsz", 64, "--count", 3, "--out", tmp_path / "sheet.jpg")
    assert Image.open(tmp_path / "sheet.jpg").size[0] > 400
    with pytest.raises(alignrank.InputError, match="already exists"):
        invoke("data", "show", source, "--imgsz", 64, "--out", tmp_path / "sheet.jpg")
    made = json.loads(invoke("data", "split", source, "--out", tmp_path / "split", "--val-fraction", 0.25, "--json"))
    assert (made["train"], made["val"]) == (3, 1)
    written = json.loads(
        invoke("data", "convert", tmp_path / "split", "--to", "yolo", "--out", tmp_path / "yolo", "--json")
    )
    assert (written["images"], written["objects"]) == (4, 4)
    assert (tmp_path / "yolo" / "data.yaml").exists()


def interrupt(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def terminate(*_: object, **__: object) -> None:
    signal.raise_signal(signal.SIGTERM)


@pytest.mark.parametrize(("stop", "code"), [(interrupt, 130), (terminate, 143)])
def test_an_interrupted_verb_leaves_nothing_half_made(
    photos: Path, tmp_path: Path, stop: Callable[..., None], code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And does not speak of training."""
    monkeypatch.setattr("alignrank.data.convert._place", stop)
    before = signal.getsignal(signal.SIGTERM)
    data, out = str(photos / "annotations.json"), tmp_path / "out"
    for words in (("convert", "--to", "yolo"), ("split",)):
        done = alignrank_command("data", words[0], data, *words[1:], "--out", str(out))
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        assert "train" not in done.stderr
        assert code != 130 or done.stderr.splitlines()[-1] == "alignrank: interrupted"
        assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGTERM) is before


def test_an_interrupted_evaluation_says_what_it_leaves(
    weights: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["val", "--weights", str(weights), "--data", str(photos / "annotations.json"), "--split", "train"]
    monkeypatch.setattr("alignrank.evaluation.val.curves.plot_f1", interrupt)
    done = alignrank_command(*words, "--out", str(tmp_path / "a"))
    assert done.returncode == 130
    assert f"{tmp_path / 'a'}: holds a part of the results only" in done.stderr
    monkeypatch.setattr("alignrank.evaluation.val.validate", interrupt)
    done = alignrank_command(*words, "--out", str(tmp_path / "b"))
    assert done.returncode == 130
    assert not (tmp_path / "b").exists()


def test_predict_says_what_it_left_out_of_a_folder_and_of_a_list(weights: Path, photos: Path, tmp_path: Path) -> None:
    folder, listed = photos / "images", tmp_path / "list.txt"
    (folder / "layers.PSD").write_bytes(b"8BPS")
    listed.write_text(f"{folder}\nmissing.jpg\n")
    for source, reasons in (
        (folder, ("layers.PSD: .psd",)),
        (listed, ("layers.PSD: .psd", "missing.jpg: no such file")),
    ):
        words = [
            "predict",
            str(source),
            "--weights",
            str(weights),
            "--out",
            str(tmp_path / f"of-{source.name}"),
            "--json",
        ]
        done = alignrank_command(*words)
        assert done.returncode == 0, done.stderr
        last = done.stderr.splitlines()[-1]
        assert last.startswith("processed 4 images")
        assert all(reason in last for reason in reasons)
        assert json.loads(done.stdout)["skipped"] == {"image": len(reasons)}
    (folder / "layers.PSD").unlink()
