"""Sources in memory: tensors, iterators, named arrays, encoded images."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from finder import run, scene
from PIL import Image
from torch.utils.data import DataLoader

from alignrank.errors import InputError
from alignrank.inference.sources import AHEAD, Sources


def tensor(image: np.ndarray[Any, Any] | None = None) -> torch.Tensor:
    return torch.from_numpy(scene() if image is None else image).permute(2, 0, 1)


def encoded(format: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(scene()).save(stream, format=format)
    return stream.getvalue()


@pytest.mark.parametrize("kind", [torch.uint8, torch.float16, torch.float32, torch.float64, torch.bfloat16])
def test_tensors_are_the_same_pictures(kind: torch.dtype) -> None:
    given = tensor() if kind == torch.uint8 else (tensor() / 255).to(kind)
    (item,) = Sources(given.requires_grad_(given.is_floating_point()))
    assert item.image.flags["C_CONTIGUOUS"]
    assert np.abs(item.image.astype(int) - scene()).max() <= (1 if kind == torch.bfloat16 else 0)
    (found,) = run(given)
    assert found.labels.tolist() == [0, 1]
    assert found.size == (60, 90)


def test_a_batch_of_tensors_is_several_images() -> None:
    reds = [(10 * i, 20, 10 * i + 20, 50) for i in range(3)]
    batch = torch.stack([tensor(scene(red=red)) for red in reds]).float() / 255
    sources = Sources([scene(), batch, scene()])
    assert sources.count == 5
    found = list(run(sources))
    assert [detections.source for detections in found] == [f"image {i}" for i in range(5)]
    assert [detections.path for detections in found] == [None] * 5
    for detections, red in zip(found[1:4], reds, strict=True):
        assert (detections.boxes[0] - torch.tensor(red)).abs().max() <= 2


@pytest.mark.parametrize(("given", "part"), [
    (torch.zeros(4, 4), "[3,H,W] or [B,3,H,W] RGB, got [4, 4] float32"),
    (torch.zeros(4, 4, 3), "got [4, 4, 3] float32"),
    (torch.zeros(1, 4, 4, 4), "got [1, 4, 4, 4]"),
    (torch.zeros(0, 3, 4, 4), "got [0, 3, 4, 4]"),
    (torch.zeros(3, 4, 4, dtype=torch.int64), "must be uint8 0..255 or float 0..1, got [3, 4, 4] int64"),
    (torch.full((3, 4, 4), 255.0), "must be 0..1, got [3, 4, 4] float32 with values from 255 to 255"),
    (torch.full((3, 4, 4), -1.0), "from -1 to -1"),
    (torch.full((3, 4, 4), float("nan")), "nan"),
    (torch.full((3, 4, 4), float("inf")), "inf"),
])  # fmt: skip
def test_other_tensors_are_refused_at_once(given: torch.Tensor, part: str) -> None:
    with pytest.raises(InputError) as caught:
        Sources([scene(), given])
    assert part in str(caught.value)


def test_encoded_images() -> None:
    for given in (encoded(), bytearray(encoded()), memoryview(encoded())):
        (item,) = Sources(given)
        assert np.array_equal(item.image, scene())
        assert (item.name, item.path) == ("image 0", None)
    sources = Sources([encoded()[:100], encoded("BMP")])
    assert [item.name for item in sources] == ["image 1"]
    assert "image 0: cannot be decoded" in sources.skips.items[0][1]


def test_pairs_name_their_images() -> None:
    pairs = [("left", scene()), ("right", tensor()), (Path("a/b"), encoded()), ("both", torch.stack([tensor()] * 2))]
    assert [item.name for item in Sources(pairs)] == ["left", "right", "a/b", "both-0", "both-1"]
    assert [item.name for item in Sources(iter(pairs))] == ["left", "right", "a/b", "both-0", "both-1"]
    with pytest.raises(InputError, match="cannot look at"):
        Sources([("left", [scene()])])


def test_an_iterator_is_read_as_it_goes() -> None:
    taken: list[int] = []

    def camera() -> Iterator[np.ndarray[Any, Any]]:
        for i in range(1000):
            taken.append(i)
            yield scene(red=(i % 40, 20, i % 40 + 20, 50))

    sources = Sources(camera())
    assert sources.count is None
    found = run(sources, batch=2)
    assert taken == []
    first = [next(found) for _ in range(4)]
    assert len(taken) <= 4 + 2 + 4 * AHEAD
    assert [detections.source for detections in first] == [f"image {i}" for i in range(4)]
    found.close()  # type: ignore[attr-defined]


def test_an_iterator_may_go_on_in_the_same_memory() -> None:
    def camera() -> Iterator[np.ndarray[Any, Any]]:
        buffer = np.empty((60, 90, 3), np.uint8)
        for i in range(20):
            buffer[:] = i
            yield buffer

    assert [int(item.image[0, 0, 0]) for item in Sources(camera())] == list(range(20))


def test_an_iterator_gives_anything(tmp_path: Path) -> None:
    Image.fromarray(scene()).save(tmp_path / "a.png")
    given = [tmp_path / "a.png", tmp_path / "missing.png", scene(), None, scene().astype(np.float32), str(tmp_path)]
    sources = Sources(iter(given))  # type: ignore[arg-type]
    names = [Path(item.name).name for item in sources]
    assert names == ["a.png", "image 2", "a.png"]
    assert sources.skips.counts == {"image": 3}
    reasons = [reason for _, reason in sources.skips.items]
    assert [reason.partition(":")[0] for reason in reasons] == ["item 1", "item 3", "item 4"]


def test_a_loader_of_batches() -> None:
    loader = DataLoader([tensor()] * 5, batch_size=2)
    assert len(list(Sources(loader))) == 5  # type: ignore[arg-type]


def test_iterators_of_nothing() -> None:
    with pytest.raises(InputError, match="the source gave no image"):
        list(Sources(iter(())))
    with pytest.raises(InputError, match=r"none of the 3 sources can be read; item 2: .*float64"):
        list(Sources(np.zeros((4, 4, 3)) for _ in range(3)))


def test_a_fault_of_the_iterator_is_its_own() -> None:
    def broken() -> Iterator[np.ndarray[Any, Any]]:
        yield scene()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(Sources(broken()))


@pytest.mark.parametrize("source", [{"a": 1}, None, 0.5, io.BytesIO(), object(), [[scene()]]])
def test_what_is_no_source(source: Any) -> None:
    with pytest.raises(InputError, match="cannot look at"):
        Sources(source)
