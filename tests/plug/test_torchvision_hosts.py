"""FINE in torchvision's detectors: what stays, what changes, and how it goes out again."""

from __future__ import annotations

import copy
import io
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torchvision.models.detection import FCOS, FasterRCNN, MaskRCNN, RetinaNet, fasterrcnn_mobilenet_v3_large_320_fpn
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from alignrank.errors import InputError
from alignrank.nn.fine import FINE
from alignrank.plug import add_fine, remove_fine

# Strides 4 to 32.
CHANNELS = [6, 8, 10, 12]


def body() -> nn.Module:
    """Five convolutions that halve the image, each its own level."""
    widths = [3, 4, *CHANNELS]
    layers = [nn.Sequential(nn.Conv2d(*pair, 3, 2, 1), nn.ReLU()) for pair in pairwise(widths)]
    return nn.Sequential(OrderedDict((f"c{number}", layer) for number, layer in enumerate(layers, 1)))


def backbone(levels: int, width: int, *, extra: bool = False) -> BackboneWithFPN:
    names = [f"c{number}" for number in range(2, 6)][-levels:]
    top = LastLevelP6P7(CHANNELS[-1], width) if extra else None
    return BackboneWithFPN(
        body(), {name: str(level) for level, name in enumerate(names)}, CHANNELS[-levels:], width, top
    )


# The coarsest of FCOS's levels, stride 128, has more than one cell.
SIZES: dict[str, Any] = {"min_size": 130, "max_size": 190}
FEW: dict[str, Any] = {
    "rpn_post_nms_top_n_train": 40,
    "rpn_post_nms_top_n_test": 40,
    "box_batch_size_per_image": 16,
    "box_detections_per_img": 10,
    "box_score_thresh": 0.0,
}
# One class (and the background, where there is one). 40 channels do not make heads of 16.
HOSTS: dict[str, Callable[[], nn.Module]] = {
    "faster": lambda: FasterRCNN(backbone(4, 40), 2, **SIZES, **FEW),
    "mask": lambda: MaskRCNN(backbone(4, 40), 2, **SIZES, **FEW),
    "retinanet": lambda: RetinaNet(backbone(3, 32, extra=True), 1, score_thresh=0.0, **SIZES),
    "fcos": lambda: FCOS(backbone(3, 32, extra=True), 1, score_thresh=0.0, **SIZES),
}
hosts = pytest.mark.parametrize("name", HOSTS)


def images() -> list[Tensor]:
    """Sizes that no stride divides."""
    generator = torch.Generator().manual_seed(1)
    return [torch.rand(3, 97, 131, generator=generator), torch.rand(3, 61, 75, generator=generator)]


@torch.no_grad()
def outputs(model: nn.Module) -> list[Tensor]:
    """Features and detections of two images, and of one alone."""
    training = model.training
    model.eval()
    found = [tensor for batch in (images(), images()[:1]) for entry in model(batch) for tensor in entry.values()]
    found += list(model.backbone(torch.stack([images()[0]])).values())
    model.train(training)
    return found


def loss(model: nn.Module) -> Tensor:
    torch.manual_seed(2)  # samplers of anchors and proposals
    target = {"boxes": torch.tensor([[10.0, 12, 60, 50]]), "labels": torch.tensor([0])}
    if isinstance(model, FasterRCNN):
        target |= {"labels": torch.tensor([1]), "masks": torch.ones(1, 97, 131, dtype=torch.uint8)}
    small = target | {"masks": torch.ones(1, 61, 75, dtype=torch.uint8)}
    total: Tensor = sum(model.train()(images(), [target, small]).values())
    return total


def equal(first: list[Tensor], second: list[Tensor]) -> bool:
    return len(first) == len(second) and all(map(torch.equal, first, second))


def fine_of(model: nn.Module) -> list[FINE]:
    return [module for module in model.modules() if isinstance(module, FINE)]


@hosts
def test_zero_init_leaves_the_host_bit_for_bit(name: str) -> None:
    model = HOSTS[name]()
    weights, before, before_loss = copy.deepcopy(model.state_dict()), outputs(model), loss(model)
    assert before[0].numel()  # there are detections to compare
    assert add_fine(model, zero_init=True) is model
    assert len(fine_of(model)) == 2
    assert equal(outputs(model), before)
    assert torch.equal(loss(model), before_loss)
    assert all(torch.equal(model.state_dict()[key], value) for key, value in weights.items())


@hosts
def test_removed_it_is_as_it_was(name: str) -> None:
    model = HOSTS[name]().eval()
    before, keys, classes = outputs(model), list(model.state_dict()), [type(module) for module in model.modules()]
    assert not equal(outputs(add_fine(model)), before)
    assert remove_fine(model) is model
    assert list(model.state_dict()) == keys
    assert [type(module) for module in model.modules()] == classes
    assert equal(outputs(model), before)
    add_fine(model)  # and it can have it again


