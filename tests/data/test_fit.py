"""Pictures fitted as other libraries' own processors fit them: their pixels, their sizes, and their way back."""

from __future__ import annotations

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.testing import assert_close
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from alignrank.contracts import Batch, Frame, Targets
from alignrank.data.letterbox import letterbox
from alignrank.data.loader import EvaluationSet, Images, TrainingSet, collate, evaluation_loader, training_loader
from alignrank.data.samples import Sample, Split
from alignrank.data.sheet import SheetOptions, write_sheet
from alignrank.input_size import Fit, InputSize
from alignrank.weights.settings import AugmentConfig

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
STRETCH, DETR = Fit("stretch"), Fit("detr", corner=True)
TORCHVISION = Fit("floor", antialias=False, corner=True)
SQUARE = InputSize.of(96, rect=True, fit=STRETCH)
# Height x width: larger and smaller than the input, odd, long, and of the input's own size.
SHAPES = [(61, 83), (200, 131), (97, 353), (31, 17), (96, 96), (64, 91), (375, 500), (13, 400), (427, 640)]


def pixels(height: int, width: int) -> Tensor:
    """[3,H,W] uint8, of which nothing is smooth."""
    generator = torch.Generator().manual_seed(height * 1000 + width)
    return torch.randint(0, 256, (height, width, 3), generator=generator, dtype=torch.uint8).permute(2, 0, 1)


def fitted(image: Tensor, size: InputSize) -> Batch:
    """A batch of one, as `predict` makes it."""
    canvas, scale, offset = letterbox(image, size)
    return Batch(canvas[None], [Targets.empty()], [Frame("a", (image.shape[1], image.shape[2]), scale, offset)])


def normalised(images: Tensor) -> Tensor:
    """As a network does it in its first lines."""
    return (images - images.new_tensor(MEAN)[:, None, None]) / images.new_tensor(STD)[:, None, None]


def content(batch: Batch) -> Tensor:
    """[3,h,w], normalised, without what lies around the one image."""
    height, width = (int(length) for length in batch.sizes()[0])
    return normalised(batch.network_input())[0, :, :height, :width]


def processor(kind: str, **options: Any) -> Any:
    return getattr(pytest.importorskip("transformers"), kind)(**options)


def boxes(count: int = 40) -> Tensor:
    """[N,4] centres and sizes in parts of the picture, as DETR's kind says them; some reach over the edge."""
    return torch.rand(count, 4, generator=torch.Generator().manual_seed(1))


def assert_boxes_come_back(library: Any, batch: Batch) -> None:
    """Those that the library maps to the picture; it does not clip, and `to_original` does."""
    (frame,) = batch.frames
    said = boxes()
    outputs = SimpleNamespace(logits=torch.linspace(1, 3, len(said))[None, :, None], pred_boxes=said[None])
    (found,) = library.post_process_object_detection(outputs, threshold=0.0, target_sizes=[frame.size])
    height, width = batch.sizes()[0]
    centres, halves = said[:, :2], said[:, 2:] / 2
    ours = torch.cat([centres - halves, centres + halves], 1) * torch.stack([width, height] * 2)
    edge = torch.tensor([frame.size[1], frame.size[0]] * 2)
    assert_close(frame.to_original(ours.flip(0)), found["boxes"].clamp(min=0).minimum(edge), atol=1e-4, rtol=0)
    assert (found["boxes"] < 0).any(), "the comparison is worth something"


@pytest.mark.parametrize("shape", SHAPES)
def test_stretched_as_rt_detr_s_processor(shape: tuple[int, int]) -> None:
    """Also that of D-FINE and RT-DETRv2."""
    library = processor("RTDetrImageProcessor", size={"height": 96, "width": 96})
    image = pixels(*shape)
    batch = fitted(image, SQUARE)
    expected = library(image, return_tensors="pt")["pixel_values"]
    assert_close(batch.network_input(), expected, atol=1e-6, rtol=0)
    assert batch.images.dtype == torch.uint8
    assert batch.sizes().tolist() == [[96, 96]]
    assert_boxes_come_back(library, batch)


