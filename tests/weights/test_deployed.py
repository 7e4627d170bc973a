"""Weights ready to run: the size of their input, as they were trained or as it is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_forms import tiny_form

from alignrank.detectors import DETECTORS
from alignrank.detectors.mirrored import Mirrored
from alignrank.detectors.postprocess import NonMaximumSuppression
from alignrank.errors import InputError
from alignrank.input_size import Fit, InputSize
from alignrank.weights import checkpoint
from alignrank.weights.deployed import Deployed, SelectionOptions, deploy
from alignrank.weights.recipe import load_recipe


def deployed(
    folder: Path,
    name: str = "yolov10-n",
    *,
    nms: bool = False,
    agnostic: bool = False,
    consensus: float | None = None,
    tta: bool = False,
    **overrides: Any,
) -> Deployed:
    """Fresh weights of a tiny form, through a file."""
    recipe = load_recipe(name, num_classes=2, overrides={"model.size": "t", **overrides})
    path = folder / "w.safetensors"
    model = DETECTORS[recipe.detector].model(recipe.architecture)
    checkpoint.save(path, model.state_dict(), recipe=recipe, classes=["a", "b"], metrics={})
    return deploy(path, "cpu", selection=SelectionOptions(nms, agnostic, consensus, tta))


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ({}, InputSize(640, None, True)),
        ({"train.imgsz": 320}, InputSize(320, None, True)),
        ({"train.imgsz": 320, "data.rect": True}, InputSize(320, None, True)),
        ({"train.imgsz": 320, "data.rect": False}, InputSize(320, None, False)),
        ({"train.imgsz": [800, 1333]}, InputSize(1333, 800, True)),
        ({"train.imgsz": [800, 1333], "data.rect": False}, InputSize(1333, 800, True)),
    ],
)
def test_size_as_trained(tmp_path: Path, overrides: dict[str, Any], expected: InputSize) -> None:
    """Squares only where the recipe says so; a pair never."""
    detector = deployed(tmp_path, **overrides)
    assert detector.size == expected
    assert detector.resized(None) == detector
    assert (detector.classes, detector.recipe, detector.device) == (("a", "b"), "yolov10-n", torch.device("cpu"))


def test_another_size(tmp_path: Path) -> None:
    square = deployed(tmp_path, **{"train.imgsz": 320, "data.rect": False})
    assert square.resized(640).size == InputSize(640, None, False)
    assert square.resized(None, True).size == InputSize(320, None, True)
    assert square.resized(640, True).size == InputSize(640, None, True)
    assert square.resized((64, 96)).size == InputSize(96, 64, True)
    assert square.resized((64, 96), False).size == InputSize(96, 64, True)
    assert square.size == InputSize(320, None, False)
    assert square.resized(640).network is square.network


def test_another_size_is_fitted_as_before(tmp_path: Path) -> None:
    own = {"data.place": "corner", "data.fit": "detr", "data.antialias": False}
    detector, fit = deployed(tmp_path, **{"train.imgsz": 320, **own}), Fit("detr", antialias=False, corner=True)
    assert detector.size == InputSize(320, None, True, fit=fit)
    assert detector.resized(None) == detector
    assert detector.resized(640, False).size == InputSize(640, None, False, fit=fit)
    assert detector.resized((64, 96)).size == InputSize(96, 64, True, fit=fit)


def test_sizes_that_cannot_be(tmp_path: Path) -> None:
    detector = deployed(tmp_path)
    sizes: list[Any] = [0, 100, 8224, (96, 64), (64, 96, 128), "large"]
    for imgsz in sizes:
        with pytest.raises(InputError, match=r"^imgsz: must be"):
            detector.resized(imgsz)


def test_only_what_is_used_is_left(tmp_path: Path) -> None:
    """Of two heads one, and no norms; with NMS the other head."""
    free, many = deployed(tmp_path), deployed(tmp_path, nms=True)
    images = torch.rand(1, 3, 64, 64)
    for detector in (free, many):
        assert detector.network.one_to_one is None
        assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in detector.network.modules())
        assert not detector.network.training
        assert detector.network(images).auxiliary == {}
    assert type(free.postprocess).__name__ == "TopK"
    assert type(many.postprocess).__name__ == "NonMaximumSuppression"


def test_networks_that_need_nms_anyway_have_no_other_output(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="retinanet-r50 has no output for NMS; leave out --nms"):
        deployed(tmp_path, "retinanet-r50", nms=True, **tiny_form("retinanet-r50"))


def test_options_of_the_selection(tmp_path: Path) -> None:
    """They reach the network's own suppression, or NMS; a model without either says so."""
    free = deployed(tmp_path, "alignrank-n", agnostic=True, consensus=0.7, **tiny_form("alignrank-n"))
    assert (free.network.suppression.consensus, free.network.suppression.agnostic) == (0.7, True)
    many = deployed(tmp_path, nms=True, agnostic=True, consensus=0.7)
    assert isinstance(many.postprocess, NonMaximumSuppression)
    assert (many.postprocess.consensus, many.postprocess.agnostic) == (0.7, True)
    with pytest.raises(InputError, match=r"--consensus is of suppression, .* it takes --nms, too"):
        deployed(tmp_path, consensus=0.7)


def test_options_of_a_network_without_consensus(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--consensus is of suppression, .* leave out --consensus"):
        deployed(tmp_path, "dino-tiny", consensus=0.7, **tiny_form("dino-tiny"))


def test_options_with_the_mirror_image(tmp_path: Path) -> None:
    """Both views are suppressed and merged by them, whatever a network does alone."""
    many = deployed(tmp_path, "retinanet-r50", agnostic=True, tta=True, **tiny_form("retinanet-r50"))
    free = deployed(tmp_path, "alignrank-n", consensus=0.6, tta=True, **tiny_form("alignrank-n"))
    assert free.network.network.suppression.consensus == 0.6
    transformer = deployed(tmp_path, "dino-tiny", agnostic=True, consensus=0.0, tta=True, **tiny_form("dino-tiny"))
    soft = deployed(tmp_path, "vfnet-x", tta=True, **tiny_form("vfnet-x"))
    for detector, consensus, agnostic in (
        (many, 0.7, True), (free, 0.6, False), (transformer, 0.0, True), (soft, 0.0, False),
    ):  # fmt: skip
        assert isinstance(detector.network, Mirrored)
        assert detector.network.stride == detector.network.network.stride
        assert isinstance(detector.postprocess, NonMaximumSuppression)
        assert (detector.postprocess.consensus, detector.postprocess.agnostic) == (consensus, agnostic)
    assert many.postprocess.thresholds is not None
    with pytest.raises(InputError, match="soft and consensus exclude each other"):
        deployed(tmp_path, "vfnet-x", consensus=0.7, tta=True, **tiny_form("vfnet-x"))
