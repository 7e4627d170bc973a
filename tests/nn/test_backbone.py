"""timm backbones: maps, weights from a file, clear errors, frozen norms and stages. Never the network."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn
from torch.testing import assert_close

from alignrank.errors import InputError
from alignrank.nn.backbone import TimmBackbone, TimmPyramid
from alignrank.nn.csp import SCALES
from alignrank.weights.recipe import build_detector

NAME = "test_efficientnet"  # 0.08 M parameters
SCALE = SCALES["t"]
# Of all images of ImageNet, per channel.
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def classifier_file(folder: Path, name: str = NAME) -> tuple[nn.Module, Path]:
    """A whole classifier with random weights and statistics, and its weights as a file."""
    model = timm.create_model(name, pretrained=False, num_classes=7)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
    path = folder / "classifier.safetensors"
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, path)
    return model.eval(), path


@pytest.mark.parametrize("name", [NAME, "test_resnet"])
def test_maps(name: str) -> None:
    """Strides 8, 16, 32 with the channels it announces; every parameter gets a gradient."""
    backbone = TimmBackbone(name, SCALE)
    maps = backbone(torch.rand(2, 3, 64, 96))
    assert [m.shape[1:] for m in maps] == [
        (c, 64 // s, 96 // s) for c, s in zip(backbone.channels, (8, 16, 32), strict=True)
    ]
    sum((m * torch.randn_like(m)).sum() for m in maps).backward()
    assert all(p.grad is not None for p in backbone.parameters())


@pytest.mark.parametrize("name", [NAME, "test_resnet", "test_byobnet"])
def test_weights_from_a_classifier_file(tmp_path: Path, name: str) -> None:
    """The maps are those the classifier itself computes from the normalised image."""
    classifier, path = classifier_file(tmp_path, name)
    backbone = TimmBackbone(name, SCALE, pretrained=str(path)).eval()
    images = torch.rand(1, 3, 64, 64)
    cfg = classifier.pretrained_cfg
    normal = (images - torch.tensor(cfg["mean"]).view(3, 1, 1)) / torch.tensor(cfg["std"]).view(3, 1, 1)
    with torch.no_grad():
        p3, p4, _ = backbone(images)
        intermediates = classifier.forward_intermediates(normal, intermediates_only=True)
    expected = {64 // m.shape[-1]: m for m in intermediates}  # by stride
    assert_close(p3, expected[8], atol=1e-5, rtol=1e-4)
    assert_close(p4, expected[16], atol=1e-5, rtol=1e-4)


def test_random_weights_differ_from_the_file(tmp_path: Path) -> None:
    """So that the test above cannot pass by both being the same initialisation."""
    _, path = classifier_file(tmp_path)
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        loaded = TimmBackbone(NAME, SCALE, pretrained=str(path)).eval()(images)[0]
        random = TimmBackbone(NAME, SCALE).eval()(images)[0]
    assert (loaded - random).abs().max() > 1e-3


def test_wrong_files(tmp_path: Path) -> None:
    """Missing, not safetensors by name or by content, another network's: one sentence naming field and file."""
    _, path = classifier_file(tmp_path)
    renamed = tmp_path / "weights.pt"
    renamed.write_bytes(path.read_bytes())
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(path.read_bytes()[:1000])
    for wrong, said in [
        (tmp_path / "absent.safetensors", "no file"),
        (renamed, "must be a .safetensors file"),
        (damaged, "not a readable safetensors file"),
    ]:
        with pytest.raises(InputError, match=r"^model\.pretrained: .*" + said) as caught:
            TimmBackbone(NAME, SCALE, pretrained=str(wrong))
        assert str(wrong) in str(caught.value)
    with pytest.raises(InputError, match=r"does not fit timm:test_resnet: \d+ tensors are missing"):
        TimmBackbone("test_resnet", SCALE, pretrained=str(path))


def test_wrong_shape(tmp_path: Path) -> None:
    model, path = classifier_file(tmp_path)
    weights = {k: v.contiguous() for k, v in model.state_dict().items()}
    weights["conv_stem.weight"] = weights["conv_stem.weight"][:8].contiguous()
    save_file(weights, path)
    with pytest.raises(
        InputError, match=r"model\.pretrained: .*1 have another shape \(first: conv_stem\.weight\)"
    ) as caught:
        TimmBackbone(NAME, SCALE, pretrained=str(path))
    assert str(path) in str(caught.value)


def test_unknown_name_and_unfit_stride() -> None:
    with pytest.raises(InputError, match=r"model\.backbone: timm has no model 'resnet5O'; did you mean 'resnet"):
        TimmBackbone("resnet5O", SCALE)
    # A plain vision transformer has maps of stride 16 only.
    with pytest.raises(InputError, match=r"model\.backbone: timm:test_vit has no map of stride 8"):
        TimmBackbone("test_vit", SCALE)


