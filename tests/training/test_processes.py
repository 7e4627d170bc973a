"""Two gloo processes give the gradients of one process with the joined batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from alignrank.contracts import Predictions, Targets
from alignrank.weights.recipe import build_detector

TINY = {"model.size": "t", "head.dual": True, "head.separable": True}


def scene(count: int) -> tuple[Tensor, list[Targets]]:
    """`count` random images with 0, 1, 2 ... objects: normalisers differ between the processes."""
    generator = torch.Generator().manual_seed(3)
    images = torch.rand(count, 3, 64, 64, generator=generator)
    targets = []
    for number in range(count):
        corner = torch.rand(number, 2, generator=generator) * 30
        boxes = torch.cat([corner, corner + 12 + torch.rand(number, 2, generator=generator) * 20], 1)
        targets.append(Targets(boxes, torch.arange(number) % 3))
    return images, targets


def gradients(kind: str, images: Tensor, targets: list[Targets], *, parallel: bool) -> dict[str, Tensor]:
    torch.manual_seed(0)
    built = build_detector("yolov8-n", 3, **TINY, **{"loss.classification": kind})
    # Dual heads need the training branch, batch norms their fixed statistics.
    model = built.model.double().train()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    network = DistributedDataParallel(model) if parallel else model
    predictions: Predictions = network(images.double())
    built.criterion(predictions, targets).total.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


def _work(rank: int, port_file: str, folder: str, kind: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{port_file}", rank=rank, world_size=2)
    images, targets = scene(4)
    # As the sampler deals: consecutive images go to different processes.
    found = gradients(kind, images[rank::2], targets[rank::2], parallel=True)
    if rank == 0:
        torch.save(found, Path(folder) / "gradients.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.parametrize("kind", ["bce", "vfl"])
def test_gradients_equal_one_process_with_twice_the_batch(tmp_path: Path, kind: str) -> None:
    torch.multiprocessing.spawn(_work, (str(tmp_path / "meeting"), str(tmp_path), kind), nprocs=2)
    found = torch.load(tmp_path / "gradients.pt", weights_only=True)
    expected = gradients(kind, *scene(4), parallel=False)
    assert set(found) == set(expected)
    for name, gradient in expected.items():
        torch.testing.assert_close(
            found[name], gradient, rtol=1e-5, atol=1e-7, msg=lambda text, name=name: f"{name}: {text}"
        )