@pytest.mark.parametrize("zero_init", [False, True])
@hosts
def test_all_of_it_learns(name: str, zero_init: bool) -> None:
    """A bias adds the same to all keys of a query, which softmax does not see: rounding alone moves the keys' bias, by
    as much as AdamW moves anything, or not at all.
    """
    model = add_fine(HOSTS[name](), zero_init=zero_init)
    before = {key: value.clone() for key, value in model.named_parameters() if ".fine." in key}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    for _ in range(10):
        optimizer.zero_grad()
        loss(model).backward()
        optimizer.step()
    after = dict(model.named_parameters())
    assert len(before) == 2 * (16 + zero_init)
    still = {key for key, value in before.items() if torch.equal(after[key], value)}
    assert {key for key in still if not key.endswith("key.bias")} == set()


def test_state_dicts_go_in_both_ways() -> None:
    plain, model = HOSTS["faster"](), add_fine(HOSTS["faster"]())
    missing, unexpected = model.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected
    assert sorted(missing) == sorted(key for key in model.state_dict() if ".fine." in key) != []
    other = add_fine(HOSTS["faster"]())
    other.load_state_dict(model.state_dict(), strict=True)
    assert equal(outputs(other), outputs(model))
    with pytest.raises(RuntimeError, match="fine"):
        plain.load_state_dict(model.state_dict())


def test_copies_and_pickles_have_it() -> None:
    model = add_fine(HOSTS["retinanet"]())
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    for other in (copy.deepcopy(model), torch.load(buffer, weights_only=False)):
        assert equal(outputs(other), outputs(model))
        nn.init.zeros_(fine_of(other)[0].output.weight)  # its own
        assert fine_of(model)[0].output.weight.any()
        assert type(remove_fine(other).backbone.fpn) is FeaturePyramidNetwork


def test_a_detector_becomes_torchscript() -> None:
    model = add_fine(HOSTS["faster"]()).eval()
    scripted = torch.jit.script(model)
    buffer = io.BytesIO()
    torch.jit.save(scripted, buffer)
    buffer.seek(0)
    loaded = torch.jit.load(buffer)
    assert [len(found["boxes"]) for found in loaded(images())[1]] == [10, 10]
    picture = images()[0][None]  # not the detections: torchvision resizes by another rule in TorchScript
    for mine, its in zip(model.backbone(picture).values(), loaded.backbone(picture).values(), strict=True):
        torch.testing.assert_close(its, mine)


@pytest.mark.parametrize(
    "options", [{"pooling": "max"}, {"pooling": "depthwise"}, {"variant": "equations"}, {"attention": "vanilla"}]
)
def test_a_backbone_becomes_torchscript(options: dict[str, Any]) -> None:
    model = add_fine(backbone(3, 32, extra=True).eval(), **options)
    scripted = torch.jit.script(model)
    picture = torch.rand(1, 3, 97, 131)
    for mine, its in zip(model(picture).values(), scripted(picture).values(), strict=True):
        torch.testing.assert_close(its, mine)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_a_backbone_is_traced_and_exported() -> None:
    """Sizes of levels are 13, 7 and 4 by 17, 9 and 5: all of them are pooled with a rest."""
    model = add_fine(backbone(3, 32).eval())
    picture = torch.rand(1, 3, 97, 131)
    expected = list(model(picture).values())
    traced = list(torch.jit.trace(model, picture, strict=False)(picture).values())
    exported = list(torch.export.export(model, (picture,)).module()(picture).values())
    for found in (traced, exported):
        for mine, its in zip(expected, found, strict=True):
            torch.testing.assert_close(its, mine)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype: torch.dtype) -> None:
    """FINE is of the host's type, and what comes out is; autocast gives the host's bits, too."""
    model = backbone(4, 40).to(dtype).eval()
    picture = torch.rand(1, 3, 97, 131)
    before = list(model(picture.to(dtype)).values())
    add_fine(model, zero_init=True)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    assert equal(list(model(picture.to(dtype)).values()), before)
    remove_fine(model)
    assert all(level.isfinite().all() for level in add_fine(model)(picture.to(dtype)).values())


def test_autocast() -> None:
    model = backbone(4, 40).eval()
    picture = torch.rand(1, 3, 97, 131)
    with torch.autocast("cpu", torch.bfloat16):
        before = list(model(picture).values())
        assert equal(list(add_fine(model, zero_init=True)(picture).values()), before)
        changed = list(add_fine(remove_fine(model))(picture).values())
    assert [level.dtype for level in changed] == [level.dtype for level in before]
    assert all(level.isfinite().all() for level in changed)
    assert not equal(changed, before)


