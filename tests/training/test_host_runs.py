"""Detectors of other libraries in our engine: a run from a published checkpoint, resumed, and in two processes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import transformers
from safetensors.torch import load_file
from squares import write_squares
from tiny_forms import HOSTS, distinct_recipes, tiny_form
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torchvision_hosts import write_published

from alignrank.contracts import Predictions, Targets
from alignrank.training import run
from alignrank.training.options import read_options
from alignrank.weights.recipe import load_recipe

TRANSFORMERS = "transformers/rtdetr-r18"
HOSTED = [
    TRANSFORMERS,
    "torchvision/fcos_resnet50_fpn",
    "torchvision/retinanet_resnet50_fpn_v2",
    "torchvision/fasterrcnn_resnet50_fpn_v2",
]
CASES: dict[str, tuple[str, dict[str, Any]]] = {name: (name, {}) for name in HOSTED}
CASES["ranking"] = (TRANSFORMERS, {"rank.loss": "gcl", "rank.matching_cost": True, "loss.align": 1.0, "loss.rank": 2.0})
LISTS_AND_PAIRS = {"loss.classification": "vfl", "loss.align": 1.0, "loss.rank": 2.0, "loss.rank_scope": "both"}
CASES["lists and pairs of fcos"] = ("torchvision/fcos_resnet50_fpn", LISTS_AND_PAIRS)
EVERY_HOST = [name for name in distinct_recipes() if "/" in name]
OTHERS: dict[str, tuple[str, dict[str, Any]]] = {name: (name, {}) for name in EVERY_HOST if name not in HOSTED}
OPTIONS = {"train.precision": "fp32", "train.schedule": "constant", "train.warmup_epochs": 0.0, "train.ema_decay": 0.5}


def trained(recipe: str, data: Path, out: Path, epochs: int, options: dict[str, Any]) -> dict[str, Any]:
    given = {"model": recipe, "data": str(data), "epochs": epochs, "imgsz": 64, "batch": 2, "device": "cpu"}
    return run.train(*read_options(None, given | {"out": str(out)}, OPTIONS | options))


def resumed(folder: Path) -> None:
    """A run of one epoch that has ended goes on to two."""
    (folder / "results.json").unlink()
    about = json.loads((folder / "run.json").read_text())
    about["recipe"]["train"]["epochs"] = 2
    (folder / "run.json").write_text(json.dumps(about))
    run.resume(folder)


def parts_of(folder: Path) -> set[str]:
    """Names of the terms of the loss."""
    return {key.rpartition("/")[2] for key in json.loads((folder / "history.json").read_text())[-1]}


def assert_same_weights(first: Path, second: Path) -> None:
    whole, again = (load_file(path / "last.safetensors") for path in (first, second))
    assert whole.keys() == again.keys()
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_a_run_goes_on_as_if_it_had_not_stopped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """To the bit, noise of denoising queries included; what it began with may be gone by then."""
    data = write_squares(tmp_path / "squares", num_train=4, num_val=2)
    published = tmp_path / "published"
    names = {0: "person", 1: "cat", 2: "dog"}
    config = transformers.RTDetrConfig(**HOSTS["rt_detr"], id2label=names)
    transformers.RTDetrForObjectDetection(config).save_pretrained(published)
    options = {"model.pretrained": str(published)}
    trained(TRANSFORMERS, data, tmp_path / "whole", 2, options)
    assert "not kept: model.denoising_class_embed.weight" in capsys.readouterr().err
    folder = tmp_path / "stopped"
    trained(TRANSFORMERS, data, folder, 1, options)
    shutil.rmtree(published)
    resumed(folder)
    assert_same_weights(tmp_path / "whole", folder)
    assert {"cls", "layers_cls", "proposals_cls", "denoising_cls"} <= parts_of(folder)


def test_a_run_of_torchvision_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Samples of proposals included; a published detector is the weights from which it begins."""
    recipe = "torchvision/fasterrcnn_resnet50_fpn_v2"
    data = write_squares(tmp_path / "squares", num_train=4, num_val=2)
    published = tmp_path / "published.safetensors"
    write_published(published, "fasterrcnn_resnet50_fpn_v2", 5)
    sampled = {"rpn_batch_size_per_image": 20, "box_batch_size_per_image": 10}
    form = {key: value for key, value in tiny_form(recipe).items() if not key.startswith("train")}
    options = form | {"model.config": form["model.config"] | sampled, "model.pretrained": str(published)}
    options |= {"train.freeze": ["host.backbone.body.conv1"]}
    trained(recipe, data, tmp_path / "whole", 2, options)
    assert "not kept: roi_heads.box_predictor.cls_score.weight" in capsys.readouterr().err
    folder = tmp_path / "stopped"
    trained(recipe, data, folder, 1, options)
    published.unlink()
    resumed(folder)
    assert_same_weights(tmp_path / "whole", folder)
    assert {"cls", "box", "proposals_cls", "proposals_box"} <= parts_of(folder)


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY_HOST)
def test_every_host_goes_on(name: str, tmp_path: Path) -> None:
    data = write_squares(tmp_path / "squares", num_train=4, num_val=2)
    form = {key: value for key, value in tiny_form(name).items() if not key.startswith("train")}
    trained(name, data, tmp_path / "whole", 2, form)
    trained(name, data, tmp_path / "stopped", 1, form)
    resumed(tmp_path / "stopped")
    assert_same_weights(tmp_path / "whole", tmp_path / "stopped")


