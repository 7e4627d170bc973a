"""`layers`: each decoder layer is evaluated as `val` does it, curves are the metrics' own, and the cost is counted."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import alignrank, refused
from squares import write_squares
from tiny_weights import write_tiny_transformer, write_tiny_weights
from torch import Tensor, nn

from alignrank.boxes import xyxy_to_xywh
from alignrank.contracts import Batch, Frame, Predictions, Targets
from alignrank.data.source import read
from alignrank.detectors.postprocess import TopK
from alignrank.errors import InputError
from alignrank.evaluation.cost import minutes_per_epoch
from alignrank.evaluation.layers import _measured, gather_layers, layers_to_folder
from alignrank.evaluation.options import LayerOptions
from alignrank.evaluation.val import batches_of
from alignrank.evaluation.validate import Gathered
from alignrank.metrics import Diagnosis, read_inputs
from alignrank.metrics.calibration import score_densities, unmatched_overlap
from alignrank.weights import checkpoint
from alignrank.weights.deployed import deploy
from alignrank.weights.models import multiply_adds

# What two layers say of an image with objects of 20 x 20 at (0, 0) and (30, 10): boxes and the scores of class 0. The
# first finds one object with IoU .7 and one box on nothing, the second finds both, with IoU 1 and .9.
SAID = (
    ([[0, 0, 14, 20], [40, 35, 50, 45]], [0.61, 0.43]),
    ([[0, 0, 20, 20], [30, 10, 50, 28], [1, 0, 21, 20]], [0.91, 0.83, 0.31]),
)


class Layered(nn.Module):
    stride = 32

    def layers(self, images: Tensor, sizes: Tensor | None = None) -> list[Predictions]:
        return [
            Predictions(
                torch.tensor([[score, 1e-6] for score in scores]).logit().expand(len(images), -1, -1),
                torch.tensor(boxes, dtype=torch.float32).expand(len(images), -1, -1),
            )
            for boxes, scores in SAID
        ]


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_squares(tmp_path_factory.mktemp("data") / "squares")


def batches() -> Iterator[Batch]:
    frames = [Frame("a.png", (48, 64), image_id=1), Frame("b.png", (48, 64), image_id=2)]
    yield Batch(torch.zeros(2, 3, 64, 64, dtype=torch.uint8), [Targets.empty()] * 2, frames)


def test_figures_and_curves_of_known_detections(squares: Path) -> None:
    """At IoU .7 of the first layer's box, AP50 of class 0 is 1/2 (precision 1 up to recall .5, 51 of 101 recalls)."""
    split = read(str(squares)).splits()["val"]
    split.samples = [
        replace(
            sample,
            boxes=np.array([[0, 0, 20, 20], [30, 10, 50, 30]], dtype=np.float32),
            labels=np.zeros(2, dtype=np.int64),
            areas=np.full(2, 400, dtype=np.float32),
            crowd=np.zeros(2, dtype=bool),
        )
        for sample in split.samples[:2]
    ]
    layers = _measured(gather_layers(Layered(), TopK(), batches()), split, split.samples[1:], Path("weights"))
    first, second = (layer.figures.metrics for layer in layers)
    assert first["ap50"] == pytest.approx(51 / 101)
    assert first["ap75"] == 0
    assert second["ap50"] == second["ap75"] == 1
    assert second["rank"]["spearman_true"] == pytest.approx(1)
    for layer, (boxes, scores) in zip(layers, SAID, strict=True):
        found = [
            {"image_id": i, "category_id": 1, "bbox": box, "score": score}
            for i in (1, 2)
            for box, score in zip(xyxy_to_xywh(torch.tensor(boxes)).tolist(), scores, strict=True)
        ]
        diagnosis = Diagnosis(read_inputs(split.to_coco(), found))
        edges, matched, unmatched = score_densities(diagnosis.matching, diagnosis.matched)
        said = layer.to_dict(1)
        assert said["detections"] == 2 * len(scores)
        assert said["density"] == {
            "edges": edges.tolist(), "matched": matched.tolist(), "unmatched": unmatched.tolist()
        }  # fmt: skip
        iou, share = unmatched_overlap(diagnosis.overlaps, diagnosis.matching, diagnosis.matched)
        assert said["unmatched_iou"] == {"iou": iou.tolist(), "share": share.tolist()}
        (shown,) = layer.shown
        assert shown[0].tolist() == boxes
        assert shown[1] == pytest.approx(scores)
        assert shown[2].tolist() == [0] * len(scores)


def test_boxes_that_are_no_numbers_are_refused(squares: Path) -> None:
    split = read(str(squares)).splits()["val"]
    found = Gathered()
    found.image_ids, found.boxes = [1], [np.full((1, 4), np.nan)]
    found.scores, found.labels = [np.full(1, 0.5)], [np.zeros(1, dtype=np.int64)]
    with pytest.raises(InputError, match=r"^w\.safetensors: boxes of layer 1 are not numbers"):
        _measured([found], split, [], Path("w.safetensors"))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_transformer(tmp_path_factory.mktemp("weights") / "best.safetensors")