@pytest.mark.parametrize("shape", SHAPES)
def test_stretched_as_rf_detr_s_processor(shape: tuple[int, int]) -> None:
    """A square whose side is no multiple of 32, without antialias. It interpolates 0..1, and we 0..255: five units in
    the last place of the largest numbers.
    """
    library = processor("RfDetrImageProcessor", size={"height": 112, "width": 112})
    image = pixels(*shape)
    size = InputSize.of((112, 112), rect=True, fit=Fit("stretch", antialias=False)).for_stride(56)
    batch = fitted(image, size)
    expected = library(image, return_tensors="pt")["pixel_values"][0]
    assert_close(content(batch), expected, atol=1.2e-6, rtol=0)
    assert batch.images.dtype == torch.float32
    assert batch.images.shape == (1, 3, 112, 112)
    assert_boxes_come_back(library, batch)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("sides", [(80, 133), (64, 64), (51, 300)])
def test_resized_as_deformable_detr_s_processor(shape: tuple[int, int], sides: tuple[int, int]) -> None:
    """Of a network of stride 1 there is nothing around the image."""
    library = processor("DeformableDetrImageProcessor", size={"shortest_edge": sides[0], "longest_edge": sides[1]})
    image = pixels(*shape)
    batch = fitted(image, InputSize.of(sides, rect=True, step=1, fit=DETR))
    expected = library(image, return_tensors="pt")["pixel_values"]
    assert batch.images.shape == expected.shape
    assert_close(content(batch), expected[0], atol=1e-6, rtol=0)
    assert_boxes_come_back(library, batch)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("sides", [(80, 133), (64, 64), (51, 300)])
def test_resized_as_torchvision_s_detectors(shape: tuple[int, int], sides: tuple[int, int]) -> None:
    """They normalise first and pad with 0 then, and clip boxes to what is not padding before they map them."""
    transform = GeneralizedRCNNTransform(*sides, MEAN, STD).eval()
    image = pixels(*shape)
    batch = fitted(image, InputSize.of(sides, rect=True, fit=TORCHVISION))
    listed, _ = transform([image / 255])
    assert batch.sizes().tolist() == [list(listed.image_sizes[0])]
    assert batch.images.shape == listed.tensors.shape
    inside = (torch.arange(batch.images.shape[2])[:, None] < batch.sizes()[0, 0]) & (
        torch.arange(batch.images.shape[3]) < batch.sizes()[0, 1]
    )
    ours = torch.where(inside, normalised(batch.network_input()), 0.0)
    assert_close(ours, listed.tensors, atol=1e-6, rtol=0)
    (height, width), (frame,) = listed.image_sizes[0], batch.frames
    own = boxes()[:, [0, 0, 1, 1]].sort().values * torch.tensor([width, height] * 2)
    (found,) = transform.postprocess([{"boxes": own}], listed.image_sizes, [frame.size])
    assert_close(frame.to_original(own), found["boxes"], atol=1e-4, rtol=0)


def test_sizes_as_the_libraries_round_them() -> None:
    """Many shapes: about one in six differs by a pixel from ours, in each of the two."""
    transforms = pytest.importorskip("transformers.image_transforms")
    draw = random.Random(0)
    differ = [0, 0]
    for _ in range(4000):
        shape = draw.randint(1, 2000), draw.randint(1, 2000)
        shorter = draw.randint(200, 800)
        longer = draw.randint(shorter, 1333)
        nearest, floor, detr = (
            InputSize.of((shorter, longer), rect=True, fit=fit).content(shape) for fit in (Fit(), TORCHVISION, DETR)
        )
        expected = transforms.get_size_with_aspect_ratio(shape, shorter, longer)
        assert detr == tuple(max(length, 1) for length in expected)
        factor = min(shorter / min(shape), longer / max(shape))
        assert floor == tuple(max(int(length * factor), 1) for length in shape)
        differ[0] += floor != nearest
        differ[1] += detr != nearest
    assert min(differ) > 400


