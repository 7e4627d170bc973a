"""Public checkpoints: the authors' names and shapes, written down here, become ours; nothing in a file is executed."""

from __future__ import annotations

import pickle
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from alignrank.cli.entry import main
from alignrank.detectors.varifocalnet import VarifocalNet
from alignrank.errors import InputError
from alignrank.weights import checkpoint
from alignrank.weights.coco_names import COCO_NAMES
from alignrank.weights.foreign import convert, renamed
from alignrank.weights.recipe import load_recipe

Shapes = dict[str, tuple[int, ...]]
TINY = """
detector: varifocalnet
model: {backbone: timm:resnet18}
neck: {width: 32}
head: {groups: 8}
"""


def norm(name: str, width: int) -> Shapes:
    return {f"{name}.{part}": (width,) for part in ("weight", "bias", "running_mean", "running_var")} | {
        f"{name}.num_batches_tracked": ()
    }


def resnet(blocks: tuple[int, ...], *, bottleneck: bool) -> Shapes:
    """A ResNet as torchvision and mmdetection name it."""
    shapes: Shapes = {"backbone.conv1.weight": (64, 3, 7, 7), **norm("backbone.bn1", 64)}
    entering = 64
    for stage, count in enumerate(blocks):
        width = 64 * 2**stage
        leaving = width * 4 if bottleneck else width
        for block in range(count):
            own = f"backbone.layer{stage + 1}.{block}"
            kernels = [(entering, width, 1), (width, width, 3), (width, leaving, 1)]
            if not bottleneck:
                kernels = [(entering, width, 3), (width, width, 3)]
            for i, (inputs, outputs, side) in enumerate(kernels, start=1):
                shapes |= {f"{own}.conv{i}.weight": (outputs, inputs, side, side), **norm(f"{own}.bn{i}", outputs)}
            if block == 0 and (stage > 0 or bottleneck):
                shapes |= {f"{own}.downsample.0.weight": (leaving, entering, 1, 1)}
                shapes |= norm(f"{own}.downsample.1", leaving)
            entering = leaving
    return shapes


def layout(
    backbone: Shapes, channels: tuple[int, ...], width: int, classes: int, *, deformable: bool = False
) -> Shapes:
    """A VarifocalNet checkpoint of the authors."""
    shapes = dict(backbone)
    for i, entering in enumerate(channels):
        shapes |= {f"neck.lateral_convs.{i}.conv.weight": (width, entering, 1, 1)}
        shapes |= {f"neck.lateral_convs.{i}.conv.bias": (width,)}
    for i in range(5):
        shapes |= {f"neck.fpn_convs.{i}.conv.weight": (width, width, 3, 3), f"neck.fpn_convs.{i}.conv.bias": (width,)}
    towers = [f"{tower}.{i}" for tower in ("cls_convs", "reg_convs") for i in range(3)]
    for name in [*towers, "vfnet_reg_conv"]:
        shapes |= {f"bbox_head.{name}.conv.weight": (width, width, 3, 3)}
        shapes |= {f"bbox_head.{name}.gn.{part}": (width,) for part in ("weight", "bias")}
        if deformable and name.endswith(".2"):
            shapes |= {f"bbox_head.{name}.conv.conv_offset.weight": (27, width, 3, 3)}
            shapes |= {f"bbox_head.{name}.conv.conv_offset.bias": (27,)}
    for name, outputs in (("vfnet_reg", 4), ("vfnet_reg_refine", 4), ("vfnet_cls", classes)):
        shapes |= {f"bbox_head.{name}.weight": (outputs, width, 3, 3), f"bbox_head.{name}.bias": (outputs,)}
    for name in ("vfnet_reg_refine_dconv", "vfnet_cls_dconv"):
        shapes |= {f"bbox_head.{name}.weight": (width, width, 3, 3)}
    for i in range(5):
        shapes |= {f"bbox_head.scales.{i}.scale": (), f"bbox_head.scales_refine.{i}.scale": ()}
    return shapes