def test_the_network_by_hand() -> None:
    """Four levels: the coarsest as it was, two fusions modulated, the finest added alone."""
    network = add_fine(FeaturePyramidNetwork(CHANNELS, 16))
    maps = OrderedDict((str(level), torch.rand(2, CHANNELS[level], 40 >> level, 24 >> level)) for level in range(4))
    lateral = [block(maps[str(level)]) for level, block in enumerate(network.inner_blocks)]
    first, second = network.fine
    assert (first.pool_high.kernel, first.pool_low.kernel) == (1, 2)
    assert (second.pool_high.kernel, second.pool_low.kernel) == (2, 4)
    inner = [lateral[3]]
    for level, modulated in (
        (2, first(lateral[2], inner[0])),
        (1, second(lateral[1], first(lateral[2], inner[0]) + interpolate(inner[0], scale_factor=2.0))),
        (0, lateral[0]),
    ):
        inner.append(modulated + interpolate(inner[-1], size=lateral[level].shape[-2:]))
    expected = [block(inner[3 - level]) for level, block in enumerate(network.layer_blocks)]
    found = network(maps)
    assert list(found) == list(maps)
    for mine, its in zip(expected, found.values(), strict=True):
        torch.testing.assert_close(its, mine)


@pytest.mark.parametrize(("levels", "modules"), [(2, 1), (3, 2), (4, 2), (5, 2)])
def test_as_many_modules_as_there_are_fusions(levels: int, modules: int) -> None:
    assert len(fine_of(add_fine(FeaturePyramidNetwork([4] * levels, 16)))) == modules


def test_options_reach_the_modules() -> None:
    network = add_fine(
        FeaturePyramidNetwork([4] * 3, 32),
        variant="prerelease", pooling="max", modulation="none", head_dim=8, ratio=4, pools=(2, 3), zero_init=True,
    )  # fmt: skip
    for fine, pool in zip(fine_of(network), (2, 3), strict=True):
        assert (fine.pool_high.kernel, fine.pool_low.kernel, fine.pool_low.kind) == (pool, 4 * pool, "max")
        assert (fine.positions, fine.modulation, fine.attention.head_dim) == (True, "none", 8)
    remove_fine(network)
    assert fine_of(add_fine(network, attention="area"))[0].attention.windows == "area"


@pytest.mark.parametrize("training", [False, True])
def test_it_has_the_mode_of_the_host(training: bool) -> None:
    model = add_fine(HOSTS["fcos"]().train(training), pooling="depthwise")
    assert {module.training for module in model.modules()} == {training}


def test_mobilenet_has_one_fusion() -> None:
    with torch.device("meta"):
        model = fasterrcnn_mobilenet_v3_large_320_fpn(weights=None, weights_backbone=None)
    add_fine(model)
    assert len(fine_of(model)) == 1
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}


class OwnForward(FeaturePyramidNetwork):
    """Somebody's."""


@pytest.mark.parametrize(
    "model", [nn.Linear(2, 2), OwnForward([4, 4], 8), FeaturePyramidNetwork([4], 8)], ids=["linear", "subclass", "one"]
)
def test_an_unknown_host_is_told_which_are_known(model: nn.Module) -> None:
    with pytest.raises(
        InputError, match=f"{type(model).__name__} has no place for FINE; hosts are: Faster R-CNN.*D-FI"
    ):
        add_fine(model)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "papre"}, "variant='papre' is unknown; did you mean 'paper'"),
        ({"pooling": "mean"}, "pooling='mean'"),
        ({"attention": "swin"}, "attention='swin'"),
        ({"modulation": "sum"}, "modulation='sum'"),
        ({"head_dim": 0}, "head_dim must be a whole number of at least 1, not 0"),
        ({"ratio": 1.5}, r"ratio .* not 1\.5"),
        ({"pools": (1, 0)}, "pools .* not 0"),
        ({"pools": (1,)}, "pools must be two numbers"),
        ({"pools": 2}, "pools must be two numbers"),
        ({"zero_init": True, "modulation": "direct"}, "zero_init needs"),
        ({"zero_init": True, "variant": "prerelease"}, "zero_init needs"),
    ],
)
def test_a_refusal_changes_nothing(options: dict[str, Any], message: str) -> None:
    network = FeaturePyramidNetwork([4, 4, 4], 16)
    keys = list(network.state_dict())
    with pytest.raises(InputError, match=message):
        add_fine(network, **options)
    assert type(network) is FeaturePyramidNetwork
    assert list(network.state_dict()) == keys


def test_once_in_and_once_out() -> None:
    network = add_fine(FeaturePyramidNetwork([4, 4, 4], 16))
    with pytest.raises(InputError, match="has FINE already"):
        add_fine(nn.Sequential(network))
    remove_fine(network)
    with pytest.raises(InputError, match="has no FINE"):
        remove_fine(network)


@pytest.mark.parametrize("change", [add_fine, remove_fine])
def test_a_path_is_no_model(change: Callable[[Any], Any]) -> None:
    with pytest.raises(InputError, match=r"must be a torch\.nn\.Module, not str"):
        change("model.pt")


WITHOUT = """
import sys
sys.modules["transformers"] = None
import alignrank
plug = alignrank.plug
assert "torchvision" not in sys.modules
from torchvision.ops import FeaturePyramidNetwork
plug.add_fine(FeaturePyramidNetwork([4, 4], 16))
try:
    import alignrank.plug.transformers
except alignrank.InputError as error:
    print(error)
"""


def test_it_needs_no_transformers() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True, check=True)
    assert "the package transformers is not installed (extra 'transformers' of alignrank); run `pip" in done.stdout