@pytest.fixture(scope="module")
def easy(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images whose truth is every other of the weights' detections, a little larger: figures are neither 0 nor 1."""
    folder = write_squares(tmp_path_factory.mktemp("easy") / "squares")
    detector = deploy(weights, "cpu").resized(None)
    with batches_of(read(str(folder)).splits()["val"], detector, 16) as batches:
        found = gather_layers(detector.network, detector.postprocess, batches)[-1]
    file = folder / "annotations" / "val.json"
    content = json.loads(file.read_text()) | {"annotations": []}
    for image, boxes, labels in zip(found.image_ids, found.boxes, found.labels, strict=True):
        for k in range(0, len(boxes), 2):
            x, y, w, h = (boxes[k] + [0, 0, k / 3, 0]).tolist()
            box = {"image_id": image, "category_id": int(labels[k]) + 1, "bbox": [x, y, w, h], "area": w * h}
            content["annotations"].append(box | {"id": len(content["annotations"]) + 1, "iscrowd": 0})
    file.write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def done(weights: Path, easy: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path, str]:
    """What the command prints, its folder, and what it says."""
    out = tmp_path_factory.mktemp("out") / "layers"
    ran = alignrank("layers", *_of(weights, easy), "--out", str(out), "--images", "1000000000", "--json")
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout), out, ran.stderr


def _of(weights: Path, data: Path) -> list[str]:
    return ["--weights", str(weights), "--data", str(data), "--device", "cpu"]


def test_the_last_layer_is_what_val_measures(done: tuple[dict[str, Any], Path, str], weights: Path, easy: Path) -> None:
    val = alignrank("val", *_of(weights, easy), "--json")
    assert val.returncode == 0, val.stderr
    measured = json.loads(val.stdout)
    measured["rank_before_nms"] = None
    *earlier, last = (layer["metrics"] for layer in done[0]["layers"])
    assert 0 < measured["ap"] < measured["ap50"] < 1
    assert last == measured
    assert len(earlier) == 2
    assert all(metrics["ap"] != last["ap"] for metrics in earlier)


def test_files(done: tuple[dict[str, Any], Path, str]) -> None:
    printed, out, said = done
    written = json.loads((out / "layers.json").read_text())
    assert printed == {"out": str(out), **written}
    plots = ["densities.png", "precision_recall.png", "unmatched_iou.png"]
    assert sorted(path.name for path in out.iterdir()) == sorted(["layers.json", "pictures", *plots])
    assert [row["file"] for row in written["pictures"]] == [f"pictures/{number}.jpg" for number in (1, 2, 3, 4)]
    assert [Path(row["image"]).name for row in written["pictures"]] == [f"val{number}.png" for number in range(4)]
    assert all((out / row["file"]).is_file() and Path(row["image"]).is_file() for row in written["pictures"])
    assert [layer["layer"] for layer in written["layers"]] == [1, 2, 3]
    curves = written["precision_recall"]
    assert np.mean(curves["precision"]["0.50"]) == pytest.approx(written["layers"][-1]["metrics"]["ap50"])
    assert len(curves["recall"]) == 101
    assert [len(line.split()) for line in said.splitlines() if re.match(r" *[123] +0\.", line)] == [7] * 3
    assert "minutes an epoch" not in said
    assert "minutes_per_epoch" not in written["cost"]


def test_the_page_names_what_is_in_the_file(done: tuple[dict[str, Any], Path, str]) -> None:
    page = (Path(__file__).parents[2] / "docs" / "rank-detr.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([a-z_.]+)`", page))

    def keys(value: Any, before: str = "") -> Iterator[str]:
        for key, item in value.items():
            if isinstance(item, list) and item and isinstance(item[0], dict):
                item = item[0]
            if isinstance(item, dict) and key not in ("metrics", "precision"):
                yield from keys(item, f"{before}{key}.")
            else:
                yield f"{before}{key}"

    assert set(keys(done[0])) - {"out"} | {"cost.minutes_per_epoch"} == {name for name in named if _in_file(name)}


def _in_file(name: str) -> bool:
    top = ("weights", "data", "split", "num_images", "layers", "precision_recall", "pictures", "cost")
    return name.partition(".")[0] in top and name not in ("layers", "layers.json", "precision_recall.png")


