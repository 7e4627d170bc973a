"""Swin backbones: any input size, against torchvision, weights from files, what is frozen, left out or recomputed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.testing import assert_close

from alignrank.errors import InputError
from alignrank.nn.backbone import TimmBackbone, TimmPyramid
from alignrank.nn.csp import SCALES
from alignrank.weights.recipe import build_detector

SWIN, SWIN_V2 = "swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256"
SMALL: dict[str, Any] = {"embed_dim": 24, "depths": (2, 2, 2, 2), "num_heads": (1, 2, 4, 8)}
create = timm.create_model


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """timm's Swins have 0.8 M parameters instead of 28 M, all large enough that attention is far from uniform."""

    def smaller(name: str, **options: Any) -> nn.Module:
        model: nn.Module = create(name, **options, **(SMALL if name.startswith("swin") else {}))
        for parameter in model.parameters() if name.startswith("swin") else []:
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.1)
            else:
                # Swin v2's blocks begin as identities.
                nn.init.normal_(parameter, mean=1.0, std=0.1)
        return model

    monkeypatch.setattr(timm, "create_model", smaller)


def by_norm(maps: list[Tensor]) -> list[Tensor]:
    """A layer norm over channels, as it is before training."""
    return [F.layer_norm(m.movedim(1, -1), m.shape[1:2]).movedim(-1, 1) for m in maps]


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        (SWIN, (192, 384, 768)),
        ("swin_large_patch4_window12_384", (384, 768, 1536)),
        (SWIN_V2, (192, 384, 768)),
        ("test_mambaout", (32, 48, 64)),
    ],
)
def test_maps(name: str, channels: tuple[int, ...]) -> None:
    """Strides 8, 16 and 32 of C = 96 and 192 (Swin's table 7) times 2, 4, 8, on the device of shapes alone.

    The last network is channels-last without being a Swin.
    """
    with torch.device("meta"):
        pyramid = TimmPyramid(name)
        assert pyramid.channels == channels
        assert [norm.weight.shape for norm in pyramid.norms] == [(c,) for c in channels]
        for height, width in [(800, 1344), (70, 50)]:
            maps = pyramid(torch.rand(2, 3, height, width), torch.tensor([[30, 40], [50, 20]]))
            sides = [(-(-height // stride), -(-width // stride)) for stride in (8, 16, 32)]
            assert [tuple(m.shape) for m in maps] == [(2, c, *side) for c, side in zip(channels, sides, strict=True)]
            assert all(m.is_meta and m.is_contiguous() for m in maps)


def torchvision_name(name: str) -> str:
    """Of a weight of timm's: stages and merges have every other place of one sequence, MLPs are sequences."""
    name = re.sub(r"^patch_embed\.proj\.", "features.0.0.", name)
    name = re.sub(r"^patch_embed\.norm\.", "features.0.2.", name)
    name = re.sub(r"^layers_(\d)\.downsample\.", lambda found: f"features.{2 * int(found[1])}.", name)
    name = re.sub(r"^layers_(\d)\.blocks\.", lambda found: f"features.{2 * int(found[1]) + 1}.", name)
    return name.replace("mlp.fc1", "mlp.0").replace("mlp.fc2", "mlp.3")


@pytest.mark.parametrize("size", [(448, 448), (296, 232), (252, 328)])
@pytest.mark.usefixtures("small")
def test_equals_torchvision(size: tuple[int, int]) -> None:
    """Maps of whole windows of 7, of 74, 37, 19 and 10 cells, and of 63, 32, 16 and 8.

    Each is larger than a window: torchvision shifts no map that one window covers, detectors do.
    """
    pyramid = TimmPyramid(SWIN).eval()
    other = torchvision.models.SwinTransformer(
        patch_size=[4, 4],
        embed_dim=SMALL["embed_dim"],
        depths=list(SMALL["depths"]),
        num_heads=list(SMALL["num_heads"]),
        window_size=[7, 7],
    ).eval()
    weights = {torchvision_name(name): value for name, value in pyramid.body.state_dict().items()}
    assert set(weights) <= set(other.state_dict())
    other.load_state_dict(weights, strict=False)
    images = torch.rand(2, 3, *size)
    with torch.no_grad():
        x = (images - pyramid.mean) / pyramid.std
        expected = []
        for i, part in enumerate(other.features):
            x = part(x)
            if i in (3, 5, 7):
                expected.append(x.movedim(-1, 1))
        for actual, map_ in zip(pyramid(images), by_norm(expected), strict=True):
            assert_close(actual, map_, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", [SWIN, SWIN_V2])
@pytest.mark.usefixtures("small")
def test_opposite_edges_do_not_see_each_other(name: str) -> None:
    """Two blocks of windows of 8 see 16 cells at most: 64 px at stride 4, and 128 px more at stride 8."""
    pyramid = TimmPyramid(name).eval()
    images = torch.rand(1, 3, 232, 40)
    others = images.clone()
    others[:, :, -32:] = torch.rand(1, 3, 32, 40)
    with torch.no_grad():
        first, second = pyramid(images)[0], pyramid(others)[0]
    assert_close(first[:, :, 0], second[:, :, 0], atol=1e-6, rtol=0.0)
    assert not torch.allclose(first[:, :, -1], second[:, :, -1], atol=1e-2)


@pytest.mark.parametrize("name", [SWIN, SWIN_V2])
@pytest.mark.usefixtures("small")
def test_earlier_sizes_leave_nothing_behind(name: str) -> None:
    fresh, used = TimmPyramid(name).eval(), TimmPyramid(name).eval()
    used.load_state_dict(fresh.state_dict())
    images = torch.rand(1, 3, 160, 288)
    with torch.no_grad():
        for size in [(224, 224), (64, 96), (320, 160)]:
            used(torch.rand(2, 3, *size))
        for expected, actual in zip(fresh(images), used(images), strict=True):
            assert torch.equal(actual, expected)


class Seen(nn.Module):
    """A network that gives out what it gets."""

    def forward(self, x: Tensor) -> list[Tensor]:
        return [x]


def test_beyond_a_pictures_own_size_is_zero() -> None:
    """(height, width); inside, a pixel of mean plus two standard deviations is 2. What stood beyond does not matter."""
    pyramid = TimmPyramid("test_resnet")
    pyramid.body = Seen()
    images = (pyramid.mean + 2 * pyramid.std).expand(2, 3, 8, 12).clone()
    images[0, :, 3:] = torch.nan
    images[0, :, :, 5:] = torch.inf
    (seen,) = pyramid(images, torch.tensor([[3, 5], [8, 12]]))
    expected = torch.full((2, 3, 8, 12), 2.0)
    expected[0, :, 3:] = 0
    expected[0, :, :, 5:] = 0
    assert_close(seen, expected)
    (everything,) = pyramid(images[1:])
    assert torch.equal(everything, pyramid(images[1:], torch.tensor([[8, 12]]))[0])


@pytest.mark.usefixtures("small")
def test_sizes_reach_swin() -> None:
    pyramid = TimmPyramid(SWIN).eval()
    images = torch.rand(1, 3, 64, 96)
    filled = images.clone()
    filled[:, :, 40:] = filled[:, :, :, 50:] = pyramid.mean
    with torch.no_grad():
        for expected, actual in zip(pyramid(filled), pyramid(images, torch.tensor([[40, 50]])), strict=True):
            assert_close(actual, expected, atol=1e-5, rtol=1e-4)


@pytest.fixture
def weights(small: None) -> tuple[Any, dict[str, Tensor]]:
    """A classifier for pictures whose maps are whole windows, each larger than one, and its weights."""
    model = timm.create_model(SWIN, img_size=448, num_classes=7).eval()
    return model, {name: value.clone() for name, value in model.state_dict().items()}


def check_file(path: Path, classifier: Any, weights: dict[str, Tensor]) -> None:
    save_file(weights, path)
    pyramid = TimmPyramid(SWIN, pretrained=str(path)).eval()
    images = torch.rand(1, 3, 448, 448)
    with torch.no_grad():
        maps = classifier.forward_intermediates((images - pyramid.mean) / pyramid.std, intermediates_only=True)[1:]
        for actual, expected in zip(pyramid(images), by_norm(maps), strict=True):
            assert_close(actual, expected, atol=1e-4, rtol=1e-4)


def test_weights_from_a_classifiers_file(tmp_path: Path, weights: tuple[Any, dict[str, Tensor]]) -> None:
    """There are no tables of positions and masks in it, which timm computes; old files have some, for their size."""
    classifier, own = weights
    assert not any("index" in name or "mask" in name for name in own)
    check_file(tmp_path / "w.safetensors", classifier, own)
    tables = {
        "layers.0.blocks.0.attn.relative_position_index": torch.zeros(49, 49, dtype=torch.int64),
        "layers.0.blocks.1.attn_mask": torch.zeros(64, 49, 49),
    }
    check_file(tmp_path / "w.safetensors", classifier, own | tables)


def test_weights_with_swins_own_names(tmp_path: Path, weights: tuple[Any, dict[str, Tensor]]) -> None:
    """There a stage ends with its downsampling; timm's begin with it."""
    classifier, own = weights
    older = {
        re.sub(r"^layers\.(\d)\.downsample", lambda found: f"layers.{int(found[1]) - 1}.downsample", name): value
        for name, value in own.items()
    }
    assert set(older) != set(own)
    check_file(tmp_path / "w.safetensors", classifier, older)


def test_weights_that_do_not_fit(tmp_path: Path, weights: tuple[Any, dict[str, Tensor]]) -> None:
    path = tmp_path / "w.safetensors"
    name = "layers.1.blocks.0.attn.relative_position_bias_table"
    _, own = weights
    save_file({**own, name: torch.zeros(23 * 23, 2)}, path)
    with pytest.raises(InputError, match=rf"model\.pretrained: .*1 have another shape \(first: {name[:6]}_1"):
        TimmPyramid(SWIN, pretrained=str(path))
    del own[name]
    save_file(own, path)
    with pytest.raises(InputError, match=r"model\.pretrained: .* 1 tensors are missing"):
        TimmPyramid(SWIN, pretrained=str(path))


@pytest.mark.parametrize("stages", range(5))
@pytest.mark.usefixtures("small")
def test_freeze(stages: int) -> None:
    """The first takes the patches with it. The norms of the maps are new in every detector, and learn."""
    pyramid = TimmPyramid(SWIN, freeze=stages)
    parts = ["patch_embed", "layers_0", "layers_1", "layers_2", "layers_3"]
    frozen = set(parts[: stages + 1] if stages else [])
    still = {name.split(".")[0] for name, p in pyramid.body.named_parameters() if not p.requires_grad}
    learn = {name.split(".")[0] for name, p in pyramid.body.named_parameters() if p.requires_grad}
    assert (still, learn) == (frozen, set(parts) - frozen)
    sum((m * torch.randn_like(m)).sum() for m in pyramid.train()(torch.rand(1, 3, 64, 64))).backward()
    reached = {name for name, p in pyramid.named_parameters() if p.grad is not None}
    assert reached == {name for name, p in pyramid.named_parameters() if p.requires_grad}
    assert {"norms.0.weight", "norms.2.bias"} <= reached


def test_freeze_more_than_there_is() -> None:
    with torch.device("meta"), pytest.raises(InputError, match=r"model\.freeze: timm:swin_.* has 4 stages, got 5"):
        TimmPyramid(SWIN, freeze=5)


def maps_agree(pyramid: TimmPyramid, images: Tensor) -> bool:
    """Whether training computes what evaluation does."""
    with torch.no_grad():
        pairs = zip(pyramid.eval()(images), pyramid.train()(images), strict=True)
        return all(torch.allclose(a, b, atol=1e-5) for a, b in pairs)


@pytest.mark.usefixtures("small")
def test_drop_path() -> None:
    """Blocks are left out in training where asked, though timm's own default for Swin is a tenth of them."""
    images = torch.rand(4, 3, 64, 64)
    assert maps_agree(TimmPyramid(SWIN), images)
    dropping = TimmPyramid(SWIN, drop_path=0.5)
    assert not maps_agree(dropping, images)
    shares = [m.drop_prob for m in dropping.body.modules() if isinstance(m, timm.layers.DropPath)]
    assert max(shares) == 0.5
    assert shares == sorted(shares)
    # Not where nothing learns.
    assert maps_agree(TimmPyramid(SWIN, drop_path=0.5, freeze=4), images)


@pytest.mark.parametrize("name", ["densenet121", "ghostnet_050"])
def test_no_drop_path(name: str) -> None:
    message = rf"model\.drop_path: timm:{name} cannot leave blocks out; leave it at 0"
    for pretrained in ("", "hub"):
        with torch.device("meta"), pytest.raises(InputError, match=message):
            TimmPyramid(name, drop_path=0.1, pretrained=pretrained)


def gradients(pyramid: TimmPyramid, images: Tensor) -> tuple[list[Tensor], dict[str, Tensor], int]:
    """Maps, gradients by parameter, and how often an inner module ran."""
    runs = 0

    def count(*_: Any) -> None:
        nonlocal runs
        runs += 1

    inner = [module for name, module in pyramid.body.named_modules() if isinstance(module, (nn.Conv2d, nn.LayerNorm))]
    handles = [module.register_forward_hook(count) for module in inner]
    torch.manual_seed(1)
    maps = pyramid(images)
    sum((m * torch.linspace(-1, 1, m.numel()).view_as(m)).sum() for m in maps).backward()
    for handle in handles:
        handle.remove()
    found = {name: p.grad.clone() for name, p in pyramid.named_parameters() if p.grad is not None}
    return [m.detach() for m in maps], found, runs


@pytest.mark.parametrize(
    ("name", "options"),
    [
        (SWIN, {"drop_path": 0.3}),
        (SWIN, {"freeze": 2}),
        ("test_convnext", {"drop_path": 0.3}),
        ("test_resnet", {"norm": "fixed", "freeze": 1}),
        ("test_efficientnet", {"norm": "frozen"}),
    ],
)
@pytest.mark.usefixtures("small")
def test_checkpointing_changes_no_gradient(name: str, options: dict[str, Any]) -> None:
    """The same blocks are left out on the way back; modules run twice, and in evaluation once."""
    plain, again = TimmPyramid(name, **options).train(), TimmPyramid(name, **options, checkpointing=True).train()
    again.load_state_dict(plain.state_dict())
    images = torch.rand(2, 3, 64, 64)
    maps, expected, once = gradients(plain, images)
    maps_again, actual, more = gradients(again, images)
    assert once < more <= 2 * once
    assert set(actual) == set(expected)
    for a, b in zip(maps, maps_again, strict=True):
        assert torch.equal(a, b)
    for key, value in expected.items():
        assert_close(actual[key], value, atol=1e-6, rtol=1e-5)
    assert gradients(again.eval(), images)[2] == once


def test_checkpointing_that_cannot_be() -> None:
    with torch.device("meta"):
        with pytest.raises(InputError, match=r"model\.checkpointing: timm:coat_lite_tiny cannot"):
            TimmPyramid("coat_lite_tiny", checkpointing=True)
        with pytest.raises(InputError, match=r"model\.checkpointing: batch norms .*set model\.norm=fixed"):
            TimmPyramid("test_resnet", checkpointing=True)
        TimmPyramid("test_resnet", checkpointing=True, freeze=5)


@pytest.mark.usefixtures("small")
def test_through_a_recipe() -> None:
    """The fields arrive; what is no share, or no timm backbone's, is refused."""
    options = {"model.backbone": f"timm:{SWIN}", "model.norm": "learn", "model.freeze": 0, "neck.width": 32}
    asked = {"model.drop_path": 0.2, "model.checkpointing": True}
    model: Any = build_detector("vfnet-r50", 2, **options, **asked).model
    assert model.backbone.checkpointing
    assert any(isinstance(m, timm.layers.DropPath) for m in model.backbone.modules())
    assert model.eval()(torch.rand(1, 3, 128, 160)).logits.shape[0] == 1
    for field, value in [("drop_path", 1.0), ("drop_path", -0.1), ("drop_path", float("nan"))]:
        with pytest.raises(InputError, match=rf"model\.{field}"):
            build_detector("vfnet-r50", 2, **{f"model.{field}": value})
    csp = {"model.backbone": "csp", "model.norm": "learn", "model.freeze": 0, "neck.width": 32}
    for field, value in asked.items():
        with pytest.raises(InputError, match=rf"^{field}: for timm backbones only"):
            build_detector("vfnet-r50", 2, **csp, **{field: value})


@pytest.mark.usefixtures("small")
def test_yolo_family() -> None:
    backbone = TimmBackbone(SWIN, SCALES["t"]).eval()
    with torch.no_grad():
        maps = backbone(torch.rand(1, 3, 64, 96))
    assert [tuple(m.shape[1:]) for m in maps] == [(48, 8, 12), (96, 4, 6), (backbone.channels[2], 2, 3)]


@pytest.mark.usefixtures("small")
def test_exported_program_takes_any_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a graph of fixed size that holds no activation checkpointing, with which it was trained."""
    monkeypatch.setitem(SMALL, "depths", (2, 1, 1, 1))
    pyramid = TimmPyramid(SWIN, checkpointing=True).eval()
    batch = torch.export.Dim("batch")
    program = torch.export.export(pyramid, (torch.rand(2, 3, 64, 96),), dynamic_shapes={"images": {0: batch}})
    for count in (1, 3):
        images = torch.rand(count, 3, 64, 96)
        with torch.no_grad():
            for actual, expected in zip(program.module()(images), pyramid(images), strict=True):
                assert_close(actual, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.usefixtures("small")
def test_half_precision() -> None:
    """Gradients stay finite under autocast, and maps near those of full precision."""
    pyramid = TimmPyramid(SWIN)
    images = torch.rand(1, 3, 72, 104)
    maps = pyramid(images)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = pyramid(images)
    for a, b in zip(maps, rounded, strict=True):
        assert (a - b).abs().mean() < 0.1 * a.abs().mean()
    sum(m.float().square().sum() for m in rounded).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in pyramid.parameters())
