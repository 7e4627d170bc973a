"""Effective receptive fields: sizes by hand, what is equal in a real network, and `alignrank field`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from command_line import alignrank, refused
from PIL import Image
from safetensors.torch import save_file
from squares import write_squares
from tiny_weights import write_tiny_transformer
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from alignrank.errors import InputError
from alignrank.evaluation.field import Field, Place, figures, group_sum, magnitudes, measure
from alignrank.evaluation.field_input import Pictures, overrides_among, random_subject, squared
from alignrank.evaluation.options import FieldOptions
from alignrank.weights import checkpoint
from alignrank.weights.deployed import deploy
from alignrank.weights.recipe import load_recipe

TINY = {"model.size": "t", "neck.fine": True}
MIDDLE = (0.5, 0.5)


def ones(kernel: int, stride: int = 1, channels: int = 3) -> nn.Conv2d:
    convolution = nn.Conv2d(channels, 3, kernel, stride, padding=kernel // 2 if stride == 1 else 0)
    nn.init.ones_(convolution.weight)
    return convolution


def field(network: nn.Module, side: int, point: tuple[float, float] = MIDDLE, cells: int = 1) -> Field:
    images = torch.rand(2, 3, side, side, requires_grad=True)
    return Field(Place("backbone", 1), magnitudes(group_sum(network(images), point, cells), images))


def test_one_convolution() -> None:
    """3 x 3 equal weights: along each axis -1, 0, 1 px with equal shares, a variance of 2/3. Sums of 3 channels of 3
    colours, of 2 images: 18 in each of 9 px.
    """
    found = field(ones(3), 9)
    assert found.sigma == pytest.approx(sqrt(2 / 3))
    assert found.centre == pytest.approx((4.5, 4.5))
    assert found.gradient[3:6, 3:6].tolist() == [[18] * 3] * 3
    assert found.gradient.sum() == 18 * 9


def test_variances_of_convolutions_add() -> None:
    assert field(nn.Sequential(ones(3), ones(3)), 11).sigma == pytest.approx(sqrt(2 * 2 / 3))
    # A stride s multiplies what follows: patches of 4 px have (16 - 1) / 12, and 3 x 3 of them 16 * 2 / 3 more.
    assert field(nn.Sequential(ones(4, 4), ones(3)), 20).sigma == pytest.approx(sqrt(15 / 12 + 16 * 2 / 3))


def test_axes_are_averaged() -> None:
    """A row of three px has the variances 2/3 and 0."""
    row = nn.Conv2d(3, 1, (1, 3), padding=(0, 1))
    nn.init.ones_(row.weight)
    assert field(row, 9).sigma == pytest.approx(sqrt(1 / 3))


def test_groups_of_cells() -> None:
    """2 x 2 cells of one px: half a px around their middle. Of cells of 8 px: 16 px with equal shares."""
    pixels = field(ones(1), 8, cells=2)
    assert pixels.sigma == pytest.approx(0.5)
    assert pixels.gradient[4:6, 4:6].tolist() == [[4.5] * 2] * 2
    patches = field(ones(8, 8), 64, cells=2)
    assert patches.sigma == pytest.approx(sqrt((16**2 - 1) / 12))
    assert patches.centre == pytest.approx((40, 40))


@pytest.mark.parametrize(("height", "width", "cells"), [(6, 8, 2), (5, 7, 2), (8, 8, 4), (5, 3, 4), (4, 4, 1)])
def test_groups_are_those_of_pooling(height: int, width: int, cells: int) -> None:
    """Whatever cell the point lies in, the value is that of the pooled cell above it."""
    features = torch.rand(2, 3, height, width, dtype=torch.float64)
    pooled = avg_pool2d(features, cells, ceil_mode=True, count_include_pad=False)
    for row in range(height):
        for column in range(width):
            value = group_sum(features, ((column + 0.5) / width, (row + 0.5) / height), cells)
            torch.testing.assert_close(value, pooled[..., row // cells, column // cells].sum())


def test_a_field_at_the_border_is_cut() -> None:
    """The corner's 3 x 3 is 2 x 2 px, half a px around (1, 1); the point (1, 1) is the last cell."""
    first, last = field(ones(3), 9, (0.0, 0.0)), field(ones(3), 9, (1.0, 1.0))
    for found, centre in ((first, 1), (last, 8)):
        assert found.sigma == pytest.approx(0.5)
        assert found.centre == pytest.approx((centre, centre))
    edge = field(ones(3), 9, (0.0, 0.5))
    assert edge.sigma == pytest.approx(sqrt((1 / 4 + 2 / 3) / 2))
    assert edge.centre == pytest.approx((1, 4.5))


