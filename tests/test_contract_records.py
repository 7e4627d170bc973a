"""The records between the parts: pixels for the network, frames, scores, and thresholds."""

from __future__ import annotations

import pytest
import torch

from alignrank.contracts import Batch, Frame, Predictions, Targets, Thresholds, WantedThresholds
from alignrank.errors import InputError


def test_pixels_for_the_network() -> None:
    """uint8 0..255 -> float 0..1: 255 is 1, 51 is a fifth, 1 is 1/255. The batch keeps its own."""
    pixels = torch.tensor([0, 1, 51, 255], dtype=torch.uint8).repeat(2, 3, 4, 1)
    images = Batch(pixels, [Targets.empty()] * 2, [Frame("a", (4, 4))] * 2).network_input()
    assert images.dtype == torch.float32
    assert images.shape == (2, 3, 4, 4)
    assert images[1, 2, 3].tolist() == pytest.approx([0, 1 / 255, 1 / 5, 1], abs=1e-7)
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert pixels[0, 0, 0].tolist() == [0, 1, 51, 255]


@pytest.mark.parametrize("order", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_order_of_the_network_s_input(order: torch.memory_format, dtype: torch.dtype) -> None:
    """The same values in memory as they were asked for, however the pictures lay."""
    pixels = torch.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5).to(dtype)
    for own in (pixels, pixels.contiguous(memory_format=torch.channels_last)):
        images = Batch(own, [Targets.empty()] * 2, [Frame("a", (4, 5))] * 2).network_input(order)
        assert images.is_contiguous(memory_format=order)
        torch.testing.assert_close(images * 255, pixels.float())
        assert torch.equal(own, pixels)


def test_floats_of_a_batch_are_not_changed() -> None:
    """In place, but never on the batch's own tensor."""
    pixels = torch.full((1, 3, 2, 2), 51.0)
    for images in (pixels, pixels.repeat(1, 1, 2, 2).contiguous(memory_format=torch.channels_last)):
        batch = Batch(images, [Targets.empty()], [Frame("a", (2, 2))])
        for _ in range(2):
            assert batch.network_input().unique().tolist() == pytest.approx([0.2])


def test_sizes_of_the_content() -> None:
    """64 x 96 px (height x width): the picture at its own size; halved widths and heights of 100 x 60 px; rounded up
    to all there is (33 * 1.99 = 65.7); a line of 0.2 px, which is one pixel; in the middle, so everything counts.
    """
    frames = [
        Frame("own", (50, 70)),
        Frame("scaled", (100, 60), (0.4, 0.5)),
        Frame("beyond", (33, 96), (1.0, 1.99)),
        Frame("line", (1, 480), (0.2, 0.2)),
        Frame("middle", (32, 96), offset=(0.0, 16.0)),
        Frame("middle", (64, 32), offset=(32.0, 0.0)),
    ]
    sizes = Batch(torch.zeros(6, 3, 64, 96), [Targets.empty()] * 6, frames).sizes()
    assert sizes.dtype == torch.float32
    assert sizes.tolist() == [[50, 70], [50, 24], [64, 96], [1, 96], [64, 96], [64, 96]]
    assert Batch(torch.zeros(0, 3, 64, 96), [], []).sizes().shape == (0, 2)
    on_meta = Batch(torch.zeros(1, 3, 64, 96, device="meta"), [Targets.empty()], frames[:1])
    assert on_meta.sizes().device == on_meta.images.device


def test_back_to_the_original() -> None:
    """input = original * scale + offset, here (2, 4) and (10, 20); clipped to 30 wide and 40 high.

    (14, 40, 30, 100) -> ((14-10)/2, (40-20)/4, (30-10)/2, (100-20)/4) = (2, 5, 10, 20).
    (0, 0, 100, 400) -> (-5, -5, 45, 95), clipped (0, 0, 30, 40).
    """
    frame = Frame("a", (40, 30), scale=(2.0, 4.0), offset=(10.0, 20.0))
    boxes = torch.tensor([[14.0, 40, 30, 100], [0, 0, 100, 400]])
    assert frame.to_original(boxes).tolist() == [[2, 5, 10, 20], [0, 0, 30, 40]]
    assert Frame("a", (40, 30)).to_original(boxes).tolist() == [[14, 40, 30, 40], [0, 0, 30, 40]]
    assert Frame("a", (40, 30)).image_id == -1


def test_no_objects() -> None:
    nothing = Targets.empty()
    assert (nothing.boxes.shape, nothing.boxes.dtype) == ((0, 4), torch.float32)
    assert (nothing.labels.shape, nothing.labels.dtype) == ((0,), torch.int64)


def test_scores_by_hand() -> None:
    """Logits 0 and ln 3 are scores 1/2 and 3/4; a centreness of ln 3 multiplies them by 3/4."""
    logits, boxes = torch.tensor([[[1.0, 3.0]]]).log(), torch.zeros(1, 1, 4)
    assert Predictions(logits, boxes).scores().flatten().tolist() == pytest.approx([1 / 2, 3 / 4])
    centred = Predictions(logits, boxes, centreness=torch.full((1, 1, 1), 3.0).log())
    assert centred.scores().flatten().tolist() == pytest.approx([3 / 8, 9 / 16])


@pytest.mark.parametrize("option", ["conf", "iou"])
def test_shares_from_0_to_1(option: str) -> None:
    for share in (0, 0.5, 1):
        assert getattr(WantedThresholds(**{option: share}), option) == share
    for share in (-0.01, 1.01, 2):
        with pytest.raises(InputError, match=rf"{option}: must be from 0 to 1, got {share}"):
            WantedThresholds(**{option: share})


def test_at_least_one_detection() -> None:
    assert WantedThresholds(max_dets=1).max_dets == 1
    with pytest.raises(InputError, match="max_dets: must be at least 1, got 0"):
        WantedThresholds(max_dets=0)


def test_what_is_not_wanted_is_as_usual() -> None:
    """A wanted 0 is a wish too."""
    usual = Thresholds(0.25, 0.6, 300)
    assert WantedThresholds().over(usual) == usual
    assert WantedThresholds(conf=0.0).over(usual) == Thresholds(0.0, 0.6, 300)
    assert WantedThresholds(iou=0.0, max_dets=1).over(usual) == Thresholds(0.25, 0.0, 1)


def test_auxiliary_predictions_are_no_shared_default() -> None:
    one, other = (Predictions(torch.zeros(1, 1, 1), torch.zeros(1, 1, 4)) for _ in range(2))
    one.auxiliary["first"] = other
    assert other.auxiliary == {}