def test_through_a_recipe(tmp_path: Path) -> None:
    """The recipe's fields arrive; a field that only timm backbones have is refused for our own."""
    _, path = classifier_file(tmp_path)
    options = {"model.size": "t", "model.backbone": f"timm:{NAME}", "model.pretrained": str(path)}
    model = build_detector("yolov8-n", 2, **options, **{"model.frozen_norm": True}).model
    assert isinstance(model.backbone, TimmBackbone)
    assert model.eval()(torch.rand(1, 3, 64, 64)).logits.shape == (1, 84, 2)
    with pytest.raises(InputError, match=r"model\.backbone: 'resnet50' is neither 'csp', 'yolov5', .* nor 'timm:NAME'"):
        build_detector("yolov8-n", 2, **{"model.backbone": "resnet50"})
    with pytest.raises(InputError, match=r"model\.pretrained and model\.frozen_norm are for timm"):
        build_detector("yolov8-n", 2, **{"model.frozen_norm": True})


def test_hub_offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With HF_HUB_OFFLINE (set for the whole suite): one error that says so, and no attempt to connect."""
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(InputError, match=r"model\.pretrained=hub: .*timm:test_resnet.*HF_HUB_OFFLINE is set") as caught:
        TimmBackbone("test_resnet", SCALE, pretrained="hub")
    assert "\n" not in str(caught.value)
    assert "give a file instead" in str(caught.value)


def test_frozen_norm_keeps_statistics_in_training() -> None:
    """Forward in train() moves free statistics and leaves frozen ones; frozen affine parameters do not learn."""
    images = torch.rand(2, 3, 64, 64)
    for frozen in (False, True):
        backbone = TimmBackbone(NAME, SCALE, frozen_norm=frozen).train()
        before = {k: v.clone() for k, v in backbone.body.state_dict().items() if "running" in k}
        assert before
        backbone(images)
        after = backbone.body.state_dict()
        same = [torch.equal(after[key], value) for key, value in before.items()]
        assert all(same) if frozen else not any(same)
        learns = {name for name, _ in backbone.body.named_parameters() if "bn" in name}
        assert bool(learns) is not frozen


def test_frozen_norm_computes_the_same(tmp_path: Path) -> None:
    """Freezing changes nothing in evaluation, and training then sees the evaluation's maps."""
    _, path = classifier_file(tmp_path)
    images = torch.rand(2, 3, 64, 64)
    free = TimmBackbone(NAME, SCALE, pretrained=str(path)).eval()
    frozen = TimmBackbone(NAME, SCALE, pretrained=str(path), frozen_norm=True).train()
    with torch.no_grad():
        for expected, actual in zip(free(images)[:2], frozen(images)[:2], strict=True):
            assert_close(actual, expected, atol=1e-5, rtol=1e-4)


def learning(module: nn.Module) -> set[str]:
    return {name for name, parameter in module.named_parameters() if parameter.requires_grad}


def statistics(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items() if "running" in name}


def test_pyramid_of_mobilenet() -> None:
    """MobileNetV2 (Sandler et al. 2018, table 2): 32, 96 and 320 channels end strides 8, 16 and 32."""
    pyramid = TimmPyramid("mobilenetv2_100", freeze=1, norm="fixed").eval()
    assert pyramid.channels == (32, 96, 320)
    with torch.no_grad():
        maps = pyramid(torch.rand(2, 3, 64, 96))
    assert [tuple(m.shape) for m in maps] == [(2, 32, 8, 12), (2, 96, 4, 6), (2, 320, 2, 3)]
    # timm counts the stem and the first block of stride 2 as one stage.
    still = {name for name, _ in pyramid.body.named_parameters()} - learning(pyramid.body)
    assert {name.split(".")[0] for name in still if not name.startswith("blocks.0.")} == {"conv_stem", "bn1"}
    assert not any(name.startswith("blocks.0.") for name in learning(pyramid.body))


def test_images_are_normalised_inside() -> None:
    """An image that is the model's own mean is an image of zeros to it; one standard deviation more, of ones.

    In float64: what rounding makes of an exact zero is magnified by fifty layers.
    """
    pyramid = TimmPyramid("mobilenetv2_100").double().eval()
    mean, std = (torch.tensor(x).double().view(1, 3, 1, 1).expand(1, 3, 64, 64) for x in (IMAGENET_MEAN, IMAGENET_STD))
    with torch.no_grad():
        for image, seen in [(mean, 0.0), (mean + std, 1.0)]:
            for actual, expected in zip(
                pyramid(image), pyramid.body(torch.full((1, 3, 64, 64), seen).double()), strict=True
            ):
                assert_close(actual, expected, atol=1e-5, rtol=1e-4)


STAGES = [("conv1", "bn1"), ("layer1",), ("layer2",), ("layer3",), ("layer4",)]