def test_a_symmetric_network_has_a_symmetric_field() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 5, padding=2), nn.Conv2d(4, 2, 3, padding=1))
    with torch.no_grad():
        for convolution in network:
            weight = convolution.weight
            weight.copy_(weight + weight.flip(-1))
            weight.copy_(weight + weight.flip(-2))
    found = field(network, 13)
    for axis in (0, 1):
        np.testing.assert_allclose(found.gradient, np.flip(found.gradient, axis), rtol=1e-5)
    assert found.centre == pytest.approx((6.5, 6.5))


def test_nothing_has_no_size() -> None:
    """A dead map: no sigma, no ratio."""
    fields = [Field(Place("backbone", stride), np.ones((4, 4)) * (stride == 8)) for stride in (8, 16)]
    fields.append(Field(Place("pooled", 8, 2), np.zeros((4, 4))))
    fields.append(Field(Place("pooled", 8, 4), np.ones((4, 4))))
    assert fields[1].sigma is None
    assert fields[1].centre is None
    found = figures(fields)
    assert found["growth"]["backbone"] == {"ratios": [None], "mean": None}
    assert [row["ratio"] for row in found["pooled"]] == [None] * 3
    assert found["fields"][1]["centre"] is None


@pytest.fixture(scope="module")
def subject() -> Any:
    return random_subject("yolov8-n", TINY, 0)


def test_tokens_are_groups_of_cells(subject: Any) -> None:
    """The PAN's FINE samples the backbone's maps: low tokens are 2 x 2 and 4 x 4 cells; a high token of the first is a
    cell of stride 32. A ratio is the coarser sigma over the finer one.
    """
    image = np.random.default_rng(0).integers(0, 255, (96, 96, 3), dtype=np.uint8)
    found = measure(deploy(subject.loaded, "cpu").resized(96, False), [squared(image, "a", 96)], (0.4, 0.6))
    by_name = {str(f.place): f.gradient for f in found}
    for token, same in (
        ("neck.fine4, low token", "backbone, stride 16, 2 x 2"),
        ("neck.fine4, high token", "backbone, stride 32"),
        ("neck.fine3, low token", "backbone, stride 8, 4 x 4"),
    ):
        np.testing.assert_allclose(by_name[token], by_name[same], rtol=1e-3, atol=1e-9)
    result = figures(found)
    sigma = {str(f.place): f.sigma for f in found}
    strides = [sigma[f"backbone, stride {stride}"] for stride in (8, 16, 32)]
    ratios = [strides[1] / strides[0], strides[2] / strides[1]]
    assert result["growth"]["backbone"] == {"ratios": pytest.approx(ratios), "mean": pytest.approx(sum(ratios) / 2)}
    assert [(row["stride"], row["cells"]) for row in result["pooled"]] == [(s, c) for s in (8, 16) for c in (1, 2, 4)]
    assert result["pooled"][0]["ratio"] == pytest.approx(ratios[0])
    assert result["pooled"][4]["ratio"] == pytest.approx(strides[2] / sigma["backbone, stride 16, 2 x 2"])
    assert [row["module"] for row in result["tokens"]] == ["neck.fine4", "neck.fine3"]
    assert result["tokens"][0]["ratio"] == pytest.approx(result["pooled"][4]["ratio"], rel=1e-3)
    tokens = [row for row in result["fields"] if row["part"] == "token"]
    assert [(row["level"], row["stride"], row["cells"]) for row in tokens] == [
        ("low", 16, 2), ("high", 32, 1), ("low", 8, 4), ("high", 16, 2)
    ]  # fmt: skip