def tiny_checkpoint(classes: int = 3, *, deformable: bool = False) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = layout(resnet((2, 2, 2, 2), bottleneck=False), (128, 256, 512), 32, classes, deformable=deformable)
    tensors = {name: torch.randn(shape, generator=generator) * 0.05 for name, shape in shapes.items()}
    fixed = {name: tensor.abs() + 1 for name, tensor in tensors.items() if name.endswith("running_var")}
    counts = {name: torch.zeros((), dtype=torch.int64) for name in tensors if name.endswith("tracked")}
    return tensors | fixed | counts


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY)
    return str(path)


def test_the_paper_s_network() -> None:
    """R50 and 80 classes: every public tensor has a place, every place has a tensor; 32,891,554 parameters."""
    shapes = layout(resnet((3, 4, 6, 3), bottleneck=True), (512, 1024, 2048), 256, 80)
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    assert sum(torch.Size(s).numel() for n, s in shapes.items() if not n.endswith(buffers)) == 32_891_554
    with torch.device("meta"):
        model = VarifocalNet(load_recipe("vfnet-r50").architecture)  # type: ignore[arg-type]
    assert sum(p.numel() for p in model.parameters()) == 32_891_554
    theirs = renamed({name: torch.empty(shape, device="meta") for name, shape in shapes.items()}, "test")
    ours = model.state_dict()
    assert {name: tensor.shape for name, tensor in theirs.items()} == {name: t.shape for name, t in ours.items()}


@pytest.mark.parametrize("deformable", [False, True])
@pytest.mark.parametrize("wrapped", [False, True])
def test_values_arrive(deformable: bool, wrapped: bool, recipe: str, tmp_path: Path) -> None:
    """Through a file: tensors where they belong, class names, and a network that predicts."""
    tensors = tiny_checkpoint(deformable=deformable)
    source = tmp_path / "theirs.pth"
    torch.save({"state_dict": tensors, "meta": {"epoch": 12}} if wrapped else tensors, source)
    path = convert(source, tmp_path / "ours.safetensors", model=recipe, classes=["a", "b", "c"])
    loaded = checkpoint.load(path)
    assert loaded.classes == ("a", "b", "c")
    head, backbone = loaded.build_model().head.state_dict(), loaded.build_model().backbone.state_dict()
    tower = "box_tower.2.0.conv.weight" if deformable else "box_tower.2.0.weight"
    pairs = {
        tower: "reg_convs.2.conv.weight", "cls_tower.0.1.bias": "cls_convs.0.gn.bias",
        "box_conv.0.weight": "vfnet_reg_conv.conv.weight", "box.bias": "vfnet_reg.bias",
        "refine.weight": "vfnet_reg_refine.weight", "box_star.weight": "vfnet_reg_refine_dconv.weight",
        "cls_star.weight": "vfnet_cls_dconv.weight", "cls.weight": "vfnet_cls.weight",
    }  # fmt: skip
    for ours, theirs in pairs.items():
        assert torch.equal(head[ours], tensors[f"bbox_head.{theirs}"]), ours
    if deformable:
        assert torch.equal(head["cls_tower.2.0.plan.bias"], tensors["bbox_head.cls_convs.2.conv.conv_offset.bias"])
    assert head["refine_scale"][3] == tensors["bbox_head.scales_refine.3.scale"]
    assert torch.equal(backbone["body.layer3.1.bn2.weight"], tensors["backbone.layer3.1.bn2.weight"])
    assert torch.equal(loaded.weights["neck.extras.1.bias"], tensors["neck.fpn_convs.4.conv.bias"])
    with torch.no_grad():
        assert loaded.build_model()(torch.rand(1, 3, 64, 64)).boxes.isfinite().all()


