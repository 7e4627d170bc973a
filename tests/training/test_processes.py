"""Two gloo processes give the gradients of one process with the joined batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from alignrank.contracts import Predictions, Targets
from alignrank.weights.recipe import build_detector

TINY = {"model.size": "t", "head.dual": True, "head.separable": True}
# Boxes of an untrained network differ little in quality.
ACROSS = {"loss.align": 5.0, "loss.rank": 5.0, "loss.delta": 0.0, "loss.consensus": 1.0, "loss.align_scope": "class"}
# Objects in the images: normalisers differ between the processes, and the first process may have none.
COUNTS, ONE_SIDED, EMPTY = (0, 1, 2, 3), (0, 3, 0, 2), (0, 0, 0, 0)
CASES: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "bce": ({"loss.classification": "bce"}, COUNTS),
    "vfl": ({"loss.classification": "vfl"}, COUNTS),
    "both scopes": (ACROSS | {"loss.rank_scope": "both"}, COUNTS),
    "scope class": (ACROSS | {"loss.rank_scope": "class"}, ONE_SIDED),
    "best across": (ACROSS | {"loss.rank_scope": "class", "loss.rank_across": "best"}, ONE_SIDED),
    "no objects": (ACROSS | {"loss.rank_scope": "class"}, EMPTY),
}


def scene(counts: tuple[int, ...]) -> tuple[Tensor, list[Targets]]:
    """Random images with so many objects each."""
    generator = torch.Generator().manual_seed(3)
    images = torch.rand(len(counts), 3, 64, 64, generator=generator)
    targets = []
    for number in counts:
        corner = torch.rand(number, 2, generator=generator) * 30
        boxes = torch.cat([corner, corner + 12 + torch.rand(number, 2, generator=generator) * 20], 1)
        targets.append(Targets(boxes, torch.arange(number) % 3))
    return images, targets


def gradients(options: dict[str, Any], images: Tensor, targets: list[Targets], *, parallel: bool) -> dict[str, Tensor]:
    """Of all parameters; and the loss's parts."""
    torch.manual_seed(0)
    built = build_detector("yolov8-n", 3, **TINY, **options)
    # Dual heads need the training branch, batch norms their fixed statistics.
    model = built.model.double().train()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    network = DistributedDataParallel(model) if parallel else model
    predictions: Predictions = network(images.double())
    terms = built.criterion(predictions, targets)
    terms.total.backward()
    parts = {f"loss {name}": part.detach() for name, part in terms.parts.items()}
    if parallel:
        for part in parts.values():
            dist.all_reduce(part)
            part /= dist.get_world_size()
    return {name: x.grad for name, x in model.named_parameters() if x.grad is not None} | parts


def _work(rank: int, port_file: str, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{port_file}", rank=rank, world_size=2)
    found = {}
    for case, (options, counts) in CASES.items():
        images, targets = scene(counts)
        # As the sampler deals: consecutive images go to different processes.
        found[case] = gradients(options, images[rank::2], targets[rank::2], parallel=True)
    if rank == 0:
        torch.save(found, Path(folder) / "gradients.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def of_two(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Tensor]]:
    """What two processes find in every case."""
    folder = tmp_path_factory.mktemp("processes")
    torch.multiprocessing.spawn(_work, (str(folder / "meeting"), str(folder)), nprocs=2)
    found: dict[str, dict[str, Tensor]] = torch.load(folder / "gradients.pt", weights_only=True)
    return found


@pytest.mark.parametrize("case", CASES)
def test_gradients_equal_one_process_with_twice_the_batch(case: str, of_two: dict[str, dict[str, Tensor]]) -> None:
    options, counts = CASES[case]
    found, expected = of_two[case], gradients(options, *scene(counts), parallel=False)
    assert set(found) == set(expected)
    if "loss.rank" in options and any(counts):
        assert expected["loss rank"] > 0
        assert expected["loss o2o_rank"] > 0
    for name, gradient in expected.items():
        torch.testing.assert_close(
            found[name], gradient, rtol=1e-5, atol=1e-7, msg=lambda text, name=name: f"{name}: {text}"
        )