@pytest.mark.parametrize(
    ("fit", "size", "expected"),
    [
        # 640 * 800 / 480 = 1066.67.
        (TORCHVISION, (480, 640), (800, 1066)),
        (DETR, (480, 640), (800, 1066)),
        (Fit(), (480, 640), (800, 1067)),
        # 500 * 1333 / 1000 = 666.5, a factor of 1.333: the longer side decides.
        (TORCHVISION, (500, 1000), (666, 1333)),
        (DETR, (500, 1000), (666, 1333)),
        # 399.9 px to the nearest, and the longer side from 399.9.
        (DETR, (300, 1000), (400, 1333)),
        (TORCHVISION, (300, 1000), (399, 1333)),
        # The shorter side is right: as it is, though a pair would be a pixel smaller.
        (DETR, (800, 1000), (800, 1000)),
        (DETR, (1, 4000), (1, 1333)),
        (TORCHVISION, (1, 4000), (1, 1333)),
        (STRETCH, (3, 5), (800, 1333)),
        (STRETCH, (5, 3), (800, 1333)),
    ],
)
def test_sizes_by_hand(fit: Fit, size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert InputSize.of((800, 1333), rect=True, fit=fit).content(size) == expected


@pytest.mark.parametrize("size", [(60, 80), (1, 97), (97, 1), (65, 1), (7, 7)])
@pytest.mark.parametrize("fit", [DETR, TORCHVISION, STRETCH])
def test_no_image_is_larger_than_its_square(size: tuple[int, int], fit: Fit) -> None:
    square = InputSize.of(64, rect=False, fit=fit)
    assert max(square.content(size)) <= 64
    assert letterbox(pixels(*size), square)[0].shape == (3, 64, 64)


def test_a_stretched_canvas() -> None:
    """Of one side a square, of a pair a landscape, whatever the image is and whatever is said of `rect`."""
    for rect in (True, False):
        assert not InputSize.of(96, rect=rect, fit=STRETCH).rect
        assert InputSize.of(96, rect=rect, fit=STRETCH).canvas((10, 400)) == (96, 96)
        pair = InputSize.of((96, 160), rect=rect, fit=STRETCH)
        assert pair.canvas((10, 400)) == pair.canvas((400, 10)) == pair.landscape == (96, 160)
    _, scale, offset = letterbox(pixels(48, 40), InputSize.of((96, 160), rect=True, fit=STRETCH))
    assert (scale, offset) == ((4.0, 2.0), (0.0, 0.0))
    half = InputSize.of((96, 160), rect=True, fit=STRETCH).of_side(48)
    assert half.content((5, 5)) == (48, 80)


def split(folder: Path) -> Split:
    """The shapes above, each with a box in its middle."""
    samples = []
    for number, (height, width) in enumerate(SHAPES):
        Image.fromarray(pixels(height, width).permute(1, 2, 0).numpy()).save(folder / f"{number}.png")
        box = np.array([[width / 4, height / 4, 3 * width / 4, 3 * height / 4]], np.float32)
        flags = np.ones(1, np.float32), np.zeros(1, bool)
        samples.append(Sample(folder / f"{number}.png", number, (height, width), box, np.zeros(1, np.int64), *flags))
    return Split(("a",), (1,), samples, folder)


FITS = [
    SQUARE,
    InputSize.of(96, rect=False, fit=Fit("stretch", antialias=False)),
    InputSize.of((64, 96), rect=True, fit=STRETCH),
    InputSize.of((51, 133), rect=True, step=1, fit=DETR),
    InputSize.of((51, 133), rect=True, fit=TORCHVISION),
]
NAMES = ["square", "floats", "landscape", "detr", "torchvision"]


@pytest.mark.parametrize("size", FITS, ids=NAMES)
def test_evaluation_and_prediction_see_the_same(tmp_path: Path, size: InputSize) -> None:
    """Images are kept resized; what they become is what `letterbox` makes of the file, and frames bring boxes back."""
    data = split(tmp_path)
    images = Images(data, size)
    assert images.num_bytes() == sum(images[i].pixels.nbytes for i in range(len(images)))
    images.keep_all()
    seen = []
    for batch in evaluation_loader(EvaluationSet(images), 3, workers=0):
        for canvas, targets, frame in zip(batch.images, batch.targets, batch.frames, strict=True):
            alone, scale, offset = letterbox(pixels(*frame.size), size)
            assert torch.equal(canvas, alone)
            assert canvas.dtype == alone.dtype == (torch.uint8 if size.fit.antialias else torch.float32)
            assert (frame.scale, frame.offset) == (scale, offset)
            own = torch.from_numpy(data.samples[frame.image_id].boxes)
            assert_close(frame.to_original(targets.boxes), own, atol=1e-3, rtol=0)
            seen.append(frame.image_id)
    assert sorted(seen) == list(range(len(SHAPES)))


@pytest.mark.parametrize("size", FITS, ids=NAMES)
def test_training_pictures_are_fitted_first(tmp_path: Path, size: InputSize) -> None:
    """Without augmentation they are those of an evaluation; with it they have the same canvas and kind of number."""
    images = Images(split(tmp_path), size)
    plain = TrainingSet(images, AugmentConfig.off(), seed=0, epochs=1)
    wild = TrainingSet(images, AugmentConfig(mixup=0.5, plain_epochs=0), seed=0, epochs=1)
    evaluation = EvaluationSet(images)
    for index, shape in enumerate(SHAPES):
        expected, targets, _ = evaluation[index]
        drawn, own, _ = plain[0, index]
        assert torch.equal(drawn, expected)
        assert torch.equal(own.boxes, targets.boxes)
        drawn, own, _ = wild[0, index]
        assert (drawn.shape, drawn.dtype) == (expected.shape, expected.dtype)
        assert drawn.shape[1:] == size.canvas(shape)
        assert 0 <= float(drawn.min()) < float(drawn.max()) <= 255
        assert (own.boxes >= 0).all()


def test_random_sizes_of_other_fits(tmp_path: Path) -> None:
    """Stretched pictures stay squares, also of a part; floats stay floats; batches have no more around than `step`."""
    data, config = split(tmp_path), AugmentConfig.off().model_copy(update={"shortest": 0.3, "crop": 0.5})
    sides = set()
    for index in range(len(SHAPES)):
        image, _, _ = TrainingSet(Images(data, SQUARE), config, seed=0, epochs=1)[0, index]
        assert image.shape[1] == image.shape[2]
        sides.add(image.shape[1])
    assert sides == {96, 64, 32}
    ragged = TrainingSet(Images(data, FITS[3]), config, seed=0, epochs=1)
    items = [ragged[0, 0], ragged[0, 1]]
    (batch,) = [collate(items, step=1)]
    assert batch.images.shape[2:] == tuple(max(image.shape[axis] for image, _, _ in items) for axis in (1, 2))
    for batch in training_loader(ragged, 4, workers=0, seed=0):
        assert batch.images.shape[2] % 32 or batch.images.shape[3] % 32
    for batch in training_loader(TrainingSet(Images(data, FITS[4]), config, seed=0, epochs=1), 4, workers=0, seed=0):
        assert batch.images.dtype == torch.float32
        assert [length % 32 for length in batch.images.shape[2:]] == [0, 0]


def test_a_sheet_of_floats(tmp_path: Path) -> None:
    """Drawn as whole numbers."""
    for augmented in (True, False):
        options = SheetOptions(FITS[4], AugmentConfig(), count=2, augmented=augmented)
        write_sheet(split(tmp_path), tmp_path / "sheet.png", options)
        with Image.open(tmp_path / "sheet.png") as drawn:
            assert len(np.unique(np.asarray(drawn))) > 100