def test_names_of_coco(recipe: str, tmp_path: Path) -> None:
    assert len(set(COCO_NAMES)) == 80
    torch.save(tiny_checkpoint(80), tmp_path / "theirs.pth")
    path = convert(tmp_path / "theirs.pth", tmp_path / "ours.safetensors", model=recipe)
    assert checkpoint.load(path).classes == COCO_NAMES


def broken(case: str) -> Any:
    tensors: Any = tiny_checkpoint()
    if case == "missing":
        del tensors["bbox_head.vfnet_reg.bias"]
    elif case == "unknown":
        tensors["bbox_head.extra.weight"] = torch.zeros(1)
    elif case == "shape":
        tensors["neck.lateral_convs.0.conv.bias"] = torch.zeros(7)
    elif case == "scale":
        tensors["bbox_head.scales.1.scale"] = torch.ones(2)
    elif case == "other":
        tensors = {"fc.weight": torch.zeros(2, 2)}
    elif case == "no tensors":
        tensors = [1, 2, 3]
    return tensors


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("missing", "there is no tensor for head.box.bias"),
        ("unknown", "tensor bbox_head.extra.weight does not belong to"),
        ("shape", "the tensor for neck.laterals.0.bias has shape [7]"),
        ("other", "this is no VarifocalNet or Rank-DETR or"),
        ("scale", "tensors bbox_head.scales.*.scale must be one number each"),
        ("no tensors", "holds no state_dict of tensors"),
    ],
)
def test_checkpoints_that_do_not_fit(case: str, said: str, recipe: str, tmp_path: Path) -> None:
    source = tmp_path / "theirs.pth"
    torch.save(broken(case), source)
    with pytest.raises(InputError) as caught:
        convert(source, tmp_path / "ours.safetensors", model=recipe, classes=["a", "b", "c"])
    assert str(source) in str(caught.value)
    assert said in str(caught.value)
    assert not (tmp_path / "ours.safetensors").exists()


class Code:
    """What a hostile pickle would run."""

    def __reduce__(self) -> Any:
        return (Path.touch, (Path("executed"),))


def program(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """Exit code of the command and what it said on stderr."""
    monkeypatch.setattr("sys.argv", ["alignrank", *words])
    with pytest.raises(SystemExit) as caught:
        main()
    assert isinstance(caught.value.code, int)
    return caught.value.code, capsys.readouterr().err


def test_nothing_is_executed(
    recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A pickle with code, and files that are none: one message, exit code 2, no output."""
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Code()}, "zip.pth")
    torch.save({"model": tiny_checkpoint(), "args": Namespace(epochs=Code())}, "namespace.pth")
    Path("state.pth").write_bytes(b"\x80\x02cargparse\nNamespace\n)\x81K\x07b.")
    Path("plain.pth").write_bytes(pickle.dumps(Code()))
    Path("text.pth").write_text("not a checkpoint")
    Path("empty.pth").touch()
    Path("empty.safetensors").touch()
    sources = ["zip.pth", "namespace.pth", "state.pth", "plain.pth", "text.pth", "empty.pth", "empty.safetensors"]
    for source in [*sources, "absent.pth"]:
        command = ("convert", source, "--out", "ours.safetensors", "--model", recipe)
        code, said = program(monkeypatch, capsys, *command)
        assert code == 2, source
        assert source in said
        assert said.count("\n") == 1
    assert not Path("executed").exists()
    assert not Path("ours.safetensors").exists()


def test_command_with_class_names(
    recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(tiny_checkpoint(), "theirs.pth")
    Path("names.txt").write_text("red\ngreen\nblue\n")
    command = ("convert", "theirs.pth", "--out", "ours.safetensors", "--model", recipe)
    code, said = program(monkeypatch, capsys, *command)
    assert code == 2
    assert "has 3 classes, got 0 names" in said
    assert program(monkeypatch, capsys, *command, "--classes", "names.txt")[0] == 0
    assert checkpoint.load("ours.safetensors").classes == ("red", "green", "blue")
