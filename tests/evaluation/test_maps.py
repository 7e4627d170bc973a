"""Maps of a network, recorded by hooks that do not stay, and `alignrank maps`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import alignrank, refused
from PIL import Image
from squares import write_squares
from tiny_weights import write_tiny_transformer, write_tiny_weights

from alignrank.contracts import Batch, Frame, Targets
from alignrank.evaluation.feature_maps import FeatureMaps
from alignrank.evaluation.maps import NO_FINE, mean_maps, of_picture
from alignrank.nn.fine import FINE
from alignrank.weights import checkpoint
from alignrank.weights.deployed import deploy
from alignrank.weights.recipe import load_recipe


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A yolov8-n in tiny form, with FINE."""
    torch.manual_seed(0)
    overrides = {"model.size": "t", "neck.fine": True, "train.imgsz": 64}
    recipe = load_recipe("yolov8-n", num_classes=2, overrides=overrides)
    path = tmp_path_factory.mktemp("weights") / "best.safetensors"
    checkpoint.save(path, recipe.build().model.state_dict(), recipe=recipe, classes=["red", "green"], metrics={})
    return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_squares(tmp_path_factory.mktemp("data") / "squares", num_train=1, num_val=2) / "images"


def hooks(network: torch.nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in network.modules())


def test_hooks_change_nothing_and_do_not_stay(weights: Path) -> None:
    """Also after an error; the last forward counts."""
    network = deploy(weights, "cpu").network
    images = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        plain = network(images)
        with FeatureMaps(network) as maps:
            network(torch.rand(1, 3, 64, 64))
            hooked = network(images)
    assert torch.equal(plain.logits, hooked.logits)
    assert hooks(network) == 0
    assert [(level.part, level.stride) for level in maps.levels] == [
        (part, stride) for part in ("backbone", "neck") for stride in (8, 16, 32)
    ]
    assert all(x.map.shape[-2:] == (64 // x.stride, 96 // x.stride) for x in maps.levels)
    assert [fusion.name for fusion in maps.fusions] == ["neck.fine4", "neck.fine3"]

    def stop() -> None:
        with FeatureMaps(network):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop()
    assert hooks(network) == 0


def test_modulation_is_that_of_the_module(weights: Path) -> None:
    """low * M + low is what the module gives; its tokens are pooled maps."""
    network = deploy(weights, "cpu").network
    module: Any = network.neck.fine3
    with torch.no_grad():
        with FeatureMaps(network) as maps:
            network(torch.rand(1, 3, 64, 64))
        fusion = maps.fusions[-1]
        torch.testing.assert_close(fusion.low * fusion.modulation() + fusion.low, module(fusion.low, fusion.high))
        low, high = fusion.tokens()
    assert isinstance(module, FINE)
    assert (low.shape[-2:], high.shape[-2:]) == ((2, 2), (2, 2))
    torch.testing.assert_close(low[0, :, 0, 1], fusion.low[0, :, :4, 4:].mean((-2, -1)))


def test_means_over_channels(weights: Path) -> None:
    """Of magnitudes for a map, of signed values for M."""
    detector = deploy(weights, "cpu")
    images = torch.randint(0, 255, (1, 3, 64, 64), dtype=torch.uint8)
    batch = Batch(images, [Targets.empty()], [Frame("a", (64, 64))])
    found = mean_maps(detector, batch)
    with torch.no_grad(), FeatureMaps(detector.network) as maps:
        detector.network(batch.network_input())
    np.testing.assert_allclose(found[1].values, maps.levels[1].map[0].abs().mean(0).numpy(), rtol=1e-5)
    assert [(mean.part, mean.stride, mean.name) for mean in found[6:]] == [
        ("fine", 16, "neck.fine4"), ("fine", 8, "neck.fine3")
    ]  # fmt: skip
    with torch.no_grad():
        expected = maps.fusions[0].modulation()[0].mean(0).numpy()
    np.testing.assert_allclose(found[6].values, expected, rtol=1e-4, atol=1e-6)
    assert found[6].values.min() < 0


def test_cells_of_the_picture_alone() -> None:
    """A picture of 100 x 40 px (width x height) at half its size on a canvas of 64 px: 50 x 20 px from (7, 22) on.

    Cells of 16 px: from 0 to 64 across, 14 px of the picture before it and 14 behind; from 16 to 48 down, 12 and 12.
    """
    values = np.arange(16.0).reshape(4, 4)
    frame = Frame("a", (40, 100), (0.5, 0.5), (7.0, 22.0))
    inside, extent = of_picture(values, frame, (64, 64))
    assert inside.tolist() == values[1:3].tolist()
    assert extent == (-14, 114, 52, -12)
    whole, extent = of_picture(values, Frame("a", (64, 64)), (64, 64))
    assert whole.tolist() == values.tolist()
    assert extent == (0, 64, 64, 0)


def test_files(weights: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "maps"
    ran = alignrank("maps", "--weights", str(weights), str(photos), "--device", "cpu", "--out", str(out), "--json")
    assert ran.returncode == 0, ran.stderr
    printed = json.loads(ran.stdout)
    written = json.loads((out / "maps.json").read_text())
    assert printed == {"out": str(out), **written}
    assert sorted(path.name for path in out.iterdir()) == ["maps.json", "pictures"]
    assert [Path(row["source"]).name for row in written["images"]] == ["train0.png", "val0.png", "val1.png"]
    assert [row["file"] for row in written["images"]] == [f"pictures/{number}.png" for number in (1, 2, 3)]
    for row in written["images"]:
        assert row["size"] == [48, 64]
        assert [level["cells"] for level in row["maps"]] == [
            *([[6, 8], [4, 4], [2, 2]] * 2), [4, 4], [6, 8]
        ]  # fmt: skip
        assert all(level["min"] <= level["mean"] <= level["max"] for level in row["maps"])
        assert all(level["min"] >= 0 for level in row["maps"][:6])
        with Image.open(out / row["file"]) as picture:
            assert min(picture.size) > 400
    assert written["fine"] is True
    assert NO_FINE not in ran.stderr


def test_networks_without_fine(photos: Path, tmp_path: Path) -> None:
    """Activations only, and it is said; also of a transformer."""
    image = str(photos / "val0.png")
    for number, weights in enumerate(
        (write_tiny_weights(tmp_path / "a.safetensors"), write_tiny_transformer(tmp_path / "b.safetensors"))
    ):
        ran = alignrank(
            "maps", "--weights", str(weights), image, "--device", "cpu", "--out", str(tmp_path / f"{number}")
        )
        assert ran.returncode == 0, ran.stderr
        assert NO_FINE in ran.stderr
        written = json.loads((tmp_path / f"{number}" / "maps.json").read_text())
        assert written["fine"] is False
        assert {level["part"] for level in written["images"][0]["maps"]} == {"backbone", "neck"}


def test_what_is_left_out_and_what_is_refused(weights: Path, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no image")
    out = tmp_path / "out"
    words = ["maps", "--weights", str(weights), "--device", "cpu", "--out", str(out)]
    refused(alignrank(*words, str(tmp_path / "bad.png")), "bad.png")
    refused(alignrank(*words, "nowhere.png"), "nowhere.png")
    refused(alignrank(*words, str(photos), "--imgsz", "50"), "imgsz")
    refused(alignrank("maps", "--weights", "nowhere", str(photos)), "nowhere")
    refused(alignrank("maps", "--weights", str(weights)), "sources")
    assert not out.exists()
    ran = alignrank(*words, str(photos / "val0.png"), str(tmp_path / "bad.png"))
    assert ran.returncode == 0, ran.stderr
    assert "bad.png" in ran.stderr
    assert len(list((out / "pictures").iterdir())) == 1
    refused(alignrank(*words, str(photos / "val0.png")), str(out))


def test_an_interruption_says_what_it_leaves(
    weights: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Path] = []

    def interrupted(image: Any, name: str, panels: Any, path: Path) -> None:
        if drawn:
            raise KeyboardInterrupt
        path.parent.mkdir()
        path.touch()
        drawn.append(path)

    monkeypatch.setattr("alignrank.evaluation.maps.plot_maps", interrupted)
    out = tmp_path / "out"
    ran = alignrank("maps", "--weights", str(weights), str(photos), "--device", "cpu", "--out", str(out))
    assert ran.returncode == 130
    assert f"{out}: holds a part of the results only" in ran.stderr