def dtype_of(name: str) -> torch.dtype:
    """The loss of D-FINE makes float32 whatever it gets."""
    return torch.float32 if name.startswith("transformers/dfine") else torch.float64


def gradients(case: str, images: Tensor, targets: list[Targets], *, parallel: bool) -> dict[str, Tensor]:
    torch.manual_seed(0)
    name, options = (CASES | OTHERS)[case]
    built = load_recipe(name, num_classes=3, overrides=tiny_form(name) | options).build()
    model = built.model.to(dtype_of(name)).train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    network = DistributedDataParallel(model) if parallel else model
    predictions: Predictions = network(images.to(dtype_of(name)))
    built.criterion(predictions, targets).total.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


def scene() -> tuple[Tensor, list[Targets]]:
    """Images with 0, 1, 2, 3 objects: normalisers differ between the processes."""
    generator = torch.Generator().manual_seed(3)
    targets = []
    for number in range(4):
        corner = torch.rand(number, 2, generator=generator) * 30
        boxes = torch.cat([corner, corner + 12 + torch.rand(number, 2, generator=generator) * 20], 1)
        targets.append(Targets(boxes, torch.arange(number) % 3))
    return torch.rand(4, 3, 64, 64, generator=generator), targets


def _work(rank: int, meeting: str, folder: str, cases: list[str]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    images, targets = scene()
    found = {case: gradients(case, images[rank::2], targets[rank::2], parallel=True) for case in cases}
    if rank == 0:
        torch.save(found, Path(folder) / "gradients.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.parametrize(
    "cases", [pytest.param([*CASES], id="some"), pytest.param([*OTHERS], id="others", marks=pytest.mark.slow)]
)
def test_gradients_of_two_processes_are_those_of_one_with_twice_the_batch(cases: list[str], tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_work, (str(tmp_path / "meeting"), str(tmp_path), cases), nprocs=2)
    of_all = torch.load(tmp_path / "gradients.pt", weights_only=True)
    for case in cases:
        found, expected = of_all[case], gradients(case, *scene(), parallel=False)
        assert set(found) == set(expected)
        for name, gradient in expected.items():
            double = gradient.dtype == torch.float64
            torch.testing.assert_close(
                found[name], gradient, rtol=1e-5 if double else 1e-3, atol=1e-7 if double else 1e-5,
                msg=lambda text, at=(case, name): f"{at}: {text}",
            )  # fmt: skip