def test_images_are_averaged(subject: Any) -> None:
    detector = deploy(subject.loaded, "cpu").resized(64, False)
    rng = np.random.default_rng(0)
    batches = [squared(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8), name, 64) for name in "ab"]
    one, other, both = (measure(detector, of, MIDDLE) for of in (batches[:1], batches[1:], batches))
    assert not np.allclose(one[0].gradient, other[0].gradient)
    for a, b, mean in zip(one, other, both, strict=True):
        np.testing.assert_allclose((a.gradient + b.gradient) / 2, mean.gradient, rtol=1e-12)


def test_a_transformer_s_neck_is_its_encoder(tmp_path: Path) -> None:
    detector = deploy(write_tiny_transformer(tmp_path / "w.safetensors"), "cpu").resized(64, False)
    found = measure(detector, [squared(np.full((64, 64, 3), 90, np.uint8), "a", 64)], MIDDLE)
    neck = [f for f in found if f.place.part == "neck"]
    assert [f.place.stride for f in neck] == [8, 16, 32, 64]
    # Of all channels it would be rounding errors of a constant.
    assert all(f.gradient.sum() > 1e-3 for f in neck)


def test_an_image_is_cut_to_its_middle_square() -> None:
    image = np.zeros((40, 100, 3), np.uint8)
    image[:, 30:70] = 200
    batch = squared(image, "a.png", 64)
    assert batch.images.shape == (1, 3, 64, 64)
    assert (batch.images == 200).all()


def test_random_weights_depend_on_the_seed_and_pretrained_ones_are_loaded(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def stem(**overrides: Any) -> Tensor:
        of = random_subject("yolov8-n", {"model.backbone": "timm:mobilenetv2_035", **overrides}, seed).loaded
        return next(tensor for name, tensor in of.weights.items() if name.startswith("backbone.body"))

    before = torch.random.get_rng_state()
    seed = 1
    first, again = stem(), stem()
    seed = 2
    assert torch.equal(first, again)
    assert not torch.equal(first, stem())
    assert torch.equal(before, torch.random.get_rng_state())
    assert "weights are random, of seed 2" in capfd.readouterr().err
    weights = timm.create_model("mobilenetv2_035", pretrained=False).state_dict()
    file = tmp_path / "backbone.safetensors"
    save_file(weights, file)
    assert torch.equal(stem(**{"model.pretrained": str(file)}), weights["conv_stem.weight"])
    assert f"the backbone's weights are {file}" in capfd.readouterr().err.replace("\n", "")


def test_words_of_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.b=c.png").touch()
    words = ["x.jpg", "model.size=s", "a.b=c.png", "some/dir.x/y=z.png", "neck.fine=true"]
    assert overrides_among(words) == (
        ["x.jpg", "a.b=c.png", "some/dir.x/y=z.png"],
        ["model.size=s", "neck.fine=true"],
    )


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    recipe = load_recipe("yolov8-n", num_classes=2, overrides=TINY | {"train.imgsz": 64})
    path = tmp_path_factory.mktemp("weights") / "best.safetensors"
    checkpoint.save(path, recipe.build().model.state_dict(), recipe=recipe, classes=["red", "green"], metrics={})
    return path


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_squares(tmp_path_factory.mktemp("data") / "squares")


@pytest.fixture(scope="module")
def done(weights: Path, squares: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path, str]:
    """What the command prints, its folder, and what it says."""
    out = tmp_path_factory.mktemp("out") / "field"
    words = ["field", "--weights", str(weights), "--data", str(squares), "--images", "3", "--device", "cpu", "--json"]
    ran = alignrank(*words, "--out", str(out))
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout), out, ran.stderr


def test_files(done: tuple[dict[str, Any], Path, str], weights: Path) -> None:
    printed, out, said = done
    written = json.loads((out / "field.json").read_text())
    assert printed == {"out": str(out), **written}
    assert sorted(path.name for path in out.iterdir()) == ["field.json", "field.png"]
    assert [Path(name).name for name in written["images"]] == ["val0.png", "val2.png", "val3.png"]
    assert (written["weights"], written["model"], written["imgsz"]) == (str(weights), "yolov8-n", 64)
    assert (written["split"], written["point"], written["pretrained"]) == ("val", [0.5, 0.5], None)
    assert all(0 < row["sigma"] < 64 for row in written["fields"])
    token = written["tokens"][1]
    row = f"neck.fine3 +{token['sigma_fine']:.1f} +{token['sigma_coarse']:.1f} +{token['ratio']:.2f}"
    assert re.search(row, said)
    assert "random" not in said
    with Image.open(out / "field.png") as picture:
        assert min(picture.size) > 400