def test_counted_cost(done: tuple[dict[str, Any], Path, str], weights: Path) -> None:
    """Parameters: in training those in the file; as deployed 10 one-to-many rows of width 64 are gone from the
    queries' embedding, as many of 2 classes from each of 3 rank biases, and in each of 2 fusions the layer before
    (64 * 64 + 64), the static half of the layer after (64 * 64), its bias (64), and 30 rows that become 20.

    Multiply-adds are counted a second time: of modules that are called, and of what is not a call: in each of 3
    decoder layers four projections of 20 queries, in each of 2 fusions one.
    """
    cost = done[0]["cost"]
    loaded = checkpoint.load(weights)
    trained = sum(parameter.numel() for parameter in loaded.build_model().parameters())
    network = deploy(weights, "cpu").network
    detr = 10 * 64 + 3 * 10 * 2 + 2 * (64 * 64 + 64 + 64 * 64 + 64 + 10 * 64)
    before, after = (
        sum(m.num_features for m in of.modules() if isinstance(m, nn.BatchNorm2d))
        for of in (loaded.build_model(), network)
    )
    assert cost["parameters"]["training"] == trained
    # Of a batch norm that is folded, weight and bias become the convolution's bias.
    assert cost["parameters"]["deployed"] == trained - detr - (before - after)
    total = 0

    def add(module: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        total += output.numel() * module.weight[0].numel()

    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(add)
    with torch.no_grad():
        network(torch.zeros(1, 3, 64, 64))
    total += 20 * 64 * 64 * (3 * 4 + 2)
    assert cost["multiply_adds"] == total
    assert cost["gflops"] == 2 * total / 1e9
    assert cost["input"] == [64, 64]
    assert cost["images_per_second"] > 0


def test_counting_leaves_the_network_as_it_is() -> None:
    network = nn.Sequential(nn.Conv2d(3, 2, 3, padding=1), nn.Flatten(2), nn.Linear(16, 5, bias=False))
    network[0].bias.requires_grad_(False)
    before = [parameter.requires_grad for parameter in network.parameters()]
    assert multiply_adds(network, (4, 4)) == 2 * 16 * 27 + 2 * 16 * 5
    assert [parameter.requires_grad for parameter in network.parameters()] == before


def test_minutes_of_the_run_beside_the_weights(
    weights: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    loaded = replace(checkpoint.load(weights), path=tmp_path / "best.safetensors")
    assert minutes_per_epoch(loaded) is None
    results = {"seconds": 90.0, "epochs": 3, "recipe": loaded.recipe.to_dict()}
    file = tmp_path / "results.json"
    file.write_text(json.dumps(results))
    assert minutes_per_epoch(loaded) == 0.5
    assert "warning" not in capfd.readouterr().err
    other = results["recipe"] | {"train": {"imgsz": 128}}
    for text in (
        json.dumps(results | {"recipe": other}), json.dumps({"seconds": 90}), json.dumps(results | {"epochs": 0}), "[]",
        json.dumps(results | {"seconds": float("nan")}), json.dumps(results | {"recipe": 3}), "{",
    ):  # fmt: skip
        file.write_text(text)
        assert minutes_per_epoch(loaded) is None
        assert "results.json: is" in capfd.readouterr().err.replace("\n", "")


def test_what_is_refused(weights: Path, squares: Path, tmp_path: Path) -> None:
    yolo = write_tiny_weights(tmp_path / "yolo.safetensors", ("red", "green"))
    out = tmp_path / "out"
    refused(
        alignrank("layers", "--weights", str(yolo), "--data", str(squares), "--out", str(out)),
        str(yolo), "yolov10-n has no decoder layers",
    )  # fmt: skip
    other = write_tiny_transformer(tmp_path / "other.safetensors", ("red", "blue"))
    refused(alignrank("layers", "--weights", str(other), "--data", str(squares), "--out", str(out)), str(other), "blue")
    words = ["layers", "--weights", str(weights), "--data", str(squares), "--out", str(out)]
    refused(alignrank(*words, "--images", "-1"), "images")
    refused(alignrank(*words, "--split", "test"), "split", "test")
    with pytest.raises(InputError, match="images"):
        LayerOptions(images=-1)
    assert not out.exists()


def test_without_pictures(weights: Path, squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for plot in ("plot_densities", "plot_unmatched", "plot_precision_recall"):
        monkeypatch.setattr(f"alignrank.evaluation.layers.layer_curves.{plot}", lambda *_: None)
    none = layers_to_folder(weights, str(squares), LayerOptions(images=0), out=tmp_path / "none", device="cpu")
    assert none["pictures"] == []
    assert [path.name for path in (tmp_path / "none").iterdir()] == ["layers.json"]


def test_an_interruption_says_what_it_leaves(
    weights: Path, squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    words = ["layers", "--weights", str(weights), "--data", str(squares), "--device", "cpu"]
    monkeypatch.setattr("alignrank.evaluation.layers.layer_curves.plot_densities", lambda _, path: path.touch())
    monkeypatch.setattr("alignrank.evaluation.layers.layer_curves.plot_unmatched", interrupt)
    done = alignrank(*words, "--out", str(tmp_path / "a"))
    assert done.returncode == 130
    assert f"{tmp_path / 'a'}: holds a part of the results only" in done.stderr
    monkeypatch.setattr("alignrank.evaluation.layers.gather_layers", interrupt)
    done = alignrank(*words, "--out", str(tmp_path / "b"))
    assert done.returncode == 130
    assert not (tmp_path / "b").exists()