@pytest.mark.parametrize("stages", range(6))
def test_freeze(stages: int) -> None:
    """A residual network's stages are the stem and four layers. What is frozen gets no gradient, all else does."""
    pyramid = TimmPyramid("test_resnet", freeze=stages)
    frozen = {part for stage in STAGES[:stages] for part in stage}
    expected = {name for name, _ in pyramid.body.named_parameters() if name.split(".")[0] not in frozen}
    assert learning(pyramid.body) == expected
    assert {name.split(".")[0] for name in expected} == {part for stage in STAGES[stages:] for part in stage}
    for mode in (True, False, True):
        assert pyramid.train(mode).training is mode
        assert learning(pyramid.body) == expected
    maps = pyramid(torch.rand(2, 3, 64, 64))
    if stages < 5:
        sum((m * torch.randn_like(m)).sum() for m in maps).backward()
    reached = {name for name, parameter in pyramid.body.named_parameters() if parameter.grad is not None}
    assert reached == expected


def test_freeze_more_than_there_is() -> None:
    with pytest.raises(InputError, match=r"model\.freeze: timm:test_resnet has 5 stages, got 6"):
        TimmPyramid("test_resnet", freeze=6)


@pytest.mark.parametrize(
    ("norm", "moves", "learns"), [("learn", True, True), ("fixed", False, True), ("frozen", False, False)]
)
def test_norms_of_a_pyramid(norm: Literal["learn", "fixed", "frozen"], moves: bool, learns: bool) -> None:
    """A forward in training moves statistics or not; a step of SGD moves the affine parameters or not; others move.

    Norms: one of the stem, two of the first block, three of each of 16 blocks.
    """
    pyramid = TimmPyramid("mobilenetv2_100", norm=norm).train()
    before = statistics(pyramid.body)
    assert len(before) == 2 * 51
    affine = {name for name, value in pyramid.body.state_dict().items() if "bn" in name and value.ndim == 1}
    affine -= set(before)
    assert len(affine) == 2 * 51
    values = {name: value.clone() for name, value in pyramid.body.state_dict().items()}
    sum((m * torch.randn_like(m)).sum() for m in pyramid(torch.rand(2, 3, 64, 64))).backward()
    torch.optim.SGD(pyramid.parameters(), lr=0.1).step()
    after = pyramid.body.state_dict()
    changed = {name for name, value in values.items() if not torch.equal(value, after[name])}
    assert changed & set(before) == (set(before) if moves else set())
    assert changed & affine == (affine if learns else set())
    assert {name for name in values if "conv" in name} <= changed


def test_fixed_norms_stay_fixed() -> None:
    """train() reaches all but the norms, also after eval(); maps in training are those of evaluation."""
    pyramid = TimmPyramid("mobilenetv2_100", norm="fixed")
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        expected = pyramid.eval()(images)
        for _ in range(2):
            pyramid.train()
            assert {m.training for m in pyramid.modules() if isinstance(m, nn.BatchNorm2d)} == {False}
            assert {m.training for m in pyramid.modules() if not isinstance(m, nn.BatchNorm2d)} >= {True}
            assert all(m.training for m in pyramid.modules() if isinstance(m, nn.Conv2d))
            for actual, map_ in zip(pyramid(images), expected, strict=True):
                assert torch.equal(actual, map_)
            pyramid.eval()
    free = TimmPyramid("mobilenetv2_100").train()
    assert all(m.training for m in free.modules())


def test_freeze_with_each_norm() -> None:
    """Both together: affine parameters of a frozen stage do not learn under `fixed`, and are none under `frozen`."""
    for norm, stem in [("learn", {"conv1", "bn1"}), ("fixed", {"conv1", "bn1"}), ("frozen", {"conv1"})]:
        pyramid = TimmPyramid("test_resnet", norm=norm, freeze=1)
        still = {name.split(".")[0] for name, p in pyramid.body.named_parameters() if not p.requires_grad}
        assert still == stem
        assert any("bn" in name for name in learning(pyramid.body)) == (norm != "frozen")


def test_statistics_of_frozen_stages_stay() -> None:
    """While those of the stages that learn move."""
    pyramid = TimmPyramid("test_resnet", freeze=2).train()
    before = {name: buffer.clone() for name, buffer in pyramid.body.named_buffers() if "running" in name}
    pyramid(torch.rand(2, 3, 64, 64))
    moved = {name.split(".")[0] for name, old in before.items() if not torch.equal(old, pyramid.body.get_buffer(name))}
    assert moved == {"layer2", "layer3", "layer4"}


def test_freeze_where_timm_flattens_names() -> None:
    """Its table says stages.0, its network has stages_0."""
    pyramid = TimmPyramid("test_convnext", freeze=1)
    still = {name.split(".")[0] for name, p in pyramid.body.named_parameters() if not p.requires_grad}
    assert still == {"stem_0", "stem_1", "stages_0"}
