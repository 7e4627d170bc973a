"""The script of docs/deploy.md, run as it stands there, finds what `predict` finds; the metadata says all it needs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from torch import nn

import alignrank
from alignrank.contracts import Batch, Detections, Predictions
from alignrank.data.letterbox import letterbox
from alignrank.detectors.postprocess import MAX_CANDIDATES, NmsConfig, NonMaximumSuppression, TopK
from alignrank.export.onnx import export_onnx
from alignrank.input_size import Fit, InputSize
from alignrank.weights import checkpoint
from alignrank.weights.recipe import load_recipe

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "deploy.md"
NAMES = ("cell", "plate", "größe")
SIDE = 320


def scene() -> np.ndarray[Any, Any]:
    """720 x 390 px: discs of many sizes on a slope."""
    y, x = np.mgrid[:390, :720]
    pixels = np.stack([x / 720, y / 390, 1 - x / 720], -1) * 120 + 60
    rng = np.random.default_rng(3)
    for _ in range(25):
        cx, cy, radius = rng.uniform(0, 720), rng.uniform(0, 390), rng.uniform(8, 60)
        pixels[np.hypot(x - cx, y - cy) < radius] = rng.uniform(0, 255, 3)
    return pixels.astype(np.uint8)


def detector(folder: Path, name: str) -> alignrank.Detector:
    """Of a tiny form and random: norms fitted to the picture, one point in twenty says something, of a short box."""
    torch.manual_seed(0)
    recipe = load_recipe(name, num_classes=3, overrides={"model.size": "t", "train.imgsz": SIDE})
    model = recipe.build().model
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    heads = [head for head in (model.head, model.one_to_one) if head is not None]
    last = [branch[-1] for head in heads for branch in head.cls]
    for convolution in last:
        nn.init.normal_(convolution.weight, std=0.15)
        nn.init.zeros_(convolution.bias)
    for head in heads:
        for branch in head.box:
            nn.init.normal_(branch[-1].weight, std=0.3)
            branch[-1].bias.data.copy_(-0.5 * torch.arange(head.bins).repeat(4))
    picture = torch.from_numpy(scene()).permute(2, 0, 1)[None].float() / 255
    picture = nn.functional.interpolate(picture, (192, SIDE), mode="bilinear", antialias=True)
    with torch.no_grad():
        model.train()(torch.cat([picture, torch.rand_like(picture)]))
        best = model.eval()(picture).logits.amax(-1)
        for convolution in last:
            convolution.bias -= best.quantile(0.95) - torch.tensor(0.25).logit()
    path = folder / f"{name}.safetensors"
    checkpoint.save(path, model.state_dict(), recipe=recipe, classes=NAMES, metrics={})
    return alignrank.Detector.load(path)


@pytest.fixture(scope="module", params=["yolov10-n", "yolov8-n"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A detector without NMS and one with it, and their files."""
    folder = tmp_path_factory.mktemp(request.param)
    loaded = detector(folder, request.param)
    return loaded, loaded.export("onnx", out=folder / "model.onnx")


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    Image.fromarray(scene()).save(path)
    return path