def test_the_page_names_what_is_in_the_files(done: tuple[dict[str, Any], Path, str]) -> None:
    page = (Path(__file__).parents[2] / "docs" / "field.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([a-z_.]+)`", page))

    def keys(value: Any, before: str = "") -> Iterator[str]:
        for key, item in value.items():
            if isinstance(item, list) and item and isinstance(item[-1], dict):
                item = item[-1]
            if isinstance(item, dict):
                yield from keys(item, f"{before}{key}.")
            else:
                yield f"{before}{key}"

    written = {name.replace("growth.backbone", "growth").replace("growth.neck", "growth") for name in keys(done[0])}
    assert written - {"out"} <= named
    assert {name for name in named if name.startswith(("fields.", "growth.", "pooled.", "tokens."))} <= written


def test_untrained_networks_and_single_images(squares: Path, tmp_path: Path) -> None:
    """Of a recipe, on images or on noise; without FINE there are no tokens."""
    common = ["field", "--model", "yolov8-n", "model.size=t", "--imgsz", "64", "--device", "cpu", "--json"]
    images = [str(squares / "images" / f"val{i}.png") for i in range(3)]
    ran = alignrank(*common, *images, "--images", "2", "--point", "0,1", "--out", str(tmp_path / "images"))
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    assert (found["images"], found["point"], found["tokens"]) == (images[:2], [0, 1], [])
    assert (found["weights"], found["data"], found["split"]) == (None, None, None)
    assert "yolov8-n: weights are random, of seed 0" in ran.stderr
    noise = [
        alignrank(*common, "--images", "1", "--seed", seed, "--out", str(tmp_path / str(i)))
        for i, seed in enumerate(("3", "3", "4"))
    ]
    assert "no images given" in noise[0].stderr
    first, again, other = (json.loads(ran.stdout) for ran in noise)
    assert first["images"] == ["noise"]
    assert first["fields"] == again["fields"]
    assert first["fields"] != other["fields"]


def test_what_is_refused(weights: Path, squares: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    of_weights = ["field", "--weights", str(weights), "--device", "cpu", "--out", str(out)]
    for words, said in (
        (["field"], "--weights or --model"),
        ([*of_weights, "--model", "yolov8-n"], "--weights or --model"),
        (["field", "--weights", "nowhere.safetensors"], "nowhere.safetensors"),
        (["field", "--model", "yolo8-n"], "did you mean 'yolov8-n'"),
        (["field", "--model", "yolov8-n", "neck.fin=true", "--out", str(out)], "neck.fin"),
        ([*of_weights, "neck.fine=true"], "neck.fine=true"),
        ([*of_weights, "--imgsz", "100"], "imgsz"),
        ([*of_weights, "--imgsz", "64,96"], "imgsz: must be one number"),
        ([*of_weights, "--point", "2,0"], "point: must be from 0 to 1"),
        ([*of_weights, "--point", "middle"], "point: must be X,Y"),
        ([*of_weights, "--images", "0"], "images"),
        ([*of_weights, "--data", str(squares), "--split", "test"], "test"),
        ([*of_weights, "--data", str(squares), str(squares / "images")], "not both"),
        ([*of_weights, "missing.png"], "missing.png"),
    ):
        refused(alignrank(*words), said)
    with pytest.raises(InputError, match="point"):
        FieldOptions(point=(0.5, 0.5, 0.5))
    with pytest.raises(InputError, match="not both"):
        Pictures(data="digits", sources=["a.png"])
    assert not out.exists()


def test_gradients_that_are_no_numbers_are_refused(weights: Path) -> None:
    detector = deploy(weights, "cpu").resized(64, False)
    with torch.no_grad():
        next(detector.network.backbone.parameters()).fill_(float("inf"))
    batch = squared(np.full((64, 64, 3), 90, np.uint8), "a", 64)
    with pytest.raises(InputError, match="gradients are not numbers"):
        measure(detector, [batch], MIDDLE)