def blocks() -> list[str]:
    """The document's Python: the script, and what it needs for NMS."""
    return re.findall(r"^```python\n(.*?)^```$", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def script(model: Path, picture: Path) -> dict[str, Any]:
    """What the document's blocks leave behind."""
    main, suppress = blocks()
    code = suppress + main.replace('"model.onnx"', repr(str(model))).replace('"photo.jpg"', repr(str(picture)))
    values: dict[str, Any] = {}
    exec(compile(code, str(DOCUMENT), "exec"), values)
    return values


def assert_same(found: dict[str, Any], expected: Detections) -> None:
    """Each has its partner of the same class, box to 0.1 px and score to 0.001, but for scores at the threshold."""
    boxes, scores, labels = expected.boxes.numpy(), expected.scores.numpy(), expected.labels.numpy()
    sure, found_sure = scores > 0.252, found["scores"] > 0.252
    assert sure.sum() > 10
    same = (found["labels"][:, None] == labels) & (np.abs(found["scores"][:, None] - scores) < 1e-3)
    same &= (np.abs(found["boxes"][:, None] - boxes) <= 0.1).all(-1)
    assert same[:, sure].any(0).all(), "what predict finds"
    assert same[found_sure].any(1).all(), "what the script finds"
    sizes = boxes[:, 2:] - boxes[:, :2]
    assert (sizes < 200).all(1).any(), "the comparison is worth something"


def test_the_documents_script_finds_what_predict_finds(
    exported: tuple[alignrank.Detector, Path], photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """720 x 390, fitted into a square; also a picture that is turned by its EXIF data, and a small one."""
    loaded, path = exported
    (expected,) = loaded.predict(photo, rect=False, device="cpu")
    found = script(path, photo)
    assert_same(found, expected)
    assert len(capsys.readouterr().out.splitlines()) == len(found["scores"])
    turned = photo.with_name("turned.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(photo).save(turned, exif=exif, quality=95)
    (expected,) = loaded.predict(turned, rect=False, device="cpu")
    assert expected.size == (720, 390)
    found = script(path, turned)
    assert found["picture"].size == (390, 720)
    assert_same(found, expected)
    small = photo.with_name("small.png")
    Image.fromarray(scene()[:21, :33]).save(small)
    (expected,) = loaded.predict(small, rect=False, device="cpu")
    assert len(script(path, small)["scores"]) == pytest.approx(len(expected), abs=2)


def test_the_script_is_short() -> None:
    main, suppress = blocks()
    lines = [line for line in main.splitlines() if line and not line.startswith(("import", "from"))]
    assert len(lines) <= 20
    assert len(suppress.splitlines()) <= 24
    imported = set(re.findall(r"^(?:import|from) (\w+)", main + suppress, re.MULTILINE))
    assert imported == {"json", "numpy", "onnxruntime", "PIL"}


def described(path: Path) -> dict[str, Any]:
    about = onnxruntime.InferenceSession(path).get_modelmeta().custom_metadata_map
    return {key: value if key in ("recipe", "version") else json.loads(value) for key, value in about.items()}


def test_metadata_says_all_that_is_needed(exported: tuple[alignrank.Detector, Path]) -> None:
    loaded, path = exported
    about = described(path)
    free = loaded.recipe.name == "yolov10-n"
    assert about["names"] == list(NAMES)
    assert (about["imgsz"], about["recipe"], about["nms_free"]) == (SIDE, loaded.recipe.name, free)
    given = about["preprocessing"]
    session = onnxruntime.InferenceSession(path)
    (taken,) = session.get_inputs()
    assert (taken.name, taken.shape) == (given["input"], ["batch", 3, *given["size"]])
    assert given["size"] == [SIDE, SIDE]
    assert given["padding"] == int(letterbox(torch.zeros(3, 2, 4, dtype=torch.uint8), InputSize(8))[0][0, 0, 0])
    assert given["stride"] == loaded.model.stride
    assert given["scale"] == pytest.approx(float(Batch(torch.ones(1, 3, 1, 1), [], []).network_input().max()))
    made = about["output"]
    assert {name: of["shape"][1:] for name, of in made["outputs"].items()} == {
        output.name: list(value.shape[1:])
        for output, value in zip(
            session.get_outputs(), session.run(None, {"images": np.zeros((1, 3, SIDE, SIDE), np.float32)}), strict=True
        )
    }
    # A network's boxes may reach over the edge of its input; the page clips them to the picture.
    assert made["outputs"]["boxes"] | {"shape": []} == {
        "shape": [], "dtype": "float32", "format": "xyxy", "unit": "pixels", "frame": "input", "clipped": False,
    }  # fmt: skip
    assert (made["conf"], made["max_dets"]) == (0.25, 300)
    points = sum((SIDE // stride) ** 2 for stride in (8, 16, 32))
    if free:
        assert made["nms"] is None
        assert made["outputs"]["labels"]["shape"] == ["batch", 300]
    else:
        assert made["outputs"]["scores"]["shape"] == ["batch", points, 3]
        assert made["nms"] == {
            "iou": 0.7, "class_wise": True, "soft": False, "candidates": MAX_CANDIDATES, "per_level": None,
            "level_points": [1600, 400, 100],
        }  # fmt: skip


class Points(nn.Module):
    """A network of two points an image: exported in a second."""

    stride = 32

    def forward(self, images: torch.Tensor) -> Predictions:
        mean = images.mean((1, 2, 3))[:, None, None]
        boxes = mean * torch.tensor([[10.0, 20.0, 30.0, 40.0], [1.0, 2.0, 30.0, 50.0]])
        return Predictions(mean * torch.tensor([[1.0, -2.0], [0.5, 3.0]]), boxes, strides=torch.tensor([[8], [16]]))


def test_thresholds_of_the_recipe_and_a_pair_of_sides(tmp_path: Path) -> None:
    nms = NonMaximumSuppression(NmsConfig(conf=0.05, iou=0.6, max_dets=7, per_level=11, soft=True))
    about = described(export_onnx(Points(), nms, tmp_path / "m.onnx", imgsz=(48, 90), names=["a", "b"]))
    assert (about["output"]["conf"], about["output"]["max_dets"], about["output"]["nms"]["iou"]) == (0.05, 7, 0.6)
    assert (about["output"]["nms"]["per_level"], about["output"]["nms"]["soft"]) == (11, True)
    assert about["output"]["nms"]["level_points"] == [1, 1]
    given = about["preprocessing"]
    assert (given["shorter"], given["longer"], given["size"]) == (48, 90, [64, 96])


def test_a_pair_of_sides_scales_as_predict_does(tmp_path: Path) -> None:
    """Landscape: until a side has its length. Portrait: until it fits into the one canvas there is."""
    path = export_onnx(Points(), TopK(), tmp_path / "m.onnx", imgsz=(48, 90), names=["a", "b"])
    for size, expected in (((180, 60), (90, 30)), ((100, 90), (53, 48)), ((60, 180), (21, 64))):
        Image.new("RGB", size).save(tmp_path / "p.png")
        assert script(path, tmp_path / "p.png")["small"].size == expected
        if size[0] >= size[1]:
            assert InputSize.of((48, 90), rect=True).scale(size[::-1]) == pytest.approx(expected[0] / size[0], abs=0.01)


def test_pictures_in_the_corner(tmp_path: Path) -> None:
    """Wide, tall, and of the canvas's own shape: the script places them where `letterbox` does."""
    for corner, place in ((True, "upper left corner"), (False, "centre, an odd pixel more at the right and bottom")):
        size = InputSize.of(96, rect=False, fit=Fit(corner=corner))
        path = export_onnx(Points(), TopK(), tmp_path / f"{corner}.onnx", imgsz=size, names=["a", "b"])
        about = described(path)
        assert about["imgsz"] == 96
        assert (about["preprocessing"]["place"], about["preprocessing"]["align"]) == (place, 0 if corner else 0.5)
        for width, height in ((180, 61), (61, 180), (50, 50)):
            Image.new("RGB", (width, height), (255, 0, 0)).save(tmp_path / "p.png")
            found = script(path, tmp_path / "p.png")
            canvas, _, offset = letterbox(
                torch.tensor([255, 0, 0]).byte()[:, None, None].repeat(1, height, width), size
            )
            assert found["offset"] == offset
            assert np.array_equal(np.asarray(found["canvas"]), canvas.permute(1, 2, 0).numpy())


@pytest.mark.parametrize("imgsz", [96, (48, 90)])
def test_stretched_pictures(imgsz: Any, tmp_path: Path) -> None:
    """Wide and tall: the script's are of the size that `letterbox` gives, and lie where they lie there."""
    size = InputSize.of(imgsz, rect=False, fit=Fit("stretch"))
    path = export_onnx(Points(), TopK(), tmp_path / "m.onnx", imgsz=size, names=["a", "b"])
    given = described(path)["preprocessing"]
    assert (given["keep_aspect"], given["rounding"]) == (False, "none, every picture is of longer x shorter px")
    for width, height in ((180, 61), (61, 180), (96, 96)):
        Image.new("RGB", (width, height), (255, 0, 0)).save(tmp_path / "p.png")
        found = script(path, tmp_path / "p.png")
        red = torch.tensor([255, 0, 0]).byte()[:, None, None].repeat(1, height, width)
        canvas, scale, offset = letterbox(red, size)
        assert np.array_equal(np.asarray(found["canvas"]), canvas.permute(1, 2, 0).numpy())
        assert (tuple(found["factors"]), found["offset"]) == (pytest.approx(scale), offset)


def test_other_fits_are_told(tmp_path: Path) -> None:
    for sides, rounding in (("floor", "down, at least 1"), ("detr", "the shorter side to the nearest, ")):
        size = InputSize.of(96, rect=False, fit=Fit(sides, antialias=False))
        path = export_onnx(Points(), TopK(), tmp_path / f"{sides}.onnx", imgsz=size, names=["a", "b"])
        given = described(path)["preprocessing"]
        assert (given["keep_aspect"], given["antialias"]) == (True, False)
        assert given["rounding"].startswith(rounding)


def keys(value: Any) -> set[str]:
    """All keys of nested mappings, without the names of outputs."""
    if not isinstance(value, dict):
        return set()
    own = {key for key in value if key not in ("boxes", "scores", "labels")}
    return own.union(*(keys(below) for below in value.values()))


def test_the_document_names_every_key(exported: tuple[alignrank.Detector, Path]) -> None:
    page = DOCUMENT.read_text(encoding="utf-8")
    assert sorted(keys(described(exported[1])) - set(re.findall(r"`([a-z_]+)`", page))) == []
